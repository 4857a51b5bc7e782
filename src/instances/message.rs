//! What instances tell each other, as it stands in the log: `{"instance":"<uuid>","came":"<sealed>","went":["<uuid>"]}`.
//!
//! What would let somebody act in a client's name, its cookies above all, is sealed: the broker, its disk, and whoever reads
//! either see which connections come and go, and no more.

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

    /// Seals `connections` of `instance`.
    pub(super) fn close(&self, instance: Uuid, connections: &[(Uuid, Reported)]) -> Option<String> {
        let mut bytes = Vec::new();
        for (id, Reported { user, identity }) in connections {
            bytes.extend_from_slice(id.as_bytes());
            bytes.push(u8::from(user.is_some()));
            put(&mut bytes, user.as_deref().unwrap_or_default().as_bytes())?;
            put(&mut bytes, identity.as_bytes())?;
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
        while !rest.is_empty() {
            let (id, after) = rest.split_first_chunk::<16>()?;
            let (has_user, after) = after.split_first()?;
            rest = after;
            let (user, identity) = (take(&mut rest)?, take(&mut rest)?);
            let user = if *has_user == 0 { None } else { Some(std::str::from_utf8(user).ok()?.into()) };
            connections.push((Uuid::from_bytes(*id), Reported { user, identity: Identity::from_bytes(identity) }));
        }
        Some(connections)
    }
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
            (Uuid::from_u128(7), reported(Some("17"), b"cookie:session=secret\n")),
            (Uuid::from_u128(8), reported(None, b"")),
            (Uuid::from_u128(9), reported(Some(""), b"\xff")),
        ]
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_same_secret_only_and_not_as_somebody_elses() {
        let [one, two] = ["one", "two"].map(|secret| Seal::new(&Secret::new(secret)).unwrap());
        let sealed = one.close(ME, &connections()).unwrap();
        assert_eq!(one.open(ME, &sealed).unwrap(), connections());
        assert!(two.open(ME, &sealed).is_none());
        assert!(one.open(Uuid::from_u128(2), &sealed).is_none());
        for other in ["", "x", &sealed[1..], &sealed[..sealed.len() - 2]] {
            assert!(one.open(ME, other).is_none(), "{other}");
        }
    }

    #[test]
    fn no_cookie_stands_in_the_log() {
        let seal = Seal::new(&Secret::new("one")).unwrap();
        let sealed = seal.close(ME, &connections()).unwrap();
        let bytes = STANDARD_NO_PAD.decode(&sealed).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret") && !sealed.contains("secret"));
        assert_ne!(sealed, seal.close(ME, &connections()).unwrap(), "the same twice looks different");
    }
}
