//! The access rules of `docker_auth`: an ordered list, the first rule that matches decides.
//!
//! Must not know tokens or users. Invariant: what no rule grants is not granted; a rule is valid once it is read.

mod administrators;
mod coverage;
mod glob;
mod go_regex;
mod grant;
mod index;
mod mistakes;
mod pattern;
mod placeholder;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub use administrators::administrators;
pub use go_regex::{RegexError, go_regex};
pub use grant::{Grant, GrantError, Level, exactly, shown_name};
pub use mistakes::{Mistake, MistakeKind, mistakes};
pub use pattern::PatternError;
pub use placeholder::Fields;

use index::is_literal;
use pattern::Pattern;
use placeholder::{Capture, Captured, EmptyValue, Field};

/// A rule as it is written in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleText {
    /// Patterns; an absent one matches everything.
    pub account: Option<String>,
    /// As above.
    pub r#type: Option<String>,
    /// As above.
    pub name: Option<String>,
    /// As above.
    pub service: Option<String>,
    /// An address or a network.
    pub ip: Option<String>,
    /// Every label must have a value that matches.
    pub labels: BTreeMap<String, String>,
    /// What is granted; exactly `*` grants whatever is asked.
    pub actions: Vec<String>,
    /// For the reader.
    pub comment: Option<String>,
    /// Where the rule is written (`file:line`), for `acl explain`.
    pub place: String,
}

impl RuleText {
    /// The rule itself, to compare: its place changes with every edit of its file.
    #[must_use]
    pub fn without_place(&self) -> Self {
        Self {
            place: String::new(),
            ..self.clone()
        }
    }

    /// The conditions that it has, but for those on labels: the key in the file, and the pattern.
    pub fn conditions(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fields = Field::ALL.into_iter();
        let fields = fields.filter_map(|field| Some((field.key(), field.of_rule(self)?)));
        fields.chain(self.ip.as_deref().map(|ip| ("ip", ip)))
    }

    /// All conditions, for people: ``account `ann`, name `team/*` ``.
    pub fn shown_conditions(&self) -> String {
        let fields = self.conditions().map(|(key, pattern)| match key {
            "name" => format!("name {}", shown_name(pattern)),
            "account" if pattern.is_empty() => "callers without credentials".to_owned(),
            key => format!("{key} `{pattern}`"),
        });
        let labels = self.labels.iter();
        let labels = labels.map(|(label, pattern)| format!("label {label} `{pattern}`"));
        let all: Vec<String> = fields.chain(labels).collect();
        if all.is_empty() {
            "everything".to_owned()
        } else {
            all.join(", ")
        }
    }
}

/// A rule, ready to match.
#[derive(Debug, Clone)]
pub struct Rule {
    text: RuleText,
    patterns: [Option<Pattern>; 4],
    captures: BTreeSet<Capture>,
    ip: Option<IpNet>,
    labels: BTreeMap<String, Pattern>,
}

/// What is asked of the rules.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who asks for what.
    pub fields: Fields<'a>,
    /// From where.
    pub client: IpAddr,
    /// The caller's labels.
    pub labels: &'a BTreeMap<String, Vec<String>>,
}

/// A condition of a rule that a question does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    /// `account`
    Account,
    /// `type`
    Type,
    /// `name`
    Name,
    /// `service`
    Service,
    /// `ip`
    Ip,
    /// `labels`, this one
    Label(String),
    /// A pattern that an empty value keeps from matching
    Empty {
        /// The key of the pattern: `name`, `labels.team`, …
        key: String,
        /// The placeholder with the empty value, as written.
        placeholder: String,
    },
}

impl Rule {
    /// Reads a rule.
    pub fn parse(text: RuleText) -> Result<Self, RuleError> {
        let texts = [&text.account, &text.r#type, &text.name, &text.service];
        let captures: BTreeSet<Capture> = texts
            .iter()
            .filter_map(|text| text.as_deref())
            .flat_map(Capture::find_in)
            .collect();
        let empty_value = if text.actions.is_empty() {
            EmptyValue::IsText
        } else {
            EmptyValue::MatchesNothing
        };
        let read = |field: Field, pattern: &Option<String>| {
            let Some(pattern) = pattern else {
                return Ok(None);
            };
            Pattern::parse(pattern, &captures, empty_value)
                .map(Some)
                .map_err(|error| RuleError::Pattern {
                    key: field.key().to_owned(),
                    error,
                })
        };
        let patterns = [
            read(Field::Account, &text.account)?,
            read(Field::Type, &text.r#type)?,
            read(Field::Name, &text.name)?,
            read(Field::Service, &text.service)?,
        ];
        let mut labels = BTreeMap::new();
        for (label, pattern) in &text.labels {
            let pattern = Pattern::parse(pattern, &captures, empty_value).map_err(|error| {
                RuleError::Pattern {
                    key: format!("labels.{label}"),
                    error,
                }
            })?;
            labels.insert(label.clone(), pattern);
        }
        let ip = match &text.ip {
            Some(ip) => Some(read_network(ip).ok_or(RuleError::Network)?),
            None => None,
        };
        // The expressions of a rule for one account are needed by that account's requests only. To compile those of 5,000
        // accounts takes seconds, and 100 MB. Any request may need the others, and must not wait for them.
        let is_for_one = text.account.as_deref().is_some_and(is_literal) && captures.is_empty();
        if !is_for_one {
            let fields = patterns.iter().flatten();
            fields.chain(labels.values()).for_each(Pattern::prepare);
        }
        Ok(Self {
            text,
            patterns,
            captures,
            ip,
            labels,
        })
    }

    /// The rule as it was written, for explanations.
    pub fn text(&self) -> &RuleText {
        &self.text
    }

    /// Whether one of its globs is malformed, so that the rule can never match.
    pub fn is_malformed(&self) -> bool {
        let patterns = self.patterns.iter().flatten();
        patterns
            .chain(self.labels.values())
            .any(Pattern::is_malformed)
    }

    /// Whether one of its patterns is filled in for each request.
    fn has_placeholders(&self) -> bool {
        let patterns = self.patterns.iter().flatten();
        patterns
            .chain(self.labels.values())
            .any(Pattern::has_placeholders)
    }

    /// Whether this rule decides the question.
    pub fn matches(&self, question: &Question<'_>) -> bool {
        self.unmet(question).is_none()
    }

    /// The first condition that the question does not meet; a rule whose conditions are all met decides.
    pub fn unmet(&self, question: &Question<'_>) -> Option<Unmet> {
        let captured = self.captured(&question.fields);
        let field_matches = |field: Field, pattern: &Option<Pattern>| {
            pattern.as_ref().is_none_or(|pattern| {
                let text = field.of(&question.fields);
                pattern.matches(text, &question.fields, &captured, question.labels)
            })
        };
        let empty = |key: &str, pattern: &Pattern, labels| {
            let placeholder = pattern.empty_placeholder(&question.fields, &captured, labels)?;
            let key = key.to_owned();
            Some(Unmet::Empty { key, placeholder })
        };
        let mut fields = Field::ALL.into_iter().zip(&self.patterns);
        if let Some((field, pattern)) = fields.find(|(field, text)| !field_matches(*field, text)) {
            let pattern = pattern.as_ref();
            let by_empty = pattern.and_then(|text| empty(field.key(), text, question.labels));
            return Some(by_empty.unwrap_or(match field {
                Field::Account => Unmet::Account,
                Field::Type => Unmet::Type,
                Field::Name => Unmet::Name,
                Field::Service => Unmet::Service,
            }));
        }
        let client = question.client.to_canonical();
        if self.ip.is_some_and(|network| !network.contains(&client)) {
            return Some(Unmet::Ip);
        }
        let no_labels = BTreeMap::new();
        let (label, pattern) = self.unmet_label(question, &captured)?;
        let by_empty = empty(&format!("labels.{label}"), pattern, &no_labels);
        Some(by_empty.unwrap_or_else(|| Unmet::Label(label.to_owned())))
    }

    /// The first label of the rule for which the caller has no value that matches.
    fn unmet_label(
        &self,
        question: &Question<'_>,
        captured: &Captured,
    ) -> Option<(&str, &Pattern)> {
        // Label placeholders mean nothing inside the pattern of a label: docker_auth leaves them as they stand.
        let no_labels = BTreeMap::new();
        let matches = |label: &String, pattern: &Pattern| {
            question.labels.get(label).is_some_and(|values| {
                let matches =
                    |value: &String| pattern.matches(value, &question.fields, captured, &no_labels);
                values.iter().any(matches)
            })
        };
        let mut labels = self.labels.iter();
        let (label, pattern) = labels.find(|(label, pattern)| !matches(label, pattern))?;
        Some((label, pattern))
    }

    /// The first pattern that matches nothing for this question because of an empty value: its key, and the placeholder.
    fn empty_placeholder(&self, question: &Question<'_>) -> Option<(String, String)> {
        let captured = self.captured(&question.fields);
        let no_labels = BTreeMap::new();
        let fields = Field::ALL.into_iter().zip(&self.patterns);
        let fields = fields.filter_map(|(field, pattern)| {
            Some((field.key().to_owned(), pattern.as_ref()?, question.labels))
        });
        let labels = self.labels.iter();
        let labels = labels.map(|(label, text)| (format!("labels.{label}"), text, &no_labels));
        fields.chain(labels).find_map(|(key, pattern, labels)| {
            let placeholder = pattern.empty_placeholder(&question.fields, &captured, labels)?;
            Some((key, placeholder))
        })
    }

    /// Whether the pattern of one field, if it has no placeholder, matches this text.
    fn pattern_matches(&self, field: Field, text: &str) -> bool {
        let mut fields = Field::ALL.into_iter().zip(&self.patterns);
        let pattern = fields.find(|(other, _)| *other == field);
        let nobody = Fields {
            account: "",
            resource_type: "",
            name: "",
            service: "",
        };
        pattern
            .and_then(|(_, pattern)| pattern.as_ref())
            .is_none_or(|pattern| {
                pattern.matches(text, &nobody, &Captured::new(), &BTreeMap::new())
            })
    }

    /// Whether every address of the other rule's network is in this rule's.
    fn covers_network_of(&self, other: &Self) -> bool {
        self.ip.is_none_or(|network| {
            other
                .ip
                .is_some_and(|narrow| network.contains(&narrow.trunc()))
        })
    }

    /// Of the asked actions those that this rule grants.
    pub fn grant(&self, asked: &[String]) -> Vec<String> {
        if self.text.actions == ["*"] {
            return asked.to_vec();
        }
        let mut granted: Vec<String> = asked
            .iter()
            .filter(|action| self.text.actions.contains(action))
            .cloned()
            .collect();
        granted.dedup();
        granted
    }

    fn captured(&self, fields: &Fields<'_>) -> Captured {
        self.captures
            .iter()
            .filter_map(|capture| {
                let (_, pattern) = Field::ALL
                    .into_iter()
                    .zip(&self.patterns)
                    .find(|(field, _)| *field == capture.field)?;
                let text = capture.field.of(fields);
                let value = pattern.as_ref()?.capture(text, capture.group)?;
                Some((capture.text().to_owned(), value))
            })
            .collect()
    }
}

/// The first rule that matches.
pub fn decide<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    question: &Question<'_>,
) -> Option<&'a Rule> {
    rules.into_iter().find(|rule| rule.matches(question))
}

/// Of the asked actions those that the first rule that matches grants; `None` if no rule matches.
pub(super) fn granted<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    question: &Question<'_>,
    asked: &[String],
) -> Option<Vec<String>> {
    decide(rules, question).map(|rule| rule.grant(asked))
}

/// An address or a network; IPv4 written as IPv6 means IPv4, as to Go.
fn read_network(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address.to_canonical()));
    }
    let (address, length) = text.split_once('/')?;
    // To Go a length is any number of digits, `012` is twelve.
    let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = Some(length).filter(|_| is_number)?;
    let address: IpAddr = address.parse().ok()?;
    let network = IpNet::new(address, length.parse().ok()?).ok()?;
    match (network.addr().to_canonical(), network.prefix_len()) {
        (IpAddr::V4(address), length @ 96..) if network.addr().is_ipv6() => {
            IpNet::new(address.into(), length - 96).ok()
        }
        _ => Some(network),
    }
}

/// Why a rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// One of its patterns.
    #[error("{key}: {error}")]
    Pattern {
        /// The key of the pattern.
        key: String,
        /// What is wrong with it.
        error: PatternError,
    },
    /// `ip` is neither an address nor a network.
    #[error("ip: neither an address nor a network such as 192.168.0.0/16")]
    Network,
}
