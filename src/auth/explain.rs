//! Why somebody may do something or not.
//!
//! Must not know files or terminals. Invariant: the verdict is the one that a request of that account would get, by the same
//! functions; nothing here decides by itself.

use super::access::{Access, Caller, Identity, Origin};
use super::acl::{RuleText, Unmet};
use super::service::Auth;
use super::settings::Authentication;

/// What an account is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody is asked who they are.
    Open,
    /// It may log in.
    Known,
    /// It has ended at that second.
    Ended(u64),
    /// There is none.
    Unknown,
}

/// A verdict and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether a request would be let through.
    pub is_allowed: bool,
    /// The actions that the request needs, all of them.
    pub needed: Vec<String>,
    /// What the account is.
    pub standing: Standing,
    /// The rules before the one that decides, each with the first condition that is not met.
    pub passed_over: Vec<(RuleText, Unmet)>,
    /// The rule that decides; none: nothing is granted.
    pub decisive: Option<RuleText>,
}

impl Auth {
    /// What a request of `account` that asks for `access` is told, and by which rule.
    pub fn explain(&self, account: &str, access: &Access, origin: &Origin) -> Explanation {
        let standing = self.standing(account);
        let identity = match standing {
            Standing::Open => Identity::Open,
            Standing::Known | Standing::Ended(_) | Standing::Unknown => Identity::Basic {
                account: account.to_owned(),
                generation: self.generation_of(account).unwrap_or_default(),
            },
        };
        let caller = Caller {
            identity,
            expired_secs: 0,
        };
        let may_enter = match standing {
            Standing::Open | Standing::Known => true,
            Standing::Ended(_) | Standing::Unknown => false,
        };
        let mut explanation = Explanation {
            is_allowed: may_enter && self.authorise(&caller, access, origin).is_ok(),
            needed: Vec::new(),
            standing,
            passed_over: Vec::new(),
            decisive: None,
        };
        if let Some((resource_type, name, actions)) = access.scope() {
            explanation.needed = actions.iter().map(|&action| action.to_owned()).collect();
            let mut fields = self.fields_here(&caller, resource_type, name);
            fields.account = account;
            self.judge(fields, origin, |rules, question| {
                for rule in rules {
                    let Some(unmet) = rule.unmet(question) else {
                        explanation.decisive = Some(rule.text().clone());
                        return;
                    };
                    explanation.passed_over.push((rule.text().clone(), unmet));
                }
            });
        }
        explanation
    }

    fn standing(&self, account: &str) -> Standing {
        if self.authentication == Authentication::Open {
            return Standing::Open;
        }
        let now = self.fresh();
        if now.users.find(account, self.clock.unix_secs()).is_some() {
            Standing::Known
        } else {
            now.users
                .end_of(account)
                .map_or(Standing::Unknown, Standing::Ended)
        }
    }
}
