//! A queue of lines in front of a file descriptor that may block.
//!
//! `O_NONBLOCK` is no way around the queue: it belongs to the open file description, which a terminal or a pipe shares with other
//! processes.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Write},
    os::fd::AsFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tracing::error;

/// Bytes of lines that may wait: some thousands of lines.
const LIMIT_BYTES: usize = 1 << 20;
/// How long a flush waits for one line.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a flush takes at most, so that a reader that takes a line now and then does not delay the end of the process.
const LONGEST_FLUSH: Duration = Duration::from_secs(1);

/// The queue. Clones share it.
///
/// Each call of [`write`](Write::write) is one line, and is written whole and in order, or dropped whole. While the descriptor
/// takes nothing, lines wait; beyond [`LIMIT_BYTES`] they are dropped and counted, and as soon as the descriptor takes lines
/// again, the log says how many were dropped.
#[derive(Clone)]
pub(crate) struct Writer(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    has_lines: Condvar,
    has_written: Condvar,
    on_dropped: Box<dyn Fn(u64) + Send + Sync>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Box<[u8]>>,
    /// Of `lines` and of the line that is being written.
    bytes: usize,
    is_writing: bool,
    /// Lines that the thread is done with, dropped or not.
    done: u64,
    /// Lines dropped that the log has not told of.
    dropped: u64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Writer").field(&self.0.queue).finish()
    }
}

impl Writer {
    /// Starts a thread that writes to `target`. `on_dropped` is called with the number of lines whenever some are dropped; it
    /// must not block.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(
        target: impl AsFd + Send + 'static,
        on_dropped: impl Fn(u64) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            has_lines: Condvar::new(),
            has_written: Condvar::new(),
            on_dropped: Box::new(on_dropped),
        });
        let own = shared.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || own.write_for_ever(&target))?;
        Ok(Self(shared))
    }

    /// Waits until all lines are written, as long as the descriptor keeps taking some.
    pub(crate) fn flush(&self) {
        let deadline = Instant::now() + LONGEST_FLUSH;
        let mut queue = self.0.queue.lock();
        while queue.is_writing || !queue.lines.is_empty() {
            let done = queue.done;
            let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
            if self.0.has_written.wait_for(&mut queue, patience).timed_out() && queue.done == done {
                return;
            }
        }
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.0.queue.lock();
        if queue.bytes + line.len() > LIMIT_BYTES {
            queue.dropped += 1;
            drop(queue);
            (self.0.on_dropped)(1);
        } else {
            queue.bytes += line.len();
            queue.lines.push_back(line.into());
            drop(queue);
            self.0.has_lines.notify_one();
        }
        Ok(line.len())
    }

    /// Does nothing: the thread writes each line as soon as it can.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn write_for_ever(&self, target: &impl AsFd) {
        let mut is_torn = false;
        // A target that takes nothing, such as a pipe without a reader, cannot be told about lines that it did not take.
        let mut takes_lines = false;
        loop {
            let line = self.next(takes_lines);
            let outcome = write_line(target, &line, &mut is_torn);
            takes_lines = outcome.is_ok();
            if !takes_lines {
                (self.on_dropped)(1);
            }
            let mut queue = self.queue.lock();
            queue.is_writing = false;
            queue.bytes -= line.len();
            queue.done += 1;
            queue.dropped += u64::from(!takes_lines);
            drop(queue);
            self.has_written.notify_all();
        }
    }

    /// Waits for a line. Reports dropped lines once everything before them is written and if `takes_lines`.
    fn next(&self, takes_lines: bool) -> Box<[u8]> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.is_writing = true;
                return line;
            }
            let dropped = if takes_lines { std::mem::take(&mut queue.dropped) } else { 0 };
            if dropped > 0 {
                // The line comes back through the queue, in the log's format.
                drop(queue);
                error!(lines = dropped, "log lines dropped: standard error was not read fast enough");
                queue = self.queue.lock();
            } else {
                self.has_lines.wait(&mut queue);
            }
        }
    }
}

/// Writes all of `line`. If the last line was only written in part, it is ended first, so that this one begins at its own line.
fn write_line(target: &impl AsFd, line: &[u8], is_torn: &mut bool) -> Result<(), Errno> {
    if *is_torn {
        write_all(target, b"\n").map_err(|(error, _)| error)?;
        *is_torn = false;
    }
    write_all(target, line).map_err(|(error, written)| {
        *is_torn = written > 0;
        error
    })
}

/// Writes all of `bytes`; on an error, says how many were written.
fn write_all(target: &impl AsFd, bytes: &[u8]) -> Result<(), (Errno, usize)> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(target, &bytes[written..]) {
            Ok(0) => return Err((Errno::IO, written)),
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            // Another process has made the shared description non-blocking.
            Err(Errno::AGAIN) => {
                if let Err(error) = poll(&mut [PollFd::new(target, PollFlags::OUT)], None)
                    && error != Errno::INTR
                {
                    return Err((error, written));
                }
            }
            Err(error) => return Err((error, written)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, PipeReader, Read, pipe},
        sync::atomic::{AtomicU64, Ordering::Relaxed},
    };

    use super::*;

    fn writer() -> (Writer, PipeReader, Arc<AtomicU64>) {
        let (reader, target) = pipe().unwrap();
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = dropped.clone();
        let writer = Writer::start(target, move |lines| {
            counter.fetch_add(lines, Relaxed);
        });
        (writer.unwrap(), reader, dropped)
    }

    fn write(writer: &mut Writer, lines: std::ops::Range<u64>) {
        for number in lines {
            writer.write_all(format!("{number:0999}\n").as_bytes()).unwrap();
        }
    }

    #[test]
    fn a_pipe_that_is_not_read_keeps_nobody_waiting_and_costs_lines_that_are_counted() {
        let (mut writer, reader, dropped) = writer();
        write(&mut writer, 0..5000);
        let lost = dropped.load(Relaxed);
        // The queue holds 1 MiB, the pipe 64 KiB or less.
        assert!((3800..=3952).contains(&lost), "{lost}");
        writer.flush(); // which gives up
        assert!(!writer.0.queue.lock().lines.is_empty());
        // What was taken arrives whole and in order; then there is room again.
        let mut lines = BufReader::new(reader).lines().map(|line| line.unwrap().parse::<u64>().unwrap());
        let kept = 5000 - lost;
        assert!(lines.by_ref().take(kept as usize).is_sorted_by(|one, next| one < next));
        write(&mut writer, 5000..5010);
        assert!(lines.by_ref().take(10).eq(5000..5010));
        writer.flush();
        assert_eq!(dropped.load(Relaxed), lost);
    }

    #[test]
    fn a_flush_writes_all_that_a_reader_takes() {
        let (mut writer, mut reader, dropped) = writer();
        let reading = thread::spawn(move || {
            let mut text = vec![0; 1000 * 1000];
            reader.read_exact(&mut text).map(|()| reader)
        });
        write(&mut writer, 0..1000);
        writer.flush();
        let queue = writer.0.queue.lock();
        assert_eq!((queue.lines.len(), queue.bytes, queue.done, dropped.load(Relaxed)), (0, 0, 1000, 0));
        drop(queue);
        reading.join().unwrap().unwrap();
    }

    #[test]
    fn a_pipe_without_a_reader_costs_lines_and_nothing_else() {
        let (mut writer, reader, dropped) = writer();
        drop(reader);
        write(&mut writer, 0..10);
        writer.flush();
        let queue = writer.0.queue.lock();
        assert_eq!((queue.bytes, queue.done, queue.dropped, dropped.load(Relaxed)), (0, 10, 10, 10));
    }

    #[test]
    fn a_line_after_one_that_was_written_in_part_begins_at_its_own_line() {
        let (mut reader, target) = pipe().unwrap();
        let mut is_torn = true;
        write_line(&target, b"next\n", &mut is_torn).unwrap();
        drop(target);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), is_torn), ("\nnext\n", false));
    }
}
