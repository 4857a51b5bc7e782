//! `high-templar check`: would it work, and if not, why?

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;

use crate::{
    backend::{self, Backend, Changes, Handshake, Patience},
    broker,
    config::{Broker, Config, Note},
    http::listener::Listener,
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
    for (name, outcome) in [
        ("LISTEN", listen(&config.listen).await),
        ("INTERNAL_LISTEN", listen(&config.internal.listen).await),
        ("backend", backend(config).await),
        ("broker", broker(&config.broker).await),
    ] {
        is_well &= outcome.is_ok();
        match outcome {
            Ok(found) => writeln!(out, "ok       {name}: {found}")?,
            Err(wrong) => writeln!(out, "wrong    {name}: {wrong}")?,
        }
    }
    Ok(is_well)
}

async fn listen(listen: &crate::config::Listen) -> Result<String, String> {
    match Listener::bind(listen).await {
        Ok(_) => Ok(format!("{listen} is free")),
        Err(error) if error.is_in_use() => {
            Ok(format!("{listen} is in use, by a server that is running already if all is well"))
        }
        Err(error) => Err(chain(&error)),
    }
}

async fn backend(config: &Config) -> Result<String, String> {
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
            error => Err(chain(error)),
        },
    }
}

async fn broker(config: &Broker) -> Result<String, String> {
    match config {
        Broker::Embedded(_) => Ok("embedded; triggers come by POST /trigger/ only, to this one instance".to_owned()),
        Broker::Rabbitmq(config) => match broker::probe(config).await {
            Ok(found) => Ok(found.to_string()),
            Err(errors) => Err(errors.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; ")),
        },
    }
}
