//! Prints what a WebSocket of the sidecar says, one frame a line: `listen ws://127.0.0.1:8000/ws/ '{"target":"news"}'`.

use std::{
    error::Error,
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Uri, header};
use serde_json::{Map, Value, json};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    time::interval,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// How often the sidecar is told that somebody is still here.
const PING_INTERVAL: Duration = Duration::from_secs(30);

type Room = Map<String, Value>;

/// Connects to the sidecar, subscribes to rooms, and prints every frame that comes, one a line.
#[derive(Debug, Parser)]
#[command(name = "listen")]
struct Arguments {
    /// Where to connect, like ws://127.0.0.1:8000/ws/
    url: Uri,
    /// File with the cookies to send, as `curl -c FILE` writes it
    #[arg(long, value_name = "FILE")]
    cookie: Option<PathBuf>,
    /// Rooms to subscribe to, like '{"target":"news"}'
    #[arg(value_name = "ROOM", value_parser = room)]
    rooms: Vec<Room>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "listen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Listens until a signal; an end that comes from the other side is an error.
async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut request = arguments.url.clone().into_client_request()?;
    if let Some(path) = &arguments.cookie {
        let jar = fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}; log in first", path.display()))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let cookies = cookies_for(&jar, arguments.url.host().unwrap_or_default(), now);
        if cookies.is_empty() {
            return Err(format!("{} holds no cookie for this host: log in first", path.display()).into());
        }
        request.headers_mut().insert(header::COOKIE, HeaderValue::from_str(&cookies)?);
    }
    let connecting = connect_async(request).await;
    let (mut socket, _) = connecting.map_err(|error| format!("cannot connect to {}: {error}", arguments.url))?;
    for (number, room) in (1..).zip(arguments.rooms) {
        let subscribe = json!({"type": "subscribe", "room": room, "requestId": number.to_string()});
        socket.send(Message::text(subscribe.to_string())).await?;
    }
    let mut pings = interval(PING_INTERVAL);
    pings.tick().await; // the first one comes at once
    loop {
        let message = select! {
            message = socket.next() => message,
            _ = pings.tick() => {
                socket.send(Message::text("ping")).await?;
                continue;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        match message {
            Some(Ok(Message::Text(text))) if text.as_str() == "pong" => {}
            Some(Ok(Message::Text(text))) => writeln!(io::stdout(), "{text}")?,
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map_or("no code".to_owned(), |frame| frame.code.to_string());
                return Err(format!("the other side has closed the connection ({code})").into());
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err("the connection has ended".into()),
        }
    }
    let _ = socket.close(None).await;
    Ok(())
}

fn room(text: &str) -> Result<Room, String> {
    serde_json::from_str(text).map_err(|_| r#"a room is a JSON object, like {"target":"news"}"#.to_owned())
}

/// The cookies that a file of curl's (in Netscape's format) holds for `host`, as a request carries them.
fn cookies_for(jar: &str, host: &str, now: u64) -> String {
    let cookie = |line: &str| {
        let line = line.strip_prefix("#HttpOnly_").unwrap_or(line);
        let fields: Vec<_> = line.split('\t').collect();
        let [domain, _subdomains, _path, _secure, expires, name, value] = fields[..] else { return None };
        let is_alive = matches!(expires.parse::<u64>(), Ok(at) if at == 0 || at > now);
        let is_for_host = domain.trim_matches(['[', ']']).eq_ignore_ascii_case(host.trim_matches(['[', ']']));
        (is_for_host && is_alive).then(|| format!("{name}={value}"))
    };
    jar.lines().filter_map(cookie).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_those_of_the_host_that_have_not_expired() {
        let jar = "# Netscape HTTP Cookie File\n\n\
                   #HttpOnly_127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\ta=b\n\
                   127.0.0.1\tFALSE\t/\tFALSE\t1001\tcsrftoken\tc\n\
                   127.0.0.1\tFALSE\t/\tFALSE\t999\told\td\n\
                   other.example\tFALSE\t/\tFALSE\t0\tforeign\te\n";
        assert_eq!(cookies_for(jar, "127.0.0.1", 1000), "session=a=b; csrftoken=c");
        assert_eq!(cookies_for(jar, "localhost", 1000), "");
    }
}
