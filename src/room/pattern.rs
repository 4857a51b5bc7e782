//! Wildcards: which of a room's values stand for anything.

/// The positions, in the order of a room's sorted keys, at which a room has the wildcard `"*"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Mask(Box<[u32]>);

impl Mask {
    /// Whether the room has no wildcard at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The positions of both.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut positions: Vec<u32> = self.positions().chain(other.positions()).collect();
        positions.sort_unstable();
        positions.dedup();
        positions.into_iter().collect()
    }

    /// The positions, ascending.
    pub fn positions(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for Mask {
    /// From positions in ascending order.
    fn from_iter<I: IntoIterator<Item = u32>>(positions: I) -> Self {
        Self(positions.into_iter().collect())
    }
}
