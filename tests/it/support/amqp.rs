//! A publisher that sends AMQP byte for byte: what no client library would send.

use high_templar::config::Uris;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
/// The largest frame that is agreed on, RabbitMQ's default.
pub const FRAME_MAX: u32 = 131_072;

/// Bits of the properties of a message, in the order in which they are encoded.
pub const CONTENT_TYPE: u16 = 1 << 15;
pub const CONTENT_ENCODING: u16 = 1 << 14;
pub const HEADERS: u16 = 1 << 13;
pub const PRIORITY: u16 = 1 << 11;
pub const CORRELATION_ID: u16 = 1 << 10;
pub const REPLY_TO: u16 = 1 << 9;
pub const MESSAGE_ID: u16 = 1 << 7;
pub const TIMESTAMP: u16 = 1 << 6;
pub const TYPE: u16 = 1 << 5;
pub const APP_ID: u16 = 1 << 3;
pub const CLUSTER_ID: u16 = 1 << 2;

/// One connection with one channel, on which RabbitMQ confirms what is published.
pub struct RawPublisher {
    stream: TcpStream,
}

/// Why RabbitMQ has ended the connection.
#[derive(Debug)]
pub struct Refused(pub String);

impl RawPublisher {
    /// At `url`, in the default virtual host.
    pub async fn connect(url: &str) -> Self {
        let uris = Uris::parse(url).unwrap();
        let authority = &uris.at(0).amqp().authority;
        let stream = TcpStream::connect((authority.host.as_str(), authority.port)).await.unwrap();
        let mut publisher = Self { stream };
        publisher.stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        publisher.until(10, 10).await.unwrap();
        let login = format!("\0{}\0{}", authority.userinfo.username, authority.userinfo.password);
        let start_ok = [counted(b""), short(b"PLAIN"), counted(login.as_bytes()), short(b"en_US")].concat();
        publisher.method(0, 10, 11, &start_ok).await;
        publisher.until(10, 30).await.unwrap();
        let tune_ok = [&100_u16.to_be_bytes()[..], &FRAME_MAX.to_be_bytes(), &[0, 0]].concat();
        publisher.method(0, 10, 31, &tune_ok).await;
        for (channel, (class, method), arguments, answer) in [
            (0, (10, 40), [short(b"/"), short(b""), vec![0]].concat(), (10, 41)),
            (1, (20, 10), short(b""), (20, 11)),
            (1, (85, 10), vec![0], (85, 11)),
        ] {
            publisher.method(channel, class, method, &arguments).await;
            publisher.until(answer.0, answer.1).await.unwrap();
        }
        publisher
    }

    /// Publishes `body` with the properties that `flags` says and `properties` holds, and waits for the confirm.
    pub async fn publish(
        &mut self,
        exchange: &str,
        routing_key: &[u8],
        flags: u16,
        properties: &[u8],
        body: &[u8],
    ) -> Result<(), Refused> {
        let arguments = [&[0, 0][..], &short(exchange.as_bytes()), &short(routing_key), &[0]].concat();
        self.method(1, 60, 40, &arguments).await;
        let size = (body.len() as u64).to_be_bytes();
        let header = [&[0, 60, 0, 0][..], &size, &flags.to_be_bytes(), properties].concat();
        self.frame(CONTENT_HEADER, 1, &header).await;
        for part in body.chunks(FRAME_MAX as usize - 8) {
            self.frame(BODY, 1, part).await;
        }
        self.until(60, 80).await
    }

    async fn method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        self.frame(METHOD, channel, &[&class.to_be_bytes(), &method.to_be_bytes(), arguments].concat()).await;
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind][..], &channel.to_be_bytes(), &counted(payload), &[0xCE]].concat();
        // RabbitMQ may have ended the connection; reading tells why.
        let _ = self.stream.write_all(&frame).await;
    }

    /// Reads until that method comes.
    async fn until(&mut self, class: u16, method: u16) -> Result<(), Refused> {
        loop {
            let mut head = [0; 7];
            let read = timeout(PATIENCE, self.stream.read_exact(&mut head)).await.expect("an answer in time");
            read.map_err(|error| Refused(error.to_string()))?;
            let length = u32::from_be_bytes(head[3..].try_into().unwrap());
            let mut payload = vec![0; length as usize + 1];
            self.stream.read_exact(&mut payload).await.map_err(|error| Refused(error.to_string()))?;
            let ids = [class.to_be_bytes(), method.to_be_bytes()].concat();
            match (head[0], &payload[..4]) {
                (METHOD, got) if got == ids => return Ok(()),
                (METHOD, [0, 10, 0, 50] | [0, 20, 0, 40]) => {
                    return Err(Refused(String::from_utf8_lossy(&payload[6..]).into_owned()));
                }
                _ => {}
            }
        }
    }
}

/// A short string of AMQP.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

/// A long string, a table or an array.
pub fn counted(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// One entry of a table.
pub fn entry(name: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
    [&short(name), &[kind][..], value].concat()
}

/// Arrays in each other.
pub fn nested(depth: u32) -> Vec<u8> {
    let inner_bytes = (0..depth).rev().map(|depth| depth * 5);
    inner_bytes.flat_map(|length| [&[b'A'][..], &length.to_be_bytes()].concat()).collect()
}
