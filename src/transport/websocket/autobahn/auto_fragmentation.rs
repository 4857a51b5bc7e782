//! Section 10: a message that a client's library cuts into frames of its own choice.

use super::{
    Cases,
    case::{Case, fragments, text},
    client::TEXT,
};

pub(super) fn cases() -> Cases {
    let payload = [b'*'; 65_536];
    Box::new(std::iter::once(Case::answered("10.1.1", [fragments(TEXT, &payload, 1300)], [text(payload)])))
}
