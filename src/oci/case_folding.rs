//! Which JSON names a reader written in Go treats as equal.
//!
//! Source: `encoding/json`, which matches names with fields under Unicode simple case folding (`unicode.SimpleFold`): `K`
//! (U+212A, the Kelvin sign) is `k`, and `ſ` (U+017F) is `s`. Must not know the names. Invariant: names that are equal
//! under simple folding have equal results here.

/// The canonical spelling of all names that Go treats as equal to `name`.
pub(super) fn fold(name: &str) -> String {
    name.chars().map(fold_char).collect()
}

/// Upper case first, so that letters with two lower cases (σ and ς) become equal. Only one-to-one mappings are simple
/// foldings.
fn fold_char(char: char) -> char {
    // Simple folding does not map these two to `i`: their mappings depend on the language.
    if matches!(char, 'İ' | 'ı') {
        return char;
    }
    let upper = only(char.to_uppercase()).unwrap_or(char);
    only(upper.to_lowercase()).unwrap_or(upper)
}

fn only(mut mapped: impl Iterator<Item = char>) -> Option<char> {
    let first = mapped.next()?;
    mapped.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_go_takes_for_each_other_are_one() {
        for (one, other) in [
            ("config", "Config"),
            ("config", "CONFIG"),
            ("schemaVersion", "\u{17f}chemaver\u{17f}ion"),
            ("k", "\u{212a}"),
            ("σ", "ς"),
            ("µ", "Μ"),
            ("å", "\u{212b}"),
            ("ß", "ẞ"),
        ] {
            assert_eq!(fold(one), fold(other), "{one} {other}");
        }
        for (one, other) in [
            ("config", "confıg"),
            ("config", "confİg"),
            ("a", "b"),
            ("ss", "ß"),
        ] {
            assert_ne!(fold(one), fold(other), "{one} {other}");
        }
    }
}
