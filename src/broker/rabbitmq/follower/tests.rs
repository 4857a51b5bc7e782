//! What the follower makes of streams that go on, are replaced, or have lost something.

use super::{
    super::{marker::Wanted, proof::PROVEN_KEYS},
    *,
};

const ME: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

/// What the entries come to: triggers by their offset, recalled ones negative, the rest by a letter.
fn told(deliveries: &[Delivery]) -> Vec<String> {
    let tell = |delivery: &Delivery| match delivery {
        Delivery::Trigger { offset, is_recalled, .. } => {
            format!("{}{}", if *is_recalled { "-" } else { "" }, offset.unwrap())
        }
        Delivery::Instance { offset, .. } => format!("i{}", offset.unwrap()),
        Delivery::Channelstream { offset, .. } => format!("s{}", offset.unwrap()),
        Delivery::Control { offset, is_recalled, .. } => {
            format!("{}c{}", if *is_recalled { "-" } else { "" }, offset.unwrap())
        }
        Delivery::Epoch { offset, .. } => format!("e{offset}"),
        Delivery::Restart { is_read_back } => (if *is_read_back { "read back" } else { "restart" }).to_owned(),
        Delivery::Recalled => "recalled".to_owned(),
        Delivery::Missed => "missed".to_owned(),
    };
    deliveries.iter().map(tell).collect()
}

/// A stream as one instance reads it, and the markers that it writes.
struct Log {
    follower: Follower,
    number: u64,
    session: u64,
}

impl Log {
    fn new() -> Self {
        Self { follower: Follower::new(ME), number: 0, session: 0 }
    }

    fn begin(&mut self) -> Start {
        self.session += 1;
        self.follower.begin(self.session)
    }

    fn entry(&mut self, offset: u64, key: &str, body: &[u8], writer: Option<Uuid>) -> Result<Vec<String>, Broken> {
        let mut deliveries = Vec::new();
        let body = Bytes::copy_from_slice(body);
        self.follower.take(Entry { offset, key, body, writer }, &mut deliveries)?;
        Ok(told(&deliveries))
    }

    fn trigger(&mut self, offset: u64) -> Result<Vec<String>, Broken> {
        self.entry(offset, "*", offset.to_string().as_bytes(), None)
    }

    fn own(&mut self, begins_epoch: bool, is_after_gap: bool) -> Marker {
        self.number += 1;
        let after = self.follower.own();
        let wanted =
            Wanted { request: 1, session: self.session, after, begins_epoch, is_after_gap, ..Wanted::default() };
        let wanted = Wanted { last_gap: self.follower.progress().gaps.last().copied(), ..wanted };
        Marker::new(ME, self.number, self.follower.progress(), &wanted)
    }

    fn marker(&mut self, offset: u64, marker: &Marker) -> Result<Vec<String>, Broken> {
        self.entry(offset, MARKER_KEY, &marker.body(), None)
    }
}

/// A marker of another instance that reads this log.
fn other(number: u64, after: Option<(u64, u64)>, begins_epoch: bool, is_after_gap: bool) -> Marker {
    let after = after.map(|(number, offset)| Read { number, offset });
    Marker::new(
        OTHER,
        number,
        Progress::default(),
        &Wanted { request: 1, session: 1, after, begins_epoch, is_after_gap, ..Wanted::default() },
    )
}

/// A log that has been read up to offset 12, with the last own marker at 10.
fn following() -> (Log, Marker) {
    let mut log = Log::new();
    assert_eq!(log.begin(), Start::ReadBack);
    assert_eq!(log.trigger(7), Ok(vec!["-7".to_owned()]));
    let first = log.own(false, false);
    assert_eq!(log.marker(9, &first), Ok(vec![]));
    assert!(!log.follower.is_proven, "a first marker names none before it");
    let own = log.own(true, false);
    assert_eq!(log.marker(10, &own), Ok(["e10", "recalled", "missed"].map(str::to_owned).to_vec()));
    assert!(log.follower.is_current());
    for offset in [11, 12] {
        assert_eq!(log.trigger(offset), Ok(vec![offset.to_string()]));
    }
    (log, own)
}

#[test]
fn a_new_session_goes_on_where_the_last_one_ended() {
    let (mut log, own) = following();
    assert_eq!(log.begin(), Start::At(10));
    assert!(log.follower.is_proving() && !log.follower.is_current());
    assert_eq!(log.marker(10, &own), Ok(vec![]));
    for known in [11, 12] {
        assert_eq!(log.trigger(known), Ok(vec![]));
    }
    assert_eq!(log.trigger(13), Ok(vec!["13".to_owned()]));
    // Another instance's marker says nothing of how far this one is.
    assert_eq!(log.marker(14, &other(1, None, false, false)), Ok(vec![]));
    assert_eq!(log.marker(15, &other(2, Some((1, 14)), true, false)), Ok(vec!["e15".to_owned()]));
    assert!(!log.follower.is_current());
    let own = log.own(false, false);
    assert_eq!(log.marker(16, &own), Ok(vec![]));
    assert!(log.follower.is_current());
    assert_eq!(log.begin(), Start::At(16));
}

#[test]
fn an_instance_that_was_just_started_begins_an_epoch_before_it_is_current() {
    let mut log = Log::new();
    log.begin();
    log.marker(3, &other(1, None, false, false)).unwrap();
    assert_eq!(log.marker(4, &other(2, Some((1, 3)), true, false)), Ok(vec!["e4".to_owned()]));
    let own = log.own(false, false);
    log.marker(5, &own).unwrap();
    let own = log.own(false, false);
    assert_eq!(log.marker(6, &own), Ok(vec![]));
    assert!(!log.follower.is_current(), "of what was lost while nobody was there, offsets may be used again");
    let own = log.own(true, false);
    assert_eq!(log.marker(7, &own), Ok(vec!["e7".to_owned(), "recalled".to_owned()]));
    assert!(log.follower.is_current());
}

#[test]
fn another_stream_by_the_same_name_is_noticed() {
    let (mut log, own) = following();
    for wrong in [9, 11] {
        log.begin();
        assert_eq!(log.marker(wrong, &own), Err(Broken::Replaced), "at another place");
    }
    log.begin();
    let another = log.own(false, false);
    assert_eq!(log.marker(10, &another), Err(Broken::Replaced), "another marker");
    log.begin();
    assert_eq!(log.trigger(10), Err(Broken::Replaced), "a trigger");
    let mut deliveries = Vec::new();
    log.follower.start_over(&mut deliveries);
    assert_eq!(told(&deliveries), ["read back"]);
    assert_eq!(log.begin(), Start::ReadBack);
    assert_eq!(log.trigger(0), Ok(vec!["-0".to_owned()]));
    let own = log.own(false, false);
    assert_eq!(log.marker(1, &own), Ok(vec![]));
    let own = log.own(true, false);
    assert_eq!(log.marker(2, &own), Ok(["e2", "recalled", "missed"].map(str::to_owned).to_vec()));
    assert_eq!(log.trigger(3), Ok(vec!["3".to_owned()]));
}

#[test]
fn a_lost_tail_is_noticed_at_the_first_entry_that_was_not_there() {
    // The stream ends behind 11, and another entry takes the place of 12.
    let (mut log, own) = following();
    log.begin();
    log.marker(10, &own).unwrap();
    log.trigger(11).unwrap();
    assert_eq!(log.entry(12, "*", b"another", None), Err(Broken::LostTail));
    // The session's own marker takes it.
    let (mut log, own) = following();
    log.begin();
    log.marker(10, &own).unwrap();
    log.trigger(11).unwrap();
    let next = log.own(false, false);
    assert_eq!(log.marker(12, &next), Err(Broken::LostTail));
    // The stream had used 12 itself, and has an entry there now.
    let (mut log, own) = following();
    log.trigger(14).unwrap();
    log.begin();
    for (offset, is_known) in [(11, true), (12, true), (13, false)] {
        if offset == 11 {
            log.marker(10, &own).unwrap();
        }
        assert_eq!(log.trigger(offset).is_ok(), is_known, "{offset}");
    }
}

#[test]
fn what_was_dropped_is_missed_but_not_an_offset_that_the_stream_has_used_itself() {
    let (mut log, _) = following();
    assert_eq!(log.trigger(14), Ok(vec!["14".to_owned()]));
    let jump = vec!["restart".to_owned(), "missed".to_owned(), "17".to_owned()];
    assert_eq!(log.trigger(17), Ok(jump));
    assert!(!log.follower.has_epoch(), "an epoch is needed");
    // The same behind a new session.
    let (mut log, own) = following();
    log.begin();
    assert_eq!(log.marker(10, &own), Ok(vec![]));
    assert_eq!(log.trigger(15).unwrap()[..2], ["restart", "missed"]);
}

#[test]
fn a_marker_behind_a_gap_begins_anew_for_all_instances() {
    let (mut log, _) = following();
    log.marker(13, &other(1, None, false, false)).unwrap();
    let marked = log.marker(14, &other(2, Some((1, 13)), true, true));
    assert_eq!(marked, Ok(["restart", "e14", "missed"].map(str::to_owned).to_vec()));
    assert_eq!(log.trigger(15), Ok(vec!["15".to_owned()]));
    // No client has been given anything yet: it is told once.
    let mut log = Log::new();
    log.begin();
    log.trigger(2).unwrap();
    log.marker(3, &other(1, None, false, false)).unwrap();
    let marked = log.marker(4, &other(2, Some((1, 3)), true, true));
    assert_eq!(marked, Ok(vec!["restart".to_owned(), "e4".to_owned()]));
    let own = log.own(false, false);
    log.marker(5, &own).unwrap();
    let own = log.own(true, true);
    assert_eq!(log.marker(6, &own), Ok(["restart", "e6", "recalled", "missed"].map(str::to_owned).to_vec()));
}

#[test]
fn markers_and_messages_of_another_clusters_instances_count_for_nothing() {
    let (mut log, _) = following();
    // Copies: where they come from, marker 1 stands at 40.
    log.marker(13, &other(1, None, false, false)).unwrap();
    assert_eq!(log.marker(14, &other(2, Some((1, 40)), true, true)), Ok(vec![]));
    assert_eq!(log.entry(15, "instance", b"{}", Some(OTHER)), Ok(vec![]));
    assert_eq!(log.entry(16, "channelstream", b"{}", None), Ok(vec![]));
    assert_eq!(log.follower.take_foreign(), 2);
    // Triggers and control messages are what federation is for.
    assert_eq!(log.trigger(17), Ok(vec!["17".to_owned()]));
    // The same from an instance that reads this log.
    log.marker(18, &other(3, None, false, false)).unwrap();
    log.marker(19, &other(4, Some((3, 18)), false, false)).unwrap();
    assert_eq!(log.entry(20, "instance", b"{}", Some(OTHER)), Ok(vec!["i20".to_owned()]));
    assert_eq!(log.entry(21, "channelstream", b"{}", Some(ME)), Ok(vec!["s21".to_owned()]));
}

#[test]
fn control_messages_come_in_their_place() {
    let mut log = Log::new();
    log.begin();
    assert_eq!(log.entry(3, "control", b"{}", None), Ok(vec!["-c3".to_owned()]));
    let (mut log, _) = following();
    assert_eq!(log.entry(13, "control", b"{}", None), Ok(vec!["c13".to_owned()]));
    assert_eq!(log.trigger(14), Ok(vec!["14".to_owned()]));
}

#[test]
fn a_start_that_is_interrupted_goes_on_where_it_was() {
    let mut log = Log::new();
    assert_eq!(log.begin(), Start::ReadBack);
    for offset in [3, 4] {
        assert_eq!(log.trigger(offset), Ok(vec![format!("-{offset}")]));
    }
    assert_eq!(log.begin(), Start::At(3));
    for offset in [3, 4] {
        assert_eq!(log.trigger(offset), Ok(vec![]));
    }
    assert_eq!(log.trigger(5), Ok(vec!["-5".to_owned()]));
    // Nothing has come yet: it is read back again.
    let mut log = Log::new();
    log.begin();
    assert_eq!(log.begin(), Start::ReadBack);
}

#[test]
fn the_first_start_of_a_log_is_no_gap() {
    let mut log = Log::new();
    log.begin();
    let own = log.own(false, false);
    log.marker(0, &own).unwrap();
    let own = log.own(true, false);
    assert_eq!(log.marker(1, &own), Ok(vec!["e1".to_owned(), "recalled".to_owned()]));
    assert!(log.follower.is_current());
}

#[test]
fn a_marker_that_was_accepted_and_has_not_come_is_lost() {
    let (mut log, _) = following(); // markers 1 and 2 have come
    let mut accepted = BTreeSet::from([1, 2]);
    assert!(!log.follower.has_lost(&mut accepted, 2));
    accepted.extend([3, 4, 5]);
    log.number = 3;
    let fourth = log.own(false, false);
    log.marker(13, &fourth).unwrap();
    assert!(log.follower.has_lost(&mut accepted, 4), "the third one");
    assert_eq!(accepted, BTreeSet::from([5]));
    let fifth = log.own(false, false);
    log.marker(14, &fifth).unwrap();
    assert!(!log.follower.has_lost(&mut accepted, 5));
}

#[test]
fn an_entry_that_cannot_be_read_is_passed_over_and_told() {
    let (mut log, _) = following();
    let mut deliveries = Vec::new();
    assert_eq!(log.follower.skip(&mut deliveries), Some(13));
    assert_eq!(told(&deliveries), ["restart", "missed"]);
    assert_eq!(log.begin(), Start::At(14));
    assert_eq!(log.trigger(14), Ok(vec!["14".to_owned()]));
    // Before anything was read.
    let mut log = Log::new();
    log.begin();
    deliveries.clear();
    assert_eq!(log.follower.skip(&mut deliveries), None);
    assert_eq!(told(&deliveries), ["restart"]);
    assert_eq!(log.begin(), Start::Next);
}

#[test]
fn what_is_kept_for_the_proof_is_bounded() {
    let mut log = Log::new();
    log.begin();
    for offset in 0..3 * DIGESTS as u64 {
        log.trigger(offset).unwrap();
        assert!(log.follower.unanchored() <= DIGESTS);
    }
    let Start::At(anchor) = log.begin() else { panic!("an anchor") };
    assert!(anchor >= 2 * DIGESTS as u64);
    assert_eq!(log.trigger(anchor), Ok(vec![]));
}

#[test]
fn an_end_of_the_log_that_another_instance_had_read_is_told_by_its_next_marker() {
    let reading = |number, after: (u64, u64), read, gap: Option<u64>| {
        let after = Some(Read { number: after.0, offset: after.1 });
        let gaps = gap.map(|offset| Gap { offset, instance: OTHER, number: 3 }).into_iter().collect();
        let progress = Progress { from: 1, read: Some(read), gaps };
        Marker::new(OTHER, number, progress, &Wanted { after, ..Wanted::default() })
    };
    // This one was started after the loss, and has never seen what stood there.
    let (mut log, _) = following();
    log.marker(13, &other(1, None, false, false)).unwrap();
    assert_eq!(log.marker(14, &reading(2, (1, 13), 13, None)), Ok(vec![]));
    let told = |offset| Ok(["restart".to_owned(), format!("e{offset}"), "missed".to_owned()].to_vec());
    assert_eq!(log.marker(15, &reading(3, (2, 14), 40, None)), told(15));
    assert_eq!(log.marker(16, &reading(4, (2, 14), 41, None)), Ok(vec![]), "the same loss");
    assert_eq!(log.trigger(17), Ok(vec!["17".to_owned()]));
    assert_eq!(log.marker(18, &reading(5, (2, 14), 40, Some(15))), told(18), "another one");
    // An instance that reads it back accepts no earlier position either.
    let mut log = Log::new();
    log.begin();
    log.marker(13, &other(1, None, false, false)).unwrap();
    log.marker(14, &reading(2, (1, 13), 13, None)).unwrap();
    let read_back = log.marker(15, &reading(3, (2, 14), 40, None));
    assert_eq!(read_back, Ok(vec!["restart".to_owned(), "e15".to_owned()]));
}

#[test]
fn a_gap_that_was_told_before_the_log_lost_its_end_tells_nothing_of_that() {
    let told = |log: &mut Log, offset, marker: &Marker| {
        let entry = Entry { offset, key: MARKER_KEY, body: marker.body().into(), writer: None };
        log.follower.take(entry, &mut Vec::new()).unwrap().told_gap
    };
    let (mut log, _) = following();
    log.marker(13, &other(1, None, false, false)).unwrap();
    let old = other(2, Some((1, 13)), true, true);
    assert!(told(&mut log, 14, &old));
    log.follower.start_over(&mut Vec::new());
    log.begin();
    log.marker(13, &other(1, None, false, false)).unwrap();
    assert!(!told(&mut log, 14, &old));
    let gaps = vec![Gap { offset: 14, instance: OTHER, number: 2 }];
    let new = Marker { progress: Progress { gaps, ..Progress::default() }, ..other(3, Some((2, 14)), true, true) };
    assert!(told(&mut log, 16, &new));
}

#[test]
fn an_end_that_was_lost_is_told_by_a_witness_that_was_started_too_late_to_know_of_an_older_gap() {
    let (mut log, _) = following();
    let third = Uuid::from_u128(3);
    let by = |instance, number, after: Option<(u64, u64)>, progress, is_after_gap| {
        let after = after.map(|(number, offset)| Read { number, offset });
        Marker::new(instance, number, progress, &Wanted { after, is_after_gap, ..Wanted::default() })
    };
    log.marker(13, &by(third, 1, None, Progress::default(), false)).unwrap();
    let told = log.marker(14, &by(third, 2, Some((1, 13)), Progress::default(), true)).unwrap();
    assert_eq!(told, ["restart", "e14", "missed"], "the older gap");
    let read = |read| Progress { from: 15, read: Some(read), gaps: Vec::new() };
    log.marker(15, &by(OTHER, 1, None, Progress::default(), false)).unwrap();
    log.marker(16, &by(OTHER, 2, Some((1, 15)), read(15), false)).unwrap();
    let witness = by(OTHER, 3, Some((2, 16)), read(40), false);
    assert_eq!(log.marker(17, &witness).unwrap(), ["restart", "e17", "missed"]);
}

#[test]
fn an_instance_whose_log_was_replaced_hears_in_the_new_one_that_clients_were_told() {
    let (mut log, _) = following();
    log.marker(13, &other(1, None, false, false)).unwrap();
    log.marker(14, &other(2, Some((1, 13)), true, true)).unwrap();
    log.follower.start_over(&mut Vec::new());
    log.begin();
    let own = log.own(false, false);
    log.marker(0, &own).unwrap();
    let own = log.own(true, true);
    let mut deliveries = Vec::new();
    let entry = Entry { offset: 1, key: MARKER_KEY, body: own.body().into(), writer: None };
    assert!(log.follower.take(entry, &mut deliveries).unwrap().told_gap);
    assert_eq!(told(&deliveries), ["restart", "e1", "recalled", "missed"]);
}

#[test]
fn markers_that_have_all_come_are_not_lost_however_many_there_are() {
    let (mut log, _) = following(); // markers 1 and 2 have come
    let mut accepted: BTreeSet<u64> = (3..=22).collect();
    for offset in 13..33 {
        let own = log.own(false, false);
        log.marker(offset, &own).unwrap();
    }
    assert!(!log.follower.has_lost(&mut accepted, 22));
}

#[test]
fn a_marker_without_the_proofs_that_it_names_shows_that_a_binding_is_missing() {
    let (mut log, _) = following();
    let mut offset = 13;
    let mut proven = |log: &mut Log, keys: &[&str]| {
        let marker = Marker { has_proofs: true, ..log.own(false, false) };
        let proof = Proof { instance: ME, number: marker.number };
        for key in keys {
            assert_eq!(log.entry(offset, key, &proof.body(), None), Ok(vec![]), "it is for nobody");
            offset += 1;
        }
        let entry = Entry { offset, key: MARKER_KEY, body: marker.body().into(), writer: None };
        offset += 1;
        log.follower.take(entry, &mut Vec::new()).unwrap().is_unproven
    };
    assert!(!proven(&mut log, &PROVEN_KEYS));
    assert!(proven(&mut log, &PROVEN_KEYS[1..]), "that of triggers");
    assert!(!proven(&mut log, &PROVEN_KEYS));
    assert!(proven(&mut log, &[]));
}
