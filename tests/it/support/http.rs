//! The least HTTP client there is, for TCP and unix sockets alike.

use high_templar::config::Listen;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::PATIENCE;

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection to a listener.
pub async fn dial(address: &Listen) -> Box<dyn Stream> {
    match address {
        Listen::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
        Listen::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header that is there once, or the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value.trim()))
    }
}

/// Sends one request on a connection of its own and reads the answer to its end.
pub async fn send(address: &Listen, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    exchange(address, &request(method, path, headers, body)).await
}

/// The bytes of a request that is the only one on its connection.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if method == "POST" || !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    [request.as_bytes(), body].concat()
}

/// Sends `bytes` and reads the answer to its end.
pub async fn exchange(address: &Listen, bytes: &[u8]) -> Reply {
    exchange_on(dial(address).await, bytes).await
}

/// The same on a connection that is there already.
pub async fn exchange_on(mut stream: impl Stream, bytes: &[u8]) -> Reply {
    let _ = stream.write_all(bytes).await; // a server that has heard enough may close
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    parse(&answer)
}

/// An answer as it was received.
pub fn parse(answer: &[u8]) -> Reply {
    let answer = String::from_utf8_lossy(answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Reply { status, head: head.to_owned(), body: if is_chunked { joined(body) } else { body.to_owned() } }
}

/// The text of a body that came in chunks.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        body.push_str(&rest[..length]);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    body
}
