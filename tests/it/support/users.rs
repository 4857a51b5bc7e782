//! An application that knows its users by a cookie, and may change its mind about them.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    StubBackend,
    backend::{Answer, Asked},
};

/// What each user may join; who is not named may join `{"target":"message"}` and any `{"customer":…}`. Any number of
/// backends answer by it.
#[derive(Clone, Default)]
pub struct Users(Arc<Mutex<HashMap<String, Option<Value>>>>);

impl Users {
    /// A backend that answers so from now on.
    pub async fn backend(&self) -> StubBackend {
        let users = self.clone();
        StubBackend::answering(move |asked| users.answer(asked)).await
    }

    /// The user with the id of the cookie `user` may join `rooms`.
    pub fn allow(&self, user: &str, rooms: Value) {
        self.0.lock().insert(user.to_owned(), Some(rooms));
    }

    /// Nobody knows the user any more.
    pub fn log_out(&self, user: &str) {
        self.0.lock().insert(user.to_owned(), None);
    }

    /// What is answered to `asked`; hooks are taken.
    pub fn answer(&self, asked: &Asked) -> Answer {
        let user = user(asked);
        let rooms = match self.0.lock().get(user) {
            Some(rooms) => rooms.clone(),
            None => Some(json!([{"target": "message"}, {"customer": "*"}])),
        };
        let Some(rooms) = rooms else { return Answer::Reply(403, String::new()) };
        let id: Value = user.parse::<u64>().map_or(json!(user), |id| json!(id));
        Answer::Reply(200, json!({"allowed_rooms": rooms, "user": {"data": {"id": id}}}).to_string())
    }
}

/// Whom the backend is asked for.
pub fn user(asked: &Asked) -> &str {
    let cookies = asked.header("cookie").unwrap_or_default();
    cookies.split("; ").find_map(|cookie| cookie.strip_prefix("user=")).unwrap_or_default()
}
