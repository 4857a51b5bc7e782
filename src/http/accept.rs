//! What a caller wants to be answered with (RFC 9110 section 12.5.1).

use http::{HeaderMap, header};

/// Returns how much `kind/name` is wanted, from 0 to 1000: the weight of the range in `Accept` that names it most exactly. 0
/// without a header.
pub(super) fn preference(headers: &HeaderMap, kind: &str, name: &str) -> u16 {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let ranges = ranges.flat_map(|line| line.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let (range_kind, range_name) = parts.next()?.split_once('/')?;
        let is_kind = range_kind.eq_ignore_ascii_case(kind);
        let exactness = match (range_kind, range_name) {
            ("*", "*") => 0,
            (_, "*") if is_kind => 1,
            (_, range_name) if is_kind && range_name.eq_ignore_ascii_case(name) => 2,
            _ => return None,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight: f32 = weight.map_or(Some(1.0), |weight| weight.trim().parse().ok())?;
        Some((exactness, (weight.clamp(0.0, 1.0) * 1000.0) as u16))
    });
    ranges.max().map_or(0, |(_, weight)| weight)
}
