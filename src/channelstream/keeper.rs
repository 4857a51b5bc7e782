//! What has to be done from time to time: saying that this instance is there, and looking who is not any more.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Channelstream,
    command::{Command, Order},
    writer::Ordered,
};
use crate::broker::{Publisher, State};

/// How often it is looked whether something is to be done while nothing is known yet.
const LOOK: Duration = Duration::from_millis(100);
/// How often otherwise.
const SWEEP: u32 = 10;
/// Every how many sweeps an instance says that it is there.
const BEAT: u32 = 5;
/// Every how many sweeps users are looked at.
const USERS: u32 = 60;
/// Nobody has listened for a connection for so long: it is taken out.
const UNHEARD: Duration = Duration::from_secs(15);
/// When others do that, should the instance be gone that had to.
const OTHERS_LATER: Duration = Duration::from_secs(2);
/// A user that nobody has seen for so long is forgotten.
const UNSEEN: Duration = Duration::from_hours(24);
/// How long the broker may take for the last words of an instance.
const GOODBYE: Duration = Duration::from_secs(2);

impl Channelstream {
    /// Publishes what is ordered, and keeps the copy, until `stop`.
    pub async fn run(self: Arc<Self>, publisher: Publisher, stop: CancellationToken) {
        let Some(mut writer) = self.writer.lock().take() else { return };
        let failed = |ids: &[Uuid]| {
            let mut waiting = self.waiting.lock();
            ids.iter().for_each(|id| drop(waiting.remove(id)));
        };
        let working = async {
            tokio::join!(writer.run(&publisher, failed), self.look());
        };
        stop.run_until_cancelled(working).await;
    }

    /// Says that this instance is gone, behind all that it had to say. Waits for the broker, though not for long.
    pub async fn say_goodbye(&self) {
        if self.snapshots_every.is_none() {
            return; // there is nobody else
        }
        let (sender, published) = oneshot::channel();
        let command = Command::new(Order::Gone { instance: self.me });
        let _ = self.orders.send(Ordered { published: Some(sender), ..Ordered::new(command) });
        let _ = timeout(GOODBYE, published).await; // the others notice by themselves, if later
    }

    async fn look(&self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_deaf = false;
        let mut last = Instant::now();
        for count in 0_u32.. {
            looks.tick().await;
            // A machine that has slept has not heard anybody either.
            let has_slept = std::mem::replace(&mut last, Instant::now()).elapsed() > UNHEARD;
            was_deaf |= has_slept || *self.state.borrow() != State::Current;
            if *self.state.borrow() != State::Current {
                continue;
            }
            let mut orders = self.replica.lock().begin(self.snapshots_every.is_none());
            if count.is_multiple_of(SWEEP) {
                orders.extend(self.sweep(count / SWEEP, &mut was_deaf));
            }
            self.order(orders);
        }
    }

    fn sweep(&self, count: u32, was_deaf: &mut bool) -> Vec<Order> {
        let mut replica = self.replica.lock();
        if replica.is_deaf() {
            *was_deaf = true;
            return if count.is_multiple_of(BEAT) { vec![replica.beat()] } else { Vec::new() };
        }
        if std::mem::take(was_deaf) {
            replica.was_deaf();
        }
        let mut orders: Vec<_> = replica.dead().into_iter().map(|instance| Order::Gone { instance }).collect();
        orders.extend(self.snapshots_every.and_then(|interval| replica.snapshot(interval)));
        let Some(state) = replica.state() else { return orders };
        if count.is_multiple_of(BEAT) {
            orders.push(replica.beat());
        }
        let collect = |(connection, signs)| Order::Collect { connection, signs };
        orders.extend(state.silent(self.me, UNHEARD, OTHERS_LATER).into_iter().map(collect));
        // That such a client has gone may not have come to the log.
        let lost = state.links(self.me).into_iter().filter(|(_, link)| !self.links.contains(*link));
        orders.extend(lost.map(|(connection, link)| Order::Detach { connection, link, has_got: false }));
        if count.is_multiple_of(USERS) {
            orders.extend(state.unseen(UNSEEN).into_iter().map(|(user, signs)| Order::Forget { user, signs }));
        }
        orders
    }
}
