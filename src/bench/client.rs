//! The life of one client: handshake, welcome, subscriptions, deliveries. Bytes in, bytes out; no socket.

use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::HeaderMap;
use memchr::memmem;

use super::frame::{self, Assembler, Malformed, Opcode};

/// Subscriptions that are asked for before the first of them is answered.
const AT_ONCE: u32 = 64;
/// The longest head of an answer to a handshake.
const HEAD_BYTES: usize = 64 << 10;

/// Why a connection does not come to be ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the handshake was answered with {0}{hint}", hint = hint(.0))]
    Status(String),
    #[error("the answer to the handshake is none of a WebSocket server: {0}")]
    NoWebSocket(&'static str),
    #[error(
        "the server does not authorise the connection: let the API answer bootstrap/ with 200 for it, or show who it is, \
         such as with --header 'Cookie: sessionid=…'"
    )]
    NotAuthorised,
    #[error(
        "the server does not let the connection into the room {room} (\"{answer}\"): let the API allow that room in its \
         answer to bootstrap/ (a \"*\" as a value stands for any), or name one that it allows with --room"
    )]
    NoRoom { room: String, answer: String },
    #[error("the server closed the connection before it was subscribed ({0})")]
    Closed(Closing),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

fn hint(status: &str) -> &'static str {
    match status.get(..3) {
        Some("404") => ": is /ws/ its path?",
        Some("403") => ": does it check the Origin, or who asks?",
        _ => "",
    }
}

/// How the server ended a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Closing {
    /// Of its close frame; `None` if there was no such frame, or none with a code.
    pub(super) code: Option<u16>,
    pub(super) reason: String,
}

impl std::fmt::Display for Closing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.reason.as_str()) {
            (Some(code), "") => write!(f, "code {code}"),
            (Some(code), reason) => write!(f, "code {code}: {reason}"),
            (None, reason) => f.write_str(reason),
        }
    }
}

/// What all clients have in common.
#[derive(Debug)]
pub(super) struct Common {
    /// Request line and headers but for the key, the last line ended.
    pub(super) request: String,
    /// The JSON of a room, with `{room}` where its number stands.
    pub(super) room: String,
    pub(super) rooms: u32,
    pub(super) subscriptions: u32,
}

/// What is to be done after some bytes have been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing else.
    Go,
    /// The client has all its subscriptions now.
    Ready,
    /// The server has closed the connection.
    Closed(Closing),
}

#[derive(Debug)]
enum Phase {
    /// The handshake has been, or will be, sent.
    Handshake {
        accept: SecWebsocketAccept,
        head: Vec<u8>,
    },
    /// It was accepted.
    Welcome,
    Subscribing {
        asked: u32,
        answered: u32,
    },
    Ready,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    /// Number of its first subscription; the others follow.
    first: u32,
    /// The one room it is in, where it is not dealt one with the others.
    room: Option<u32>,
    phase: Phase,
    assembler: Assembler,
}

impl Client {
    /// A client whose subscriptions are numbered from `first` on, in those rooms in turn, or a single one in `room`; its
    /// handshake is appended to `out`.
    pub(super) fn new(first: u32, room: Option<u32>, common: &Common, out: &mut Vec<u8>) -> Self {
        let key = SecWebsocketKey::from(rand::random::<[u8; 16]>());
        out.extend_from_slice(common.request.as_bytes());
        let mut headers = HeaderMap::new();
        headers.typed_insert(key.clone());
        for value in headers.values() {
            out.extend_from_slice(b"Sec-WebSocket-Key: ");
            out.extend_from_slice(value.as_bytes());
        }
        out.extend_from_slice(b"\r\n\r\n");
        let phase = Phase::Handshake { accept: SecWebsocketAccept::from(key), head: Vec::new() };
        Self { first, room, phase, assembler: Assembler::default() }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Its subscriptions' numbers.
    pub(super) fn subscriptions(&self, common: &Common) -> std::ops::Range<u32> {
        self.first..self.first + self.count(common)
    }

    fn count(&self, common: &Common) -> u32 {
        if self.room.is_some() { 1 } else { common.subscriptions }
    }

    /// Takes what the server sent. Texts that come once the client is ready go to `text`; what is to be sent to the server
    /// is appended to `out`.
    ///
    /// # Errors
    /// [`Refusal`]; the connection is of no use then.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        common: &Common,
        out: &mut Vec<u8>,
        mut text: impl FnMut(&[u8]),
    ) -> Result<Step, Refusal> {
        let behind_head;
        let mut bytes = bytes;
        if let Phase::Handshake { accept, head } = &mut self.phase {
            head.extend_from_slice(bytes);
            let Some(end) = memmem::find(head, b"\r\n\r\n") else {
                return match head.len() {
                    ..HEAD_BYTES => Ok(Step::Go),
                    _ => Err(Refusal::NoWebSocket("its head is too long")),
                };
            };
            behind_head = head.split_off(end + 4);
            check_handshake(head, accept)?;
            self.phase = Phase::Welcome;
            bytes = &behind_head;
        }
        let mut step = Ok(Step::Go);
        let mut assembler = std::mem::take(&mut self.assembler);
        let fed = assembler.feed(bytes, |opcode, payload| match opcode {
            Opcode::Text if self.is_ready() => {
                text(payload);
                true
            }
            Opcode::Text => match self.set_up(payload, common, out) {
                Ok(Step::Go) => true,
                Ok(ready) => {
                    step = Ok(ready);
                    true
                }
                Err(refusal) => {
                    step = Err(refusal);
                    false
                }
            },
            Opcode::Ping => {
                frame::write(Opcode::Pong, payload, out);
                true
            }
            Opcode::Pong => true,
            Opcode::Close => {
                frame::write(Opcode::Close, payload.get(..2).unwrap_or_default(), out);
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                let reason = if code.is_none() { "close frame without a code".to_owned() } else { reason };
                step = Ok(Step::Closed(Closing { code, reason }));
                false
            }
        });
        self.assembler = assembler;
        fed?;
        match step {
            Ok(Step::Closed(closing)) if !self.is_ready() => Err(Refusal::Closed(closing)),
            step => step,
        }
    }

    /// A text before the client is ready.
    fn set_up(&mut self, text: &[u8], common: &Common, out: &mut Vec<u8>) -> Result<Step, Refusal> {
        let has = |needle: &str| memmem::find(text, needle.as_bytes()).is_some();
        let count = self.count(common);
        match &mut self.phase {
            Phase::Welcome if has("\"is_authorized\"") => {
                if is_refused(text) {
                    return Err(Refusal::NotAuthorised);
                }
                self.phase = Phase::Subscribing { asked: 0, answered: 0 };
                self.subscribe(common, out);
                Ok(Step::Go)
            }
            Phase::Subscribing { asked, answered } if has("\"code\"") => {
                let number = *answered;
                *answered += 1;
                if !has("\"success\"") {
                    let room = self.room(number, common);
                    let answer = String::from_utf8_lossy(text);
                    let answer = answer.split('"').find(|word| word.contains('-')).unwrap_or(&answer).to_owned();
                    return Err(Refusal::NoRoom { room, answer });
                }
                if *answered == count {
                    self.phase = Phase::Ready;
                    return Ok(Step::Ready);
                }
                if answered == asked {
                    self.subscribe(common, out);
                }
                Ok(Step::Go)
            }
            _ => Ok(Step::Go),
        }
    }

    /// Asks for the next subscriptions.
    fn subscribe(&mut self, common: &Common, out: &mut Vec<u8>) {
        let count = self.count(common);
        let Phase::Subscribing { asked, .. } = &mut self.phase else { return };
        let range = *asked..count.min(*asked + AT_ONCE);
        *asked = range.end;
        for number in range {
            let room = self.room(number, common);
            let message = format!(r#"{{"type":"subscribe","room":{room},"requestId":"{number}"}}"#);
            frame::write(Opcode::Text, message.as_bytes(), out);
        }
    }

    /// The JSON of the room of its subscription `number`, counted from 0.
    fn room(&self, number: u32, common: &Common) -> String {
        let room = self.room.unwrap_or((self.first + number) % common.rooms);
        common.room.replace("{room}", &room.to_string())
    }
}

/// Whether the first frame says that the client is not authorised.
fn is_refused(text: &[u8]) -> bool {
    const NAME: &[u8] = b"\"is_authorized\"";
    let value = memmem::find(text, NAME).and_then(|at| text.get(at + NAME.len()..)).unwrap_or_default();
    let value = value.trim_ascii_start().strip_prefix(b":").unwrap_or(value).trim_ascii_start();
    !value.starts_with(b"true")
}

fn check_handshake(head: &[u8], accept: &SecWebsocketAccept) -> Result<(), Refusal> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.ok_or(Refusal::NoWebSocket("it is not HTTP/1.1"))?;
    if !status.starts_with("101") {
        return Err(Refusal::Status(status.to_owned()));
    }
    let mut shown = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("sec-websocket-accept")
            && let Ok(value) = value.trim().parse()
        {
            shown.insert(http::header::SEC_WEBSOCKET_ACCEPT, value);
        }
    }
    match shown.typed_get::<SecWebsocketAccept>() {
        Some(shown) if shown == *accept => Ok(()),
        Some(_) => Err(Refusal::NoWebSocket("Sec-WebSocket-Accept does not belong to the key")),
        None => Err(Refusal::NoWebSocket("it has no Sec-WebSocket-Accept")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(subscriptions: u32) -> Common {
        Common {
            request: "GET /ws/ HTTP/1.1\r\n".to_owned(),
            room: r#"{"bench":"{room}"}"#.to_owned(),
            rooms: 100,
            subscriptions,
        }
    }

    /// A client and the answer that its handshake wants.
    fn client(common: &Common) -> (Client, String) {
        let mut out = Vec::new();
        let client = Client::new(7, None, common, &mut out);
        let request = String::from_utf8(out).unwrap();
        let key = request.split_once("Sec-WebSocket-Key: ").unwrap().1.trim_end();
        let mut headers = HeaderMap::new();
        headers.insert(http::header::SEC_WEBSOCKET_KEY, key.parse().unwrap());
        let accept = SecWebsocketAccept::from(headers.typed_get::<SecWebsocketKey>().unwrap());
        headers.typed_insert(accept);
        let accept = headers[http::header::SEC_WEBSOCKET_ACCEPT].to_str().unwrap().to_owned();
        (client, format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"))
    }

    fn text(text: &str) -> Vec<u8> {
        [&[0x81, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }

    const WELCOME: &str = r#"{"is_authorized": true, "allowed_rooms": []}"#;

    #[test]
    fn it_asks_for_its_subscriptions_in_parts_and_is_ready_after_the_last_reply() {
        let common = common(AT_ONCE + 1);
        let (mut client, answer) = client(&common);
        let (mut out, mut step) = (Vec::new(), Step::Go);
        let both = [answer.into_bytes(), text(WELCOME)].concat();
        for byte in both {
            step = client.receive(&[byte], &common, &mut out, |_| ()).unwrap();
        }
        let part = out.len();
        assert!(part > 0);
        for number in 0..=AT_ONCE {
            assert!(!client.is_ready() && step == Step::Go);
            assert_eq!(out.len() > part, number == AT_ONCE, "one more is asked for only after the others");
            step = client.receive(&text(r#"{"code":"success"}"#), &common, &mut out, |_| ()).unwrap();
        }
        assert_eq!((step, client.subscriptions(&common)), (Step::Ready, 7..7 + AT_ONCE + 1));
        let mut seen = Vec::new();
        let closing = [text("pong"), vec![0x88, 5, 0x0b, 0xc0, b's', b'l', b'o']].concat();
        let step = client.receive(&closing, &common, &mut out, |text| seen.push(text.to_vec())).unwrap();
        assert_eq!(
            (step, seen),
            (Step::Closed(Closing { code: Some(3008), reason: "slo".to_owned() }), vec![b"pong".to_vec()])
        );
    }

    #[test]
    fn what_the_server_does_not_allow_is_told_with_what_to_do() {
        let common = common(1);
        let refusal = |after: &[&str]| {
            let (mut client, answer) = client(&common);
            let mut bytes = answer.into_bytes();
            after.iter().for_each(|frame| bytes.extend(text(frame)));
            client.receive(&bytes, &common, &mut Vec::new(), |_| ()).unwrap_err()
        };
        assert_eq!(refusal(&[r#"{"is_authorized": false}"#]), Refusal::NotAuthorised);
        let room = r#"{"bench":"7"}"#.to_owned();
        let answer = "room-not-found".to_owned();
        let no_room = refusal(&[WELCOME, r#"{"code":"error","message":"room-not-found"}"#]);
        assert_eq!(no_room, Refusal::NoRoom { room, answer });
        let (mut client, _) = client(&common);
        let other = client.receive(b"HTTP/1.1 404 Not Found\r\n\r\n", &common, &mut Vec::new(), |_| ()).unwrap_err();
        assert_eq!(other, Refusal::Status("404 Not Found".to_owned()));
        let (mut client, _) = super::tests::client(&common);
        let foreign = b"HTTP/1.1 101 Ok\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert!(matches!(client.receive(foreign, &common, &mut Vec::new(), |_| ()), Err(Refusal::NoWebSocket(_))));
    }
}
