//! `POST /trigger/`: a trigger over HTTP. It goes to the broker like any other, and so reaches every instance.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};
use tokio::time::timeout;
use tracing::warn;
use warp::{Filter, Rejection, reply::Response};

use super::reply;
use crate::{
    broker::{self, Publisher},
    metrics::Metrics,
    protocol::trigger::Trigger,
    room::Numbers,
};

/// How long a caller may take to send its trigger.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// How much beyond the limit is read and thrown away.
const DISCARDED_BYTES: usize = 8 << 20;
/// When a caller should try again after the broker was away.
const RETRY_AFTER: &str = "1";

pub(super) fn route(
    publisher: Publisher,
    limit_bytes: usize,
    metrics: Arc<Metrics>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone {
    warp::path("trigger").and(warp::path::end()).and(warp::post()).and(warp::body::stream()).then(move |body| {
        let (publisher, metrics) = (publisher.clone(), metrics.clone());
        async move {
            let answer = match timeout(BODY_DEADLINE, collect(body, limit_bytes)).await {
                Ok(Ok(body)) => publish(&publisher, body).await,
                Ok(Err(answer)) => answer,
                Err(_) => Answer::Incomplete,
            };
            metrics.trigger_requests.inc(answer.word());
            answer.response(limit_bytes)
        }
    })
}

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Success,
    /// The trigger is wrong, in this way.
    Wrong(&'static str),
    TooLarge,
    Incomplete,
    TryLater,
}

impl Answer {
    fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Wrong(word) => word,
            Self::TooLarge => "too-large",
            Self::Incomplete => "incomplete",
            Self::TryLater => "try-later",
        }
    }

    fn response(self, limit_bytes: usize) -> Response {
        let (status, detail) = match self {
            Self::Success => return reply::success(),
            Self::Wrong(_) => (
                StatusCode::BAD_REQUEST,
                r#"a trigger is {"rooms":[{…}, …],"data":…} in UTF-8: JSON, rooms a list of objects, data anything"#
                    .to_owned(),
            ),
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("a trigger may have up to {limit_bytes} bytes (MESSAGE_LIMIT)"))
            }
            Self::Incomplete => {
                (StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive whole within {BODY_DEADLINE:?}"))
            }
            Self::TryLater => (StatusCode::SERVICE_UNAVAILABLE, "the broker did not confirm the trigger".to_owned()),
        };
        let mut response = reply::error(status, self.word(), &detail);
        if self == Self::TryLater {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

async fn publish(publisher: &Publisher, body: Bytes) -> Answer {
    if let Err(error) = Trigger::parse(&body, Numbers::ByValue) {
        return Answer::Wrong(error.word());
    }
    match publisher.publish(body).await {
        Ok(()) => Answer::Success,
        Err(error @ (broker::Error::Away | broker::Error::TimedOut(_) | broker::Error::Refused(_))) => {
            warn!(error = &error as &dyn std::error::Error, "trigger not accepted");
            Answer::TryLater
        }
    }
}

/// The whole body, as long as it has no more than `limit_bytes`. Somewhat more is read all the same: a caller that is
/// still sending would not see the answer.
async fn collect(body: impl Stream<Item = Result<impl Buf, warp::Error>>, limit_bytes: usize) -> Result<Bytes, Answer> {
    let mut body = std::pin::pin!(body);
    let (mut whole, mut length) = (BytesMut::new(), 0_usize);
    while let Some(piece) = body.next().await {
        let mut piece = piece.map_err(|_| Answer::Incomplete)?;
        length = length.saturating_add(piece.remaining());
        if length <= limit_bytes {
            whole.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        } else if length - limit_bytes > DISCARDED_BYTES {
            break;
        }
    }
    if length > limit_bytes { Err(Answer::TooLarge) } else { Ok(whole.freeze()) }
}
