//! The signature of a call (itsdangerous' `TimestampSigner`).
//!
//! A token is `value.seconds.mac`. What was signed is not compared with anything, so a token opens every endpoint.

use std::time::{Duration, SystemTime};

use base64::{
    Engine,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ring::{digest, hmac};

use crate::config::Secret;

/// Python writes no padding, and reads it if it is there.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Makes and checks signatures with one secret.
#[derive(Debug, Clone)]
pub struct Signer {
    key: hmac::Key,
    max_age: Option<Duration>,
}

impl Signer {
    /// Signatures with `secret` that count for `max_age`, or for ever.
    pub fn new(secret: &Secret, max_age: Option<Duration>) -> Self {
        let key = [b"itsdangerous.Signer".as_slice(), b"signer", secret.as_bytes()].concat();
        let key = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &key);
        Self { key: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_ref()), max_age }
    }

    /// Whether `token` was signed with the secret, not too long before `now`.
    ///
    /// Age is counted in whole seconds. A token from the future counts.
    pub fn verify(&self, token: &str, now: SystemTime) -> bool {
        let Some((payload, mac)) = token.rsplit_once('.') else { return false };
        let Ok(mac) = BASE64.decode(mac) else { return false };
        if hmac::verify(&self.key, payload.as_bytes(), &mac).is_err() {
            return false;
        }
        let signed = payload.rsplit_once('.').and_then(|(_, seconds)| read(seconds));
        signed.is_some_and(|signed| {
            let age = seconds(now).saturating_sub(signed);
            self.max_age.is_none_or(|most| age <= most.as_secs())
        })
    }

    /// The token for `value`, signed at `now`.
    #[cfg(test)]
    pub(crate) fn sign(&self, value: &str, now: SystemTime) -> String {
        let seconds = seconds(now).to_be_bytes();
        let zeros = seconds.iter().take_while(|byte| **byte == 0).count();
        let payload = format!("{value}.{}", BASE64.encode(&seconds[zeros..]));
        let mac = hmac::sign(&self.key, payload.as_bytes());
        format!("{payload}.{}", BASE64.encode(mac))
    }
}

/// Seconds since 1970, big-endian, without leading zeros.
fn read(text: &str) -> Option<u64> {
    let bytes = BASE64.decode(text).ok()?;
    let mut seconds = [0; 8];
    let at = seconds.len().checked_sub(bytes.len())?;
    seconds[at..].copy_from_slice(&bytes);
    Some(u64::from_be_bytes(seconds))
}

fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn signer(secret: &str) -> Signer {
        Signer::new(&Secret::new(secret), MINUTE)
    }

    #[test]
    fn tokens_are_those_of_itsdangerous() {
        for (secret, value, token) in [
            ("secret", "channelstream", "channelstream.ZVPxAA.UB9ITnnv9UITu0ka92WJCn1VFsQ"),
            ("cs-test-secret", "/connect", "/connect.ZVPxAA.Lfl_5PEqqiNStCZZsuMwNad72sk"),
            ("zażółć", "/message", "/message.ZVPxAA.lpWsqYWYrcmdSmk2SJaK7-iOzyI"),
        ] {
            let now = at(1_700_000_000);
            assert_eq!(signer(secret).sign(value, now), token);
            assert!(signer(secret).verify(token, now), "{token}");
            assert!(signer(secret).verify(&format!("{token}="), now), "padding is optional");
            assert!(!signer("another").verify(token, now), "{token}");
            assert!(!signer(secret).verify(&token.replacen(&value[..1], "x", 1), now), "{token}");
        }
    }

    #[test]
    fn a_signature_counts_for_sixty_seconds_and_not_for_one_more() {
        let signer = signer("secret");
        let token = signer.sign("", at(1000));
        for (now, counts) in [(1000, true), (1060, true), (1061, false), (0, true), (999, true), (u64::MAX >> 2, false)]
        {
            assert_eq!(signer.verify(&token, at(now)), counts, "{now}");
        }
        assert!(Signer::new(&Secret::new("secret"), None).verify(&token, at(u64::MAX >> 2)));
    }

    #[test]
    fn what_was_signed_may_be_anything() {
        let (signer, now) = (signer("secret"), at(1_700_000_000));
        for value in ["", ".", "a.b.c", "x.ZVPxAA.UB9ITnnv9UITu0ka92WJCn1VFsQ", "ż\n"] {
            assert!(signer.verify(&signer.sign(value, now), now), "{value}");
        }
        for token in ["", ".", "..", "...", "channelstream", "a.b", "UB9ITnnv9UITu0ka92WJCn1VFsQ"] {
            assert!(!signer.verify(token, now), "{token}");
        }
    }

    #[test]
    fn a_time_that_is_none_does_not_count_even_if_it_is_signed() {
        let signer = Signer::new(&Secret::new("secret"), None);
        for payload in ["ZVPxAA", "a.*", "a.AAAAAAAAAAAAAAAAAAAA"] {
            let mac = BASE64.encode(hmac::sign(&signer.key, payload.as_bytes()));
            assert!(!signer.verify(&format!("{payload}.{mac}"), at(0)), "{payload}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused(token in "\\PC*", now in 0..u64::MAX >> 2) {
            prop_assert!(!signer("secret").verify(&token, at(now)));
        }

        #[test]
        fn one_wrong_character_is_refused(value in "[a-z.]{0,9}", place in 0..20_usize) {
            let signer = signer("secret");
            let token = signer.sign(&value, at(1_700_000_000));
            let mut wrong: Vec<char> = token.chars().collect();
            let place = place % wrong.len();
            wrong[place] = if wrong[place] == '!' { '?' } else { '!' };
            let wrong: String = wrong.into_iter().collect();
            prop_assert!(!signer.verify(&wrong, at(1_700_000_000)));
        }
    }
}
