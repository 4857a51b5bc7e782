//! From a body to a call of Channelstream's, and from its answer to ours.

use bytes::{Buf, Bytes};
use futures::Stream;
use http::{Method, StatusCode};
use warp::{Reply, reply::Response};

use super::{
    super::{
        admin::typed,
        body::{self, Unread},
        trigger::Held,
    },
    Api,
    asked::Asked,
    html, listen, pages,
    refusal::{Refusal, redirect},
    route::Endpoint,
};
use crate::{
    channelstream::{Answer, Call},
    protocol::channelstream::{parse_disconnect, requests},
};

/// The largest body from callers who have not signed: an id, or a form.
pub(super) const SMALL_BYTES: usize = 4 << 10;

impl Api {
    /// Does what `asked` asks for, which its caller may.
    pub(super) async fn answer<B: Buf>(
        &self,
        endpoint: Endpoint,
        asked: &Asked,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Response, Refusal> {
        let call = match endpoint {
            Endpoint::Connect => Call::Connect(requests::Connect::parse(&self.signed_body(body).await?)?),
            Endpoint::Subscribe => Call::Subscribe(self.subscribe(asked, body).await?),
            Endpoint::Unsubscribe => Call::Unsubscribe(self.subscribe(asked, body).await?),
            Endpoint::UserState => Call::UserState(requests::UserState::parse(&self.signed_body(body).await?)?),
            Endpoint::Message => Call::Message(requests::Message::parse_all(&self.signed_body(body).await?)?),
            Endpoint::Edit => Call::Edit(requests::Edit::parse_all(&self.signed_body(body).await?)?),
            Endpoint::Delete => Call::Delete(requests::Delete::parse_all(&self.signed_body(body).await?)?),
            Endpoint::ChannelConfig => {
                Call::ChannelConfig(requests::ChannelConfig::parse_all(&self.signed_body(body).await?)?)
            }
            Endpoint::Info => Call::Info(requests::InfoConfig::parse(&self.signed_body(body).await?)?),
            Endpoint::Disconnect => {
                // A POST says it in its body; one without a body is a browser's beacon.
                let body = if asked.method == Method::POST { small_body(body).await? } else { Bytes::new() };
                let body = Some(&body[..]).filter(|body| !body.trim_ascii().is_empty());
                let query = asked.parameter("conn_id").filter(|_| body.is_none());
                Call::Disconnect(parse_disconnect(body, query.as_deref())?)
            }
            Endpoint::Statistics => Call::Statistics,
            Endpoint::Listen => return listen::answer(self, asked).await,
            Endpoint::Admin => return Ok(pages::page(pages::ADMIN.to_owned())),
            Endpoint::Explorer => return Ok(pages::page(pages::EXPLORER.to_owned())),
            Endpoint::Debug => return Ok(pages::debug()),
            Endpoint::SignIn if asked.method == Method::POST => return self.sign_in(asked, body).await,
            Endpoint::SignIn => return Ok(pages::page(html::sign_in("", false, self.config.admin_secret.is_some()))),
            Endpoint::SignOut => return Ok(self.sign_out(asked, redirect(&asked.links.to("/admin/sign_in")))),
            Endpoint::OpenApi => return Ok(typed(pages::swagger(&asked.links.script), "application/json")),
            Endpoint::Static => return pages::file(&asked.path).ok_or(Refusal::NotFound),
            Endpoint::Preflight => return Ok(StatusCode::OK.into_response()),
        };
        match self.channelstream.call(call).await? {
            Answer::Done(json) => Ok(typed(json, "application/json")),
            Answer::Invalid(invalid) => Err(Refusal::Invalid(invalid)),
        }
    }

    async fn subscribe<B: Buf>(
        &self,
        asked: &Asked,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<requests::Subscribe, Refusal> {
        let (body, connection) = (self.signed_body(body).await?, asked.parameter("conn_id"));
        Ok(requests::Subscribe::parse(&body, connection.as_deref())?)
    }

    /// The body of a caller who has signed.
    async fn signed_body<B: Buf>(&self, body: impl Stream<Item = Result<B, warp::Error>>) -> Result<Bytes, Refusal> {
        let (limit, mut held) = (self.body_limit_bytes, Held::new(self.in_flight.clone()));
        body::read(body, limit, |bytes| held.grow(bytes)).await.map_err(|unread| refused(unread, limit))
    }
}

/// The body of a caller who may be anybody.
pub(super) async fn small_body<B: Buf>(body: impl Stream<Item = Result<B, warp::Error>>) -> Result<Bytes, Refusal> {
    body::read(body, SMALL_BYTES, |_| true).await.map_err(|unread| refused(unread, SMALL_BYTES))
}

fn refused(unread: Unread, limit_bytes: usize) -> Refusal {
    match unread {
        Unread::TooLarge => Refusal::TooLarge(limit_bytes),
        Unread::Incomplete => Refusal::Incomplete,
        Unread::Busy => Refusal::Unavailable,
    }
}
