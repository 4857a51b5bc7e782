//! One spelling for every number, without ever rounding it.

/// Digits up to which a number is written plainly; beyond that with an exponent.
const PLAIN_DIGITS: i64 = 40;

/// `literal` (a JSON number) in a form that two literals share exactly when their values are equal.
///
/// Exact for any number of digits. An exponent that does not fit 64 bits keeps the literal as it is, so it equals only
/// itself: never a neighbour.
pub(super) fn by_value(literal: &str) -> String {
    exact(literal).unwrap_or_else(|| literal.to_owned())
}

/// As [`by_value`], but a float never equals an integer: `1.0` and `1e0` are one room, `1` is another.
pub(super) fn by_type(literal: &str) -> String {
    let mut text = by_value(literal);
    // Internal spelling only: after an exponent `.0` is no JSON, which keeps it apart from every integer.
    if is_float(literal) && !text.contains('.') {
        text.push_str(".0");
    }
    text
}

/// Whether `literal` is spelled as a float.
pub(super) fn is_float(literal: &str) -> bool {
    literal.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
}

/// Whether `literal` is its own canonical form in either sense: a short, plain, non-negative integer.
pub(super) fn is_plain(literal: &str) -> bool {
    literal.len() <= PLAIN_DIGITS as usize && literal.bytes().all(|byte| byte.is_ascii_digit())
}

fn exact(literal: &str) -> Option<String> {
    let (negative, rest) = match literal.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], rest[at + 1..].parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: String = [whole, fraction].concat();
    let digits = all.trim_start_matches('0').trim_end_matches('0');
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let trailing = all.len() - all.trim_end_matches('0').len();
    let exponent =
        exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(i64::try_from(trailing).ok()?)?;
    let sign = if negative { "-" } else { "" };
    let count = i64::try_from(digits.len()).ok()?;
    Some(if exponent >= 0 && count.checked_add(exponent)? <= PLAIN_DIGITS {
        format!("{sign}{digits}{}", "0".repeat(usize::try_from(exponent).ok()?))
    } else if (-PLAIN_DIGITS..0).contains(&exponent) && count <= PLAIN_DIGITS {
        let point = usize::try_from(-exponent).ok()?;
        let padded = format!("{digits:0>width$}", width = point + 1);
        let (whole, fraction) = padded.split_at(padded.len() - point);
        format!("{sign}{whole}.{fraction}")
    } else {
        format!("{sign}{digits}e{exponent}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_one_spelling() {
        for (one, other) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("0", "-0.0"),
            ("0.1", "0.10"),
            ("100", "1e2"),
            ("1.5", "15E-1"),
            ("-0.001", "-1e-3"),
            ("1e400", "10e399"),
        ] {
            assert_eq!(by_value(one), by_value(other), "{one} and {other}");
        }
    }

    #[test]
    fn large_integers_are_never_rounded_together() {
        assert_ne!(by_value("9007199254740993"), by_value("9007199254740992"));
        let long = "9".repeat(5000);
        assert_ne!(by_value(&long), by_value(&format!("{}8", &long[1..])));
    }

    #[test]
    fn spelled_types_are_kept_apart_where_asked() {
        assert_ne!(by_type("1"), by_type("1.0"));
        assert_eq!(by_type("1.0"), by_type("1e0"));
        let integer = format!("1{}", "0".repeat(60));
        assert_ne!(by_type(&integer), by_type("1e60"));
        assert_eq!(by_value(&integer), by_value("1e60"));
    }

    #[test]
    fn an_exponent_beyond_reach_equals_only_itself() {
        let far = "1e99999999999999999999";
        assert_eq!(by_value(far), far);
        assert_eq!(by_value("1e9223372036854775807"), "1e9223372036854775807");
        assert_eq!(by_value("0.1e-9223372036854775808"), "0.1e-9223372036854775808");
    }
}
