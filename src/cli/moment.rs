//! Moments as people write them on the command line, and as they are shown.
//!
//! Invariant: an end that lies in the past is refused when it is set.

use std::str::FromStr;

use anyhow::bail;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Ten years: a longer time means that there is no end.
const SECS_MAX: u64 = 3_660 * 86_400;

/// `--expires`: after so long, or at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    After(u64),
    At(u64),
}

impl FromStr for Expiry {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "written like 90d, 12h or 8w, or as a moment like 2027-01-31T18:00:00Z";
        if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
            return u64::try_from(moment.unix_timestamp())
                .map(Self::At)
                .map_err(|_| SHAPE);
        }
        let unit_start = text.len().saturating_sub(1);
        let (number, unit) = text.split_at_checked(unit_start).ok_or(SHAPE)?;
        let unit_secs = match unit {
            "h" => 3_600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(SHAPE),
        };
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| is_number).ok_or(SHAPE)?;
        match number.checked_mul(unit_secs) {
            Some(0) => Err("must be later than now"),
            Some(secs) if secs <= SECS_MAX => Ok(Self::After(secs)),
            Some(_) | None => Err("longer than ten years: leave it out, and there is no end"),
        }
    }
}

impl Expiry {
    /// The second of the end.
    pub(super) fn unix_secs(self, now_unix_secs: u64) -> anyhow::Result<u64> {
        match self {
            Self::After(secs) => Ok(now_unix_secs.saturating_add(secs)),
            Self::At(moment) if moment > now_unix_secs => Ok(moment),
            Self::At(moment) => bail!(
                "--expires: {} has passed\nhint: name a later moment; `boathouse user remove` deletes the account now, `boathouse user revoke` ends its tokens only",
                shown(moment)
            ),
        }
    }
}

/// As RFC 3339 writes it; the bare seconds where that cannot.
pub(super) fn shown(unix_secs: u64) -> String {
    i64::try_from(unix_secs)
        .ok()
        .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| unix_secs.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_as_people_write_them() {
        for (text, expected) in [
            ("90d", Ok(Expiry::After(90 * 86_400))),
            ("12h", Ok(Expiry::After(43_200))),
            ("8w", Ok(Expiry::After(56 * 86_400))),
            ("1970-01-02T00:00:00Z", Ok(Expiry::At(86_400))),
        ] {
            assert_eq!(text.parse::<Expiry>(), expected, "{text}");
        }
        for text in [
            "",
            "d",
            "0d",
            "90",
            "90 d",
            "-1d",
            "+1d",
            "4000d",
            "1m",
            "1é",
            "99999999999999999999d",
            "2027-01-31",
        ] {
            assert!(text.parse::<Expiry>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_end_in_the_past_is_refused() {
        assert_eq!(Expiry::After(5).unix_secs(100).unwrap(), 105);
        assert_eq!(Expiry::At(101).unix_secs(100).unwrap(), 101);
        let error = Expiry::At(100).unix_secs(100).unwrap_err().to_string();
        assert!(error.contains("1970-01-01T00:01:40Z has passed"), "{error}");
    }
}
