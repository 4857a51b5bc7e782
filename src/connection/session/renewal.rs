//! Credentials that a connected client shows anew.
//!
//! They count for later checks, and bring none about: a client would otherwise choose how often the backend is asked. A check that
//! is under way began with the credentials before. If the backend then takes rooms away, that holds. If it refuses the client, the
//! client is checked again with the new credentials, once: a client that shows others again and again does not put off its end.

use serde_json::value::RawValue;

use super::{
    super::{Connections, clients::Client},
    Session,
};
use crate::{
    backend::{Identity, NotRenewed},
    hub::{Frame, Full},
    logging::limited,
    protocol::{
        RequestId,
        server::{Refusal, v4},
    },
};

/// What the backend has said of the credentials that a client has shown last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It knows them.
    Confirmed,
    /// It has not been asked with them.
    Unconfirmed,
    /// The same, and it has refused the ones before.
    LastTry,
}

impl Session {
    /// Whether the backend has confirmed the credentials that the client has shown last.
    pub(in super::super) fn has_confirmed_credentials(&self) -> bool {
        self.standing == Standing::Confirmed
    }

    /// The client shows `params` instead of those of its handshake.
    pub(super) fn renew(
        &mut self,
        params: Option<&RawValue>,
        request_id: &RequestId,
        client: &Client,
        connections: &Connections,
    ) -> Result<(), Full> {
        let limits = &connections.config.limits;
        let renewed = params.ok_or(NotRenewed::Malformed);
        let renewed = renewed.and_then(|params| connections.backend.renew(&client.credentials(), params, limits));
        let shown = &connections.metrics.credentials_shown;
        match renewed.map(|credentials| client.renew(credentials)) {
            Ok(true) => {
                shown.inc("renewed");
                self.lose_ticket(); // which is bound to the headers before
                if self.standing == Standing::Confirmed {
                    self.standing = Standing::Unconfirmed;
                }
            }
            Ok(false) => shown.inc("unchanged"),
            Err(error) => {
                shown.inc(error.label());
                let connection = self.outbox.connection();
                limited!(warn[error.label()], "credentials of a client not renewed", %connection, reason = %error);
                return self.refuse(Some(request_id), Refusal::MalformedParams, connections, || error.to_string());
            }
        }
        self.reply(Frame::Text(v4::success(request_id, None, None).into()))
    }

    /// The backend knows the client by `identity`: the credentials that were shown last if that `is_current`. Hooks are posted with
    /// them from now on.
    pub(super) fn confirm(&mut self, identity: &Identity, is_current: bool) {
        if !is_current {
            if self.standing == Standing::LastTry {
                self.standing = Standing::Unconfirmed;
            }
        } else if self.standing != Standing::Confirmed {
            self.standing = Standing::Confirmed;
            if let Some(notifier) = &self.notifier {
                notifier.renew(identity);
            }
        }
    }

    /// The backend has refused credentials that are not the ones shown last. Returns whether it is to be asked with those.
    pub(in super::super) fn has_another_try(&mut self) -> bool {
        let has_one = self.standing != Standing::LastTry;
        self.standing = Standing::LastTry;
        has_one
    }
}
