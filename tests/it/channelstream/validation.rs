//! What callers are told of their mistakes.

use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::channelstream::{Site, signature, without};

const MISSING: &str = "Missing data for required field.";
const NULL: &str = "Field may not be null.";
const STRING: &str = "Not a valid string.";
const LIST: &str = "Not a valid list.";
const MAP: &str = "Not a valid mapping type.";
const NO_UUID: &str = "Not a valid UUID.";
const BOOL: &str = "Not a valid boolean.";
const INT: &str = "Not a valid integer.";
const DATETIME: &str = "Not a valid datetime.";
const SCALAR: &str = "Value is not type of string, integer, boolean or float.";
const TO_256: &str = "Length must be between 1 and 256.";
const TO_512: &str = "Length must be between 1 and 512.";

/// The body is of the wrong kind.
fn schema() -> Value {
    json!({"_schema": ["Invalid input type."]})
}

/// A connection that nobody has.
const NOBODY: &str = "6f1d4a58-7a3c-4ed1-8f6a-2f8a1a1a1a1a";

pub async fn what_is_wrong_is_said_of_each_field(site: &Site) {
    let id = site.connect("invalid-ann", &[]).await;
    let checks = [of_connect(), of_subscriptions(&id), of_state(), of_messages(), of_the_rest()].concat();
    join_all(checks.chunks(16).map(async |checks| {
        for (method, path, body, wrong) in checks {
            let said = site.refused(method, path, body).await;
            let same = as_the_head_says(said.clone()) == *wrong;
            assert!(same, "{method} {path} {body:.300}: {said} instead of {wrong}");
        }
    }))
    .await;
}

/// The two versions differ in these words.
fn as_the_head_says(said: Value) -> Value {
    let text = said.to_string().replace("Must be at least 0.", "Must be greater than or equal to 0.");
    serde_json::from_str(&text).unwrap()
}

type Check = (&'static str, &'static str, Value, Value);

fn of_connect() -> Vec<Check> {
    let of_user = |rest: Value| {
        let mut body = json!({"username": "u"});
        body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        body
    };
    let config = |config: Value, wrong: Value| {
        let body = of_user(json!({"channel_configs": {"a": config}}));
        (body, json!({"channel_configs": {"a": {"value": wrong}}}))
    };
    let long = |length: usize| "é".repeat(length);
    let checks = [
        (json!({}), json!({"username": [MISSING]})),
        (
            json!({"conn_id": "x", "channels": [""]}),
            json!({"username": [MISSING], "conn_id": [NO_UUID], "channels": {"0": [TO_256]}}),
        ),
        (json!({"username": null}), json!({"username": [NULL]})),
        (json!({"username": 7}), json!({"username": [STRING]})),
        (json!({"username": ""}), json!({"username": [TO_512]})),
        (json!({"username": long(513)}), json!({"username": [TO_512]})),
        (of_user(json!({"conn_id": null})), json!({"conn_id": [NULL]})),
        (of_user(json!({"conn_id": 7})), json!({"conn_id": [NO_UUID]})),
        (of_user(json!({"conn_id": ""})), json!({"conn_id": [NO_UUID]})),
        (of_user(json!({"channels": "x"})), json!({"channels": [LIST]})),
        (of_user(json!({"channels": null})), json!({"channels": [NULL]})),
        (of_user(json!({"channels": [null]})), json!({"channels": {"0": [NULL]}})),
        (of_user(json!({"channels": [7, "a", long(257)]})), json!({"channels": {"0": [STRING], "2": [TO_256]}})),
        (of_user(json!({"fresh_user_state": []})), json!({"fresh_user_state": [MAP]})),
        (of_user(json!({"fresh_user_state": {"a": []}})), json!({"fresh_user_state": {"a": {"value": [SCALAR]}}})),
        (of_user(json!({"user_state": null})), json!({"user_state": [NULL]})),
        (
            of_user(json!({"user_state": {"a": {}, "b": 1, "c": []}})),
            json!({"user_state": {"a": {"value": [SCALAR]}, "c": {"value": [SCALAR]}}}),
        ),
        (of_user(json!({"state_public_keys": "a"})), json!({"state_public_keys": [LIST]})),
        (of_user(json!({"state_public_keys": [""]})), json!({"state_public_keys": {"0": [TO_256]}})),
        (of_user(json!({"state_public_keys": null})), json!({"state_public_keys": [NULL]})),
        (of_user(json!({"channel_configs": []})), json!({"channel_configs": [MAP]})),
        config(json!(7), schema()),
        config(json!({"history_size": "x"}), json!({"history_size": [INT]})),
        config(json!({"history_size": true}), json!({"history_size": [INT]})),
        config(json!({"history_size": -1}), json!({"history_size": ["Must be greater than or equal to 0."]})),
        config(json!({"history_size": null}), json!({"history_size": [NULL]})),
        config(json!({"notify_presence": "maybe"}), json!({"notify_presence": [BOOL]})),
        config(
            json!({"notify_presence": 2, "store_frames": null, "notify_state": [], "store_history": "tRUE"}),
            json!({"notify_presence": [BOOL], "store_frames": [NULL], "notify_state": [BOOL], "store_history": [BOOL]}),
        ),
        (of_user(json!({"info": 7})), json!({"info": schema()})),
        (of_user(json!({"info": []})), json!({"info": schema()})),
        (of_user(json!({"info": null})), json!({"info": [NULL]})),
        (
            of_user(json!({"info": {"exclude_channels": [""], "include_history": "x", "channels": "x"}})),
            json!({"info": {"exclude_channels": {"0": [TO_256]}, "include_history": [BOOL], "channels": [LIST]}}),
        ),
        (
            of_user(json!({"info": {"include_users": "x", "exclude_channels": "x", "channels": [7]}})),
            json!({"info": {"include_users": [BOOL], "exclude_channels": [LIST], "channels": {"0": [STRING]}}}),
        ),
        (of_user(json!({"info": {"return_public_state": "x"}})), json!({"info": {"return_public_state": [BOOL]}})),
        (json!(7), schema()),
        (json!("x"), schema()),
        (json!([]), schema()),
    ];
    checks.into_iter().map(|(body, wrong)| ("POST", "/connect", body, wrong)).collect()
}

fn of_subscriptions(id: &str) -> Vec<Check> {
    let checks = [
        (json!({}), json!({"conn_id": [NULL], "channels": [MISSING]})),
        (json!({"conn_id": "x"}), json!({"conn_id": [NO_UUID], "channels": [MISSING]})),
        (json!({"conn_id": 7, "channels": [""]}), json!({"conn_id": [NO_UUID], "channels": {"0": [TO_256]}})),
        (json!({"conn_id": null, "channels": null}), json!({"conn_id": [NULL], "channels": [NULL]})),
        (json!({"channels": ["a"]}), json!({"conn_id": [NULL]})),
        (json!({"conn_id": NOBODY, "channels": ["a"]}), json!({"conn_id": ["Unknown connection"]})),
        (json!({"conn_id": id, "channels": []}), json!({"channels": ["Shorter than minimum length 1."]})),
        (json!({"conn_id": id, "channels": "a"}), json!({"channels": [LIST]})),
        (json!({"conn_id": id, "channels": ["a", null]}), json!({"channels": {"1": [NULL]}})),
        (json!({"conn_id": id, "channels": ["a"], "info": 7}), json!({"info": schema()})),
        (
            json!({"conn_id": id, "channels": ["a"], "channel_configs": {"a": {"store_frames": "x"}}}),
            json!({"channel_configs": {"a": {"value": {"store_frames": [BOOL]}}}}),
        ),
        (json!(7), schema()),
    ];
    let of = |path: &'static str| checks.clone().map(|(body, wrong)| ("POST", path, body, wrong));
    of("/subscribe").into_iter().chain(of("/unsubscribe")).collect()
}

fn of_state() -> Vec<Check> {
    let checks = [
        (json!({}), json!({"user": [MISSING]})),
        (json!({"user": null}), json!({"user": [NULL]})),
        (json!({"user": 7}), json!({"user": [STRING]})),
        (json!({"user": "nobody at all"}), json!({"user": ["Unknown user"]})),
        (json!({"user": "invalid-ann", "user_state": null}), json!({"user_state": [NULL]})),
        (json!({"user": "invalid-ann", "user_state": []}), json!({"user_state": [MAP]})),
        (json!({"user": "invalid-ann", "user_state": {"a": []}}), json!({"user_state": {"a": {"value": [SCALAR]}}})),
        (json!({"user": "invalid-ann", "state_public_keys": "a"}), json!({"state_public_keys": [LIST]})),
        (json!([]), schema()),
        (json!(7), schema()),
    ];
    checks.into_iter().map(|(body, wrong)| ("POST", "/user_state", body, wrong)).collect()
}

fn of_messages() -> Vec<Check> {
    let all_wrong = json!({"uuid": "x", "channel": "", "pm_users": [""], "exclude_users": "x", "no_history": "x"});
    let said = json!({"uuid": [NO_UUID], "channel": [TO_256], "pm_users": {"0": [TO_512]}, "exclude_users": [LIST],
        "no_history": [BOOL]});
    let all_null = json!({"uuid": null, "channel": null, "pm_users": null, "exclude_users": null, "no_history": null});
    let nulls = json!({"uuid": [NULL], "pm_users": [NULL], "exclude_users": [NULL], "no_history": [NULL]});
    let and = |value: &Value, more: Value| {
        let mut value = value.clone();
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value
    };
    let mut checks = Vec::new();
    for (method, required) in [("POST", "user"), ("PATCH", "uuid"), ("DELETE", "uuid")] {
        let good = json!({"user": "u", "uuid": NOBODY});
        let mut all = vec![
            (json!({}), schema()),
            (json!(7), schema()),
            (json!([{}]), json!({"0": {required: [MISSING]}})),
            (json!([good, {}, good, {}]), json!({"1": {required: [MISSING]}, "3": {required: [MISSING]}})),
        ];
        if method == "DELETE" {
            all.push((json!([all_wrong]), json!({"0": said})));
            all.push((json!([all_null]), json!({"0": nulls})));
        } else {
            let more = json!({"user": 7, "timestamp": "yesterday", "message": "x"});
            let wrong = json!({"user": [STRING], "timestamp": [DATETIME], "message": [MAP]});
            all.push((json!([and(&all_wrong, more)]), json!({"0": and(&said, wrong)})));
            let more = json!({"user": null, "timestamp": null, "message": null});
            let wrong = json!({"user": [NULL], "timestamp": [NULL], "message": [NULL]});
            all.push((json!([and(&all_null, more)]), json!({"0": and(&nulls, wrong)})));
            all.push((json!([and(&good, json!({"message": []}))]), json!({"0": {"message": [MAP]}})));
            all.push((json!([and(&good, json!({"user": ""}))]), json!({"0": {"user": [TO_512]}})));
        }
        checks.extend(all.into_iter().map(|(body, wrong)| (method, "/message", body, wrong)));
    }
    for time in ["2026-01-02", "2026-13-02T00:00:00", "20260102T030405", "2026-01-02T24:00", ""] {
        let body = json!([{"user": "u", "timestamp": time}]);
        checks.push(("POST", "/message", body, json!({"0": {"timestamp": [DATETIME]}})));
    }
    let edited = json!([{"uuid": NOBODY, "edited": "later"}]);
    checks.push(("PATCH", "/message", edited, json!({"0": {"edited": [DATETIME]}})));
    checks
}

fn of_the_rest() -> Vec<Check> {
    vec![
        ("POST", "/channel_config", json!({"a": {"history_size": "x"}}), json!({"history_size": [INT]})),
        ("POST", "/channel_config", json!({"a": {"notify_state": 7}}), json!({"notify_state": [BOOL]})),
        ("POST", "/channel_config", json!({"a": 7}), schema()),
        ("POST", "/info", json!({}), json!({"info": [MISSING]})),
        ("POST", "/info", json!({"info": null}), json!({"info": [NULL]})),
        ("POST", "/info", json!({"info": 7}), json!({"info": schema()})),
        ("POST", "/info", json!({"info": {"channels": "x"}}), json!({"info": {"channels": [LIST]}})),
        ("POST", "/info", json!({"info": {"channels": [""]}}), json!({"info": {"channels": {"0": [TO_256]}}})),
        ("POST", "/disconnect", json!({}), json!({"conn_id": [NULL]})),
        ("POST", "/disconnect", json!({"conn_id": null}), json!({"conn_id": [NULL]})),
        ("POST", "/disconnect", json!({"conn_id": "x"}), json!({"conn_id": [NO_UUID]})),
        ("POST", "/disconnect", json!({"conn_id": 7}), json!({"conn_id": [NO_UUID]})),
    ]
}

pub async fn values_are_taken_in_all_their_forms(site: &Site) {
    let set = async |channel: &str, config: Value| {
        let mut reply = site.post("/channel_config", json!({channel: config})).await;
        reply["channels"][channel]["settings"].take()
    };
    let yes =
        json!([true, 1, 1.0, "t", "T", "true", "True", "TRUE", "on", "On", "ON", "y", "Y", "yes", "Yes", "YES", "1"]);
    let no = json!([
        false, 0, 0.0, "f", "F", "false", "False", "FALSE", "off", "Off", "OFF", "n", "N", "no", "No", "NO", "0"
    ]);
    for (values, wanted) in [(yes, true), (no, false)] {
        for value in values.as_array().unwrap() {
            let settings = set("forms", json!({"notify_presence": value, "store_frames": value})).await;
            assert_eq!((&settings["notify_presence"], &settings["store_frames"]), (&json!(wanted), &json!(wanted)));
        }
    }
    for (value, wanted) in [(json!(7), 7), (json!(7.9), 7), (json!("7"), 7), (json!(0), 0), (json!(1e3), 1000)] {
        assert_eq!(set("forms", json!({"history_size": value})).await["history_size"], json!(wanted), "{value}");
    }
    for form in ["", "upper", "bare", "braces", "urn"] {
        let id = Uuid::new_v4();
        let given = match form {
            "upper" => id.to_string().to_uppercase(),
            "bare" => id.simple().to_string(),
            "braces" => format!("{{{id}}}"),
            "urn" => format!("urn:uuid:{id}"),
            _ => id.to_string(),
        };
        let reply = site.post("/connect", json!({"username": "forms-ann", "conn_id": given})).await;
        assert_eq!(reply["conn_id"], json!(id.to_string()), "{given}");
        let body = json!({"conn_id": given, "channels": ["forms"]});
        assert_eq!(site.post("/subscribe", body).await["subscribed_to"], json!(["forms"]), "{given}");
        assert_eq!(site.disconnect(&given).await, json!(true), "{given}");
    }
    for (given, kept) in [
        ("2026-01-02 03:04", "2026-01-02T03:04:00"),
        ("2026-01-02T03:04:05", "2026-01-02T03:04:05"),
        ("2026-01-02T03:04:05.1234567", "2026-01-02T03:04:05.123456"),
        ("2026-01-02T03:04:05.5", "2026-01-02T03:04:05.500000"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05+02", "2026-01-02T03:04:05+02:00"),
        ("2026-01-02T03:04:05.25+0230", "2026-01-02T03:04:05.250000+02:30"),
        ("2026-01-02T03:04:05-01:30", "2026-01-02T03:04:05-01:30"),
    ] {
        let item = site.say(json!({"user": "u", "channel": "no such channel", "timestamp": given})).await;
        let said = item["timestamp"].as_str().unwrap().replace('Z', "+00:00");
        assert_eq!(said, kept, "{given}");
    }
    let (longest_user, longest_name) = ("é".repeat(512), "é".repeat(256));
    let reply = site.post("/connect", json!({"username": longest_user, "channels": [longest_name]})).await;
    assert_eq!((&reply["username"], &reply["channels"][0]), (&json!(longest_user), &json!(longest_name)));
    for value in [json!("text"), json!(1), json!(-1.5), json!(true), json!(null), json!("")] {
        let reply = site.post("/connect", json!({"username": "forms-ann", "fresh_user_state": {"a": value}})).await;
        assert_eq!(reply["username"], json!("forms-ann"));
    }
}

pub async fn bodies_that_are_not_json_are_refused(site: &Site) {
    for path in ["/connect", "/subscribe", "/unsubscribe", "/user_state", "/message", "/channel_config", "/disconnect"]
    {
        for body in ["", "{", "username=ann", r#"{"a": nope}"#] {
            let reply = site.call("POST", path, body).await;
            // A beacon has no body, and says by the query what is to go.
            let wanted = if path == "/disconnect" && body.is_empty() { 422 } else { 400 };
            assert_eq!(reply.status, wanted, "{path} {body}: {reply:?}");
        }
    }
    for path in ["/subscribe", "/unsubscribe", "/channel_config", "/disconnect"] {
        let reply = site.call("POST", path, "[]").await;
        assert!(matches!(reply.status, 400 | 422), "{path}: {reply:?}");
    }
    // The original answers some of these with 500, too.
    for (method, path, body) in [
        ("POST", "/connect", "null"),
        ("POST", "/message", "null"),
        ("POST", "/message", "[7]"),
        ("PATCH", "/message", "[7]"),
        ("DELETE", "/message", "[[]]"),
        ("POST", "/channel_config", "7"),
        ("POST", "/info", "[]"),
        ("POST", "/info", "7"),
    ] {
        let reply = site.call(method, path, body).await;
        assert!(matches!(reply.status, 400 | 422), "{method} {path} {body}: {reply:?}");
    }
    let signature = signature();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "nonsense", "application/json; charset=utf-8"] {
        let headers = [("x-channelstream-secret", signature.as_str()), ("Content-Type", kind)];
        let reply = site.send("POST", "/connect", &headers, r#"{"username": "kind-ann"}"#).await;
        assert_eq!(reply.status, 200, "{kind}: {reply:?}");
    }
}

pub async fn nothing_is_done_of_a_call_with_one_error(site: &Site) {
    site.configure("whole", json!({"store_history": true})).await;
    let good = json!({"user": "u", "channel": "whole", "message": {"text": "a"}});
    site.refused("POST", "/message", &json!([good, {"user": "u", "channel": "whole", "message": 7}])).await;
    site.refused("POST", "/connect", &json!({"username": "whole-ann", "channels": ["whole", "whole-new"], "info": 7}))
        .await;
    site.refused("POST", "/channel_config", &json!({"whole-new": {}, "whole": {"history_size": "x"}})).await;
    let id = site.connect("whole-bob", &[]).await;
    site.refused("POST", "/subscribe", &json!({"conn_id": id, "channels": ["whole", "whole-new", ""]})).await;
    site.refused("POST", "/user_state", &json!({"user": "whole-ann"})).await;
    let body = json!({"user": "whole-bob", "user_state": {"good": 1, "bad": []}, "state_public_keys": ["good"]});
    site.refused("POST", "/user_state", &body).await;
    let info = site.info(&["whole", "whole-new"]).await;
    let channel = &info["channels"]["whole"];
    assert_eq!((&channel["history"], &channel["users"]), (&json!([]), &json!([])));
    assert_eq!(channel["settings"]["store_history"], json!(true));
    assert_eq!(info["channels"]["whole-new"], json!(null));
    let state = site.post("/user_state", json!({"user": "whole-bob"})).await;
    assert_eq!(state, json!({"user_state": {}, "changed_state": [], "public_keys": []}));
}

pub async fn unknown_keys_are_ignored(site: &Site) {
    let body = json!({"username": "keys-ann", "channels": ["keys"], "colour": "red", "info": {"colour": "red"},
        "channel_configs": {"keys": {"colour": "red", "notify_state": true}}});
    let reply = site.post("/connect", body).await;
    assert_eq!(reply["channels_info"]["channels"]["keys"]["settings"]["notify_state"], json!(true));
    let id = &reply["conn_id"];
    let reply = site.post("/subscribe", json!({"conn_id": id, "channels": ["keys-2"], "colour": 1})).await;
    assert_eq!(reply["subscribed_to"], json!(["keys-2"]));
    let reply = site.post("/unsubscribe", json!({"conn_id": id, "channels": ["keys-2"], "colour": 1})).await;
    assert_eq!(reply["unsubscribed_from"], json!(["keys-2"]));
    let reply = site.post("/user_state", json!({"user": "keys-ann", "user_state": {"a": 1}, "colour": 1})).await;
    assert_eq!(reply["user_state"], json!({"a": 1}));
    site.configure("keys", json!({"colour": "red"})).await;
    let message = json!({"user": "keys-ann", "channel": "keys", "colour": {"deep": [1]}});
    assert_eq!(site.say(message).await["colour"], json!({"deep": [1]}));
    let edit = json!([{"uuid": NOBODY, "channel": "keys", "colour": "blue"}]);
    assert_eq!(site.ask("PATCH", "/message", &edit).await[0]["colour"], json!("blue"));
    let delete = json!([{"uuid": NOBODY, "channel": "keys", "colour": "blue"}]);
    let item = site.ask("DELETE", "/message", &delete).await[0].take();
    assert_eq!(without(item, &["uuid"])["channel"], json!("keys"));
    let info =
        site.post("/info", json!({"info": {"channels": ["keys"], "include_connections": true, "colour": 1}})).await;
    assert_eq!(info["channels"].as_object().unwrap().len(), 1);
    let body = json!({"conn_id": id, "colour": "red"}).to_string();
    assert_eq!(site.send("POST", "/disconnect", &[], &body).await.json(), json!(true));
}
