//! How far each subscription of a stream has come: what a client has to show to go on from there.
//!
//! One position would not do for several subscriptions. While they are given what they have missed, each is at a place of its
//! own; and what is published to two of them comes as two events, between which the stream may break.

use std::fmt;

use crate::protocol::Position;

/// Stands between the position of most subscriptions and those of the others.
const SEPARATOR: char = ';';

/// How far a subscription has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    /// It has not begun, or there is no log: from the position that the client asked for, if any.
    Asked(Box<str>),
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
    pub(super) fn new<'a>(since: impl Iterator<Item = Option<&'a str>>) -> Self {
        // A client may have written anything; what was never given out stands for nothing all the same.
        let is_ours = |c: &char| c.is_ascii_alphanumeric() || *c == ':';
        let mark = |since: Option<&str>| Mark::Asked(since.unwrap_or_default().chars().filter(is_ours).collect());
        Self { marks: since.map(mark).collect(), are_level: false }
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
            *mark = position.map_or(Mark::Asked("".into()), Mark::At);
        }
    }

    /// Subscription `number` is over.
    pub(super) fn end(&mut self, number: usize) {
        if let Some(mark) = self.marks.get_mut(number) {
            *mark = Mark::Over;
        }
    }
}

/// `POSITION`, or `POSITION;NUMBER=POSITION;…` where others have come further than those that have come least far. A position
/// is empty where nothing is known of one.
impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alive = self.marks.iter().filter(|mark| **mark != Mark::Over);
        let least = alive.min_by_key(|mark| match mark {
            Mark::Asked(_) | Mark::Over => None,
            Mark::At(position) => Some(position.offset),
        });
        let Some(least) = least else { return Ok(()) };
        least.fmt(f)?;
        for (number, mark) in self.marks.iter().enumerate() {
            if mark != least && *mark != Mark::Over {
                write!(f, "{SEPARATOR}{number}=")?;
                mark.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(text) => f.write_str(text),
            Self::At(position) => position.fmt(f),
            Self::Over => Ok(()),
        }
    }
}

/// The position of subscription `number` in the text that `Marks` were told as. Whatever else the text is, is given back as it is.
pub(super) fn mark_of(text: &str, number: usize) -> &str {
    let mut parts = text.split(SEPARATOR);
    let least = parts.next().unwrap_or_default();
    let own = parts.find_map(|part| part.split_once('=').filter(|(other, _)| other.parse() == Ok(number)));
    own.map_or(least, |(_, position)| position)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut marks = Marks::new([Some("0:5"), None, Some("<\n>0:5")].into_iter());
        assert_eq!(marks.to_string(), "0:5;1=");
        marks.advance(1, position("e:40"));
        assert_eq!(told(&marks), "0:5;1=e:40");
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
        assert_eq!(told(&marks), "e:8;1=e:9;2=e:9");
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
        let positions = |text: &str| [0, 1, 2].map(|number| mark_of(text, number).to_owned());
        assert_eq!(positions("e:8;1=e:9"), ["e:8", "e:9", "e:8"]);
        assert_eq!(positions("e:8"), ["e:8"; 3]);
        assert_eq!(positions("e:8;;x;=;9=;2="), ["e:8", "e:8", ""]);
    }
}
