//! What is measured, and against what.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use clap::{Args, ValueEnum};
use http::{HeaderName, HeaderValue};

use super::{
    Error, marker,
    target::{self, Target},
};
use crate::config::Uris;

/// The rooms of the own server's clients, and the default of `--room`.
const ROOM: &str = r#"{"bench":"{room}"}"#;
/// Descriptors that are needed beside the connections'.
const OTHER_DESCRIPTORS: u64 = 64;

/// Measure how fast a server delivers, and that nothing is lost
///
/// Without --url, a server of its own (with the embedded broker, or with --amqp) and an API in its place are started on
/// the loopback, measured and stopped. Exit code 1: something was lost, doubled or out of order, or the server failed.
#[derive(Debug, Clone, Args)]
#[command(next_line_help = false)]
pub(crate) struct Options {
    /// Where clients connect, such as ws://127.0.0.1:8000/ws/
    #[arg(long, value_name = "URL", help_heading = "What to measure")]
    url: Option<String>,
    /// Publish by HTTP to this address, such as http://127.0.0.1:8002/trigger/
    #[arg(long, value_name = "URL", requires = "url", conflicts_with = "amqp", help_heading = "What to measure")]
    trigger: Option<String>,
    /// Publish through RabbitMQ, such as amqp://user:password@host:5672; an own server uses it, too
    #[arg(long, value_name = "URL", help_heading = "What to measure")]
    amqp: Option<String>,
    /// RabbitMQ's exchange
    #[arg(
        long,
        value_name = "NAME",
        requires = "amqp",
        default_value = "hightemplar",
        help_heading = "What to measure"
    )]
    exchange: String,
    /// Header of every handshake, such as 'Cookie: sessionid=…'; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, requires = "url", help_heading = "What to measure")]
    header: Vec<Header>,
    /// Header of every trigger posted, such as 'Authorization: Bearer …'; repeatable
    #[arg(long, value_name = "NAME: VALUE", value_parser = header, requires = "trigger", help_heading = "What to measure")]
    trigger_header: Vec<Header>,
    /// Process of a local server: its CPU and memory are told, those of its descendants included
    #[arg(long, value_name = "PID", requires = "url", help_heading = "What to measure")]
    pid: Option<u32>,
    /// Process of a local RabbitMQ: its CPU is told, that of its descendants included
    #[arg(long, value_name = "PID", requires = "amqp", help_heading = "What to measure")]
    broker_pid: Option<u32>,

    /// Connections
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Rooms; the subscriptions are dealt out to them in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..marker::MAX_ROOMS as i64))]
    rooms: u32,
    /// Subscriptions of each connection, with a requestId of its own each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    subscriptions: u32,
    /// A room, with {room} where its number stands
    #[arg(long, value_name = "JSON", default_value = ROOM)]
    room: String,
    /// Bytes of a trigger's data, 64 to 1048576
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(marker::MIN_BYTES as i64..=marker::MAX_BYTES as i64))]
    size: u32,
    /// Connects under way at once
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    concurrency: u32,

    /// How long to measure, in seconds, after one second that does not count; 0 for connecting only
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    seconds: u32,
    /// Closed loop: so many triggers are published and not yet with everybody at any time
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    window: u32,
    /// Open loop: so many triggers a second, however the server gets on; latency counts from when each was due
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Publishing connections; a room always uses the same one, so that its triggers have an order
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    publishers: u32,
    /// Beside the load, trigger a room of one member so often, and tell its latency apart
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    probe: Option<f64>,
    /// Let the connections sit for so long before the load, and tell the server's memory and CPU of that time
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u32>,

    /// How the clients wait: by short naps, which spares the server waking them, or in the kernel, which is more exact
    /// [default: nap in the closed loop, block in the open loop]
    #[arg(long, value_enum)]
    poll: Option<Poll>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Do nothing but answer bootstrap/ in an API's place at this address, allowing {"bench":"*"}, until stopped
    #[arg(long, value_name = "ADDRESS:PORT", exclusive = true)]
    serve_api: Option<SocketAddr>,
}

/// How the clients wait for deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Poll {
    /// Sleep by the clock between two looks.
    Nap,
    /// Wait in the kernel until something is there.
    Block,
}

/// One header line.
pub(super) type Header = (HeaderName, HeaderValue);

/// What triggers are published at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// So many are published and not complete.
    Window(u32),
    /// So many a second.
    Rate(f64),
}

/// Where triggers go.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// `POST /trigger/`.
    Http { target: Target, headers: Vec<Header> },
    /// RabbitMQ.
    Amqp { uris: Uris, exchange: String },
}

/// The server that is measured.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// One that runs already; nothing is published where there is no route.
    Running { target: Target, headers: Vec<Header>, route: Option<Route>, pid: Option<u32> },
    /// One of our own, with RabbitMQ or with the embedded broker.
    Own { rabbitmq: Option<Rabbitmq> },
}

/// RabbitMQ, as an own server needs it.
#[derive(Debug, Clone)]
pub(super) struct Rabbitmq {
    pub(super) url: String,
    pub(super) uris: Uris,
    pub(super) exchange: String,
}

/// The options, checked against each other.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) subject: Subject,
    pub(super) broker_pid: Option<u32>,
    pub(super) connections: u32,
    pub(super) rooms: u32,
    pub(super) subscriptions: u32,
    pub(super) room: String,
    pub(super) size_bytes: usize,
    pub(super) concurrency: usize,
    /// How long to measure; `None` for no load.
    pub(super) load: Option<Duration>,
    pub(super) pace: Pace,
    pub(super) publishers: u32,
    pub(super) probe: Option<f64>,
    pub(super) idle: Option<Duration>,
    pub(super) poll: Poll,
    pub(super) is_json: bool,
}

impl Options {
    /// Where to answer in an API's place, if that is all there is to do.
    pub(super) fn serve_api(&self) -> Option<SocketAddr> {
        self.serve_api
    }

    /// The plan; `descriptors` is how many files the process may have open, `None` for any number.
    ///
    /// # Errors
    /// [`Error::Misuse`] says what contradicts what.
    pub(super) fn plan(&self, descriptors: Option<u64>) -> Result<Plan, Error> {
        let misuse = |what: String| Err(Error::Misuse(what));
        let subscriptions = u64::from(self.connections) * u64::from(self.subscriptions);
        if subscriptions > 1 << 28 {
            return misuse(format!("{subscriptions} subscriptions are more than can be watched ({})", 1 << 28));
        }
        if subscriptions < u64::from(self.rooms) {
            return misuse(format!(
                "--rooms {} are more than the {subscriptions} subscriptions, and nobody would hear the rest: ask for more \
                 --connections or more --subscriptions of each",
                self.rooms
            ));
        }
        self.check_room()?;
        let needed = u64::from(self.connections) + u64::from(self.publishers) + OTHER_DESCRIPTORS;
        if let Some(limit) = descriptors.filter(|limit| needed > *limit) {
            return misuse(format!(
                "--connections {} need {needed} open files, and a process may have {limit} here (ulimit -Hn): at most {} \
                 connections are possible",
                self.connections,
                limit.saturating_sub(needed - u64::from(self.connections))
            ));
        }
        if self.seconds == 0 && self.probe.is_some() {
            return misuse("--probe needs a load beside it: --seconds is 0".to_owned());
        }
        let pace = self.rate.map_or(Pace::Window(self.window), Pace::Rate);
        let default_poll = if self.rate.is_some() { Poll::Block } else { Poll::Nap };
        Ok(Plan {
            subject: self.subject()?,
            broker_pid: self.broker_pid,
            connections: self.connections,
            rooms: self.rooms,
            subscriptions: self.subscriptions,
            room: self.room.clone(),
            size_bytes: self.size as usize,
            concurrency: self.concurrency as usize,
            load: (self.seconds > 0).then(|| Duration::from_secs(self.seconds.into())),
            pace,
            publishers: self.publishers.min(self.rooms),
            probe: self.probe,
            idle: self.idle.map(|seconds| Duration::from_secs(seconds.into())),
            poll: self.poll.unwrap_or(default_poll),
            is_json: self.json,
        })
    }

    fn check_room(&self) -> Result<(), Error> {
        let sample = self.room.replace("{room}", "0");
        if serde_json::from_str::<HashMap<String, serde_json::Value>>(&sample).is_err() {
            return Err(Error::Misuse(format!("--room must be a JSON object such as {ROOM}, and is {}", self.room)));
        }
        if !self.room.contains("{room}") && (self.rooms > 1 || self.probe.is_some()) {
            let what = if self.rooms > 1 { "--rooms" } else { "--probe" };
            return Err(Error::Misuse(format!("{what} needs {{room}} in --room, for rooms that differ")));
        }
        Ok(())
    }

    fn subject(&self) -> Result<Subject, Error> {
        let rabbitmq = match &self.amqp {
            Some(url) => {
                let uris = Uris::parse(url).map_err(|what| Error::Misuse(format!("--amqp {what}")))?;
                Some(Rabbitmq { url: url.clone(), uris, exchange: self.exchange.clone() })
            }
            None => None,
        };
        let Some(url) = &self.url else {
            if self.room != ROOM {
                return Err(Error::Misuse(format!("an own server's rooms are {ROOM}: --room needs --url")));
            }
            return Ok(Subject::Own { rabbitmq });
        };
        let misuse = |option: &str| {
            let option = option.to_owned();
            move |error: target::Error| Error::Misuse(format!("{option} {error}"))
        };
        let target = Target::parse(url, "ws").map_err(misuse("--url"))?;
        let route = match (&self.trigger, rabbitmq) {
            (Some(url), _) => {
                let target = Target::parse(url, "http").map_err(misuse("--trigger"))?;
                Some(Route::Http { target, headers: self.trigger_header.clone() })
            }
            (None, Some(Rabbitmq { uris, exchange, .. })) => Some(Route::Amqp { uris, exchange }),
            (None, None) if self.seconds == 0 => None,
            (None, None) => {
                return Err(Error::Misuse(
                    "--url needs --trigger URL or --amqp URL to publish with, or --seconds 0 for connecting only"
                        .to_owned(),
                ));
            }
        };
        Ok(Subject::Running { target, headers: self.header.clone(), route, pid: self.pid })
    }
}

impl Plan {
    /// Subscriptions of all connections, the probe's not included.
    pub(super) fn all_subscriptions(&self) -> u32 {
        self.connections * self.subscriptions
    }

    /// The JSON of a room by its number.
    pub(super) fn room_json(&self, number: u32) -> String {
        self.room.replace("{room}", &number.to_string())
    }
}

fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| "the name is none of a header")?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| "the value is none of a header")?;
    Ok((name, value))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.01..=1e6).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number from 0.01 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        options: Options,
    }

    fn plan(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let whole = Whole::try_parse_from(words).map_err(|error| error.to_string())?;
        whole.options.plan(Some(20_000)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_contradicts_is_refused_and_says_why() {
        for (line, why) in [
            ("--window 2 --rate 5", "cannot be used with"),
            ("--trigger http://h/", "--url"),
            ("--url ws://127.0.0.1:1/ws/", "--trigger URL or --amqp URL"),
            ("--url wss://127.0.0.1:1/ws/ --seconds 0", "the instance itself"),
            ("--url http://127.0.0.1:1/ --seconds 0", "ws://"),
            ("--url ws://127.0.0.1:1/ --trigger http://127.0.0.1/ --amqp amqp://h", "cannot be used with"),
            ("--rooms 1001", "1000 subscriptions"),
            ("--connections 19999", "at most 19935"),
            ("--room [] --url ws://127.0.0.1:1/ --seconds 0", "JSON object"),
            ("--room {\"a\":1} --rooms 2 --url ws://127.0.0.1:1/ --seconds 0", "{room}"),
            ("--room {\"a\":\"{room}\"}", "--url"),
            ("--size 63", "64"),
            ("--seconds 0 --probe 5", "--probe"),
            ("--amqp http://h", "--amqp must"),
            ("--serve-api 127.0.0.1:1 --json", "cannot be used with"),
            ("--header x --url ws://127.0.0.1:1/", "NAME: VALUE"),
        ] {
            let said = plan(line).map(|_| ()).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
    }

    #[test]
    fn defaults_are_a_closed_loop_against_a_server_of_its_own() {
        let plan = plan("").unwrap();
        assert!(matches!(plan.subject, Subject::Own { rabbitmq: None }));
        assert_eq!((plan.connections, plan.pace, plan.poll), (1000, Pace::Window(1), Poll::Nap));
        assert_eq!(super::tests::plan("--rate 2.5").unwrap().poll, Poll::Block);
    }
}
