//! The log in a file, so that an instance that is restarted forgets nothing.
//!
//! Each time the file is opened, an epoch begins, whose name stands in the file at an offset of its own. Positions are of the
//! epoch before them, so a file that was put back from an earlier copy cannot use an offset again by the same name.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};
use rustix::fs::{Advice, fadvise};
use tokio::task::JoinError;

use super::{
    super::{Delivery, Kind},
    Entry,
};
use crate::{config, protocol::Epoch};

/// By offset: when it was written, in milliseconds since 1970, and the body.
const TRIGGERS: TableDefinition<'_, u64, (u64, &[u8])> = TableDefinition::new("triggers");
/// By offset: what is no trigger, by its kind.
const OTHERS: TableDefinition<'_, u64, u8> = TableDefinition::new("others");
const CONTROL: u8 = 1;
const INSTANCE: u8 = 2;
const CHANNELSTREAM: u8 = 3;
const BEGINNING: u8 = 4;
/// What else is to be known.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");
/// The epoch that counts before the first entry.
const EPOCH: &str = "epoch";
/// What is written to find out whether anything can be, and taken out again.
const PROBE: &str = "probe";

/// The file of the embedded broker's log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("EMBEDDED_LOG {path} cannot be used", path = .path.display())]
pub struct LogFailed {
    path: PathBuf,
    #[source]
    source: Failure,
}

impl LogFailed {
    /// Returns whether another process has it open.
    pub fn is_in_use(&self) -> bool {
        matches!(self.source, Failure::Redb(redb::Error::DatabaseAlreadyOpen))
    }
}

/// Opens the file as a server does, and leaves it as it was: one that is not there is made and deleted again.
///
/// # Errors
/// When a server could not use it.
pub fn check(path: &Path) -> Result<(), LogFailed> {
    try_out(path).map_err(|source| LogFailed { path: path.to_owned(), source })
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Redb(#[from] redb::Error),
    /// Another file stands at the path.
    #[error("it was replaced by another file")]
    Replaced,
    /// Something else has cut it off.
    #[error("it was truncated")]
    Truncated,
    /// It was closed.
    #[error("it was closed")]
    Closed,
    #[error("writing it failed")]
    Panic(#[source] JoinError),
}

fn try_out(path: &Path) -> Result<(), Failure> {
    let is_there = path.try_exists()?;
    if is_there && path.metadata()?.len() > 0 {
        let database = redb::Builder::new().create_file(open_file(path)?.0).map_err(redb::Error::from)?;
        return Ok(probe(&database, 1)?);
    }
    // Beside it, so that a server that starts at this moment finds nothing.
    let beside = beside(path, ".check");
    let outcome = open_file(if is_there { path } else { &beside }).map_err(Failure::from).and_then(|(file, _)| {
        if is_there {
            return Ok(());
        }
        let database = redb::Builder::new().create_file(file).map_err(redb::Error::from)?;
        probe(&database, 1)?;
        Ok(sync_folder(path)?)
    });
    let _ = std::fs::remove_file(beside);
    outcome
}

/// What is known of a file when it can be opened no more.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) path: PathBuf,
    history: config::History,
    /// The last offset.
    pub(super) last: u64,
    epoch: Epoch,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Log {
    database: Database,
    known: Known,
    /// Device and number of the file, whatever stands at its path.
    inode: (u64, u64),
    /// Its length after the last commit.
    length: u64,
    sizes: Sizes,
}

impl Known {
    /// Whether `deliveries`, which end with an epoch that has just begun, hold the last entry that is known: its epoch was
    /// followed by another one only behind it.
    fn is_continued_by(&self, deliveries: &[Delivery]) -> bool {
        let mut epochs = deliveries.iter().filter_map(|delivery| match delivery {
            Delivery::Epoch { epoch, offset } => Some((*epoch, *offset)),
            _ => None,
        });
        epochs.any(|(epoch, _)| epoch == self.epoch) && epochs.next().is_some_and(|(_, offset)| offset > self.last)
    }
}

impl Log {
    /// Opens or makes the file; and what is in it.
    pub(super) fn open(path: &Path, history: &config::History) -> Result<(Self, Vec<Delivery>), LogFailed> {
        Self::try_open(path, history).map_err(|source| LogFailed { path: path.to_owned(), source })
    }

    fn try_open(path: &Path, history: &config::History) -> Result<(Self, Vec<Delivery>), Failure> {
        let (file, inode) = open_file(path)?;
        let database = redb::Builder::new().create_file(file).map_err(redb::Error::from)?;
        let known = Known { path: path.to_owned(), history: history.clone(), last: 0, epoch: Epoch::random() };
        let mut log = Self { database, known, inode, length: 0, sizes: Sizes::default() };
        let deliveries = log.read()?;
        log.length = path.metadata()?.len();
        sync_folder(path)?;
        Ok((log, deliveries))
    }

    /// Opens a file again that is `known` and was closed because it failed, if it takes `probe_bytes`; and what was in it
    /// behind the last offset. If it does not go on there, all that is in it, as when a log begins anew.
    pub(super) fn reopen(known: &Known, probe_bytes: usize) -> Result<(Self, Vec<Delivery>), Failure> {
        // What was not written in the end may still be in the page cache, as if it had been.
        match File::open(&known.path) {
            Ok(file) => fadvise(&file, 0, None, Advice::DontNeed).map_err(io::Error::from)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let (file, _) = open_file(&known.path)?;
        let database = redb::Builder::new().create_file(file).map_err(redb::Error::from)?;
        probe(&database, probe_bytes)?;
        drop(database);
        let (log, mut deliveries) = Self::try_open(&known.path, &known.history)?;
        if known.is_continued_by(&deliveries) {
            deliveries.retain_mut(|delivery| is_behind(delivery, known.last));
        } else {
            deliveries.insert(0, Delivery::Restart { is_read_back: true });
            deliveries.extend([Delivery::Recalled, Delivery::Missed]);
        }
        Ok((log, deliveries))
    }

    /// What is to be known of it to open it again.
    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    fn read(&mut self) -> Result<Vec<Delivery>, redb::Error> {
        let known = &mut self.known;
        let writing = self.database.begin_write()?;
        let mut deliveries = vec![];
        {
            let mut about = writing.open_table(ABOUT)?;
            let named = about.get(EPOCH)?.and_then(|text| text.value().parse().ok());
            let first = named.unwrap_or(known.epoch);
            if named.is_none() {
                about.insert(EPOCH, first.to_string().as_str())?;
            }
            let mut triggers = writing.open_table(TRIGGERS)?;
            let mut others = writing.open_table(OTHERS)?;
            for entry in triggers.iter()? {
                let (offset, value) = entry?;
                let (offset, body) = (offset.value(), Bytes::copy_from_slice(value.value().1));
                if deliveries.is_empty() {
                    // All that comes after this offset is there.
                    deliveries.push(Delivery::Epoch { epoch: first, offset: offset.saturating_sub(1) });
                }
                known.last = offset;
                let kind = match others.get(offset)?.map(|kind| kind.value()) {
                    None => Kind::Trigger,
                    Some(CONTROL) => Kind::Control,
                    Some(INSTANCE) => Kind::Instance,
                    Some(CHANNELSTREAM) => Kind::Channelstream,
                    Some(BEGINNING) => {
                        deliveries.extend(epoch(&body).map(|epoch| Delivery::Epoch { epoch, offset }));
                        continue;
                    }
                    Some(_) => continue, // a later version's
                };
                *self.sizes.of(matches!(kind, Kind::Instance | Kind::Channelstream)) += body.len();
                deliveries.push(Delivery::of(kind, body, Some(offset), true));
            }
            if deliveries.is_empty() {
                deliveries.push(Delivery::Epoch { epoch: first, offset: 0 });
                known.epoch = first;
            }
            if named.is_some() {
                known.last += 1;
                triggers.insert(known.last, (now_millis(), known.epoch.to_string().as_bytes()))?;
                others.insert(known.last, BEGINNING)?;
                deliveries.push(Delivery::Epoch { epoch: known.epoch, offset: known.last });
            }
        }
        writing.commit()?;
        Ok(deliveries)
    }

    /// Writes `entries`, in their order and all or none, and drops what is too old or too much. On the disk when it returns.
    /// Of a file that was deleted, all that it had is in a new one then.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), Failure> {
        let path = &self.known.path;
        match path.metadata() {
            Ok(metadata) if (metadata.dev(), metadata.ino()) != self.inode => return Err(Failure::Replaced),
            Ok(metadata) if metadata.len() < self.length => {
                // Closing it writes to it, and what that makes is no log.
                std::fs::rename(path, beside(path, ".damaged"))?;
                return Err(Failure::Truncated);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.restore()?,
            Err(error) => return Err(error.into()),
        }
        if !entries.is_empty() {
            self.try_append(entries)?;
            self.length = self.known.path.metadata()?.len();
        }
        Ok(())
    }

    fn try_append(&mut self, entries: &[Entry]) -> Result<(), redb::Error> {
        let now = now_millis();
        let oldest = now.saturating_sub(self.known.history.age.as_millis() as u64);
        let (mut last, mut sizes) = (self.known.last, self.sizes);
        let limit_bytes = self.known.history.limit_bytes;
        let writing = self.database.begin_write()?;
        {
            let mut triggers = writing.open_table(TRIGGERS)?;
            let mut others = writing.open_table(OTHERS)?;
            let mut about = writing.open_table(ABOUT)?;
            for Entry { kind, body } in entries {
                last += 1;
                *sizes.of(matches!(kind, Kind::Instance | Kind::Channelstream)) += body.len();
                triggers.insert(last, (now, &body[..]))?;
                match kind {
                    Kind::Trigger => {}
                    Kind::Control => drop(others.insert(last, CONTROL)?),
                    Kind::Instance => drop(others.insert(last, INSTANCE)?),
                    Kind::Channelstream => drop(others.insert(last, CHANNELSTREAM)?),
                }
            }
            // The last one stays: it says where offsets go on.
            while let Some((offset, written, length)) = first(&triggers)?
                && offset < last
                && (written < oldest || sizes.triggers > limit_bytes)
            {
                let kind = others.remove(offset)?.map_or(0, |kind| kind.value());
                let removed = triggers.remove(offset)?;
                match kind {
                    BEGINNING => {
                        let body = removed.map(|value| value.value().1.to_vec()).unwrap_or_default();
                        if let Some(epoch) = epoch(&body) {
                            about.insert(EPOCH, epoch.to_string().as_str())?;
                        }
                    }
                    kind => {
                        let size = sizes.of(is_instances(kind));
                        *size = size.saturating_sub(length);
                    }
                }
            }
            // Among the others, which stay: what follows says all of it again from time to time.
            while sizes.instances > limit_bytes
                && let Some(offset) = first_of_instances(&others, sizes.instances_from..last)?
            {
                others.remove(offset)?;
                let length = triggers.remove(offset)?.map_or(0, |value| value.value().1.len());
                sizes.instances = sizes.instances.saturating_sub(length);
                sizes.instances_from = offset + 1;
            }
        }
        writing.commit()?;
        (self.known.last, self.sizes) = (last, sizes);
        Ok(())
    }

    /// Returns whether nothing stands at its path: what it holds is nowhere else then.
    pub(super) fn is_deleted(&self) -> bool {
        matches!(self.known.path.try_exists(), Ok(false))
    }

    /// Writes all that there is of a file that was deleted to a new one at its path.
    fn restore(&mut self) -> Result<(), Failure> {
        let unfinished = beside(&self.known.path, ".new");
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let outcome = self.restore_by(&unfinished);
        if outcome.is_err() {
            let _ = std::fs::remove_file(&unfinished); // a part of it takes room on a disk that is full
        }
        outcome
    }

    fn restore_by(&mut self, unfinished: &Path) -> Result<(), Failure> {
        let Known { path, .. } = &self.known;
        let (file, inode) = open_file(unfinished)?;
        let database = redb::Builder::new().create_file(file).map_err(redb::Error::from)?;
        copy(&self.database, &database)?;
        std::fs::rename(unfinished, path)?;
        sync_folder(path)?;
        tracing::warn!(path = %path.display(), "EMBEDDED_LOG was deleted: all that was in it is in a new file");
        (self.database, self.inode, self.length) = (database, inode, path.metadata()?.len());
        Ok(())
    }
}

/// Bytes of the bodies in the file. What instances tell each other is counted apart: clients choose how much that is, and must
/// not push triggers out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sizes {
    triggers: usize,
    instances: usize,
    /// Nothing that instances told each other stands before this offset.
    instances_from: u64,
}

impl Sizes {
    fn of(&mut self, is_instances: bool) -> &mut usize {
        if is_instances { &mut self.instances } else { &mut self.triggers }
    }
}

fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn epoch(body: &[u8]) -> Option<Epoch> {
    std::str::from_utf8(body).ok()?.parse().ok()
}

/// Offset, time and length of the oldest entry.
fn first(triggers: &Table<'_, u64, (u64, &[u8])>) -> Result<Option<(u64, u64, usize)>, redb::StorageError> {
    Ok(triggers.first()?.map(|(offset, value)| {
        let (written, body) = value.value();
        (offset.value(), written, body.len())
    }))
}

fn is_instances(kind: u8) -> bool {
    matches!(kind, INSTANCE | CHANNELSTREAM)
}

/// The offset of the oldest entry within `range` that instances tell each other.
fn first_of_instances(others: &Table<'_, u64, u8>, range: Range<u64>) -> Result<Option<u64>, redb::StorageError> {
    for entry in others.range(range)? {
        let (offset, kind) = entry?;
        if is_instances(kind.value()) {
            return Ok(Some(offset.value()));
        }
    }
    Ok(None)
}

/// Whether `delivery` stands behind `last`. One that does is new to everybody: whoever published it was told that it failed.
fn is_behind(delivery: &mut Delivery, last: u64) -> bool {
    match delivery {
        Delivery::Trigger { offset, is_recalled, .. }
        | Delivery::Control { offset, is_recalled, .. }
        | Delivery::Channelstream { offset, is_recalled, .. } => {
            *is_recalled = false;
            offset.is_some_and(|offset| offset > last)
        }
        Delivery::Instance { offset, .. } => offset.is_some_and(|offset| offset > last),
        Delivery::Epoch { offset, .. } => *offset > last,
        Delivery::Restart { .. } | Delivery::Recalled | Delivery::Missed => false,
    }
}

/// Opens or makes a file for this process's user alone: it holds what users are sent. And its device and number.
fn open_file(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, (metadata.dev(), metadata.ino())))
}

/// A path in the same folder: the name with an ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Has the name of a new file on the disk: what is written to a file is lost with it.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Writes so many bytes and takes them out again.
fn probe(database: &Database, bytes: usize) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    writing.open_table(ABOUT)?.insert(PROBE, "x".repeat(bytes).as_str())?;
    writing.commit()?;
    let writing = database.begin_write()?;
    writing.open_table(ABOUT)?.remove(PROBE)?;
    writing.commit()?;
    Ok(())
}

/// Copies all that stands in one file to another one, which is empty.
fn copy(from: &Database, to: &Database) -> Result<(), redb::Error> {
    let (reading, writing) = (from.begin_read()?, to.begin_write()?);
    {
        let (mut triggers, mut others) = (writing.open_table(TRIGGERS)?, writing.open_table(OTHERS)?);
        let mut about = writing.open_table(ABOUT)?;
        for entry in reading.open_table(TRIGGERS)?.iter()? {
            let (offset, value) = entry?;
            triggers.insert(offset.value(), value.value())?;
        }
        for entry in reading.open_table(OTHERS)?.iter()? {
            let (offset, kind) = entry?;
            others.insert(offset.value(), kind.value())?;
        }
        for entry in reading.open_table(ABOUT)?.iter()? {
            let (key, value) = entry?;
            about.insert(key.value(), value.value())?;
        }
    }
    writing.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
