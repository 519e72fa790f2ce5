//! Log lines without dangerous characters: no text can end a line early, or be displayed as other text than it is.
//!
//! Must not know what is logged. Invariant: a line that leaves [`Guarded`] is UTF-8 without control characters and without
//! characters that change the direction or the visibility of text. In JSON they are escaped, so that a JSON reader gets the
//! original text. [`Field`] makes text from a client one value of limited length.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

/// The maximum of bytes of one text from a client in one line. The longest valid path of the API has 401 bytes: a name of
/// 255 and a sha512 digest. User agents of docker have up to 250.
pub const FIELD_BYTES_MAX: usize = 512;

/// Whether the logs of this process are JSON, where values need no quotes of their own.
static IS_JSON: AtomicBool = AtomicBool::new(false);

pub(super) fn set_json(is_json: bool) {
    IS_JSON.store(is_json, Ordering::Relaxed);
}

/// Text from a client, made safe for a log line: cut at [`FIELD_BYTES_MAX`]; in a text log quoted and escaped unless it is
/// one plain word.
pub struct Field<'a> {
    text: &'a str,
    is_json: bool,
}

/// Makes text from a client safe for a log line.
pub fn field(text: &str) -> Field<'_> {
    Field {
        text,
        is_json: IS_JSON.load(Ordering::Relaxed),
    }
}

/// An error and its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = cut(self.text);
        let mark = if cut.len() < self.text.len() {
            "…"
        } else {
            ""
        };
        if self.is_json || is_plain(cut) {
            write!(formatter, "{cut}{mark}")
        } else {
            write!(formatter, "{cut:?}{mark}")
        }
    }
}

/// The first bytes of a text, cut between characters.
fn cut(text: &str) -> &str {
    let mut end = FIELD_BYTES_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Whether a text is read as one value of one field, and displayed as it is.
fn is_plain(text: &str) -> bool {
    let is_plain = |character: char| {
        !character.is_whitespace()
            && !matches!(character, '"' | '\'' | '\\' | '=')
            && !is_dangerous(character)
    };
    text.chars().all(is_plain)
}

/// Control characters (C0, DEL, C1), line ends of Unicode, and characters that change the direction or are invisible.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Writes whole log lines without dangerous characters.
#[derive(Debug, Clone)]
pub(super) struct Guarded<W> {
    inner: W,
    format: Format,
    /// Whether each line begins with its priority, as the journal reads it (sd-daemon(3)).
    is_for_journal: bool,
    /// The level of the event that is written.
    level: Level,
}

/// The format of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Text,
    /// Text with colours, which are sequences of control characters.
    ColouredText,
}

impl<W> Guarded<W> {
    pub(super) fn new(inner: W, format: Format, is_for_journal: bool) -> Self {
        Self {
            inner,
            format,
            is_for_journal,
            level: Level::INFO,
        }
    }

    /// What a line begins with.
    fn line_start(&self) -> &'static str {
        if !self.is_for_journal {
            return "";
        }
        match self.level {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        }
    }
}

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for Guarded<M> {
    type Writer = Guarded<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Guarded::new(self.inner.make_writer(), self.format, self.is_for_journal)
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        Guarded {
            inner: self.inner.make_writer_for(meta),
            format: self.format,
            is_for_journal: self.is_for_journal,
            level: *meta.level(),
        }
    }
}

impl<W: Write> Write for Guarded<W> {
    /// The formatter writes one whole event at a time.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let event = text.strip_suffix('\n').unwrap_or(&text);
        let start = self.line_start();
        if !start.is_empty() || event.chars().any(is_dangerous) {
            let mut guarded = guarded(event, self.format);
            if !start.is_empty() {
                // The journal takes each line for a message of its own.
                guarded = guarded.replace('\n', &format!("\n{start}"));
                guarded.insert_str(0, start);
            }
            guarded.push('\n');
            self.inner.write_all(guarded.as_bytes())?;
        } else {
            self.inner.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// An event without its line end, with all dangerous characters escaped.
fn guarded(event: &str, format: Format) -> String {
    use fmt::Write as _;
    let mut guarded = String::with_capacity(event.len() + 16);
    let mut rest = event;
    while let Some(character) = rest.chars().next() {
        let (first, behind) = rest.split_at(character.len_utf8());
        rest = behind;
        if !is_dangerous(character) {
            guarded.push_str(first);
        } else if format == Format::Json {
            // Such a character can only be inside a JSON string.
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(guarded, "\\u{unit:04x}");
            }
        } else if character == '\n' {
            // Our own messages have hints on lines of their own. Only the first line of an event begins at the margin.
            guarded.push_str("\n    ");
        } else if format == Format::ColouredText && colour_length(behind).is_some() {
            let length = colour_length(behind).unwrap_or(0);
            let (colour, behind) = behind.split_at(length);
            guarded.push_str(first);
            guarded.push_str(colour);
            rest = behind;
        } else {
            guarded.extend(character.escape_default());
        }
    }
    guarded
}

/// The length of `[…m` after an escape character: a colour or a weight, which does not move the cursor.
fn colour_length(behind: &str) -> Option<usize> {
    let numbers = behind.strip_prefix('[')?;
    let end = numbers.find(|character: char| !character.is_ascii_digit() && character != ';')?;
    numbers.get(end..)?.starts_with('m').then_some(end + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str, is_json: bool) -> String {
        Field { text, is_json }.to_string()
    }

    #[test]
    fn a_plain_word_stands_as_it_is_and_anything_else_in_quotes() {
        for plain in [
            "",
            "/v2/team/app/manifests/v1",
            "ann",
            "jörg",
            "curl/8.1",
            "漢字",
        ] {
            assert_eq!(shown(plain, false), plain);
        }
        for (text, expected) in [
            ("a b", r#""a b""#),
            ("a status=200", r#""a status=200""#),
            ("a\"b", r#""a\"b""#),
            ("a\\b", r#""a\\b""#),
            ("a\nb\r\t", r#""a\nb\r\t""#),
            ("\u{1b}[2J", r#""\u{1b}[2J""#),
            ("\u{9b}2J", r#""\u{9b}2J""#),
            ("\u{7f}", r#""\u{7f}""#),
            ("a\u{202e}b", r#""a\u{202e}b""#),
            ("a\u{2066}b", r#""a\u{2066}b""#),
            ("a\u{2028}b", r#""a\u{2028}b""#),
            ("a\u{200b}b", r#""a\u{200b}b""#),
        ] {
            assert_eq!(shown(text, false), expected);
            assert_eq!(shown(text, true), text);
        }
        let long = "é".repeat(FIELD_BYTES_MAX);
        let cut = shown(&long, true);
        assert_eq!(
            cut.chars().filter(|&found| found == 'é').count(),
            FIELD_BYTES_MAX / 2
        );
        assert!(cut.ends_with('…'));
        let longest = "a".repeat(FIELD_BYTES_MAX);
        assert_eq!(shown(&longest, false), longest);
    }

    fn written(text: &str, format: Format) -> String {
        let mut guarded = Guarded::new(Vec::new(), format, false);
        guarded.write_all(text.as_bytes()).unwrap();
        String::from_utf8(guarded.inner).unwrap()
    }

    #[test]
    fn the_journal_is_given_the_priority_of_each_line() {
        let written = |level, text: &str| {
            let mut guarded = Guarded {
                level,
                ..Guarded::new(Vec::new(), Format::Text, true)
            };
            guarded.write_all(text.as_bytes()).unwrap();
            String::from_utf8(guarded.inner).unwrap()
        };
        assert_eq!(written(Level::ERROR, "a\n"), "<3>a\n");
        let hint = "a\nhint: b\n";
        assert_eq!(written(Level::WARN, hint), "<4>a\n<4>    hint: b\n");
        assert_eq!(written(Level::INFO, "a\n"), "<6>a\n");
        assert_eq!(written(Level::TRACE, "<3>a\n"), "<7><3>a\n");
    }

    #[test]
    fn whatever_is_logged_a_line_breaks_nothing() {
        let text = "a\u{1b}[31mb\u{1b}]0;x\u{7}c\u{9b}2Jd\u{202e}e\rf\ng\n";
        let escaped = "a\\u{1b}[31mb\\u{1b}]0;x\\u{7}c\\u{9b}2Jd\\u{202e}e\\rf\n    g\n";
        assert_eq!(written(text, Format::Text), escaped);
        let coloured = escaped.replacen("\\u{1b}[31m", "\u{1b}[31m", 1);
        assert_eq!(written(text, Format::ColouredText), coloured);
        let value = "a\u{1b}\u{7f}\u{9b}\u{202e}\u{e0041}\"\\\n";
        let json = serde_json::to_string(value).unwrap();
        let line = written(&format!("{json}\n"), Format::Json);
        assert!(line.trim_end().is_ascii(), "{line}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), value);
        for format in [Format::Json, Format::Text] {
            assert_eq!(written("é \"x\"\n", format), "é \"x\"\n");
        }
    }

    proptest! {
        #[test]
        fn no_line_holds_what_is_dangerous(text: String) {
            let shown = shown(&text, false);
            prop_assert!(!shown.chars().any(char::is_control));
            let line = written(&format!("{text}\n"), Format::Text);
            prop_assert!(line.trim_end_matches('\n').chars().all(|character| character == '\n' || !is_dangerous(character)));
            let json = written(&format!("{}\n", serde_json::to_string(&text).unwrap()), Format::Json);
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
