//! Why the backend could not say who a client is, and what that means.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

use super::{Malformed, Moment, gate::Verdict};
use crate::metrics::Outcome;

/// The longest time after which somebody can ask to be asked again.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 3600);

/// Why the backend could not say who a client is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It said no, or something that is not yes.
    #[error("backend refused the client with status {status}")]
    Refused {
        /// What it answered.
        status: StatusCode,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
        /// When the call began: of changes after that it may not know.
        asked: Moment,
    },
    /// It took too long.
    #[error("backend did not answer within {0:?}")]
    TimedOut(Duration),
    /// There was no connection, or it broke.
    #[error("backend could not be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It answered with an HTML page, most likely to log in.
    #[error(
        "backend answered with an HTML page, perhaps to log in, which refuses the client: let it answer 401 or 403"
    )]
    Page {
        /// When the call began: of changes after that it may not know.
        asked: Moment,
    },
    /// It said something else.
    #[error("backend answer is not a bootstrap")]
    Malformed(#[source] Malformed),
    /// It was not asked: it has too much to do, or is being left alone.
    #[error("backend is busy, try again in {retry_after:?}")]
    Busy {
        /// When there may be a turn.
        retry_after: Duration,
    },
}

impl Error {
    /// The word it is counted under.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Refused { .. } => Outcome::Refused,
            Self::TimedOut(_) => Outcome::TimedOut,
            Self::Unreachable(_) => Outcome::Unreachable,
            Self::Page { .. } => Outcome::Page,
            Self::Malformed(_) => Outcome::Malformed,
            Self::Busy { .. } => Outcome::Dropped,
        }
    }

    /// Returns whether the backend has decided: it does not know this client. All else may be otherwise in a moment; an answer
    /// that cannot be read is a fault of the backend's, which the next release of it mends, and says nothing about the client.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { status, .. } => !status.is_server_error() && !is_passing(*status),
            Self::Page { .. } => true,
            Self::TimedOut(_) | Self::Unreachable(_) | Self::Malformed(_) | Self::Busy { .. } => false,
        }
    }

    /// When the call began that ended so, where the backend has decided.
    pub fn asked(&self) -> Option<Moment> {
        match self {
            Self::Refused { asked, .. } | Self::Page { asked } => Some(*asked),
            _ => None,
        }
    }

    /// When to try again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } => Some(*retry_after),
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns what a call that ended so says about the backend's health. A 500 or a 429 says that it works: it looked at
    /// the request.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Refused { status: StatusCode::SERVICE_UNAVAILABLE, retry_after: pause, .. } => {
                Verdict::Failed { pause: *pause }
            }
            Self::Refused { status: StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, .. }
            | Self::Unreachable(_)
            | Self::TimedOut(_) => Verdict::Failed { pause: None },
            Self::Refused { .. } | Self::Page { .. } | Self::Malformed(_) | Self::Busy { .. } => Verdict::Fine,
        }
    }
}

/// Whether it may be otherwise the next time, although it is a client's error.
fn is_passing(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?;
            SystemTime::from(date.timestamp()).duration_since(now).unwrap_or_default()
        }
    };
    Some(asked.min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::{super::Changes, *};

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_by_a_date() {
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770))
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("10000000000000000000"), Some(LONGEST_ASKED));
        assert_eq!(asked("-1"), None);
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn only_a_clear_no_is_final() {
        let asked = Changes::new(Duration::ZERO).now();
        let refused =
            |status: u16| Error::Refused { status: StatusCode::from_u16(status).unwrap(), retry_after: None, asked };
        for status in [401, 403, 404, 302, 204] {
            assert!(refused(status).is_final() && refused(status).verdict() == Verdict::Fine, "{status}");
        }
        for status in [502, 503, 504] {
            assert!(!refused(status).is_final() && refused(status).verdict() != Verdict::Fine, "{status}");
        }
        for status in [500, 429, 408] {
            assert!(!refused(status).is_final() && refused(status).verdict() == Verdict::Fine, "{status}");
        }
    }
}
