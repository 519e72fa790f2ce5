//! Access rules: any pattern is compiled or refused, and judging with it ends.

#![no_main]

use boathouse::auth::{Rule, RuleText};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (pattern, name) = input;
    for pattern in [pattern.to_owned(), format!("/{pattern}/")] {
        let text = RuleText { name: Some(pattern), account: Some(name.to_owned()), ..RuleText::default() };
        let _ = Rule::parse(text);
    }
});
