//! The servers that are judged.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::HeaderMap;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::{TcpListener, TcpStream},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;
use warp::Filter;

use super::{
    Answers, Client,
    client::{BINARY, TEXT},
};
use crate::{
    config::{self, Listen, Origins, Secret},
    http::{
        Origination,
        listener::{Listener, Room, Terms},
    },
    hub::{Content, Encoder, Frame, Outbox, Wire},
    metrics::Metrics,
    protocol::{Version, channelstream::Signer},
    server,
    transport::{
        socket::Socket,
        takeover::Takeover,
        websocket::{
            Request, WebSocket, accept,
            finish::{failure, finish, receive},
            frame::{self, Event, Reader},
        },
    },
};

/// The largest message of section 9.
const MESSAGE_LIMIT_BYTES: usize = 16 << 20;

/// Signs the calls of Channelstream's API.
const SECRET: &str = "of-these-cases-only";

/// A server. Stops when dropped.
pub(super) struct Server {
    address: SocketAddr,
    /// The internal listener, where clients are to listen for connections of Channelstream's.
    internal: Option<SocketAddr>,
    answers: Answers,
    /// The API, where it never answers.
    silent_api: Option<TcpListener>,
    _stop: DropGuard,
}

impl Server {
    /// A server that sends every message back as it came.
    pub(super) async fn echoing() -> Self {
        let listener = Listener::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.unwrap();
        let address = tcp(listener.address().unwrap());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let metrics: Arc<Metrics> = Arc::default();
        let terms = Terms {
            peer_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(75),
            head_limit_bytes: 16 << 10,
            metrics: metrics.clone(),
            room: Room::internal(None),
        };
        let of_sockets = tasks.clone();
        let routes = warp::header::headers_cloned().and(warp::ext::get::<Origination>()).map(
            move |headers: HeaderMap, from: Origination| {
                let request = Request { version: from.version, headers: &headers, is_https: false };
                let (response, version) = accept(&request, &Origins::Any).unwrap();
                let mut response = response.map(|()| warp::reply::Response::default().into_body());
                let (of_sockets, metrics) = (of_sockets.clone(), metrics.clone());
                Takeover::attach(&mut response, Bytes::new(), move |socket, received| {
                    of_sockets.spawn(echo(socket, received, version, metrics));
                });
                response
            },
        );
        tokio::spawn(listener.serve(routes.boxed(), terms, tasks, stop.clone()));
        let answers = Answers::Echoes;
        Self { address, internal: None, answers, silent_api: None, _stop: stop.drop_guard() }
    }

    /// The program, and an API that admits every client.
    pub(super) async fn program() -> Self {
        let (server, api) = Self::before_api(&[], Answers::Own).await;
        tokio::spawn(admit_all(api));
        server
    }

    /// The program, and an API that never answers.
    pub(super) async fn waiting() -> Self {
        let (server, api) = Self::before_api(&[], Answers::None).await;
        Self { silent_api: Some(api), ..server }
    }

    /// The program with Channelstream's API. Each client listens for a connection of its own.
    pub(super) async fn channelstream() -> Self {
        let (server, _) = Self::before_api(&[("CHANNELSTREAM_SECRET", SECRET)], Answers::None).await;
        server
    }

    /// Starts the program with limits that no case reaches. Returns the socket of its API, too.
    async fn before_api(vars: &[(&str, &str)], answers: Answers) -> (Self, TcpListener) {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", api.local_addr().unwrap());
        let own = [
            ("API_URL", url.as_str()),
            ("LISTEN", "127.0.0.1:0"),
            ("INTERNAL_LISTEN", "127.0.0.1:0"),
            ("MESSAGE_LIMIT", "16MiB"),
            ("CONNECTION_MEMORY", "64MiB"),
            ("MESSAGE_RATE", "1000000"),
        ];
        let all = own.iter().chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let server = server::Server::bind(config::from_vars(all).unwrap()).await.unwrap();
        let address = tcp(server.public_address().unwrap());
        let internal = (!vars.is_empty()).then(|| tcp(server.internal_address().unwrap()));
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        (Self { address, internal, answers, silent_api: None, _stop: stop.drop_guard() }, api)
    }

    pub(super) async fn connect(&self) -> Client {
        self.connect_with("").await.0
    }

    /// A client whose handshake has these lines among its headers, and the head of the response.
    pub(super) async fn connect_with(&self, lines: &str) -> (Client, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let path = match self.internal {
            Some(internal) => format!("/ws?conn_id={}", new_connection(internal).await),
            None => "/ws/".to_owned(),
        };
        // Only version 4 promises that the handshake is answered before the API is asked.
        let protocol = self.silent_api.as_ref().map_or("", |_| "Sec-WebSocket-Protocol: high-templar.v4\r\n");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}{lines}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let (head, received) = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut client = Client::new(stream, received, self.answers);
        if self.answers == Answers::Own {
            client.expect(&super::case::text("welcome")).await.unwrap();
        }
        (client, head)
    }
}

fn tcp(listen: Listen) -> SocketAddr {
    match listen {
        Listen::Tcp(address) => address,
        Listen::Unix(_) => unreachable!(),
    }
}

/// Reads the head of a response. Returns what came behind it, too.
async fn read_head(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut received = Vec::new();
    let length = loop {
        assert!(stream.read_buf(&mut received).await.unwrap() > 0, "no response");
        if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8(received.drain(..length).collect()).unwrap();
    (head, received)
}

/// Makes a connection of Channelstream's, and returns its id.
async fn new_connection(internal: SocketAddr) -> Uuid {
    let id = Uuid::new_v4();
    let body = format!(r#"{{"username":"client","channels":["room"],"conn_id":"{id}"}}"#);
    let signature = Signer::new(&Secret::new(SECRET), None).sign("channelstream", SystemTime::now());
    let request = format!(
        "POST /connect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         x-channelstream-secret: {signature}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(internal).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let (head, _) = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    id
}

/// An API that admits every client.
async fn admit_all(listener: TcpListener) {
    const ADMISSION: &str = r#"{"allowed_rooms":[]}"#;
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|count| count > 0) {
                if line.trim_end().is_empty() {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{ADMISSION}", ADMISSION.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
                line.clear();
            }
        });
    }
}

/// Serves one client as the program does, but sends its messages back.
async fn echo(socket: Socket, received: Vec<u8>, version: Version, metrics: Arc<Metrics>) {
    let mut reader = Reader::new(MESSAGE_LIMIT_BYTES, &received);
    let wire = Echo(WebSocket { socket, dialect: version.into() });
    let concrete = Arc::new(Outbox::new(Uuid::nil(), wire, MESSAGE_LIMIT_BYTES, metrics));
    let outbox: Arc<Outbox> = concrete.clone();
    let socket = &concrete.wire().0.socket;
    let goodbye = loop {
        let answer = match reader.next_as_sent() {
            Ok(Some(Event::Text(text))) => Frame::Text(marked(TEXT, text.as_bytes()).into()),
            Ok(Some(Event::Binary(payload))) => Frame::Text(marked(BINARY, payload).into()),
            Ok(Some(Event::Ping(payload))) => Frame::Pong(payload),
            Ok(Some(Event::Pong)) => continue,
            Ok(Some(Event::Close(code, reason))) => break Some((code, reason)),
            Err(violation) => break Some(failure(violation, &reader)),
            Ok(None) => {
                let is_blocked = outbox.blocked_for().is_some();
                let interest = if is_blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
                let ready = socket.ready(interest).await.unwrap();
                if ready.is_writable() {
                    outbox.resume();
                }
                if ready.is_readable() && !receive(socket, &mut reader) {
                    outbox.abandon();
                    break None;
                }
                continue;
            }
        };
        outbox.push(answer).unwrap();
        outbox.flush();
    };
    finish(socket, &outbox, &mut reader, goodbye).await;
}

/// A message behind its opcode.
fn marked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [&[opcode], payload].concat()
}

/// The wire of a [`WebSocket`] that reads each text as [`marked`] with an opcode. The program itself sends no binary message.
struct Echo(WebSocket);

impl Wire for Echo {
    fn transport(&self) -> &'static str {
        self.0.transport()
    }

    fn encoded_len(&self, content: Content<'_>) -> usize {
        match content {
            Content::Text([_, payload @ ..], _) => self.0.encoded_len(Content::Text(payload, None)),
            content => self.0.encoded_len(content),
        }
    }

    fn encode<'a>(&self, content: Content<'a>, out: &mut Encoder<'a, '_>) {
        match content {
            Content::Text([BINARY, payload @ ..], _) => {
                frame::put_head(BINARY, payload.len(), out);
                out.put(payload);
            }
            Content::Text([_, payload @ ..], _) => self.0.encode(Content::Text(payload, None), out),
            content => self.0.encode(content, out),
        }
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write(slices)
    }
}
