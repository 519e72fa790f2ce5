//! Byte ranges: those that a reader asks for, and those that an uploader says it sends.
//!
//! Source: RFC 9110 section 14 for reading; distribution-spec "Pushing a blob in chunks" for sending, whose
//! `Content-Range` is `<start>-<end>`. Invariant: a range that is returned lies within the content.

use std::ops::Range;

/// What a `Range` header means for content of some length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// All of it: no header, another unit, several ranges, or nothing that can be understood (RFC 9110 lets a server
    /// ignore those, and one answer to many ranges serves nobody here).
    Whole,
    /// This part of it.
    Part(Range<u64>),
    /// Nothing of it: 416.
    Unsatisfiable,
}

impl Requested {
    /// Reads the value of a `Range` header for content of `size_bytes`.
    pub fn parse(header: Option<&str>, size_bytes: u64) -> Self {
        let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
            return Self::Whole;
        };
        let Some((first, last)) = spec.split_once('-') else {
            return Self::Whole;
        };
        let (first, last) = (first.trim(), last.trim());
        match (position(first), position(last)) {
            (Some(start), end) if last.is_empty() || end.is_some() => {
                let end = end.map_or(size_bytes, |end| end.saturating_add(1).min(size_bytes));
                if start < end {
                    Self::Part(start..end)
                } else {
                    Self::Unsatisfiable
                }
            }
            (None, Some(suffix)) if first.is_empty() => {
                let start = size_bytes.saturating_sub(suffix);
                if start < size_bytes {
                    Self::Part(start..size_bytes)
                } else {
                    Self::Unsatisfiable
                }
            }
            _ => Self::Whole,
        }
    }
}

/// A decimal number; one too large for us is past every end, so the largest stands for it.
fn position(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The value of a `Content-Range` header on an upload: where the chunk begins and ends (exclusive).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent(pub Range<u64>);

impl Sent {
    /// Reads `<start>-<end>`, both inclusive, nothing else around it.
    pub fn parse(header: &str) -> Result<Self, SentError> {
        let (first, last) = header.split_once('-').ok_or(SentError::Malformed)?;
        let start = position(first).ok_or(SentError::Malformed)?;
        let end = position(last).ok_or(SentError::Malformed)?;
        if start > end || end == u64::MAX {
            return Err(SentError::Reversed);
        }
        Ok(Self(start..end + 1))
    }

    /// How many bytes the chunk has.
    pub fn length_bytes(&self) -> u64 {
        self.0.end - self.0.start
    }
}

/// Why a `Content-Range` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SentError {
    /// Not `<start>-<end>`.
    #[error("Content-Range must be `<start>-<end>`")]
    Malformed,
    /// It ends before it begins.
    #[error("Content-Range ends before it begins")]
    Reversed,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_suite_and_the_specification_agree() {
        let size = 10_000;
        let cases = [
            ("bytes=500-1499", Requested::Part(500..1500)),
            ("bytes=500-", Requested::Part(500..size)),
            ("bytes=-500", Requested::Part(9_500..size)),
            ("bytes=2000-50000", Requested::Part(2_000..size)),
            ("bytes=-99999", Requested::Part(0..size)),
            ("bytes=0-99999999999999999999999", Requested::Part(0..size)),
            ("bytes=500-0", Requested::Unsatisfiable),
            ("bytes=10000-", Requested::Unsatisfiable),
            ("bytes=-0", Requested::Unsatisfiable),
            ("items=0-1", Requested::Whole),
            ("bytes=0-0,5-6", Requested::Whole),
            ("bytes=a-b", Requested::Whole),
            ("bytes=-", Requested::Whole),
            ("abc", Requested::Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(Requested::parse(Some(header), size), expected, "{header}");
        }
        assert_eq!(
            Requested::parse(Some("bytes=0-"), 0),
            Requested::Unsatisfiable
        );
        assert_eq!(Requested::parse(None, 0), Requested::Whole);
    }

    #[test]
    fn a_sent_range_has_one_form() {
        assert_eq!(Sent::parse("0-9"), Ok(Sent(0..10)));
        assert_eq!(Sent::parse("9-0"), Err(SentError::Reversed));
        for bad in [
            "",
            "-",
            "0-",
            "-9",
            "bytes 0-9/20",
            "0-9/20",
            "bytes=0-9",
            "+0-9",
            "0-9 ",
        ] {
            assert_eq!(Sent::parse(bad), Err(SentError::Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_content(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Requested::Part(range) = Requested::parse(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text: String, size: u64) {
            let _ = Requested::parse(Some(&text), size);
            if let Ok(sent) = Sent::parse(&text) {
                prop_assert!(sent.length_bytes() > 0);
            }
        }
    }
}
