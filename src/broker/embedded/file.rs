//! The log in a file, so that an instance that is restarted forgets nothing.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    super::{Delivery, Kind},
    Entry, Unwritten,
};
use crate::{config, logging::limited, protocol::Epoch};

/// By offset: when it was written, in milliseconds since 1970, and the body.
const TRIGGERS: TableDefinition<'_, u64, (u64, &[u8])> = TableDefinition::new("triggers");
/// By offset: what is no trigger, by its kind.
const OTHERS: TableDefinition<'_, u64, u8> = TableDefinition::new("others");
const CONTROL: u8 = 1;
const INSTANCE: u8 = 2;
const CHANNELSTREAM: u8 = 3;
/// What else is to be known: the epoch.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");
const EPOCH: &str = "epoch";
/// Triggers, and their bytes, that are written together.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;

/// The file of the embedded broker's log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("EMBEDDED_LOG {path} cannot be used", path = .path.display())]
pub struct LogFailed {
    path: PathBuf,
    #[source]
    source: Failure,
}

/// Why.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Failure {
    Io(#[from] io::Error),
    Redb(#[from] redb::Error),
}

/// An open file.
#[derive(Debug)]
pub(super) struct Log {
    database: Database,
    history: config::History,
    /// The offset of the last trigger.
    last: u64,
    /// Of all bodies.
    bytes: usize,
}

impl Log {
    /// Opens or makes the file; and what is in it.
    pub(super) fn open(path: &Path, history: &config::History) -> Result<(Self, Vec<Delivery>), LogFailed> {
        Self::try_open(path, history).map_err(|source| LogFailed { path: path.to_owned(), source })
    }

    fn try_open(path: &Path, history: &config::History) -> Result<(Self, Vec<Delivery>), Failure> {
        // It holds what users are sent.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let database = redb::Builder::new().create_file(file).map_err(redb::Error::from)?;
        let mut log = Self { database, history: history.clone(), last: 0, bytes: 0 };
        let deliveries = log.read()?;
        Ok((log, deliveries))
    }

    /// The offset of the last trigger.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    fn read(&mut self) -> Result<Vec<Delivery>, redb::Error> {
        let writing = self.database.begin_write()?;
        let epoch = {
            let mut about = writing.open_table(ABOUT)?;
            let known = about.get(EPOCH)?.and_then(|text| text.value().parse().ok());
            match known {
                Some(epoch) => epoch,
                None => {
                    let epoch = Epoch::random();
                    about.insert(EPOCH, epoch.to_string().as_str())?;
                    epoch
                }
            }
        };
        writing.open_table(TRIGGERS)?;
        writing.open_table(OTHERS)?;
        writing.commit()?;
        let reading = self.database.begin_read()?;
        let mut triggers = Vec::new();
        let mut first = None;
        let others = reading.open_table(OTHERS)?;
        for entry in reading.open_table(TRIGGERS)?.iter()? {
            let (offset, value) = entry?;
            let (offset, body) = (offset.value(), Bytes::copy_from_slice(value.value().1));
            first.get_or_insert(offset);
            self.last = offset;
            let kind = match others.get(offset)?.map(|kind| kind.value()) {
                None => Kind::Trigger,
                Some(CONTROL) => Kind::Control,
                Some(INSTANCE) => Kind::Instance,
                Some(CHANNELSTREAM) => Kind::Channelstream,
                Some(_) => continue, // a later version's
            };
            self.bytes += weight(kind, body.len());
            triggers.push(Delivery::of(kind, body, Some(offset), true));
        }
        // All that comes after this offset is there.
        let offset = first.map_or(self.last, |first| first.saturating_sub(1));
        let mut deliveries = vec![Delivery::Epoch { epoch, offset }];
        deliveries.append(&mut triggers);
        Ok(deliveries)
    }

    /// Writes `entries`, in their order and all or none, and drops what is too old or too much. On the disk when it returns.
    fn append(&mut self, entries: &[Entry]) -> Result<(), redb::Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let oldest = now.saturating_sub(self.history.age).as_millis() as u64;
        let (mut last, mut bytes) = (self.last, self.bytes);
        let writing = self.database.begin_write()?;
        {
            let mut triggers = writing.open_table(TRIGGERS)?;
            let mut others = writing.open_table(OTHERS)?;
            for Entry { kind, body } in entries {
                last += 1;
                bytes += weight(*kind, body.len());
                triggers.insert(last, (now.as_millis() as u64, &body[..]))?;
                match kind {
                    Kind::Trigger => {}
                    Kind::Control => drop(others.insert(last, CONTROL)?),
                    Kind::Instance => drop(others.insert(last, INSTANCE)?),
                    Kind::Channelstream => drop(others.insert(last, CHANNELSTREAM)?),
                }
            }
            // The last one stays: it says where offsets go on.
            loop {
                let first = triggers.first()?.map(|(offset, value)| {
                    let (written, body) = value.value();
                    (offset.value(), written, body.len())
                });
                match first {
                    Some((offset, written, length))
                        if offset < last && (written < oldest || bytes > self.history.limit_bytes) =>
                    {
                        triggers.remove(offset)?;
                        let kind = others.remove(offset)?.map_or(0, |kind| kind.value());
                        bytes -= if matches!(kind, INSTANCE | CHANNELSTREAM) { 0 } else { length };
                    }
                    _ => break,
                }
            }
        }
        writing.commit()?;
        (self.last, self.bytes) = (last, bytes);
        Ok(())
    }
}

/// What counts against `HISTORY_LIMIT`: not what instances tell each other, of which there is as much as there are clients.
fn weight(kind: Kind, length: usize) -> usize {
    if matches!(kind, Kind::Instance | Kind::Channelstream) { 0 } else { length }
}

/// Writes what is published, many at once where many wait, and passes on what is written.
pub(super) async fn write(mut log: Log, mut unwritten: mpsc::Receiver<Unwritten>, consumer: mpsc::Sender<Entry>) {
    while let Some(first) = unwritten.recv().await {
        let mut bytes = first.entry.body.len();
        let mut batch = vec![first];
        while batch.len() < BATCH
            && bytes < BATCH_BYTES
            && let Ok(next) = unwritten.try_recv()
        {
            bytes += next.entry.body.len();
            batch.push(next);
        }
        let entries: Vec<Entry> = batch.iter().map(|unwritten| unwritten.entry.clone()).collect();
        let writing = spawn_blocking(move || {
            let outcome = log.append(&entries);
            (log, outcome)
        });
        let (back, outcome) = match writing.await {
            Ok(written) => written,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic), // so that the server ends and says why
                Err(_) => return,
            },
        };
        log = back;
        if let Err(error) = outcome {
            let triggers = batch.len();
            limited!(error, "the embedded log cannot be written: triggers are refused", %error, triggers);
            continue; // whoever published them is told
        }
        for Unwritten { entry, written } in batch {
            // Nobody takes it any more when the server is stopping; it is in the file.
            let _ = consumer.send(entry).await;
            let _ = written.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn open(path: &Path, limit_bytes: usize) -> (Log, Vec<Delivery>) {
        Log::open(path, &config::History { age: Duration::from_secs(60), limit_bytes }).unwrap()
    }

    fn triggers<const N: usize>(bodies: [&'static str; N]) -> [Entry; N] {
        bodies.map(|body| Entry { kind: Kind::Trigger, body: Bytes::from_static(body.as_bytes()) })
    }

    fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
        let offset = |delivery: &Delivery| match delivery {
            Delivery::Trigger { offset, is_recalled: true, .. }
            | Delivery::Control { offset, is_recalled: true, .. } => offset.unwrap(),
            Delivery::Epoch { offset, .. } => *offset,
            other => panic!("{other:?}"),
        };
        deliveries.iter().map(offset).collect()
    }

    #[test]
    fn what_was_written_is_there_again_with_the_same_epoch_and_offsets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (mut log, first) = open(&path, 1000);
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777, 0o600);
        assert_eq!(offsets(&first), [0]);
        log.append(&triggers(["a", "b"])).unwrap();
        log.append(&[Entry { kind: Kind::Control, body: Bytes::from_static(b"c") }]).unwrap();
        drop(log);
        let (mut log, second) = open(&path, 1000);
        assert_eq!(first[0], second[0]);
        assert_eq!((offsets(&second), log.last()), (vec![0, 1, 2, 3], 3));
        assert!(matches!(&second[3], Delivery::Control { body, .. } if body == "c"));
        log.append(&[Entry { kind: Kind::Trigger, body: vec![b'x'; 1001].into() }]).unwrap();
        drop(log);
        let (log, third) = open(&path, 1000);
        assert_eq!((offsets(&third), log.last()), (vec![3, 4], 4), "all but the last one is too much");
    }

    #[test]
    fn a_file_that_is_in_use_or_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (_log, _) = open(&path, 1000);
        let history = config::History::default();
        let error = Log::open(&path, &history).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let other = folder.path().join("other");
        std::fs::write(&other, "this is no log").unwrap();
        Log::open(&other, &history).unwrap_err();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "this is no log");
    }
}
