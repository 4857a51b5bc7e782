//! A way to RabbitMQ that can be cut: all of it, or the connections of one name.

use std::{collections::VecDeque, io, time::Duration};

use high_templar::config::Uris;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// How long a connection that is cut early still gets RabbitMQ's answers to the messages that it has published.
const LAST_ANSWERS: Duration = Duration::from_millis(30);

/// Passes everything on, unless it is cut. Gone when dropped.
pub struct Proxy {
    pub url: String,
    is_cut: watch::Sender<bool>,
    early_cuts: watch::Sender<EarlyCuts>,
    confirms_after: watch::Sender<Duration>,
    _task: JoinSet<()>,
}

/// Cuts of the connections of one name.
#[derive(Debug, Default)]
struct EarlyCuts {
    /// The name that clients give their connection.
    name: Vec<u8>,
    /// For each of the next connections: how many messages it may publish.
    publishes: VecDeque<usize>,
    /// Whether all connections end as soon as they have said their name.
    keeps_off: bool,
}

impl Proxy {
    /// Before the node at `url`.
    pub async fn before(url: &str) -> Self {
        let port = Uris::parse(url).unwrap().at(0).amqp().authority.port;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (is_cut, early_cuts) = (watch::Sender::new(false), watch::Sender::default());
        let confirms_after = watch::Sender::default();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, port, is_cut.clone(), early_cuts.clone(), confirms_after.subscribe()));
        let url = url.replace(&format!(":{port}"), &format!(":{own}"));
        Self { url, is_cut, early_cuts, confirms_after, _task: task }
    }

    /// Ends all connections, and every one that is made from now on.
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub fn mend(&self) {
        self.is_cut.send_replace(false);
    }

    /// Ends the connections that clients call `name`, and as many of the next ones as there are numbers: each a moment
    /// after it has published that many messages and is about to publish another one, which RabbitMQ never gets. Earlier
    /// calls no longer count.
    pub fn cut_early(&self, name: &str, publishes: impl IntoIterator<Item = usize>) {
        let publishes = publishes.into_iter().collect();
        self.early_cuts.send_replace(EarlyCuts { name: name.as_bytes().to_vec(), publishes, keeps_off: false });
    }

    /// Ends the connections that clients call `name`, and every one that is made from now on.
    pub fn keep_off(&self, name: &str) {
        let name = name.as_bytes().to_vec();
        self.early_cuts.send_replace(EarlyCuts { name, publishes: VecDeque::new(), keeps_off: true });
    }

    /// Has RabbitMQ's confirms come so much later from now on, except for those of what it returned.
    pub fn delay_confirms(&self, time: Duration) {
        self.confirms_after.send_replace(time);
    }

    /// How many connections are still to be cut early.
    pub fn early_cuts_left(&self) -> usize {
        self.early_cuts.borrow().publishes.len()
    }
}

async fn serve(
    listener: TcpListener,
    port: u16,
    is_cut: watch::Sender<bool>,
    early_cuts: watch::Sender<EarlyCuts>,
    confirms_after: watch::Receiver<Duration>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (mut is_cut, early_cuts, confirms_after) = (is_cut.subscribe(), early_cuts.clone(), confirms_after.clone());
        connections.spawn(async move {
            tokio::select! {
                biased;
                _ = is_cut.wait_for(|is_cut| *is_cut) => {}
                () = pass(client, port, early_cuts, confirms_after) => {}
            }
        });
    }
}

/// One connection, until either side ends it or it is cut.
async fn pass(
    mut client: TcpStream,
    port: u16,
    cuts: watch::Sender<EarlyCuts>,
    confirms_after: watch::Receiver<Duration>,
) {
    let Ok(mut broker) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_broker, mut to_broker) = broker.split();
    let up = async {
        let (mut frames, mut piece) = (Frames::default(), vec![0; 64 * 1024]);
        let mut changes = cuts.subscribe();
        // How many messages it may still publish, if it is to be cut.
        let mut allowance = None;
        loop {
            let count = tokio::select! {
                count = from_client.read(&mut piece) => count.unwrap_or_default(),
                Ok(()) = changes.changed() => match changes.borrow_and_update().name == frames.name {
                    true => return,
                    false => continue,
                },
            };
            if count == 0 {
                return;
            }
            let was_named = !frames.name.is_empty();
            let publishes = frames.read(&piece[..count]);
            if !was_named && !frames.name.is_empty() {
                let mut is_kept_off = false;
                cuts.send_if_modified(|cuts| {
                    if cuts.name == frames.name {
                        allowance = cuts.publishes.pop_front();
                        is_kept_off = cuts.keeps_off;
                    }
                    false
                });
                if is_kept_off {
                    return;
                }
            }
            if let Some(allowance) = &mut allowance {
                match usize::checked_sub(*allowance, publishes.len()) {
                    Some(left) => *allowance = left,
                    None => {
                        let _ = to_broker.write_all(&piece[..publishes[*allowance]]).await;
                        sleep(LAST_ANSWERS).await;
                        return;
                    }
                }
            }
            if to_broker.write_all(&piece[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        _ = down(&mut from_broker, &mut to_client, confirms_after) => {}
    }
}

/// What RabbitMQ sends, frame by frame, each confirm and what is behind it later than it came.
async fn down(
    from_broker: &mut (impl AsyncRead + Unpin),
    to_client: &mut (impl AsyncWrite + Unpin),
    after: watch::Receiver<Duration>,
) -> io::Result<()> {
    let (sender, mut late) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async {
        let mut is_returned = false;
        loop {
            let mut frame = vec![0; Frames::HEAD];
            from_broker.read_exact(&mut frame).await?;
            let size = u32::from_be_bytes([frame[3], frame[4], frame[5], frame[6]]) as usize;
            frame.resize(Frames::HEAD + size + 1, 0);
            from_broker.read_exact(&mut frame[Frames::HEAD..]).await?;
            let method = (frame[0] == 1).then(|| &frame[Frames::HEAD..Frames::HEAD + 4]);
            let is_confirm = method == Some(&[0, 60, 0, 80]); // basic.ack
            let is_late = is_confirm && !is_returned;
            // RabbitMQ confirms what it has returned right behind that.
            is_returned = match method {
                Some(&[0, 60, 0, 50]) => true, // basic.return
                _ => is_returned && !is_confirm,
            };
            let due = Instant::now() + if is_late { *after.borrow() } else { Duration::ZERO };
            if sender.send((due, frame)).is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let writing = async {
        while let Some((due, frame)) = late.recv().await {
            sleep_until(due).await;
            to_client.write_all(&frame).await?;
        }
        Ok(())
    };
    tokio::select! {
        outcome = reading => outcome,
        outcome = writing => outcome,
    }
}

/// Reads what a client sends, frame by frame (AMQP 0-9-1, section 4.2.3).
#[derive(Debug, Default)]
struct Frames {
    /// The client's name for the connection, once it has told it.
    name: Vec<u8>,
    /// The beginning of a frame whose end has not been sent yet.
    begun: Vec<u8>,
    is_greeted: bool,
}

impl Frames {
    const GREETING: usize = b"AMQP\0\0\x09\x01".len();
    /// Type, channel and size.
    const HEAD: usize = 7;

    /// Where in `piece` messages begin.
    fn read(&mut self, piece: &[u8]) -> Vec<usize> {
        let carried = self.begun.len();
        self.begun.extend_from_slice(piece);
        let (mut at, mut publishes) = (0, Vec::new());
        if !self.is_greeted {
            if self.begun.len() < Self::GREETING {
                return publishes;
            }
            (self.is_greeted, at) = (true, Self::GREETING);
        }
        while let Some(head) = self.begun.get(at..at + Self::HEAD) {
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let end = at + Self::HEAD + size;
            let Some(payload) = self.begun.get(at + Self::HEAD..end).filter(|_| end < self.begun.len()) else { break };
            match (head[0], payload) {
                (1, [0, 60, 0, 40, ..]) => publishes.push(at.saturating_sub(carried)), // basic.publish
                (1, [0, 10, 0, 11, properties @ ..]) => self.name = connection_name(properties), // connection.start-ok
                _ => {}
            }
            at = end + 1;
        }
        self.begun.drain(..at);
        publishes
    }
}

/// What the client's properties say.
fn connection_name(properties: &[u8]) -> Vec<u8> {
    const FIELD: &[u8] = b"\x0fconnection_nameS";
    let field = properties.windows(FIELD.len()).position(|window| window == FIELD);
    let value = field.and_then(|at| properties[at + FIELD.len()..].split_first_chunk::<4>());
    value.map(|(size, rest)| rest[..u32::from_be_bytes(*size) as usize].to_vec()).unwrap_or_default()
}
