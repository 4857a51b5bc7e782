//! HTTP/1.1 on one connection that is kept, and calls that are signed.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{digest, hmac};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::Outcome;

/// How long an answer may take; the longest that a poll waits is 7 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where one request after the other is answered.
pub(crate) struct Line {
    stream: TcpStream,
    read: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Line {
    /// To `server`, from this address of the loopback.
    pub(crate) async fn open(server: SocketAddr, source: [u8; 4]) -> Outcome<Self> {
        Ok(Self { stream: connect(server, source).await?, read: Vec::new() })
    }

    /// Sends a request, and waits for what is answered.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Outcome<Answer> {
        self.stream.write_all(request).await?;
        timeout(PATIENCE, self.answer()).await.map_err(|_| "no answer in time")?
    }

    async fn answer(&mut self) -> Outcome<Answer> {
        let head_bytes = loop {
            match memchr::memmem::find(&self.read, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.more().await?,
            }
        };
        let head = std::str::from_utf8(&self.read[..head_bytes])?;
        let status = head.split(' ').nth(1).unwrap_or_default().parse()?;
        let length = head.lines().filter_map(|line| line.split_once(": "));
        let length =
            length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value).next();
        let end = head_bytes + length.ok_or("an answer does not say how long it is")?.parse::<usize>()?;
        while self.read.len() < end {
            self.more().await?;
        }
        let body = self.read[head_bytes..end].to_vec();
        self.read.drain(..end);
        Ok(Answer { status, body })
    }

    async fn more(&mut self) -> Outcome<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err("the connection was closed".into()),
            _ => Ok(()),
        }
    }
}

pub(crate) async fn connect(server: SocketAddr, source: [u8; 4]) -> Outcome<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One who knows the secret.
pub(crate) struct Caller {
    line: Line,
    key: hmac::Key,
}

impl Caller {
    pub(crate) async fn new(server: SocketAddr, secret: &str) -> Outcome<Self> {
        let key = digest::digest(
            &digest::SHA1_FOR_LEGACY_USE_ONLY,
            &[b"itsdangerous.Signer".as_slice(), b"signer", secret.as_bytes()].concat(),
        );
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.as_ref());
        Ok(Self { line: Line::open(server, [127, 0, 0, 1]).await?, key })
    }

    /// What a call with this body is answered, which is 200 or an error.
    pub(crate) async fn post(&mut self, path: &str, body: &str) -> Outcome<Value> {
        let (signature, length) = (self.sign(path), body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Channelstream-Secret: {signature}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let Answer { status, body } = self.line.ask(request.as_bytes()).await?;
        match status {
            200 => Ok(serde_json::from_slice(&body)?),
            _ => Err(format!("{path} is answered with {status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    /// What itsdangerous' `TimestampSigner` makes of it.
    fn sign(&self, value: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = now.as_secs().to_be_bytes();
        let zeros = seconds.iter().take_while(|byte| **byte == 0).count();
        let payload = format!("{value}.{}", BASE64_URL_SAFE_NO_PAD.encode(&seconds[zeros..]));
        let mac = hmac::sign(&self.key, payload.as_bytes());
        format!("{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac))
    }
}
