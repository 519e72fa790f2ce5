//! Checking passwords, without letting them eat the machine.
//!
//! Must not know tokens or rules. Invariant: a wrong password and an unknown account cost the same, which is what
//! the dearest account costs, so that time tells nobody which accounts there are; verified credentials cost one bcrypt,
//! also where they come many times at once; a password is compared off the async threads, a few at a time and of each client
//! in turn, and guesses sent at once are slowed like guesses sent one by one.

mod failures;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use failures::Failures;

use super::accounts::Current;
use super::bounded::Bounded;
use super::fair_queue::{FairQueue, address_group};
use super::keyed_hash::{KeyedHash, Purpose};
use super::settings::Limits;
use crate::clock::Clock;

/// A hash made of nothing, that no password has; its cost is filled in.
const DUMMY_SALT_AND_HASH: &str = "abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2";

/// What follows version and cost.
const SALT_AND_HASH_LENGTH: usize = 53;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The account exists, and this is its password.
    Right,
    /// No such account, or another password.
    Wrong,
    /// Not looked at: too many failures, or too many waiting.
    Later { retry_after_secs: u64 },
}

/// Too many wait already; a second is many comparisons.
const LATER: Verdict = Verdict::Later {
    retry_after_secs: 1,
};

/// Checks passwords and remembers those that were right.
pub(super) struct Passwords {
    clock: Arc<dyn Clock>,
    hash: KeyedHash,
    failures: Arc<Failures>,
    verified: Mutex<Bounded<[u8; 32], ()>>,
    turns: FairQueue,
    callers: Callers,
    comparing: Comparing,
    /// How many logins were compared.
    compared_logins: AtomicUsize,
    /// What comparisons cost in all: 2 to the power of bcrypt's cost, summed.
    pub bcrypt_work: Arc<AtomicU64>,
}

impl Passwords {
    /// Nothing remembered yet.
    pub(super) fn new(limits: &Limits, hash: KeyedHash, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            failures: Arc::new(Failures::new(limits, hash.clone())),
            hash,
            verified: Mutex::new(Bounded::new(limits.verified_passwords_max)),
            turns: FairQueue::new(
                limits.bcrypt_concurrency,
                limits.bcrypt_waiting_max,
                limits.bcrypt_waiting_per_client_max,
            ),
            callers: Callers {
                per_client_max: limits.bcrypt_waiting_per_client_max.max(1),
                waiting: Mutex::default(),
            },
            comparing: Comparing::default(),
            compared_logins: AtomicUsize::new(0),
            bcrypt_work: Arc::default(),
        }
    }

    /// Whether `password` is the one of `account`.
    pub(super) async fn check(
        &self,
        users: &Current,
        account: &str,
        password: &[u8],
        client: IpAddr,
    ) -> Verdict {
        let user = users.find(account, self.clock.unix_secs());
        let stored = match user {
            // `{}` in the configuration: any password is right.
            Some(user) if user.password_hash.is_none() => return Verdict::Right,
            Some(user) => user.password_hash.as_deref(),
            None => None,
        };
        let parts = [
            account.as_bytes(),
            stored.unwrap_or_default().as_bytes(),
            password,
        ];
        let fingerprint = self.hash.hash(Purpose::Password, &parts);
        let known = || self.known(fingerprint, account, client);
        if let Some(verdict) = known() {
            return verdict;
        }
        let Some(waiting) = self.callers.enter(client) else {
            return LATER;
        };
        // The same login sent many times at once, as parallel clients begin, is compared once. Others of the same burst
        // were compared meanwhile as well: what they did counts for this one too, or a burst as long as the queue would be
        // guesses that nothing slows. What follows is recorded before the turn ends.
        let alone = self.comparing.enter(fingerprint).await;
        if let Some(verdict) = known() {
            return verdict;
        }
        let Ok(turn) = self.turns.turn(client).await else {
            return LATER;
        };
        drop(waiting);
        if let Some(verdict) = known() {
            return verdict;
        }
        let turn = (turn, alone);
        let real = stored.and_then(|stored| Some((stored.to_owned(), bcrypt_cost(stored)?)));
        let dearest = users.dearest_cost();
        let work = Arc::clone(&self.bcrypt_work);
        let compare = move |password: &[u8], stored: &str, cost: u32| {
            work.fetch_add(1 << cost, Ordering::Relaxed);
            let is_equal = bcrypt::verify(password, stored).unwrap_or(false);
            // bcrypt repeats a password with a NUL behind it: `a`, NUL, `a` is to it what `a` is. Refused after the same work.
            is_equal && !password.contains(&0)
        };
        let failures = Arc::clone(&self.failures);
        let clock = Arc::clone(&self.clock);
        let (account, password) = (account.to_owned(), password.to_vec());
        self.compared_logins.fetch_add(1, Ordering::Relaxed);
        // The turn and the record belong to the comparison, which goes on when a caller hangs up.
        let judge = move || {
            let is_right = if let Some((stored, cost)) = real {
                let is_right = compare(&password, &stored, cost);
                if !is_right {
                    // Each cost is twice the one below: with the comparison above these make one of the dearest.
                    for cost in cost..dearest {
                        compare(&password, &dummy_hash(cost), cost);
                    }
                }
                is_right
            } else {
                compare(&password, &dummy_hash(dearest), dearest);
                false
            };
            if !is_right {
                failures.record(fingerprint, &account, client, clock.elapsed());
            }
            (is_right, turn)
        };
        match tokio::task::spawn_blocking(judge).await {
            Ok((true, _turn)) => {
                self.verified
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(fingerprint, ());
                Verdict::Right
            }
            Ok((false, _)) | Err(_) => Verdict::Wrong,
        }
    }

    pub(super) fn compared_logins(&self) -> usize {
        self.compared_logins.load(Ordering::Relaxed)
    }

    fn is_verified(&self, fingerprint: [u8; 32]) -> bool {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get_mut(fingerprint).is_some()
    }

    /// What can be said of a login without comparing it.
    fn known(&self, fingerprint: [u8; 32], account: &str, client: IpAddr) -> Option<Verdict> {
        if self.is_verified(fingerprint) {
            return Some(Verdict::Right);
        }
        let now = self.clock.elapsed();
        if self.failures.is_repeat(fingerprint, client, now) {
            return Some(Verdict::Wrong);
        }
        let retry_after_secs = self.failures.delay_secs(account, client, now)?;
        Some(Verdict::Later { retry_after_secs })
    }
}

/// The logins that are being compared, or whose turn is next.
#[derive(Default)]
struct Comparing(Mutex<HashMap<[u8; 32], Weak<tokio::sync::Mutex<()>>>>);

impl Comparing {
    /// Waits until nobody else compares this login.
    async fn enter(&self, fingerprint: [u8; 32]) -> OwnedMutexGuard<()> {
        let same = {
            let mut comparing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // As many stay as have a place in the queue or a turn.
            comparing.retain(|_, same| same.strong_count() > 0);
            let same = comparing.get(&fingerprint).and_then(Weak::upgrade);
            same.unwrap_or_else(|| {
                let same = Arc::default();
                comparing.insert(fingerprint, Arc::downgrade(&same));
                same
            })
        };
        same.lock_owned().await
    }
}

/// Who waits, for a turn or for the same login to be compared. One client alone cannot be very many.
struct Callers {
    per_client_max: usize,
    waiting: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A place among them, given back also by a caller who gives up.
struct Waiting<'a> {
    callers: &'a Callers,
    client: IpAddr,
}

impl Callers {
    fn enter(&self, client: IpAddr) -> Option<Waiting<'_>> {
        let client = address_group(client);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own = waiting.entry(client).or_default();
        if *own >= self.per_client_max {
            return None;
        }
        *own += 1;
        Some(Waiting {
            callers: self,
            client,
        })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self
            .callers
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut own) = waiting.entry(self.client) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// The cost of a well-formed hash: `$2b$10$` and 53 characters, nothing behind it.
pub(super) fn bcrypt_cost(stored: &str) -> Option<u32> {
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
