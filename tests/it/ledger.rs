//! The parts of tests/ledger that decide: what is wrong, and which faults there are.

use std::time::Duration;

#[path = "../ledger/page.rs"]
#[expect(dead_code, reason = "tests/ledger uses the rest")]
mod page;
#[path = "../ledger/schedule.rs"]
mod schedule;

use page::{Entry, Page, Wrong};
use schedule::Schedule;

fn entry(serial: u64, numbers: &[(usize, u64)]) -> Entry<'static> {
    Entry { publisher: 1, serial, numbers: numbers.to_vec(), size: 2, padding: "xx" }
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
    page.excuse();
    assert_eq!(page.enter(&entry(9, &[(0, 8), (2, 4)])), Ok(()));
    assert_eq!(page.enter(&entry(11, &[(0, 10)])), Err(Wrong::Missing { from: 9, until: 10 }), "it is excused once");
}

#[test]
fn the_ledger_knows_what_has_not_come_yet() {
    let mut page = Page::new(Some(0));
    let mut accepted = page::Numbers::default();
    accepted[1] = [3, 7, 0, 0, 0, 0];
    assert_eq!(page.behind(&accepted), 3, "the other room does not count");
    page.enter(&entry(1, &[(0, 1)])).unwrap();
    assert_eq!(page.behind(&accepted), 2);
    page.excuse();
    assert_eq!(page.behind(&accepted), 0);
}

#[test]
fn a_seed_makes_the_same_faults_and_a_longer_run_begins_as_a_shorter_one() {
    let lanes = |seed, seconds| Schedule::new(seed, Duration::from_secs(seconds)).lanes;
    assert_eq!(lanes(7, 130), lanes(7, 130));
    assert_ne!(lanes(7, 130), lanes(8, 130));
    for (short, long) in lanes(7, 130).iter().zip(&lanes(7, 600)) {
        assert_eq!(short[..], long[..short.len()]);
    }
}

#[test]
fn every_kind_of_fault_comes_in_the_default_time() {
    for seed in 0..200 {
        let lanes = Schedule::new(seed, Duration::from_secs(130)).lanes;
        let mut words: Vec<_> = lanes.iter().flatten().map(|planned| planned.fault.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), 7, "seed {seed}: {words:?}");
    }
}
