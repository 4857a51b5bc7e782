//! The long-lived tasks of a server: each has a name, and how one ended is known by that name.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};

use crate::{broker::Unusable, logging};

/// Tasks that run until they are told to stop.
#[derive(Debug, Default)]
pub(super) struct Parts {
    tasks: JoinSet<Result<(), Unusable>>,
    names: HashMap<Id, &'static str>,
}

/// The end of a part of the server that should still be running.
#[derive(Debug, thiserror::Error)]
#[error("{part} ended early")]
pub struct EndedEarly {
    /// The part's name: `dispatch`, `public listener`.
    pub part: &'static str,
    /// What ended it.
    #[source]
    pub cause: Cause,
}

/// What ended a part of the server.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// It came to its end.
    #[error("it returned without an error")]
    Returned,
    /// It returned an error.
    #[error("the broker cannot be used")]
    Broker(#[source] Unusable),
    /// It panicked, with this text.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// The runtime dropped it.
    #[error("it was cancelled")]
    Cancelled,
}

impl Parts {
    /// Starts a part that returns only when it is told to stop.
    pub(super) fn spawn(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.try_spawn(name, async {
            part.await;
            Ok(())
        });
    }

    /// Starts a part that may also return when the broker cannot be used.
    pub(super) fn try_spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), Unusable>> + Send + 'static,
    ) {
        let id = self.tasks.spawn(part).id();
        self.names.insert(id, name);
    }

    /// Waits for the end of one of them; for ever if there is none.
    pub(super) async fn ended_early(&mut self) -> EndedEarly {
        match self.tasks.join_next_with_id().await {
            Some(outcome) => self.end_of(outcome),
            None => std::future::pending().await,
        }
    }

    /// Waits for the end of all, which have been told to stop. The first one that did not come to its end by itself is the error.
    pub(super) async fn finish(&mut self) -> Result<(), EndedEarly> {
        let mut first = Ok(());
        while let Some(outcome) = self.tasks.join_next_with_id().await {
            let end = self.end_of(outcome);
            if first.is_ok() && !matches!(end.cause, Cause::Returned) {
                first = Err(end);
            }
        }
        first
    }

    fn end_of(&mut self, outcome: Result<(Id, Result<(), Unusable>), JoinError>) -> EndedEarly {
        let (id, cause) = match outcome {
            Ok((id, Ok(()))) => (id, Cause::Returned),
            Ok((id, Err(error))) => (id, Cause::Broker(error)),
            Err(error) => (error.id(), cause_of(error)),
        };
        EndedEarly { part: self.names.remove(&id).unwrap_or("a part without a name"), cause }
    }
}

fn cause_of(error: JoinError) -> Cause {
    match error.try_into_panic() {
        Ok(payload) => Cause::Panicked(logging::panic_text(&*payload)),
        Err(_) => Cause::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let mut parts = Parts::default();
        parts.spawn("one that runs", std::future::pending());
        parts
    }

    async fn told(parts: &mut Parts) -> String {
        logging::chain(&parts.ended_early().await)
    }

    #[tokio::test]
    async fn a_part_that_ends_early_is_named_with_what_ended_it() {
        let mut parts = parts();
        parts.spawn("upkeep", async {});
        assert_eq!(told(&mut parts).await, "upkeep ended early: it returned without an error");
        parts.spawn("gate", async { panic!("a state that cannot be") });
        assert_eq!(told(&mut parts).await, "gate ended early: it panicked: a state that cannot be");
        let number = 17;
        parts.spawn("gate", async move { panic!("{number} calls") });
        assert_eq!(told(&mut parts).await, "gate ended early: it panicked: 17 calls");
        assert_eq!((parts.names.len(), parts.tasks.len()), (1, 1));
    }

    #[tokio::test]
    async fn a_part_that_panics_while_it_stops_is_an_error_and_one_that_returns_is_not() {
        let mut parts = Parts::default();
        parts.spawn("listener", async {});
        parts.finish().await.unwrap();
        parts.spawn("listener", async {});
        parts.spawn("upkeep", async { panic!("at the end") });
        let error = parts.finish().await.unwrap_err();
        assert_eq!(logging::chain(&error), "upkeep ended early: it panicked: at the end");
    }
}
