//! Accepting connections, and HTTP/1.1 on them.

use std::{io, net::SocketAddr, os::unix::fs::FileTypeExt, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::Service as _,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpSocket, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;
use warp::{filters::BoxedFilter, reply::Response};

use super::{
    Origination,
    answer::{Answer, Answering},
    reply, request,
};
use crate::{
    config::Listen,
    connection::{Accepted, Connections},
    logging::limited,
    metrics::Metrics,
    transport::{
        inbound::{Follows, Inbound, Patience, Requests},
        socket::Socket,
        takeover::Takeover,
    },
};

/// How long the head of a request may take, from its first byte on; that of the first request, from the acceptance on.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// How much longer than announced a connection without a request is kept, for the request that is on its way.
const UNANNOUNCED: Duration = Duration::from_secs(5);
/// How long an answer may take before a client that sends nothing more is asked whether it is there.
const PROBED_AFTER: Duration = Duration::from_millis(10);
/// Says for how long a connection is kept; registered, though RFC 9112 does not define it.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// How long to wait when there are no descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}")]
pub struct BindError {
    listen: Listen,
    #[source]
    source: io::Error,
}

impl BindError {
    /// Whether somebody listens there already.
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// What peers have to keep to.
#[derive(Debug, Clone)]
pub struct Terms {
    /// One that acknowledges nothing for so long is given up.
    pub peer_timeout: Duration,
    /// How long a connection is kept for a next request, as peers are told.
    pub keep_alive: Duration,
    /// The largest head of a request: cookies can be large.
    pub head_limit_bytes: usize,
    /// Where those are counted that do not.
    pub metrics: Arc<Metrics>,
    /// How many connections there may be.
    pub room: Room,
}

/// How many connections a listener may have.
#[derive(Debug, Clone)]
pub enum Room {
    /// Anybody can connect. Connections beyond the limits of clients are closed at once, and those that have been refused
    /// something are not kept.
    Public(Arc<Connections>),
    /// Callers are known. Connections beyond the limit wait to be accepted.
    Internal {
        /// One permit for each connection.
        permits: Arc<Semaphore>,
        /// Permits in all.
        limit: usize,
    },
}

impl Room {
    /// Returns the room of the internal listener; without `limit`, for as many connections as there are.
    pub fn internal(limit: Option<usize>) -> Self {
        let limit = limit.unwrap_or(Semaphore::MAX_PERMITS);
        Self::Internal { permits: Arc::new(Semaphore::new(limit)), limit }
    }

    /// Waits until another connection may be accepted.
    async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Public(_) => None,
            Self::Internal { permits, .. } => permits.clone().acquire_owned().await.ok(), // it is never closed
        }
    }

    /// Counts a connection that has been accepted; `None` if there may not be another one.
    fn take(&self, peer: Option<SocketAddr>, permit: Option<OwnedSemaphorePermit>) -> Option<Taken> {
        Some(match self {
            Self::Public(connections) => {
                let accepted = connections.accept(peer).inspect_err(|limit| {
                    limited!(warn[limit.word()], "connection closed unanswered", %limit, setting = limit.setting());
                });
                Taken::Public(accepted.ok()?)
            }
            Self::Internal { permits, limit } => {
                Taken::Internal { _permit: permit, permits: permits.clone(), limit: *limit }
            }
        })
    }
}

/// The room of one connection, until this is dropped.
enum Taken {
    Public(Accepted),
    Internal { _permit: Option<OwnedSemaphorePermit>, permits: Arc<Semaphore>, limit: usize },
}

impl Taken {
    /// Whether the connection may go on after an answer with this status.
    fn may_go_on(&self, status: StatusCode) -> bool {
        let is_refused = status.is_client_error() || status.is_server_error();
        // Whoever is refused and asks again does not do so on the same connection: it would stay as long as it asks.
        !(self.is_crowded() || is_refused && self.is_public())
    }

    fn is_public(&self) -> bool {
        matches!(self, Self::Public(_))
    }

    /// Whether there are so many connections that none is kept for a next request.
    fn is_crowded(&self) -> bool {
        match self {
            Self::Public(accepted) => accepted.is_crowded(),
            Self::Internal { permits, limit, .. } => permits.available_permits() <= limit / 4,
        }
    }
}

/// An address that is listened on. A unix socket's file goes when it is dropped.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens on `listen`. A unix socket that nobody listens on any more is replaced; its mode follows the umask.
    ///
    /// # Errors
    /// When the address is in use or may not be used.
    pub async fn bind(listen: &Listen) -> Result<Self, BindError> {
        let kind = match listen {
            Listen::Tcp(address) => {
                let listener = || {
                    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                    socket.set_reuseaddr(true)?;
                    socket.bind(*address)?;
                    socket.listen(BACKLOG)
                };
                listener().map(Kind::Tcp)
            }
            Listen::Unix(path) => {
                let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
                if is_socket && UnixStream::connect(path).await.is_err() {
                    let _ = std::fs::remove_file(path); // if that fails, binding says why
                }
                UnixListener::bind(path).map(|listener| Kind::Unix(listener, SocketFile(path.clone())))
            }
        };
        kind.map(Self).map_err(|source| BindError { listen: listen.clone(), source })
    }

    /// Where it really listens, which port 0 does not tell.
    pub fn address(&self) -> io::Result<Listen> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Kind::Unix(_, file) => Ok(Listen::Unix(file.0.clone())),
        }
    }

    /// Returns the next connection, and the peer's address; `None` on a unix socket and only there.
    ///
    /// The address is the one that comes with the connection. The kernel does not tell it later if the peer has reset the
    /// connection, although the server still reads what was sent before.
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        Ok(match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                (Socket::Tcp(stream), Some(peer))
            }
            Kind::Unix(listener, _) => (Socket::Unix(listener.accept().await?.0), None),
        })
    }

    /// Serves `routes` on these `terms` until `stop`; requests under way are then finished by `tasks`.
    pub async fn serve(
        self,
        routes: BoxedFilter<(Response,)>,
        terms: Terms,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        loop {
            let accepting = async {
                let permit = terms.room.wait().await;
                (self.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = accepting => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    // Closed without an answer: it would take as long as a peer likes.
                    let Some(taken) = terms.room.take(peer, permit) else { continue };
                    socket.tune(terms.peer_timeout);
                    tasks.spawn(serve_one(socket, peer, taken, routes.clone(), terms.clone(), stop.clone()));
                }
                Err(error) if is_about_one_peer(&error) => {
                    debug!(%error, "a connection was gone before it was accepted")
                }
                Err(error) => {
                    limited!(warn, "cannot accept connections at present", %error);
                    sleep(EXHAUSTED).await;
                }
            }
        }
    }
}

fn is_about_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Why hyper has to let go of a connection.
#[derive(Debug, thiserror::Error)]
enum Left {
    /// A transport takes it over.
    #[error("the connection is no longer HTTP")]
    Handover,
    /// Nobody waits for the handshake.
    #[error("the client was gone before its handshake was answered")]
    Gone,
}

/// Writes the head of the response, and hands the socket over.
async fn take_over(takeover: Takeover, socket: Socket, head: &[u8], received: Vec<u8>) {
    match timeout(HEAD_DEADLINE, socket.write_all(head)).await {
        Ok(Ok(())) => {
            socket.release_task();
            takeover.begin(socket, received);
        }
        Ok(Err(error)) => debug!(%error, "the client was gone before its response"),
        Err(_) => debug!("the client did not take its response"),
    }
}

/// Returns the head of a response as it is written (RFC 9112 section 4).
fn response_head<B>(response: &http::Response<B>) -> Vec<u8> {
    let status = response.status();
    let mut head =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default()).into_bytes();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

async fn serve_one(
    socket: Socket,
    peer: Option<SocketAddr>,
    taken: Taken,
    routes: BoxedFilter<(Response,)>,
    terms: Terms,
    stop: CancellationToken,
) {
    let taken = Arc::new(taken);
    let (inbound, requests) = Inbound::new(socket, patience(&taken, &terms), reply::unread);
    let metrics = terms.metrics.clone();
    let routes = TowerToHyperService::new(warp::service(routes));
    let (asked, stopping) = (requests.clone(), stop.clone());
    let departure = Arc::new(Mutex::new(None));
    let departing = departure.clone();
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        let follows = request.body().size_hint().exact().map_or(Follows::Chunks, Follows::Bytes);
        let head = asked.begin(follows);
        let answering = Answering(asked.clone());
        let (routes, taken, metrics) = (routes.clone(), taken.clone(), metrics.clone());
        let (asked, stopping, departing) = (asked.clone(), stopping.clone(), departing.clone());
        async move {
            let is_kept = is_kept(&request);
            let mut response = match request::check(&mut request, head, follows) {
                Ok(()) => {
                    let version = request.version();
                    request.extensions_mut().insert(Origination { peer, version });
                    let waiting = Waiting::of(&request, &taken);
                    let answer = waiting.answer(routes.call(request), &asked).await.ok_or(Left::Gone)?;
                    answer.unwrap_or_else(|never| match never {})
                }
                Err(malformed) => {
                    metrics.requests_malformed.inc(malformed.label());
                    limited!(warn[malformed.label()], "request refused", status = 400, detail = %malformed);
                    let refusal = reply::error(StatusCode::BAD_REQUEST, "malformed-request", &malformed.to_string());
                    reply::with_headers(refusal, &[(header::CONNECTION, "close")])
                }
            };
            if let Some(takeover) = Takeover::detach(&mut response) {
                asked.flushed().await; // hyper would drop the rest of an earlier response
                let head = [&response_head(&response), takeover.opening()].concat();
                *departing.lock() = Some((head, takeover));
                return Err(Left::Handover);
            }
            let goes_on = is_kept && taken.may_go_on(response.status()) && !has_ended(&asked, &stopping);
            announce(&mut response, goes_on.then_some(terms.keep_alive));
            Ok(response.map(|body| Answer::new(body, answering)))
        }
    });
    let connection = http1::Builder::new()
        .half_close(true) // who is gone is noticed all the same, see `Inbound`
        .max_header_size(terms.head_limit_bytes)
        .serve_connection(TokioIo::new(inbound), service);
    let mut connection = Box::new(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = stop.cancelled() => {
            Pin::new(&mut *connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let departed = departure.lock().take();
    if let Some((head, takeover)) = departed {
        let parts = connection.into_parts();
        let Some((socket, held)) = parts.io.into_inner().into_parts() else { return };
        take_over(takeover, socket, &head, [parts.read_buf.as_ref(), &held].concat()).await;
    } else if let Err(error) = outcome {
        if error.is_parse_too_large() {
            terms.metrics.limited.inc("headers");
            limited!(
                warn["headers"],
                "request refused unread: its head is too large, see HEADER_LIMIT and URL_LIMIT, or has more than 100 lines"
            );
        } else if error.is_parse() {
            terms.metrics.requests_malformed.inc("parse");
            limited!(warn["parse"], "request refused unread: it is not HTTP/1.1", %error);
        } else if requests.is_late() {
            terms.metrics.limited.inc("handshake");
        }
        debug!(%error, "connection ended");
    }
}

/// How long the peer of a connection may take.
fn patience(taken: &Arc<Taken>, terms: &Terms) -> Patience {
    let taken = Arc::downgrade(taken); // a stream that has become a WebSocket must not keep it
    Patience {
        head: HEAD_DEADLINE,
        idle: terms.keep_alive + UNANNOUNCED,
        is_crowded: Box::new(move || taken.upgrade().is_none_or(|taken| taken.is_crowded())),
    }
}

/// How an answer is waited for whose client sends nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// As long as it takes.
    Patient,
    /// It may take minutes. A client that is gone would keep its turn at the API, or receive what another connection of its own
    /// should, so it is sent something.
    Probing,
    /// Not at all: a WebSocket has to be closed by a frame.
    Handshake,
}

impl Waiting {
    fn of<B>(request: &http::Request<B>, taken: &Taken) -> Self {
        let is_long = taken.is_public() && request.method() == Method::GET && request.version() >= Version::HTTP_11;
        match is_long {
            true if request.headers().contains_key(header::UPGRADE) => Self::Handshake,
            true => Self::Probing,
            false => Self::Patient,
        }
    }

    /// Returns the answer; `None` if nobody waits for it.
    async fn answer<T>(self, answer: impl Future<Output = T>, requests: &Requests) -> Option<T> {
        let mut answer = std::pin::pin!(answer);
        if self == Self::Patient {
            return Some(answer.await);
        }
        tokio::select! {
            biased;
            answer = &mut answer => return Some(answer),
            () = requests.half_closed() => {}
        }
        if self == Self::Handshake {
            return None;
        }
        if let Ok(answer) = timeout(PROBED_AFTER, &mut answer).await {
            return Some(answer);
        }
        requests.probe();
        Some(answer.await)
    }
}

/// Whether the client would send a next request on the same connection (RFC 9112 section 9.3).
fn is_kept<B>(request: &http::Request<B>) -> bool {
    let has = |option: &str| {
        let values = request.headers().get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(option))
    };
    !has("close") && (request.version() >= Version::HTTP_11 || has("keep-alive"))
}

/// Whether no further request is taken on a connection: the peer sends none, or the server is stopping.
fn has_ended(requests: &Requests, stop: &CancellationToken) -> bool {
    requests.is_half_closed() || stop.is_cancelled()
}

/// Tells the peer whether its connection is kept, and for how long. An answer that ends it says so already.
fn announce(response: &mut Response, keep_alive: Option<Duration>) {
    if response.headers().contains_key(header::CONNECTION) {
        return;
    }
    let (connection, time) = match keep_alive {
        Some(time) => ("keep-alive", HeaderValue::from_str(&format!("timeout={}", time.as_secs())).ok()),
        None => ("close", None),
    };
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static(connection));
    if let Some(time) = time {
        response.headers_mut().insert(KEEP_ALIVE, time);
    }
}
