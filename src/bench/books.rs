//! What the clients enter for every delivery: the ledger, the latencies and the counts.

use std::time::Instant;

use super::{
    histogram::Histogram,
    ledger::{Faults, Ledger, Verdict},
    marker::{self, Marker, Search},
};

/// The books of the load, and of the probe beside it.
#[derive(Debug)]
pub(super) struct Books {
    epoch: Instant,
    search: Search,
    /// Subscriptions of each connection.
    each: u32,
    pub(super) load: Account,
    pub(super) probe: Account,
    /// Deliveries to a subscription that is not in the trigger's room.
    misdelivered: u64,
}

/// One of the two.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) ledger: Ledger,
    pub(super) latencies: Histogram,
    pub(super) deliveries: u64,
}

impl Account {
    fn new(subscriptions: usize, rooms: usize) -> Self {
        Self { ledger: Ledger::new(subscriptions, rooms), latencies: Histogram::new(), deliveries: 0 }
    }

    fn enter(&mut self, subscription: u32, marker: Marker, now_ns: u64) {
        if self.ledger.deliver(subscription, marker.number) != Verdict::Double {
            self.deliveries += 1;
            self.latencies.record(now_ns.saturating_sub(marker.at_ns));
        }
    }
}

impl Books {
    /// Empty books; times count from `epoch`.
    pub(super) fn new(run: u32, epoch: Instant, connections: u32, each: u32, rooms: u32) -> Self {
        let subscriptions = connections as usize * each as usize;
        Self {
            epoch,
            search: Search::new(run),
            each,
            load: Account::new(subscriptions, rooms as usize),
            probe: Account::new(1, 1),
            misdelivered: 0,
        }
    }

    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Forgets the latencies and deliveries so far; what is missing or wrong stays.
    pub(super) fn start_measuring(&mut self) {
        for account in [&mut self.load, &mut self.probe] {
            account.latencies = Histogram::new();
            account.deliveries = 0;
        }
    }

    /// Enters a text that came to the connection whose subscriptions are numbered from `first` on; to the probe's for
    /// `None`.
    pub(super) fn enter(&mut self, first: Option<u32>, text: &[u8], now_ns: u64) {
        let Some(marker) = self.search.find(text) else { return };
        let Some(first) = first else {
            self.probe.enter(0, marker, now_ns);
            return;
        };
        let number = if self.each > 1 { marker::request_id(text) } else { Some(0) };
        let subscription = number.filter(|number| *number < self.each).map(|number| first + number);
        match subscription.filter(|subscription| self.load.ledger.room(*subscription) == marker.room) {
            Some(subscription) => self.load.enter(subscription, marker, now_ns),
            None => self.misdelivered += 1,
        }
    }

    /// What was wrong in all, where the load's rooms and the probe's got so many triggers each.
    pub(super) fn close(&self, published: &[u32], probes: u32) -> (Faults, u64) {
        let (load, probe) = (self.load.ledger.close(published), self.probe.ledger.close(&[probes]));
        let faults = Faults {
            lost: load.lost + probe.lost,
            doubled: load.doubled + probe.doubled,
            out_of_order: load.out_of_order + probe.out_of_order,
        };
        (faults, self.misdelivered)
    }
}
