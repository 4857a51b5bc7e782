//! A moment as Channelstream writes it.

use std::time::SystemTime;

use jiff::{civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, format_smolstr};

/// ISO 8601, with the zone that the caller gave, or none for what the server made itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(SmolStr);

impl Timestamp {
    /// The present, in UTC without saying so: `2026-11-20T20:22:14.526422`.
    pub fn now() -> Self {
        Self::at(SystemTime::now())
    }

    /// The same of another moment.
    pub fn at(moment: SystemTime) -> Self {
        // 1970 for what no calendar has.
        let moment = jiff::Timestamp::try_from(moment).unwrap_or_default();
        Self::written(TimeZone::UTC.to_datetime(moment), None)
    }

    /// What a caller gave: a date, `T` or a space, hours and minutes, perhaps seconds with a fraction, perhaps `Z` or an
    /// offset. It is written anew, as Python does; the fraction is cut to microseconds, and `Z` becomes `+00:00`.
    ///
    /// `None` if it has another form, or the calendar has no such moment.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = Rest(text);
        let year = rest.number(4..=4).filter(|year| *year > 0)?;
        let month = rest.then(&["-"])?.number(1..=2)?;
        let day = rest.then(&["-"])?.number(1..=2)?;
        let hour = rest.then(&["T", " "])?.number(1..=2)?;
        let minute = rest.then(&[":"])?.number(1..=2)?;
        let (mut second, mut nanosecond) = (0, 0);
        if rest.then(&[":"]).is_some() {
            second = rest.number(1..=2)?;
            if rest.then(&["."]).is_some() {
                nanosecond = rest.fraction()? * 1000;
            }
        }
        let offset = rest.offset()?;
        let small = |number: i32| i8::try_from(number).ok();
        let date = (i16::try_from(year).ok()?, small(month)?, small(day)?);
        let time = (small(hour)?, small(minute)?, small(second)?);
        let moment = DateTime::new(date.0, date.1, date.2, time.0, time.1, time.2, nanosecond).ok()?;
        Some(Self::written(moment, offset))
    }

    /// As Python's `isoformat` does it; the offset is in minutes.
    fn written(moment: DateTime, offset: Option<i32>) -> Self {
        let microsecond = moment.subsec_nanosecond() / 1000;
        let seconds = moment.strftime("%Y-%m-%dT%H:%M:%S");
        let fraction = match microsecond {
            0 => SmolStr::default(),
            some => format_smolstr!(".{some:06}"),
        };
        let zone = offset.map(|minutes| {
            let sign = if minutes < 0 { '-' } else { '+' };
            format_smolstr!("{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
        });
        Self(format_smolstr!("{seconds}{fraction}{}", zone.unwrap_or_default()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is left to read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    /// Passes one of `marks`.
    fn then(&mut self, marks: &[&str]) -> Option<&mut Self> {
        self.0 = marks.iter().find_map(|mark| self.0.strip_prefix(mark))?;
        Some(self)
    }

    /// Passes a number of so many digits, as many of them as there are.
    fn number(&mut self, digits: std::ops::RangeInclusive<usize>) -> Option<i32> {
        let count = self.digits().min(*digits.end());
        let (number, rest) = self.0.split_at(count);
        self.0 = rest;
        number.parse().ok().filter(|_| digits.contains(&count))
    }

    /// Passes digits behind a point: microseconds.
    fn fraction(&mut self) -> Option<i32> {
        let (digits, rest) = self.0.split_at(self.digits());
        self.0 = rest;
        let digits = &digits[..digits.len().min(6)];
        let number: i32 = digits.parse().ok()?;
        Some((digits.len()..6).fold(number, |number, _| number * 10))
    }

    /// Passes the offset in minutes, or nothing; nothing may follow.
    fn offset(&mut self) -> Option<Option<i32>> {
        if self.0.is_empty() {
            return Some(None);
        }
        if self.0 == "Z" {
            return Some(Some(0));
        }
        let sign = if self.0.starts_with('-') { -1 } else { 1 };
        let hours = self.then(&["+", "-"])?.number(2..=2)?;
        let minutes = match self.0 {
            "" => 0,
            _ => {
                self.0 = self.0.strip_prefix(':').unwrap_or(self.0);
                self.number(2..=2)?
            }
        };
        let offset = hours * 60 + minutes;
        (self.0.is_empty() && offset < 24 * 60).then_some(Some(sign * offset))
    }

    fn digits(&self) -> usize {
        self.0.bytes().take_while(u8::is_ascii_digit).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_caller_gives_is_written_as_python_does() {
        for (given, written) in [
            ("2026-11-20T20:47:57.946660", "2026-11-20T20:47:57.946660"),
            ("2020-01-02 03:04", "2020-01-02T03:04:00"),
            ("2020-1-2 3:4", "2020-01-02T03:04:00"),
            ("2020-01-02T03:04Z", "2020-01-02T03:04:00+00:00"),
            ("2020-01-02T03:04:05.1234567Z", "2020-01-02T03:04:05.123456+00:00"),
            ("2020-01-02T03:04:05.1", "2020-01-02T03:04:05.100000"),
            ("2020-01-02T03:04:05.000000", "2020-01-02T03:04:05"),
            ("2020-01-02T03:04:05.0000009", "2020-01-02T03:04:05"),
            ("2020-01-02T03:04:05+05", "2020-01-02T03:04:05+05:00"),
            ("2020-01-02T03:04:05+0530", "2020-01-02T03:04:05+05:30"),
            ("2020-01-02T03:04:05-00:30", "2020-01-02T03:04:05-00:30"),
            ("2020-01-02T03:04:05-00:00", "2020-01-02T03:04:05+00:00"),
            ("2020-02-29T23:59:59+23:59", "2020-02-29T23:59:59+23:59"),
            ("0001-01-01T00:00", "0001-01-01T00:00:00"),
        ] {
            assert_eq!(Timestamp::parse(given).as_ref().map(Timestamp::as_str), Some(written), "{given}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for given in [
            "",
            "x",
            "2020-01-02",
            "2020-01-02T03",
            "2020-01-02T03:04:05.",
            "2020-01-02T03:04.5",
            "2020-01-02T03:04:05+24:00",
            "2020-01-02T03:04:05+23:99",
            "2020-01-02T03:04:05+5",
            "2020-01-02T03:04:05+05:3",
            "2020-01-02T03:04:05+05:",
            "2020-01-02T03:04:05z",
            "2020-01-02t03:04:05",
            "2020-01-02T03:04:05 Z",
            "2020-01-02T03:04:05Z ",
            "0000-01-02T03:04",
            "20200-01-02T03:04",
            "+2020-01-02T03:04",
            "2020-02-30T03:04",
            "2020-13-01T03:04",
            "2020-01-02T24:00",
            "2020-01-02T23:60",
            "2020-01-02T23:59:60",
            "2020-01-02T03:04:05,5",
            "٢٠٢٠-01-02T03:04",
        ] {
            assert_eq!(Timestamp::parse(given), None, "{given}");
        }
    }

    #[test]
    fn the_servers_own_times_have_no_zone() {
        let at = |micros| Timestamp::at(SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
        assert_eq!(at(1_795_206_134_526_422).as_str(), "2026-11-20T20:22:14.526422");
        assert_eq!(at(1_795_206_134_000_042).as_str(), "2026-11-20T20:22:14.000042");
        assert_eq!(at(1_795_206_134_000_000).as_str(), "2026-11-20T20:22:14");
        assert_eq!(at(u64::MAX).as_str(), "1970-01-01T00:00:00");
        assert!(Timestamp::parse(Timestamp::now().as_str()).is_some());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(micros in 0..4_000_000_000_000_000_u64) {
            let moment = Timestamp::at(SystemTime::UNIX_EPOCH + Duration::from_micros(micros));
            prop_assert_eq!(Timestamp::parse(moment.as_str()), Some(moment));
        }

        #[test]
        fn any_text_is_a_moment_or_none(text in "[0-9]{0,5}-[0-9]{1,2}-[0-9]{1,2}[T ][0-9:.+Z\\PC-]{0,20}") {
            if let Some(moment) = Timestamp::parse(&text) {
                prop_assert_eq!(Timestamp::parse(moment.as_str()), Some(moment));
            }
        }
    }
}
