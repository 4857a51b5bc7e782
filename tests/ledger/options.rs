//! What the test is asked to do.

use std::time::Duration;

use rand::Rng;

pub const HELP: &str = "\
Numbered triggers, clients that check every number, and faults at random

    cargo test --test ledger -- [--seed N] [--seconds N]

    --seed N       the faults of an earlier run; otherwise others each time
    --seconds N    how long there are faults, 130 unless told
    FILTER         does nothing unless it is part of the word \"ledger\"

The exit code is 0 when nothing was missing, came twice or came out of order, 1 when something was, and 2 for options
that make no sense. LEDGER_LOG is the log filter of the instances.";

const SECONDS: u64 = 130;
const NAME: &str = "ledger";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    Run {
        seed: u64,
        faults_for: Duration,
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
        let (mut seed, mut seconds) = (None, SECONDS);
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
                "--seed" => seed = Some(number(name, value.or_else(|| arguments.next()))?),
                "--seconds" => seconds = number(name, value.or_else(|| arguments.next()))?.max(1),
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
        let seed = seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
        Ok(Self::Run { seed, faults_for: Duration::from_secs(seconds) })
    }
}

fn number(name: &str, value: Option<String>) -> Result<u64, String> {
    let value = value.ok_or_else(|| format!("{name} needs a number"))?;
    value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))
}
