//! Who is calling, and what they may do: users, ACL, tokens, challenges, slowing of failed logins.
//!
//! Design: `docs/security.md`. Must not know HTTP beyond header values as text, nor where users and rules were read from.
//! Invariant: every right of an account of ours is judged by the users and rules of now, and a token can only narrow it; a
//! token that another server issued, whose certificate the configuration trusts, is judged by what it says alone.

mod access;
mod accounts;
mod bounded;
#[cfg(test)]
mod explain_tests;
mod ext_authz;
mod external;
#[cfg(test)]
mod external_tests;
mod fair_queue;
mod keyed_hash;
#[cfg(test)]
mod live_users_tests;
#[cfg(test)]
mod login_tests;
mod passwords;
mod program;
#[cfg(test)]
mod refresh_tests;
mod rights;
mod rules;
mod service;
mod settings;
#[cfg(test)]
mod tests;
mod tokens;

pub use access::{
    Access, Caller, Details, Origin, Reason, Refusal, SessionUse, TokenAnswer, TokenRefusal,
};
pub use accounts::{AccountSource, Accounts, BCRYPT_COST_MAX, User};
pub use external::External;
pub use fair_queue::{Crowded, FairQueue, Turn, address_group};
pub use passwords::{LdapLabel, LdapSettings, LdapTls};
pub use program::Program;
pub use rights::{CallerView, Explanation, Permit, Standing, Viewer};
pub use rules::{
    Fields, Grant, GrantError, Level, Mistake, MistakeKind, PatternError, Question, RegexError,
    Rule, RuleError, RuleText, Unmet, administrators, decide, exactly, go_regex, mistakes,
    shown_name,
};
pub use service::Auth;
pub use settings::{
    Authentication, AutoRedirect, Limits, Scheme, Secret, Settings, SigningKeyPem, TokenSettings,
};
pub use tokens::endpoint::TokenRequest;
pub use tokens::keys::{make_token_key, make_token_key_of};
pub use tokens::own_names::Listening;
pub use tokens::verifier::{TOKEN_ALGORITHMS, TOKEN_ALGORITHMS_WITHOUT_KEYS};
pub use tokens::{
    EndingCertificate, JwkSet, JwkSetError, TokenFault, ending_certificates, is_vouched_for,
};

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
