//! The task that writes what is published to the file, and opens the file again when it cannot.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tracing::{error, info, warn};

use super::{
    Accepted, Delivery, Entry, Unwritten,
    file::{Failure, Known, Log},
    progress::Progress,
};

/// Triggers, and their bytes, that are written together.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;
/// How often it is looked whether the file is still where it was.
const LOOK: Duration = Duration::from_secs(1);
/// The wait before the file is opened again, which doubles each time, and the longest one.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// A file has to take at least so much before it counts as writable again.
const PROBE_BYTES: usize = 64 << 10;

/// Writes what is published, many at once where many wait, and passes on what is written.
pub(super) async fn write(
    mut log: Log,
    mut unwritten: mpsc::Receiver<Unwritten>,
    consumer: mpsc::Sender<Accepted>,
    progress: Arc<Progress>,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (batch, bytes) = tokio::select! {
            biased;
            _ = looks.tick() => (Vec::new(), 0),
            first = unwritten.recv() => match first {
                Some(first) => collect(first, &mut unwritten),
                None => return,
            },
        };
        let known = log.known().clone();
        let entries: Vec<Entry> = batch.iter().map(|unwritten| unwritten.entry.clone()).collect();
        let (kept, failure) = match spawn_blocking(move || append(log, &entries)).await {
            Ok((Some(written), Ok(()))) => {
                log = written;
                for Unwritten { entry, written } in batch {
                    // Nobody takes it any more when the server is stopping; it is in the file.
                    let _ = consumer.send(Accepted::Entry(entry)).await;
                    let _ = written.send(());
                }
                continue;
            }
            Ok((kept, outcome)) => (kept, outcome.err().unwrap_or(Failure::Closed)),
            Err(panic) => (None, Failure::Panic(panic)),
        };
        progress.fail(&format!("EMBEDDED_LOG cannot be written: {failure}"));
        error!(
            error = &failure as &dyn std::error::Error,
            triggers = batch.len(),
            path = %known.path.display(),
            "EMBEDDED_LOG cannot be written: triggers are refused until it can"
        );
        refuse(batch, &progress);
        let deliveries;
        (log, deliveries) = reopen(known, kept, bytes.max(PROBE_BYTES), &mut unwritten, &progress).await;
        if matches!(deliveries.first(), Some(Delivery::Restart { .. })) {
            progress.begin();
            warn!("EMBEDDED_LOG does not go on where it was: clients are told that triggers may be missing");
        }
        let _ = consumer.send(Accepted::Reopened { deliveries, last: log.known().last }).await;
        progress.recover();
        info!("EMBEDDED_LOG can be written again");
    }
}

/// Writes `entries`. Blocks. A file that fails has to be closed before it can be opened again, and closing it writes to it; one that
/// was deleted, and could not be written anew, is kept: what it holds is nowhere else.
fn append(mut log: Log, entries: &[Entry]) -> (Option<Log>, Result<(), Failure>) {
    let outcome = log.append(entries);
    let is_kept = match &outcome {
        Ok(()) => true,
        Err(Failure::Truncated | Failure::Replaced) => false, // it has been moved out of the way
        Err(_) => log.is_deleted(),
    };
    (is_kept.then_some(log), outcome)
}

/// What is to be written together, and its bytes.
fn collect(first: Unwritten, unwritten: &mut mpsc::Receiver<Unwritten>) -> (Vec<Unwritten>, usize) {
    let mut bytes = first.entry.body.len();
    let mut batch = vec![first];
    while batch.len() < BATCH
        && bytes < BATCH_BYTES
        && let Ok(next) = unwritten.try_recv()
    {
        bytes += next.entry.body.len();
        batch.push(next);
    }
    (batch, bytes)
}

/// Tells those who have published that it was not accepted.
fn refuse(batch: Vec<Unwritten>, progress: &Progress) {
    progress.taken(batch.len());
}

/// Opens the file that is `known` again, as soon as it takes `probe_bytes`; and what there is of it that nobody has been given. One
/// that was deleted and is `kept` is written anew. Meanwhile, what is published is refused.
async fn reopen(
    known: Known,
    mut kept: Option<Log>,
    probe_bytes: usize,
    unwritten: &mut mpsc::Receiver<Unwritten>,
    progress: &Progress,
) -> (Log, Vec<Delivery>) {
    let (mut wait, mut told) = (SHORTEST, String::new());
    loop {
        let next = Instant::now() + wait;
        wait = (2 * wait).min(LONGEST);
        while let Ok(more) = timeout_at(next, unwritten.recv()).await {
            match more {
                Some(more) => refuse(vec![more], progress),
                None => tokio::time::sleep_until(next).await,
            }
        }
        let known = known.clone();
        let deleted = kept.take();
        let opening = spawn_blocking(move || match deleted {
            Some(deleted) => match append(deleted, &[]) {
                (Some(log), Ok(())) => Ok((log, Vec::new())),
                (kept, outcome) => Err(Box::new((kept, outcome.err().unwrap_or(Failure::Closed)))),
            },
            None => Log::reopen(&known, probe_bytes).map_err(|failure| Box::new((None, failure))),
        });
        let failure = match opening.await {
            Ok(Ok(reopened)) => return reopened,
            Ok(Err(failed)) => {
                let failure;
                (kept, failure) = *failed;
                failure
            }
            Err(panic) => Failure::Panic(panic),
        };
        let text = failure.to_string();
        if text != told {
            warn!(error = &failure as &dyn std::error::Error, "EMBEDDED_LOG cannot be opened again yet");
            told = text;
        }
    }
}
