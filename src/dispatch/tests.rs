//! What a trigger costs those who have nothing to do with it.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tokio::task::yield_now;
use uuid::Uuid;

use super::*;
use crate::{
    broker::{self, Kind},
    config,
    connection::simulated,
    hub::{Content, Encoder, Wire},
    protocol::RequestId,
    room::Numbers,
};

/// Takes everything.
struct Nowhere;

impl Wire for Nowhere {
    fn transport(&self) -> &'static str {
        "none"
    }

    fn encoded_len(&self, _: Content<'_>) -> usize {
        1
    }

    fn encode<'a>(&self, _: Content<'a>, out: &mut Encoder<'a, '_>) {
        out.put(b"x");
    }

    fn try_write(&self, slices: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
}

fn key(room: &Value) -> RoomKey {
    RoomKey::new(&serde_json::value::to_raw_value(room).unwrap(), Numbers::ByValue).unwrap()
}

/// A room of 12 keys, with wildcards where `number` has a bit.
fn room(number: u32) -> Value {
    let value = |bit: u32| if number & 1 << bit != 0 { json!("*") } else { json!(number) };
    (0..12).map(|bit| (format!("key{bit}"), value(bit))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn a_trigger_to_rooms_with_many_combinations_of_wildcards_lets_others_have_their_turn() {
    const MASKS: u32 = 4000;
    const ROOMS: u64 = 5;
    let connections = simulated::connections(&[], config::History::default());
    let (hub, metrics) = (connections.hub.clone(), connections.metrics.clone());
    let outbox = Arc::new(Outbox::new(Uuid::nil(), Nowhere, 1 << 20, metrics.clone()));
    let outbox: Arc<Outbox> = outbox;
    let seats: Vec<_> = (0..MASKS).map(|n| hub.join(&key(&room(n)), &outbox, &RequestId::none(), || {})).collect();
    let stop = CancellationToken::new();
    let broker = config::Broker::Embedded(config::Embedded::default());
    let (publisher, consumer, _) = broker::open(&broker, &metrics, stop.clone()).unwrap();
    let dispatch =
        Dispatch::new(connections, None, None, Triggers { id_ttl: Duration::from_secs(60), limit_bytes: 16 << 20 });
    let turns = Arc::new(AtomicU64::new(0));
    let others = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        }
    });
    let rooms: Vec<_> = (0..ROOMS).map(|_| room(1 << 13)).collect();
    publisher.publish(Kind::Trigger, json!({"rooms": rooms, "data": 1}).to_string().into()).await.unwrap();
    let before = turns.load(Ordering::Relaxed);
    stop.cancel();
    dispatch.run(consumer, stop.clone()).await.unwrap();
    let turns = turns.load(Ordering::Relaxed) - before;
    others.abort();
    let look_ups = metrics.room_look_ups.get();
    assert_eq!((metrics.triggers.get(), look_ups), (1, ROOMS * u64::from(MASKS)));
    assert!(turns >= look_ups / 2000, "{turns} turns within {look_ups} look-ups");
    hub.leave(seats, || {});
}

#[tokio::test]
async fn a_trigger_with_wildcards_of_its_own_looks_up_no_combination_twice() {
    const MASKS: u32 = 4000;
    let connections = simulated::connections(&[], config::History::default());
    let hub = connections.hub.clone();
    let outbox: Arc<Outbox> = Arc::new(Outbox::new(Uuid::nil(), Nowhere, 1 << 20, connections.metrics.clone()));
    let seats: Vec<_> = (0..MASKS).map(|n| hub.join(&key(&room(n)), &outbox, &RequestId::none(), || {})).collect();
    for (wildcards, most) in [(0xFFF, 1), (0xFF8, 8), (0xFC0, 64)] {
        let rooms = [key(&room(wildcards))];
        let mut search = hub.search(&rooms);
        search.step(u64::MAX);
        assert!(search.look_ups() <= most, "{} look-ups with {wildcards:x}", search.look_ups());
    }
    hub.leave(seats, || {});
}
