//! Who is calling, and what they may do: users, ACL, tokens, challenges, slowing of failed logins.
//!
//! Design: `docs/security.md`. Must not know HTTP beyond header values as text, nor where users and rules were read from.
//! Invariant: every right of an account of ours is judged by the users and rules of now, and a token can only narrow it; a
//! token that another server issued, whose certificate the configuration trusts, is judged by what it says alone.

mod access;
mod acl;
mod acl_mistakes;
#[cfg(test)]
mod acl_mistakes_tests;
#[cfg(test)]
mod acl_tests;
mod address_group;
mod bounded;
mod challenge;
mod explain;
#[cfg(test)]
mod explain_tests;
mod failures;
mod fair_queue;
mod glob;
mod go_regex;
mod grant;
mod issuing;
mod keyed_hash;
mod keys;
#[cfg(test)]
mod live_users_tests;
#[cfg(test)]
mod login_tests;
mod own_names;
mod passwords;
mod pattern;
mod permit;
mod placeholder;
mod refresh;
#[cfg(test)]
mod refresh_tests;
mod request;
mod service;
mod settings;
mod signing;
#[cfg(test)]
mod tests;
mod token;
mod users;
mod verifier;
#[cfg(test)]
mod verifier_tests;

pub use access::{Access, Caller, Origin, Refusal, SessionUse, TokenAnswer, TokenRefusal, is_host};
pub use acl::{Question, Rule, RuleError, RuleText, Unmet, decide};
pub use acl_mistakes::{Mistake, MistakeKind, mistakes};
pub use address_group::address_group;
pub use explain::{Explanation, Standing};
pub use fair_queue::{Crowded, FairQueue, Turn};
pub use go_regex::RegexError;
pub use grant::{Grant, GrantError, exactly};
pub use own_names::Listening;
pub use pattern::PatternError;
pub use permit::Permit;
pub use placeholder::Fields;
pub use request::TokenRequest;
pub use service::Auth;
pub use settings::{
    Accounts, Authentication, BCRYPT_COST_MAX, Limits, LiveUsers, Scheme, Secret, Settings,
    SigningKeyPem, TokenSettings, User,
};
pub use signing::make_token_key;

use crate::oci::RepositoryName;

/// What a caller, or a background task, may see beyond the repository that it asked for (DESIGN D8): nothing, unless an
/// implementation says so.
pub trait Viewer: Send + Sync {
    /// Whether `name` may be pulled from.
    fn may_pull(&self, _name: &RepositoryName) -> bool {
        false
    }

    /// Whether the credential carries push to `name`.
    fn carries_push(&self, _name: &RepositoryName) -> bool {
        false
    }

    /// Whether the catalog may name `name`.
    fn may_list(&self, _name: &RepositoryName) -> bool {
        false
    }
}

/// The view of a caller, judged by the ACL of the account alone (our tokens, Basic), by `access` (foreign tokens), or always
/// yes (open mode).
pub struct CallerView<'a> {
    auth: &'a Auth,
    caller: &'a Caller,
    origin: &'a Origin,
}

impl Viewer for CallerView<'_> {
    fn may_pull(&self, name: &RepositoryName) -> bool {
        let name = name.as_str();
        self.auth.may_see(self.caller, self.origin, name, false)
    }

    /// Not in open mode, and not for anonymous callers: they show no credential.
    fn carries_push(&self, name: &RepositoryName) -> bool {
        self.auth.carries_push(self.caller, self.origin, name)
    }

    /// As `may_pull`; a foreign token that holds `registry:catalog:*` sees all.
    fn may_list(&self, name: &RepositoryName) -> bool {
        let name = name.as_str();
        self.auth.may_see(self.caller, self.origin, name, true)
    }
}

/// Why authentication cannot be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// `certificate` or a trusted certificate.
    #[error("a token certificate is not a PEM certificate")]
    Certificate,
    /// The certificate's key cannot sign tokens.
    #[error("the token certificate's key is neither RSA nor on P-256, P-384 or P-521")]
    KeyKind,
    /// The private key.
    #[error("the token key is not a PEM private key of its certificate's kind")]
    Key,
    /// Key and certificate are of two pairs.
    #[error("the token key does not belong to its certificate")]
    KeyMismatch,
    /// A key pair could not be made.
    #[error("cannot make a token key")]
    Making,
}
