//! What the kernel alone costs: one thread that sends a ready frame to every member of a room, with one `send` each.
//!
//! It speaks as much of the protocol as `high-templar bench` needs, on one port, and checks next to nothing of it: the
//! denominator of "how close to the limit", and nothing to serve anybody with.
//!
//!     cargo run --release --example limit -- --listen 127.0.0.1:9000
//!     high-templar bench --url ws://127.0.0.1:9000/ws/ --trigger http://127.0.0.1:9000/trigger/

use std::{
    collections::HashMap,
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use clap::Parser;
use headers::{HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use http::{HeaderMap, HeaderValue, header};
use memchr::memmem;
use rustix::{
    event::{
        Timespec,
        epoll::{self, EventData, EventFlags},
    },
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt::set_tcp_nodelay},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Stands for the listener among the connections' numbers.
const LISTENER: u64 = u64::MAX;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Sends every trigger to its room's members, and does nothing else
#[derive(Debug, Parser)]
#[command(name = "limit")]
struct Arguments {
    /// Where clients connect and triggers are posted
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// When to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    seconds: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let listener = TcpListener::bind(arguments.listen)?;
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut server = Server { epoll, links: Vec::new(), rooms: HashMap::new(), request_id: b"\"0\"".to_vec() };
    let (end, wait) = (Instant::now() + Duration::from_secs(arguments.seconds), Timespec { tv_sec: 1, tv_nsec: 0 });
    let (mut events, mut buffer) = (Vec::with_capacity(1024), vec![0; 256 << 10]);
    while Instant::now() < end {
        events.clear();
        match epoll::wait(&server.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let (number, flags) = (event.data.u64(), event.flags);
            if number == LISTENER {
                server.accept(&listener)?;
                continue;
            }
            if flags.contains(EventFlags::OUT) {
                server.send_rest(number as usize)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                server.read(number as usize, &mut buffer)?;
            }
        }
    }
    Ok(())
}

struct Server {
    epoll: OwnedFd,
    links: Vec<Link>,
    /// By a room's text, the numbers of its members' links.
    rooms: HashMap<Vec<u8>, Vec<usize>>,
    /// The one of the last subscription, taken for everybody's.
    request_id: Vec<u8>,
}

struct Link {
    /// `None` once it has ended.
    socket: Option<OwnedFd>,
    is_websocket: bool,
    /// The beginning of a request or of a frame.
    incoming: Vec<u8>,
    /// What the socket has not taken.
    unsent: Vec<u8>,
    room: Option<Vec<u8>>,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let socket = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => return Err(error.into()),
            };
            set_tcp_nodelay(&socket, true)?;
            let number = self.links.len() as u64;
            epoll::add(&self.epoll, &socket, EventData::new_u64(number), EventFlags::IN)?;
            let (incoming, unsent) = (Vec::new(), Vec::new());
            self.links.push(Link { socket: Some(socket), is_websocket: false, incoming, unsent, room: None });
        }
    }

    fn read(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<()> {
        let link = &mut self.links[number];
        let Some(socket) = &link.socket else { return Ok(()) };
        let read = match recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((read @ 1.., _)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Ok(_) | Err(_) => {
                self.end(number);
                return Ok(());
            }
        };
        link.incoming.extend_from_slice(&buffer[..read]);
        let mut incoming = std::mem::take(&mut link.incoming);
        let mut taken = 0;
        while let Some(bytes) = match self.links[number].is_websocket {
            true => self.frame(number, &mut incoming[taken..])?,
            false => self.request(number, &incoming[taken..])?,
        } {
            taken += bytes;
        }
        incoming.drain(..taken);
        self.links[number].incoming = incoming;
        Ok(())
    }

    /// Takes a whole request, if there is one; its length.
    fn request(&mut self, number: usize, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(end) = memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let header = |name: &str| {
            let of = |line: &str| {
                line.split_once(':')
                    .filter(|(other, _)| other.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.trim().to_owned())
            };
            head.lines().find_map(of)
        };
        if head.starts_with("POST") {
            let length: usize = header("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let Some(body) = bytes.get(end..end + length) else { return Ok(None) };
            self.publish(body)?;
            self.send(number, b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"code\":\"success\"}")?;
            return Ok(Some(end + length));
        }
        let Some(answer) = header("Sec-WebSocket-Key").and_then(|key| handshake(&key)) else {
            self.end(number);
            return Ok(None);
        };
        self.links[number].is_websocket = true;
        self.send(number, &answer)?;
        self.send(number, &frame(b"{\"is_authorized\":true,\"allowed_rooms\":[]}"))?;
        Ok(Some(end))
    }

    /// Takes a whole frame of a client's, if there is one; its length.
    fn frame(&mut self, number: usize, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        let (start, length) = match *bytes {
            [_, 0xfe, high, low, ..] => (4, usize::from(high) << 8 | usize::from(low)),
            [_, length @ 0x80..0xfe, ..] => (2, usize::from(length - 0x80)),
            _ => return Ok(None),
        };
        let total = start + 4 + length;
        if bytes.len() < total {
            return Ok(None);
        }
        if bytes[0] == 0x88 {
            self.send(number, b"\x88\x02\x03\xe8")?;
            self.end(number);
            return Ok(None);
        }
        let (mask, payload) = bytes[start..total].split_at_mut(4);
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        if let (Some(room), Some(request_id)) =
            (between(payload, b"\"room\":", b",\"requestId\":"), between(payload, b",\"requestId\":", b"}"))
        {
            self.request_id = request_id.to_vec();
            self.rooms.entry(room.to_vec()).or_default().push(number);
            self.links[number].room = Some(room.to_vec());
            self.send(number, &frame(b"{\"code\":\"success\"}"))?;
        }
        Ok(Some(total))
    }

    /// One frame, and one `send` of it to each member.
    fn publish(&mut self, body: &[u8]) -> io::Result<()> {
        let (Some(room), Some(data)) = (between(body, b"\"rooms\":[", b"],\"data\":"), body.strip_suffix(b"}")) else {
            return Ok(());
        };
        let Some(at) = memmem::find(data, b"],\"data\":") else { return Ok(()) };
        let data = &data[at + b"],\"data\":".len()..];
        let frame =
            frame(&[b"{\"type\":\"publish\",\"data\":", data, b",\"requestId\":", &self.request_id, b"}"].concat());
        let Some(members) = self.rooms.get(room) else { return Ok(()) };
        for member in members {
            let link = &mut self.links[*member];
            if let Some(socket) = &link.socket {
                send_or_keep(&self.epoll, *member, socket, &mut link.unsent, &frame)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, number: usize, bytes: &[u8]) -> io::Result<()> {
        let link = &mut self.links[number];
        match &link.socket {
            Some(socket) => send_or_keep(&self.epoll, number, socket, &mut link.unsent, bytes),
            None => Ok(()),
        }
    }

    fn send_rest(&mut self, number: usize) -> io::Result<()> {
        let link = &mut self.links[number];
        let Some(socket) = &link.socket else { return Ok(()) };
        let sent = send(socket, &link.unsent, SendFlags::NOSIGNAL).unwrap_or(0);
        link.unsent.drain(..sent);
        if link.unsent.is_empty() {
            epoll::modify(&self.epoll, socket, EventData::new_u64(number as u64), EventFlags::IN)?;
        }
        Ok(())
    }

    fn end(&mut self, number: usize) {
        let link = &mut self.links[number];
        (link.socket, link.unsent) = (None, Vec::new());
        if let Some(members) = link.room.take().and_then(|room| self.rooms.get_mut(&room)) {
            members.retain(|member| *member != number);
        }
    }
}

#[inline]
fn send_or_keep(
    epoll: &OwnedFd,
    number: usize,
    socket: impl AsFd,
    unsent: &mut Vec<u8>,
    bytes: &[u8],
) -> io::Result<()> {
    if !unsent.is_empty() {
        unsent.extend_from_slice(bytes);
        return Ok(());
    }
    let sent = match send(&socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) if sent == bytes.len() => return Ok(()),
        Ok(sent) => sent,
        Err(Errno::AGAIN | Errno::INTR) => 0,
        Err(_) => return Ok(()), // reading tells that it has ended
    };
    unsent.extend_from_slice(&bytes[sent..]);
    let flags = EventFlags::IN | EventFlags::OUT;
    Ok(epoll::modify(epoll, &socket, EventData::new_u64(number as u64), flags)?)
}

/// The answer to a handshake with this key; `None` if it is none.
fn handshake(key: &str) -> Option<Vec<u8>> {
    let mut headers = HeaderMap::new();
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_str(key).ok()?);
    let key: SecWebsocketKey = headers.typed_get()?;
    headers.typed_insert(SecWebsocketAccept::from(key));
    let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT)?.to_str().ok()?;
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    Some(format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n").into_bytes())
}

/// A text frame of a server's.
fn frame(text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        length @ 0..126 => frame.push(length as u8),
        length @ 126..0x1_0000 => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(text);
    frame
}

fn between<'a>(text: &'a [u8], before: &[u8], after: &[u8]) -> Option<&'a [u8]> {
    let start = memmem::find(text, before)? + before.len();
    let length = memmem::find(&text[start..], after)?;
    Some(&text[start..start + length])
}
