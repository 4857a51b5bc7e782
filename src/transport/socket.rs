//! A stream to a peer: TCP or a unix socket.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg},
};
use socket2::SockRef;
use tokio::{
    io::{Interest, ReadBuf, Ready},
    net::{TcpStream, UnixStream},
};

/// An accepted stream.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

impl Socket {
    /// Sends small frames at once, and gives up a peer that has acknowledged nothing for `timeout` (RFC 5482).
    pub fn tune(&self, timeout: Duration) {
        if let Self::Tcp(stream) = self {
            // Without these the socket works all the same, only later.
            let _ = stream.set_nodelay(true);
            let _ = SockRef::from(stream).set_tcp_user_timeout(Some(timeout));
        }
    }

    /// Releases the task that has read and written the stream so far by polling it. tokio keeps its waker until
    /// something happens on the stream, and with the waker the whole memory of the task, although the task has ended.
    pub fn release_task(&self) {
        let context = &mut Context::from_waker(Waker::noop());
        // Whether the stream is ready does not matter: if it is, tokio has dropped the waker.
        let _ = match self {
            Self::Tcp(stream) => (stream.poll_read_ready(context), stream.poll_write_ready(context)),
            Self::Unix(stream) => (stream.poll_read_ready(context), stream.poll_write_ready(context)),
        };
    }

    /// The interest in nothing but the end of the stream. It is noticed although there are bytes that nobody reads: the
    /// kernel tells it with `EPOLLRDHUP`, which tokio reports as closed for reading.
    pub(super) const END: Interest = Interest::PRIORITY;

    /// Waits until the stream is ready for `interest`, or broken.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
    }

    /// Appends what can be read now to `buffer`, as far as it has room; 0 at the end of the stream.
    pub(super) fn try_read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut drained = None;
        let read = || {
            let room = buffer.capacity() - buffer.len();
            let socket = self.as_fd();
            let (count, _) = recv(socket, rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT)?;
            if 0 < count && count < room {
                // There is nothing left; tokio takes that from an error, and need not ask the kernel once more.
                drained = Some(count);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(count)
        };
        let outcome = match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, read),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, read),
        };
        drained.map_or(outcome, Ok)
    }

    /// Appends what the kernel holds of the stream to `buffer`, as far as it has room; 0 at the end of the stream.
    ///
    /// Asks the kernel and not tokio, which knows nothing yet of what arrived while the process stood still.
    pub(super) fn read_now(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        Ok(recv(self.as_fd(), rustix::buffer::spare_capacity(buffer), RecvFlags::DONTWAIT)?.0)
    }

    /// Reads into `buffer`, or waits until there is something; nothing is read at the end of the stream.
    pub(super) fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let outcome = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_read_ready(context))?;
                    stream.try_read(buffer.initialize_unfilled())
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_read_ready(context))?;
                    stream.try_read(buffer.initialize_unfilled())
                }
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome.map(|count| buffer.advance(count))),
            }
        }
    }

    /// Writes as much as the stream takes, or waits until it takes something.
    pub(super) fn poll_write(&self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self {
                    Self::Tcp(stream) => ready!(stream.poll_write_ready(context))?,
                    Self::Unix(stream) => ready!(stream.poll_write_ready(context))?,
                },
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match poll_fn(|context| self.poll_write(context, &[IoSlice::new(bytes)])).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        Ok(())
    }

    /// Returns whether the peer takes nothing any more: it has reset the connection, or closed its unix socket. Over TCP,
    /// a peer that has closed its socket is not told from one that only sends nothing more, before something is sent to it.
    pub(super) fn is_broken(&self) -> bool {
        let mut one = [PollFd::new(self, PollFlags::empty())];
        let outcome = poll(&mut one, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
        outcome.is_ok() && one[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Writes what can be written now.
    ///
    /// Asks the kernel without asking tokio first, which mostly knows of a socket that it takes more; only when it does
    /// not, tokio has to see that for itself, to tell when it does again.
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let write = || write(self.as_fd(), slices);
        match (write(), self) {
            (Err(error), Self::Tcp(stream)) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.try_io(Interest::WRITABLE, write)
            }
            (Err(error), Self::Unix(stream)) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.try_io(Interest::WRITABLE, write)
            }
            (outcome, _) => outcome,
        }
    }

    /// Tells the peer that nothing more comes.
    pub(super) fn shutdown_write(&self) {
        // Fails only on a socket that is gone, which is what was wanted.
        let _ = match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

fn write(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
    Ok(match slices {
        [only] => send(socket, only, FLAGS)?,
        _ => sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), FLAGS)?,
    })
}
