//! How long a peer may keep a server waiting for a request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// How often a connection without a request looks whether others need its slot.
const LOOKS_EVERY: Duration = Duration::from_secs(5);

/// How long a peer may take.
pub struct Patience {
    /// The head of a request, from its first byte on; of the first request, from the connection's acceptance on.
    pub head: Duration,
    /// The next request, from the end of the answer before it on.
    pub idle: Duration,
    /// Returns whether connections without a request have to end early.
    pub is_crowded: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").field("head", &self.head).field("idle", &self.idle).finish_non_exhaustive()
    }
}

/// What a peer has taken too long for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// A head has not arrived whole.
    Head,
    /// No further request has begun.
    Idle,
}

/// The clock of a connection on which a head is waited for.
#[derive(Debug)]
pub(super) struct Clock {
    patience: Patience,
    /// When a connection without a request ends; `None` while a head is arriving.
    idle_until: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
}

impl Clock {
    /// Returns a clock that waits for the first head.
    pub(super) fn new(patience: Patience) -> Self {
        let sleep = Box::pin(sleep(patience.head));
        Self { patience, idle_until: None, sleep }
    }

    /// A request has been answered: the next one may take its time.
    pub(super) fn rest(&mut self) {
        let now = Instant::now();
        let until = now + self.patience.idle;
        self.idle_until = Some(until);
        self.sleep.as_mut().reset(until.min(now + LOOKS_EVERY));
    }

    /// A head has begun.
    pub(super) fn begin(&mut self) {
        if self.idle_until.take().is_some() {
            self.sleep.as_mut().reset(Instant::now() + self.patience.head);
        }
    }

    /// Waits until the peer has taken too long.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Overdue> {
        loop {
            ready!(self.sleep.as_mut().poll(context));
            let Some(until) = self.idle_until else { return Poll::Ready(Overdue::Head) };
            let now = Instant::now();
            if now >= until || (self.patience.is_crowded)() {
                return Poll::Ready(Overdue::Idle);
            }
            self.sleep.as_mut().reset(until.min(now + LOOKS_EVERY));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::SeqCst},
        },
    };

    use super::*;

    fn clock(is_crowded: &Arc<AtomicBool>) -> Clock {
        let is_crowded = is_crowded.clone();
        Clock::new(Patience {
            head: Duration::from_secs(5),
            idle: Duration::from_secs(80),
            is_crowded: Box::new(move || is_crowded.load(SeqCst)),
        })
    }

    async fn overdue(clock: &mut Clock) -> (Overdue, u64) {
        let start = Instant::now();
        (poll_fn(|context| clock.poll(context)).await, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_deadline_from_its_first_byte_on_and_silence_has_another() {
        let mut clock = clock(&Arc::default());
        clock.begin(); // the first byte of the first head changes nothing
        assert_eq!(overdue(&mut clock).await, (Overdue::Head, 5));
        clock.rest();
        assert_eq!(overdue(&mut clock).await, (Overdue::Idle, 80));
        clock.rest();
        sleep(Duration::from_secs(79)).await;
        clock.begin();
        assert_eq!(overdue(&mut clock).await, (Overdue::Head, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_soon_where_others_need_the_slot() {
        let is_crowded = Arc::new(AtomicBool::new(true));
        let mut clock = clock(&is_crowded);
        clock.rest();
        assert_eq!(overdue(&mut clock).await, (Overdue::Idle, 5));
        is_crowded.store(false, SeqCst);
        clock.rest();
        let crowd = async {
            sleep(Duration::from_secs(42)).await;
            is_crowded.store(true, SeqCst);
        };
        assert_eq!(tokio::join!(overdue(&mut clock), crowd).0, (Overdue::Idle, 45));
    }
}
