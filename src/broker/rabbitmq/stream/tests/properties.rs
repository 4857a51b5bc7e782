//! Properties of what is repaired, however it is made up.

use proptest::{collection::vec, prelude::*};

use super::*;

/// Frames as RabbitMQ sends them, and some that no broker would.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || vec(any::<u8>(), 0..40);
    let text = || vec(any::<u8>(), 0..20);
    let delivery = (text(), text(), text())
        .prop_map(|(tag, exchange, key)| method(60, 60, &[&short(&tag), &[0; 9], &short(&exchange), &short(&key)]));
    let entries = vec(prop_oneof![any_entry(), any::<i64>().prop_map(offset)], 0..5);
    let header = (any::<u16>(), text(), entries, bytes()).prop_map(|(flags, text, entries, rest)| {
        let before = if flags & 1 << 15 == 0 { vec![] } else { short(&text) };
        content(flags & !(1 << 14) | 1 << 13, &[&before, &counted(&entries.concat()), &rest])
    });
    prop_oneof![
        bytes().prop_map(|body| frame(BODY, &body)),
        Just(vec![8, 0, 0, 0, 0, 0, 0, 0xCE]),
        delivery,
        header,
        (any::<u16>(), bytes()).prop_map(|(flags, rest)| content(flags, &[&rest])),
        (any::<u16>(), any::<u16>(), bytes()).prop_map(|(class, id, rest)| method(class, id, &[&rest])),
        (select_method(), bytes()).prop_map(|((class, id), rest)| method(class, id, &[&rest])),
    ]
}

fn select_method() -> impl Strategy<Value = (u16, u16)> {
    prop::sample::select(&[(60, 60), (60, 50), (60, 71), (20, 40), (10, 50), (10, 60), (10, 10)][..])
}

fn any_entry() -> impl Strategy<Value = Vec<u8>> {
    let names = prop_oneof![
        vec(any::<u8>(), 0..5),
        Just(b"x-stream-offset".to_vec()),
        Just(b"x-high-templar-instance".to_vec())
    ];
    (names, prop::sample::select(&b"VtbBsuUIifDlLdTSxAFZ"[..]), vec(any::<u8>(), 0..12), any::<bool>()).prop_map(
        |(name, kind, value, is_counted)| entry(&name, kind, &if is_counted { counted(&value) } else { value }),
    )
}

fn any_value() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<f32>().prop_map(AMQPValue::Float),
        ".*".prop_map(|text| AMQPValue::LongString(text.into())),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(3, 10, 3, |inner| vec(inner, 0..3).prop_map(|values| AMQPValue::FieldArray(values.into())))
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zé]{0,9}", Just("x-stream-offset".to_owned()), Just("x-high-templar-instance".to_owned())]
}

proptest! {
    #[test]
    fn the_way_the_input_is_cut_changes_nothing(
        frames in vec(any_frame(), 0..8),
        input_bytes in vec(1..50_usize, 1..5),
        output_bytes in vec(1..50_usize, 1..5),
    ) {
        let input = frames.concat();
        prop_assert_eq!(repaired_in_pieces(&input, &input_bytes, &output_bytes), repaired(&input));
    }

    #[test]
    fn a_repaired_content_header_can_always_be_parsed(flags: u16, rest in vec(any::<u8>(), 0..300)) {
        properties(&repaired(&content(flags, &[&rest])));
    }

    #[test]
    fn a_repaired_table_of_headers_can_always_be_parsed(
        entries in vec(any_entry(), 0..9),
        length in prop::option::of(any::<u32>()),
        rest in vec(any::<u8>(), 0..9),
    ) {
        let mut table = counted(&entries.concat());
        if let Some(length) = length {
            table[..4].copy_from_slice(&length.to_be_bytes());
        }
        properties(&repaired(&content(1 << 13 | 1 << 12 | 1 << 7, &[&table, &rest])));
    }

    #[test]
    fn a_repaired_delivery_can_always_be_parsed(
        tag in vec(any::<u8>(), 0..255),
        exchange in vec(any::<u8>(), 0..255),
        key in vec(any::<u8>(), 0..255),
    ) {
        let bytes = method(60, 60, &[&short(&tag), &[0; 9], &short(&exchange), &short(&key)]);
        let frames = parsed(&repaired(&bytes));
        let [AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(delivery)))] = &frames[..] else {
            panic!("{frames:?}");
        };
        prop_assert_eq!(delivery.routing_key.as_str().len(), key.len());
        if let Ok(key) = str::from_utf8(&key) {
            prop_assert_eq!(delivery.routing_key.as_str(), key);
        }
    }

    #[test]
    fn valid_frames_keep_their_meaning(
        exchange in "[ -~é]{0,60}",
        key in "[ -~é]{0,60}",
        headers in vec((any_name(), any_value()), 0..6),
        message_id in prop::option::of("[a-zé]{0,60}"),
        content_type in prop::option::of("[a-zé]{0,60}"),
        priority in prop::option::of(any::<u8>()),
        body_size: u64,
        body in vec(any::<u8>(), 0..300),
    ) {
        let delivery = AMQPFrame::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(basic::Deliver {
            consumer_tag: "tag".into(),
            delivery_tag: body_size,
            redelivered: false,
            exchange: exchange.into(),
            routing_key: key.into(),
        })));
        let (mut given, mut expected) = (AMQPProperties::default(), AMQPProperties::default());
        let (mut all, mut kept) = (FieldTable::default(), FieldTable::default());
        for (name, value) in headers {
            all.insert(name.into(), value);
        }
        for (name, value) in all.inner() {
            let is_kept = match (name.as_str(), value) {
                ("x-stream-offset", value) => matches!(value, AMQPValue::LongLongInt(_) | AMQPValue::LongUInt(_)),
                ("x-high-templar-instance", value) => matches!(value, AMQPValue::LongString(_)),
                _ => false,
            };
            if is_kept {
                kept.insert(name.clone(), value.clone());
            }
        }
        given = given.with_headers(all);
        if !kept.inner().is_empty() {
            expected = expected.with_headers(kept);
        }
        if let Some(id) = message_id {
            given = given.with_message_id(id.clone().into());
            expected = expected.with_message_id(id.into());
        }
        if let Some(content_type) = content_type {
            given = given.with_content_type(content_type.into());
        }
        if let Some(priority) = priority {
            given = given.with_priority(priority);
        }
        let header = |properties| AMQPFrame::Header(1, AMQPContentHeader { class_id: 60, body_size, properties });
        let body = AMQPFrame::Body(1, body);
        let given = [&delivery, &header(given), &body, &AMQPFrame::Heartbeat].map(encoded).concat();
        prop_assert_eq!(parsed(&repaired(&given)), [delivery, header(expected), body, AMQPFrame::Heartbeat]);
    }
}
