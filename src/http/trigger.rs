//! `POST /trigger/`: a trigger over HTTP. It goes to the broker like any other, and so reaches every instance.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json, value::RawValue};
use tokio::sync::Semaphore;
use warp::{Filter, Rejection, reply::Response};

use super::{
    body::{self, Unread},
    refusals, reply,
};
use crate::{
    broker::{self, Kind, Publisher},
    logging::{chain, limited},
    metrics::Metrics,
    protocol::{
        elements,
        trigger::{Error, Trigger},
    },
    room::Rules,
};

/// Bytes of triggers that are being received or published at a time, if one alone does not need more. Counted in KiB.
const IN_FLIGHT_KIB: usize = 64 << 10;
/// What a trigger looks like, for whoever got it wrong.
const SHAPE: &str = r#"a trigger is {"rooms":[{…}, …],"data":…} in UTF-8: JSON, rooms a list of objects, data anything, perhaps with exclude, a list of connections' ids, and id, a string of up to 255 bytes; or a list of them"#;
/// The most triggers of one list. What is kept of each, and the answer with an object for each, are not counted in
/// [`IN_FLIGHT_KIB`].
const MOST_TRIGGERS: usize = 10_000;
/// What has happened when a trigger was not accepted.
const UNCONFIRMED: &str = "the broker did not confirm the trigger";

pub(super) fn route(
    publisher: Publisher,
    limit_bytes: usize,
    rules: Rules,
    metrics: Arc<Metrics>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    let in_flight = Arc::new(Semaphore::new(in_flight_kib(limit_bytes)));
    warp::path("trigger").and(warp::path::end()).and(warp::post()).and(warp::body::stream()).then(move |body| {
        let (publisher, metrics, in_flight) = (publisher.clone(), metrics.clone(), in_flight.clone());
        async move {
            let mut held = Held::new(in_flight);
            let answer = match body::read(body, limit_bytes, |bytes| held.grow(bytes)).await {
                Ok(body) if is_list(&body) => {
                    return publish_all(&publisher, &body, rules, &metrics, limit_bytes).await;
                }
                Ok(body) => publish(&publisher, body, rules).await,
                Err(Unread::TooLarge) => Answer::TooLarge,
                Err(Unread::Incomplete) => Answer::Incomplete,
                Err(Unread::Busy) => Answer::Busy,
            };
            metrics.trigger_requests.inc(answer.word());
            answer.response(limit_bytes)
        }
    })
}

/// What bodies of up to `limit_bytes` may take in all, in KiB.
pub(super) fn in_flight_kib(limit_bytes: usize) -> usize {
    IN_FLIGHT_KIB.max(kib(limit_bytes))
}

fn kib(bytes: usize) -> usize {
    bytes.div_ceil(1024)
}

/// What one request holds of the memory for all of them.
pub(super) struct Held {
    semaphore: Arc<Semaphore>,
    kib: usize,
}

impl Held {
    /// Nothing yet of what `semaphore` has, in KiB.
    pub(super) fn new(semaphore: Arc<Semaphore>) -> Self {
        Self { semaphore, kib: 0 }
    }

    /// Takes more, so that it is enough for `bytes`. Whether there is so much.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let more = kib(bytes).saturating_sub(self.kib);
        let Ok(Ok(permits)) = u32::try_from(more).map(|more| self.semaphore.try_acquire_many(more)) else {
            return false;
        };
        permits.forget(); // given back when this is dropped
        self.kib += more;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.semaphore.add_permits(self.kib);
    }
}

/// What a caller is told.
#[derive(Debug)]
enum Answer {
    Success,
    /// The trigger is wrong, in this way.
    Wrong(Error),
    TooLarge,
    /// There are more than [`MOST_TRIGGERS`] in the list.
    TooMany,
    /// The broker takes up to so many bytes.
    TooLargeForBroker(usize),
    Incomplete,
    TryLater,
    /// Too much is being published already.
    Busy,
}

impl Answer {
    fn word(&self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Wrong(error) => error.word(),
            Self::TooLarge | Self::TooMany | Self::TooLargeForBroker(_) => "too-large",
            Self::Incomplete => "incomplete",
            Self::TryLater | Self::Busy => "try-later",
        }
    }

    fn response(&self, limit_bytes: usize) -> Response {
        let (status, detail) = match self {
            Self::Success => return reply::success(),
            Self::Wrong(error) => {
                let response = reply::error(StatusCode::BAD_REQUEST, self.word(), &wrong(error));
                return refusals::logged_as(response, error.kind(), &chain(error));
            }
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("a trigger may have up to {limit_bytes} bytes (TRIGGER_LIMIT)"))
            }
            Self::TooMany => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a list may have up to {MOST_TRIGGERS} triggers; none was published"),
            ),
            Self::TooLargeForBroker(limit_bytes) => (StatusCode::PAYLOAD_TOO_LARGE, too_large_for_broker(*limit_bytes)),
            Self::Incomplete => {
                (StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive whole within {:?}", body::DEADLINE))
            }
            Self::TryLater => return refusals::unlogged(reply::try_later(UNCONFIRMED)), // logged with its reason
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too much is being published at once".to_owned()),
        };
        reply::with_retry_after(reply::error(status, self.word(), &detail))
    }

    /// The outcome as one of several. What a trigger looks like is told `with_shape` only.
    fn item(&self, with_shape: bool) -> Value {
        let detail = match self {
            Self::Success => return json!({"code": "success"}),
            Self::Wrong(error) => {
                limited!(warn[error.kind()], "trigger of a list refused", detail = chain(error));
                if with_shape { wrong(error) } else { chain(error) }
            }
            Self::TooLargeForBroker(limit_bytes) => {
                let detail = too_large_for_broker(*limit_bytes);
                limited!(warn[self.word()], "trigger of a list refused", detail);
                detail
            }
            _ => UNCONFIRMED.to_owned(), // neither size nor memory is looked at for each
        };
        json!({"code": "error", "message": self.word(), "detail": detail})
    }
}

/// What is wrong with a trigger, and what one looks like.
fn wrong(error: &Error) -> String {
    format!("{}; {SHAPE}", chain(error))
}

fn too_large_for_broker(limit_bytes: usize) -> String {
    format!("the broker takes messages of up to {limit_bytes} bytes (max_message_size of RabbitMQ)")
}

/// Whether a body is a list of triggers.
fn is_list(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"[")
}

/// Publishes a list in its order. Each trigger is taken or not by itself; 503 when the broker took none of those it was given.
async fn publish_all(
    publisher: &Publisher,
    body: &Bytes,
    rules: Rules,
    metrics: &Metrics,
    limit_bytes: usize,
) -> Response {
    let triggers = match elements(body, MOST_TRIGGERS) {
        Ok(triggers) if triggers.len() > MOST_TRIGGERS => {
            metrics.trigger_requests.inc(Answer::TooMany.word());
            return Answer::TooMany.response(limit_bytes);
        }
        Ok(triggers) => triggers,
        Err(reason) => {
            let word = Error::Malformed(reason.clone()).word();
            metrics.trigger_requests.inc(word);
            let detail = format!("the list of triggers cannot be read: {reason}");
            let response = reply::error(StatusCode::BAD_REQUEST, word, &format!("{detail}; {SHAPE}"));
            return refusals::logged_as(response, reason.kind(), &detail);
        }
    };
    let check = |trigger: &RawValue| Trigger::parse(trigger.get().as_bytes(), rules).map(drop);
    let checked: Vec<_> = triggers.iter().map(|trigger| check(trigger)).collect();
    let good = triggers.iter().zip(&checked).filter(|(_, checked)| checked.is_ok());
    let bodies: Vec<Bytes> = good.map(|(trigger, _)| body.slice_ref(trigger.get().as_bytes())).collect();
    let given = bodies.len();
    let mut outcomes = publisher.publish_all(bodies).await.into_iter();
    let answers: Vec<Answer> = checked
        .into_iter()
        .map(|checked| match checked {
            Ok(()) => outcomes.next().map_or(Answer::TryLater, accepted),
            Err(error) => Answer::Wrong(error),
        })
        .collect();
    answers.iter().for_each(|answer| metrics.trigger_requests.inc(answer.word()));
    let has = |wanted: fn(&Answer) -> bool| answers.iter().any(wanted);
    let is_away = given > 0
        && has(|answer| matches!(answer, Answer::TryLater))
        && !has(|answer| matches!(answer, Answer::Success));
    let status = if is_away { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let first_wrong = answers.iter().position(|answer| matches!(answer, Answer::Wrong(_)));
    let item = |(number, answer): (usize, &Answer)| answer.item(Some(number) == first_wrong);
    reply::with_retry_after(reply::json(status, &answers.iter().enumerate().map(item).collect::<Vec<_>>()))
}

async fn publish(publisher: &Publisher, body: Bytes, rules: Rules) -> Answer {
    if let Err(error) = Trigger::parse(&body, rules) {
        return Answer::Wrong(error);
    }
    accepted(publisher.publish(Kind::Trigger, body).await)
}

fn accepted(outcome: Result<(), broker::Error>) -> Answer {
    match outcome {
        Ok(()) => Answer::Success,
        Err(broker::Error::TooLarge(limit_bytes)) => Answer::TooLargeForBroker(limit_bytes),
        Err(error) => {
            let kind = error.to_string(); // one of a few
            limited!(warn[&*kind], "trigger not accepted by the broker", error = chain(&error));
            Answer::TryLater
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_published_is_bounded_and_given_back() {
        let semaphore = Arc::new(Semaphore::new(10));
        let held = || Held::new(semaphore.clone());
        let (mut one, mut two) = (held(), held());
        assert!(one.grow(100) && one.grow(6 << 10));
        assert_eq!(semaphore.available_permits(), 4);
        assert!(two.grow(4 << 10) && !two.grow((4 << 10) + 1) && !one.grow(usize::MAX));
        drop(one);
        assert!(two.grow(10 << 10));
        drop(two);
        assert_eq!(semaphore.available_permits(), 10);
    }
}
