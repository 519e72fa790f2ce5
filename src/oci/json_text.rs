//! JSON text as Go's decoder reads it, where it accepts more than `serde_json`.
//!
//! Clients and the old registry use `encoding/json`. It accepts invalid UTF-8 and unpaired surrogates in strings and reads
//! each as U+FFFD, and it accepts numbers of any size in fields that are not read. Must not know what the text means.
//! Invariants: text that is valid for both is unchanged; the result is only read, and never stored as a manifest.

use std::borrow::Cow;

const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();
const REPLACEMENT_ESCAPE: &[u8] = br"\ufffd";

#[cfg(test)]
thread_local! {
    /// The bytes of JSON that this thread has read, for tests of async threads.
    pub(crate) static READ_HERE_BYTES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// `bytes` with the replacements that Go makes. An exponent becomes zero: no field is a number with an exponent, and
/// `serde_json` refuses exponents that are too large for a float even in fields that are not read.
pub(super) fn as_go_reads(bytes: &[u8]) -> Cow<'_, [u8]> {
    #[cfg(test)]
    READ_HERE_BYTES.with(|read| read.set(read.get() + bytes.len()));
    let mut replaced = Replaced {
        bytes,
        copied: Vec::new(),
        copied_to: 0,
    };
    let mut at = 0;
    let mut is_in_string = false;
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'"' => {
                is_in_string = !is_in_string;
                at + 1
            }
            b'\\' if is_in_string => replaced.escape(at),
            b'e' | b'E' if !is_in_string && follows_digit(bytes, at) => replaced.exponent(at + 1),
            0x80.. => replaced.beyond_ascii(at),
            _ => at + 1,
        };
    }
    replaced.finish()
}

fn follows_digit(bytes: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    before.is_some_and(u8::is_ascii_digit)
}

/// A copy in progress, up to `copied_to`. Nothing is copied before the first replacement.
struct Replaced<'a> {
    bytes: &'a [u8],
    copied: Vec<u8>,
    copied_to: usize,
}

impl<'a> Replaced<'a> {
    /// Replaces `from..to` by `text`; returns the position after it.
    fn replace(&mut self, from: usize, to: usize, text: &[u8]) -> usize {
        self.copied
            .extend_from_slice(self.bytes.get(self.copied_to..from).unwrap_or_default());
        self.copied.extend_from_slice(text);
        self.copied_to = to;
        to
    }

    /// At a backslash inside a string.
    fn escape(&mut self, at: usize) -> usize {
        let Some(unit) = utf16_unit(self.bytes, at) else {
            // `serde_json` decides whether it is an escape.
            return at + 2;
        };
        let end = at + REPLACEMENT_ESCAPE.len();
        match unit {
            0xd800..0xdc00 if matches!(utf16_unit(self.bytes, end), Some(low) if (0xdc00..0xe000).contains(&low)) => {
                end + REPLACEMENT_ESCAPE.len()
            }
            0xd800..0xe000 => self.replace(at, end, REPLACEMENT_ESCAPE),
            _ => end,
        }
    }

    /// After the `e` of a number.
    fn exponent(&mut self, mut at: usize) -> usize {
        if matches!(self.bytes.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        while self.bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at = self.replace(at, at + 1, b"0");
        }
        at
    }

    /// At a byte that is not ASCII: Go replaces each byte that does not begin a character.
    fn beyond_ascii(&mut self, at: usize) -> usize {
        let rest = self.bytes.get(at..).unwrap_or_default();
        let first = rest.get(..rest.len().min(4)).unwrap_or_default();
        let is_char = |length: &usize| {
            let char = first.get(..*length).map(std::str::from_utf8);
            matches!(char, Some(Ok(_)))
        };
        match (2..=4).find(is_char) {
            Some(length) => at + length,
            None => self.replace(at, at + 1, REPLACEMENT),
        }
    }

    fn finish(mut self) -> Cow<'a, [u8]> {
        if self.copied_to == 0 {
            return Cow::Borrowed(self.bytes);
        }
        let end = self.bytes.len();
        self.replace(end, end, b"");
        Cow::Owned(self.copied)
    }
}

/// The UTF-16 code unit of the escape `\uXXXX` at `at`.
fn utf16_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(br"\u")?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> String {
        serde_json::from_slice(&as_go_reads(text)).expect("JSON")
    }

    #[test]
    fn what_go_replaces_is_replaced() {
        let cases: [(&[u8], &str); 10] = [
            (br#""\ud800""#, "\u{fffd}"),
            (br#""\uDFFFx""#, "\u{fffd}x"),
            (br#""\ud800A""#, "\u{fffd}A"),
            (br#""\ud800\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (br#""\ud83d\ude00""#, "\u{1f600}"),
            (br#""\\ud800""#, "\\ud800"),
            (b"\"a\xffb\"", "a\u{fffd}b"),
            // Go replaces byte by byte, also what begins a character that never ends.
            (b"\"\xe2\x82\"", "\u{fffd}\u{fffd}"),
            (b"\"\xed\xa0\x80\"", "\u{fffd}\u{fffd}\u{fffd}"),
            ("\"å\u{1f600}\"".as_bytes(), "å\u{1f600}"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), expected, "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn numbers_that_nobody_reads_may_be_of_any_size() {
        for text in ["1e999", "[-1.5E+4000]", r#"{"e9":1e-999}"#] {
            let read = serde_json::from_slice::<serde_json::Value>(&as_go_reads(text.as_bytes()));
            read.expect(text);
        }
        // What is no number stays none.
        for text in ["1e", "1e+", "e1", "1e1e1"] {
            let read = serde_json::from_slice::<serde_json::Value>(&as_go_reads(text.as_bytes()));
            assert!(read.is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn valid_text_comes_out_as_it_went_in(text: String, number: i64) {
            let value = serde_json::json!([{ &text: text }, number, true, null]);
            let bytes = serde_json::to_vec(&value).expect("JSON");
            prop_assert!(matches!(as_go_reads(&bytes), Cow::Borrowed(same) if same == bytes));
        }

        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            let _ = as_go_reads(&bytes);
        }
    }
}
