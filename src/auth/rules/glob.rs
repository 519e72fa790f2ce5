//! Shell patterns with exactly the semantics of Go's `path.Match`, which is what `docker_auth`'s rules were written for.
//!
//! Must not know rules or placeholders. Invariant: matching is anchored at both ends, `*` and `?` never take a `/`, a
//! class may, and a malformed pattern matches nothing.

/// A pattern, read once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    /// `None` when malformed.
    chunks: Option<Vec<Chunk>>,
}

/// The text between two stars.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Chunk {
    after_star: bool,
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Byte(u8),
    Any,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Reads a pattern; a malformed one is kept as one that matches nothing.
    pub(super) fn new(text: &str) -> Self {
        Self {
            chunks: read(text.chars().peekable()),
        }
    }

    /// Whether this can never match, because it is malformed.
    pub(super) fn is_malformed(&self) -> bool {
        self.chunks.is_none()
    }

    /// Whether the whole of `text` is of this form.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some(chunks) = &self.chunks else {
            return false;
        };
        let mut rest = text.as_bytes();
        let mut chunks = chunks.iter().peekable();
        while let Some(chunk) = chunks.next() {
            let is_last = chunks.peek().is_none();
            if chunk.after_star && chunk.items.is_empty() {
                return !rest.contains(&b'/');
            }
            // The first place that fits is final, also where a later one would let the rest match: so does Go.
            match chunk.place(rest, is_last) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

impl Chunk {
    /// What follows this chunk in `text`, at the first place where it fits.
    fn place<'a>(&self, text: &'a [u8], is_last: bool) -> Option<&'a [u8]> {
        let mut start = text;
        loop {
            let after = self.strip(start);
            if let Some(after) = after.filter(|after| after.is_empty() || !is_last) {
                return Some(after);
            }
            match start.split_first() {
                Some((&skipped, next)) if self.after_star && skipped != b'/' => start = next,
                _ => return None,
            }
        }
    }

    /// What is left of `text` when it starts with this chunk.
    fn strip<'a>(&self, mut text: &'a [u8]) -> Option<&'a [u8]> {
        for item in &self.items {
            let (&first, behind_first) = text.split_first()?;
            text = match item {
                Item::Byte(byte) => (first == *byte).then_some(behind_first)?,
                Item::Any => (first != b'/').then(|| first_character(text).1)?,
                Item::Class { negated, ranges } => {
                    let (character, behind) = first_character(text);
                    let is_in = ranges
                        .iter()
                        .any(|&(low, high)| (low..=high).contains(&character));
                    (is_in != *negated).then_some(behind)?
                }
            };
        }
        Some(text)
    }
}

/// The first character and what follows; a byte that starts none (a star may stop inside a character) counts as U+FFFD.
fn first_character(text: &[u8]) -> (char, &[u8]) {
    (1..=4)
        .filter_map(|length| text.split_at_checked(length))
        .find_map(|(head, behind)| Some((str::from_utf8(head).ok()?.chars().next()?, behind)))
        .unwrap_or((
            char::REPLACEMENT_CHARACTER,
            text.get(1..).unwrap_or_default(),
        ))
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn read(mut text: Characters<'_>) -> Option<Vec<Chunk>> {
    let mut chunks = Vec::new();
    let mut chunk = Chunk::default();
    while let Some(character) = text.next() {
        match character {
            '*' => {
                if !chunk.items.is_empty() {
                    chunks.push(std::mem::take(&mut chunk));
                }
                chunk.after_star = true;
            }
            '?' => chunk.items.push(Item::Any),
            '[' => chunk.items.push(read_class(&mut text)?),
            '\\' => chunk.push_character(text.next()?),
            _ => chunk.push_character(character),
        }
    }
    if chunk.after_star || !chunk.items.is_empty() {
        chunks.push(chunk);
    }
    Some(chunks)
}

impl Chunk {
    fn push_character(&mut self, character: char) {
        let mut buffer = [0; 4];
        let bytes = character.encode_utf8(&mut buffer).bytes();
        self.items.extend(bytes.map(Item::Byte));
    }
}

fn read_class(text: &mut Characters<'_>) -> Option<Item> {
    let negated = text.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && text.next_if_eq(&']').is_some() {
            return Some(Item::Class { negated, ranges });
        }
        let low = read_class_character(text)?;
        let high = if text.next_if_eq(&'-').is_some() {
            read_class_character(text)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn read_class_character(text: &mut Characters<'_>) -> Option<char> {
    match text.next()? {
        '-' | ']' => None,
        '\\' => text.next(),
        character => Some(character),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decides_as_path_match_does() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*", "a/b", false),
            ("**", "a/b", false),
            ("*c", "abc", true),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("team/*", "team/", true),
            ("team/*", "team/a/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("ab[c]", "abc", true),
            ("ab[^b-d]", "abe", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("a?b", "a/b", false),
            ("a[/]c", "a/c", true),
            ("a[^b]c", "a/c", true),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("*x", "xxx", true),
            ("*[/a]*b", "a/b", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_malformed_pattern_matches_nothing() {
        for pattern in [
            "[", "[a", "[]a]", "[-]", "[x-]", "[-x]", "[^]", "a[", "\\", "*[", "[a-",
        ] {
            let glob = Glob::new(pattern);
            assert!(glob.is_malformed(), "{pattern}");
            for text in ["", "a", pattern] {
                assert!(!glob.matches(text), "{pattern} {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn an_escaped_text_matches_itself_only(text in "[a-c*?\\[\\]/^ä-]{0,8}", other in "[a-c*?/ä]{0,8}") {
            let pattern: String = text.chars().flat_map(|character| ['\\', character]).collect();
            prop_assert!(Glob::new(&pattern).matches(&text));
            prop_assert_eq!(Glob::new(&pattern).matches(&other), text == other);
        }

        #[test]
        fn no_pattern_panics(pattern: String, text: String) {
            Glob::new(&pattern).matches(&text);
        }
    }
}
