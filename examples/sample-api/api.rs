//! What the API answers.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use headers::HeaderMapExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::{info, warn};
use warp::{Filter, Rejection, Reply, filters::BoxedFilter, reply::Response};

use crate::sessions::{Sessions, User};

const PAGE: &str = include_str!("page.html");
/// The largest body that is read.
const BODY_LIMIT_BYTES: u64 = 16 * 1024;

/// The API: its users' sessions, and the way to the sidecar.
pub(crate) struct Api {
    sessions: Sessions,
    client: reqwest::Client,
    trigger: Url,
    token: Option<String>,
}

/// A request to publish.
#[derive(Deserialize)]
struct Message {
    room: Map<String, Value>,
    text: String,
}

/// A page of another host tried to act in a user's name.
#[derive(Debug)]
struct ForeignPage;

impl warp::reject::Reject for ForeignPage {}

/// Everything that is served; the page is told to find the sidecar at `websocket`.
pub(crate) fn routes(api: Arc<Api>, websocket: String) -> BoxedFilter<(Response,)> {
    let api = warp::any().map(move || api.clone());
    let headers = warp::header::headers_cloned();
    let body = warp::body::content_length_limit(BODY_LIMIT_BYTES).and(warp::body::bytes());
    let post = warp::post().and(from_own_page());

    let page = warp::path::end().and(warp::get()).map(|| fresh(warp::reply::html(PAGE).into_response()));
    let settings = warp::path!("settings.json")
        .and(warp::get())
        .map(move || reply(StatusCode::OK, &json!({"websocket": websocket})));
    let login = warp::path!("api" / "login")
        .and(post)
        .and(api.clone())
        .and(body)
        .map(|api: Arc<Api>, body: Bytes| api.log_in(&body));
    let logout = warp::path!("api" / "logout")
        .and(post)
        .and(api.clone())
        .and(headers)
        .then(|api: Arc<Api>, headers: HeaderMap| async move { api.log_out(&headers).await });
    let bootstrap = warp::path!("api" / "bootstrap")
        .and(warp::get())
        .and(api.clone())
        .and(headers)
        .map(|api: Arc<Api>, headers: HeaderMap| api.bootstrap(&headers));
    let message = warp::path!("api" / "message")
        .and(post)
        .and(api)
        .and(headers)
        .and(body)
        .then(|api: Arc<Api>, headers: HeaderMap, body: Bytes| async move { api.publish(&headers, &body).await });
    let pages = page.or(settings).unify();
    let calls = login.or(logout).unify().or(bootstrap).unify().or(message).unify();
    pages.or(calls).unify().recover(rejected).unify().boxed()
}

impl Api {
    /// An API where nobody is logged in, and which posts triggers to `trigger`.
    pub(crate) fn new(client: reqwest::Client, trigger: Url, token: Option<String>) -> Self {
        Self { sessions: Sessions::default(), client, trigger, token }
    }

    fn log_in(&self, body: &[u8]) -> Response {
        let Some(user) = wanted_name(body).and_then(|name| User::named(&name)) else {
            return error(
                StatusCode::BAD_REQUEST,
                "unknown-user",
                r#"send {"name":"alice"} or name=bob: there is nobody else"#,
            );
        };
        info!(user = user.name, "logged in");
        with_cookie(reply(StatusCode::OK, &json!({"user": {"data": user}})), &self.sessions.open(user))
    }

    /// Ends the session, and has the sidecar ask again about the user's sockets: those of this session end.
    async fn log_out(&self, headers: &HeaderMap) -> Response {
        let user = self.sessions.user(headers);
        let cookie = self.sessions.close(headers);
        if let (Some(user), Ok(control)) = (user, self.trigger.join("../control/")) {
            let told = self.post(control, &json!({"action": "reauthorize", "user": user.id})).await;
            match told {
                Ok((StatusCode::OK, _)) => info!(user = user.name, "logged out"),
                Ok((status, _)) => warn!(%status, "the sidecar did not take a control message"),
                Err(error) => warn!(error = &error as &dyn std::error::Error, "the sidecar could not be told"),
            }
        }
        with_cookie(reply(StatusCode::OK, &json!({"code": "success"})), &cookie)
    }

    /// What the sidecar asks once for each client, with the client's cookies: may it connect, and what may it join?
    fn bootstrap(&self, headers: &HeaderMap) -> Response {
        match self.sessions.user(headers) {
            Some(user) => reply(StatusCode::OK, &json!({"user": {"data": user}, "allowed_rooms": allowed_rooms(user)})),
            None => not_logged_in(),
        }
    }

    /// Publishes in the user's name. The answer is the sidecar's.
    async fn publish(&self, headers: &HeaderMap, body: &[u8]) -> Response {
        let Some(user) = self.sessions.user(headers) else { return not_logged_in() };
        let Ok(Message { room, text }) = serde_json::from_slice(body) else {
            let detail = r#"send {"room":{"target":"news"},"text":"hello"}"#;
            return error(StatusCode::BAD_REQUEST, "malformed-message", detail);
        };
        if !may_be_published_in(&room) {
            let detail = r#"there are the rooms {"target":"news"}, {"target":"message","user":"bob"} and {"target":"chat","room":"any"}"#;
            return error(StatusCode::FORBIDDEN, "unknown-room", detail);
        }
        let trigger = json!({"rooms": [room], "data": {"from": user.name, "text": text}});
        match self.post(self.trigger.clone(), &trigger).await {
            Ok((status, body)) => {
                info!(user = user.name, status = status.as_u16(), "published");
                let mut response = warp::reply::with_status(body.to_vec(), status).into_response();
                response.headers_mut().typed_insert(headers::ContentType::json());
                response
            }
            Err(problem) => {
                warn!(error = &problem as &dyn std::error::Error, "the sidecar did not take a trigger");
                let detail = format!("the sidecar did not answer at {}", self.trigger);
                error(StatusCode::BAD_GATEWAY, "sidecar-away", &detail)
            }
        }
    }

    async fn post(&self, to: Url, what: &Value) -> Result<(StatusCode, Bytes), reqwest::Error> {
        let mut request = self.client.post(to).body(what.to_string());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.header(header::CONTENT_TYPE, "application/json").send().await?;
        Ok((response.status(), response.bytes().await?))
    }
}

/// The name in `{"name":"alice"}` or `name=alice`.
fn wanted_name(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Login {
        name: String,
    }
    if body.trim_ascii_start().starts_with(b"{") {
        return serde_json::from_slice(body).ok().map(|login: Login| login.name);
    }
    url::form_urlencoded::parse(body).find(|(key, _)| key == "name").map(|(_, name)| name.into_owned())
}

/// What `user` may subscribe to: the news, what is for them, and every chat room.
fn allowed_rooms(user: &User) -> Value {
    json!([{"target": "news"}, {"target": "message", "user": user.name}, {"target": "chat", "room": "*"}])
}

/// Whether users may publish there: the news, a message to somebody, a chat room.
fn may_be_published_in(room: &Map<String, Value>) -> bool {
    let text = |key: &str| room.get(key).and_then(Value::as_str);
    match (text("target"), room.len()) {
        (Some("news"), 1) => true,
        (Some("message"), 2) => text("user").is_some_and(|name| User::named(name).is_some()),
        (Some("chat"), 2) => text("room").is_some(),
        _ => false,
    }
}

/// Lets pass what a page of this host sends, and what no page sends: the cookie alone does not show who asks.
fn from_own_page() -> impl Filter<Extract = (), Error = Rejection> + Copy {
    warp::header::headers_cloned()
        .and_then(|headers: HeaderMap| {
            let outcome = if is_from_own_page(&headers) { Ok(()) } else { Err(warp::reject::custom(ForeignPage)) };
            std::future::ready(outcome)
        })
        .untuple_one()
}

fn is_from_own_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let page = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, page)| page);
    page.is_some() && page == headers.get(header::HOST).and_then(|host| host.to_str().ok())
}

fn reply(status: StatusCode, body: &impl Serialize) -> Response {
    fresh(warp::reply::with_status(warp::reply::json(body), status).into_response())
}

/// `message` is one word for programs, `detail` is for people.
fn error(status: StatusCode, message: &str, detail: &str) -> Response {
    reply(status, &json!({"code": "error", "message": message, "detail": detail}))
}

fn not_logged_in() -> Response {
    error(StatusCode::FORBIDDEN, "not-logged-in", "log in first: POST /api/login/ sets the session cookie")
}

/// Nothing here is worth keeping by a browser.
fn fresh(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn with_cookie(response: Response, cookie: &str) -> Response {
    warp::reply::with_header(response, header::SET_COOKIE, cookie).into_response()
}

async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    use warp::reject::{LengthRequired, MethodNotAllowed, PayloadTooLarge};
    Ok(if rejection.find::<ForeignPage>().is_some() {
        error(StatusCode::FORBIDDEN, "foreign-page", "a page of another host may not call this")
    } else if rejection.find::<PayloadTooLarge>().is_some() {
        let detail = format!("a body may have up to {BODY_LIMIT_BYTES} bytes");
        error(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &detail)
    } else if rejection.find::<LengthRequired>().is_some() {
        error(StatusCode::LENGTH_REQUIRED, "no-length", "send a body with a Content-Length")
    } else if rejection.find::<MethodNotAllowed>().is_some() {
        error(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this path knows another method")
    } else if rejection.is_not_found() {
        error(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
    } else {
        error(StatusCode::BAD_REQUEST, "bad-request", "the request could not be read")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_from_json_and_from_a_form() {
        assert_eq!(wanted_name(br#" {"name":"alice"}"#).as_deref(), Some("alice"));
        assert_eq!(wanted_name(b"name=bob").as_deref(), Some("bob"));
        for body in [&b""[..], b"bob", b"{}", br#"{"name":1}"#, b"{", b"\xff"] {
            assert_eq!(wanted_name(body), None, "{body:?}");
        }
    }

    #[test]
    fn users_publish_in_the_rooms_there_are() {
        let may = |room: Value| may_be_published_in(room.as_object().unwrap());
        assert!(may(json!({"target": "news"})));
        assert!(may(json!({"target": "message", "user": "bob"})));
        assert!(may(json!({"target": "chat", "room": "kitchen"})));
        assert!(!may(json!({})));
        assert!(!may(json!({"target": "news", "more": 1})));
        assert!(!may(json!({"target": "message", "user": "*"})));
        assert!(!may(json!({"target": "chat", "room": 1})));
    }

    #[test]
    fn only_a_page_of_the_same_host_and_port_acts_for_its_user() {
        let own = |origin: Option<&str>| {
            let mut headers = HeaderMap::from_iter([(header::HOST, "localhost:8080".parse().unwrap())]);
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            is_from_own_page(&headers)
        };
        assert!(own(None));
        assert!(own(Some("http://localhost:8080")));
        for origin in ["http://localhost:8081", "http://evil.example", "null", ""] {
            assert!(!own(Some(origin)), "{origin}");
        }
    }
}
