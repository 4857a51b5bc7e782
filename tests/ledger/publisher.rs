//! Publishers: each numbers its triggers, and offers one until it is taken before it comes to the next.
//!
//! A trigger keeps its `id` however often it is offered, so it counts once even when a confirmation was lost on the way.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::index};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::{
    World,
    client::room,
    page::{Entry, PUBLISHERS, ROOMS},
    support::raw_amqp::{Confirmed, Property, RawPublisher},
};

/// Between two triggers of all publishers together.
const PACE: Duration = Duration::from_micros(8_300);
/// Before a trigger is offered again.
const AGAIN: Duration = Duration::from_millis(100);
/// How often a publisher that waits looks whether it still has to.
const QUIET: Duration = Duration::from_millis(20);
/// How long RabbitMQ may take for a connection, or to confirm.
const CONFIRM: Duration = Duration::from_secs(8);
/// How long a trigger may not be taken after the last fault.
const STUCK: Duration = Duration::from_secs(60);
const SMALL_BYTES: usize = 100;
const LARGE_BYTES: usize = 20 * 1024;
/// One of so many is large; the same while clients are to be slow.
const LARGE: u32 = 30;
const LARGE_UNDER_LOAD: u32 = 2;

/// By which way it publishes.
pub enum Way {
    /// `POST /trigger/`, to whichever instance takes it; this one first.
    Http(usize),
    /// Straight to RabbitMQ. It declares nothing, as publishers of 3.1 do not. Some triggers have a property that is not
    /// UTF-8; those go out on a connection of their own.
    Amqp { url: String, open: Option<Box<(Connection, Channel)>> },
}

pub struct Publisher {
    world: Arc<World>,
    name: usize,
    way: Way,
    rng: StdRng,
    serial: u64,
    numbers: [u64; ROOMS],
}

impl Publisher {
    pub fn new(world: Arc<World>, name: usize, way: Way) -> Self {
        let rng = StdRng::seed_from_u64(world.seed ^ (name as u64) << 48);
        Self { world, name, way, rng, serial: 0, numbers: [0; ROOMS] }
    }

    /// Publishes until all faults are over, and then what is in hand.
    pub async fn run(mut self) {
        let mut pace = interval(PACE * u32::try_from(PUBLISHERS).unwrap());
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let world = self.world.clone();
        while !world.faults_over.is_cancelled() {
            pace.tick().await;
            let (trigger, numbers) = self.next();
            if !self.offer(trigger.to_string().as_bytes()).await {
                return world.books.error(format!("publisher {}: {} was never taken", self.name, self.serial));
            }
            world.books.accept(self.name, self.serial, &numbers);
        }
    }

    /// The next trigger, and the numbers it has.
    fn next(&mut self) -> (Value, Vec<(usize, u64)>) {
        let (rooms, wanted) = match self.rng.random_range(0..20) {
            0 => ((0..ROOMS).collect(), vec![room(None)]),
            1..=3 => {
                let rooms = index::sample(&mut self.rng, ROOMS, 2).into_vec();
                let wanted = rooms.iter().map(|number| room(Some(*number))).collect();
                (rooms, wanted)
            }
            _ => {
                let number = self.rng.random_range(0..ROOMS);
                (vec![number], vec![room(Some(number))])
            }
        };
        self.serial += 1;
        let numbers: Vec<(usize, u64)> = rooms
            .into_iter()
            .map(|number| {
                self.numbers[number] += 1;
                (number, self.numbers[number])
            })
            .collect();
        let large = if self.world.is_loaded() { LARGE_UNDER_LOAD } else { LARGE };
        let size = if self.rng.random_ratio(1, large) { LARGE_BYTES } else { SMALL_BYTES };
        let padding = "x".repeat(size);
        let data =
            Entry { publisher: self.name, serial: self.serial, numbers: numbers.clone(), size, padding: &padding };
        let id = format!("{}-{}", self.name, self.serial);
        (json!({"rooms": wanted, "data": data, "id": id}), numbers)
    }

    /// Offers a trigger until it is taken. Whether it was.
    async fn offer(&mut self, body: &[u8]) -> bool {
        let mut over_since = None;
        let is_unreadable = matches!(self.way, Way::Amqp { .. }) && self.world.take_unreadable();
        let property = is_unreadable.then(|| Property::ALL[self.rng.random_range(0..Property::ALL.len())]);
        while !self.is_taken(body, property).await {
            self.world.books.count("triggers offered again");
            if self.world.faults_over.is_cancelled() && over_since.get_or_insert_with(Instant::now).elapsed() > STUCK {
                return false;
            }
            sleep(AGAIN).await;
        }
        true
    }

    async fn is_taken(&mut self, body: &[u8], unreadable: Option<Property>) -> bool {
        while self.world.is_quiet.load(Ordering::Relaxed) {
            sleep(QUIET).await;
        }
        match &mut self.way {
            Way::Http(which) => {
                let instance = &self.world.instances[*which];
                match instance.request("POST", "/trigger/", body).await {
                    Ok(200) => return true,
                    Ok(503) | Err(_) => {}
                    Ok(status) => self.world.books.error(format!("instance {which} answers a trigger with {status}")),
                }
                *which = 1 - *which;
                false
            }
            Way::Amqp { url, .. } if let Some(property) = unreadable => {
                let publishing =
                    async { RawPublisher::connect(url).await?.publish("hightemplar", "*", property, body).await };
                let is_taken = matches!(timeout(CONFIRM, publishing).await, Ok(Ok(Confirmed::Taken)));
                if is_taken {
                    self.world.books.count("triggers accepted with a property that is not UTF-8");
                }
                is_taken
            }
            Way::Amqp { url, open } => {
                // Publishers of 3.1 do not ask whether a queue takes their triggers.
                let mandatory = !self.world.is_careless();
                let publishing = async {
                    if open.is_none() {
                        *open = Some(Box::new(connect(url).await?));
                    }
                    let Some((_, channel)) = open.as_deref() else { return Ok(false) };
                    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
                    let properties = BasicProperties::default();
                    let sent =
                        channel.basic_publish("hightemplar".into(), "*".into(), options, body, properties).await?;
                    Ok::<_, lapin::Error>(matches!(sent.await?, Confirmation::Ack(None)))
                };
                match timeout(CONFIRM, publishing).await {
                    Ok(Ok(is_taken)) => is_taken,
                    Ok(Err(_)) | Err(_) => {
                        *open = None;
                        false
                    }
                }
            }
        }
    }
}

async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}
