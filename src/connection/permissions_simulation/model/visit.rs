//! What one connection of a client should be given, as simply as it can be said.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{super::simulated::reaches, API_TIMEOUT, Call, SUBSCRIPTIONS, Says, TTL},
    Entry, Log, Past, Rights, Ticket,
    credentials::Credentials,
};
use crate::protocol::Version;

/// What is known of how long somebody's rights hold.
#[derive(Clone, Default)]
struct Standing {
    confirmed: i64,
    limit: Option<i64>,
    /// Of one that came with a ticket and has not been confirmed.
    backed: Option<u64>,
}

/// How things stood when frames were queued.
struct Mark {
    event: u64,
    life: usize,
    rights: Option<Rights>,
    past: Vec<Past>,
    /// When the next ticket would say that the backend has said so, when it would end, and since when nobody has asked it.
    ticket: Option<(i64, i64, u64)>,
    identity: usize,
    is_on_hold: bool,
}

impl Mark {
    /// Whether it is known that `room` could be joined from entry `number` on.
    fn covers_since(&self, number: usize, room: &Value) -> bool {
        self.past.iter().all(|(until, rights)| *until <= number || rights.cover(room))
    }
}

/// A subscription from the request to the last frame that is about it; of version 3.1 perhaps to several rooms.
struct Subscription {
    /// Each with the first entry that is to come by it; from the reply on in version 4.
    rooms: Vec<(Value, usize)>,
    since: Option<String>,
    is_answered: bool,
    /// The entry that comes next, and how often it has come already.
    next: (usize, usize),
    /// The log has begun anew before all was there that had been missed.
    may_miss: bool,
    ended: Option<End>,
}

/// Nothing that is queued later counts.
struct End {
    event: u64,
    /// Why, if it was not the client's own wish.
    why: Option<&'static str>,
    /// What was published before is all there.
    entries: Option<usize>,
}

/// One connection, as the client and the application see it.
pub(in super::super) struct Visit {
    pub(in super::super) connection: Uuid,
    version: Version,
    /// In force; `None` before it is authorised.
    pub(in super::super) rights: Option<Rights>,
    past: Vec<Past>,
    standing: Standing,
    pub(in super::super) credentials: Credentials,
    /// Since when it is on hold.
    pub(in super::super) held_since: Option<u64>,
    asked: u64,
    /// The backend is to be asked again.
    pub(in super::super) is_due: bool,
    pub(in super::super) closing: Option<u16>,
    is_closed: bool,
    is_behind: bool,
    subscriptions: BTreeMap<String, Subscription>,
    /// What is still to be answered: in version 3.1 everything in its order, with the subscription that it is the end of.
    answers: VecDeque<(Option<&'static str>, String)>,
    /// Lists of allowed rooms still to be told, the first one by the welcome.
    told: VecDeque<Value>,
    marks: VecDeque<(usize, Rc<Mark>)>,
    queued: usize,
    read: usize,
    pub(in super::super) received: usize,
    pub(in super::super) denied: usize,
}

impl Visit {
    pub(in super::super) fn new(connection: Uuid, version: Version, identity: usize) -> Self {
        Self {
            connection,
            version,
            rights: None,
            past: Vec::new(),
            standing: Standing::default(),
            credentials: Credentials::new(identity),
            held_since: None,
            asked: 0,
            is_due: false,
            closing: None,
            is_closed: false,
            is_behind: false,
            subscriptions: BTreeMap::new(),
            answers: VecDeque::new(),
            told: VecDeque::new(),
            marks: VecDeque::new(),
            queued: 0,
            read: 0,
            received: 0,
            denied: 0,
        }
    }

    /// The first reason given stands.
    pub(in super::super) fn close(&mut self, code: u16) {
        self.closing.get_or_insert(code);
    }

    pub(in super::super) fn is_of(&self, user: &str) -> bool {
        self.rights.as_ref().is_some_and(|rights| rights.user.as_deref() == Some(user))
    }

    /// Whether an answer for it that was asked for at `event` still holds.
    pub(in super::super) fn is_current(&self, rights: &Rights, event: u64, log: &Log) -> bool {
        !log.has_changed(event, rights.user.as_deref(), Some(self.connection))
    }

    /// Whether what it may do holds, as far as has been said.
    pub(in super::super) fn is_current_now(&self, log: &Log) -> bool {
        self.rights.as_ref().is_some_and(|rights| self.is_current(rights, self.asked, log))
    }

    /// Whether a ticket would say what holds, and can be called back.
    pub(in super::super) fn is_sure(&self, log: &Log) -> bool {
        let has_user = self.rights.as_ref().is_some_and(|rights| rights.user.is_some());
        self.is_current_now(log) && has_user && self.credentials.are_confirmed()
    }

    /// What it may do holds at `event`.
    pub(in super::super) fn vouch(&mut self, event: u64) {
        self.asked = event;
    }

    /// It is let in by what was said at the event `begun`, the time `at`, or by a ticket that was redeemed then.
    pub(in super::super) fn enter(
        &mut self,
        rights: &Rights,
        (begun, at): (u64, u64),
        ticket: Option<Ticket>,
        log: &Log,
    ) {
        (self.rights, self.asked, self.held_since) = (Some(rights.clone()), begun, None);
        self.told.push_back(json!([rights.rooms, ticket.is_some()]));
        if let Some(ticket) = ticket {
            let Ticket { confirmed, end, backed, past, .. } = ticket;
            (self.standing, self.past) = (Standing { confirmed, limit: Some(end), backed: Some(backed) }, past);
            let lifetime = log.interval.map_or(TTL, |interval| interval.min(TTL));
            self.is_due = i64::try_from(log.time).unwrap() - confirmed > i64::try_from(lifetime / 2).unwrap();
            return;
        }
        self.standing = Standing { confirmed: i64::try_from(at).unwrap(), ..Standing::default() };
        let changed = rights.user.as_ref().and_then(|user| log.changed.get(user));
        let changed = changed.filter(|(_, life)| *life == log.life).map(|(entries, _)| *entries);
        self.past.extend(changed.map(|entries| (entries, Rights::new(None, Vec::new()))));
    }

    /// A ticket that it is given now: when the backend said so, and when it ends, by the time of day; and when there was last
    /// somebody whom the backend had let in.
    pub(in super::super) fn next_ticket(&self, log: &Log) -> Option<(i64, i64, u64)> {
        let Standing { confirmed, limit, backed } = self.standing;
        let now = i64::try_from(log.time).unwrap();
        let by_interval = log.interval.map(|interval| confirmed + i64::try_from(interval).unwrap());
        let end = [limit, by_interval].into_iter().flatten().fold(now + i64::try_from(TTL).unwrap(), i64::min);
        (end >= now + 500).then_some((confirmed + log.ahead, end + log.ahead, backed.unwrap_or(log.time)))
    }

    /// The backend, asked for `identity`, has answered. Whether that counts.
    pub(in super::super) fn conclude(&mut self, identity: usize, call: &Call, log: &Log) -> bool {
        if self.closing.is_some() {
            return false;
        }
        let rights = match &call.says {
            Says::May(rights) => rights,
            Says::Unknown => {
                let user = self.rights.as_ref().and_then(|rights| rights.user.as_deref());
                if log.has_changed(call.begun, user, Some(self.connection)) {
                    return false; // it may be known by now
                }
                match self.credentials.refuse(identity) {
                    true => self.is_due = true,
                    false => self.close(3502),
                }
                return false;
            }
            Says::Nothing => return false,
        };
        let Some(before) = &self.rights else { return false };
        if !self.is_current(rights, call.begun, log) || !self.is_current(before, call.begun, log) {
            if self.held_since.is_some_and(|since| log.time - since > API_TIMEOUT) {
                self.close(1013);
            }
            return false;
        }
        let is_other_user = before.user != rights.user;
        if self.credentials.confirm(identity) && is_other_user {
            self.close(3502); // to come in as somebody else
            return true;
        }
        if self.credentials.identity == identity {
            let confirmed = self.standing.confirmed.max(i64::try_from(call.at).unwrap());
            self.standing = Standing { confirmed, ..Standing::default() };
        }
        let is_other = before.keys != rights.keys;
        self.is_due = false;
        self.asked = self.asked.max(call.begun);
        let before = self.rights.replace(rights.clone());
        if is_other {
            self.past.extend(before.map(|before| (log.entries.len(), before)));
            self.lose(|room| !rights.cover(room), "no-longer-allowed", log);
            if self.version == Version::V4 && self.closing.is_none() {
                self.told.push_back(json!([rights.rooms]));
            }
        }
        self.held_since = None;
        true
    }

    fn live(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.values().filter(|subscription| subscription.ended.is_none())
    }

    pub(in super::super) fn has_live(&self, is_meant: impl Fn(&Value) -> bool) -> bool {
        self.live().any(|subscription| subscription.rooms.iter().any(|(room, _)| is_meant(room)))
    }

    /// Places that are taken.
    pub(in super::super) fn places(&self) -> usize {
        self.live().map(|subscription| subscription.rooms.len()).sum()
    }

    /// The subscriptions that there are, by their `requestId`.
    pub(in super::super) fn names(&self) -> Vec<String> {
        let live = self.subscriptions.iter().filter(|(_, subscription)| subscription.ended.is_none());
        live.map(|(name, _)| name.clone()).collect()
    }

    /// Whether nothing is known of `name` any more, so that it can be used again.
    pub(in super::super) fn is_free(&self, name: &str) -> bool {
        !self.subscriptions.contains_key(name)
    }

    /// The subscriptions to rooms that `are_meant` end here.
    pub(in super::super) fn lose(&mut self, are_meant: impl Fn(&Value) -> bool, why: &'static str, log: &Log) {
        if self.version == Version::V3 {
            return if self.has_live(are_meant) {
                self.close(3502)
            };
        }
        for subscription in self.subscriptions.values_mut().filter(|subscription| subscription.ended.is_none()) {
            if subscription.rooms.iter().any(|(room, _)| are_meant(room)) {
                subscription.end(Some(why), self.is_behind || self.held_since.is_some(), log);
            }
        }
    }

    /// The client asks for `room`.
    pub(in super::super) fn subscribe(&mut self, name: &str, room: &Value, since: Option<String>, log: &Log) {
        let is_known = self.subscriptions.get(name).is_some_and(|subscription| subscription.ended.is_none());
        let is_allowed = self.rights.as_ref().is_some_and(|rights| rights.cover(room));
        let refusal = match self.version {
            Version::V4 if is_known => Some("request-id-in-use"),
            _ if self.places() >= SUBSCRIPTIONS => Some("too-many-subscriptions"),
            _ if !is_allowed => Some("room-not-found"),
            _ => None,
        };
        if refusal.is_some() || self.version == Version::V3 {
            self.answers.push_back((refusal, String::new()));
        }
        if refusal.is_some() {
            return;
        }
        // 3.1 gives what is under way to whoever comes in time.
        let (is_answered, start) = (self.version == Version::V3, log.fanned_out);
        let new =
            || Subscription { rooms: Vec::new(), since, is_answered, next: (start, 0), may_miss: false, ended: None };
        let subscription = self.subscriptions.entry(name.to_owned()).or_insert_with(new);
        if subscription.rooms.iter().all(|(known, _)| known != room) {
            subscription.rooms.push((room.clone(), start));
        }
    }

    pub(in super::super) fn unsubscribe(&mut self, name: &str, log: &Log) {
        let live = self.subscriptions.get_mut(name).filter(|subscription| subscription.ended.is_none());
        let Some(subscription) = live else {
            return self.answers.push_back((Some("not-subscribed"), String::new()));
        };
        subscription.end(None, self.is_behind || self.held_since.is_some(), log);
        if self.version == Version::V3 {
            self.answers.push_back((None, name.to_owned()));
        }
    }

    pub(in super::super) fn note_restart(&mut self) {
        let is_behind = self.is_behind;
        self.subscriptions.values_mut().for_each(|subscription| subscription.may_miss |= is_behind);
    }

    /// `waiting` bytes are in the outbox now, behind those that were read. Whether that is more than before.
    pub(in super::super) fn note_queued(&mut self, unread: usize, waiting: usize, is_behind: bool, log: &Log) -> bool {
        self.is_behind = is_behind;
        let queued = self.read + unread + waiting;
        let is_more = queued > self.queued;
        if is_more {
            let (rights, past, ticket) = (self.rights.clone(), self.past.clone(), self.next_ticket(log));
            let ticket = ticket.filter(|_| self.credentials.are_confirmed());
            let (identity, is_on_hold) = (self.credentials.identity, self.held_since.is_some());
            let mark = Mark { event: log.now, life: log.life, rights, past, ticket, identity, is_on_hold };
            self.marks.push_back((queued, Rc::new(mark)));
            self.queued = queued;
        }
        is_more
    }

    /// The client looks at a frame. A ticket that it was given.
    pub(in super::super) fn read(&mut self, line: &str, log: &Log, positions: &mut Vec<String>) -> Option<Ticket> {
        self.read += line.len() + 1;
        while self.marks.front().is_some_and(|(end, _)| *end < self.read) {
            self.marks.pop_front();
        }
        let mark = self.marks.front().expect("a frame that was queued").1.clone();
        assert!(!self.is_closed, "after the end: {line}");
        let frame: Value = serde_json::from_str(line).unwrap();
        positions.extend(frame["position"].as_str().map(str::to_owned));
        let id = frame["requestId"].as_str().unwrap_or_default();
        match frame["type"].as_str().unwrap_or("reply") {
            "close" => {
                assert_eq!(frame["code"].as_u64(), self.closing.map(u64::from), "{line}");
                self.is_closed = true;
            }
            "welcome" | "allowed_rooms" => self.hear_rights(&frame),
            "reply" if frame.get("is_authorized").is_some() => self.hear_rights(&frame),
            "reply" if self.version == Version::V3 => self.hear_answer(frame["message"].as_str(), log),
            "reply" if id == "credentials" => assert_eq!(frame["code"], "success", "{line}"),
            "reply" if frame["code"] == "error" => self.hear_refusal(&frame, id),
            "reply" if frame.get("position").is_some() => self.hear_success(&frame, id, &mark, log),
            "reply" => self.finish(id, None, log),
            "unsubscribed" => self.finish(id, frame["message"].as_str(), log),
            "publish" => {
                self.received += 1;
                let subscription = self.subscriptions.get_mut(id).unwrap_or_else(|| panic!("no subscription: {line}"));
                let entry = usize::try_from(frame["data"][0].as_u64().unwrap()).unwrap();
                let rights = mark.rights.as_ref().expect("rights");
                let is_allowed = subscription.ways(entry, self.connection, log).all(|room| rights.cover(room));
                assert!(is_allowed, "not allowed: {line}");
                assert!(!mark.is_on_hold, "on hold: {line}");
                assert!(subscription.ended.as_ref().is_none_or(|end| mark.event <= end.event), "has ended: {line}");
                subscription.take(entry, self.connection, log);
            }
            "resync" | "ticket" => {}
            other => panic!("{other}"),
        }
        let text = frame["ticket"].as_str()?.to_owned();
        let rights = mark.rights.clone().expect("rights");
        let (confirmed, end, backed) = mark.ticket.expect("a ticket that is of use");
        let past = mark.past.iter().map(|(until, before)| (*until, rights.within(before))).collect();
        let (identity, connection, queued, life) = (mark.identity, self.connection, mark.event, mark.life);
        Some(Ticket { text, rights, past, identity, connection, queued, life, confirmed, end, backed })
    }

    fn hear_rights(&mut self, frame: &Value) {
        if frame["is_authorized"] == false {
            return assert!(self.rights.is_none(), "{frame}");
        }
        let told = self.told.pop_front().unwrap_or_else(|| panic!("not expected: {frame}"));
        assert_eq!(told[0], frame["allowed_rooms"], "{frame}");
        assert!(frame.get("resumed").is_none_or(|resumed| *resumed == told[1]), "{frame}");
    }

    /// An answer in 3.1's protocol, which says nothing of the question.
    fn hear_answer(&mut self, message: Option<&str>, log: &Log) {
        let (expected, ends) = self.answers.pop_front().expect("no answer");
        assert_eq!(message, expected);
        if !ends.is_empty() {
            self.finish(&ends, None, log);
        }
    }

    fn hear_refusal(&mut self, frame: &Value, id: &str) {
        let why = self.subscriptions.get(id).and_then(|subscription| subscription.ended.as_ref()?.why);
        if why.is_some_and(|why| frame["detail"] == why) {
            assert!(!self.subscriptions[id].is_answered, "answered: {frame}");
            self.subscriptions.remove(id);
            return;
        }
        let at = self.answers.iter().position(|(word, _)| word.is_some_and(|word| frame["message"] == word));
        assert!(at.and_then(|at| self.answers.remove(at)).is_some(), "not expected: {frame}");
    }

    fn hear_success(&mut self, frame: &Value, id: &str, mark: &Mark, log: &Log) {
        let subscription = self.subscriptions.get_mut(id).unwrap_or_else(|| panic!("no subscription: {frame}"));
        assert!(!std::mem::replace(&mut subscription.is_answered, true), "answered twice: {frame}");
        assert!(subscription.ended.as_ref().is_none_or(|end| mark.event <= end.event), "has ended: {frame}");
        let since = subscription.since.as_ref();
        let known = since.and_then(|since| log.positions.get(since)).filter(|(_, life)| *life == mark.life);
        let may_have = known.is_some_and(|(number, _)| mark.covers_since(*number, &subscription.rooms[0].0));
        assert_eq!(frame["recovered"].as_bool(), since.map(|_| may_have), "{frame}");
        self.denied += usize::from(known.is_some() && !may_have);
        let (start, _) = log.positions[frame["position"].as_str().unwrap()];
        subscription.rooms.iter_mut().for_each(|(_, first)| *first = start);
        subscription.next = (start, 0);
    }

    /// Nothing more comes by the subscription.
    fn finish(&mut self, id: &str, why: Option<&str>, log: &Log) {
        let mut over = self.subscriptions.remove(id).unwrap_or_else(|| panic!("no subscription {id}"));
        let Some(End { why: expected, entries, .. }) = over.ended else { panic!("{id} has not ended") };
        assert_eq!(why, expected, "{id}");
        assert!(over.is_answered || why.is_none(), "{id} was not answered");
        if let Some(entries) = entries.filter(|_| over.is_answered) {
            over.pass(entries, self.connection, log);
        }
    }

    /// The client has taken all there is: nothing is left open.
    pub(in super::super) fn end(mut self, log: &Log) {
        assert_eq!(self.is_closed, self.closing.is_some());
        if self.is_closed {
            return;
        }
        assert!(self.answers.is_empty() && self.told.is_empty(), "{:?} {:?}", self.answers, self.told);
        for (name, subscription) in &mut self.subscriptions {
            assert!(subscription.is_answered && subscription.ended.is_none(), "{name} is open");
            subscription.pass(log.entries.len(), self.connection, log);
        }
    }
}

impl Subscription {
    fn end(&mut self, why: Option<&'static str>, is_behind: bool, log: &Log) {
        self.ended = Some(End { event: log.now, why, entries: (!is_behind).then_some(log.fanned_out) });
    }

    /// The rooms by which `entry` is to come, once by each.
    fn ways(&self, entry: usize, connection: Uuid, log: &Log) -> impl Iterator<Item = &Value> {
        let Entry { rooms, exclude } = &log.entries[entry];
        let is_excluded = exclude.contains(&connection);
        let is_due = move |room: &Value| !is_excluded && rooms.iter().any(|to| reaches(to, room));
        self.rooms.iter().filter(move |(room, first)| *first <= entry && is_due(room)).map(|(room, _)| room)
    }

    fn take(&mut self, entry: usize, connection: Uuid, log: &Log) {
        assert!(self.is_answered, "{entry} before the reply");
        assert!(entry >= self.next.0, "{entry} again, or out of order");
        self.pass(entry, connection, log);
        self.next.1 += 1;
        assert!(
            self.next.1 <= self.ways(entry, connection, log).count(),
            "{entry} is not for this one, or comes too often"
        );
    }

    /// Everything before `entry` has come.
    fn pass(&mut self, entry: usize, connection: Uuid, log: &Log) {
        while self.next.0 < entry {
            let owed = self.ways(self.next.0, connection, log).count();
            assert!(self.next.1 == owed || self.may_miss, "{:?} of {owed} never came", self.next);
            self.next = (self.next.0 + 1, 0);
        }
    }
}
