//! Which triggers reach which subscriptions.

use crate::room::{Numbers, RoomKey};

/// On which side a `"*"` stands for any value when triggers are matched with subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WildcardDispatch {
    /// On either side; a subscription gets a trigger at most once.
    Both,
    /// On the subscription's side only; a subscription gets a trigger at most once.
    Subscriptions,
    /// On neither: 3.1's delivery, in which a room listed twice is delivered twice.
    Exact,
}

impl WildcardDispatch {
    /// How this mode compares the numbers in rooms.
    pub fn numbers(self) -> Numbers {
        match self {
            Self::Exact => Numbers::ByType,
            Self::Both | Self::Subscriptions => Numbers::ByValue,
        }
    }

    /// How often a trigger for `rooms` is delivered to a subscription to `subscribed`, when the two are looked at by
    /// themselves. The index of the hub comes to the same for many at once.
    pub(crate) fn deliveries(self, rooms: &[RoomKey], subscribed: &RoomKey) -> usize {
        let reaches = |room: &&RoomKey| match self {
            Self::Both => subscribed.agrees(room),
            Self::Subscriptions => subscribed.covers(room),
            Self::Exact => room.as_str() == subscribed.as_str(),
        };
        match self {
            Self::Both | Self::Subscriptions => usize::from(rooms.iter().any(|room| reaches(&room))),
            Self::Exact => rooms.iter().filter(reaches).count(),
        }
    }
}
