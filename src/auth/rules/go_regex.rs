//! Regular expressions as Go reads them (RE2 syntax), written for the `regex` crate.
//!
//! Must not know rules or placeholders. Invariant: what Go refuses is refused; what comes out means what it means to Go:
//! `\w \d \s \b` are ASCII, a `{` that counts nothing and a `[` inside a class are letters, stacked repeats are errors.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// Go refuses a larger repeat count, also as the product of repeats inside each other.
const REPEAT_MAX: u32 = 1_000;

/// The names in `[[:alpha:]]`; the `regex` crate takes an unknown one for letters.
const NAMED_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// The names in `\p{Greek}`: what Go's package `unicode` has of categories, their long names, and scripts (Unicode 15). The
/// `regex` crate also takes properties (`Alphabetic`) and short names of scripts (`Grek`), which Go refuses.
const UNICODE_CLASSES: &str = "\
    Any Assigned ASCII C Cc Cf Cn Co Cs L LC Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm \
    So Z Zl Zp Zs Cased_Letter Close_Punctuation Combining_Mark Connector_Punctuation Control Currency_Symbol \
    Dash_Punctuation Decimal_Number Enclosing_Mark Final_Punctuation Format Initial_Punctuation Letter Letter_Number \
    Line_Separator Lowercase_Letter Mark Math_Symbol Modifier_Letter Modifier_Symbol Nonspacing_Mark Number \
    Open_Punctuation Other Other_Letter Other_Number Other_Punctuation Other_Symbol Paragraph_Separator Private_Use \
    Punctuation Separator Space_Separator Spacing_Mark Surrogate Symbol Titlecase_Letter Unassigned Uppercase_Letter \
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki \
    Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee \
    Chorasmian Common Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan \
    Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi \
    Gurmukhi Han Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited \
    Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi \
    Khitan_Small_Script Khmer Khojki Khudawadi Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani \
    Makasar Malayalam Mandaic Manichaean Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui \
    Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari \
    New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian \
    Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong \
    Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian \
    Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le \
    Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai \
    Vithkuqi Wancho Warang_Citi Yezidi Yi Zanabazar_Square";

/// Where the private-use planes begin, whose characters may be replaced after translation.
const PRIVATE_USE_FIRST: char = '\u{F0000}';

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// Go's own objections.
    #[error("not a regular expression: {0}")]
    Syntax(&'static str),
    /// The `regex` crate's objections, or an expression too large once compiled.
    #[error("not a regular expression: {0}")]
    Engine(String),
}

/// The same expression in the syntax of the `regex` crate.
pub(super) fn translate(text: &str) -> Result<String, RegexError> {
    let mut translator = Translator {
        text: text.chars().peekable(),
        output: String::with_capacity(text.len()),
        groups: vec![Repeats::default()],
    };
    translator.run()?;
    Ok(translator.output)
}

/// Compiles an expression as Go reads it.
pub fn go_regex(text: &str) -> Result<regex::bytes::Regex, RegexError> {
    compile(&translate(text)?)
}

/// Compiles what [`translate`] wrote; the size limits are the crate's defaults (10 MB).
pub(super) fn compile(translated: &str) -> Result<regex::bytes::Regex, RegexError> {
    regex::bytes::Regex::new(translated).map_err(|error| RegexError::Engine(error.to_string()))
}

/// Whether the engine takes the syntax of what [`translate`] wrote: a hundredth of the work of [`compile`].
pub(super) fn check(translated: &str) -> Result<(), RegexError> {
    let mut parser = regex_syntax::ParserBuilder::new().utf8(false).build();
    let parsed = parser.parse(translated);
    parsed
        .map(drop)
        .map_err(|error| RegexError::Engine(error.to_string()))
}

struct Translator<'a> {
    text: Peekable<Chars<'a>>,
    output: String,
    /// The open groups, the whole expression first.
    groups: Vec<Repeats>,
}

/// How often a part of a group may be repeated: the largest product of the counts inside each other.
#[derive(Default)]
struct Repeats {
    /// Of all items but the last.
    before: u32,
    /// Of the last item, to which a count would apply.
    last: u32,
}

impl Repeats {
    fn item(&mut self, repeats: u32) {
        self.before = self.before.max(self.last);
        self.last = repeats;
    }
}

impl Translator<'_> {
    fn run(&mut self) -> Result<(), RegexError> {
        let mut after_repeat = false;
        while let Some(character) = self.text.next() {
            let is_repeat = match character {
                '*' | '+' | '?' => {
                    self.output.push(character);
                    true
                }
                '{' => self.repeat_count()?,
                '\\' => {
                    self.escape()?;
                    false
                }
                '[' => {
                    self.class()?;
                    self.item(1);
                    false
                }
                '(' => {
                    self.group()?;
                    false
                }
                ')' => {
                    self.output.push(character);
                    // Too many of them are an error of the engine.
                    let group = self.groups.pop().unwrap_or_default();
                    self.item(group.before.max(group.last));
                    false
                }
                '|' | '^' | '$' | '.' => {
                    self.output.push(character);
                    self.item(1);
                    false
                }
                _ => {
                    self.literal(character);
                    false
                }
            };
            if is_repeat {
                if after_repeat {
                    return Err(RegexError::Syntax("a repeat of a repeat"));
                }
                if self.text.next_if_eq(&'?').is_some() {
                    self.output.push('?');
                }
            }
            after_repeat = is_repeat;
        }
        Ok(())
    }

    /// Something that a repeat behind it would apply to, with the counts inside it.
    fn item(&mut self, repeats: u32) {
        if let Some(group) = self.groups.last_mut() {
            group.item(repeats);
        }
    }

    fn literal(&mut self, character: char) {
        self.write_literal(character);
        self.item(1);
    }

    fn write_literal(&mut self, character: char) {
        let mut buffer = [0; 4];
        self.output
            .push_str(&regex::escape(character.encode_utf8(&mut buffer)));
    }

    /// `{2}`, `{2,}`, `{2,3}`; anything else behind a `{` makes it a letter.
    fn repeat_count(&mut self) -> Result<bool, RegexError> {
        let inside: String = self.text.clone().take_while(|&next| next != '}').collect();
        let is_closed = self.text.clone().any(|next| next == '}');
        let (low, high) = match inside.split_once(',') {
            None => (inside.as_str(), Some(inside.as_str())),
            Some((low, "")) => (low, None),
            Some((low, high)) => (low, Some(high)),
        };
        // Go takes a count with a leading zero for letters.
        let is_count = |digits: &str| {
            digits.bytes().all(|byte| byte.is_ascii_digit())
                && !digits.is_empty()
                && (digits.len() == 1 || !digits.starts_with('0'))
        };
        if !is_closed || !is_count(low) || !high.is_none_or(is_count) {
            self.literal('{');
            return Ok(false);
        }
        let count = |digits: &str| digits.parse::<u32>().ok().filter(|&n| n <= REPEAT_MAX);
        let too_large = RegexError::Syntax("a repeat count above 1000");
        let least = count(low).ok_or_else(|| too_large.clone())?;
        let most = match high {
            Some(high) => count(high).ok_or_else(|| too_large.clone())?,
            None => least,
        };
        if most < least {
            return Err(RegexError::Syntax(
                "a repeat count that ends before it starts",
            ));
        }
        if let Some(group) = self.groups.last_mut() {
            // What is repeated 0 times has no counts inside; `{0,}` is a star.
            group.last = match (most, high) {
                (0, Some(_)) => 1,
                (most, _) => group.last.saturating_mul(most.max(1)),
            };
            if group.last > REPEAT_MAX {
                return Err(too_large);
            }
        }
        let _ = write!(self.output, "{{{inside}}}");
        self.text.nth(inside.chars().count());
        Ok(true)
    }

    /// What follows a `(`: a capture, `?P<name>`, `?<name>`, or flags among `imsU`.
    fn group(&mut self) -> Result<(), RegexError> {
        if self.text.next_if_eq(&'?').is_none() {
            self.open_group("(");
            return Ok(());
        }
        if self.text.next_if_eq(&'P').is_some() && self.text.peek() != Some(&'<') {
            return Err(RegexError::Syntax("(?P without a name"));
        }
        if self.text.next_if_eq(&'<').is_some() {
            let name: String = self.text.by_ref().take_while(|&next| next != '>').collect();
            let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
            if name.is_empty() || !name.chars().all(is_word) {
                return Err(RegexError::Syntax("a group name that is not a word"));
            }
            // Nothing here uses names, and the crate refuses some that Go takes: one that is used twice, or starts with a digit.
            self.open_group("(");
            return Ok(());
        }
        let mut flags = String::new();
        for flag in self.text.by_ref() {
            match flag {
                'i' | 'm' | 's' | 'U' | '-' => flags.push(flag),
                ':' => {
                    self.open_group(&format!("(?{flags}:"));
                    return Ok(());
                }
                // Flags for what follows, or none: no item, and no group that is open.
                ')' if flags.is_empty() => return Ok(()),
                ')' => {
                    let _ = write!(self.output, "(?{flags})");
                    return Ok(());
                }
                _ => break,
            }
        }
        Err(RegexError::Syntax("an unknown group flag"))
    }

    fn open_group(&mut self, written: &str) {
        self.output.push_str(written);
        self.groups.push(Repeats::default());
    }

    /// What follows a `\` outside a class.
    fn escape(&mut self) -> Result<(), RegexError> {
        match self.text.peek().copied() {
            Some(kind @ ('b' | 'B')) => {
                self.text.next();
                let _ = write!(self.output, r"(?-u:\{kind})");
                self.item(1);
            }
            Some(kind @ ('A' | 'z')) => {
                self.text.next();
                let _ = write!(self.output, r"\{kind}");
                self.item(1);
            }
            Some('Q') => {
                self.text.next();
                self.quoted();
            }
            _ => {
                if self.perl_class()? {
                    self.item(1);
                } else {
                    let character = self.escaped_character()?;
                    self.literal(character);
                }
            }
        }
        Ok(())
    }

    /// `\Q…\E`, or to the end.
    fn quoted(&mut self) {
        while let Some(character) = self.text.next() {
            if character == '\\' && self.text.next_if_eq(&'E').is_some() {
                return;
            }
            self.literal(character);
        }
    }

    /// `\d \w \s`, their opposites, and `\p{…}`, in or outside a class.
    fn perl_class(&mut self) -> Result<bool, RegexError> {
        let ascii = match self.text.peek().copied() {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some('s') => r"[\t\n\f\r\x20]",
            Some('S') => r"[^\t\n\f\r\x20]",
            Some(kind @ ('p' | 'P')) => {
                self.text.next();
                return self.unicode_class(kind == 'P').map(|()| true);
            }
            _ => return Ok(false),
        };
        self.text.next();
        self.output.push_str(ascii);
        Ok(true)
    }

    fn unicode_class(&mut self, mut negated: bool) -> Result<(), RegexError> {
        let missing = RegexError::Syntax(r"\p without a class");
        let name: String = match self.text.next() {
            Some('{') => {
                negated ^= self.text.next_if_eq(&'^').is_some();
                self.until_brace().ok_or_else(|| missing.clone())?
            }
            Some(letter) => letter.to_string(),
            None => return Err(missing),
        };
        // By their exact names only: since 1.25 Go also takes `lu`, before it did not.
        if !UNICODE_CLASSES.split(' ').any(|known| known == name) {
            return Err(missing);
        }
        let kind = if negated { 'P' } else { 'p' };
        let _ = write!(self.output, r"\{kind}{{{name}}}");
        Ok(())
    }

    /// The text up to the next `}`, which must be there.
    fn until_brace(&mut self) -> Option<String> {
        let mut inside = String::new();
        loop {
            match self.text.next()? {
                '}' => return Some(inside),
                character => inside.push(character),
            }
        }
    }

    /// The one character that an escape stands for.
    fn escaped_character(&mut self) -> Result<char, RegexError> {
        let unknown = RegexError::Syntax("an unknown escape");
        let character = self.text.next().ok_or_else(|| unknown.clone())?;
        let is_octal = |next: &char| ('0'..='7').contains(next);
        match character {
            'a' => Ok('\x07'),
            'f' => Ok('\x0c'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\x0b'),
            'x' => {
                let (digits, least) = if self.text.next_if_eq(&'{').is_some() {
                    (self.until_brace().ok_or_else(|| unknown.clone())?, 1)
                } else {
                    (self.text.by_ref().take(2).collect(), 2)
                };
                u32::from_str_radix(&digits, 16)
                    .ok()
                    .and_then(char::from_u32)
                    .filter(|_| digits.len() >= least && !digits.starts_with('+'))
                    .ok_or(unknown)
            }
            '0' | '1'..='7' if character == '0' || self.text.peek().is_some_and(is_octal) => {
                let mut digits = character.to_string();
                while digits.len() < 3 && self.text.peek().is_some_and(is_octal) {
                    digits.extend(self.text.next());
                }
                u32::from_str_radix(&digits, 8)
                    .ok()
                    .and_then(char::from_u32)
                    .ok_or(unknown)
            }
            _ if character.is_ascii() && !character.is_ascii_alphanumeric() => Ok(character),
            _ => Err(unknown),
        }
    }

    /// What follows a `[`.
    fn class(&mut self) -> Result<(), RegexError> {
        self.output.push('[');
        if self.text.next_if_eq(&'^').is_some() {
            self.output.push('^');
        }
        let mut is_first = true;
        loop {
            match self.text.peek() {
                None => return Err(RegexError::Syntax("a class without its ]")),
                Some(']') if !is_first => {
                    self.text.next();
                    self.output.push(']');
                    return Ok(());
                }
                Some(_) => self.class_item()?,
            }
            is_first = false;
        }
    }

    fn class_item(&mut self) -> Result<(), RegexError> {
        let rest: String = self.text.clone().collect();
        if let Some((name, _)) = rest
            .strip_prefix("[:")
            .and_then(|named| named.split_once(":]"))
        {
            let word = name.strip_prefix('^').unwrap_or(name);
            if !NAMED_CLASSES.contains(&word) {
                return Err(RegexError::Syntax("an unknown named class"));
            }
            let _ = write!(self.output, "[:{name}:]");
            self.text.nth("[::]".len() + name.len() - 1);
            return Ok(());
        }
        if rest.starts_with('\\') {
            let before = self.text.clone();
            self.text.next();
            if self.perl_class()? {
                return Ok(());
            }
            self.text = before;
        }
        let low = self.class_character()?;
        if low >= PRIVATE_USE_FIRST {
            // May stand for an empty text later, which must not leave `[]` and with it another expression.
            self.output.push_str(r"\x{10FFFF}");
        }
        self.write_literal(low);
        let mut ahead = self.text.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|&next| next != ']') {
            self.text = ahead;
            let high = self.class_character()?;
            if high < low {
                return Err(RegexError::Syntax("a range that ends before it starts"));
            }
            self.output.push('-');
            self.write_literal(high);
        }
        Ok(())
    }

    fn class_character(&mut self) -> Result<char, RegexError> {
        match self.text.next() {
            Some('\\') => self.escaped_character(),
            Some(character) => Ok(character),
            None => Err(RegexError::Syntax("a class without its ]")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> Option<bool> {
        let regex = compile(&translate(pattern).ok()?).ok()?;
        Some(regex.is_match(text.as_bytes()))
    }

    #[test]
    fn means_what_it_means_to_go() {
        for (pattern, text, expected) in [
            ("team", "my-team/a", true),
            (r"^\w+$", "ä", false),
            (r"^.$", "ä", true),
            (r"^\W$", "ä", true),
            (r"^[^\w]$", "ä", true),
            (r"^\d{2,}$", "123", true),
            (r"^\d$", "٣", false),
            ("a{b", "a{b", true),
            ("^a{,2}$", "a{,2}", true),
            ("{", "{", true),
            (r"^\Qa.b\E+$", "a.bb", true),
            (r"^\Qa.b", "axb", false),
            ("^[[]$", "[", true),
            ("^[a&&b]$", "&", true),
            ("^[]a]$", "]", true),
            ("^[--/]$", ".", true),
            ("^[[:alpha:]]+$", "ab", true),
            (r"^[\d-]+$", "1-2", true),
            (r"^\p{Greek}$", "α", true),
            (r"^\p{^Greek}$", "α", false),
            (r"^\101\x42\x{43}$", "ABC", true),
            ("(?i)^alice$", "ALICE", true),
            ("(?P<x>a)b", "ab", true),
            ("^(?P<x>a)(?<x>b)(?P<1>c)$", "abc", true),
            ("^(?)a(?)*$", "aaa", true),
            ("^a#b $", "a#b ", true),
            (r"${account}", "${account}", false),
            (r"^a\_b$", "a_b", true),
            (r"^\Qa\\Eb$", r"a\b", true),
            (r"^\x{9}\x{000041}$", "\tA", true),
            (r"^\p{Old_Italic}\p{L}$", "\u{10300}a", true),
            ("^((a{10}){10}){10}|b$", "b", true),
            ("^((a{1000}){0}b){2,}$", "bb", true),
            ("^(a{1000}){0,1}(?:b{1000})?$", "", true),
            ("^(a{0,}){1000}$", "aa", true),
        ] {
            assert_eq!(matches(pattern, text), Some(expected), "{pattern} {text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for pattern in [
            "a++",
            "foo?*",
            "a**",
            "a{2}{3}",
            "a???",
            "*a",
            "(",
            ")",
            "[a",
            "[z-a]",
            r"\8",
            r"\1",
            r"\C",
            r"\Z",
            r"\pé",
            r"\p{gc=Lu}",
            "(?x)a",
            "(?u)a",
            "(?=a)",
            "(?<!a)b",
            "a{1001}",
            "a{2,1}",
            r"\",
            "[[:foo:]]",
            r"[a-\d]",
            "(?R)a",
            "(?)*",
            "(?P<x>a",
            r"\E",
            r"a\Eb",
            r"^team\E/.*$",
            r"\Qa\E\E",
            r"[\E]",
            r"[\Qa\E]",
            r"\p{Greek",
            r"\p{Alphabetic}",
            r"\p{Grek}",
            r"\p{Emoji}",
            r"\pX",
            r"\x{41",
            r"\x{}",
            r"\x4",
            r"(a{500}){3}",
            r"((a{10}){11}){10}",
            r"(?:(a{2,}|b){2}c){251}",
            r"((a{1000}){0}b{2}){501}",
            r"(a{500})?{3}",
            r"(a{600}b){2,}",
            r"\é",
            r"[\b]",
        ] {
            assert_eq!(matches(pattern, "a"), None, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn no_expression_panics(pattern in r"[a-c\\\[\](){}?*+^$|,0-9:<>P&~-]{0,12}") {
            let _ = translate(&pattern).map(|translated| compile(&translated));
        }

        #[test]
        fn quoted_text_matches_itself(text in r"[ -~ä]{0,10}") {
            let quoted: String = text.chars().flat_map(|character| {
                let is_plain = character.is_ascii_alphanumeric() || !character.is_ascii();
                [(!is_plain).then_some('\\'), Some(character)].into_iter().flatten()
            }).collect();
            prop_assert_eq!(matches(&format!("^{quoted}$"), &text), Some(true));
        }
    }
}
