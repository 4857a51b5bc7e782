//! `high-templar bench`: clients and publishers against a server, and what came of it.
//!
//! All clients are in the main thread ([`crowd`]), all publishers in another one ([`side`], [`publish`]); what the clients
//! get is entered in [`books`]. Of the server's own code only the configuration is used: a fault must not hide itself.

mod books;
mod client;
mod crowd;
mod frame;
mod histogram;
mod ledger;
mod marker;
mod moment;
mod options;
mod own;
mod process;
mod progress;
mod publish;
mod report;
mod run;
mod side;
mod stub;
mod target;

use std::{
    io::{self, Write},
    net::SocketAddr,
    thread,
    time::Duration,
};

pub(crate) use options::Options;
use options::{Route, Subject};
use own::Own;
use process::Process;
use side::Side;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The options contradict each other, or the machine.
    #[error("{0}")]
    Misuse(String),
    #[error("stopped")]
    Interrupted,
    #[error("there is no process {0} to be watched")]
    NoProcess(u32),
    #[error("cannot start the threads of the run")]
    Start(#[from] io::Error),
    #[error("cannot answer in the API's place at {address}")]
    Api {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Own(#[from] own::Error),
    #[error(transparent)]
    Clients(#[from] crowd::Error),
    #[error("no client became ready within {0:?}: {1} of {2} are")]
    TooSlow(Duration, usize, u32),
    #[error("the server closed {connections} connections while others were connecting ({closing})")]
    ClosedEarly { connections: u32, closing: client::Closing },
    #[error(transparent)]
    Publish(#[from] publish::Error),
    #[error("{error}; the server started for the run said:\n{log}")]
    WithLog { error: Box<Error>, log: String },
}

/// What came of a run.
pub(crate) struct Outcome {
    /// For standard output; ends with a line break.
    pub(crate) text: String,
    /// Whether all deliveries came, once and in order.
    pub(crate) is_well: bool,
}

/// Does what `options` ask for, with so many files open at most; `None` for any number.
///
/// # Errors
/// [`Error::Misuse`] for what cannot be done; otherwise what kept the run from its end.
pub(crate) fn run(options: &Options, descriptors: Option<u64>) -> Result<Outcome, Error> {
    if let Some(address) = options.serve_api() {
        return serve_api(address);
    }
    let plan = options.plan(descriptors)?;
    let side = Side::start()?;
    let report = match &plan.subject {
        Subject::Running { target, headers, route, pid } => {
            let process = pid.map(Process);
            run::run(&side, &plan, target, headers, route.as_ref(), process)?
        }
        Subject::Own { rabbitmq } => {
            let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
            let api = api(&side, nowhere)?;
            let own = Own::start(side.handle(), &plan, rabbitmq.as_ref(), api)?;
            let route = match rabbitmq {
                Some(rabbitmq) => Route::Amqp { uris: rabbitmq.uris.clone(), exchange: rabbitmq.exchange.clone() },
                None => Route::Http { target: own.trigger(), headers: Vec::new() },
            };
            let process = Some(Process(own.pid()));
            match run::run(&side, &plan, &own.clients(), &[], Some(&route), process) {
                Ok(report) => report,
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => return Err(Error::WithLog { error: error.into(), log: own.last_lines() }),
            }
        }
    };
    let text = match plan.is_json {
        true => serde_json::json!(report).to_string() + "\n",
        false => report.text(),
    };
    Ok(Outcome { text, is_well: report.is_well() })
}

fn api(side: &Side, address: SocketAddr) -> Result<SocketAddr, Error> {
    stub::start(side.handle(), address).map_err(|source| Error::Api { address, source })
}

/// Answers in an API's place until a signal.
fn serve_api(address: SocketAddr) -> Result<Outcome, Error> {
    let side = Side::start()?;
    let address = api(&side, address)?;
    // Whoever has started it may wait for this line.
    let _ = writeln!(io::stderr(), "answering bootstrap/ at http://{address}/");
    while !side.is_interrupted() {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(Outcome { text: String::new(), is_well: true })
}
