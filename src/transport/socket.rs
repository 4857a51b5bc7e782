//! A stream to a peer: TCP or a unix socket.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready},
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

    /// Releases the task that has read and written the stream so far as [`AsyncRead`] and [`AsyncWrite`]. tokio keeps its waker until
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

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
