//! Connects lapin through a stream of our own, which repairs what the broker sends before lapin parses it.
//!
//! A publisher chooses most strings of a message, and AMQP lets them be any bytes. lapin's parser takes a string that is
//! not UTF-8, or a header of a type it does not know, for a broken connection. Without the repair, one such message in
//! the log ends every connection that reads it.
//!
//! TCP, TLS and its verification stay lapin's own. Only bytes that come from the broker are looked at; see [`Repair`].

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
use parking_lot::Mutex;

use repair::{Progress, Repair};

/// Bytes read from the broker at once.
const READ_BYTES: usize = 64 << 10;

/// What the broker says of itself when a connection begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerProperties {
    /// Name of the broker's cluster.
    pub cluster_name: Option<String>,
}

/// Connects to the broker at `uri`, as [`Connection::connect_uri`] does, with every frame repaired before lapin sees it.
///
/// Returns the connection, and what the broker says of itself.
///
/// # Errors
/// Those of [`Connection::connect_uri`].
pub(super) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
) -> lapin::Result<(Connection, ServerProperties)> {
    let server = Arc::new(Mutex::new(ServerProperties::default()));
    let tokio = Tokio::current();
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), RepairingReactor { tokio: tokio.clone() }));
    let connecting = {
        let server = Arc::clone(&server);
        async move |uri: AMQPUri, _| dial(&uri, tokio.clone(), Arc::clone(&server)).await
    };
    let connection = Connection::connector(uri, runtime, connecting, properties).await?;
    let server = server.lock().clone();
    Ok((connection, server))
}

type TokioStream = <Tokio as Reactor>::TcpStream;
type RepairedStream = Repaired<AsyncTcpStream<TokioStream>>;

/// Connects TCP, and TLS if the URL says so, exactly as lapin does by itself.
async fn dial(
    uri: &AMQPUri,
    tokio: Tokio,
    server: Arc<Mutex<ServerProperties>>,
) -> lapin::Result<AsyncTcpStream<RepairedStream>> {
    let runtime = Runtime::new(tokio);
    match uri.connect_with_config_async(TLSConfig::default(), &runtime).await {
        Ok(stream) => Ok(AsyncTcpStream::Plain(Repaired::new(stream, server))),
        Err(error) if runtime.is_runtime_shutdown_error(&error) => {
            Err(ErrorKind::RuntimeShutdownError(Arc::new(error)).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Tokio's reactor, but for the type of its streams: lapin accepts no other stream than its reactor's.
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
        async { Ok(Repaired::new(AsyncTcpStream::Plain(connecting.await?), Arc::default())) }
    }
}

/// A stream to the broker that repairs what is read from it. What is written to it passes untouched.
struct Repaired<S> {
    stream: S,
    repair: Repair,
    /// What was read and not repaired yet: `input[begin..end]`.
    input: Box<[u8]>,
    begin: usize,
    end: usize,
    server: Arc<Mutex<ServerProperties>>,
}

impl<S> Repaired<S> {
    fn new(stream: S, server: Arc<Mutex<ServerProperties>>) -> Self {
        let input = vec![0; READ_BYTES].into_boxed_slice();
        Self { stream, repair: Repair::default(), input, begin: 0, end: 0, server }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Repaired<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, output: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let Progress { read, written } = this.repair.advance(&this.input[this.begin..this.end], output)?;
            this.begin += read;
            if let Some(properties) = this.repair.take_server_properties() {
                *this.server.lock() = properties;
            }
            // Nothing written means the rest of a frame has to come first; an empty read would tell lapin of the end.
            if written > 0 || output.is_empty() {
                return Poll::Ready(Ok(written));
            }
            this.begin = 0;
            this.end = 0;
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
