//! Which rules match everything that another rule matches, and which are about everything for an account.
//!
//! Must not know users, files or actions. Invariant: "covers" is only said where it is certain; of two patterns whose relation
//! is not known, neither covers the other.

use std::collections::BTreeMap;

use super::Rule;
use super::index::{is_expression, is_literal, plain_start};
use super::placeholder::Field;

/// Whether `earlier` surely matches all that `later` matches.
pub(super) fn covers(earlier: &Rule, later: &Rule) -> bool {
    let (first, second) = (earlier.text(), later.text());
    let fields = Field::ALL.into_iter().all(|field| {
        let (wide, narrow) = (field.of_rule(first), field.of_rule(second));
        covers_field(earlier, field, wide, narrow)
    });
    let labels = first
        .labels
        .iter()
        .all(|(label, pattern)| second.labels.get(label) == Some(pattern) && !has_capture(pattern));
    fields && labels && earlier.covers_network_of(later)
}

pub(super) fn covers_field(
    earlier: &Rule,
    field: Field,
    wide: Option<&str>,
    narrow: Option<&str>,
) -> bool {
    let Some(wide) = wide else {
        return true;
    };
    // Types have no slash.
    if ["/.*/", "/^.*$/"].contains(&wide) || (field == Field::Type && wide == "*") {
        return true;
    }
    let Some(narrow) = narrow else {
        return false;
    };
    if has_capture(wide) {
        return false;
    }
    if wide == narrow {
        return true;
    }
    if wide.contains("${") || narrow.contains("${") {
        return false;
    }
    if is_literal(narrow) {
        return earlier.pattern_matches(field, narrow);
    }
    match (prefix(wide), prefix(narrow)) {
        (Some((wide, _, true)), Some((narrow, ..))) => narrow.starts_with(&wide),
        (Some((wide, star, false)), Some((narrow, rest, false))) if star == "*" => narrow
            .strip_prefix(wide.as_str())
            .is_some_and(|more| !more.contains('/') && !rest.contains('/')),
        _ => false,
    }
}

/// A pattern whose value comes from another pattern of its rule.
fn has_capture(pattern: &str) -> bool {
    pattern.contains("${") && pattern.contains(':')
}

/// The plain text that a pattern begins with, what follows it, and whether that is anything at all, also with slashes.
fn prefix(pattern: &str) -> Option<(String, String, bool)> {
    if is_expression(pattern) {
        return plain_start(pattern).map(|text| (text, String::new(), true));
    }
    if pattern.contains(['[', '\\']) {
        return None;
    }
    let sign = pattern.find(['*', '?'])?;
    let (text, rest) = pattern.split_at_checked(sign)?;
    Some((text.to_owned(), rest.to_owned(), false))
}

impl Rule {
    /// Whether it is for repositories of all names, as far as its pattern shows.
    pub(super) fn has_no_name(&self) -> bool {
        covers_field(self, Field::Name, self.text().name.as_deref(), None)
    }

    /// Whether the rule may decide about this account: its patterns for account and labels match, as far as they are known.
    pub fn may_be_about(&self, account: &str, labels: &BTreeMap<String, Vec<String>>) -> bool {
        let pattern = self.text().account.as_deref();
        let has_account = pattern.is_none_or(|pattern| {
            pattern.contains("${") || self.pattern_matches(Field::Account, account)
        });
        has_account && self.labels_match(account, labels)
    }

    /// Whether the rule matches every question of this account, whatever it asks for and from wherever.
    pub(super) fn is_about_all_of(
        &self,
        account: &str,
        labels: &BTreeMap<String, Vec<String>>,
    ) -> bool {
        let fields = Field::ALL.into_iter().all(|field| {
            let pattern = field.of_rule(self.text());
            match field {
                Field::Account => pattern.is_none_or(|pattern| {
                    !pattern.contains("${") && self.pattern_matches(field, account)
                }),
                Field::Type | Field::Name | Field::Service => {
                    covers_field(self, field, pattern, None)
                }
            }
        });
        fields && self.ip.is_none() && self.labels_match(account, labels)
    }
}
