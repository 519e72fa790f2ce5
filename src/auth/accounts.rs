//! Accounts, rules and revocations as they are now, and the generation of an account's credentials.
//!
//! Must not know files, nor how a password is checked. Invariant: whatever ends an account's tokens (another password, a
//! revocation, its removal or its end) changes or removes its generation.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::external::External;
use super::keyed_hash::{KeyedHash, Purpose};
use super::passwords::bcrypt_cost;
use super::rules::Rule;

/// Enough of a hash to make collisions impossible in practice, and short in every token.
const GENERATION_BYTES: usize = 16;

/// What a wrong password costs when no account has a hash: bcrypt's customary cost.
const COST_DEFAULT: u32 = 10;

/// The highest bcrypt cost that is accepted: one check of it takes a core for several seconds, and every wrong password costs
/// as much as the most expensive account.
pub const BCRYPT_COST_MAX: u32 = 16;

/// Anonymous callers have a name too, and an account if the configuration gives them one.
pub(super) const ANONYMOUS: &str = "";

/// Labels of an account, for rules.
pub(super) type Labels = BTreeMap<String, Vec<String>>;

/// An account.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct User {
    /// bcrypt; `None` accepts any password.
    pub password_hash: Option<String>,
    /// For rules.
    pub labels: Labels,
    /// When the account ends, in seconds since 1970.
    pub expires_unix_secs: Option<u64>,
    /// Tokens that were issued before are void.
    pub valid_after_unix_secs: Option<u64>,
}

impl User {
    /// The cost of the password's hash, if it is a well-formed bcrypt hash.
    pub fn bcrypt_cost(&self) -> Option<u32> {
        bcrypt_cost(self.password_hash.as_deref()?)
    }

    /// Whether any password lets it in at that second (since 1970).
    pub(super) fn may_log_in(&self, now_unix_secs: u64) -> bool {
        let has_password = self.password_hash.is_none() || self.bcrypt_cost().is_some();
        has_password && !self.has_ended(now_unix_secs)
    }

    fn has_ended(&self, now_unix_secs: u64) -> bool {
        self.expires_unix_secs
            .is_some_and(|end| now_unix_secs >= end)
    }
}

impl fmt::Debug for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("User")
            .field("has_password", &self.password_hash.is_some())
            .field("labels", &self.labels)
            .field("expires_unix_secs", &self.expires_unix_secs)
            .field("valid_after_unix_secs", &self.valid_after_unix_secs)
            .finish()
    }
}

/// Users, rules, revocations and external deciders: replaced as a whole while the program runs.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// Accounts by name; the empty name admits anonymous callers.
    pub users: BTreeMap<String, User>,
    /// The rules, in order. None: nothing is allowed.
    pub acl: Vec<Rule>,
    /// Since when (seconds since 1970) an account's tokens count; everything issued before is void.
    pub revoked: BTreeMap<String, u64>,
    /// Further accounts, which change by themselves. An account that is here and there is the one here; rules here come
    /// first; revocations count for both.
    pub live: Option<Arc<dyn AccountSource>>,
    /// Who is asked about accounts that are in no list, and about rights that no rule decides.
    pub external: External,
}

/// Accounts that are kept elsewhere and change by themselves.
#[async_trait]
pub trait AccountSource: fmt::Debug + Send + Sync {
    /// The accounts of now: every change that was complete before this call is in them. Called for each request that judges
    /// an account.
    async fn now(&self) -> Arc<Accounts>;

    /// The accounts as [`Self::now`] last found them.
    fn known(&self) -> Arc<Accounts>;

    /// Why a later change may be missing; shown without a login.
    fn trouble(&self) -> Option<&'static str>;
}

/// What a request is judged by.
#[derive(Clone)]
pub(super) struct Current {
    own: Arc<Accounts>,
    live: Option<Arc<Accounts>>,
}

impl Current {
    /// As they are now.
    pub(super) async fn of(own: Arc<Accounts>) -> Self {
        let live = match &own.live {
            Some(source) => Some(source.now().await),
            None => None,
        };
        Self { own, live }
    }

    /// As they were at the last look.
    pub(super) fn known(own: Arc<Accounts>) -> Self {
        let live = own.live.as_ref().map(|source| source.known());
        Self { own, live }
    }

    fn parts(&self) -> impl Iterator<Item = &Accounts> {
        std::iter::once(&*self.own).chain(self.live.as_deref())
    }

    fn user(&self, name: &str) -> Option<&User> {
        self.parts().find_map(|part| part.users.get(name))
    }

    /// The account, unless there is none or it has ended.
    pub(super) fn find(&self, name: &str, now_unix_secs: u64) -> Option<&User> {
        self.user(name)
            .filter(|user| !user.has_ended(now_unix_secs))
    }

    /// Whether the account is in a list, even if it has ended: then the list alone decides about it.
    pub(super) fn is_listed(&self, name: &str) -> bool {
        self.user(name).is_some()
    }

    /// Who is asked about all else.
    pub(super) fn external(&self) -> &External {
        &self.own.external
    }

    /// When the account ends or has ended; `None` also where there is none.
    pub(super) fn end_of(&self, name: &str) -> Option<u64> {
        self.user(name)?.expires_unix_secs
    }

    /// The rules, in their order.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.parts().flat_map(|part| &part.acl)
    }

    /// The highest bcrypt cost of any account: what every wrong password costs.
    pub(super) fn dearest_cost(&self) -> u32 {
        let users = self.parts().flat_map(|part| part.users.values());
        users
            .filter_map(User::bcrypt_cost)
            .max()
            .unwrap_or(COST_DEFAULT)
    }

    /// What a token carries to say which credentials it came from; `None` if there is no such account or it has ended.
    ///
    /// An account that is in no list has a generation of another kind, if external authenticators are asked at all. So its
    /// tokens end when it is listed, when it is revoked, and when no external authenticator is configured any more.
    pub(super) fn generation(
        &self,
        hash: &KeyedHash,
        name: &str,
        now_unix_secs: u64,
    ) -> Option<String> {
        let (purpose, user) = match self.user(name) {
            Some(user) if user.has_ended(now_unix_secs) => return None,
            Some(user) => (Purpose::Generation, Some(user)),
            None if self.external().knows_accounts() => (Purpose::ExternalGeneration, None),
            None => return None,
        };
        let stored = user.and_then(|user| user.password_hash.as_deref());
        let stored = stored.unwrap_or_default();
        let revoked = self
            .parts()
            .filter_map(|part| part.revoked.get(name).copied());
        let of_user = user.and_then(|user| user.valid_after_unix_secs);
        let valid_after = revoked.chain(of_user).max();
        let valid_after = valid_after.unwrap_or_default().to_be_bytes();
        let whole = hash.hash(purpose, &[name.as_bytes(), stored.as_bytes(), &valid_after]);
        Some(URL_SAFE_NO_PAD.encode(whole.get(..GENERATION_BYTES).unwrap_or_default()))
    }
}
