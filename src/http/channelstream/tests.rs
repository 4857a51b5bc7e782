//! The order of the checks, and what is answered.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use warp::{Reply, filters::BoxedFilter};

use super::{sign_ins::PER_ADDRESS, *};
use crate::config::Secret;

/// A token of `cs-test-secret`, old.
const TOKEN: &str = "/connect.ZVPxAA.Lfl_5PEqqiNStCZZsuMwNad72sk";
const HERE: &str = "127.0.0.1:4";
const ELSEWHERE: &str = "192.0.2.1:4";

/// Admin `admin` with password `pass`; all who are on this machine may sign, for ever.
pub(super) fn config() -> config::Channelstream {
    config::Channelstream {
        secret: Secret::new("cs-test-secret"),
        admin_user: "admin".to_owned(),
        admin_secret: Some(Secret::new("pass")),
        cookie_secret: Secret::new("cookie"),
        allow_posting_from: Some([[127, 0, 0, 1].into()].into()),
        allow_cors: Vec::new(),
        validate_requests: false,
        enforce_https: false,
        http_scheme: None,
        is_public: false,
    }
}

/// All of a body.
pub(super) async fn text(response: Response) -> String {
    let (mut body, mut whole) = (Box::pin(response.into_body()), Vec::new());
    while let Some(frame) = std::future::poll_fn(|task| hyper::body::Body::poll_frame(body.as_mut(), task)).await {
        whole.extend(frame.unwrap().into_data().unwrap());
    }
    String::from_utf8(whole).unwrap()
}

/// Channelstream's filter, and after it another that answers everything with 418.
struct Listener(BoxedFilter<(Response,)>);

impl Listener {
    fn new(side: Side, config: config::Channelstream) -> Self {
        let history = config::History { age: Duration::from_secs(1), limit_bytes: 1 };
        let connections = crate::connection::simulated::connections(&[("TRUSTED_PROXIES", "127.0.0.1")], history);
        let (hub, metrics, stop) = (connections.hub.clone(), connections.metrics.clone(), CancellationToken::new());
        stop.cancel(); // nobody carries anything out
        let state = tokio::sync::watch::channel(crate::broker::State::Away).1;
        let channelstream = Channelstream::new(hub, metrics, state, None, stop.clone());
        let api = Api::new(channelstream, config, connections, 100, stop);
        let own = warp::any().map(|| StatusCode::IM_A_TEAPOT.into_response());
        Self(routes(Arc::new(api), side).or(own).unify().boxed())
    }

    fn internal() -> Self {
        Self::new(Side::Internal, config())
    }

    /// The answer to `POST /connect {x-accept: y} body`, sent from `peer`.
    async fn answer(&self, peer: &str, line: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body.to_owned()).unwrap();
        let peer: SocketAddr = peer.parse().unwrap();
        request.extensions_mut().insert(Origination { peer: Some(peer), version: http::Version::HTTP_11 });
        TowerToHyperService::new(warp::service(self.0.clone())).call(request).await.unwrap()
    }

    async fn status(&self, peer: &str, line: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        self.answer(peer, line, headers, body).await.status().as_u16()
    }

    /// The value of the cookie of who signs in.
    async fn cookie(&self) -> String {
        let answer = self.answer(HERE, "POST /admin/sign_in", &[], "username=+admin+&password=pass").await;
        assert_eq!(answer.status(), StatusCode::FOUND);
        let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
        cookie.split_once(';').unwrap().0.to_owned()
    }
}

const SIGNED: (&str, &str) = (SIGNATURE, TOKEN);
const BAD: (&str, &str) = (SIGNATURE, "x.ZVPxAA.bad");
const JSON: (&str, &str) = ("accept", "application/json");

#[tokio::test]
async fn the_first_thing_that_is_wrong_is_the_one_that_is_told() {
    let strict = Listener::new(Side::Internal, config::Channelstream { enforce_https: true, ..config() });
    let lenient = Listener::internal();
    for (peer, line, headers, body, status) in [
        (HERE, "POST /connect", &[SIGNED][..], "{", 400),
        (HERE, "POST /connect", &[SIGNED], "", 400),
        (HERE, "POST /connect", &[SIGNED], "{}", 422),
        (HERE, "POST /subscribe", &[SIGNED], "[]", 422),
        (HERE, "POST /connect", &[BAD], "{", 401),
        (HERE, "POST /connect", &[], "{", 403),
        (HERE, "GET /connect", &[], "", 404),
        (HERE, "GET /nowhere", &[], "", 404),
        (HERE, "GET /nowhere", &[BAD], "", 401),
        (HERE, "OPTIONS /nowhere", &[BAD], "", 401),
        (HERE, "GET /static/style.css", &[BAD], "", 401),
        (HERE, "OPTIONS /nowhere", &[], "", 200),
        // From elsewhere a signature is not looked at.
        (ELSEWHERE, "POST /connect", &[SIGNED], "{", 403),
        (ELSEWHERE, "POST /connect", &[BAD], "{", 403),
        (ELSEWHERE, "GET /nowhere", &[BAD], "", 404),
        (ELSEWHERE, "GET /disconnect", &[BAD], "", 422),
        (ELSEWHERE, "GET /listen", &[], "", 422),
        // Who polls is to come again.
        (ELSEWHERE, "GET /listen?conn_id=36c6ee91-1bd5-4d0c-8f0e-6b9b1ea1b0ad", &[], "", 200),
        // All is well but that nobody carries the call out.
        (HERE, "GET /info", &[SIGNED], "", 503),
        (HERE, "POST /info", &[SIGNED], "{", 400),
        (HERE, "POST /message", &[SIGNED], "[]", 503),
        (HERE, "GET /admin/admin.json", &[SIGNED], "", 503),
        (HERE, "GET /disconnect?conn_id=36c6ee91-1bd5-4d0c-8f0e-6b9b1ea1b0ad", &[], "", 503),
        (HERE, "POST /disconnect?conn_id=36c6ee91-1bd5-4d0c-8f0e-6b9b1ea1b0ad", &[], "", 503),
    ] {
        assert_eq!(lenient.status(peer, line, headers, body).await, status, "{peer} {line} {headers:?} {body}");
        assert_eq!(strict.status(peer, line, headers, body).await, 406, "{peer} {line} {headers:?} {body}");
        let by_https = [headers, &[("x-forwarded-proto", "https")]].concat();
        let expected = if peer == HERE { status } else { 406 };
        assert_eq!(strict.status(peer, line, &by_https, body).await, expected, "{peer} {line} {headers:?} {body}");
    }
}

#[tokio::test]
async fn a_signature_is_in_the_header_or_else_in_the_query() {
    let listener = Listener::internal();
    let query = format!("GET /info?secret={}", TOKEN.replace('/', "%2F"));
    for (line, headers, status) in [
        (query.as_str(), &[][..], 503),
        (&query, &[BAD], 401),
        (&query, &[(SIGNATURE, "")], 403),
        ("GET /info?secret=", &[], 403),
        ("GET /info?secret=x", &[], 401),
        ("GET /info?secret=x", &[SIGNED], 503),
    ] {
        assert_eq!(listener.status(HERE, line, headers, "").await, status, "{line} {headers:?}");
    }
}

#[tokio::test]
async fn a_minute_is_all_that_a_signature_lasts_when_requests_are_validated() {
    let listener = Listener::new(Side::Internal, config::Channelstream { validate_requests: true, ..config() });
    assert_eq!(listener.status(HERE, "GET /info", &[SIGNED], "").await, 401);
}

#[tokio::test]
async fn refusals_are_documents_in_the_form_that_was_asked_for() {
    let listener = Listener::internal();
    let forbidden = text(listener.answer(HERE, "GET /info", &[JSON], "").await).await;
    assert!(forbidden.contains(r#""code":"403 Forbidden""#), "{forbidden}");
    let bad = text(listener.answer(HERE, "GET /info", &[BAD], "").await).await;
    assert_eq!(bad, r#"{"request":"Bad Signature"}"#);
    let html = text(listener.answer(HERE, "GET /x", &[("accept", "*/*")], "").await).await;
    assert!(html.contains("<h1>404 Not Found</h1>"), "{html}");
    let malformed = text(listener.answer(HERE, "POST /connect", &[SIGNED, JSON], "{").await).await;
    assert!(malformed.contains(r#""title":"Bad Request""#), "{malformed}");
    let large = listener.answer(HERE, "POST /connect", &[SIGNED, JSON], &" ".repeat(101)).await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let invalid = text(listener.answer(HERE, "GET /disconnect", &[], "").await).await;
    assert_eq!(invalid, r#"{"conn_id":["Field may not be null."]}"#);
    let later = listener.answer(HERE, "GET /info", &[SIGNED], "").await;
    assert_eq!(later.headers()[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn who_is_refused_with_a_body_unread_has_the_connection_closed() {
    let listener = Listener::internal();
    let unread = listener.answer(HERE, "POST /connect", &[("content-length", "2")], "{}").await;
    assert_eq!(unread.headers()[header::CONNECTION], "close");
    let empty = listener.answer(HERE, "GET /connect", &[], "").await;
    assert!(!empty.headers().contains_key(header::CONNECTION));
}

#[tokio::test]
async fn pages_of_other_hosts_may_read_answers_and_refusals_but_not_the_explorer_or_files() {
    let listener = Listener::internal();
    for (line, headers, has_cors) in [
        ("OPTIONS /nowhere", &[][..], true),
        ("GET /nowhere", &[], true),
        ("POST /connect", &[BAD], true),
        ("GET /disconnect", &[], true),
        ("GET /admin", &[], false),
        ("GET /api-explorer", &[SIGNED], false),
        ("GET /static/style.css", &[], false),
    ] {
        let answer = listener.answer(HERE, line, headers, "").await;
        let has = answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        assert_eq!(has, has_cors, "{line}");
    }
    let listed = config::Channelstream { allow_cors: vec!["example.com".to_owned()], ..config() };
    let answer = Listener::new(Side::Public, listed);
    let answer = answer.answer(HERE, "OPTIONS /disconnect", &[("origin", "http://evil.net")], "").await;
    assert!(!answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    assert!(answer.headers().contains_key(header::ACCESS_CONTROL_ALLOW_METHODS));
}

#[tokio::test]
async fn the_internal_listener_keeps_its_own_paths_whatever_a_request_claims() {
    let listener = Listener::internal();
    let script = |script| [SIGNED, ("x-script-name", script)];
    for line in [
        "POST /trigger/",
        "POST /trigger",
        "GET /metrics",
        "OPTIONS /control/",
        "GET /healthz",
        "GET /rooms/",
        "GET /",
        "GET /page/main.js",
    ] {
        for headers in [&[][..], &[SIGNED], &[BAD], &script("/metrics"), &script("/trigger")] {
            assert_eq!(listener.status(HERE, line, headers, "").await, 418, "{line} {headers:?}");
        }
    }
    assert_eq!(listener.status(HERE, "GET /pre/metrics", &script("/pre"), "").await, 404);
    assert_eq!(listener.status(HERE, "GET /pre/info", &script("/pre"), "").await, 503);
}

#[tokio::test]
async fn the_openapi_document_is_channelstreams_for_its_callers_only() {
    let listener = Listener::internal();
    let cookie = listener.cookie().await;
    for (peer, headers, status) in [
        (HERE, &[][..], 418),
        (HERE, &[SIGNED], 200),
        (HERE, &[BAD], 401),
        (ELSEWHERE, &[SIGNED], 418),
        (ELSEWHERE, &[("cookie", cookie.as_str())], 200),
        (HERE, &[("cookie", "auth_tkt=x")], 418),
    ] {
        assert_eq!(listener.status(peer, "GET /openapi.json", headers, "").await, status, "{peer} {headers:?}");
    }
    let public = Listener::new(Side::Public, config::Channelstream { is_public: true, ..config() });
    assert_eq!(public.status(HERE, "GET /openapi.json", &[], "").await, 403);
}

#[tokio::test]
async fn the_public_listener_serves_browsers_and_signed_calls_when_it_is_told_to() {
    let closed = Listener::new(Side::Public, config());
    let open = Listener::new(Side::Public, config::Channelstream { is_public: true, ..config() });
    for (line, when_closed, when_open) in [
        ("GET /disconnect", 422, 422),
        ("OPTIONS /disconnect", 200, 200),
        ("OPTIONS /listen", 200, 200),
        ("PUT /listen", 404, 404),
        ("GET /info", 418, 503),
        ("POST /connect", 418, 400),
        ("GET /admin", 418, 200),
        ("GET /static/style.css", 418, 200),
        ("OPTIONS /nowhere", 418, 200),
        ("GET /nowhere", 418, 404),
        ("GET /ws?conn_id=x", 418, 418),
        ("GET /ws/", 418, 418),
    ] {
        assert_eq!(closed.status(HERE, line, &[SIGNED], "").await, when_closed, "{line}");
        assert_eq!(open.status(HERE, line, &[SIGNED], "").await, when_open, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn signing_in_opens_the_pages_and_no_call() {
    let listener = Listener::internal();
    for path in ["/admin", "/admin/admin.json", "/admin/debug", "/api-explorer"] {
        let headers = [("host", "a.b"), ("x-script-name", "/pre"), ("x-scheme", "https")];
        let answer = listener.answer(HERE, &format!("GET {path}"), &headers, "").await;
        assert_eq!(answer.status(), StatusCode::FOUND, "{path}");
        assert_eq!(answer.headers()[header::LOCATION], "https://a.b/pre/admin/sign_in", "{path}");
    }
    let cookie = listener.cookie().await;
    let cookie = ("cookie", cookie.as_str());
    for (line, status) in [
        ("GET /admin", 200),
        ("GET /admin/debug", 200),
        ("GET /api-explorer", 200),
        ("POST /admin/admin.json", 503),
        ("GET /info", 403),
        ("POST /connect", 403),
        ("DELETE /message", 403),
    ] {
        assert_eq!(listener.status(ELSEWHERE, line, &[cookie], "").await, status, "{line}");
        // A bad signature beside the cookie is not looked at, a good one is.
        assert_eq!(listener.status(HERE, line, &[cookie, BAD], "").await, status, "{line}");
    }
    assert_eq!(listener.status(HERE, "GET /info", &[cookie, SIGNED], "").await, 503);
    let gone = listener.answer(HERE, "GET /admin/sign_out", &[cookie, ("host", "a.b")], "").await;
    assert_eq!(gone.headers()[header::LOCATION], "http://a.b/admin/sign_in");
    assert!(gone.headers()[header::SET_COOKIE].to_str().unwrap().starts_with("auth_tkt=; Max-Age=0;"));
}

#[tokio::test(start_paused = true)]
async fn who_gets_the_password_wrong_waits_and_few_may_wait_at_once() {
    let listener = Listener::internal();
    let wrong = |form: &'static str| listener.answer(HERE, "POST /admin/sign_in", &[], form);
    for form in ["username=admin&password=pas", "username=root&password=pass", "", "username=admin", "%ff&&=&x"] {
        let start = tokio::time::Instant::now();
        let answer = wrong(form).await;
        assert_eq!(answer.status(), StatusCode::OK, "{form}");
        assert!(!answer.headers().contains_key(header::SET_COOKIE), "{form}");
        assert!(start.elapsed() >= Duration::from_millis(500), "{form}");
        assert!(text(answer).await.contains("not right"));
    }
    let all = futures::future::join_all((0..=PER_ADDRESS).map(|_| wrong("password=x"))).await;
    let refused = all.iter().filter(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!(refused, 1);
    listener.cookie().await;
}

#[tokio::test(start_paused = true)]
async fn a_stranger_who_guesses_all_the_time_locks_nobody_out() {
    let listener = Listener::internal();
    let guess = |_| listener.answer(ELSEWHERE, "POST /admin/sign_in", &[], "username=admin&password=x");
    let guessing = futures::future::join_all((0..100).map(guess));
    let signing_in = async {
        tokio::task::yield_now().await;
        listener.cookie().await
    };
    let (guesses, _) = tokio::join!(guessing, signing_in);
    let refused = guesses.iter().filter(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!(refused, 100 - PER_ADDRESS);
}

#[tokio::test(start_paused = true)]
async fn a_form_of_another_hosts_page_is_refused() {
    let listener = Listener::internal();
    let form = "username=admin&password=pass";
    for (origin, status) in [("http://a.b", 302), ("http://evil.net", 403), ("null", 403)] {
        let headers = [("host", "a.b"), ("origin", origin)];
        assert_eq!(listener.status(HERE, "POST /admin/sign_in", &headers, form).await, status, "{origin}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_password_nobody_can_sign_in() {
    let listener = Listener::new(Side::Internal, config::Channelstream { admin_secret: None, ..config() });
    for line in ["GET /admin/sign_in", "POST /admin/sign_in"] {
        let answer = listener.answer(HERE, line, &[], "username=admin&password=").await;
        assert!(!answer.headers().contains_key(header::SET_COOKIE));
        assert!(text(answer).await.contains("Nobody can sign in"), "{line}");
    }
}

#[tokio::test]
async fn pages_run_no_script_that_stands_in_them() {
    let listener = Listener::internal();
    for line in ["GET /admin", "GET /api-explorer", "GET /admin/sign_in"] {
        let answer = listener.answer(HERE, line, &[SIGNED], "").await;
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self';"), "{line}");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store", "{line}");
    }
}
