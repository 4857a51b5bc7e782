//! The pages for administrators.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{
    channelstream::{ADMIN, Place, Site, is_uuid, signature, without},
    http::{self, Reply},
};

async fn sign_in(site: &Site, username: &str, password: &str) -> Reply {
    let headers = [("Content-Type", "application/x-www-form-urlencoded")];
    site.send("POST", "/admin/sign_in", &headers, &format!("username={username}&password={password}")).await
}

/// Where a 302 leads.
fn leads_to(reply: &Reply) -> &str {
    assert_eq!(reply.status, 302, "{reply:?}");
    let link = reply.header("Location").unwrap();
    link.strip_prefix("http://localhost").unwrap_or(link)
}

/// The cookie that is set, and its attributes.
fn cookie(reply: &Reply) -> (String, Vec<String>) {
    let lines = reply.head.lines().filter_map(|line| line.split_once(": "));
    let mut cookie = lines.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).map(|(_, value)| value);
    let cookie = cookie.rfind(|value| value.starts_with("auth_tkt="));
    let mut parts = cookie.unwrap_or_else(|| panic!("{reply:?}")).split(';').map(|part| part.trim().to_owned());
    (parts.next().unwrap(), parts.map(|part| part.to_ascii_lowercase()).collect())
}

pub async fn administrators_sign_in(site: &Site) {
    let form = site.send("GET", "/admin/sign_in", &[], "").await;
    assert!(form.status == 200 && form.header("content-type").unwrap().starts_with("text/html"), "{form:?}");
    for part in ["<form", r#"name="username""#, r#"name="password""#] {
        assert!(form.body.contains(part), "{part}: {form:?}");
    }
    for (user, password) in [(ADMIN.0, "wrong"), ("wrong", ADMIN.1), ("", ""), (ADMIN.0, ""), (ADMIN.0, "admin-secre")]
    {
        let start = Instant::now();
        let reply = sign_in(site, user, password).await;
        assert!(reply.status == 200 && reply.body.contains("<form"), "{reply:?}");
        assert!(start.elapsed() > Duration::from_millis(450), "{:?}", start.elapsed());
        assert!(!reply.head.contains("auth_tkt=") || !reply.head.contains("2592000"), "{reply:?}");
    }
    let reply = sign_in(site, "%20admin+", "+admin-secret%20").await;
    assert_eq!(leads_to(&reply), "/admin");
    let (ticket, attributes) = cookie(&reply);
    for attribute in ["max-age=2592000", "path=/", "samesite=lax"] {
        assert!(attributes.iter().any(|found| found == attribute), "{attribute}: {reply:?}");
    }
    let with_cookie = [("Cookie", ticket.as_str())];
    for _ in 0..4 {
        let page = site.send("GET", "/admin", &with_cookie, "").await;
        assert!(page.status == 200 && page.header("content-type").unwrap().starts_with("text/html"), "{page:?}");
        let numbers = site.send("GET", "/admin/admin.json", &with_cookie, "").await;
        assert!(numbers.status == 200 && numbers.json()["channels"].is_object(), "{numbers:?}");
    }
    // A bad signature is not looked at; and the cookie is good for the pages only, but anywhere.
    let both = [("Cookie", ticket.as_str()), ("x-channelstream-secret", "nonsense")];
    assert_eq!(site.send("GET", "/admin/admin.json", &both, "").await.status, 200);
    assert_eq!(site.send("GET", "/info", &with_cookie, "").await.status, 403);
    assert_eq!(site.send_from_elsewhere("GET", "/admin/admin.json", &with_cookie, "").await.status, 200);
    for forged in
        ["auth_tkt=", "auth_tkt=nonsense", &format!("{ticket}x"), &ticket[..ticket.len() - 8], &changed(&ticket)]
    {
        let reply = site.send("GET", "/admin/admin.json", &[("Cookie", forged)], "").await;
        assert_eq!(leads_to(&reply), "/admin/sign_in", "{forged}");
    }
    let reply = site.send("GET", "/admin/sign_out", &with_cookie, "").await;
    assert_eq!(leads_to(&reply), "/admin/sign_in");
    let (ticket, attributes) = cookie(&reply);
    let is_over = attributes.iter().any(|found| found == "max-age=0" || found.contains("1970"));
    assert!(is_over || ticket == "auth_tkt=", "{reply:?}");
}

/// The same with another character in the middle.
fn changed(ticket: &str) -> String {
    let middle = "auth_tkt=".len() + 12;
    let other = if ticket.as_bytes()[middle] == b'a' { "b" } else { "a" };
    format!("{}{other}{}", &ticket[..middle], &ticket[middle + 1..])
}

pub async fn pages_are_for_administrators(site: &Site) {
    for path in ["/admin", "/admin/admin.json"] {
        assert_eq!(leads_to(&site.send("GET", path, &[], "").await), "/admin/sign_in", "{path}");
        let signature = signature();
        let headers = [("x-channelstream-secret", signature.as_str())];
        assert_eq!(leads_to(&site.send_from_elsewhere("GET", path, &headers, "").await), "/admin/sign_in", "{path}");
        assert_eq!(site.call("GET", path, "").await.status, 200, "{path}");
        let bad = site.send("GET", path, &[("x-channelstream-secret", "nonsense")], "").await;
        assert!(matches!(bad.status, 302 | 401), "{bad:?}");
    }
    for (method, wanted) in [("POST", 200), ("HEAD", 200), ("PUT", 404)] {
        assert_eq!(site.call(method, "/admin/admin.json", "").await.status, wanted, "{method}");
    }
    // These need not be there; if they are, they are not for everybody.
    for path in ["/admin/debug", "/api-explorer"] {
        let reply = site.send("GET", path, &[], "").await;
        assert!(matches!(reply.status, 302 | 403 | 404), "{path}: {reply:?}");
    }
}

/// What an instance says, with what has no order sorted and without what is its own.
async fn numbers(place: &Place) -> Value {
    let signature = signature();
    let headers = [("x-channelstream-secret", signature.as_str())];
    let reply = http::send(&place.internal, "GET", "/admin/admin.json", &headers, b"").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let mut numbers = reply.json();
    let uptime = numbers["uptime"].as_str().unwrap().to_owned();
    let parts: Vec<_> = uptime.split(':').collect();
    assert!(parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok()), "{uptime}");
    assert!(parts[1].len() == 2 && parts[2].len() == 2, "{uptime}");
    assert!(numbers["version"].is_string(), "{numbers}");
    let users = numbers["users"].as_array_mut().unwrap();
    users.sort_by_key(|user| user["user"].as_str().unwrap().to_owned());
    for user in users {
        user["connections"].as_array_mut().unwrap().sort_by_key(|id| id.as_str().unwrap().to_owned());
    }
    without(numbers, &["uptime", "version"])
}

/// On a site of its own: these numbers are of everything.
pub async fn the_numbers_are_right(site: &Site) {
    let nothing = json!({"remembered_user_count": 0, "unique_user_count": 0, "total_connections": 0, "total_channels": 0,
        "total_messages": 0, "total_unique_messages": 0, "channels": {}, "users": []});
    for place in &site.places {
        assert_eq!(numbers(place).await, nothing);
    }
    assert_eq!(site.call("GET", "/info", "").await.json(), json!({"channels": {}, "users": []}));
    site.configure("quiet", json!({"store_history": true})).await;
    let body = json!({"username": "alice", "channels": ["lobby", "news"], "user_state": {"avatar": "a.png", "x": 1},
        "state_public_keys": ["avatar"]});
    let first = site.post("/connect", body).await["conn_id"].as_str().unwrap().to_owned();
    let (bob, _bobs) = site.join("bob", &["lobby", "quiet"]).await;
    let eve = site.connect("eve", &["lobby"]).await;
    let alone = site.connect("dan", &[]).await;
    site.disconnect(&eve).await;
    let second = site.connect("alice", &[]).await;
    // Connecting again has taken the keys back.
    site.post("/user_state", json!({"user": "alice", "state_public_keys": ["avatar"]})).await;
    let items = json!([
        {"user": "bob", "channel": "lobby", "message": {"text": "two connections"}},
        {"user": "bob", "channel": "lobby", "pm_users": ["alice"], "message": {"text": "one"}},
        {"user": "bob", "channel": "lobby", "exclude_users": ["alice", "bob"], "message": {"text": "none"}},
        {"user": "bob", "channel": "quiet", "message": {"text": "one"}},
        {"user": "bob", "channel": "nowhere", "message": {"text": "none"}},
        {"user": "bob", "pm_users": ["alice", "nobody"], "message": {"text": "two"}},
        {"user": "bob", "pm_users": ["eve"], "message": {"text": "none"}},
        {"user": "bob", "message": {"text": "dropped"}},
    ]);
    site.post("/message", items).await;
    let uuid = site.channel("quiet").await["history"][0]["uuid"].clone();
    site.ask("PATCH", "/message", &json!([{"uuid": uuid, "channel": "quiet", "message": {"text": "edited"}}])).await;

    let mut alices = [first, second];
    alices.sort();
    for place in &site.places {
        let numbers = numbers(place).await;
        let users = numbers["users"].as_array().unwrap();
        assert!(users.iter().all(|user| is_uuid(&user["uuid"])), "{numbers}");
        let users: Vec<Value> = users.iter().map(|user| without(user.clone(), &["uuid"])).collect();
        assert_eq!(
            users,
            [
                json!({"user": "alice", "state": {"avatar": "a.png"}, "connections": alices}),
                json!({"user": "bob", "state": {}, "connections": [bob]}),
                json!({"user": "dan", "state": {}, "connections": [alone]}),
            ]
        );
        let counts = without(numbers.clone(), &["users", "channels"]);
        assert_eq!(
            counts,
            json!({"remembered_user_count": 4, "unique_user_count": 3, "total_connections": 4,
            "total_channels": 3, "total_messages": 6, "total_unique_messages": 7})
        );
        let channels = &numbers["channels"];
        assert_eq!(channels.as_object().unwrap().keys().collect::<Vec<_>>(), ["lobby", "news", "quiet"]);
        assert_eq!(channels["lobby"]["users"], json!(["alice", "bob"]));
        assert_eq!(channels["quiet"]["history"][0]["message"]["text"], json!("edited"));
        assert_eq!(*channels, site.call("GET", "/info", "").await.json()["channels"]);
    }
    let everything: Vec<Value> = futures::future::join_all(site.places.iter().map(numbers)).await;
    assert!(everything.iter().all(|numbers| *numbers == everything[0]), "{everything:?}");
}
