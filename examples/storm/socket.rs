//! A client's connection, of either version.

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, Interval, interval_at, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        http::HeaderValue,
        protocol::{CloseFrame, WebSocketConfig},
    },
};

/// What a client says so often, from the start on.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Addresses that clients come from in turn: one does not have enough ports.
const SOURCES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V3,
    V4,
}

/// What may come before publications do, of either version.
#[derive(Debug, Deserialize)]
struct Answer<'a> {
    is_authorized: Option<bool>,
    retry_after: Option<f64>,
    code: Option<&'a str>,
}

/// Why a client is not served.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Setback {
    /// It was told that it is not authorised, and not when to come again.
    Refused,
    /// It is to come again after this time.
    Later(Duration),
    /// The connection was not made, or ended.
    Lost,
}

pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    pings: Interval,
}

impl Socket {
    /// Connects client `number` to `server`, and subscribes to the room with this target.
    pub(crate) async fn enter(
        server: SocketAddr,
        number: usize,
        version: Version,
        target: &str,
    ) -> Result<Self, Setback> {
        let mut socket = Self::open(server, number, version).await.ok_or(Setback::Lost)?;
        let subscribe = format!(r#"{{"type":"subscribe","requestId":"1","room":{{"target":"{target}"}}}}"#);
        if version == Version::V3 {
            socket.send(&subscribe).await; // its clients do not wait for the first frame
        }
        let (mut is_welcome, mut setback) = (false, Setback::Lost);
        loop {
            let text = match socket.next().await {
                Ok(text) => text,
                Err(Setback::Lost) => return Err(setback),
                Err(told) => return Err(told),
            };
            let Ok(answer) = serde_json::from_str::<Answer<'_>>(&text) else { continue }; // pong
            match answer {
                Answer { is_authorized: Some(true), .. } => {
                    is_welcome = true;
                    if version == Version::V4 {
                        socket.send(&subscribe).await;
                    }
                }
                Answer { is_authorized: Some(false), retry_after, .. } => {
                    setback = retry_after.and_then(later).unwrap_or(Setback::Refused);
                }
                Answer { code: Some("success"), .. } if is_welcome => return Ok(socket),
                Answer { code: Some(_), .. } => return Err(Setback::Refused),
                Answer { .. } => {}
            }
        }
    }

    async fn open(server: SocketAddr, number: usize, version: Version) -> Option<Self> {
        let socket = TcpSocket::new_v4().ok()?;
        let source = [127, 0, 0, 2 + (number % SOURCES) as u8];
        socket.bind(SocketAddr::from((source, 0))).ok()?;
        let stream = socket.connect(server).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let mut request = "ws://localhost/ws/".into_client_request().ok()?;
        request.headers_mut().insert("Cookie", HeaderValue::from_str(&format!("sid={number}")).ok()?);
        if version == Version::V4 {
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("high-templar.v4"));
        }
        let config = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
        let (stream, _) = Box::pin(client_async_with_config(request, stream, Some(config))).await.ok()?;
        Some(Self { stream, pings: interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL) })
    }

    /// The next text. Nothing is lost when this is dropped.
    pub(crate) async fn next(&mut self) -> Result<String, Setback> {
        loop {
            let message = tokio::select! {
                message = self.stream.next() => message,
                _ = self.pings.tick() => {
                    self.send("ping").await;
                    continue;
                }
            };
            match message {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(close))) => {
                    let _ = timeout(GOODBYE, self.stream.next()).await; // lets the answer go out
                    return Err(close.as_ref().and_then(told_when).unwrap_or(Setback::Lost));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Setback::Lost),
            }
        }
    }

    /// Reading tells if it does not get there.
    async fn send(&mut self, text: &str) {
        let _ = self.stream.send(Message::text(text)).await;
    }

    /// Ends it with a reset.
    pub(crate) fn cut(self) {
        let _ = socket2::SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO));
    }
}

/// When to come again, for a close with 1013.
fn told_when(close: &CloseFrame) -> Option<Setback> {
    let seconds = close.reason.as_str().strip_prefix("retry_after=")?;
    if u16::from(close.code) == 1013 { later(seconds.parse().ok()?) } else { None }
}

fn later(seconds: f64) -> Option<Setback> {
    Duration::try_from_secs_f64(seconds).ok().map(Setback::Later)
}
