//! Following the log from one session to the next. Pure: entries of the stream in, deliveries out.
//!
//! RabbitMQ does not say that a stream was replaced, that its tail was lost with a host's page cache, or that the entry asked
//! for was dropped: it hands over what comes nearest. So the follower keeps a digest of each entry since the last marker. A new
//! session begins at that marker and has to find the same entries again; the first difference proves that the log is not what
//! it was.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::BuildHasher,
};

use bytes::Bytes;
use foldhash::fast::RandomState;
use uuid::Uuid;

use super::{
    super::{Delivery, Kind},
    kind_of,
    marker::{MARKER_KEY, Marker, Read},
    members::{Members, Shown},
    progress::{Gap, Progress, Track},
    proof::{Proof, Proofs},
};
use crate::protocol::Epoch;

/// Offsets that the stream itself may use up between two entries: at the beginning of a segment it writes one of its own.
const SKIPPED: u64 = 1;
/// Digests kept, 16 bytes each: more entries than that without a marker are proven by the last of them.
const DIGESTS: usize = 1 << 16;
/// Own markers of which it is remembered that they were read: more than are written between two sessions.
const OWN: usize = 4096;

/// Where a session begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// As long ago as is read back.
    ReadBack,
    /// At this offset.
    At(u64),
    /// At what is published from now on.
    Next,
}

/// The log does not go on where it was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The stream is another one, or entries before the ones read last are gone.
    Replaced,
    /// The stream has lost its end, and other entries stand there now: positions beyond that are ambiguous.
    LostTail,
}

/// An entry of the stream.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    /// Where it stands.
    pub offset: u64,
    /// Its routing key.
    pub key: &'a str,
    /// Its body, as the publisher wrote it.
    pub body: Bytes,
    /// The instance that published it, where one did.
    pub writer: Option<Uuid>,
}

/// What an entry tells the instance itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Sequence number of a marker that this instance has written in this session.
    pub own: Option<u64>,
    /// All instances that read this know that triggers may be missing before it: what this one has found out, too.
    pub told_gap: bool,
    /// Not all proofs stand before a marker that this instance has written in this session.
    pub is_unproven: bool,
}

/// What is known of the log.
#[derive(Debug)]
pub(super) struct Follower {
    instance: Uuid,
    /// Sequence number of the current session.
    session: u64,
    /// The last entry that was handed over.
    last: Option<u64>,
    /// Offset and digest of each entry from the anchor to the last one. A session begins at the first of them.
    digests: VecDeque<(u64, u64)>,
    hasher: RandomState,
    members: Members,
    /// The epoch that positions are of.
    epoch: Option<Epoch>,
    /// This instance has begun an epoch: of whatever it was not there to see, no position counts beyond that.
    has_begun_epoch: bool,
    track: Track,
    proofs: Proofs,
    /// Sequence numbers of the own markers that were read last, and where the last one of a member stands.
    own: VecDeque<u64>,
    own_last: Option<Read>,
    stage: Stage,
    /// What comes is from before this instance was there.
    is_recalling: bool,
    /// Something for clients was recalled.
    has_recalled: bool,
    /// A marker of this session has come and proven that this instance is a member.
    is_proven: bool,
    /// The next session begins with what is published from then on.
    begins_at_next: bool,
    /// Entries that instances of another log have written, since this was asked for last.
    foreign: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first entry has to be the anchor.
    Proving,
    /// Entries that have been handed over come again.
    Skipping,
    /// New entries come.
    Following,
}

impl Follower {
    pub(super) fn new(instance: Uuid) -> Self {
        Self {
            instance,
            session: 0,
            last: None,
            digests: VecDeque::new(),
            hasher: RandomState::default(),
            members: Members::default(),
            epoch: None,
            has_begun_epoch: false,
            track: Track::default(),
            proofs: Proofs::default(),
            own: VecDeque::new(),
            own_last: None,
            stage: Stage::Following,
            is_recalling: true,
            has_recalled: false,
            is_proven: false,
            begins_at_next: false,
            foreign: 0,
        }
    }

    /// Begins another session. Returns where it has to read from.
    pub(super) fn begin(&mut self, session: u64) -> Start {
        self.session = session;
        self.is_proven = false;
        match (self.digests.front(), self.last) {
            (Some((anchor, _)), _) => {
                self.stage = Stage::Proving;
                Start::At(*anchor)
            }
            // Behind an entry that was skipped.
            (None, Some(last)) => {
                self.stage = Stage::Following;
                Start::At(last + 1)
            }
            (None, None) => {
                self.stage = Stage::Following;
                self.is_recalling = true;
                if self.begins_at_next { Start::Next } else { Start::ReadBack }
            }
        }
    }

    /// Forgets the log: the next session reads it back.
    pub(super) fn start_over(&mut self, deliveries: &mut Vec<Delivery>) {
        self.last = None;
        self.digests.clear();
        self.members.clear();
        self.epoch = None;
        self.track.start_over();
        self.own_last = None;
        self.has_recalled = true; // clients that are connected have been given something before
        deliveries.push(Delivery::Restart { is_read_back: true });
    }

    /// Passes over the entry behind the last one, because it cannot be read. Where nothing was read before it, the next session
    /// begins with what is published from then on.
    pub(super) fn skip(&mut self, deliveries: &mut Vec<Delivery>) -> Option<u64> {
        let skipped = self.last.map(|last| last + 1);
        self.digests.clear();
        self.members.forget_places();
        self.epoch = None;
        self.last = skipped;
        self.begins_at_next = skipped.is_none();
        deliveries.push(Delivery::Restart { is_read_back: false });
        self.has_recalled = true;
        if !self.is_recalling {
            deliveries.push(Delivery::Missed);
        }
        skipped
    }

    /// The last entry that was handed over.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// How far the log has been read.
    pub(super) fn progress(&self) -> Progress {
        self.track.progress(self.last)
    }

    /// Whether this session still has to prove that the log is the same.
    pub(super) fn is_proving(&self) -> bool {
        self.stage == Stage::Proving
    }

    /// Whether all entries that the log held when the session began have been handed over, and positions are known.
    pub(super) fn is_current(&self) -> bool {
        self.is_proven && self.has_begun_epoch()
    }

    /// Whether positions are known, and this instance has begun an epoch.
    pub(super) fn has_begun_epoch(&self) -> bool {
        self.epoch.is_some() && self.has_begun_epoch
    }

    /// Whether positions are known.
    pub(super) fn has_epoch(&self) -> bool {
        self.epoch.is_some()
    }

    /// Entries that a new session would have to read again.
    pub(super) fn unanchored(&self) -> usize {
        self.digests.len()
    }

    /// The last marker of this instance, for the next one to name.
    pub(super) fn own(&self) -> Option<Read> {
        self.own_last
    }

    /// Whether one of the markers that RabbitMQ `accepted` before the one with this `number`, which has just been read, has not
    /// come to the log. Takes those out that are settled.
    pub(super) fn has_lost(&self, accepted: &mut BTreeSet<u64>, number: u64) -> bool {
        let later = accepted.split_off(&number.saturating_add(1));
        let settled = std::mem::replace(accepted, later);
        settled.iter().any(|accepted| !self.own.contains(accepted))
    }

    /// Ends the recall although no marker of this session has come: RabbitMQ takes nothing from anybody, and all entries that
    /// the log holds have been handed over.
    pub(super) fn stop_recalling(&mut self, deliveries: &mut Vec<Delivery>) {
        if std::mem::take(&mut self.is_recalling) {
            deliveries.push(Delivery::Recalled);
            if std::mem::take(&mut self.has_recalled) {
                deliveries.push(Delivery::Missed);
            }
        }
    }

    /// Entries that instances of another log have written, since the last call.
    pub(super) fn take_foreign(&mut self) -> u64 {
        std::mem::take(&mut self.foreign)
    }

    /// Adds to `deliveries` what `entry` amounts to.
    ///
    /// # Errors
    /// When the entry cannot stand there.
    pub(super) fn take(&mut self, entry: Entry<'_>, deliveries: &mut Vec<Delivery>) -> Result<Taken, Broken> {
        let Entry { offset, key, body, writer } = entry;
        let digest = self.hasher.hash_one((key, &body[..]));
        if self.stage == Stage::Proving {
            if self.digests.front() != Some(&(offset, digest)) {
                return Err(Broken::Replaced);
            }
            self.stage = Stage::Skipping;
        }
        if let Some(last) = self.last {
            if offset <= last {
                return if self.is_known(offset, digest) { Ok(Taken::default()) } else { Err(Broken::LostTail) };
            }
            if offset - last > 1 + SKIPPED {
                // RabbitMQ has dropped what was next.
                self.members.forget_places();
                self.track.read_from(offset);
                self.epoch = None;
                deliveries.push(Delivery::Restart { is_read_back: false });
                if !self.is_recalling {
                    deliveries.push(Delivery::Missed);
                }
            }
        }
        if !self.track.is_begun() {
            self.track.read_from(offset);
        }
        self.stage = Stage::Following;
        self.begins_at_next = false;
        self.last = Some(offset);
        let marker = if key == MARKER_KEY { Marker::parse(&body) } else { None };
        if marker.is_some() || self.digests.len() == DIGESTS {
            // A marker is unlike any other entry: a session that finds it again reads the same stream.
            let kept = if marker.is_some() { 0 } else { DIGESTS / 2 };
            self.digests.drain(..self.digests.len() - kept);
        }
        self.digests.push_back((offset, digest));
        if let Some(marker) = marker {
            return Ok(self.mark(offset, &marker, deliveries));
        }
        if key == MARKER_KEY {
            return Ok(Taken::default()); // not ours
        }
        if let Some(proof) = Proof::parse(&body) {
            if proof.instance == self.instance {
                self.proofs.note(key, proof.number);
            }
            return Ok(Taken::default());
        }
        let kind = kind_of(key);
        match kind {
            Kind::Trigger | Kind::Control => self.has_recalled |= self.is_recalling,
            // What instances of another log tell each other is not for this one's.
            Kind::Instance | Kind::Channelstream => {
                let is_member = writer.is_some_and(|writer| writer == self.instance || self.members.contains(writer));
                if !is_member {
                    self.foreign += 1;
                    return Ok(Taken::default());
                }
            }
        }
        deliveries.push(Delivery::of(kind, body, Some(offset), self.is_recalling));
        Ok(Taken::default())
    }

    /// Whether the entry at `offset` is the one that stood there.
    fn is_known(&self, offset: u64, digest: u64) -> bool {
        let at = self.digests.binary_search_by_key(&offset, |(known, _)| *known);
        at.is_ok_and(|at| self.digests[at].1 == digest)
    }

    fn mark(&mut self, offset: u64, marker: &Marker, deliveries: &mut Vec<Delivery>) -> Taken {
        let Shown { is_member, is_end_lost, was_unbound } = self.members.record(marker, offset);
        let is_new = self.track.is_new_to(&marker.progress);
        let tells_gap = was_unbound || is_new && (is_end_lost || is_member && marker.is_after_gap);
        let mut is_told_now = false;
        let is_own = marker.instance == self.instance;
        if is_own {
            self.own_last = Some(Read { number: marker.number, offset });
            if self.own.len() == OWN {
                self.own.pop_front();
            }
            self.own.push_back(marker.number);
        }
        if tells_gap {
            // Of what is read back, only what was not there before can tell what has happened since.
            let gap = Gap { offset, instance: marker.instance, number: marker.number };
            is_told_now = self.track.tell(gap) || !self.is_recalling;
            deliveries.push(Delivery::Restart { is_read_back: false });
        }
        if tells_gap || is_member && marker.begins_epoch {
            let epoch = marker.epoch();
            deliveries.push(Delivery::Epoch { epoch, offset });
            self.epoch = Some(epoch);
            self.has_begun_epoch |= is_own;
        }
        if tells_gap && !self.is_recalling {
            deliveries.push(Delivery::Missed);
        }
        let is_of_session = is_own && marker.session == self.session;
        self.is_proven |= is_of_session && is_member;
        if self.is_current() {
            // Clients that are connected already have not been given what was recalled.
            self.stop_recalling(deliveries);
        }
        Taken {
            own: is_of_session.then_some(marker.number),
            told_gap: is_told_now,
            is_unproven: is_of_session && marker.has_proofs && !self.proofs.are_complete(marker.number),
        }
    }
}

#[cfg(test)]
mod tests;
