//! Messages: posted, edited, deleted.

use std::sync::Arc;

use super::{
    Context, Done, Effect, Room, State,
    frames::{Body, Kept, Posted},
};
use crate::protocol::channelstream::{
    LIVE, LIVE_CHANGE,
    requests::{self, Recipients},
};

impl Body {
    /// The frame for those who are listening.
    pub(super) fn live(&self) -> bytes::Bytes {
        let mut text = match self {
            Self::Message(posted) => posted.message.frame_start(posted.edited.as_ref()),
            Self::Other(text) => text.clone(),
            Self::Change(text) => return format!("{text}{LIVE_CHANGE}").into(),
        };
        text.push_str(LIVE);
        text.into()
    }
}

impl State {
    pub(super) fn post(&mut self, items: &[requests::Message], context: &mut Context<'_>) -> Done {
        for item in items.iter().filter(|item| item.to.is_somebody()) {
            let posted = Arc::new(Posted { message: item.clone(), edited: None });
            self.total_unique_messages += 1;
            let receivers = match &item.to.channel {
                Some(name) => {
                    let Some((name, channel)) = self.known_channel(name) else { continue };
                    if channel.config.store_history && !item.to.no_history {
                        let size = channel.config.history_size;
                        channel.history.add(posted.clone(), size);
                    }
                    self.send(&name, Body::Message(posted), &item.to.pm_users, &item.to.exclude_users, context)
                }
                None => self.send_to_users(&Body::Message(posted), &item.to, context),
            };
            self.total_messages += receivers as u64;
        }
        Done::Nothing
    }

    pub(super) fn edit(&mut self, items: &[requests::Edit], context: &mut Context<'_>) -> Done {
        for item in items {
            let body = Body::Change(item.frame_start());
            match &item.to.channel {
                Some(name) => {
                    let Some((name, channel)) = self.known_channel(name) else { continue };
                    channel.history.edit(item);
                    channel.frames.edit(item);
                    self.send(&name, body, &item.to.pm_users, &item.to.exclude_users, context);
                }
                None => {
                    for name in &item.to.pm_users {
                        if let Some(user) = self.users.get_mut(name.as_str()) {
                            user.frames.edit(item);
                        }
                    }
                    self.send_to_users(&body, &item.to, context);
                }
            }
        }
        Done::Nothing
    }

    pub(super) fn delete(&mut self, items: &[requests::Delete], context: &mut Context<'_>) -> Done {
        for item in items {
            let body = Body::Change(item.frame_start());
            match &item.to.channel {
                Some(name) => {
                    let Some((name, channel)) = self.known_channel(name) else { continue };
                    channel.history.delete(item.uuid);
                    channel.frames.delete(item.uuid);
                    self.send(&name, body, &item.to.pm_users, &item.to.exclude_users, context);
                }
                None => {
                    for name in &item.to.pm_users {
                        if let Some(user) = self.users.get_mut(name.as_str()) {
                            user.frames.delete(item.uuid);
                        }
                    }
                    self.send_to_users(&body, &item.to, context);
                }
            }
        }
        Done::Nothing
    }

    fn known_channel(&mut self, name: &str) -> Option<(Arc<str>, &mut super::Channel)> {
        let (key, _) = self.channels.get_key_value(name)?;
        let key = key.clone();
        self.channels.get_mut(&key).map(|channel| (key, channel))
    }

    /// Sends a frame to all connections of some users, and keeps it for those that are not listening.
    fn send_to_users(&mut self, body: &Body, to: &Recipients, context: &mut Context<'_>) -> usize {
        let mut names: Vec<_> = to.pm_users.iter().collect();
        names.sort();
        names.dedup();
        let mut receivers = 0;
        for name in names {
            let Some((key, _)) = self.users.get_key_value(name.as_str()) else { continue };
            let key = key.clone();
            let Some(user) = self.users.get_mut(&key) else { continue };
            user.touch();
            self.sequence += 1;
            let (pm_users, exclude_users) = (Vec::new(), Vec::new());
            user.frames.keep(Kept { sequence: self.sequence, pm_users, exclude_users, body: body.clone() });
            receivers += user.connections.len();
            let (text, exclude) = (body.live(), Vec::new());
            context.effects.push(Effect::Publish { room: Room::User(key), text, only: None, exclude });
        }
        receivers
    }
}
