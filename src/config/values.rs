//! Reading single values; what is wrong with one is added to the problems.

use std::{ops::RangeInclusive, time::Duration};

use super::{problems::Problems, units};

pub(super) fn choice<T: Copy>(variable: &str, text: &str, choices: &[(&str, T)], problems: &mut Problems) -> Option<T> {
    let chosen = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if chosen.is_none() {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        problems.add(variable, &format!("must be one of {}", names.join(", ")));
    }
    chosen
}

pub(super) fn duration(
    variable: &str,
    text: Option<&str>,
    default: u64,
    least: u64,
    problems: &mut Problems,
) -> Duration {
    let (default, least) = (Duration::from_secs(default), Duration::from_secs(least));
    match text.map(units::duration) {
        None => default,
        Some(Some(value)) if value >= least && value <= LONGEST => value,
        Some(Some(_)) => {
            problems.add(
                variable,
                &format!("must be at least {}s and at most {}h", least.as_secs(), LONGEST.as_secs() / 3600),
            );
            default
        }
        Some(None) => {
            problems.add(variable, "must be a duration like 300, 300s or 5m");
            default
        }
    }
}

/// No duration that is set may be longer; a timer never overflows so.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn size(variable: &str, text: Option<&str>, default: usize, least: usize, problems: &mut Problems) -> usize {
    size_within(variable, text, default, least..=1 << 30, problems)
}

pub(super) fn size_within(
    variable: &str,
    text: Option<&str>,
    default: usize,
    range: RangeInclusive<usize>,
    problems: &mut Problems,
) -> usize {
    match text.map(units::size) {
        None => default,
        Some(Some(value)) if range.contains(&value) => value,
        Some(Some(_)) => {
            let (least, most) = (range.start(), units::spelled(*range.end()));
            problems.add(variable, &format!("must be at least {least} bytes and at most {most}"));
            default
        }
        Some(None) => {
            problems.add(variable, "must be a size like 65536 or 64KiB");
            default
        }
    }
}

/// A duration that may be left out, or be `off`.
pub(super) fn optional_duration(
    variable: &str,
    text: Option<&str>,
    least: u64,
    problems: &mut Problems,
) -> Option<Duration> {
    let text = text.filter(|text| *text != "off")?;
    Some(duration(variable, Some(text), 0, least, problems))
}

/// How many; at least one, and at most a million of millions.
pub(super) fn count(variable: &str, text: Option<&str>, default: usize, problems: &mut Problems) -> usize {
    optional_count(variable, text, problems).unwrap_or(default)
}

/// As [`count`], but may be left out.
pub(super) fn optional_count(variable: &str, text: Option<&str>, problems: &mut Problems) -> Option<usize> {
    let text = text?;
    let count = text.parse().ok().filter(|count| (1..=1_000_000_000_000).contains(count));
    if count.is_none() {
        problems.add(variable, "must be a whole number, at least 1");
    }
    count
}
