//! Byte ranges: those that a reader requests, and those that an uploader announces.
//!
//! Source: RFC 9110 section 14 for reading; distribution-spec "Pushing a blob in chunks" for uploads, whose `Content-Range`
//! is `<start>-<end>`. Invariant: a returned range is within the content.

use std::ops::Range;

/// The maximum of ranges in one request; with more, the whole content is returned. Clients that read an image lazily
/// request some dozens, and each range that remains after merging costs a part and an open file.
pub const RANGES_MAX: usize = 64;

/// One range, while the length of the content is not known (RFC 9110 section 14.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `first-`: from there to the end.
    From(u64),
    /// `first-last`, both included.
    Between {
        /// Position of the first byte.
        first: u64,
        /// Position of the last byte.
        last: u64,
    },
    /// `-count`: this many bytes at the end.
    Last(u64),
}

impl From<Range<u64>> for ByteRange {
    /// The same bytes; the range must not be empty.
    fn from(range: Range<u64>) -> Self {
        Self::Between {
            first: range.start,
            last: range.end.saturating_sub(1),
        }
    }
}

impl ByteRange {
    /// `first-last`, `first-` or `-count`; `None` if it is none of these.
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (first.trim(), last.trim());
        match (position(first), position(last)) {
            (Some(first), None) if last.is_empty() => Some(Self::From(first)),
            (Some(first), Some(last)) => Some(Self::Between { first, last }),
            (None, Some(count)) if first.is_empty() => Some(Self::Last(count)),
            _ => None,
        }
    }

    /// Whether it ends before it begins.
    fn is_reversed(self) -> bool {
        matches!(self, Self::Between { first, last } if first > last)
    }

    /// Which bytes these are in content of `size_bytes`; `None` if it has none of them (416).
    pub fn within(self, size_bytes: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(first) => first..size_bytes,
            Self::Between { first, last } => first..last.saturating_add(1).min(size_bytes),
            Self::Last(count) => size_bytes.saturating_sub(count)..size_bytes,
        };
        (!range.is_empty()).then_some(range)
    }
}

/// What a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requested {
    /// All of it: no header, another unit, more than [`RANGES_MAX`] ranges, or a malformed header (RFC 9110 section 14.2
    /// permits to ignore it).
    Whole,
    /// One range.
    One(ByteRange),
    /// Several ranges; how many parts these are depends on the length.
    Several(Vec<ByteRange>),
}

/// What a request asks for of content of some length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// All of it.
    Whole,
    /// This part of it.
    Part(Range<u64>),
    /// Two or more parts, which neither touch nor overlap, in the order of the request.
    Parts(Vec<Range<u64>>),
    /// No part: 416.
    Unsatisfiable,
}

impl Requested {
    /// Reads the value of a `Range` header.
    pub fn parse(header: Option<&str>) -> Self {
        let ranges = header.and_then(|text| {
            let (unit, ranges) = text.trim().split_once('=')?;
            unit.eq_ignore_ascii_case("bytes").then_some(ranges)
        });
        let Some(ranges) = ranges else {
            return Self::Whole;
        };
        // Empty elements of a list are ignored (RFC 9110 section 5.6.1.2).
        let ranges = ranges.split(',').map(str::trim);
        let ranges = ranges.filter(|text| !text.is_empty()).take(RANGES_MAX + 1);
        let Some(ranges) = ranges.map(ByteRange::parse).collect::<Option<Vec<_>>>() else {
            return Self::Whole;
        };
        match ranges.as_slice() {
            [] => Self::Whole,
            // One that ends before it begins has RFC 9110 ignore the header; the specification's suite wants 416.
            [only] => Self::One(*only),
            several if several.len() > RANGES_MAX => Self::Whole,
            several if several.iter().any(|range| range.is_reversed()) => Self::Whole,
            _ => Self::Several(ranges),
        }
    }

    /// What that is of content of `size_bytes`.
    pub fn within(&self, size_bytes: u64) -> Selected {
        let ranges = match self {
            Self::Whole => return Selected::Whole,
            Self::One(range) => std::slice::from_ref(range),
            Self::Several(ranges) => ranges,
        };
        let parts = ranges.iter().filter_map(|range| range.within(size_bytes));
        let mut parts = merged(parts.collect());
        match parts.pop() {
            None => Selected::Unsatisfiable,
            Some(only) if parts.is_empty() => Selected::Part(only),
            Some(last) => {
                parts.push(last);
                Selected::Parts(parts)
            }
        }
    }
}

/// Merges ranges that touch or overlap. Each merged range has the position of its first part in the request (RFC 9110
/// section 15.3.7.2).
fn merged(parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut placed: Vec<(usize, Range<u64>)> = parts.into_iter().enumerate().collect();
    placed.sort_by_key(|(_, part)| part.start);
    let mut merged: Vec<(usize, Range<u64>)> = Vec::new();
    for (place, part) in placed {
        match merged.last_mut() {
            Some((first_place, before)) if part.start <= before.end => {
                before.end = before.end.max(part.end);
                *first_place = (*first_place).min(place);
            }
            _ => merged.push((place, part)),
        }
    }
    merged.sort_by_key(|(place, _)| *place);
    merged.into_iter().map(|(_, part)| part).collect()
}

/// A decimal number. One that does not fit becomes the largest, which is beyond every end.
fn position(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The value of `Content-Range` on an upload: where the chunk begins and ends (exclusive).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent(pub Range<u64>);

impl Sent {
    /// Parses `<start>-<end>`, both inclusive, as in the specification, and the form of RFC 9110, `bytes
    /// <start>-<end>/<length or *>`, or a part of it. The old registry ignores this header, so clients send various forms;
    /// each of these has only one meaning.
    pub fn parse(header: &str) -> Result<Self, SentError> {
        let header = header.trim();
        let unit = header
            .get(..5)
            .filter(|unit| unit.eq_ignore_ascii_case("bytes"));
        let range = match unit.and_then(|unit| header.get(unit.len()..)) {
            Some(rest) => rest
                .strip_prefix(['=', ' ', '\t'])
                .ok_or(SentError::Malformed)?,
            None => header,
        };
        let (range, length) = match range.split_once('/') {
            Some((range, length)) => (range, Some(length.trim())),
            None => (range, None),
        };
        let (first, last) = range.split_once('-').ok_or(SentError::Malformed)?;
        let start = position(first.trim()).ok_or(SentError::Malformed)?;
        let end = position(last.trim()).ok_or(SentError::Malformed)?;
        if start > end || end == u64::MAX {
            return Err(SentError::Reversed);
        }
        match length {
            None | Some("*") => {}
            Some(length) => {
                let length = position(length).ok_or(SentError::Malformed)?;
                if end >= length {
                    return Err(SentError::BeyondLength);
                }
            }
        }
        Ok(Self(start..end + 1))
    }

    /// The length of the chunk.
    pub fn length_bytes(&self) -> u64 {
        self.0.end - self.0.start
    }
}

/// Why a `Content-Range` is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SentError {
    /// Not a range of bytes.
    #[error("Content-Range must be `<start>-<end>`, or `bytes <start>-<end>/<length>`")]
    Malformed,
    /// It ends before it begins.
    #[error("Content-Range ends before it begins")]
    Reversed,
    /// It ends after the length that it states.
    #[error("Content-Range ends after the length that it gives")]
    BeyondLength,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selected(header: Option<&str>, size_bytes: u64) -> Selected {
        Requested::parse(header).within(size_bytes)
    }

    #[test]
    fn the_suite_and_the_specification_agree() {
        let size = 10_000;
        let cases = [
            ("bytes=500-1499", Selected::Part(500..1500)),
            ("bytes=500-", Selected::Part(500..size)),
            ("bytes=-500", Selected::Part(9_500..size)),
            ("bytes=2000-50000", Selected::Part(2_000..size)),
            ("bytes=-99999", Selected::Part(0..size)),
            ("bytes=0-99999999999999999999999", Selected::Part(0..size)),
            ("bytes=500-0", Selected::Unsatisfiable),
            ("bytes=10000-", Selected::Unsatisfiable),
            ("bytes=-0", Selected::Unsatisfiable),
            ("items=0-1", Selected::Whole),
            ("bytes = 0-1", Selected::Whole),
            ("bytes 0-1", Selected::Whole),
            ("Bytes=0-1", Selected::Part(0..2)),
            ("bytes=a-b", Selected::Whole),
            ("bytes=-", Selected::Whole),
            ("abc", Selected::Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(selected(Some(header), size), expected, "{header}");
        }
        assert_eq!(selected(Some("bytes=0-"), 0), Selected::Unsatisfiable);
        assert_eq!(selected(None, 0), Selected::Whole);
    }

    #[test]
    fn several_ranges_are_merged_where_they_touch() {
        let parts = |parts: &[Range<u64>]| Selected::Parts(parts.to_vec());
        for (header, expected) in [
            ("bytes=0-0,5-6", parts(&[0..1, 5..7])),
            ("bytes= 5-6 ,\t0-0 ", parts(&[5..7, 0..1])),
            ("bytes=0-0,,5-6,", parts(&[0..1, 5..7])),
            ("bytes=0-1,-1", parts(&[0..2, 9..10])),
            ("bytes=0-1,8-", parts(&[0..2, 8..10])),
            ("bytes=0-1,8-99", parts(&[0..2, 8..10])),
            // Touching, overlapping, within each other, the same.
            ("bytes=0-1,2-3", Selected::Part(0..4)),
            ("bytes=2-3,0-1", Selected::Part(0..4)),
            ("bytes=0-5,3-8", Selected::Part(0..9)),
            ("bytes=0-9,3-4", Selected::Part(0..10)),
            ("bytes=1-1,1-1", Selected::Part(1..2)),
            ("bytes=0-,-10", Selected::Part(0..10)),
            ("bytes=8-8,0-0,1-1", parts(&[8..9, 0..2])),
            ("bytes=4-4,0-0,3-3", parts(&[3..5, 0..1])),
            // A gap of one byte is a gap.
            ("bytes=0-0,2-2", parts(&[0..1, 2..3])),
            // Those that cannot be satisfied are left out, if others can.
            ("bytes=0-0,50-60", Selected::Part(0..1)),
            ("bytes=50-60,0-0,5-5,-0", parts(&[0..1, 5..6])),
            ("bytes=50-60,70-", Selected::Unsatisfiable),
            ("bytes=-0,-0", Selected::Unsatisfiable),
            // One that is no range makes the header none.
            ("bytes=0-0,x", Selected::Whole),
            ("bytes=0-0,5", Selected::Whole),
            ("bytes=0-0,6-5", Selected::Whole),
            ("bytes=0-0,-", Selected::Whole),
            ("bytes=0-0;5-6", Selected::Whole),
            ("bytes=0-0,bytes=5-6", Selected::Whole),
            ("bytes=,", Selected::Whole),
        ] {
            assert_eq!(selected(Some(header), 10), expected, "{header}");
        }
        let many = |count: usize| {
            let ranges: Vec<String> = (0..count).map(|at| format!("{0}-{0}", at * 2)).collect();
            selected(Some(&format!("bytes={}", ranges.join(","))), 1_000)
        };
        assert!(matches!(many(RANGES_MAX), Selected::Parts(parts) if parts.len() == RANGES_MAX));
        assert_eq!(many(RANGES_MAX + 1), Selected::Whole);
        assert_eq!(selected(Some("bytes=0-0,1-1"), 0), Selected::Unsatisfiable);
    }

    #[test]
    fn a_sent_range_is_read_where_its_meaning_is_clear() {
        for clear in [
            "0-9",
            "bytes 0-9/10",
            "bytes 0-9/*",
            "bytes 0-9/4294967296",
            "bytes 0-9",
            "bytes=0-9",
            "Bytes=0-9/10",
            "bytes  0-9/10",
            "bytes\t0-9/*",
            "0-9/10",
            "0-9/*",
            " 0-9 ",
            "bytes 0 - 9 / 10",
            "00-09",
        ] {
            assert_eq!(Sent::parse(clear), Ok(Sent(0..10)), "{clear}");
        }
        for reversed in ["9-0", "bytes 9-0/10", "1-0", "0-18446744073709551615"] {
            assert_eq!(
                Sent::parse(reversed),
                Err(SentError::Reversed),
                "{reversed}"
            );
        }
        for beyond in ["bytes 0-9/9", "0-9/0", "bytes 5-10/10"] {
            assert_eq!(
                Sent::parse(beyond),
                Err(SentError::BeyondLength),
                "{beyond}"
            );
        }
        for bad in [
            "",
            "-",
            "0-",
            "-9",
            "+0-9",
            "0--1",
            "0-9-10",
            "0-9,10-19",
            "bytes",
            "bytes */10",
            "bytes */*",
            "bytes0-9",
            "bytes 0-9/",
            "bytes 0-9/x",
            "bytes 0-9/10/10",
            "items 0-9/10",
            "0x0-9",
            "0 9",
        ] {
            assert_eq!(Sent::parse(bad), Err(SentError::Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_content(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Selected::Part(range) = selected(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn merging_keeps_every_byte_and_no_other(
            asked in proptest::collection::vec((0_u64..40, 0_u64..40), 1..12), size in 0_u64..40,
        ) {
            let texts: Vec<String> = asked
                .iter()
                .map(|(first, length)| format!("{first}-{}", first + length))
                .collect();
            let parts = match selected(Some(&format!("bytes={}", texts.join(", "))), size) {
                Selected::Parts(parts) => parts,
                Selected::Part(part) => vec![part],
                Selected::Unsatisfiable => Vec::new(),
                Selected::Whole => panic!("ignored"),
            };
            let is_asked = |byte: u64| {
                asked.iter().any(|(first, length)| (*first..=first + length).contains(&byte))
            };
            for byte in 0..size {
                let times = parts.iter().filter(|part| part.contains(&byte)).count();
                prop_assert_eq!(times, usize::from(is_asked(byte)));
            }
            for part in &parts {
                prop_assert!(part.start < part.end && part.end <= size);
                prop_assert!(!parts.iter().any(|other| other.start == part.end));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text: String, size: u64) {
            let _ = selected(Some(&text), size);
            if let Ok(sent) = Sent::parse(&text) {
                prop_assert!(sent.length_bytes() > 0);
            }
        }
    }
}
