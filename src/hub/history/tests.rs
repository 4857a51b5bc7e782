//! The index against a naive walk, and what a search looks at.

use proptest::prelude::*;
use serde_json::{Value, json, value::to_raw_value};

use super::*;
use crate::{
    hub::WildcardDispatch,
    room::{Limits, RoomKey, Rules},
};

const MODES: [WildcardDispatch; 3] = [WildcardDispatch::Both, WildcardDispatch::Subscriptions, WildcardDispatch::Exact];

fn key(room: &Value, dispatch: WildcardDispatch) -> RoomKey {
    let rules = Rules { numbers: dispatch.numbers(), limits: Limits::default() };
    RoomKey::new(&to_raw_value(room).unwrap(), rules).unwrap()
}

/// A history and its matching, with the rooms of all that was recorded.
struct World {
    history: History,
    matching: Matching,
    dispatch: WildcardDispatch,
    recorded: Vec<Vec<RoomKey>>,
    now: Instant,
}

#[test]
fn epochs_are_bounded_where_nothing_is_published() {
    let now = Instant::now();
    let mut history = History::new(config::History::default());
    for offset in 1..3000 {
        history.begin(Epoch::from_low_bits(offset), offset, now);
    }
    assert_eq!(history.epochs.len(), EPOCHS);
    assert_eq!(history.find(Position { epoch: Epoch::from_low_bits(2999), offset: 2999 }), Found::After(0));
    assert_eq!(history.find(Position { epoch: Epoch::from_low_bits(7), offset: 7 }), Found::Unknown);
}

impl World {
    fn new(dispatch: WildcardDispatch, limit_bytes: usize) -> Self {
        let now = Instant::now();
        let mut history = History::new(config::History { limit_bytes, ..config::History::default() });
        history.begin("00000000000e:0".parse::<Position>().unwrap().epoch, 0, now);
        Self { history, matching: Matching::new(dispatch), dispatch, recorded: Vec::new(), now }
    }

    fn record(&mut self, rooms: &[Value]) {
        let rooms: Vec<_> = rooms.iter().map(|room| key(room, self.dispatch)).collect();
        self.recorded.push(rooms.clone());
        let publication = Publication::new(rooms, "{}".into(), Vec::new());
        self.history.record(publication, Some(self.recorded.len() as u64), self.now);
    }

    /// The numbers of the publications after `number` for `room`, and the entries that were looked at.
    fn find(&mut self, room: &RoomKey, number: u64) -> (Vec<u64>, u64) {
        let terms = self.matching.terms(room);
        let (mut reached, mut found, mut work) = (number, Vec::new(), 0);
        loop {
            let query = Query { room, terms: &terms, matching: &self.matching, after: reached };
            let (segment, places, is_last) = match self.history.next(reached, self.now) {
                Next::Dropped => panic!("{reached} is dropped"),
                Next::Full(segment) => {
                    let places = segment.find(&query, &mut work);
                    (segment, places, false)
                }
                Next::Last(segment) => {
                    let places = segment.walk(&query, &mut work);
                    (Arc::new(segment.copy()), places, true)
                }
            };
            found.extend(places.iter().map(|place| segment.get(*place).unwrap().number));
            if is_last {
                return (found, work);
            }
            reached = segment.last_number();
        }
    }

    fn walked(&self, room: &RoomKey, number: u64) -> Vec<u64> {
        let publications = (1..).zip(&self.recorded).skip(usize::try_from(number).unwrap());
        publications.flat_map(|(n, rooms)| vec![n; self.dispatch.deliveries(rooms, room)]).collect()
    }
}

fn room() -> impl Strategy<Value = Value> {
    let value = prop_oneof![2 => Just(json!("*")), 6 => (0..3).prop_map(Value::from), 1 => Just(json!("x"))];
    prop::collection::btree_map("[abc]", value, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn publications() -> impl Strategy<Value = Vec<Vec<Value>>> {
    prop::collection::vec(prop::collection::vec(room(), 0..4), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_index_finds_exactly_what_a_walk_finds(
        publications in publications(),
        rooms in prop::collection::vec((room(), any::<prop::sample::Index>()), 1..20),
        looks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..8),
        mode in 0..3_usize,
    ) {
        let mut world = World::new(MODES[mode], 64 << 20);
        let looks: Vec<_> = looks
            .iter()
            .map(|(at, from)| (at.index(publications.len() + 1), from.index(publications.len() + 1) as u64))
            .collect();
        for (at, rooms) in publications.iter().enumerate() {
            // A search in between leaves segments of any size.
            for (_, from) in looks.iter().filter(|(look, from)| *look == at && *from <= at as u64) {
                world.history.next(*from, world.now);
            }
            world.record(rooms);
        }
        for (room, from) in &rooms {
            let room = key(room, MODES[mode]);
            let from = from.index(publications.len() + 1) as u64;
            prop_assert_eq!(world.find(&room, from).0, world.walked(&room, from), "{:?} after {}", room, from);
        }
    }
}

/// What one search looks at when all that can be made ready is.
fn cost(publications: usize, published: impl Fn(usize) -> Value, wanted: &Value) -> (usize, u64) {
    let mut world = World::new(WildcardDispatch::Both, 512 << 20);
    (0..publications).for_each(|n| world.record(&[published(n)]));
    let wanted = key(wanted, WildcardDispatch::Both);
    world.find(&wanted, 0);
    let (found, work) = world.find(&wanted, 0);
    (found.len(), work)
}

#[test]
fn what_does_not_match_is_not_walked() {
    const KEPT: usize = 40_000;
    let segments = KEPT.div_ceil(2048) as u64 + 16;
    let published = |n: usize| json!({"target": "message", "customer": n, "kind": n % 2});
    // Nothing matches: a look-up or two for each segment.
    for wanted in [
        json!({"target": "message", "customer": "nobody", "kind": "*"}),
        json!({"target": "other", "customer": "*", "kind": "*"}),
        json!({"target": "*", "customer": "*", "other": "*"}),
    ] {
        let (found, work) = cost(KEPT, published, &wanted);
        assert_eq!(found, 0);
        assert!(work <= 3 * segments, "{work} entries for {wanted} in {KEPT} publications");
    }
    // One does.
    let (found, work) = cost(KEPT, published, &json!({"target": "*", "customer": 7, "kind": "*"}));
    assert!(found == 1 && work <= 4 * segments, "{work} entries");
    // Each value is everywhere, and never together: 64 entries at a time.
    let crossed = |n: usize| json!({"a": n % 2, "b": n % 2, "c": n});
    let (found, work) = cost(KEPT, crossed, &json!({"a": 0, "b": 1, "c": "*"}));
    assert!(found == 0 && work <= (KEPT / 64 * 2) as u64 + 4 * segments, "{work} entries");
    // All do.
    let (found, work) = cost(KEPT, published, &json!({"target": "message", "customer": "*", "kind": "*"}));
    assert!(found == KEPT && work <= KEPT as u64 * 11 / 10, "{work} entries for {found} that match");
}

#[test]
fn however_often_somebody_looks_little_is_read_under_the_lock_and_there_are_few_segments() {
    let mut world = World::new(WildcardDispatch::Both, 64 << 20);
    for n in 0..20_000_u64 {
        world.record(&[json!({"a": n}), json!({"b": n})]);
        if n % 5 == 0 {
            let room = key(&json!({"a": n, "b": "*"}), WildcardDispatch::Both);
            let (terms, after) = (world.matching.terms(&room), n.saturating_sub(40));
            let query = Query { room: &room, terms: &terms, matching: &world.matching, after };
            if let Next::Last(segment) = world.history.next(after, world.now) {
                let mut work = 0;
                segment.walk(&query, &mut work);
                assert!(work <= 64, "{work} rooms looked at under the lock");
            }
        }
    }
    assert!(world.history.full.len() <= 40, "{} segments", world.history.full.len());
}

#[test]
fn what_is_dropped_is_told_and_the_limit_holds() {
    let mut world = World::new(WildcardDispatch::Both, 64 << 10);
    for n in 0..10_000_u64 {
        world.record(&[json!({"a": n})]);
        assert!(world.history.bytes() <= (64 << 10) * 9 / 8, "{} bytes", world.history.bytes());
        if n % 7 == 0 {
            world.history.next(n.saturating_sub(30), world.now);
        }
    }
    assert!(matches!(world.history.next(0, world.now), Next::Dropped));
    let room = key(&json!({"a": "*"}), WildcardDispatch::Both);
    let floor = world.history.floor_number;
    assert!(floor > 9_000, "{floor}");
    assert_eq!(world.find(&room, floor).0, world.walked(&room, floor));
}
