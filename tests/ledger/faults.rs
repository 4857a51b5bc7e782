//! Carrying out what the schedule says.

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng, seq::index};
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};

use crate::{
    World,
    client::Order,
    schedule::{Fault, Planned},
};

/// Whom the faults befall.
#[derive(Clone)]
pub struct Faults {
    pub world: Arc<World>,
    pub clients: Vec<mpsc::Sender<Order>>,
}

impl Faults {
    /// One lane, from its first fault to its last; at its end everything is there again.
    pub async fn run(self, lane: Vec<Planned>) {
        for planned in lane {
            sleep_until(self.world.books.start() + planned.at).await;
            self.world.books.fault(planned.fault.word(), planned.fault.to_string());
            self.befall(planned).await;
        }
    }

    async fn befall(&self, Planned { fault, pick, .. }: Planned) {
        let world = &self.world;
        match fault {
            Fault::CutBroker => self.with_node(|node| _ = node.ctl(&["close_all_connections", "ledger"])).await,
            Fault::KillBroker(away) => {
                world.node_absence.lock().begin();
                self.with_node(|node| node.kill()).await;
                sleep(away).await;
                self.with_node(|node| node.start_again()).await;
                world.node_absence.lock().end();
                world.books.tell("broker is there again");
            }
            Fault::PauseBroker(time) => {
                world.node_absence.lock().begin();
                self.with_node(|node| node.control("pause")).await;
                sleep(time).await;
                self.with_node(|node| node.control("resume")).await;
                world.node_absence.lock().end();
                world.books.tell("broker goes on");
            }
            Fault::KillInstance(which, away) => {
                world.instances[which].kill();
                self.start_again(which, away).await;
            }
            Fault::StopInstance(which, away) => {
                match world.instances[which].stop().await {
                    Some(status) if status.code() == Some(0) => {}
                    ended => world.books.error(format!("instance {which} was asked to stop: {ended:?}")),
                }
                self.start_again(which, away).await;
            }
            Fault::CutClients(count) => self.order(count, pick, Order::Cut),
            Fault::StallClients(count, time) => {
                self.order(count, pick, Order::Stall(time));
                world.load(true);
                sleep(time).await;
                world.load(false);
            }
        }
    }

    async fn start_again(&self, which: usize, away: Duration) {
        sleep(away).await;
        self.world.instances[which].start();
        self.world.books.tell(format_args!("instance {which} is started again"));
    }

    fn order(&self, count: usize, pick: u64, order: Order) {
        let all = index::sample(&mut StdRng::seed_from_u64(pick), self.clients.len(), count.min(self.clients.len()));
        for client in all {
            let _ = self.clients[client].try_send(order); // one that is still busy with the last order is left alone
        }
    }

    /// What is done to the node takes its time.
    async fn with_node(&self, work: impl FnOnce(&crate::support::Node) + Send + 'static) {
        let node = self.world.node.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || work(&node)).await {
            self.world.books.error(format!("the node cannot be handled: {error}"));
        }
    }
}
