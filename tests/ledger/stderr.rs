//! The log of an instance: a pipe that the test reads, or does not read for a while.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::PathBuf,
    process::ChildStderr,
};

use tokio::{io::AsyncReadExt, net::unix::pipe, sync::watch};

/// What a pipe is filled with. No log has any.
const FILLING: u8 = 0;
/// Of one write; a pipe takes all of it or nothing (pipe(7)).
const PIECE: usize = 4096;
/// The flag of open(2).
const O_NONBLOCK: i32 = 0o4000;

/// Writes what instances log into a file.
#[derive(Debug)]
pub struct Stderr {
    file: PathBuf,
    is_read: watch::Sender<bool>,
}

impl Stderr {
    pub fn new(file: PathBuf) -> Self {
        Self { file, is_read: watch::Sender::new(true) }
    }

    /// Reads the pipe of a new process to its end.
    pub fn read(&self, pipe: ChildStderr) {
        let mut pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(pipe)).unwrap();
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file).unwrap();
        let mut is_read = self.is_read.subscribe();
        tokio::spawn(async move {
            let mut piece = vec![0; 64 * 1024];
            loop {
                let Ok(_) = is_read.wait_for(|is_read| *is_read).await else { return };
                let count = tokio::select! {
                    biased;
                    Ok(_) = is_read.wait_for(|is_read| !*is_read) => continue,
                    count = pipe.read(&mut piece) => count.unwrap_or_default(),
                };
                if count == 0 {
                    return;
                }
                let log: Vec<u8> = piece[..count].iter().copied().filter(|byte| *byte != FILLING).collect();
                let _ = file.write_all(&log);
            }
        });
    }

    /// Reads nothing any more, and fills the pipe of the process, so that it takes not even one line.
    ///
    /// # Errors
    /// When the pipe cannot be filled.
    pub fn block(&self, process: u32) -> io::Result<()> {
        self.is_read.send_replace(false);
        // Opened anew, for the process's own end must not become one that does not block.
        let path = format!("/proc/{process}/fd/2");
        let mut pipe = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(path)?;
        for size in [PIECE, 1] {
            let piece = vec![FILLING; size];
            loop {
                match pipe.write(&piece) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    pub fn unblock(&self) {
        self.is_read.send_replace(true);
    }
}
