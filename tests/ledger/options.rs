//! What the test is asked to do.

use std::time::Duration;

use rand::Rng;

use super::schedule::{DEFAULT_SEED, DEFAULT_TIME, Kinds};

pub const HELP: &str = "\
Numbered triggers, clients that check every number, and faults at random

    cargo test --test ledger -- [--seed N|random] [--seconds N] [--faults classic|all|NAMES]

    --seed N         the faults that this number stands for; `random` draws one. Without it always the same ones, which
                     include every kind of fault in the default time
    --seconds N      how long there are faults, 130 unless told
    --faults all     cuts, kills, stops and pauses, after which nothing may be lost; faults after which something may be lost
                     if the clients are notified; and faults of publishers, operators and logs. This is the default
    --faults classic only the first of these
    --faults NAMES   only the faults with one of these in their name, as \"memory,instance\"
    FILTER           does nothing unless it is part of the word \"ledger\"

The exit code is 0 when nothing was missing, came twice or came out of order without a notice to the client, and no client
was notified of a gap without need; 1 otherwise, and 2 for options that make no sense. LEDGER_LOG is the log filter of the
instances.";

const NAME: &str = "ledger";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    Run {
        seed: u64,
        faults_for: Duration,
        kinds: Kinds,
    },
    Help,
    /// The test harness asks what there is.
    List,
    /// Other tests are wanted.
    Nothing,
}

impl Wanted {
    /// Reads the arguments behind the program's name. Options of the usual test harness are passed over.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut seed, mut faults_for, mut kinds) = (DEFAULT_SEED, DEFAULT_TIME, Kinds::All);
        let (mut filters, mut is_listing) = (Vec::new(), false);
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            match name {
                "--help" | "-h" => return Ok(Self::Help),
                "--list" => is_listing = true,
                "--seed" => {
                    seed = match value.or_else(|| arguments.next()) {
                        Some(value) if value == "random" => rand::rng().random_range(0..1_000_000),
                        value => number(name, value)?,
                    };
                }
                "--seconds" => {
                    faults_for = Duration::from_secs(number(name, value.or_else(|| arguments.next()))?.max(1));
                }
                "--faults" => kinds = Kinds::parse(&value.or_else(|| arguments.next()).unwrap_or_default())?,
                // The harness's own that take a value.
                "--skip" | "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" if value.is_none() => {
                    arguments.next();
                }
                _ if name.starts_with('-') => {}
                _ => filters.push(argument),
            }
        }
        if !filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str())) {
            return Ok(Self::Nothing);
        }
        if is_listing {
            return Ok(Self::List);
        }
        Ok(Self::Run { seed, faults_for, kinds })
    }
}

fn number(name: &str, value: Option<String>) -> Result<u64, String> {
    let value = value.ok_or_else(|| format!("{name} needs a number"))?;
    value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))
}
