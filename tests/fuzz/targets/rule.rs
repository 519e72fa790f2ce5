//! Access rules: any pattern is compiled or refused, and judging with it ends.

#![no_main]

use boathouse::auth::{Rule, RuleText};
use libfuzzer_sys::fuzz_target;

// The first line is a pattern for names, the rest one for accounts.
fuzz_target!(|text: &str| {
    let (pattern, name) = text.split_once('\n').unwrap_or((text, ""));
    for pattern in [pattern.to_owned(), format!("/{pattern}/")] {
        let text = RuleText { name: Some(pattern), account: Some(name.to_owned()), ..RuleText::default() };
        let _ = Rule::parse(text);
    }
});
