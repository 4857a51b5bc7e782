//! Connector for lapin that repairs the broker's frames before lapin parses them.
//!
//! A publisher chooses most strings of a message, and AMQP 0-9-1 allows any bytes in them. lapin's parser treats a string
//! that is not UTF-8, or a header of an unknown type, as a broken connection. Without the repair, one such message in the
//! log would end every connection that reads it, again and again.
//!
//! lapin still opens the TCP connection, performs the TLS handshake and verifies the certificate. This module rewrites
//! bytes that come from the broker, see [`Repair`], and passes on bytes to the broker unchanged.

mod content;
mod method;
mod repair;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures::{
    Stream,
    io::{AsyncRead, AsyncWrite, IoSlice},
};
use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, ErrorKind,
    tcp::{AMQPUriTcpExt, TLSConfig},
    uri::AMQPUri,
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use repair::{Progress, Repair};

/// Size of the buffer for bytes that are read from the broker.
const READ_BYTES: usize = 64 << 10;

/// Connects to the broker at `uri` as [`Connection::connect_uri`] does, and repairs what the broker sends.
///
/// # Errors
/// Returns the errors of [`Connection::connect_uri`].
pub(super) async fn connect(uri: AMQPUri, properties: ConnectionProperties) -> lapin::Result<Connection> {
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), RepairingReactor { tokio: tokio.clone() }));
    // lapin's task continues a handshake after its caller has given up, as long as the broker sends nothing.
    let given_up = CancellationToken::new();
    let guard = given_up.clone().drop_guard();
    let connecting = async move |uri: AMQPUri, _| dial(&uri, tokio.clone(), given_up.clone()).await;
    // A large future, which `connect_uri` boxes, too.
    let connection = Box::pin(Connection::connector(uri, runtime, connecting, properties)).await?;
    guard.disarm();
    Ok(connection)
}

type TokioStream = <Tokio as Reactor>::TcpStream;
type RepairedStream = Repaired<AsyncTcpStream<TokioStream>>;

/// Opens the TCP connection, with TLS for `amqps://`, by lapin's own function and its default configuration.
async fn dial(
    uri: &AMQPUri,
    tokio: Tokio,
    given_up: CancellationToken,
) -> lapin::Result<AsyncTcpStream<RepairedStream>> {
    let runtime = Runtime::new(tokio);
    let dialling = uri.connect_with_config_async(TLSConfig::default(), &runtime);
    let outcome = match given_up.run_until_cancelled(dialling).await {
        Some(outcome) => outcome,
        None => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    };
    match outcome {
        Ok(stream) => Ok(AsyncTcpStream::Plain(Repaired::new(stream, given_up))),
        Err(error) if runtime.is_runtime_shutdown_error(&error) => {
            Err(ErrorKind::RuntimeShutdownError(Arc::new(error)).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Tokio's reactor with another type of stream. lapin's connector has to return the stream type of its reactor.
#[derive(Debug, Clone)]
struct RepairingReactor {
    tokio: Tokio,
}

impl Reactor for RepairingReactor {
    type TcpStream = RepairedStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.tokio.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.tokio.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.tokio.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<RepairedStream>> + Send + 'static {
        let connecting = self.tokio.tcp_connect_addr(address);
        async { Ok(Repaired::new(AsyncTcpStream::Plain(connecting.await?), CancellationToken::new())) }
    }
}

/// Stream to the broker that repairs the frames read from it.
struct Repaired<S> {
    stream: S,
    repair: Repair,
    /// Bytes from the broker; `input[begin..end]` still has to be repaired.
    input: Box<[u8]>,
    begin: usize,
    end: usize,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Repaired<S> {
    /// Over `stream`, until it is `given_up`.
    fn new(stream: S, given_up: CancellationToken) -> Self {
        let input = vec![0; READ_BYTES].into_boxed_slice();
        Self {
            stream,
            repair: Repair::default(),
            input,
            begin: 0,
            end: 0,
            given_up: Box::pin(given_up.cancelled_owned()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Repaired<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, output: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let Progress { read, written } = this.repair.advance(&this.input[this.begin..this.end], output)?;
            this.begin += read;
            // An empty read would mean the end of the stream, so wait for the rest of the frame instead.
            if written > 0 || output.is_empty() {
                return Poll::Ready(Ok(written));
            }
            this.begin = 0;
            this.end = 0;
            if this.given_up.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            this.end = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut this.input))?;
            if this.end == 0 {
                return Poll::Ready(Ok(0));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Repaired<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;
