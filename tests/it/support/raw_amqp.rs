//! A publisher that speaks AMQP 0-9-1 by itself and sends properties that no client library lets through.

use std::io::{self, ErrorKind};

use high_templar::config::Uris;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Types of frames.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;
/// The only channel.
const CHANNEL: u16 = 1;
/// Size of one body frame; every broker accepts it.
const BODY_BYTES: usize = 4000;
/// Bytes that are not UTF-8.
const NOT_UTF8: &[u8] = b"caf\xe9 \x8f\xe9\x01\xff";

/// A property whose text is not UTF-8. RabbitMQ does not check that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    ContentType,
    ContentEncoding,
    CorrelationId,
    ReplyTo,
    MessageId,
    Type,
    AppId,
    /// The name of a header.
    HeaderName,
}

impl Property {
    pub const ALL: [Self; 8] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::MessageId,
        Self::Type,
        Self::AppId,
        Self::HeaderName,
    ];

    /// The property flags of a content header, and the property itself.
    fn encoded(self) -> Vec<u8> {
        let bit = match self {
            Self::ContentType => 15,
            Self::ContentEncoding => 14,
            Self::HeaderName => 13,
            Self::CorrelationId => 10,
            Self::ReplyTo => 9,
            Self::MessageId => 7,
            Self::Type => 5,
            Self::AppId => 3,
        };
        let flags = (1_u16 << bit).to_be_bytes().to_vec();
        match self {
            Self::HeaderName => [flags, long(&[short(NOT_UTF8), vec![b't', 1]].concat())].concat(), // a boolean
            _ => [flags, short(NOT_UTF8)].concat(),
        }
    }
}

/// A connection with one channel that confirms.
pub struct RawPublisher {
    stream: BufReader<TcpStream>,
}

/// RabbitMQ's answer to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    Taken,
    /// No queue takes it.
    Returned,
    Refused,
}

impl RawPublisher {
    pub async fn connect(url: &str) -> io::Result<Self> {
        let uris = Uris::parse(url).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        let uri = uris.at(0).amqp();
        let stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port)).await?;
        let mut publisher = Self { stream: BufReader::new(stream) };
        publisher.stream.write_all(b"AMQP\0\0\x09\x01").await?;
        publisher.expect(10, 10).await?; // start
        let user = &uri.authority.userinfo;
        let login = format!("\0{}\0{}", user.username, user.password);
        let start_ok = [long(b""), short(b"PLAIN"), long(login.as_bytes()), short(b"en_US")].concat();
        publisher.send(0, 10, 11, &start_ok).await?;
        let mut tune = publisher.expect(10, 30).await?;
        if let Some(heartbeat) = tune.last_chunk_mut::<2>() {
            *heartbeat = [0, 0];
        }
        publisher.send(0, 10, 31, &tune).await?;
        publisher.send(0, 10, 40, &[short(uri.vhost.as_bytes()), short(b""), vec![0]].concat()).await?;
        publisher.expect(10, 41).await?;
        publisher.send(CHANNEL, 20, 10, &short(b"")).await?;
        publisher.expect(20, 11).await?;
        publisher.send(CHANNEL, 85, 10, &[0]).await?; // confirm.select
        publisher.expect(85, 11).await?;
        Ok(publisher)
    }

    /// Publishes `body` as mandatory with a property that is not UTF-8, and waits for RabbitMQ's answer.
    pub async fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        property: Property,
        body: &[u8],
    ) -> io::Result<Confirmed> {
        self.publish_bytes(exchange, key.as_bytes(), &property.encoded(), body).await
    }

    /// The same with any key, and any property flags and properties as they are encoded.
    pub async fn publish_bytes(
        &mut self,
        exchange: &str,
        key: &[u8],
        properties: &[u8],
        body: &[u8],
    ) -> io::Result<Confirmed> {
        let publish = [&[0, 0][..], &short(exchange.as_bytes()), &short(key), &[1]].concat();
        self.send(CHANNEL, 60, 40, &publish).await?;
        let header = [&[0, 60, 0, 0][..], &(body.len() as u64).to_be_bytes(), properties].concat();
        self.frame(HEADER, CHANNEL, &header).await?;
        for part in body.chunks(BODY_BYTES) {
            self.frame(BODY, CHANNEL, part).await?;
        }
        let mut is_returned = false;
        loop {
            match self.method().await? {
                (60, 80, _) if is_returned => return Ok(Confirmed::Returned),
                (60, 80, _) => return Ok(Confirmed::Taken),
                (60, 120, _) => return Ok(Confirmed::Refused),
                (60, 50, _) => is_returned = true,
                (class, method, _) => return Err(unexpected(class, method)),
            }
        }
    }

    async fn send(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> io::Result<()> {
        self.frame(METHOD, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat()).await
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        let size = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let head = [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes()].concat();
        self.stream.write_all(&[&head[..], payload, &[FRAME_END]].concat()).await
    }

    /// The arguments of the next method, which has to be this one.
    async fn expect(&mut self, class: u16, method: u16) -> io::Result<Vec<u8>> {
        match self.method().await? {
            (got, it, arguments) if (got, it) == (class, method) => Ok(arguments),
            (class, method, _) => Err(unexpected(class, method)),
        }
    }

    /// Class, method and arguments of the next method; contents are passed over.
    async fn method(&mut self) -> io::Result<(u16, u16, Vec<u8>)> {
        loop {
            let kind = self.stream.read_u8().await?;
            self.stream.read_u16().await?;
            let size = self.stream.read_u32().await?;
            let mut payload = vec![0; usize::try_from(size).map_err(io::Error::other)? + 1];
            self.stream.read_exact(&mut payload).await?;
            payload.pop(); // the frame's end
            if let (METHOD, [class, class2, method, method2, arguments @ ..]) = (kind, payload.as_slice()) {
                let (class, method) = (u16::from_be_bytes([*class, *class2]), u16::from_be_bytes([*method, *method2]));
                return Ok((class, method, arguments.to_vec()));
            }
        }
    }
}

fn unexpected(class: u16, method: u16) -> io::Error {
    io::Error::other(format!("unexpected method {method} of class {class}"))
}

/// A short string.
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8][..], text].concat()
}

/// A long string, a table or an array.
pub fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}
