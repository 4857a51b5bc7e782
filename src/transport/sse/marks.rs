//! How far each subscription of a stream has come: what a client has to show to go on from there.
//!
//! One position would not do for several subscriptions. While they are given what they have missed, each is at a place of its
//! own; and what is published to two of them comes as two events, between which the stream may break.

use std::{fmt, iter};

use crate::protocol::Position;

/// Stands between the position of most subscriptions and those of the others.
const SEPARATOR: char = ';';
/// Stands for a position that was asked for and cannot be one.
const UNREADABLE: &str = "-";

/// The position that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// A position that may have been given out.
    Position(Position),
    /// A text that is no position. Nothing is known of what was published after it, which the client has to be told.
    Unreadable,
}

impl Since {
    /// Reads what a client shows for one room; `None` where it shows nothing.
    pub fn read(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.parse().map_or(Self::Unreadable, Self::Position))
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Unreadable => f.write_str(UNREADABLE),
        }
    }
}

/// How far a subscription has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It has not begun, or there is no log: from the position that the client asked for, if any.
    Asked(Option<Since>),
    /// What was published after this position is still to come.
    At(Position),
    /// It is over.
    Over,
}

/// The subscriptions of one stream, by number.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    marks: Vec<Mark>,
    /// All subscriptions are given what is published, one trigger after the other.
    are_level: bool,
}

impl Marks {
    /// Those of subscriptions from these positions on.
    pub(super) fn new(since: impl Iterator<Item = Option<Since>>) -> Self {
        Self { marks: since.map(Mark::Asked).collect(), are_level: false }
    }

    /// How many subscriptions there are.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// From here on, whoever is given a publication tells that all others have been given what was published before it.
    pub(super) fn level(&mut self) {
        self.are_level = true;
    }

    /// Subscription `number` has been given all up to `position`.
    pub(super) fn advance(&mut self, number: usize, position: Position) {
        if let (true, Some(offset)) = (self.are_level, position.offset.checked_sub(1)) {
            let before = Position { offset, ..position };
            for mark in &mut self.marks {
                if let Mark::At(at) = mark
                    && (at.epoch != position.epoch || at.offset < offset)
                {
                    *at = before;
                }
            }
        }
        if let Some(mark) = self.marks.get_mut(number) {
            *mark = Mark::At(position);
        }
    }

    /// Everything up to `position` is of no interest any more: the client fetches it.
    pub(super) fn skip_to(&mut self, position: Option<Position>) {
        for mark in self.marks.iter_mut().filter(|mark| **mark != Mark::Over) {
            *mark = position.map_or(Mark::Asked(None), Mark::At);
        }
    }

    /// Subscription `number` is over.
    pub(super) fn end(&mut self, number: usize) {
        if let Some(mark) = self.marks.get_mut(number) {
            *mark = Mark::Over;
        }
    }
}

/// `POSITION`, or `POSITION;NUMBERS=POSITION;…` where others have come further than those that have come least far. `NUMBERS` is a
/// list such as `1,4-7`. A position is empty where nothing is known of one.
///
/// Each position stands there once. Of subscriptions that have all caught up there are at most two: the text has a few bytes
/// for each of them, and not a position.
impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alive = self.marks.iter().filter(|mark| **mark != Mark::Over);
        let least = alive.min_by_key(|mark| match mark {
            Mark::Asked(_) | Mark::Over => None,
            Mark::At(position) => Some(position.offset),
        });
        let Some(least) = least else { return Ok(()) };
        least.fmt(f)?;
        let others = self.marks.iter().enumerate().filter(|(_, mark)| *mark != least && **mark != Mark::Over);
        let mut others: Vec<(usize, Mark)> = others.map(|(number, mark)| (number, *mark)).collect();
        while let Some((_, first)) = others.first().copied() {
            let mut separator = SEPARATOR;
            let mut numbers = others.iter().filter(|(_, mark)| *mark == first).map(|(number, _)| *number).peekable();
            while let Some(from) = numbers.next() {
                let to = iter::from_fn({
                    let mut next = from + 1;
                    let numbers = &mut numbers;
                    move || numbers.next_if_eq(&next).inspect(|_| next += 1)
                });
                write!(f, "{separator}{from}")?;
                if let Some(to) = to.last() {
                    write!(f, "-{to}")?;
                }
                separator = ',';
            }
            f.write_str("=")?;
            first.fmt(f)?;
            others.retain(|(_, mark)| *mark != first);
        }
        Ok(())
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(Some(since)) => since.fmt(f),
            Self::At(position) => position.fmt(f),
            Self::Asked(None) | Self::Over => Ok(()),
        }
    }
}

/// A text is longer than that of `Marks` can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Reads the text of `Marks` that there are `rooms` of: the position of each of them. Looks at each part of the text once. What is
/// no text of `Marks` comes to positions that are none.
///
/// # Errors
/// When no `Marks` of so many subscriptions have so long a text.
pub fn read_all(text: &str, rooms: usize) -> Result<Vec<Option<Since>>, TooLong> {
    if text.len() > longest(rooms) {
        return Err(TooLong);
    }
    let mut parts = text.split(SEPARATOR);
    let mut all = vec![Since::read(parts.next().unwrap_or_default()); rooms];
    // No text names a room twice: one that does is not filled in for each of its ranges.
    let mut unnamed = rooms;
    for (numbers, position) in parts.filter_map(|part| part.split_once('=')) {
        let since = Since::read(position);
        for numbers in numbers.split(',') {
            let (from, to) = numbers.split_once('-').unwrap_or((numbers, numbers));
            let (Ok(from), Ok(to)) = (from.parse::<usize>(), to.parse::<usize>()) else { continue };
            let Some(some) = to.checked_add(1).and_then(|end| all.get_mut(from..end)) else { continue };
            let Some(left) = unnamed.checked_sub(some.len()) else { return Ok(all) };
            unnamed = left;
            some.fill(since);
        }
    }
    Ok(all)
}

/// The longest text of so many subscriptions: each with a position of its own.
fn longest(rooms: usize) -> usize {
    let digits = rooms.to_string().len();
    Position::LONGEST_TEXT + rooms * (1 + digits + 1 + Position::LONGEST_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Epoch;

    fn position(text: &str) -> Position {
        format!("00000000000{text}").parse().unwrap()
    }

    fn told(marks: &Marks) -> String {
        marks.to_string().replace("00000000000", "")
    }

    #[test]
    fn one_subscription_is_told_by_its_position() {
        let mut marks = Marks::new([None].into_iter());
        assert_eq!(told(&marks), "");
        marks.advance(0, position("e:7"));
        assert_eq!(told(&marks), "e:7");
        marks.level();
        marks.advance(0, position("e:9"));
        assert_eq!(told(&marks), "e:9");
    }

    #[test]
    fn while_they_catch_up_each_has_a_place_of_its_own() {
        let mut marks = Marks::new([Since::read("<\n>0:5"), None, Since::read("0:5")].into_iter());
        assert_eq!(marks.to_string(), "-;1=");
        marks.advance(1, position("e:40"));
        assert_eq!(told(&marks), "-;1=e:40");
        marks.advance(0, position("e:6"));
        marks.advance(2, position("e:6"));
        assert_eq!(told(&marks), "e:6;1=e:40");
        marks.advance(0, position("e:9"));
        assert_eq!(told(&marks), "e:6;0=e:9;1=e:40");
    }

    #[test]
    fn once_they_are_level_a_publication_tells_of_all_before_it() {
        let mut marks = Marks::new([None, None, None].into_iter());
        (0..3).for_each(|number| marks.advance(number, position("e:1")));
        marks.level();
        marks.advance(1, position("e:9"));
        assert_eq!(told(&marks), "e:8;1=e:9");
        marks.advance(2, position("e:9"));
        assert_eq!(told(&marks), "e:8;1-2=e:9");
        marks.advance(0, position("f:12"));
        assert_eq!(told(&marks), "f:11;0=f:12");
    }

    #[test]
    fn who_is_over_holds_nobody_back() {
        let mut marks = Marks::new([None, None].into_iter());
        (0..2).for_each(|number| marks.advance(number, position("e:1")));
        marks.end(0);
        marks.advance(1, position("e:4"));
        assert_eq!(told(&marks), "e:4");
    }

    #[test]
    fn after_a_gap_all_begin_where_it_ended() {
        let mut marks = Marks::new([None, None].into_iter());
        marks.advance(0, position("e:1"));
        marks.advance(1, position("e:3"));
        marks.skip_to(Some(position("f:20")));
        assert_eq!(told(&marks), "f:20");
        marks.skip_to(None);
        assert_eq!(told(&marks), "");
    }

    #[test]
    fn each_subscription_finds_its_position_again() {
        let [eight, nine] = ["00000000000e:8", "00000000000e:9"];
        let positions = |text: &str| {
            let text = text.replace("e:", "00000000000e:");
            let told = |since: Option<Since>| since.map(|since| since.to_string()).unwrap_or_default();
            read_all(&text, 4).unwrap().into_iter().map(told).collect::<Vec<_>>()
        };
        assert_eq!(positions("e:8;1=e:9"), [eight, nine, eight, eight]);
        assert_eq!(positions("e:8;0,2-3=e:9"), [nine, eight, nine, nine]);
        assert_eq!(positions("e:8"), [eight; 4]);
        assert_eq!(positions("e:8;;x;=;9=;2=;3-1=;3-4="), [eight, eight, "", eight]);
        assert_eq!(positions("x;2=<\n>"), ["-"; 4]);
        assert_eq!(positions(""), [""; 4]);
    }

    #[test]
    fn a_position_that_several_subscriptions_share_is_told_once() {
        let mut marks = Marks::new(iter::repeat_n(None, 128));
        (0..128).for_each(|number| marks.advance(number, position("e:1")));
        marks.level();
        (0..128).step_by(2).for_each(|number| marks.advance(number, position("e:9")));
        assert_eq!(marks.to_string().matches(':').count(), 2);
        (1..127).for_each(|number| marks.advance(number, position("e:9")));
        assert_eq!(told(&marks), "e:8;0-126=e:9");
    }

    #[test]
    fn no_text_of_marks_is_too_long_and_what_is_longer_is_not_read() {
        for rooms in [1, 9, 10, 128] {
            let epoch = |number: usize| Epoch::from_low_bits(number as u64);
            let far = |number| Position { epoch: epoch(number), offset: u64::MAX };
            let mut marks = Marks::new(iter::repeat_n(None, rooms));
            (0..rooms).for_each(|number| marks.advance(number, far(number)));
            let text = marks.to_string();
            let expected: Vec<_> = (0..rooms).map(|number| Some(Since::Position(far(number)))).collect();
            assert_eq!(read_all(&text, rooms).as_ref(), Ok(&expected));
            assert_eq!(read_all(&"x".repeat(longest(rooms) + 1), rooms), Err(TooLong));
        }
        assert!(longest(128) < 8 << 10);
    }

    #[test]
    fn a_room_that_a_text_names_again_and_again_is_not_filled_in_again() {
        let all = read_all("x;0-3=;0-3=y;0-3=y", 4).unwrap();
        assert_eq!(all, [None; 4]);
    }
}
