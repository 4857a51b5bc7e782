//! Signing in to the admin pages, and out again.

use std::time::{Duration, SystemTime};

use bytes::Buf;
use futures::Stream;
use http::{HeaderValue, header};
use tokio::time::sleep;
use warp::reply::Response;

use super::{
    Api,
    asked::Asked,
    calls,
    cookie::Cookies,
    refusal::{Refusal, redirect},
};
use crate::config::Secret;

/// How long the answer to a wrong password takes.
const DELAY: Duration = Duration::from_millis(500);

impl Api {
    /// Gives a cookie to who knows the admin's name and password.
    pub(super) async fn sign_in<B: Buf>(
        &self,
        asked: &Asked,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Response, Refusal> {
        if asked.is_cross_site() {
            return Err(Refusal::CrossSite);
        }
        let form = calls::small_body(body).await?;
        let field = |wanted: &str| {
            let pairs = url::form_urlencoded::parse(&form);
            let value = pairs.filter(|(name, _)| name == wanted).last().map(|(_, value)| value.trim().to_owned());
            value.unwrap_or_default()
        };
        let (user, password) = (field("username"), field("password"));
        let address = self.connections.address(asked.peer, &asked.headers);
        let _attempt = self.sign_ins.begin(address).ok_or(Refusal::TooManySignIns)?;
        // Both are looked at, whatever the first comes to.
        let is_admin = Secret::new(&self.config.admin_user).matches(user.as_bytes())
            & self.config.admin_secret.as_ref().is_some_and(|secret| secret.matches(password.as_bytes()));
        let cookie = self.cookies.given(SystemTime::now(), asked.links.scheme == "https").filter(|_| is_admin);
        let Some(cookie) = cookie else {
            sleep(DELAY).await;
            return Err(Refusal::WrongPassword { user, is_one_set: self.config.admin_secret.is_some() });
        };
        Ok(with_cookie(redirect(&asked.links.to("/admin")), &cookie))
    }

    /// `response`, which takes the cookie away.
    pub(super) fn sign_out(&self, asked: &Asked, response: Response) -> Response {
        with_cookie(response, &Cookies::taken(asked.links.scheme == "https"))
    }
}

fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
