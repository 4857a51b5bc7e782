//! Faults after which publications may be missing, and which clients the server has to notify of it. Pure.
//!
//! A gap is open from the fault until every instance follows the log again. A gap notice is a `resync`, a reply with
//! `recovered: false`, or the close code 1012. Outside a gap a notice is an error, because then the server makes a client
//! fetch everything again without need.

use std::time::Duration;

use super::page::{Numbers, PUBLISHERS, ROOMS};

/// How long after a gap the notice may still be on its way to clients that are connected.
const ON_THE_WAY: Duration = Duration::from_secs(3);
/// How long a client that has not had its notice may be disconnected, or may not read.
const LATE: Duration = Duration::from_secs(30);

/// The gaps of a run. All times count from its start.
#[derive(Debug, Default)]
pub struct Gaps(Vec<Gap>);

/// A gap that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapId(usize);

#[derive(Debug)]
struct Gap {
    fault: &'static str,
    start: Duration,
    end: Option<Duration>,
    /// Rooms to which publications are certainly lost.
    lost: [bool; ROOMS],
}

impl Gaps {
    /// Opens a gap.
    pub fn open(&mut self, fault: &'static str, now: Duration) -> GapId {
        self.0.push(Gap { fault, start: now, end: None, lost: [false; ROOMS] });
        GapId(self.0.len() - 1)
    }

    /// Notes that everything published between `kept` and `reached` is lost; both are the last numbers accepted. Returns how
    /// many numbers that is.
    ///
    /// One trigger of each publisher may have been in flight at `kept`; it does not count.
    pub fn lose(&mut self, gap: GapId, kept: &Numbers, reached: &Numbers) -> u64 {
        let mut count = 0;
        for publisher in 0..PUBLISHERS {
            for room in 0..ROOMS {
                let lost = reached[publisher][room].saturating_sub(kept[publisher][room] + 1);
                self.0[gap.0].lost[room] |= lost > 0;
                count += lost;
            }
        }
        count
    }

    /// Closes a gap.
    pub fn close(&mut self, gap: GapId, now: Duration) {
        self.0[gap.0].end = Some(now);
    }

    /// Whether a subscription with this last notice may be notified now, and may miss publications until it is.
    pub fn excuse(&self, last_notice: Option<Duration>, now: Duration) -> bool {
        self.0.iter().any(|gap| {
            // A client that has not read for a while reads all its notices at once.
            let is_notified = last_notice.is_some_and(|notice| notice >= gap.start && now > notice + ON_THE_WAY);
            let grace = if is_notified { ON_THE_WAY } else { LATE };
            gap.start <= now && gap.end.is_none_or(|end| now <= end + grace)
        })
    }

    /// The fault by which a subscription to `room`, or to all of them, has lost something without any notice since.
    pub fn unnotified(&self, last_notice: Option<Duration>, room: Option<usize>) -> Option<&'static str> {
        let is_notified = |gap: &&Gap| last_notice.is_some_and(|notice| notice >= gap.start);
        let has_lost = |gap: &&Gap| (0..ROOMS).any(|lost| gap.lost[lost] && room.is_none_or(|own| own == lost));
        self.0.iter().filter(|gap| !is_notified(gap)).find(has_lost).map(|gap| gap.fault)
    }
}
