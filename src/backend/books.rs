//! Whose beginning the backend has been told of, and not yet the end: of this instance's connections, and of those that it
//! has taken over from one that has died.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};

use uuid::Uuid;

use super::{Event, Identity, hooks::Shared};

/// A connection that the backend believes to be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reported {
    /// Whose it is.
    pub user: Option<Arc<str>>,
    /// In whose name its end is to be reported.
    pub identity: Identity,
}

/// The user, or else what was forwarded.
type Owner = (Option<Arc<str>>, Option<Identity>);

/// All such connections that this instance answers for, and what is new since the others were told.
#[derive(Debug, Default)]
pub struct Books {
    own: HashMap<Uuid, (Reported, Weak<Shared>)>,
    adopted: HashMap<Uuid, Reported>,
    /// Adopted, with nobody on the way to report them.
    unreported: Vec<Uuid>,
    came: HashSet<Uuid>,
    /// Told before, with other credentials.
    renewed: HashSet<Uuid>,
    went: Vec<Uuid>,
}

/// What the other instances are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Connections that this instance answers for.
    pub came: Vec<(Uuid, Reported)>,
    /// Those whose end has been reported.
    pub went: Vec<Uuid>,
}

impl Books {
    pub(super) fn open(&mut self, id: Uuid, reported: Reported, notifier: Weak<Shared>) {
        self.own.insert(id, (reported, notifier));
        self.came.insert(id);
    }

    /// The end of a connection is to be reported with `identity`.
    pub(super) fn renew(&mut self, id: &Uuid, identity: &Identity) {
        if let Some((reported, _)) = self.own.get_mut(id) {
            reported.identity = identity.clone();
            self.renewed.insert(*id);
        }
    }

    /// Its end has been reported, or cannot be.
    pub(super) fn close(&mut self, id: &Uuid) {
        self.renewed.remove(id);
        if self.own.remove(id).is_some() | self.adopted.remove(id).is_some() && !self.came.remove(id) {
            self.went.push(*id);
        }
    }

    /// The end of adopted ones has been reported, whoever answers for them by now: who has them there has to hear of it.
    pub(super) fn note_reported(&mut self, ids: &[Uuid]) {
        for id in ids {
            self.adopted.remove(id);
            self.came.remove(id);
            self.went.push(*id);
        }
    }

    /// `went` could not be told.
    pub fn take_back(&mut self, went: Vec<Uuid>) {
        self.went.extend(went);
    }

    /// Whether anything is new since then.
    pub fn has_news(&self) -> bool {
        !(self.came.is_empty() && self.renewed.is_empty() && self.went.is_empty())
    }

    /// What is new since the last call; all there is when `is_all`.
    pub fn news(&mut self, is_all: bool) -> News {
        let reported = |id: &Uuid| self.own.get(id).map(|(reported, _)| reported).or(self.adopted.get(id)).cloned();
        let came: HashSet<Uuid> = if is_all {
            self.own.keys().chain(self.adopted.keys()).copied().collect()
        } else {
            self.came.union(&self.renewed).copied().collect()
        };
        self.renewed.clear();
        let came = came.iter().filter_map(|id| Some((*id, reported(id)?))).collect();
        self.came.clear();
        News { came, went: std::mem::take(&mut self.went) }
    }

    /// Answers for connections of an instance that has died.
    pub fn adopt(&mut self, connections: impl IntoIterator<Item = (Uuid, Reported)>) {
        for (id, reported) in connections {
            if !self.own.contains_key(&id) && self.adopted.insert(id, reported).is_none() {
                self.unreported.push(id);
            }
        }
    }

    /// Another instance answers for them, which is alive.
    pub fn disown<'a>(&mut self, ids: impl IntoIterator<Item = &'a Uuid>) {
        for id in ids {
            self.adopted.remove(id);
        }
    }

    /// Somebody has reported them as gone; those that are here are reported as there again.
    pub fn correct(&mut self, ids: &[Uuid]) {
        for (_, notifier) in ids.iter().filter_map(|id| self.own.get(id)) {
            if let Some(notifier) = notifier.upgrade() {
                Shared::notify(&notifier, Event::Connect);
            }
        }
    }

    /// The adopted ones that are still to be reported, by their user; each is given only once. Those without a user go by what
    /// was forwarded for them.
    pub(super) fn adopted_by_user(&mut self) -> Vec<(Option<Arc<str>>, Vec<Uuid>)> {
        let mut groups: HashMap<Owner, Vec<Uuid>> = HashMap::new();
        for id in std::mem::take(&mut self.unreported) {
            let Some(Reported { user, identity }) = self.adopted.get(&id) else { continue };
            let anonymous = user.is_none().then(|| identity.clone());
            groups.entry((user.clone(), anonymous)).or_default().push(id);
        }
        groups.into_iter().map(|((user, _), ids)| (user, ids)).collect()
    }

    pub(super) fn is_adopted(&self, id: &Uuid) -> bool {
        self.adopted.contains_key(id)
    }

    pub(super) fn identity(&self, id: &Uuid) -> Option<Identity> {
        self.adopted.get(id).map(|reported| reported.identity.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(user: &str) -> Reported {
        Reported { user: Some(user.into()), identity: Identity::from_bytes(user.as_bytes()) }
    }

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);
    const C: Uuid = Uuid::from_u128(3);

    #[test]
    fn the_others_are_told_what_is_new_or_all() {
        let mut books = Books::default();
        books.open(A, reported("a"), Weak::new());
        assert_eq!(books.news(false), News { came: vec![(A, reported("a"))], went: vec![] });
        assert_eq!(books.news(false), News::default());
        books.open(B, reported("b"), Weak::new());
        books.close(&B); // nobody has heard of it
        books.close(&A);
        books.close(&A);
        assert_eq!(books.news(false), News { came: vec![], went: vec![A] });
        books.open(C, reported("c"), Weak::new());
        books.news(false);
        assert_eq!(books.news(true).came, [(C, reported("c"))]);
    }

    #[test]
    fn the_others_are_told_of_renewed_credentials_of_connections_that_are_there() {
        let mut books = Books::default();
        books.open(A, reported("a"), Weak::new());
        books.news(false);
        let identity = Identity::from_bytes(b"new");
        books.renew(&A, &identity);
        books.renew(&B, &identity);
        let renewed = Reported { user: Some("a".into()), identity };
        assert_eq!(books.news(false), News { came: vec![(A, renewed.clone())], went: vec![] });
        books.renew(&A, &renewed.identity);
        books.close(&A); // all the same, the others have to hear of it
        assert_eq!(books.news(false), News { came: vec![], went: vec![A] });
    }

    #[test]
    fn the_adopted_are_reported_once_by_user_unless_somebody_else_answers_for_them() {
        let mut books = Books::default();
        books.adopt([(A, reported("a")), (B, reported("a")), (C, reported("c"))]);
        books.adopt([(A, reported("a"))]);
        let mut groups = books.adopted_by_user();
        groups.sort();
        assert_eq!(groups, [(Some("a".into()), vec![A, B]), (Some("c".into()), vec![C])]);
        assert!(books.adopted_by_user().is_empty());
        assert_eq!(books.news(true).came.len(), 3, "should this instance die, too, another one answers for them");
        books.disown([&C]);
        books.close(&A);
        assert!(!books.is_adopted(&C) && !books.is_adopted(&A) && books.is_adopted(&B));
        assert_eq!(books.news(false), News { came: vec![], went: vec![A] });
    }
}
