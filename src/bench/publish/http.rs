//! HTTP/1.1 as far as posting triggers over a connection that stays needs it. Requests are pipelined: the next one goes out
//! before the last one is answered, or a single connection could never have several triggers in flight.

use std::{future::pending, io, time::Duration};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    super::{options::Header, target::Target},
    Error,
};

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Requests that may wait for their answers at once.
const UNANSWERED: usize = 1024;
/// The longest answer that is read.
const ANSWER_BYTES: usize = 1 << 20;

/// A connection that triggers are posted over, in order.
pub(super) struct Sender {
    url: String,
    stream: TcpStream,
    /// Everything before the length of the body.
    head: Vec<u8>,
    request: Vec<u8>,
    unanswered: usize,
    /// Answers as far as they have come.
    answers: Vec<u8>,
}

/// What an HTTP server said.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Answer {
    pub(in super::super) status: u16,
    pub(in super::super) body: String,
    /// Bytes of head and body.
    bytes: usize,
}

impl Sender {
    pub(super) async fn open(target: &Target, headers: &[Header]) -> Result<Self, Error> {
        let stream = connect(target).await?;
        let mut head = format!("POST {} HTTP/1.1\r\nHost: {}\r\n", target.path, target.authority).into_bytes();
        for (name, value) in headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"Content-Type: application/json\r\nContent-Length: ");
        Ok(Self { url: target.url.clone(), stream, head, request: Vec::new(), unanswered: 0, answers: Vec::new() })
    }

    /// Posts a trigger; waits for answers only when too many are wanting.
    pub(super) async fn publish(&mut self, body: &[u8]) -> Result<(), Error> {
        self.request.clear();
        self.request.extend_from_slice(&self.head);
        self.request.extend_from_slice(body.len().to_string().as_bytes());
        self.request.extend_from_slice(b"\r\n\r\n");
        self.request.extend_from_slice(body);
        let written = timeout(DEADLINE, self.stream.write_all(&self.request)).await;
        match written {
            Ok(written) => written.map_err(|source| self.broken(source))?,
            Err(_) => return Err(Error::TimedOut(self.url.clone())),
        }
        self.unanswered += 1;
        while self.unanswered > UNANSWERED {
            self.settle_in_time().await?;
        }
        Ok(())
    }

    /// Waits for the next answer; for ever if there is none to come. Nothing is lost when it is given up.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        if self.unanswered == 0 {
            return pending().await;
        }
        let answer = next(&mut self.stream, &mut self.answers).await.map_err(|source| self.broken(source))?;
        self.unanswered -= 1;
        if answer.status == 200 {
            return Ok(());
        }
        let body: String = answer.body.chars().take(300).collect();
        Err(Error::Refused { url: self.url.clone(), answer: format!("{} {body}", answer.status) })
    }

    /// Waits for all answers.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        while self.unanswered > 0 {
            self.settle_in_time().await?;
        }
        Ok(())
    }

    async fn settle_in_time(&mut self) -> Result<(), Error> {
        match timeout(DEADLINE, self.settle()).await {
            Ok(settled) => settled,
            Err(_) => Err(Error::TimedOut(self.url.clone())),
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Broken { to: self.url.clone(), source }
    }
}

/// Asks once.
pub(in super::super) async fn get(target: &Target) -> Result<Answer, Error> {
    let mut stream = connect(target).await?;
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.path, target.authority);
    let asking = async {
        stream.write_all(request.as_bytes()).await?;
        next(&mut stream, &mut Vec::new()).await
    };
    match timeout(DEADLINE, asking).await {
        Ok(answer) => answer.map_err(|source| Error::Broken { to: target.url.clone(), source }),
        Err(_) => Err(Error::TimedOut(target.url.clone())),
    }
}

async fn connect(target: &Target) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect(target.address).await.map_err(|source| match source.kind() {
        io::ErrorKind::ConnectionRefused => Error::NobodyThere(target.url.clone()),
        _ => Error::Broken { to: target.url.clone(), source },
    })?;
    stream.set_nodelay(true).map_err(|source| Error::Broken { to: target.url.clone(), source })?;
    Ok(stream)
}

/// The next answer, out of `buffer` and what comes after it.
async fn next(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Answer> {
    loop {
        if let Some(answer) = parse(buffer)? {
            buffer.drain(..answer.bytes);
            return Ok(answer);
        }
        if buffer.len() > ANSWER_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before the answer"));
        }
    }
}

/// The answer, once all of it is there. Of a body in chunks, the chunks' own lines are left in.
fn parse(bytes: &[u8]) -> io::Result<Option<Answer>> {
    const MALFORMED: &str = "the answer is not HTTP/1.1";
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, MALFORMED);
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = bytes.split_at(end + 4);
    let head = str::from_utf8(head).map_err(|_| malformed())?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(malformed)?;
    let mut header = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let length = header.find_map(|(name, value)| match name.to_ascii_lowercase().as_str() {
        "content-length" => value.trim().parse::<usize>().ok().map(Some),
        "transfer-encoding" => Some(None),
        _ => None,
    });
    let length = match length {
        Some(Some(length)) => length,
        Some(None) => match memmem::find(body, b"0\r\n\r\n") {
            Some(at) => at + 5,
            None => return Ok(None),
        },
        None => 0,
    };
    let Some(body) = body.get(..length) else { return Ok(None) };
    Ok(Some(Answer { status, body: String::from_utf8_lossy(body).into_owned(), bytes: end + 4 + length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        let whole = b"HTTP/1.1 503 Later\r\nContent-Length: 4\r\n\r\nlate";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]).unwrap(), None);
        }
        let answer = parse(whole).unwrap().unwrap();
        assert_eq!((answer.status, answer.body.as_str(), answer.bytes), (503, "late", whole.len()));
        let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
        assert_eq!(parse(chunks).unwrap().unwrap().status, 200);
        assert_eq!(parse(&chunks[..chunks.len() - 1]).unwrap(), None);
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
    }
}
