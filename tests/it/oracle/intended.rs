//! The intended differences from `docker_auth`: rules that are data, so that other records are checked with the same ones.
//!
//! `tests/oracle/intended.json` holds them and says how they are read. Invariant: a rule has a reason, says when it holds, and
//! says what our answer then is; a rule that never holds, or holds more or less often than it says, fails the test.

#![expect(clippy::print_stdout, reason = "the counts are printed")]

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

const INTENDED: &str = include_str!("../../oracle/intended.json");

/// What is known of one case, by name: each fact has any number of values.
pub(crate) type Facts = BTreeMap<&'static str, Vec<String>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intended {
    /// For who reads the file.
    #[serde(rename = "about")]
    _about: Vec<String>,
    pub(crate) requests: Rules,
    pub(crate) configs: Rules,
    pub(crate) tokens: Rules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    pub(crate) file: String,
    /// What the facts are.
    #[serde(rename = "facts")]
    _facts: BTreeMap<String, String>,
    /// How many cases do not differ.
    pub(crate) same: usize,
    #[serde(rename = "rules")]
    pub(crate) differences: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) reason: String,
    /// All of these hold.
    when: Vec<Condition>,
    /// How many cases differ by this rule.
    pub(crate) count: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Condition {
    /// A value of the fact matches.
    Any { fact: String, any: Pattern },
    /// No value of the fact matches.
    None { fact: String, none: Pattern },
    /// The fact has so many values, or more.
    Least { fact: String, least: usize },
    /// One of these holds.
    Or { or: Vec<Condition> },
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Pattern(Regex);

impl TryFrom<String> for Pattern {
    type Error = regex::Error;

    fn try_from(text: String) -> Result<Self, regex::Error> {
        Regex::new(&text).map(Self)
    }
}

impl Condition {
    fn holds(&self, facts: &Facts) -> bool {
        let values = |fact: &str| {
            let values = facts.get(fact);
            values.unwrap_or_else(|| panic!("intended.json: there is no fact `{fact}`"))
        };
        let matches = |fact: &str, pattern: &Pattern| {
            let mut values = values(fact).iter();
            values.any(|value| pattern.0.is_match(value))
        };
        match self {
            Self::Any { fact, any } => matches(fact, any),
            Self::None { fact, none } => !matches(fact, none),
            Self::Least { fact, least } => values(fact).len() >= *least,
            Self::Or { or } => or.iter().any(|condition| condition.holds(facts)),
        }
    }
}

pub(crate) fn intended() -> Intended {
    serde_json::from_str(INTENDED).expect("intended.json")
}

/// How many cases each rule explained, and what none explains.
#[derive(Default)]
pub(crate) struct Verdict {
    same: usize,
    by_rule: BTreeMap<String, usize>,
    wrong: Vec<String>,
}

/// Configurations that are asked at the same time.
const AT_ONCE: usize = 4;

/// Every case of the file of `rules` is judged, and each difference must have its rule.
pub(crate) async fn check_all(rules: &Rules, judge: impl AsyncFn(&Value, &Rules) -> Verdict) {
    let cases = super::records(&rules.file);
    let verdicts = stream::iter(&cases).map(|case| judge(case, rules));
    let verdicts: Vec<Verdict> = verdicts.buffer_unordered(AT_ONCE).collect().await;
    let mut whole = Verdict::default();
    for verdict in verdicts {
        whole.add(verdict);
    }
    whole.check(rules);
}

impl Verdict {
    pub(crate) fn same(&mut self) {
        self.same += 1;
    }

    /// A difference: the first rule that holds explains it.
    pub(crate) fn differs(&mut self, rules: &Rules, facts: &Facts, told: impl FnOnce() -> String) {
        let mut rules = rules.differences.iter();
        let holds = |rule: &&Rule| rule.when.iter().all(|condition| condition.holds(facts));
        match rules.find(holds) {
            Some(rule) => *self.by_rule.entry(rule.name.clone()).or_default() += 1,
            None => self.wrong.push(told()),
        }
    }

    fn add(&mut self, other: Self) {
        self.same += other.same;
        for (name, count) in other.by_rule {
            *self.by_rule.entry(name).or_default() += count;
        }
        self.wrong.extend(other.wrong);
    }

    /// Every difference has its rule. Of our own records the counts must be those of the file; of others they are only told.
    pub(crate) fn check(self, rules: &Rules) {
        let found = |name: &str| self.by_rule.get(name).copied().unwrap_or(0);
        println!("{}: {} the same", rules.file, self.same);
        for rule in &rules.differences {
            println!("{} × {}: {}", found(&rule.name), rule.name, rule.reason);
        }
        assert!(
            self.wrong.is_empty(),
            "{} differ, and no rule of intended.json says why:\n{}",
            self.wrong.len(),
            self.wrong.join("\n")
        );
        if super::other_records().is_some() {
            return;
        }
        let counted = rules
            .differences
            .iter()
            .map(|rule| (&*rule.name, rule.count));
        let counted: BTreeMap<&str, usize> = counted.collect();
        let found = rules
            .differences
            .iter()
            .map(|rule| (&*rule.name, found(&rule.name)));
        assert_eq!(found.collect::<BTreeMap<_, _>>(), counted);
        assert_eq!(self.same, rules.same);
    }
}
