//! Durations and sizes as people write them.

use std::time::Duration;

/// `300`, `300s`, `5m`, `1h` or `500ms`; a bare number is seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// `65536`, `64KiB`, `1MiB` or `1GiB`, in bytes.
pub(super) fn size(text: &str) -> Option<usize> {
    let (number, unit) = split(text);
    let number: usize = number.parse().ok()?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A size as it is written in a setting: in the largest unit that divides it.
pub(super) fn spelled(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(factor, _)| bytes >= *factor && bytes.is_multiple_of(*factor)) {
        Some((factor, unit)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes} bytes"),
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_in_every_spelling() {
        for text in ["300", "300s", "5m", "300 s", "300000ms"] {
            assert_eq!(duration(text), Some(Duration::from_secs(300)), "{text}");
        }
        for text in ["65536", "64KiB", "65536B", "64 KiB"] {
            assert_eq!(size(text), Some(65536), "{text}");
        }
        for text in ["", "s", "5 minutes", "-1", "1.5s", "5M", "99999999999999999999"] {
            assert_eq!(duration(text), None, "{text}");
        }
        for bytes in [65_000, 65_536, 1 << 20, 3 << 30] {
            assert_eq!(size(&spelled(bytes).replace(" bytes", "")), Some(bytes));
        }
        assert_eq!(["65000 bytes", "64KiB", "1GiB"].map(str::to_owned), [65_000, 65_536, 1 << 30].map(spelled));
        for text in ["", "64KB", "KiB", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
