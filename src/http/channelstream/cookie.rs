//! The cookie of who has signed in to the admin pages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use ring::hmac;

use crate::config;

/// Its name, as Channelstream has it.
const NAME: &str = "auth_tkt";
/// What the key is used for, so that it makes nothing else.
const PURPOSE: &[u8] = b"high-templar channelstream admin 1";
/// How long it counts.
const AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of the expiry, in seconds since 1970.
const EXPIRY_BYTES: usize = 8;

/// Makes and checks cookies. Another admin or another password makes all that were given out worthless.
pub(super) struct Cookies {
    /// Nobody can sign in without.
    key: Option<hmac::Key>,
}

impl Cookies {
    pub(super) fn new(config: &config::Channelstream) -> Self {
        let key = config.admin_secret.as_ref().map(|password| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, config.cookie_secret.as_bytes());
            let mut signed = PURPOSE.to_vec();
            for part in [config.admin_user.as_bytes(), password.as_bytes()] {
                signed.extend_from_slice(&(part.len() as u64).to_be_bytes());
                signed.extend_from_slice(part);
            }
            hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, &signed).as_ref())
        });
        Self { key }
    }

    /// A `Set-Cookie` for who has signed in at `now`.
    pub(super) fn given(&self, now: SystemTime, is_https: bool) -> Option<String> {
        let expiry = seconds(now.checked_add(AGE)?).to_be_bytes();
        let tag = hmac::sign(self.key.as_ref()?, &expiry);
        let value = BASE64_URL_SAFE_NO_PAD.encode([&expiry, tag.as_ref()].concat());
        Some(set(&value, AGE, is_https))
    }

    /// A `Set-Cookie` that takes it away.
    pub(super) fn taken(is_https: bool) -> String {
        set("", Duration::ZERO, is_https)
    }

    /// Whether a request with these headers comes from somebody who has signed in, and not too long ago.
    pub(super) fn is_shown(&self, headers: &HeaderMap, now: SystemTime) -> bool {
        let Some(key) = &self.key else { return false };
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| *name == NAME).any(|(_, value)| counts(key, value, now))
    }
}

fn counts(key: &hmac::Key, value: &str, now: SystemTime) -> bool {
    let Ok(bytes) = BASE64_URL_SAFE_NO_PAD.decode(value) else { return false };
    let Some((expiry, tag)) = bytes.split_first_chunk::<EXPIRY_BYTES>() else { return false };
    hmac::verify(key, expiry, tag).is_ok() && seconds(now) < u64::from_be_bytes(*expiry)
}

fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn set(value: &str, age: Duration, is_https: bool) -> String {
    let secure = if is_https { "; Secure" } else { "" };
    format!("{NAME}={value}; Max-Age={}; Path=/; SameSite=Lax; HttpOnly{secure}", age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::{super::tests::config, *};

    fn value(set: &str) -> &str {
        set.strip_prefix("auth_tkt=").unwrap().split_once(';').unwrap().0
    }

    fn is_shown(cookies: &Cookies, line: &str, now: SystemTime) -> bool {
        cookies.is_shown(&HeaderMap::from_iter([(header::COOKIE, line.parse().unwrap())]), now)
    }

    #[test]
    fn a_cookie_counts_for_thirty_days() {
        let (cookies, now) = (Cookies::new(&config()), SystemTime::now());
        let set = cookies.given(now, true).unwrap();
        assert!(set.ends_with("; Max-Age=2592000; Path=/; SameSite=Lax; HttpOnly; Secure"), "{set}");
        assert!(!cookies.given(now, false).unwrap().contains("Secure"));
        let line = format!("a=b; auth_tkt={}; c=d", value(&set));
        assert!(is_shown(&cookies, &line, now));
        assert!(is_shown(&cookies, &line, now + AGE - Duration::from_secs(1)));
        assert!(!is_shown(&cookies, &line, now + AGE));
        assert!(is_shown(&cookies, &format!("auth_tkt=; {line}"), now), "beside one that was taken away");
        assert_eq!(Cookies::taken(false), "auth_tkt=; Max-Age=0; Path=/; SameSite=Lax; HttpOnly");
    }

    #[test]
    fn no_change_of_any_letter_goes_unnoticed() {
        let (cookies, now) = (Cookies::new(&config()), SystemTime::now());
        let set = cookies.given(now, false).unwrap();
        let good = value(&set);
        for at in 0..good.len() {
            let other = if good.as_bytes()[at] == b'A' { 'B' } else { 'A' };
            let bad = format!("{}{other}{}", &good[..at], &good[at + 1..]);
            assert!(!is_shown(&cookies, &format!("auth_tkt={bad}"), now), "{at}");
        }
        for bad in ["", "x", &good[..good.len() - 1], &good[..11]] {
            assert!(!is_shown(&cookies, &format!("auth_tkt={bad}"), now), "{bad}");
        }
    }

    #[test]
    fn a_cookie_of_another_admin_password_or_secret_counts_for_nothing() {
        let now = SystemTime::now();
        let line = Cookies::new(&config()).given(now, false).unwrap();
        let secret = |text| crate::config::Secret::new(text);
        for other in [
            config::Channelstream { admin_user: "root".to_owned(), ..config() },
            config::Channelstream { admin_secret: Some(secret("changed")), ..config() },
            config::Channelstream { admin_secret: None, ..config() },
            config::Channelstream { cookie_secret: secret("other"), ..config() },
        ] {
            assert!(!is_shown(&Cookies::new(&other), &line, now));
        }
        assert!(is_shown(&Cookies::new(&config()), &line, now));
    }
}
