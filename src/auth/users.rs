//! Accounts as they are now, and the generation of their credentials.
//!
//! Must not know passwords in clear, nor how they are checked. Invariant: whatever ends an account's tokens (another
//! password, a revocation, its removal or end) changes or removes its generation.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keyed_hash::{KeyedHash, Purpose};
use super::settings::User;

/// Enough of a hash that nobody meets it by chance, and short in every token.
const GENERATION_BYTES: usize = 16;

/// What a wrong password costs when no account has a hash: bcrypt's customary cost.
const COST_DEFAULT: u32 = 10;

/// Anonymous callers have a name too, and an account if the configuration gives them one.
pub(super) const ANONYMOUS: &str = "";

/// The accounts of now.
#[derive(Debug)]
pub(super) struct Users {
    by_name: BTreeMap<String, User>,
    dearest_cost: u32,
}

impl Users {
    /// Joins the accounts with the revocations, wherever each was read from.
    pub(super) fn new(
        mut by_name: BTreeMap<String, User>,
        revoked: &BTreeMap<String, u64>,
    ) -> Self {
        for (name, &since) in revoked {
            if let Some(user) = by_name.get_mut(name) {
                user.valid_after_unix_secs = user.valid_after_unix_secs.max(Some(since));
            }
        }
        let costs = by_name.values().filter_map(User::bcrypt_cost);
        let dearest_cost = costs.max().unwrap_or(COST_DEFAULT);
        Self {
            by_name,
            dearest_cost,
        }
    }

    /// The account, unless there is none or it has ended.
    pub(super) fn find(&self, name: &str, now_unix_secs: u64) -> Option<&User> {
        let has_ended = |user: &&User| {
            user.expires_unix_secs
                .is_some_and(|end| now_unix_secs >= end)
        };
        self.by_name.get(name).filter(|user| !has_ended(user))
    }

    /// When the account ends or has ended; `None` also where there is none.
    pub(super) fn end_of(&self, name: &str) -> Option<u64> {
        self.by_name.get(name)?.expires_unix_secs
    }

    /// The bcrypt cost of the dearest account: what every wrong password costs.
    pub(super) fn dearest_cost(&self) -> u32 {
        self.dearest_cost
    }
}

/// What a token carries to say which credentials it came from.
pub(super) fn generation(hash: &KeyedHash, name: &str, user: &User) -> String {
    let stored = user.password_hash.as_deref().unwrap_or_default();
    let valid_after = user.valid_after_unix_secs.unwrap_or_default().to_be_bytes();
    let whole = hash.hash(
        Purpose::Generation,
        &[name.as_bytes(), stored.as_bytes(), &valid_after],
    );
    URL_SAFE_NO_PAD.encode(whole.get(..GENERATION_BYTES).unwrap_or_default())
}
