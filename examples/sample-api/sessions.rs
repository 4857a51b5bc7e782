//! Who is who: the users there are, and which session cookie is whose.

use std::collections::HashMap;

use headers::{Cookie, HeaderMapExt};
use http::HeaderMap;
use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

/// Somebody who can log in.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct User {
    pub(crate) id: u32,
    pub(crate) name: &'static str,
}

static USERS: [User; 2] = [User { id: 1, name: "alice" }, User { id: 2, name: "bob" }];

impl User {
    /// The user of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        USERS.iter().find(|user| user.name == name)
    }
}

/// Who is logged in, by the value of the cookie.
///
/// Sessions live in memory: a restart logs everybody out. Real APIs keep them elsewhere, and so stay stateless.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, &'static User>>);

impl Sessions {
    /// Starts a session. What the cookie has to be set to.
    pub(crate) fn open(&self, user: &'static User) -> String {
        let token = Uuid::new_v4().simple().to_string();
        let cookie = set_cookie(&token, "");
        self.0.lock().insert(token, user);
        cookie
    }

    /// Ends the session of a request, if it has one. What the cookie has to be set to.
    pub(crate) fn close(&self, request: &HeaderMap) -> String {
        if let Some(token) = token(request) {
            self.0.lock().remove(&token);
        }
        set_cookie("", "; Max-Age=0")
    }

    /// Whose request it is.
    pub(crate) fn user(&self, request: &HeaderMap) -> Option<&'static User> {
        let token = token(request)?;
        self.0.lock().get(&token).copied()
    }
}

fn token(request: &HeaderMap) -> Option<String> {
    request.typed_get::<Cookie>()?.get("session").map(str::to_owned)
}

fn set_cookie(token: &str, more: &str) -> String {
    format!("session={token}; Path=/; HttpOnly; SameSite=Lax{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::header::COOKIE, cookie.parse().unwrap())])
    }

    #[test]
    fn a_session_is_known_until_it_is_closed() {
        let sessions = Sessions::default();
        let set_cookie = sessions.open(User::named("alice").unwrap());
        let (cookie, _) = set_cookie.split_once(';').unwrap();
        let request = request(&format!("other=1; {cookie}"));
        assert_eq!(sessions.user(&request), User::named("alice"));
        sessions.close(&request);
        assert_eq!(sessions.user(&request), None);
    }

    #[test]
    fn an_invented_session_is_nobodys() {
        let sessions = Sessions::default();
        sessions.open(User::named("bob").unwrap());
        assert_eq!(sessions.user(&request("session=")), None);
        assert_eq!(sessions.user(&HeaderMap::new()), None);
    }
}
