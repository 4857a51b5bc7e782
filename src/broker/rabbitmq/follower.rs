//! Following the log from one session to the next. Pure: what the stream hands over in, deliveries out.
//!
//! RabbitMQ does not say that a stream is another one than before, nor that what was asked for is gone: it hands over what
//! comes nearest. So each session begins with the last marker that is known: if it stands where it stood, the stream is the
//! same, and what follows goes on where the last session ended.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    super::Delivery,
    kind_of,
    marker::{MARKER_KEY, Marker},
};
use crate::protocol::Epoch;

/// Offsets that the stream itself may use up between two entries: at the beginning of a segment it writes one of its own.
const SKIPPED: u64 = 1;

/// Where a session begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// As long ago as is read back.
    ReadBack,
    /// At this offset.
    At(u64),
}

/// The stream is not the one that was read before, or has lost what was to come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OtherLog;

/// What is known of the log.
#[derive(Debug)]
pub(super) struct Follower {
    instance: Uuid,
    /// The how manieth one is under way.
    session: u64,
    /// The last entry that was handed over.
    last: Option<u64>,
    /// The last marker, with its offset.
    marker: Option<(u64, Epoch)>,
    /// Entries since then.
    unmarked: u64,
    stage: Stage,
    /// What comes is from before this instance was there.
    is_recalling: bool,
    /// This session's own marker has come.
    is_current: bool,
    /// What comes next may have been handed over before.
    reads_again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first entry has to be the last marker.
    Proving,
    /// What comes has been handed over.
    Skipping,
    /// What comes is new.
    Following,
}

impl Follower {
    pub(super) fn new(instance: Uuid) -> Self {
        Self {
            instance,
            session: 0,
            last: None,
            marker: None,
            unmarked: 0,
            stage: Stage::Following,
            is_recalling: true,
            is_current: false,
            reads_again: false,
        }
    }

    /// Another session begins. Where it is to begin to read.
    pub(super) fn begin(&mut self, session: u64) -> Start {
        (self.session, self.is_current) = (session, false);
        match self.marker {
            Some((offset, _)) => {
                self.stage = Stage::Proving;
                Start::At(offset)
            }
            None => {
                // Nothing that was handed over can be found again, and some of it is read once more.
                self.reads_again |= self.last.is_some();
                (self.stage, self.last, self.is_recalling) = (Stage::Following, None, true);
                Start::ReadBack
            }
        }
    }

    /// Nothing that is known counts any more: the next session reads back.
    pub(super) fn start_over(&mut self, deliveries: &mut Vec<Delivery>) {
        (self.marker, self.last) = (None, None);
        deliveries.push(Delivery::Restart);
    }

    /// Whether this session still has to prove that the log is the same.
    pub(super) fn is_proving(&self) -> bool {
        self.stage == Stage::Proving
    }

    /// Whether all that was in the log when the session began has been handed over.
    pub(super) fn is_current(&self) -> bool {
        self.is_current
    }

    /// Entries since the last marker; many where none is known.
    pub(super) fn unmarked(&self) -> u64 {
        if self.marker.is_some() { self.unmarked } else { u64::MAX }
    }

    /// Adds to `deliveries` what the entry at `offset` comes to.
    ///
    /// # Errors
    /// When it cannot be there.
    pub(super) fn take(
        &mut self,
        offset: u64,
        key: &str,
        body: Bytes,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<(), OtherLog> {
        let marker = if key == MARKER_KEY { Marker::parse(&body) } else { None };
        if self.stage == Stage::Proving {
            if self.marker != marker.as_ref().map(|(epoch, _)| (offset, *epoch)) {
                return Err(OtherLog);
            }
            self.stage = Stage::Skipping;
        }
        if let Some(last) = self.last {
            if offset <= last {
                return Ok(());
            }
            if offset - last > 1 + SKIPPED {
                // RabbitMQ has dropped what was next.
                self.marker = None;
                deliveries.push(Delivery::Restart);
                if !self.is_recalling {
                    deliveries.push(Delivery::Missed);
                }
            }
        }
        if std::mem::take(&mut self.reads_again) {
            deliveries.push(Delivery::Restart);
        }
        self.stage = Stage::Following;
        self.last = Some(offset);
        self.unmarked += 1;
        match marker {
            Some((epoch, marker)) => self.mark(offset, epoch, &marker, deliveries),
            None if key == MARKER_KEY => {} // somebody else's
            None => {
                deliveries.push(Delivery::of(kind_of(key), body, Some(offset), self.is_recalling));
            }
        }
        Ok(())
    }

    fn mark(&mut self, offset: u64, epoch: Epoch, marker: &Marker, deliveries: &mut Vec<Delivery>) {
        if marker.is_after_gap {
            deliveries.push(Delivery::Restart);
        }
        deliveries.push(Delivery::Epoch { epoch, offset });
        self.marker = Some((offset, epoch));
        self.unmarked = 0;
        let is_own = marker.instance == self.instance && marker.session == self.session;
        self.is_current |= is_own;
        // Whoever is connected already has not been given what was recalled.
        let ends_recall = is_own && std::mem::take(&mut self.is_recalling);
        if ends_recall || marker.is_after_gap && !self.is_recalling {
            deliveries.push(Delivery::Missed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            Delivery::Restart => "restart".to_owned(),
            Delivery::Missed => "missed".to_owned(),
        };
        deliveries.iter().map(tell).collect()
    }

    struct Log(Follower);

    impl Log {
        fn trigger(&mut self, offset: u64) -> Result<Vec<String>, OtherLog> {
            let mut deliveries = Vec::new();
            self.0.take(offset, "*", Bytes::from_static(b"{}"), &mut deliveries)?;
            Ok(told(&deliveries))
        }

        fn marker(&mut self, offset: u64, marker: &Marker) -> Result<Vec<String>, OtherLog> {
            let mut deliveries = Vec::new();
            self.0.take(offset, MARKER_KEY, marker.body().into(), &mut deliveries)?;
            Ok(told(&deliveries))
        }
    }

    /// One that has read up to offset 12, with its own marker at 10.
    fn following() -> (Log, Marker) {
        let mut log = Log(Follower::new(ME));
        assert_eq!(log.0.begin(1), Start::ReadBack);
        let own = Marker::new(ME, 1, false);
        assert_eq!(log.trigger(8), Ok(vec!["-8".to_owned()]));
        assert!(!log.0.is_current());
        assert_eq!(log.marker(10, &own), Ok(vec!["e10".to_owned(), "missed".to_owned()]));
        assert!(log.0.is_current());
        for offset in [11, 12] {
            assert_eq!(log.trigger(offset), Ok(vec![offset.to_string()]));
        }
        (log, own)
    }

    #[test]
    fn a_new_session_goes_on_where_the_last_one_ended() {
        let (mut log, own) = following();
        assert_eq!(log.0.begin(2), Start::At(10));
        assert!(log.0.is_proving() && !log.0.is_current());
        assert_eq!(log.marker(10, &own), Ok(vec![]));
        for known in [11, 12] {
            assert_eq!(log.trigger(known), Ok(vec![]));
        }
        assert_eq!(log.trigger(13), Ok(vec!["13".to_owned()]));
        // Another instance's marker says nothing of how far this one is.
        assert_eq!(log.marker(14, &Marker::new(OTHER, 2, false)), Ok(vec!["e14".to_owned()]));
        assert!(!log.0.is_current());
        assert_eq!(log.marker(15, &Marker::new(ME, 2, false)), Ok(vec!["e15".to_owned()]));
        assert!(log.0.is_current());
        assert_eq!(log.0.begin(3), Start::At(15));
    }

    #[test]
    fn another_stream_by_the_same_name_is_noticed() {
        let (mut log, own) = following();
        for wrong in [9, 11] {
            log.0.begin(2);
            assert_eq!(log.marker(wrong, &own), Err(OtherLog), "at another place");
        }
        log.0.begin(2);
        assert_eq!(log.marker(10, &Marker::new(ME, 1, false)), Err(OtherLog), "another marker");
        log.0.begin(2);
        assert_eq!(log.trigger(10), Err(OtherLog), "a trigger");
        let mut deliveries = Vec::new();
        log.0.start_over(&mut deliveries);
        assert_eq!(told(&deliveries), ["restart"]);
        assert_eq!(log.0.begin(3), Start::ReadBack);
        assert_eq!(log.trigger(0), Ok(vec!["-0".to_owned()]));
        assert_eq!(log.marker(1, &Marker::new(ME, 3, false)), Ok(vec!["e1".to_owned(), "missed".to_owned()]));
        assert_eq!(log.trigger(2), Ok(vec!["2".to_owned()]));
    }

    #[test]
    fn what_was_dropped_is_missed_but_not_an_offset_that_the_stream_has_used_itself() {
        let (mut log, _) = following();
        assert_eq!(log.trigger(14), Ok(vec!["14".to_owned()]));
        let jump = vec!["restart".to_owned(), "missed".to_owned(), "17".to_owned()];
        assert_eq!(log.trigger(17), Ok(jump));
        assert_eq!(log.0.unmarked(), u64::MAX, "a marker is needed");
        // The same behind a new session.
        let (mut log, own) = following();
        log.0.begin(2);
        assert_eq!(log.marker(10, &own), Ok(vec![]));
        assert_eq!(log.trigger(15).unwrap()[..2], ["restart", "missed"]);
    }

    #[test]
    fn a_marker_behind_a_gap_begins_anew_for_everybody() {
        let (mut log, _) = following();
        let marked = log.marker(13, &Marker::new(OTHER, 7, true));
        assert_eq!(marked, Ok(["restart", "e13", "missed"].map(str::to_owned).to_vec()));
        assert_eq!(log.trigger(14), Ok(vec!["14".to_owned()]));
        // Nobody has been given anything yet: it is told once.
        let mut log = Log(Follower::new(ME));
        log.0.begin(1);
        assert_eq!(log.marker(3, &Marker::new(OTHER, 7, true)), Ok(vec!["restart".to_owned(), "e3".to_owned()]));
        let own = Marker::new(ME, 1, true);
        let marked = log.marker(4, &own);
        assert_eq!(marked, Ok(["restart", "e4", "missed"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn control_messages_come_in_their_place() {
        let control = |log: &mut Log, offset| {
            let mut deliveries = Vec::new();
            log.0.take(offset, "control", Bytes::from_static(b"{}"), &mut deliveries).unwrap();
            told(&deliveries)
        };
        let mut log = Log(Follower::new(ME));
        log.0.begin(1);
        assert_eq!(control(&mut log, 3), ["-c3"]);
        let (mut log, _) = following();
        assert_eq!(control(&mut log, 13), ["c13"]);
        assert_eq!(log.trigger(14), Ok(vec!["14".to_owned()]));
    }

    #[test]
    fn a_session_that_ends_before_any_marker_is_read_back_again() {
        let mut log = Log(Follower::new(ME));
        log.0.begin(1);
        assert_eq!(log.trigger(3), Ok(vec!["-3".to_owned()]));
        assert_eq!(log.0.begin(2), Start::ReadBack);
        assert_eq!(log.trigger(3), Ok(vec!["restart".to_owned(), "-3".to_owned()]), "what it came to does not count");
        assert_eq!(log.trigger(4), Ok(vec!["-4".to_owned()]));
    }
}
