//! Who knows accounts and their passwords, and the stored bcrypt hashes, which are one of them.
//!
//! Must not know tokens or rules. Invariant: an account that is not in the lists costs what a wrong password costs, so that
//! time does not tell which accounts there are.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::auth::accounts::{Current, Labels};
use crate::auth::fair_queue::FairQueue;
use crate::clock::Clock;

/// A hash made of nothing, that no password has; its cost is filled in.
const DUMMY_SALT_AND_HASH: &str = "abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2";

/// What follows version and cost.
const SALT_AND_HASH_LENGTH: usize = 53;

/// What an authenticator says of a name and a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth) enum Checked {
    /// This is the account's password. An account that is in no list has these labels.
    Right(Option<Arc<Labels>>),
    /// The account has another password: no other authenticator is asked.
    Wrong,
    /// It knows no such account.
    Unknown,
    /// It cannot say, for this reason: no other one is asked, since the account may be its own. The text is for the log.
    Unavailable(String),
}

/// Knows accounts and their passwords.
///
/// Of an account in a list it says no labels: rules read those of the account of now, which may have changed since the login.
#[async_trait]
pub(in crate::auth) trait Authenticator: fmt::Debug + Send + Sync {
    /// Where its checks wait for their turns. One that is slow, or does not answer at all, must not hold up the others.
    fn turns(&self) -> &FairQueue;

    /// Whether `password` is the one of `account`. The caller has a turn.
    async fn check(&self, account: &str, password: &[u8]) -> Checked;
}

/// The bcrypt hashes of the accounts of one moment. A wrong password, an account without a hash and an unknown account cost
/// what the account with the highest cost costs. It compares off the async threads.
pub(in crate::auth) struct StoredHashes {
    accounts: Current,
    clock: Arc<dyn Clock>,
    work: Arc<AtomicU64>,
    turns: FairQueue,
}

impl StoredHashes {
    /// Of these accounts. `work` counts what comparisons cost: 2 to the power of bcrypt's cost, summed.
    pub(in crate::auth) fn new(
        accounts: Current,
        clock: Arc<dyn Clock>,
        work: Arc<AtomicU64>,
        turns: FairQueue,
    ) -> Self {
        Self {
            accounts,
            clock,
            work,
            turns,
        }
    }
}

impl fmt::Debug for StoredHashes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StoredHashes(…)")
    }
}

#[async_trait]
impl Authenticator for StoredHashes {
    fn turns(&self) -> &FairQueue {
        &self.turns
    }

    async fn check(&self, account: &str, password: &[u8]) -> Checked {
        let user = self.accounts.find(account, self.clock.unix_secs());
        let no_match = if user.is_some() {
            Checked::Wrong
        } else {
            Checked::Unknown
        };
        let stored = user.and_then(|user| user.password_hash.clone());
        let real = stored.and_then(|stored| bcrypt_cost(&stored).map(|cost| (stored, cost)));
        let accounts = self.accounts.clone();
        let work = Arc::clone(&self.work);
        let password = password.to_vec();
        let compare = move |stored: &str, cost: u32| {
            work.fetch_add(1 << cost, Ordering::Relaxed);
            let is_equal = bcrypt::verify(&password, stored).unwrap_or(false);
            // bcrypt repeats a password with a NUL behind it: `a`, NUL, `a` is to it what `a` is. Refused after the same work.
            is_equal && !password.contains(&0)
        };
        let is_right = tokio::task::spawn_blocking(move || {
            let highest = accounts.dearest_cost();
            let Some((stored, cost)) = real else {
                compare(&dummy_hash(highest), highest);
                return false;
            };
            let is_right = compare(&stored, cost);
            if !is_right {
                // Each cost is twice the one below: with the comparison above these make one of the highest.
                for cost in cost..highest {
                    compare(&dummy_hash(cost), cost);
                }
            }
            is_right
        });
        match is_right.await {
            Ok(true) => Checked::Right(None),
            Ok(false) => no_match,
            Err(_) => Checked::Unavailable("a comparison of a password failed".to_owned()),
        }
    }
}

/// The cost of a well-formed hash: `$2b$10$` and 53 characters, nothing behind it.
pub(in crate::auth) fn bcrypt_cost(stored: &str) -> Option<u32> {
    let (version, rest) = stored.split_at_checked("$2b$".len())?;
    let (cost, rest) = rest.split_once('$')?;
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    let is_whole = ["$2a$", "$2b$", "$2x$", "$2y$"].contains(&version)
        && cost.len() == 2
        && rest.len() == SALT_AND_HASH_LENGTH
        // The salt's last letter has four bits to spare. Set ones make the comparison fail at once, and so tell that the
        // account exists.
        && rest.get(21..22).is_some_and(|last| ".Oeu".contains(last))
        && rest.bytes().all(is_base64);
    let cost = cost.parse().ok()?;
    (is_whole && (4..=31).contains(&cost)).then_some(cost)
}

/// A hash of this cost.
fn dummy_hash(cost: u32) -> String {
    format!("$2b${cost:02}${DUMMY_SALT_AND_HASH}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dummy_is_compared_in_full() {
        let dummy = dummy_hash(5);
        assert_eq!(bcrypt_cost(&dummy), Some(5));
        // An error would mean that nothing was computed.
        assert!(matches!(bcrypt::verify("any", &dummy), Ok(false)));
    }

    #[test]
    fn only_whole_hashes_count() {
        let whole = format!("$2b$10${DUMMY_SALT_AND_HASH}");
        assert_eq!(bcrypt_cost(&whole), Some(10));
        for broken in [
            format!("{whole}x"),
            whole.replace("$2b$", "$2z$"),
            whole.replace("$10$", "$03$"),
            whole.replace("uu5", "uv5"),
            whole.replace("nTz", "n-z"),
            String::new(),
        ] {
            assert_eq!(bcrypt_cost(&broken), None, "{broken}");
        }
    }
}
