//! Trouble on request.

use std::time::Duration;

use http::StatusCode;

use super::request::Kind;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It does not happen, and is answered with this status and code.
    Refused(StatusCode, &'static str),
    /// It does not happen; the connection is reset before its body is read.
    Reset,
    /// It does not happen; the connection is reset when half of its body is read.
    ResetInBody,
    /// It does not happen, and there is no answer for as long as the client waits.
    Silence,
    /// It happens; the connection is reset instead of an answer.
    LostAnswer,
    /// It happens, and is answered with 500.
    LostBehindError,
    /// It happens, and there is no answer for as long as the client waits.
    SilenceAfter,
    /// The answer ends in the middle of its body. Like [`Fault::LostAnswer`] where that has none.
    CutBody,
    /// The answer stops in the middle of its body, and the connection stays open. Like [`Fault::SilenceAfter`] where that
    /// has none.
    StalledBody,
    /// It waits so long, happens, and waits so long again.
    Delay(Duration),
}

/// Which requests have which trouble.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) fault: Fault,
    /// Of these kinds; of all, where there is none.
    pub(crate) kinds: Vec<Kind>,
    /// Only requests for keys that contain this text.
    pub(crate) key_contains: String,
    /// One request in so many, by chance; 1 for each.
    pub(crate) one_in: u64,
    /// How often; then the plan is over.
    pub(crate) times: u64,
    /// How many requests that it is about pass first.
    pub(crate) after: u64,
}

impl Plan {
    /// Each request.
    pub(crate) fn always(fault: Fault) -> Self {
        Self {
            fault,
            kinds: Vec::new(),
            key_contains: String::new(),
            one_in: 1,
            times: u64::MAX,
            after: 0,
        }
    }

    /// The next request of this kind, once.
    pub(crate) fn once(kind: Kind, fault: Fault) -> Self {
        Self {
            kinds: vec![kind],
            times: 1,
            ..Self::always(fault)
        }
    }

    /// One request in so many, by chance.
    pub(crate) fn one_in(one_in: u64, fault: Fault) -> Self {
        Self {
            one_in,
            ..Self::always(fault)
        }
    }
}

/// All that is planned.
#[derive(Debug, Default)]
pub(super) struct Plans {
    planned: Vec<Plan>,
    random: u64,
    struck: u64,
}

impl Plans {
    pub(super) fn add(&mut self, plan: Plan) {
        self.planned.push(plan);
    }

    pub(super) fn struck(&self) -> u64 {
        self.struck
    }

    /// The trouble of the next request.
    pub(super) fn next(&mut self, kind: Kind, key: &str) -> Option<Fault> {
        let mut random = self.random;
        let struck = self.planned.iter_mut().find_map(|plan| {
            let is_meant = plan.kinds.is_empty() || plan.kinds.contains(&kind);
            if !is_meant || !key.contains(&plan.key_contains) {
                return None;
            }
            if plan.after > 0 {
                plan.after -= 1;
                return None;
            }
            random = next_random(random);
            if plan.times == 0 || !(random >> 33).is_multiple_of(plan.one_in) {
                return None;
            }
            plan.times -= 1;
            Some(plan.fault)
        });
        self.random = random;
        self.struck += u64::from(struck.is_some());
        struck
    }

    /// Whether the next of these is one in `one_in`, and thus has trouble; never, where that is 0.
    pub(super) fn is_one_in(&mut self, one_in: u64) -> bool {
        self.random = next_random(self.random);
        let is_it = one_in > 0 && (self.random >> 33).is_multiple_of(one_in);
        self.struck += u64::from(is_it);
        is_it
    }
}

/// A linear congruential generator (Knuth's MMIX); its upper bits are good enough to choose by.
fn next_random(random: u64) -> u64 {
    random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407)
}
