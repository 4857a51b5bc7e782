//! What callers are answered.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::SystemTime,
};

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Channel, Done, State, User};
use crate::{
    channelstream::{Call, object::Object},
    protocol::channelstream::{
        Scalar, Timestamp,
        requests::{ChannelConfig, InfoConfig},
    },
};

/// The version of Channelstream whose API this is.
const VERSION: &str = "0.7.1";

/// What is told of channels: `channels_info`, and the answer to `/info`.
#[derive(Serialize)]
struct ChannelsInfo<'s> {
    channels: BTreeMap<&'s str, ChannelInfo<'s>>,
    users: Vec<UserInfo<'s>>,
}

#[derive(Serialize)]
struct ChannelInfo<'s> {
    uuid: Uuid,
    name: &'s str,
    long_name: Option<&'s str>,
    settings: ChannelConfig,
    history: Vec<Box<RawValue>>,
    last_active: &'s Timestamp,
    total_connections: usize,
    total_users: usize,
    users: Vec<&'s str>,
}

#[derive(Serialize)]
struct UserInfo<'s> {
    user: &'s str,
    state: BTreeMap<&'s str, &'s Scalar>,
}

#[derive(Serialize)]
struct Listener<'s> {
    user: &'s str,
    uuid: Uuid,
    state: BTreeMap<&'s str, &'s Scalar>,
    connections: &'s [Uuid],
}

impl State {
    /// What who has made `call` is told after it has been `done`; JSON.
    pub(in crate::channelstream) fn answer(&self, call: &Call, done: &Done) -> String {
        match (call, done) {
            (Call::Connect(request), _) => {
                let Some(user) = self.users.get(request.username.as_str()) else { return null() };
                let names = request.channels.iter().map(String::as_str);
                Object::new()
                    .with("conn_id", &request.conn_id)
                    .with("username", &request.username)
                    .with("state", &user.state)
                    .with("public_state", &user.public_state())
                    .with("channels", &request.channels)
                    .with("channels_info", &self.info(names, &request.info))
                    .close()
            }
            (Call::Subscribe(request), Done::Channels(joined)) => {
                self.membership(request.conn_id, &request.info, "subscribed_to", joined)
            }
            (Call::Unsubscribe(request), Done::Channels(left)) => {
                self.membership(request.conn_id, &request.info, "unsubscribed_from", left)
            }
            (Call::UserState(request), Done::State(changed)) => {
                let Some(user) = self.users.get(request.user.as_str()) else { return null() };
                Object::new()
                    .with("user_state", &user.state)
                    .with("changed_state", changed)
                    .with("public_keys", &user.public_keys)
                    .close()
            }
            (Call::Message(items), _) => {
                list(items.iter().filter(|item| item.to.is_somebody()).map(|item| item.reply_json()))
            }
            (Call::Edit(items), _) => list(items.iter().map(|item| item.reply_json())),
            (Call::Delete(items), _) => list(items.iter().map(|item| item.reply_json())),
            (Call::ChannelConfig(configs), _) => {
                let nobody = InfoConfig { include_history: false, include_users: false, ..InfoConfig::default() };
                text(&self.info(configs.keys().map(String::as_str), &nobody))
            }
            (Call::Info(config), _) => match &config.channels {
                Some(names) => text(&self.info(names.iter().map(String::as_str), config)),
                None => text(&self.info(self.channels.keys().map(|name| &**name), config)),
            },
            (Call::Statistics, _) => self.statistics(),
            (_, Done::Was(was)) => was.to_string(),
            _ => null(),
        }
    }

    fn membership(&self, id: Uuid, config: &InfoConfig, changed: &str, names: &[Arc<str>]) -> String {
        let channels: Vec<_> = self.connections.get(&id).into_iter().flat_map(|known| &known.channels).collect();
        let info = self.info(channels.iter().map(|name| &***name), config);
        Object::new().with("channels", &channels).with("channels_info", &info).with(changed, names).close()
    }

    fn info<'s>(&'s self, names: impl Iterator<Item = &'s str>, config: &InfoConfig) -> ChannelsInfo<'s> {
        let excluded: HashSet<&str> = config.exclude_channels.iter().map(String::as_str).collect();
        let mut channels = BTreeMap::new();
        let mut users = BTreeSet::new();
        for name in names.filter(|name| !excluded.contains(name)) {
            let Some((name, channel)) = self.channels.get_key_value(name) else { continue };
            if config.include_users {
                users.extend(channel.members.users().map(|user| &**user));
            }
            channels.insert(&**name, channel.info(name, config));
        }
        let users = users.into_iter().filter_map(|name| {
            let user = self.users.get(name)?;
            Some(UserInfo { user: name, state: user.told(config.return_public_state) })
        });
        ChannelsInfo { channels, users: users.collect() }
    }

    /// `/admin/admin.json`.
    fn statistics(&self) -> String {
        let mut listeners: Vec<_> = self.users.iter().filter(|(_, user)| !user.connections.is_empty()).collect();
        listeners.sort_by_key(|(name, _)| *name);
        let listeners: Vec<_> = listeners
            .into_iter()
            .map(|(name, user)| Listener {
                user: name,
                uuid: user.uuid,
                state: user.public_state(),
                connections: &user.connections,
            })
            .collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let uptime = now.as_secs().saturating_sub(self.began / 1_000_000);
        let channels = self.info(self.channels.keys().map(|name| &**name), &InfoConfig::default()).channels;
        Object::new()
            .with("remembered_user_count", &self.users.len())
            .with("unique_user_count", &listeners.len())
            .with("total_connections", &self.connections.len())
            .with("total_channels", &self.channels.len())
            .with("total_messages", &self.total_messages)
            .with("total_unique_messages", &self.total_unique_messages)
            .with("channels", &channels)
            .with("users", &listeners)
            .with("uptime", &duration(uptime))
            .with("version", VERSION)
            .close()
    }

    /// Users, connections and channels there are.
    pub(in crate::channelstream) fn counts(&self) -> [usize; 3] {
        [self.users.len(), self.connections.len(), self.channels.len()]
    }
}

impl Channel {
    fn info<'s>(&'s self, name: &'s str, config: &InfoConfig) -> ChannelInfo<'s> {
        let mut users: Vec<&str> = Vec::new();
        if config.include_users {
            users.extend(self.members.users().map(|user| &**user));
            users.sort_unstable();
        }
        let mut history = Vec::new();
        if config.include_history {
            let entries = self.history.iter().map(|posted| posted.message.history_json(posted.edited.as_ref()));
            history.extend(entries.filter_map(|text| RawValue::from_string(text).ok()));
        }
        ChannelInfo {
            uuid: self.uuid,
            name,
            long_name: None,
            settings: self.config,
            history,
            last_active: &self.last_active,
            total_connections: self.members.connections(),
            total_users: users.len(),
            users,
        }
    }
}

impl User {
    fn told(&self, is_public: bool) -> BTreeMap<&str, &Scalar> {
        if is_public {
            return self.public_state();
        }
        self.state.iter().map(|(key, value)| (key.as_str(), value)).collect()
    }
}

/// `H:MM:SS`, or `N days, H:MM:SS`.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        days => format!("{days} days, "),
    };
    format!("{days}{hours}:{minutes:02}:{:02}", seconds % 60)
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| null())
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn null() -> String {
    "null".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_as_python_writes_it() {
        assert_eq!(duration(2), "0:00:02");
        assert_eq!(duration(86_400 + 3661), "1 day, 1:01:01");
        assert_eq!(duration(3 * 86_400 + 36_000), "3 days, 10:00:00");
    }
}
