use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A row of the table of what requests may say.
type Case = (Value, Value);

fn wrong<T: std::fmt::Debug>(read: Result<T, Bad>) -> Value {
    match read {
        Err(Bad::Invalid(invalid)) => serde_json::to_value(invalid).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn connect(body: &Value) -> Result<Connect, Bad> {
    Connect::parse(body.to_string().as_bytes())
}

/// The request, and what is wrong with its field.
fn check(cases: &[Case]) {
    for (body, expected) in cases {
        let mut body = body.clone();
        body["username"] = "alice".into();
        assert_eq!(wrong(connect(&body)), *expected, "{body}");
    }
}

const CANONICAL: &str = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";

#[test]
fn what_is_left_out_has_its_default() {
    let connect = connect(&json!({"username": "alice", "unknown": [1]})).unwrap();
    assert_eq!(connect.conn_id.get_version_num(), 4);
    let expected = Connect {
        username: "alice".to_owned(),
        conn_id: connect.conn_id,
        channels: Vec::new(),
        fresh_user_state: BTreeMap::new(),
        user_state: BTreeMap::new(),
        state_public_keys: Vec::new(),
        channel_configs: BTreeMap::new(),
        info: InfoConfig::default(),
    };
    assert_eq!(connect, expected);
}

#[test]
fn what_is_given_is_read() {
    let body = json!({
        "username": "ż", "conn_id": CANONICAL, "channels": ["b", "ą", "a", "b"], "fresh_user_state": {"a": null},
        "user_state": {"": 1.5}, "state_public_keys": ["z", "y"], "channel_configs": {"a": {"history_size": 3}},
        "info": {"include_history": false, "include_users": "no", "exclude_channels": ["x"], "return_public_state": 1,
            "channels": [], "include_connections": true}
    });
    let connect = connect(&body).unwrap();
    assert_eq!(connect.conn_id.to_string(), CANONICAL);
    assert_eq!(connect.channels, ["a", "b", "b", "ą"]);
    assert_eq!(connect.fresh_user_state["a"], Scalar::null());
    assert_eq!(connect.user_state[""].0.get(), "1.5");
    assert_eq!(connect.state_public_keys, ["z", "y"]);
    assert_eq!(connect.channel_configs["a"], ChannelConfig { history_size: 3, ..ChannelConfig::default() });
    let info = InfoConfig {
        include_history: false,
        include_users: false,
        exclude_channels: vec!["x".to_owned()],
        return_public_state: true,
        channels: Some(Vec::new()),
    };
    assert_eq!(connect.info, info);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let body = json!({"conn_id": "free text", "channels": [""], "info": [], "user_state": {"a": [], "b": 1, "c": {}},
        "channel_configs": {"a": {"history_size": "x", "store_history": "maybe"}, "b": null, "c": 5}});
    let expected = json!({
        "username": ["Missing data for required field."],
        "conn_id": ["Not a valid UUID."],
        "channels": {"0": ["Length must be between 1 and 256."]},
        "info": {"_schema": ["Invalid input type."]},
        "user_state": {
            "a": {"value": ["Value is not type of string, integer, boolean or float."]},
            "c": {"value": ["Value is not type of string, integer, boolean or float."]}
        },
        "channel_configs": {
            "a": {"value": {"history_size": ["Not a valid integer."], "store_history": ["Not a valid boolean."]}},
            "b": {"value": ["Field may not be null."]},
            "c": {"value": {"_schema": ["Invalid input type."]}}
        }
    });
    assert_eq!(wrong(connect(&body)), expected);
}

#[test]
fn a_body_of_another_kind_is_told() {
    let schema = json!({"_schema": ["Invalid input type."]});
    for body in ["null", "5", "\"x\"", "[]", "true"] {
        let body = body.as_bytes();
        assert_eq!(wrong(Connect::parse(body)), schema);
        assert_eq!(wrong(Subscribe::parse(body, Some(CANONICAL))), schema);
        assert_eq!(wrong(UserState::parse(body)), schema);
        assert_eq!(wrong(ChannelConfig::parse_all(body)), schema);
        assert_eq!(wrong(InfoConfig::parse(body)), schema);
        assert_eq!(wrong(parse_disconnect(Some(body), None)), schema);
    }
    for body in ["null", "5", "\"x\"", "{}", "{\"user\":\"a\"}"] {
        let body = body.as_bytes();
        assert_eq!(wrong(Message::parse_all(body)), schema);
        assert_eq!(wrong(Edit::parse_all(body)), schema);
        assert_eq!(wrong(Delete::parse_all(body)), schema);
    }
}

#[test]
fn a_body_that_is_no_json_is_another_thing() {
    let deep = format!(r#"[{{"user":"a","x":{}1{}}}]"#, "[".repeat(126), "]".repeat(126));
    let bodies =
        [&b""[..], b"{", b"\xff", b"{\"username\":\"\xff\"}", b"{\"username\":NaN}", b"{} {}", deep.as_bytes()];
    for body in bodies {
        assert_eq!(Connect::parse(body), Err(Bad::NotJson));
        assert!(matches!(Message::parse_all(body), Err(Bad::NotJson)));
    }
    let less = format!(r#"[{{"user":"a","x":{}"[[["{}}}]"#, "[".repeat(125), "]".repeat(125));
    assert_eq!(Message::parse_all(less.as_bytes()).unwrap().len(), 1);
    let very = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    assert!(matches!(Message::parse_all(very.as_bytes()), Err(Bad::NotJson)));
}

#[test]
fn of_a_key_that_is_there_twice_the_last_counts() {
    let body = format!(r#"{{"username":5,"username":"{}","username":"bob"}}"#, "x".repeat(600));
    assert_eq!(Connect::parse(body.as_bytes()).unwrap().username, "bob");
}

#[test]
fn strings_have_a_length_in_characters() {
    let name = |length| json!({"username": "ż".repeat(length)});
    for (username, says) in [
        (json!(""), "Length must be between 1 and 512."),
        (name(513)["username"].clone(), "Length must be between 1 and 512."),
        (json!(5), "Not a valid string."),
        (json!(true), "Not a valid string."),
        (json!(["a"]), "Not a valid string."),
        (json!(null), "Field may not be null."),
    ] {
        assert_eq!(wrong(connect(&json!({ "username": username }))), json!({"username": [says]}));
    }
    assert!(connect(&name(512)).is_ok() && connect(&name(1)).is_ok());
    let half = br#"{"username":"\ud800"}"#;
    assert_eq!(wrong(Connect::parse(half)), json!({"username": ["Not a valid string."]}));
}

#[test]
fn ids_are_uuids_as_python_reads_them() {
    for text in [
        CANONICAL,
        "6F9619FF-8B86-D011-B42D-00CF4FC964FF",
        "6f9619ff8b86d011b42d00cf4fc964ff",
        "{6f9619ff-8b86-d011-b42d-00cf4fc964ff}",
        "urn:uuid:6f9619ff-8b86-d011-b42d-00cf4fc964ff",
        "6f-9619ff8b86d011b42d00cf4fc964ff",
    ] {
        assert_eq!(connect(&json!({"username": "a", "conn_id": text})).unwrap().conn_id.to_string(), CANONICAL);
    }
    let invalid = json!({"conn_id": ["Not a valid UUID."]});
    for text in ["", "x", " 6f9619ff8b86d011b42d00cf4fc964ff", "6f9619ff8b86d011b42d00cf4fc964f", "abcdefghijklmnop"] {
        check(&[(json!({ "conn_id": text }), invalid.clone())]);
    }
    check(&[
        (json!({"conn_id": "0x9619ff8b86d011b42d00cf4fc964ffaa"}), invalid.clone()),
        (json!({"conn_id": "+f9619ff8b86d011b42d00cf4fc964ff"}), invalid.clone()),
        (json!({"conn_id": 5}), invalid.clone()),
        (json!({"conn_id": [CANONICAL]}), invalid),
        (json!({"conn_id": null}), json!({"conn_id": ["Field may not be null."]})),
    ]);
}

#[test]
fn lists_and_maps_are_told_by_position_and_key() {
    let long = "x".repeat(257);
    check(&[
        (json!({"channels": "x"}), json!({"channels": ["Not a valid list."]})),
        (json!({"channels": {"a": 1}}), json!({"channels": ["Not a valid list."]})),
        (json!({"channels": null}), json!({"channels": ["Field may not be null."]})),
        (
            json!({"channels": ["", "a", null, 5, long]}),
            json!({"channels": {"0": ["Length must be between 1 and 256."], "2": ["Field may not be null."],
                "3": ["Not a valid string."], "4": ["Length must be between 1 and 256."]}}),
        ),
        (
            json!({"state_public_keys": [""]}),
            json!({"state_public_keys": {"0": ["Length must be between 1 and 256."]}}),
        ),
        (json!({"state_public_keys": null}), json!({"state_public_keys": ["Field may not be null."]})),
        (json!({"user_state": []}), json!({"user_state": ["Not a valid mapping type."]})),
        (json!({"user_state": "x"}), json!({"user_state": ["Not a valid mapping type."]})),
        (json!({"fresh_user_state": null}), json!({"fresh_user_state": ["Field may not be null."]})),
        (json!({"channel_configs": []}), json!({"channel_configs": ["Not a valid mapping type."]})),
        (json!({"channel_configs": null}), json!({"channel_configs": ["Field may not be null."]})),
        (json!({"info": null}), json!({"info": ["Field may not be null."]})),
        (
            json!({"info": {"exclude_channels": [""], "channels": null, "include_connections": "x"}}),
            json!({"info": {"exclude_channels": {"0": ["Length must be between 1 and 256."]},
                "channels": ["Field may not be null."], "include_connections": ["Not a valid boolean."]}}),
        ),
    ]);
}

#[test]
fn booleans_may_be_words_and_numbers() {
    let read = |text: &str| {
        let body = format!(r#"{{"a":{{"store_history":{text}}}}}"#);
        ChannelConfig::parse_all(body.as_bytes()).map(|configs| configs["a"].store_history)
    };
    for text in ["true", "1", "1.0", "1e0", r#""t""#, r#""True""#, r#""ON""#, r#""On""#, r#""y""#, r#""Yes""#, r#""1""#]
    {
        assert_eq!(read(text), Ok(true), "{text}");
    }
    for text in ["false", "0", "0.0", "-0.0", r#""f""#, r#""FALSE""#, r#""off""#, r#""N""#, r#""no""#, r#""0""#] {
        assert_eq!(read(text), Ok(false), "{text}");
    }
    for text in ["2", "-1", "1.5", "[]", "{}", r#""""#, r#""oN""#, r#"" 1""#, r#""1.0""#, r#""maybe""#, "1e999"] {
        assert_eq!(wrong(read(text)), json!({"store_history": ["Not a valid boolean."]}), "{text}");
    }
    assert_eq!(wrong(read("null")), json!({"store_history": ["Field may not be null."]}));
}

#[test]
fn integers_may_be_cut_and_written_as_strings() {
    let read = |text: &str| {
        let body = format!(r#"{{"a":{{"history_size":{text}}}}}"#);
        ChannelConfig::parse_all(body.as_bytes()).map(|configs| configs["a"].history_size)
    };
    for (text, size) in [
        ("0", 0),
        ("-0", 0),
        ("7", 7),
        ("1.9", 1),
        ("-0.5", 0),
        ("1e3", 1000),
        (r#""5""#, 5),
        (r#"" 5 ""#, 5),
        (r#""+5""#, 5),
        (r#""-0""#, 0),
        (r#""1_000""#, 1000),
        (r#""005""#, 5),
        ("18446744073709551615", u64::MAX),
        ("10000000000000000000000000000000", u64::MAX),
        ("1e308", u64::MAX),
    ] {
        assert_eq!(read(text), Ok(size), "{text}");
    }
    for text in ["true", "false", "[]", "{}", r#""""#, r#""x""#, r#""1.0""#, r#""0x5""#, r#""1__0""#, r#""-""#, "1e999"]
    {
        assert_eq!(wrong(read(text)), json!({"history_size": ["Not a valid integer."]}), "{text}");
    }
    for text in ["-1", "-1.5", r#""-1""#, "-10000000000000000000000000000000"] {
        assert_eq!(wrong(read(text)), json!({"history_size": ["Must be greater than or equal to 0."]}), "{text}");
    }
}

#[test]
fn a_subscription_needs_a_connection_and_a_channel() {
    let read = |body: Value, query| Subscribe::parse(body.to_string().as_bytes(), query);
    let other = "00000000-0000-4000-8000-000000000000";
    let from_query = read(json!({"channels": ["b", "a"]}), Some(CANONICAL)).unwrap();
    assert_eq!((from_query.conn_id.to_string().as_str(), from_query.channels.len()), (CANONICAL, 2));
    assert_eq!(from_query.channels, ["b", "a"]);
    let from_body = read(json!({"channels": ["a"], "conn_id": other}), Some(CANONICAL)).unwrap();
    assert_eq!(from_body.conn_id.to_string(), other);
    for (body, query, expected) in [
        (
            json!({}),
            None,
            json!({"conn_id": ["Field may not be null."], "channels": ["Missing data for required field."]}),
        ),
        (json!({"channels": ["a"]}), Some(""), json!({"conn_id": ["Not a valid UUID."]})),
        (json!({"channels": ["a"], "conn_id": null}), Some(CANONICAL), json!({"conn_id": ["Field may not be null."]})),
        (json!({"channels": []}), Some(CANONICAL), json!({"channels": ["Shorter than minimum length 1."]})),
        (json!({"channels": null}), Some(CANONICAL), json!({"channels": ["Field may not be null."]})),
    ] {
        assert_eq!(wrong(read(body, query)), expected);
    }
}

#[test]
fn a_post_of_disconnect_does_not_look_at_the_query() {
    let body = json!({"conn_id": CANONICAL}).to_string();
    assert_eq!(parse_disconnect(Some(body.as_bytes()), Some("x")).unwrap().to_string(), CANONICAL);
    assert_eq!(parse_disconnect(None, Some(CANONICAL)).unwrap().to_string(), CANONICAL);
    let null = json!({"conn_id": ["Field may not be null."]});
    assert_eq!(wrong(parse_disconnect(Some(b"{}"), Some(CANONICAL))), null);
    assert_eq!(wrong(parse_disconnect(None, None)), null);
    assert_eq!(wrong(parse_disconnect(None, Some("x"))), json!({"conn_id": ["Not a valid UUID."]}));
    assert_eq!(parse_disconnect(Some(b""), Some(CANONICAL)), Err(Bad::NotJson));
}

#[test]
fn public_keys_of_a_state_may_be_null() {
    let read = |body: Value| UserState::parse(body.to_string().as_bytes());
    let state = read(json!({"user": "a", "user_state": {"x": null}, "state_public_keys": null})).unwrap();
    assert_eq!((state.state_public_keys, state.user_state.len()), (None, 1));
    assert_eq!(read(json!({"user": "a", "state_public_keys": []})).unwrap().state_public_keys, Some(Vec::new()));
    assert_eq!(wrong(read(json!({}))), json!({"user": ["Missing data for required field."]}));
}

#[test]
fn messages_are_told_by_position() {
    let read = |body: Value| Message::parse_all(body.to_string().as_bytes());
    assert!(read(json!([])).unwrap().is_empty());
    let all = json!({"user": "a", "channel": null, "pm_users": null, "exclude_users": [""], "no_history": null,
        "uuid": null, "timestamp": null, "message": null});
    let nothing = json!(["Field may not be null."]);
    let expected = json!({
        "0": {"user": ["Missing data for required field."]},
        "2": {"_schema": ["Invalid input type."]},
        "3": {"message": ["Not a valid mapping type."], "timestamp": ["Not a valid datetime."]},
        "4": {"pm_users": nothing, "exclude_users": {"0": ["Length must be between 1 and 512."]}, "no_history": nothing,
            "uuid": nothing, "timestamp": nothing, "message": nothing},
        "5": {"timestamp": ["Not a valid datetime."], "channel": ["Length must be between 1 and 256."]}
    });
    let body = json!([{}, {"user": "a"}, 5, {"user": "a", "message": "x", "timestamp": 5}, all,
        {"user": "a", "timestamp": "x", "channel": ""}]);
    assert_eq!(wrong(read(body)), expected);
}

#[test]
fn a_message_keeps_what_is_not_known_but_not_what_is_ours_to_say() {
    let body = br#"[{"user":"a","channel":"c","message":{"n": 1.0},"timestamp":"2020-01-02T03:04:05.1234567Z",
        "x":1E999,"edited":"x","type":"q","catchup":true,"no_history":"t","exclude_users":["u"]}]"#;
    let message = Message::parse_all(body).unwrap().remove(0);
    assert_eq!(message.timestamp.as_str(), "2020-01-02T03:04:05.123456+00:00");
    assert_eq!(message.message.unwrap().get(), r#"{"n": 1.0}"#);
    let extra: Vec<_> = message.extra.iter().map(|(key, raw)| (key.as_str(), raw.get())).collect();
    assert_eq!(extra, [("x", "1E999")]);
    assert_eq!(message.uuid.get_version_num(), 4);
    let to = Recipients {
        channel: Some("c".to_owned()),
        pm_users: Vec::new(),
        exclude_users: vec!["u".to_owned()],
        no_history: true,
    };
    assert_eq!(message.to, to);
}

#[test]
fn edits_and_deletions_need_an_id() {
    let missing = json!({"0": {"uuid": ["Missing data for required field."]}});
    assert_eq!(wrong(Edit::parse_all(b"[{}]")), missing);
    assert_eq!(wrong(Delete::parse_all(b"[{}]")), missing);
    let body = json!([{"uuid": CANONICAL, "type": 1, "catchup": 2, "x": 3, "user": "b"}]).to_string();
    let edit = Edit::parse_all(body.as_bytes()).unwrap().remove(0);
    assert_eq!(edit.extra.keys().collect::<Vec<_>>(), ["x"]);
    assert_eq!((edit.user.as_deref(), edit.timestamp, edit.message.is_none()), (Some("b"), None, true));
    assert_eq!(Delete::parse_all(body.as_bytes()).unwrap()[0].uuid, edit.uuid);
    let nulls = json!([{"uuid": CANONICAL, "user": null, "timestamp": null, "message": null, "edited": null}]);
    let nothing = json!(["Field may not be null."]);
    let expected = json!({"0": {"user": nothing, "timestamp": nothing, "message": nothing, "edited": nothing}});
    assert_eq!(wrong(Edit::parse_all(nulls.to_string().as_bytes())), expected);
}

#[test]
fn settings_of_channels_are_told_without_the_channel() {
    let read = |body: Value| ChannelConfig::parse_all(body.to_string().as_bytes());
    assert!(read(json!({})).unwrap().is_empty());
    assert_eq!(read(json!({"": {}})).unwrap()[""], ChannelConfig::default());
    let both = json!({"a": {"history_size": "x"}, "b": {"history_size": "y", "store_frames": "z"}});
    assert_eq!(wrong(read(both)), json!({"history_size": ["Not a valid integer."]}));
    assert_eq!(wrong(read(json!({"a": []}))), json!({"_schema": ["Invalid input type."]}));
}

#[test]
fn info_is_about_all_channels_or_those_that_are_named() {
    let read = |body: Value| InfoConfig::parse(body.to_string().as_bytes());
    let named = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(InfoConfig::parse(b"").unwrap(), InfoConfig::default());
    assert_eq!(wrong(read(json!({}))), json!({"info": ["Missing data for required field."]}));
    assert_eq!(wrong(read(json!({"info": null}))), json!({"info": ["Field may not be null."]}));
    for (body, channels) in [
        (json!({"info": {}}), None),
        (json!({"info": {"channels": []}}), named(&[])),
        (json!({"info": {"channels": ["a"]}}), named(&["a"])),
        (json!({"channels": ["a"]}), named(&["a"])),
        (json!({"channels": []}), None),
        (json!({"channels": ["a"], "info": {}}), named(&["a"])),
        (json!({"channels": ["a"], "info": {"channels": []}}), named(&[])),
    ] {
        assert_eq!(read(body.clone()).unwrap().channels, channels, "{body}");
    }
    assert!(!read(json!({"channels": ["a"], "info": {"include_users": false}})).unwrap().include_users);
    assert_eq!(wrong(read(json!({"channels": "x"}))), json!({"channels": ["Not a valid list."]}));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,5}".prop_map(Value::from),
        Just(json!(CANONICAL)),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "username",
            "conn_id",
            "channels",
            "user_state",
            "state_public_keys",
            "channel_configs",
            "info",
            "user",
            "pm_users",
            "message",
            "timestamp",
            "uuid",
            "history_size",
            "store_history",
            "include_users",
            "edited",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,3}",
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Reads `body` as everything, and writes what came of it.
fn read_as_everything(body: &[u8]) {
    let query = std::str::from_utf8(body).ok();
    let _ = Connect::parse(body);
    let _ = Subscribe::parse(body, query);
    let _ = UserState::parse(body);
    let _ = ChannelConfig::parse_all(body);
    let _ = InfoConfig::parse(body);
    let _ = parse_disconnect(Some(body), None);
    let _ = parse_disconnect(None, query);
    for message in Message::parse_all(body).unwrap_or_default() {
        serde_json::from_str::<&RawValue>(&message.reply_json()).unwrap();
    }
    for edit in Edit::parse_all(body).unwrap_or_default() {
        serde_json::from_str::<&RawValue>(&edit.reply_json()).unwrap();
    }
    let _ = Delete::parse_all(body);
}

proptest! {
    #[test]
    fn any_json_is_read_or_refused(body in any_json()) {
        read_as_everything(body.to_string().as_bytes());
        read_as_everything(json!([body]).to_string().as_bytes());
        read_as_everything(json!([{"uuid": CANONICAL, "user": "a", "x": body}]).to_string().as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        read_as_everything(&body);
    }
}
