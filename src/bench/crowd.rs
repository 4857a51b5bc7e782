//! All clients in one thread: one epoll, one read buffer, and next to nothing for each.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    books::Books,
    client::{Client, Closing, Common, Refusal, Step},
    frame::{self, Opcode},
    options::Poll,
    target::Target,
};

/// What is read at once, from one connection.
const BUFFER_BYTES: usize = 256 << 10;
/// Events taken from the kernel at once.
const EVENTS: usize = 1024;
/// How long a nap is.
const NAP: Duration = Duration::from_micros(100);
/// The longest wait in the kernel.
const WAIT: Duration = Duration::from_millis(10);
/// How often a client says that it is still there; 3.1 closes one that is silent for 300 s.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Why the clients cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("nothing listens at {0}: start the server there, or leave --url out and one is started for the run")]
    NobodyThere(String),
    #[error("cannot connect to {url}")]
    Connect {
        url: String,
        #[source]
        source: io::Error,
    },
    #[error("{url}: {refusal}")]
    Refused { url: String, refusal: Refusal },
    #[error("cannot wait for the clients' sockets")]
    Wait(#[from] io::Error),
}

/// The clients.
pub(super) struct Crowd {
    epoll: OwnedFd,
    target: Target,
    common: Common,
    links: Vec<Link>,
    events: Vec<epoll::Event>,
    buffer: Box<[u8]>,
    out: Vec<u8>,
    books: Books,
    ready: usize,
    /// How the server closed connections that were ready, and how many.
    closings: BTreeMap<Closing, u32>,
    pinging_since: Instant,
    pings: u64,
}

/// One client and its connection.
#[derive(Debug)]
struct Link {
    /// `None` once it is closed.
    socket: Option<OwnedFd>,
    client: Client,
    /// What the socket has not taken; the handshake, before it is connected.
    unsent: Vec<u8>,
    is_connected: bool,
    is_probe: bool,
}

impl Crowd {
    pub(super) fn new(target: Target, common: Common, books: Books) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            target,
            common,
            links: Vec::new(),
            events: Vec::with_capacity(EVENTS),
            buffer: vec![0; BUFFER_BYTES].into(),
            out: Vec::new(),
            books,
            ready: 0,
            closings: BTreeMap::new(),
            pinging_since: Instant::now(),
            pings: 0,
        })
    }

    pub(super) fn books(&self) -> &Books {
        &self.books
    }

    pub(super) fn books_mut(&mut self) -> &mut Books {
        &mut self.books
    }

    /// Clients that are ready.
    pub(super) fn ready(&self) -> usize {
        self.ready
    }

    /// Clients that are not ready yet.
    pub(super) fn opening(&self) -> usize {
        self.links.len() - self.ready - self.closed()
    }

    /// Clients that were ready, and whose connection has ended since.
    pub(super) fn closed(&self) -> usize {
        self.closings.values().map(|count| *count as usize).sum()
    }

    pub(super) fn closings(&self) -> &BTreeMap<Closing, u32> {
        &self.closings
    }

    /// Begins to connect one more client; the probe, with `room`, is in that one room.
    ///
    /// # Errors
    /// Says why not, if that is known at once.
    pub(super) fn connect(&mut self, room: Option<u32>) -> Result<(), Error> {
        let number = self.links.len() as u32;
        let mut unsent = Vec::new();
        let client = Client::new(number * self.common.subscriptions, room, &self.common, &mut unsent);
        let socket = open(&self.target, number).map_err(|error| self.cannot_connect(error))?;
        let socket = OwnedFd::from(socket);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(number.into()), flags).map_err(io::Error::from)?;
        self.links.push(Link { socket: Some(socket), client, unsent, is_connected: false, is_probe: room.is_some() });
        Ok(())
    }

    /// Starts the time from which clients say that they are still there, each at a moment of its own.
    pub(super) fn start_pinging(&mut self) {
        self.pinging_since = Instant::now();
    }

    /// Reads what has come, waiting for it if there is nothing; at most some milliseconds.
    ///
    /// # Errors
    /// For a client that cannot become ready. One that was ready and was closed is counted instead.
    pub(super) fn turn(&mut self, poll: Poll) -> Result<(), Error> {
        let wait = if poll == Poll::Nap { Duration::ZERO } else { WAIT };
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&wait)) {
            Ok(0) if poll == Poll::Nap => std::thread::sleep(NAP),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Wait(error.into())),
        }
        let events = std::mem::take(&mut self.events);
        for event in &events {
            let (number, flags) = (event.data.u64() as usize, event.flags);
            if flags.contains(epoll::EventFlags::OUT) {
                self.writable(number)?;
            }
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                self.readable(number)?;
            }
        }
        self.events = events;
        self.ping()
    }

    /// Says goodbye to the server.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        for number in 0..self.links.len() {
            frame::write(Opcode::Close, &1000_u16.to_be_bytes(), &mut self.out);
            self.flush(number)?;
        }
        Ok(())
    }

    fn readable(&mut self, number: usize) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(number) else { return Ok(()) };
        let Some(socket) = &link.socket else { return Ok(()) };
        let read = match recv(socket, &mut *self.buffer, RecvFlags::empty()) {
            Ok((0, _)) => return self.ended(number, "closed without a close frame"),
            Ok((read, _)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(Errno::CONNREFUSED) if !link.is_connected => return Err(self.cannot_connect(Errno::CONNREFUSED.into())),
            Err(Errno::CONNRESET) => return self.ended(number, "reset"),
            Err(error) => return self.ended(number, &error.to_string()),
        };
        let now_ns = self.books.now_ns();
        let first = (!link.is_probe).then(|| link.client.subscriptions(&self.common).start);
        let (books, bytes) = (&mut self.books, self.buffer.get(..read).unwrap_or_default());
        let received = link.client.receive(bytes, &self.common, &mut self.out, |text| books.enter(first, text, now_ns));
        let was_ready = link.client.is_ready();
        match received {
            Ok(Step::Go) => {}
            Ok(Step::Ready) => self.ready += 1,
            Ok(Step::Closed(closing)) => {
                self.flush(number)?;
                self.lose(number, closing);
            }
            Err(Refusal::Malformed(malformed)) if was_ready => {
                self.lose(number, Closing { code: None, reason: malformed.to_string() });
            }
            Err(refusal) => return Err(Error::Refused { url: self.target.url.clone(), refusal }),
        }
        if self.out.is_empty() { Ok(()) } else { self.flush(number) }
    }

    fn writable(&mut self, number: usize) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(number) else { return Ok(()) };
        let Some(socket) = &link.socket else { return Ok(()) };
        if !link.is_connected {
            match rustix::net::sockopt::socket_error(socket) {
                Ok(Ok(())) => link.is_connected = true,
                Ok(Err(error)) | Err(error) => return Err(self.cannot_connect(error.into())),
            }
        }
        self.flush(number)?;
        if let Some(link) = self.links.get(number)
            && let Some(socket) = &link.socket
            && link.unsent.is_empty()
        {
            let data = epoll::EventData::new_u64(number as u64);
            epoll::modify(&self.epoll, socket, data, epoll::EventFlags::IN).map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// Sends what waits for the client and what stands in `out`; what the socket does not take waits.
    fn flush(&mut self, number: usize) -> Result<(), Error> {
        let Some(link) = self.links.get_mut(number) else { return Ok(()) };
        let had_unsent = !link.unsent.is_empty();
        link.unsent.append(&mut self.out);
        let Some(socket) = &link.socket else {
            link.unsent = Vec::new();
            return Ok(());
        };
        if !link.is_connected {
            return Ok(());
        }
        let sent = match send(socket, &link.unsent, SendFlags::NOSIGNAL) {
            Ok(sent) => sent,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return Ok(()), // reading tells why
        };
        link.unsent.drain(..sent);
        if link.unsent.is_empty() {
            link.unsent = Vec::new();
        } else if !had_unsent {
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::modify(&self.epoll, socket, data, flags).map_err(io::Error::from)?;
        }
        Ok(())
    }

    /// The connection has ended, without a word of the protocol's.
    fn ended(&mut self, number: usize, how: &str) -> Result<(), Error> {
        let closing = Closing { code: None, reason: how.to_owned() };
        if self.links.get(number).is_some_and(|link| link.client.is_ready()) {
            self.lose(number, closing);
            return Ok(());
        }
        Err(Error::Refused { url: self.target.url.clone(), refusal: Refusal::Closed(closing) })
    }

    /// Enters that a client that was ready is no more.
    fn lose(&mut self, number: usize, closing: Closing) {
        let Some(link) = self.links.get_mut(number) else { return };
        if link.socket.take().is_none() {
            return;
        }
        self.ready -= 1;
        *self.closings.entry(closing).or_default() += 1;
        if link.is_probe {
            self.books.probe.ledger.leave(0);
        } else {
            link.client.subscriptions(&self.common).for_each(|subscription| self.books.load.ledger.leave(subscription));
        }
    }

    /// Lets those clients whose time has come say that they are still there.
    fn ping(&mut self) -> Result<(), Error> {
        if self.ready < self.links.len() || self.ready == 0 {
            return Ok(());
        }
        let rounds = self.pinging_since.elapsed().as_secs_f64() / PING_INTERVAL.as_secs_f64();
        let due = (rounds * self.links.len() as f64) as u64;
        while self.pings < due {
            let number = self.pings % self.links.len() as u64;
            self.pings += 1;
            frame::write(Opcode::Text, b"ping", &mut self.out);
            self.flush(number as usize)?;
        }
        Ok(())
    }

    fn cannot_connect(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Error::NobodyThere(self.target.url.clone()),
            _ => Error::Connect { url: self.target.url.clone(), source: error },
        }
    }
}

/// A socket that is being connected.
fn open(target: &Target, number: u32) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(target.address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = target.source(number) {
        socket.bind(&source.into())?;
    }
    match socket.connect(&target.address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket),
    }
}
