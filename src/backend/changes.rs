//! Whose permissions have been changed lately, and so whose answers and tickets count no more.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::protocol::{Epoch, Position};

/// How long a change is remembered beyond that.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Changes that are remembered. When there are more, all are taken to have changed.
const MOST: usize = 100_000;
/// Epochs that are remembered.
const MOST_EPOCHS: usize = 10_000;

/// A moment between two changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Who has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whom<'a> {
    /// All connections of a user.
    User(&'a str),
    /// One connection.
    Connection(Uuid),
    /// Perhaps anybody.
    All,
}

/// The changes lately, in the order of the log.
#[derive(Debug)]
pub struct Changes(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// How many changes there have been.
    count: u64,
    remembered: Duration,
    users: HashMap<Box<str>, Change>,
    connections: HashMap<Uuid, Change>,
    /// Everybody has changed by then.
    all: Change,
    /// The last offset of a change of a user that is not remembered any more.
    forgotten: u64,
    /// The epochs that the log has gone through, each with the offset it begins at.
    epochs: VecDeque<(Epoch, u64, Instant)>,
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    count: u64,
    /// Its place in the log.
    offset: u64,
    at: Instant,
}

impl Changes {
    /// None yet. They are to be remembered for as long as somebody may go by what was before, which is `longest`.
    pub fn new(longest: Duration) -> Self {
        let all = Change { count: 0, offset: 0, at: Instant::now() };
        Self(Mutex::new(Known {
            count: 0,
            remembered: longest.saturating_add(REMEMBERED),
            users: HashMap::new(),
            connections: HashMap::new(),
            all,
            forgotten: 0,
            epochs: VecDeque::new(),
            sweep_at: 1024,
        }))
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment(self.0.lock().count)
    }

    /// Somebody's permissions have changed, at this `offset` of the log if there is one.
    pub fn note(&self, whom: Whom<'_>, offset: Option<u64>) {
        let mut known = self.0.lock();
        known.count += 1;
        let last = match whom {
            Whom::User(user) => known.users.get(user).copied(),
            Whom::Connection(id) => known.connections.get(&id).copied(),
            Whom::All => Some(known.all),
        };
        // One without a place leaves the last one that has a place where it is: tickets from before that count no more.
        let offset = offset.or(last.map(|last| last.offset)).unwrap_or(0);
        let change = Change { count: known.count, offset, at: Instant::now() };
        match whom {
            Whom::User(user) => drop(known.users.insert(user.into(), change)),
            Whom::Connection(id) => drop(known.connections.insert(id, change)),
            Whom::All => known.all = change,
        }
        known.sweep();
    }

    /// The log goes on under another epoch, from `offset` on.
    pub fn begin_epoch(&self, epoch: Epoch, offset: u64) {
        let mut known = self.0.lock();
        let oldest = Instant::now().checked_sub(known.remembered);
        while known.epochs.len() > 1
            && (known.epochs.len() >= MOST_EPOCHS
                || known.epochs.get(1).is_some_and(|(_, _, at)| oldest.is_some_and(|oldest| *at < oldest)))
        {
            known.epochs.pop_front();
        }
        known.epochs.push_back((epoch, offset, Instant::now()));
    }

    /// The log begins anew: nothing is known of what was before.
    pub fn restart(&self) {
        let mut known = self.0.lock();
        known.epochs.clear();
        known.forgotten = 0;
        // Of the changes so far it knows no places any more, which may be behind those that are to come.
        let Known { users, connections, all, .. } = &mut *known;
        users.values_mut().chain(connections.values_mut()).chain([all]).for_each(|change| change.offset = 0);
    }

    /// Returns the offset of the last change that was about all connections of `user`, or a later one where that is not known any
    /// more; 0 if there was none.
    pub fn last_of(&self, user: &str) -> u64 {
        let known = self.0.lock();
        known.users.get(user).map_or(0, |change| change.offset).max(known.forgotten)
    }

    /// Whether nothing has changed for `user` and `connection` since `moment`.
    pub fn none_since(&self, moment: Moment, user: Option<&str>, connection: Option<Uuid>) -> bool {
        let known = self.0.lock();
        known.of(user, connection).all(|change| change.count <= moment.0)
    }

    /// Whether it is known that nothing has changed for `user` and `connection` since `position`.
    pub fn none_since_position(&self, position: Position, user: Option<&str>, connection: Uuid) -> bool {
        let known = self.0.lock();
        let Some(at) = known.epochs.iter().rposition(|(epoch, _, _)| *epoch == position.epoch) else { return false };
        let ends = known.epochs.get(at + 1).map(|(_, offset, _)| *offset);
        position.offset >= known.epochs[at].1
            && ends.is_none_or(|end| position.offset < end)
            && known.of(user, Some(connection)).all(|change| change.count == 0 || change.offset <= position.offset)
    }
}

impl Known {
    fn of(&self, user: Option<&str>, connection: Option<Uuid>) -> impl Iterator<Item = Change> {
        let user = user.and_then(|user| self.users.get(user)).copied();
        let connection = connection.and_then(|id| self.connections.get(&id)).copied();
        [user, connection, Some(self.all)].into_iter().flatten()
    }

    fn sweep(&mut self) {
        if self.users.len() + self.connections.len() < self.sweep_at {
            return;
        }
        if let Some(oldest) = Instant::now().checked_sub(self.remembered) {
            let forgotten = &mut self.forgotten;
            self.users.retain(|_, change| {
                let is_kept = change.at >= oldest;
                *forgotten = (*forgotten).max(if is_kept { 0 } else { change.offset });
                is_kept
            });
            self.connections.retain(|_, change| change.at >= oldest);
        }
        if self.users.len() + self.connections.len() >= MOST {
            let last = self.users.values().chain(self.connections.values()).copied().max_by_key(|change| change.count);
            self.all = last.unwrap_or(self.all);
            let offsets = self.users.values().map(|change| change.offset);
            self.forgotten = offsets.fold(self.forgotten, u64::max);
            (self.users, self.connections) = Default::default();
        }
        self.sweep_at = (2 * (self.users.len() + self.connections.len())).clamp(1024, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Uuid = Uuid::from_u128(1);

    #[test]
    fn a_change_counts_for_its_user_its_connection_or_everybody() {
        let changes = Changes::new(Duration::ZERO);
        let before = changes.now();
        changes.note(Whom::User("17"), None);
        assert!(!changes.none_since(before, Some("17"), Some(ME)));
        assert!(changes.none_since(changes.now(), Some("17"), Some(ME)));
        assert!(changes.none_since(before, Some("1"), None) && changes.none_since(before, None, Some(ME)));
        changes.note(Whom::Connection(ME), None);
        assert!(!changes.none_since(before, Some("1"), Some(ME)));
        changes.note(Whom::All, None);
        assert!(!changes.none_since(before, None, None));
    }

    #[test]
    fn a_position_is_known_within_its_epoch_and_until_the_next_change() {
        let changes = Changes::new(Duration::ZERO);
        let [one, two]: [Epoch; 2] = [Epoch::random(), Epoch::random()];
        let at = |epoch, offset| Position { epoch, offset };
        let is_fresh = |position| changes.none_since_position(position, Some("17"), ME);
        changes.begin_epoch(one, 10);
        assert!(is_fresh(at(one, 10)) && is_fresh(at(one, 19)) && !is_fresh(at(one, 9)) && !is_fresh(at(two, 20)));
        changes.begin_epoch(two, 20);
        assert!(is_fresh(at(one, 19)) && !is_fresh(at(one, 20)) && is_fresh(at(two, 20)));
        changes.note(Whom::User("17"), Some(15));
        assert!(!is_fresh(at(one, 14)) && is_fresh(at(one, 15)) && is_fresh(at(two, 20)));
        changes.note(Whom::All, Some(21));
        assert!(!is_fresh(at(two, 20)) && is_fresh(at(two, 21)));
        changes.note(Whom::All, None);
        assert!(!is_fresh(at(two, 20)) && is_fresh(at(two, 21)), "a change without a place says nothing of places");
        changes.restart();
        assert!(!is_fresh(at(two, 21)));
        changes.begin_epoch(two, 3);
        assert!(is_fresh(at(two, 3)), "in a log that begins anew, places from before mean nothing");
        changes.note(Whom::User("17"), Some(4));
        assert!(!is_fresh(at(two, 3)) && is_fresh(at(two, 4)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nothing_that_is_forgotten_counts_as_unchanged() {
        let changes = Changes::new(Duration::ZERO);
        let before = changes.now();
        for user in 0..2 * MOST {
            changes.note(Whom::User(&user.to_string()), None);
        }
        let known = changes.0.lock().users.len();
        assert!(known <= MOST, "{known}");
        assert!((0..2 * MOST).all(|user| !changes.none_since(before, Some(&user.to_string()), None)));
    }
}
