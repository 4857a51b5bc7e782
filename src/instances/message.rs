//! What instances tell each other, as it stands in the log: `{"instance":"<uuid>","came":"<sealed>","went":["<uuid>"]}`.
//!
//! What would let somebody act in a client's name, its cookies above all, is sealed: the broker, its disk, and whoever reads
//! either see which connections come and go, and no more.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    backend::{Identity, Reported},
    config::Secret,
};

/// So that the secret is of no use for anything else.
const PURPOSE: &[u8] = b"high-templar instances 1";

/// One message.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Message {
    /// Whose it is.
    pub(super) instance: Uuid,
    /// What `came` is all there is, the first of it at least.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) is_all: bool,
    /// Connections that it answers for, sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) came: Option<String>,
    /// Connections whose end it has reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) went: Vec<Uuid>,
    /// An instance that has died, for whose connections it answers from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) adopts: Option<Uuid>,
    /// It stops, and has reported all that there was.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) is_last: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Seals and opens `came`, with a key made of `RESUME_SECRET`.
#[derive(Debug)]
pub(super) struct Seal(LessSafeKey);

impl Seal {
    /// `None` only where the cipher is not there.
    pub(super) fn new(secret: &Secret) -> Option<Self> {
        let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), PURPOSE);
        UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// Seals the connections of `instance` that are in `piece`.
    pub(super) fn close(&self, instance: Uuid, piece: &[(Reported, Vec<Uuid>)]) -> Option<String> {
        let mut bytes = Vec::new();
        for (Reported { user, identity }, ids) in piece {
            bytes.push(u8::from(user.is_some()));
            put(&mut bytes, user.as_deref().unwrap_or_default().as_bytes())?;
            put(&mut bytes, identity.as_bytes())?;
            put(&mut bytes, &ids.iter().flat_map(|id| *id.as_bytes()).collect::<Vec<_>>())?;
        }
        let nonce: [u8; NONCE_LEN] = rand::random(); // of 96 bits: at one a second none comes twice for longer than this runs
        let aad = Aad::from(*instance.as_bytes());
        self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes).ok()?;
        Some(STANDARD_NO_PAD.encode([&nonce[..], &bytes].concat()))
    }

    /// Opens what `instance` has sealed; `None` when it was sealed with another secret, or is none of ours.
    pub(super) fn open(&self, instance: Uuid, sealed: &str) -> Option<Vec<(Uuid, Reported)>> {
        let mut bytes = STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
        let aad = Aad::from(*instance.as_bytes());
        let mut rest = &*self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, sealed).ok()?;
        let mut connections = Vec::new();
        while let Some((has_user, after)) = rest.split_first() {
            rest = after;
            let (user, identity, ids) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
            let user = if *has_user == 0 { None } else { Some(std::str::from_utf8(user).ok()?.into()) };
            let reported = Reported { user, identity: Identity::from_bytes(identity) };
            let (ids, []) = ids.as_chunks::<16>() else { return None };
            connections.extend(ids.iter().map(|id| (Uuid::from_bytes(*id), reported.clone())));
        }
        Some(connections)
    }
}

/// `connections` in pieces of about `limit_bytes`; what is the same for several connections is there once.
pub(super) fn pieces(connections: Vec<(Uuid, Reported)>, limit_bytes: usize) -> Vec<Vec<(Reported, Vec<Uuid>)>> {
    let mut groups: HashMap<Reported, Vec<Uuid>> = HashMap::new();
    for (id, reported) in connections {
        groups.entry(reported).or_default().push(id);
    }
    let (mut pieces, mut bytes) = (vec![Vec::new()], 0);
    for (reported, ids) in groups {
        let length = reported.identity.as_bytes().len() + reported.user.as_ref().map_or(0, |user| user.len());
        for ids in ids.chunks(limit_bytes / 32) {
            bytes += length + size_of_val(ids);
            if bytes > limit_bytes {
                pieces.push(Vec::new());
                bytes = length + size_of_val(ids);
            }
            if let Some(piece) = pieces.last_mut() {
                piece.push((reported.clone(), ids.to_vec()));
            }
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Appends `part` behind its length.
fn put(bytes: &mut Vec<u8>, part: &[u8]) -> Option<()> {
    bytes.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(part);
    Some(())
}

/// Takes such a part from the front of `rest`.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Uuid = Uuid::from_u128(1);

    fn connections() -> Vec<(Uuid, Reported)> {
        let reported = |user: Option<&str>, identity: &[u8]| Reported {
            user: user.map(Into::into),
            identity: Identity::from_bytes(identity),
        };
        vec![
            (Uuid::from_u128(6), reported(Some("17"), b"cookie:session=secret\n")),
            (Uuid::from_u128(7), reported(Some("17"), b"cookie:session=secret\n")),
            (Uuid::from_u128(8), reported(None, b"")),
            (Uuid::from_u128(9), reported(Some(""), b"\xff")),
        ]
    }

    fn close(seal: &Seal) -> String {
        let mut pieces = pieces(connections(), 1 << 20);
        assert_eq!((pieces.len(), pieces[0].len()), (1, 3));
        seal.close(ME, &pieces.remove(0)).unwrap()
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_same_secret_only_and_not_as_somebody_elses() {
        let [one, two] = ["one", "two"].map(|secret| Seal::new(&Secret::new(secret)).unwrap());
        let sealed = close(&one);
        let mut opened = one.open(ME, &sealed).unwrap();
        opened.sort_by_key(|(id, _)| *id);
        assert_eq!(opened, connections());
        assert!(two.open(ME, &sealed).is_none());
        assert!(one.open(Uuid::from_u128(2), &sealed).is_none());
        for other in ["", "x", &sealed[1..], &sealed[..sealed.len() - 2]] {
            assert!(one.open(ME, other).is_none(), "{other}");
        }
    }

    #[test]
    fn no_cookie_stands_in_the_log() {
        let seal = Seal::new(&Secret::new("one")).unwrap();
        let sealed = close(&seal);
        let bytes = STANDARD_NO_PAD.decode(&sealed).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret") && !sealed.contains("secret"));
        assert_ne!(sealed, close(&seal), "the same twice looks different");
    }

    #[test]
    fn many_connections_are_told_in_pieces_that_are_not_too_large() {
        let identity = |number: u128| Identity::from_bytes(format!("cookie:{number:060000}\n").as_bytes());
        let large =
            (0..20).map(|number| (Uuid::from_u128(number), Reported { user: None, identity: identity(number) }));
        let many =
            (100..40_100).map(|number| (Uuid::from_u128(number), Reported { user: None, identity: identity(0) }));
        let pieces = pieces(large.chain(many).collect(), 256 << 10);
        let seal = Seal::new(&Secret::new("one")).unwrap();
        let sealed: Vec<_> = pieces.iter().map(|piece| seal.close(ME, piece).unwrap()).collect();
        assert!(sealed.iter().all(|sealed| sealed.len() < 512 << 10), "{:?}", sealed.iter().map(String::len).max());
        let opened: usize = sealed.iter().map(|sealed| seal.open(ME, sealed).unwrap().len()).sum();
        assert_eq!(opened, 40_020);
    }
}
