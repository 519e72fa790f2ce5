//! Durations as Go writes them: `30s`, `1m30s`, `1.5h`, `0`.
//!
//! Must not know any key. Invariants: a part of a second counts as a whole one, so that a duration is never shortened to none; a
//! number without a unit is refused: to Go it counts nanoseconds, which is not what `60` is meant to say.

const UNITS: [(&str, f64); 8] = [
    // Longest first, so that `ms` is not read as minutes.
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("h", 3600.0),
    ("m", 60.0),
    ("s", 1.0),
];
/// A year: no duration here is longer.
const SECS_MAX: f64 = 366.0 * 86_400.0;

/// Whole seconds, rounded up; `None` for what is not a duration, or too long.
pub(super) fn whole_secs(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut secs = 0.0;
    while !rest.is_empty() {
        let number_length = rest
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .filter(|length| *length > 0)?;
        let (number, after) = rest.split_at(number_length);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        secs += number.parse::<f64>().ok()? * factor;
        rest = after.get(unit.len()..)?;
    }
    if text.is_empty() || secs > SECS_MAX {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and SECS_MAX: the parts have no sign"
    )]
    Some(secs.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::whole_secs;

    #[test]
    fn durations() {
        for (text, secs) in [
            ("30s", Some(30)),
            ("1m30s", Some(90)),
            ("1.5h", Some(5400)),
            ("100ms", Some(1)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("60000000000", None),
            ("60", None),
            ("", None),
            ("s", None),
            ("1", None),
            ("1x", None),
            ("-5s", None),
            ("9999999h", None),
        ] {
            assert_eq!(whole_secs(text), secs, "{text}");
        }
    }
}
