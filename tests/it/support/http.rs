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
}

/// Sends one request on a connection of its own and reads the answer to its end.
pub async fn send(address: &Listen, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if method == "POST" {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    exchange(address, &[request.as_bytes(), body].concat()).await
}

/// Sends `bytes` and reads the answer to its end.
pub async fn exchange(address: &Listen, bytes: &[u8]) -> Reply {
    let mut stream = dial(address).await;
    let _ = stream.write_all(bytes).await; // a server that has heard enough may close
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}
