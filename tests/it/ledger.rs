//! The parts of tests/ledger that decide: what is wrong, which clients have to be notified, and which faults there are.

use std::{collections::BTreeSet, time::Duration};

#[path = "../ledger/gaps.rs"]
mod gaps;
#[path = "../ledger/options.rs"]
#[expect(dead_code, reason = "tests/ledger uses the rest")]
mod options;
#[path = "../ledger/page.rs"]
#[expect(dead_code, reason = "tests/ledger uses the rest")]
mod page;
#[path = "../ledger/schedule.rs"]
mod schedule;

use gaps::Gaps;
use options::Wanted;
use page::{Entry, Numbers, Page, Wrong};
use schedule::{DEFAULT_SEED, DEFAULT_TIME, Fault, Kinds, Planned, Schedule};

fn entry(serial: u64, numbers: &[(usize, u64)]) -> Entry<'static> {
    Entry { publisher: 1, serial, numbers: numbers.to_vec(), size: 2, padding: "xx" }
}

/// Numbers of the publisher of [`entry`].
fn accepted(numbers: [u64; page::ROOMS]) -> Numbers {
    let mut accepted = Numbers::default();
    accepted[1] = numbers;
    accepted
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_ledger_notices_what_is_missing_or_comes_twice_or_out_of_order() {
    let mut page = Page::new(None);
    assert_eq!(page.enter(&entry(1, &[(0, 1), (2, 1)])), Ok(()));
    assert_eq!(page.enter(&entry(2, &[(2, 2)])), Ok(()));
    assert_eq!(page.enter(&entry(2, &[(2, 2)])), Err(Wrong::Again { last: 2 }));
    assert_eq!(page.enter(&entry(5, &[(2, 5)])), Err(Wrong::Missing { from: 3, until: 5 }));
    assert_eq!(page.enter(&entry(4, &[(0, 2)])), Err(Wrong::Disorder { last: 5 }));
    assert_eq!(page.enter(&Entry { padding: "x", ..entry(6, &[(0, 3)]) }), Err(Wrong::Garbled));
    let mut page = Page::new(Some(0));
    assert_eq!(page.enter(&entry(1, &[(2, 1)])), Err(Wrong::Garbled), "another room's");
}

#[test]
fn a_notice_excuses_what_was_accepted_before_it_and_nothing_else() {
    let notified = || {
        let mut page = Page::new(Some(0));
        for number in 1..=5 {
            assert_eq!(page.enter(&entry(number, &[(0, number)])), Ok(()));
        }
        page.excuse(seconds(3), &accepted([8, 0, 0, 0, 0, 0]));
        assert_eq!(page.last_notice(), Some(seconds(3)));
        page
    };
    // One more than was accepted may have been delivered before the notice.
    for first in [1, 5, 6, 8, 10] {
        let mut page = notified();
        assert_eq!(page.enter(&entry(first, &[(0, first)])), Ok(()), "{first} comes first");
        let skipped = page.enter(&entry(first + 2, &[(0, first + 2)]));
        assert_eq!(skipped, Err(Wrong::Missing { from: first + 1, until: first + 2 }), "it is excused once");
    }
    assert_eq!(notified().enter(&entry(11, &[(0, 11)])), Err(Wrong::Missing { from: 10, until: 11 }));
}

#[test]
fn the_ledger_knows_what_has_not_come_yet() {
    let mut page = Page::new(Some(0));
    let accepted_now = accepted([3, 7, 0, 0, 0, 0]);
    assert_eq!(page.behind(&accepted_now), 3, "the other room does not count");
    page.enter(&entry(1, &[(0, 1)])).unwrap();
    assert_eq!(page.behind(&accepted_now), 2);
    page.excuse(seconds(1), &accepted_now);
    assert_eq!(page.behind(&accepted_now), 0);
    assert_eq!(page.behind(&accepted([6, 7, 0, 0, 0, 0])), 2, "one may have been in flight");
}

#[test]
fn what_is_wrong_in_a_gap_counts_until_the_client_is_notified() {
    let mut page = Page::new(None);
    page.suspend("missing".to_owned());
    assert_eq!(page.suspended(), ["missing"]);
    page.excuse(seconds(1), &Numbers::default());
    assert!(page.suspended().is_empty());
}

#[test]
fn a_notice_is_excused_in_a_gap_and_shortly_after_it() {
    let mut gaps = Gaps::default();
    assert!(!gaps.excuse(None, seconds(9)));
    let gap = gaps.open("a fault", seconds(10));
    for (last_notice, now) in [(None, 10), (Some(9), 11), (Some(10), 500)] {
        assert!(gaps.excuse(last_notice.map(seconds), seconds(now)), "{last_notice:?} {now}");
    }
    gaps.close(gap, seconds(20));
    // One that has had its notice may have another one while that is on its way; another one has to come sooner or later.
    for (last_notice, now, is_excused) in [
        (Some(12), 22, true),
        (Some(12), 24, false),
        (Some(22), 24, true), // a client that reads several notices at once, which have waited for it
        (Some(9), 24, true),
        (None, 50, true),
        (Some(9), 51, false),
        (Some(9), 9, false),
    ] {
        assert_eq!(gaps.excuse(last_notice.map(seconds), seconds(now)), is_excused, "{last_notice:?} {now}");
    }
}

#[test]
fn every_client_of_a_room_that_has_lost_something_needs_a_notice() {
    let mut gaps = Gaps::default();
    gaps.open("one that loses nothing", seconds(1));
    let gap = gaps.open("a fault", seconds(10));
    // One of each publisher may have been in flight when the copy was made.
    assert_eq!(gaps.lose(gap, &accepted([5, 5, 5, 0, 0, 0]), &accepted([6, 5, 9, 0, 0, 0])), 3);
    assert_eq!(gaps.unnotified(None, Some(0)), None);
    assert_eq!(gaps.unnotified(Some(seconds(9)), Some(2)), Some("a fault"));
    assert_eq!(gaps.unnotified(None, None), Some("a fault"), "all rooms");
    assert_eq!(gaps.unnotified(Some(seconds(10)), Some(2)), None);
    let other = gaps.open("another fault", seconds(30));
    gaps.lose(other, &accepted([0; 6]), &accepted([0, 2, 0, 0, 0, 0]));
    assert_eq!(gaps.unnotified(Some(seconds(10)), Some(1)), Some("another fault"));
    assert_eq!(gaps.unnotified(Some(seconds(10)), Some(2)), None);
}

fn lanes(seed: u64, time: u64, kinds: &Kinds) -> [Vec<Planned>; 4] {
    Schedule::new(seed, seconds(time), kinds).lanes
}

/// The kinds of faults.
fn words(lanes: &[Vec<Planned>]) -> BTreeSet<&'static str> {
    lanes.iter().flatten().map(|planned| planned.fault.word()).collect()
}

#[test]
fn a_seed_makes_the_same_faults_and_a_longer_run_begins_as_a_shorter_one() {
    for kinds in [Kinds::Classic, Kinds::All] {
        assert_eq!(lanes(7, 130, &kinds), lanes(7, 130, &kinds));
        assert_ne!(lanes(7, 130, &kinds), lanes(8, 130, &kinds));
        for (short, long) in lanes(7, 130, &kinds).iter().zip(&lanes(7, 600, &kinds)) {
            assert_eq!(short[..], long[..short.len()]);
        }
    }
}

#[test]
fn every_kind_of_fault_comes_in_the_default_time() {
    for seed in 0..200 {
        for (kinds, count) in [(Kinds::Classic, 7), (Kinds::All, 14)] {
            let words = words(&lanes(seed, DEFAULT_TIME.as_secs(), &kinds));
            assert_eq!(words.len(), count, "seed {seed}: {words:?}");
        }
    }
}

#[test]
fn the_default_seed_has_each_fault_in_the_way_that_is_hardest_to_notice() {
    let lanes = lanes(DEFAULT_SEED, DEFAULT_TIME.as_secs(), &Kinds::All);
    let faults: Vec<Fault> = lanes.iter().flatten().map(|planned| planned.fault).collect();
    let has = |wanted: fn(&Fault) -> bool| assert!(faults.iter().any(wanted), "{faults:?}");
    has(|fault| matches!(fault, Fault::LoseTail { is_killed: true, .. }));
    has(|fault| matches!(fault, Fault::RedeclareExchange { is_quiet: true }));
    for is_wanted in [false, true] {
        let is_there = |fault: &&Fault| matches!(fault, Fault::BlockLog { is_stopped, .. } if *is_stopped == is_wanted);
        assert!(faults.iter().any(|fault| is_there(&fault)), "{faults:?}");
    }
}

#[test]
fn faults_can_be_chosen_by_name() {
    let named = |name: &str| words(&lanes(3, 130, &Kinds::parse(name).unwrap())).into_iter().collect::<Vec<_>>();
    assert_eq!(named("memory"), ["memory alarm"]);
    assert_eq!(named("instance,memory"), ["instance killed", "instance stopped", "memory alarm"]);
    assert_eq!(Kinds::parse("classic"), Ok(Kinds::Classic));
    assert_eq!(Kinds::parse("all"), Ok(Kinds::All));
    assert!(Kinds::parse("flood").is_err());
    assert!(Kinds::parse(",").is_err());
}

#[test]
fn without_options_the_ledger_always_has_the_same_faults() {
    let parse = |line: &str| Wanted::parse(line.split_whitespace().map(str::to_owned));
    let run = |seed, time, kinds| Ok(Wanted::Run { seed, faults_for: seconds(time), kinds });
    assert_eq!(parse("--nocapture"), run(DEFAULT_SEED, 130, Kinds::All));
    assert_eq!(parse("--seconds 9 --seed=5 --faults classic"), run(5, 9, Kinds::Classic));
    let Ok(Wanted::Run { kinds: Kinds::All, .. }) = parse("--seed random --seconds 60") else { panic!("no run") };
    assert_eq!(parse("--test-threads 4 hostile"), Ok(Wanted::Nothing));
    assert!(parse("--faults").is_err());
    assert!(parse("--seed any").is_err());
}
