//! This instance's copy of the state: how it comes to be, and how it is kept the same as everybody else's.
//!
//! A copy begins with a snapshot. Whoever makes one does so when it comes to a mark in the log, and so it holds exactly what
//! all commands before the mark have made; with those behind the mark, the copy is as good as any. Snapshots stand in the log
//! themselves, from time to time, and are made when an instance asks for one. Where nobody knows anything, an instance begins
//! with what it knew last, or with nothing.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    command::{Command, Maker, Order, Piece},
    state::{Done, Effect, Era, State},
};
use crate::{logging::limited, protocol::channelstream::Invalid};

/// The most characters of a piece of a snapshot, about: RabbitMQ takes some MiB, and triggers go the same way.
const PIECE_BYTES: usize = 256 << 10;
/// Commands that are kept for a copy that has not begun.
const MOST_COMMANDS: usize = 1 << 20;
/// How long an instance that has asked for a snapshot waits where nobody is known to be able to make one.
const ALONE: Duration = Duration::from_millis(500);
/// The same where somebody is, before it asks the next one.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long it waits for its own snapshot to come back, with which everything begins.
const BEGINNING: Duration = Duration::from_secs(10);
/// How long one may be silent before it counts as dead.
const SILENT: Duration = Duration::from_secs(15);

/// Whoever has not heard itself for so long does not know whether the others can be heard.
const DEAF: Duration = Duration::from_secs(10);

/// What a command came to, for who has given it.
pub(super) type Outcome = Result<Done, Invalid>;

/// This instance's copy.
#[derive(Debug)]
pub(super) struct Replica {
    me: Uuid,
    phase: Phase,
    others: HashMap<Uuid, Other>,
    /// When a snapshot was last made or seen.
    marked: Instant,
    /// When something of its own last came back by the log.
    heard: Instant,
}

#[derive(Debug)]
enum Phase {
    /// Not known yet.
    Blank(Blank),
    /// As all others have it.
    Live(Box<State>),
}

#[derive(Debug)]
struct Blank {
    /// What was known before something was missed.
    stale: Option<Box<State>>,
    /// Since the first mark.
    commands: Vec<(Uuid, Command)>,
    marks: HashMap<Uuid, Mark>,
    /// The mark that was asked for last, and the how manieth that was.
    asked: Option<(Uuid, usize)>,
    /// When that was, or when a piece of a snapshot last came.
    heard: Instant,
    /// Its own snapshot is on its way.
    has_begun: bool,
}

/// Where a snapshot belongs.
#[derive(Debug)]
struct Mark {
    /// Before the command at this place.
    at: usize,
    /// By who has made them.
    pieces: HashMap<Uuid, Vec<Option<String>>>,
}

/// Another instance.
#[derive(Debug, Clone, Copy)]
struct Other {
    heard: Instant,
    /// It has a copy.
    knows: bool,
    /// It counts as dead.
    is_gone: bool,
}

impl Replica {
    pub(super) fn new(me: Uuid) -> Self {
        Self {
            me,
            phase: Phase::Blank(Blank::new(None)),
            others: HashMap::new(),
            marked: Instant::now(),
            heard: Instant::now(),
        }
    }

    /// The state, once it is known.
    pub(super) fn state(&self) -> Option<&State> {
        match &self.phase {
            Phase::Live(state) => Some(state),
            Phase::Blank(_) => None,
        }
    }

    /// Something may have been missed in the log: what is known does not count any more.
    pub(super) fn lose(&mut self) {
        let before = std::mem::replace(&mut self.phase, Phase::Blank(Blank::new(None)));
        let stale = match before {
            Phase::Live(state) => Some(state),
            Phase::Blank(blank) => blank.stale,
        };
        self.phase = Phase::Blank(Blank::new(stale));
    }

    /// Takes the next command of the log. What it came to, if it was carried out; what is to be done outside is added to
    /// `effects`, what is to be ordered because of it to `orders`.
    pub(super) fn take(
        &mut self,
        instance: Uuid,
        command: Command,
        effects: &mut Vec<Effect>,
        orders: &mut Vec<Order>,
    ) -> Option<Outcome> {
        self.hear(instance, &command.order);
        match &mut self.phase {
            Phase::Live(state) => match &command.order {
                Order::Mark { snapshot, from } => {
                    self.marked = Instant::now();
                    if self.makes(instance, *from) {
                        orders.extend(self.pieces(*snapshot));
                    } else if instance != self.me {
                        orders.push(self.beat());
                    }
                    None
                }
                Order::Beat { era: Some(era) } if *era < state.era => {
                    warn!("this instance has begun anew beside others that knew more: taking over what they know");
                    self.lose();
                    None
                }
                Order::Beat { .. } | Order::Piece(_) => None,
                _ => Some(state.apply(instance, &command, self.me, effects)),
            },
            Phase::Blank(blank) => {
                match command.order {
                    Order::Mark { snapshot, from } => {
                        blank.marks.insert(snapshot, Mark { at: blank.commands.len(), pieces: HashMap::new() });
                        if instance != self.me && from != Maker::Myself {
                            orders.push(self.beat());
                        }
                    }
                    Order::Piece(piece) => {
                        if let Some(state) = blank.add(instance, piece, self.me) {
                            info!(era = %state.era, "Channelstream's users and channels are known");
                            self.phase = Phase::Live(Box::new(state));
                        }
                    }
                    Order::Beat { .. } => {}
                    _ if blank.marks.is_empty() => {}
                    _ if blank.commands.len() == MOST_COMMANDS => self.lose(),
                    _ => blank.commands.push((instance, command)),
                }
                None
            }
        }
    }

    fn hear(&mut self, instance: Uuid, order: &Order) {
        if let Order::Gone { instance } = order {
            self.others.entry(*instance).and_modify(|other| other.is_gone = true);
            return;
        }
        if instance == self.me {
            self.heard = Instant::now();
            return;
        }
        let knows = match order {
            Order::Beat { era } => era.is_some(),
            Order::Mark { from, .. } => *from == Maker::Myself,
            _ => self.others.get(&instance).is_none_or(|other| other.knows),
        };
        self.others.insert(instance, Other { heard: Instant::now(), knows, is_gone: false });
    }

    /// Whether it is for this instance to make a snapshot that `instance` has marked.
    fn makes(&self, instance: Uuid, from: Maker) -> bool {
        match from {
            Maker::Myself => instance == self.me,
            Maker::Other(number) => {
                let able = self.able(|id| id != instance);
                instance != self.me && !able.is_empty() && able[number % able.len()] == self.me
            }
        }
    }

    /// Those that have a copy, this one included if it has.
    fn able(&self, are_asked: impl Fn(Uuid) -> bool) -> Vec<Uuid> {
        let me = self.state().map(|_| self.me);
        let is_able = |other: &Other| other.knows && !other.is_gone && other.heard.elapsed() <= SILENT;
        let others = self.others.iter().filter(|(_, other)| is_able(other)).map(|(id, _)| *id);
        let mut able: Vec<_> = others.chain(me).filter(|id| are_asked(*id)).collect();
        able.sort();
        able
    }

    /// Whether this instance is the one that writes snapshots into the log for those to come.
    fn leads(&self) -> bool {
        self.able(|_| true).first() == Some(&self.me)
    }

    /// Says that this instance is there.
    pub(super) fn beat(&self) -> Order {
        Order::Beat { era: self.state().map(|state| state.era) }
    }

    /// A snapshot of what is known.
    fn pieces(&self, snapshot: Uuid) -> Vec<Order> {
        let Some(state) = self.state() else { return Vec::new() };
        pieces(snapshot, state)
    }

    /// What is to be ordered so that this copy begins, if it has not. `is_alone`: there cannot be anybody else.
    pub(super) fn begin(&mut self, is_alone: bool) -> Vec<Order> {
        let able = self.able(|_| true).len();
        let Phase::Blank(blank) = &mut self.phase else { return Vec::new() };
        let patience = match able {
            _ if blank.has_begun => BEGINNING,
            0 if is_alone => Duration::ZERO,
            0 => ALONE,
            _ => PATIENCE,
        };
        let mut attempt = 0;
        if let Some((snapshot, asked)) = blank.asked {
            if blank.heard.elapsed() < patience {
                return Vec::new();
            }
            // Nobody knows anything: what is said here counts for all of those, as soon as the mark has come back.
            if able == 0 && !blank.has_begun && blank.marks.contains_key(&snapshot) {
                (blank.has_begun, blank.heard) = (true, Instant::now());
                let stale = blank.stale.as_deref();
                let state = stale.map_or_else(|| State::new(Era::new()), |stale| stale.anew(Era::new()));
                return pieces(snapshot, &state);
            }
            attempt = asked + 1;
        }
        let snapshot = Uuid::new_v4();
        (blank.asked, blank.has_begun, blank.heard) = (Some((snapshot, attempt)), false, Instant::now());
        vec![Order::Mark { snapshot, from: Maker::Other(attempt) }]
    }

    /// A snapshot for those to come, if it is time for one: every `interval`.
    pub(super) fn snapshot(&mut self, interval: Duration) -> Option<Order> {
        let Phase::Live(state) = &self.phase else { return None };
        if state.is_empty() || !self.leads() || self.marked.elapsed() < interval {
            return None;
        }
        self.marked = Instant::now();
        Some(Order::Mark { snapshot: Uuid::new_v4(), from: Maker::Myself })
    }

    /// The instances that have not been heard for too long.
    pub(super) fn dead(&mut self) -> Vec<Uuid> {
        let Phase::Live(state) = &self.phase else { return Vec::new() };
        let listened_at = state.instances();
        for instance in &listened_at {
            let instance = *instance;
            if let Entry::Vacant(entry) = self.others.entry(instance)
                && instance != self.me
            {
                entry.insert(Other { heard: Instant::now(), knows: false, is_gone: false });
            }
        }
        self.others.retain(|id, other| !other.is_gone || listened_at.contains(id));
        let dead = self.others.iter().filter(|(_, other)| other.is_gone || other.heard.elapsed() > SILENT);
        dead.map(|(id, _)| *id).collect()
    }

    /// Whether not even this instance itself can be heard, which says nothing about the others.
    pub(super) fn is_deaf(&self) -> bool {
        self.heard.elapsed() > DEAF
    }

    /// For some time nobody could be heard: neither instances nor clients were silent on purpose.
    pub(super) fn was_deaf(&mut self) {
        self.others.values_mut().for_each(|other| other.heard = Instant::now());
        if let Phase::Live(state) = &mut self.phase {
            state.forgive();
        }
    }
}

impl Blank {
    fn new(stale: Option<Box<State>>) -> Self {
        let (commands, marks) = Default::default();
        Self { stale, commands, marks, asked: None, heard: Instant::now(), has_begun: false }
    }

    /// Adds a piece of a snapshot that `maker` has made. The state, if it is known by that.
    fn add(&mut self, maker: Uuid, piece: Piece, me: Uuid) -> Option<State> {
        let mark = self.marks.get_mut(&piece.snapshot)?;
        self.heard = Instant::now();
        if piece.of == 0 || piece.of > MOST_COMMANDS {
            return None;
        }
        let pieces = mark.pieces.entry(maker).or_insert_with(|| vec![None; piece.of]);
        *pieces.get_mut(piece.number)? = Some(piece.text);
        let text = pieces.iter().map(Option::as_deref).collect::<Option<String>>()?;
        let mut state: State = match serde_json::from_str(&text) {
            Ok(state) => state,
            Err(error) => {
                // The parser's words may quote the snapshot.
                let (line, column) = (error.line(), error.column());
                limited!(warn, "a snapshot of Channelstream's users and channels cannot be read", line, column);
                return None;
            }
        };
        for (instance, command) in self.commands.drain(..).skip(mark.at) {
            // Nobody listens here yet.
            let _ = state.apply(instance, &command, me, &mut Vec::new());
        }
        Some(state)
    }
}

fn pieces(snapshot: Uuid, state: &State) -> Vec<Order> {
    let text = match serde_json::to_string(state) {
        Ok(text) => text,
        Err(error) => {
            warn!(%error, "no snapshot of Channelstream's users and channels can be made");
            return Vec::new();
        }
    };
    let mut rest = text.as_str();
    let mut texts = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
        texts.push(piece.to_owned());
        rest = after;
    }
    let of = texts.len();
    let piece = |(number, text)| Order::Piece(Piece { snapshot, number, of, text });
    texts.into_iter().enumerate().map(piece).collect()
}
