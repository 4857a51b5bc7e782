//! `high-templar check`: would it work, and if not, why?

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;

use super::local;
use crate::{
    backend::{self, Backend, Changes, Handshake, Patience},
    broker,
    config::{Broker, Config, Listen, Note},
    http::listener::{BindError, Listener},
    logging::chain,
    metrics::Metrics,
};

/// Checks everything that `config` names, one line each. Whether all is well.
pub(super) async fn run(config: &Config, out: &mut impl Write) -> io::Result<bool> {
    for note in &config.notes {
        match note {
            Note::Taken(text) => writeln!(out, "note     {text}")?,
            Note::Weak(text) => writeln!(out, "warning  {text}")?,
        }
    }
    writeln!(out, "ok       configuration")?;
    let mut is_well = true;
    let internal = try_listen(&config.internal.listen).await;
    let is_running = internal.is_ours();
    let public = match try_listen(&config.listen).await {
        // Channelstream answers what high-templar has nothing for.
        Address::Taken { .. } if config.channelstream.is_some() && is_running => Address::Taken { is_ours: true },
        public => public,
    };
    for (name, outcome) in [
        ("LISTEN", public.said("LISTEN", &config.listen)),
        ("INTERNAL_LISTEN", internal.said("INTERNAL_LISTEN", &config.internal.listen)),
        ("backend", backend(config).await),
        ("broker", broker(&config.broker, is_running).await),
    ] {
        is_well &= outcome.is_ok();
        match outcome {
            Ok(found) => writeln!(out, "ok       {name}: {found}")?,
            Err(wrong) => writeln!(out, "wrong    {name}: {wrong}")?,
        }
    }
    Ok(is_well)
}

/// An address to listen on.
#[derive(Debug)]
enum Address {
    Free,
    /// Something listens there: a high-templar, or something else.
    Taken {
        is_ours: bool,
    },
    Unusable(BindError),
}

async fn try_listen(listen: &Listen) -> Address {
    match Listener::bind(listen).await {
        Ok(_) => Address::Free,
        Err(error) if error.is_in_use() => Address::Taken { is_ours: local::is_high_templar(listen).await },
        Err(error) => Address::Unusable(error),
    }
}

impl Address {
    fn is_ours(&self) -> bool {
        matches!(self, Self::Taken { is_ours: true })
    }

    fn said(&self, setting: &str, listen: &Listen) -> Result<String, String> {
        match self {
            Self::Free => Ok(format!("{listen} is free")),
            Self::Taken { is_ours: true } => Ok(format!("{listen} is in use by a high-templar that is running")),
            Self::Taken { is_ours: false } => {
                Err(format!("{listen} is in use by another program; set {setting} to an address that is free"))
            }
            Self::Unusable(error) => Err(chain(error)),
        }
    }
}

async fn backend(config: &Config) -> Result<String, String> {
    if !config.has_api {
        return Ok("none, as only Channelstream's clients are served".to_owned());
    }
    let (changes, metrics) = (Changes::new(Duration::ZERO), Arc::new(Metrics::default()));
    let backend = Backend::new(config.backend.clone(), changes, metrics).map_err(|error| chain(&error))?;
    let nobody = backend.identify(&Handshake { headers: &HeaderMap::new(), query: "", peer: None });
    let nobody = nobody.map_err(|error| chain(&error))?;
    match backend.authenticate(&nobody, None, Patience::Short).await {
        Ok(answer) => {
            Ok(format!("reached; a client without cookies is authorised for {} rooms", answer.admission.rooms.len()))
        }
        Err(error) => match &*error {
            backend::Error::Refused { status, .. } if matches!(status.as_u16(), 401 | 403) => {
                Ok(format!("reached; a client without cookies is refused with {status}"))
            }
            backend::Error::Page { .. } => {
                Ok("reached; a client without cookies is answered with an HTML page, which refuses it".to_owned())
            }
            error => Err(format!("{} (GET {})", chain(error), backend.bootstrap_url())),
        },
    }
}

async fn broker(config: &Broker, is_running: bool) -> Result<String, String> {
    match config {
        Broker::Embedded(config) => {
            let log = match config.log.as_deref().map(|path| (path, broker::check_log(path))) {
                None => String::new(),
                Some((path, Ok(()))) => format!(", EMBEDDED_LOG {} can be used", path.display()),
                Some((path, Err(error))) if is_running && error.is_in_use() => {
                    format!(", EMBEDDED_LOG {} is in use by a server that is running", path.display())
                }
                Some((_, Err(error))) => return Err(chain(&error)),
            };
            Ok(format!("embedded; triggers come by POST /trigger/ only, to this one instance{log}"))
        }
        Broker::Rabbitmq(config) => match broker::probe(config).await {
            Ok(found) => Ok(found.to_string()),
            Err(errors) => Err(errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ")),
        },
    }
}
