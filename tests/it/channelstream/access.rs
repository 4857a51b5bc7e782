//! Who may call, and what everybody else is told.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{
    Client, TestServer,
    channelstream::{Place, SECRET, Site, VARS, VECTORS, now, sign, signature},
    http::{self, Reply},
};

/// Every route that is for signed calls.
const SIGNED: [(&str, &str); 9] = [
    ("POST", "/connect"),
    ("POST", "/subscribe"),
    ("POST", "/unsubscribe"),
    ("POST", "/user_state"),
    ("POST", "/message"),
    ("PATCH", "/message"),
    ("DELETE", "/message"),
    ("POST", "/channel_config"),
    ("GET", "/info"),
];

async fn with_token(site: &Site, token: &str) -> Reply {
    site.send("GET", "/info", &[("x-channelstream-secret", token)], "").await
}

fn is_bad_signature(reply: &Reply) -> bool {
    reply.status == 401 && reply.json() == json!({"request": "Bad Signature"})
}

pub async fn a_signature_counts_for_a_minute_wherever_it_stands(site: &Site) {
    for value in ["channelstream", "/connect", "", "a.b..c", "/info"] {
        let token = sign(SECRET, value, now());
        for name in ["x-channelstream-secret", "X-ChannelStream-Secret"] {
            let reply = site.send("GET", "/info", &[(name, &token)], "").await;
            assert_eq!(reply.status, 200, "{value}: {reply:?}");
        }
    }
    let token = sign(SECRET, "channelstream", now() - 57);
    for _ in 0..2 {
        assert_eq!(with_token(site, &token).await.status, 200);
    }
    assert_eq!(with_token(site, &format!("{token}=")).await.status, 200, "padding is optional");
    let old = with_token(site, &sign(SECRET, "channelstream", now() - 62)).await;
    assert!(is_bad_signature(&old), "{old:?}");
    let token = signature();
    let in_query = site.send("GET", &format!("/info?secret={token}"), &[], "").await;
    assert_eq!(in_query.status, 200, "{in_query:?}");
    let body = json!({"username": "query-ann"}).to_string();
    let in_query = site.send("POST", &format!("/connect?secret={token}"), &[], &body).await;
    assert_eq!(in_query.json()["username"], json!("query-ann"));
    let both = site.send("GET", "/info?secret=bad", &[("x-channelstream-secret", &token)], "").await;
    assert_eq!(both.status, 200, "the header is looked at: {both:?}");
    for (path, headers) in [
        ("/info".to_owned(), vec![]),
        ("/info?secret=".to_owned(), vec![]),
        ("/info".to_owned(), vec![("x-channelstream-secret", "")]),
        (format!("/info?secret={token}"), vec![("x-channelstream-secret", "")]),
    ] {
        let reply = site.send("GET", &path, &headers, "").await;
        assert_eq!(reply.status, 403, "{path} {headers:?}: {reply:?}");
    }
}

pub async fn a_signature_that_is_wrong_is_refused_before_anything_is_read(site: &Site) {
    let good = signature();
    let (payload, mac) = good.rsplit_once('.').unwrap();
    let (value, second) = payload.rsplit_once('.').unwrap();
    let other = sign(SECRET, "channelstream", now() - 1);
    let (_, other_mac) = other.rsplit_once('.').unwrap();
    let wrong = [
        sign("another secret", "channelstream", now()),
        sign(SECRET, "channelstream", now() - 3600),
        sign(SECRET, "channelstream", 0),
        format!("{value}x.{second}.{mac}"),
        format!("{payload}.{other_mac}"),
        format!("{payload}."),
        format!("{payload}.{}", &mac[..20]),
        payload.to_owned(),
        format!("{value}.{mac}"),
        "..".to_owned(),
        ".".to_owned(),
        "nonsense".to_owned(),
        format!("{payload}.!!!!"),
    ];
    for token in &wrong {
        for (method, path) in SIGNED {
            let reply = site.send(method, path, &[("x-channelstream-secret", token)], "not json").await;
            assert!(is_bad_signature(&reply), "{method} {path} {token}: {reply:?}");
        }
        let reply = site.send("GET", &format!("/info?secret={}", token.replace('!', "%21")), &[], "").await;
        assert!(is_bad_signature(&reply), "{token}: {reply:?}");
    }
}

pub async fn who_may_not_call_is_told_so_whatever_the_signature(site: &Site) {
    for (method, path) in SIGNED {
        let reply = site.send(method, path, &[], "not json").await;
        assert_eq!(reply.status, 403, "{method} {path}: {reply:?}");
    }
    let (good, bad) = (signature(), sign("another secret", "channelstream", now()));
    let id = site.connect("elsewhere-ann", &["elsewhere"]).await;
    for token in [&good, &bad] {
        // Who says that he comes from an allowed address has not been asked.
        let headers = [("x-channelstream-secret", token.as_str()), ("X-Forwarded-For", "127.0.0.1")];
        for (method, path) in SIGNED {
            let reply = site.send_from_elsewhere(method, path, &headers, "not json").await;
            assert_eq!(reply.status, 403, "{method} {path}: {reply:?}");
        }
    }
    assert_eq!(site.send_from_elsewhere("GET", "/admin/sign_in", &[], "").await.status, 200);
    let reply = site.send_from_elsewhere("GET", &format!("/disconnect?conn_id={id}"), &[], "").await;
    assert_eq!((reply.status, reply.body.trim()), (200, "true"));
}

pub async fn unknown_routes_and_methods_are_not_found(site: &Site) {
    for (method, path) in [
        ("GET", "/connect"),
        ("PUT", "/connect"),
        ("GET", "/subscribe"),
        ("DELETE", "/unsubscribe"),
        ("GET", "/user_state"),
        ("GET", "/message"),
        ("PUT", "/message"),
        ("GET", "/channel_config"),
        ("POST", "/connect/"),
        ("GET", "/info/"),
        ("POST", "/connect/more"),
        ("GET", "/no/such/route"),
    ] {
        for reply in [site.call(method, path, "").await, site.send(method, path, &[], "").await] {
            assert_eq!(reply.status, 404, "{method} {path}: {reply:?}");
        }
    }
    for method in ["POST", "PUT", "DELETE"] {
        let reply = http::send(site.public(), method, "/listen", &[], b"").await;
        assert_eq!(reply.status, 404, "{method} /listen: {reply:?}");
    }
    let reply = http::send(site.public(), "GET", "/", &[], b"").await;
    assert_eq!(reply.status, 404, "{reply:?}");
    for method in ["GET", "POST", "PUT", "DELETE"] {
        assert_eq!(site.call(method, "/info", "").await.status, 200, "{method} /info");
    }
}

pub async fn errors_are_told_as_the_caller_accepts(site: &Site) {
    for (path, code, title) in [("/info", "403 Forbidden", "Forbidden"), ("/connect", "404 Not Found", "Not Found")] {
        let status = code[..3].parse::<u16>().unwrap();
        let json = site.send("GET", path, &[("Accept", "application/json")], "").await;
        assert_eq!((json.status, &json.json()["code"], &json.json()["title"]), (status, &json!(code), &json!(title)));
        assert!(json.json()["message"].is_string(), "{json:?}");
        assert!(json.header("content-type").unwrap().starts_with("application/json"), "{json:?}");
        for accept in ["text/html", "*/*"] {
            let html = site.send("GET", path, &[("Accept", accept)], "").await;
            assert!(html.status == status && html.body.contains(code), "{html:?}");
            assert!(html.header("content-type").unwrap().starts_with("text/html"), "{html:?}");
        }
        let plain = site.send("GET", path, &[], "").await;
        assert!(plain.status == status && plain.body.contains(code), "{plain:?}");
        assert!(plain.header("content-type").unwrap().starts_with("text/plain"), "{plain:?}");
    }
    let invalid = site.call("POST", "/connect", "{}").await;
    assert!(invalid.status == 422 && invalid.header("content-type").unwrap().starts_with("application/json"));
    let done = site.call("GET", "/info", "").await;
    assert!(done.header("content-type").unwrap().starts_with("application/json"), "{done:?}");
}

/// What pages of other hosts are told they may do.
fn assert_is_open(reply: &Reply) {
    let allowed = [
        "Content-Type",
        "Depth",
        "User-Agent",
        "X-File-Size",
        "X-Requested-With",
        "If-Modified-Since",
        "X-File-Name",
        "Cache-Control",
        "Pragma",
        "Origin",
        "Connection",
        "Referer",
        "Cookie",
    ];
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"), "{reply:?}");
    assert_are_told(reply, "Access-Control-Allow-Methods", &["GET", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"]);
    assert_are_told(reply, "Access-Control-Allow-Headers", &allowed);
    assert_eq!(reply.header("Access-Control-Max-Age"), Some("86400"), "{reply:?}");
    assert_eq!(reply.header("XDomainRequestAllowed"), Some("1"), "{reply:?}");
}

fn assert_are_told(reply: &Reply, header: &str, wanted: &[&str]) {
    let told: Vec<&str> = reply.header(header).unwrap_or_default().split(',').map(str::trim).collect();
    for wanted in wanted {
        assert!(told.iter().any(|told| told.eq_ignore_ascii_case(wanted)), "{header}: no {wanted} in {told:?}");
    }
}

pub async fn pages_of_other_hosts_may_use_the_answers(site: &Site) {
    assert_is_open(&site.call("GET", "/info", "").await);
    let connected = site.call("POST", "/connect", &json!({"username": "cors-ann"}).to_string()).await;
    assert_is_open(&connected);
    let id = connected.json()["conn_id"].as_str().unwrap().to_owned();
    for socket in [false, true] {
        // With a socket beside it, a poll is short.
        let _socket = if socket { Some(site.socket(&id).await) } else { None };
        assert_is_open(&site.listen(&id).await);
    }
    assert_is_open(
        &site.send("GET", &format!("/disconnect?conn_id={id}"), &[("Origin", "http://a.example")], "").await,
    );
    for path in ["/connect", "/message", "/info", "/disconnect", "/no/such/route"] {
        let asked = [("Origin", "http://a.example"), ("Access-Control-Request-Method", "POST")];
        let reply = site.send("OPTIONS", path, &asked, "").await;
        assert_is_open(&reply);
        assert_eq!(reply.body, "", "{path}");
    }
    for path in ["/listen", "/disconnect"] {
        assert_is_open(&http::send(site.public(), "OPTIONS", path, &[], b"").await);
    }
}

pub async fn paths_and_links_are_under_the_prefix_of_the_proxy(site: &Site) {
    let signature = signature();
    for path in ["/pre/info", "/info"] {
        let headers = [("X-Script-Name", "/pre"), ("x-channelstream-secret", &signature)];
        let reply = site.send("GET", path, &headers, "").await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
    }
    let reply = site.send("GET", "/pre/admin", &[("X-Script-Name", "/pre")], "").await;
    let link = reply.header("Location").unwrap_or_default();
    assert!(reply.status == 302 && link.ends_with("/pre/admin/sign_in"), "{reply:?}");
    for headers in
        [&[("X-Scheme", "https")][..], &[("X-Url-Scheme", "https")], &[("X-Scheme", "http"), ("X-Url-Scheme", "https")]]
    {
        let reply = site.send("GET", "/admin", headers, "").await;
        let link = reply.header("Location").unwrap_or_default();
        assert_eq!(reply.status, 302, "{reply:?}");
        // A link without a host has no scheme, either.
        assert!(link == "/admin/sign_in" || link == "https://localhost/admin/sign_in", "{headers:?}: {link}");
    }
}

/// Whether a page may use the answer.
async fn may_use(site: &Site, origin: Option<&str>) -> bool {
    let token = signature();
    let mut headers = vec![("x-channelstream-secret", token.as_str())];
    headers.extend(origin.map(|origin| ("Origin", origin)));
    let reply = site.send("GET", "/info", &headers, "").await;
    assert_eq!(reply.header("Access-Control-Max-Age"), Some("86400"), "{reply:?}");
    reply.header("Access-Control-Allow-Origin").inspect(|allowed| assert_eq!(*allowed, "*")).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_hosts_that_are_not_on_the_list_may_not_use_the_answers() {
    let site =
        Site::one(&[("CHANNELSTREAM_ALLOW_CORS", "example.com, localhost:3000,https://schemes.example.net")]).await;
    for origin in [
        "http://example.com",
        "https://example.com",
        "https://app.example.com",
        "http://example.com:8080",
        "http://localhost:3000",
        "https://schemes.example.net",
    ] {
        assert!(may_use(&site, Some(origin)).await, "{origin}");
    }
    for origin in [
        Some("http://example.com.evil.net"),
        Some("http://notexample.com"),
        Some("http://evil.net/example.com"),
        Some("http://other.org"),
        Some("null"),
        None,
    ] {
        assert!(!may_use(&site, origin).await, "{origin:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_any_age_count_if_requests_are_not_validated() {
    for (secret, value, token) in &VECTORS[1..] {
        let vars = [("CHANNELSTREAM_SECRET", *secret), ("CHANNELSTREAM_VALIDATE_REQUESTS", "false")];
        let server = TestServer::with(&vars).await;
        let ask = async |token: &str| {
            http::send(&server.internal, "GET", "/info", &[("x-channelstream-secret", token)], b"").await
        };
        for token in [*token, &sign(secret, value, 1), &sign(secret, "else", now())] {
            let reply = ask(token).await;
            assert_eq!(reply.status, 200, "{token}: {reply:?}");
        }
        for token in [&token.replace("ZVPxAA", "ZVPxAB"), &sign("another secret", value, now())] {
            let reply = ask(token).await;
            assert!(is_bad_signature(&reply), "{token}: {reply:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_allowed_by_the_list() {
    let list = "10.0.0.1,\n    127.0.0.2 ,";
    for (list, here, elsewhere) in [(list, 403, 200), ("0.0.0.0", 200, 200), ("10.0.0.1", 403, 403), ("", 200, 403)] {
        let vars = [("CHANNELSTREAM_SECRET", SECRET), ("CHANNELSTREAM_ALLOW_POSTING_FROM", list)];
        let server = TestServer::with(&vars).await;
        let site = Site::at(vec![Place::from(&server)]).without_public_calls();
        assert_eq!(site.call("GET", "/info", "").await.status, here, "{list:?}");
        let signature = signature();
        let headers = [("x-channelstream-secret", signature.as_str())];
        let reply = site.send_from_elsewhere("GET", "/info", &headers, "").await;
        assert_eq!(reply.status, elsewhere, "{list:?}: {reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_refused_if_https_is_enforced_except_for_sockets() {
    let server = TestServer::with(&[
        ("CHANNELSTREAM_SECRET", SECRET),
        ("CHANNELSTREAM_ENFORCE_HTTPS", "true"),
        ("CHANNELSTREAM_PUBLIC", "true"),
    ])
    .await;
    let token = signature();
    for (method, path) in [("GET", "/info"), ("POST", "/connect"), ("GET", "/admin"), ("GET", "/disconnect")] {
        for headers in [vec![], vec![("X-Scheme", "http")], vec![("X-Forwarded-Proto", "http")]] {
            let headers =
                [&headers[..], &[("x-channelstream-secret", &token), ("Accept", "application/json")]].concat();
            let reply = http::send(&server.public, method, path, &headers, b"").await;
            assert_eq!(reply.status, 406, "{method} {path} {headers:?}: {reply:?}");
            assert!(reply.body.contains("SSL is required"), "{reply:?}");
        }
    }
    // A proxy of ours may say that the client came by https.
    let headers = [("X-Forwarded-Proto", "https"), ("x-channelstream-secret", &token)];
    assert_eq!(http::send(&server.public, "GET", "/info", &headers, b"").await.status, 200);
    let reply = http::send(&server.public, "GET", "/listen?conn_id=x", &[], b"").await;
    assert_eq!(reply.status, 406, "{reply:?}");
    let nobody = uuid::Uuid::new_v4();
    let mut socket = Client::connect(&server.public, &format!("/ws?conn_id={nobody}"), &[]).await;
    assert_eq!(socket.close_code().await, 1000);
    // high-templar's own protocol is none of Channelstream's business.
    server.connect().await.expect_silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_calls_and_admin_pages_are_on_the_internal_listener_unless_wanted() {
    let server = TestServer::with(&VARS[..4]).await;
    let token = signature();
    let headers = [("x-channelstream-secret", token.as_str())];
    let ask = async |listen, method, path, body: &Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        http::send(listen, method, path, &headers, body.as_bytes()).await
    };
    let calls = SIGNED.into_iter().chain([("GET", "/admin"), ("GET", "/admin/admin.json"), ("GET", "/admin/sign_in")]);
    for (method, path) in calls {
        let reply = ask(&server.public, method, path, &json!([])).await;
        assert!(matches!(reply.status, 403 | 404), "{method} {path}: {reply:?}");
        let reply = ask(&server.internal, method, path, &json!([])).await;
        assert!(matches!(reply.status, 200 | 302 | 400 | 422), "{method} {path}: {reply:?}");
    }
    let reply = ask(&server.internal, "POST", "/connect", &json!({"username": "ann"})).await;
    let id = reply.json()["conn_id"].as_str().unwrap().to_owned();
    let _socket = Client::connect(&server.public, &format!("/ws?conn_id={id}"), &[]).await;
    let reply = http::send(&server.public, "GET", &format!("/disconnect?conn_id={id}"), &[], b"").await;
    assert_eq!((reply.status, reply.json()), (200, json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_signed_cannot_fill_the_log() {
    const REQUESTS: usize = 300;
    let server = TestServer::with(&[("CHANNELSTREAM_SECRET", SECRET)]).await;
    let site = Site::at(vec![Place::from(&server)]).without_public_calls();
    let id = site.connect("fills-ann", &[]).await;
    let (before, begun) = (server.metric("channelstream_commands_total").await, Instant::now());
    let asking = (0..REQUESTS).map(|number| {
        let path = if number % 2 == 0 { "disconnect" } else { "listen" };
        let path = format!("/{path}?conn_id={}", uuid::Uuid::new_v4());
        let public = &server.public;
        async move { http::send(public, "GET", &path, &[], b"").await }
    });
    for reply in futures::future::join_all(asking).await {
        assert!(reply.status == 401 || reply.status == 200 && reply.body == "false", "{reply:?}");
    }
    let commands = server.metric("channelstream_commands_total").await - before;
    let most = begun.elapsed().as_millis() as u64 / 100 + 10; // and the instance's own, now and then
    assert!((1..=most).contains(&commands), "{commands} commands, of {most}");
    assert_eq!(http::send(&server.public, "GET", &format!("/disconnect?conn_id={id}"), &[], b"").await.body, "true");
}
