//! The variables of high-templar 3.1, read where ours are unset.

use super::{Note, Uris, env::Env, problems::Problems};

/// What 3.1's start-up script told the backend, and where.
const NOTIFY_ONLINE: &str = "user/notify_online/";
const NOTIFY_OFFLINE: &str = "user/notify_offline/";

/// What 3.1's variables say.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    /// The broker comes from 3.1's variables, and with it 3.1's delivery and its trust in any origin.
    pub(super) broker: Option<Uris>,
    /// Headers that 3.1's start-up script added.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) notes: Vec<Note>,
}

/// Fills in `env` from 3.1's variables.
pub(super) fn apply(env: &mut Env, problems: &mut Problems) -> Legacy {
    let mut legacy = Legacy::default();
    let backend = backend(env, &mut legacy);
    broker(env, backend, &mut legacy, problems);
    legacy
}

/// Whether the backend comes from 3.1's variables.
fn backend(env: &mut Env, legacy: &mut Legacy) -> bool {
    let taken =
        |name: &str, from: &str| Note::Taken(format!("{name} is taken from {from}, a variable of high-templar 3.1"));
    let internal = [("BINDER_INTERNAL", &env.binder_internal), ("CY_BINDER_INTERNAL", &env.cy_binder_internal)];
    let socket = [("BINDER_SOCKET", &env.binder_socket), ("CY_BINDER_SOCKET", &env.cy_binder_socket)];
    let internal = internal.into_iter().find_map(|(name, value)| Some((name, value.clone()?)));
    let socket = socket.into_iter().find_map(|(name, value)| Some((name, value.clone()?)));
    if let (None, Some((name, path))) = (&env.api_socket, &socket) {
        legacy.notes.push(taken("API_SOCKET", name));
        env.api_socket = Some(path.clone());
    }
    if env.api_url.is_some() || (internal.is_none() && socket.is_none() && env.app_url.is_none()) {
        return false;
    }
    let app_api = env.app_url.as_ref().map(|url| format!("{url}/api/"));
    env.api_url = if let Some((name, url)) = internal {
        legacy.notes.push(taken("API_URL", name));
        Some(url)
    } else if let Some((name, _)) = &socket {
        legacy.notes.push(taken("API_URL (http://localhost/api/)", name));
        Some("http://localhost/api/".to_owned())
    } else {
        legacy.notes.push(taken("API_URL", "APP_URL"));
        app_api.clone()
    };
    legacy.headers.push(("X-Session-Token", "{param:session_token}".to_owned()));
    if let Some(referer) = app_api {
        legacy.headers.push(("Referer", referer.replace('{', "{{").replace('}', "}}")));
    }
    legacy
        .notes
        .push(Note::Taken("X-Session-Token and Referer are sent to the API as 3.1's start-up script did".to_owned()));
    for (name, hook, path) in [
        ("HOOK_CONNECT", &mut env.hook_connect, NOTIFY_ONLINE),
        ("HOOK_PING", &mut env.hook_ping, NOTIFY_ONLINE),
        ("HOOK_DISCONNECT", &mut env.hook_disconnect, NOTIFY_OFFLINE),
    ] {
        if hook.is_none() {
            *hook = Some(path.to_owned());
            legacy
                .notes
                .push(Note::Taken(format!("{name} is {path}, as in 3.1's start-up script; {name}=off turns it off")));
        }
    }
    true
}

fn broker(env: &mut Env, backend_is_legacy: bool, legacy: &mut Legacy, problems: &mut Problems) {
    let named = env.rabbitmq_host.is_some() || env.rabbitmq_username.is_some() || env.rabbitmq_password.is_some();
    if env.amqp_url.is_some() || !(named || backend_is_legacy) {
        return;
    }
    let username = env.rabbitmq_username.as_deref().unwrap_or("rabbitmq");
    let password = env.rabbitmq_password.as_deref().unwrap_or("rabbitmq");
    let host = env.rabbitmq_host.as_deref().unwrap_or("localhost");
    match Uris::legacy(username, password, host) {
        Ok(uris) => {
            let from = if named { "RABBITMQ_HOST, RABBITMQ_USERNAME and RABBITMQ_PASSWORD" } else { "3.1's defaults" };
            legacy
                .notes
                .push(Note::Taken(format!("the broker is taken from {from}: set AMQP_URL to choose it yourself")));
            if env.wildcard_dispatch.is_none() {
                legacy
                    .notes
                    .push(Note::Weak("WILDCARD_DISPATCH is exact, as in 3.1: no wildcard at delivery".to_owned()));
                env.wildcard_dispatch = Some("exact".to_owned());
            }
            if env.allowed_origins.is_none() {
                legacy.notes.push(Note::Weak(
                    "the Origin of a handshake is not checked, as in 3.1: any page may connect with its visitor's cookies; \
                     set ALLOWED_ORIGINS"
                        .to_owned(),
                ));
                env.allowed_origins = Some("*".to_owned());
            }
            legacy.broker = Some(uris);
        }
        Err(what) => problems.add("RABBITMQ_HOST", &what),
    }
}
