//! Checking passwords, without letting them use up the machine.
//!
//! Must not know tokens, rules, or how a password is compared (`authenticator`). Invariants: a right login is compared once,
//! also if it comes many times at once; a few logins are compared at a time, of each client in turn; guesses sent at once are
//! slowed like guesses sent one by one.

mod authenticator;
mod failures;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

pub(super) use authenticator::{Authenticator, StoredHashes, bcrypt_cost};

use authenticator::{Checked, check_with_each};
use failures::Failures;

use super::bounded::Bounded;
use super::fair_queue::{FairQueue, address_group};
use super::keyed_hash::{KeyedHash, Purpose};
use super::settings::Limits;
use crate::clock::Clock;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The account exists, and this is its password.
    Right,
    /// No such account, or another password.
    Wrong,
    /// Not known: too many failures, too many waiting requests, or no authenticator that can be reached.
    Later { retry_after_secs: u64 },
}

/// Too many wait already (a second is many comparisons), or the account's authenticator cannot be asked.
const LATER: Verdict = Verdict::Later {
    retry_after_secs: 1,
};

/// Checks passwords and remembers those that were right.
pub(super) struct Passwords {
    clock: Arc<dyn Clock>,
    hash: KeyedHash,
    failures: Failures,
    verified: Mutex<Bounded<[u8; 32], ()>>,
    turns: FairQueue,
    callers: Callers,
    comparing: Comparing,
    /// How many logins were compared.
    compared_logins: AtomicUsize,
}

impl Passwords {
    /// Nothing remembered yet.
    pub(super) fn new(limits: &Limits, hash: KeyedHash, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            failures: Failures::new(limits, hash.clone()),
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
        }
    }

    /// Whether `password` is the one of `account`, by the authenticator that knows it. What is remembered of a login holds
    /// for one `generation` of the account's credentials.
    pub(super) async fn check(
        self: &Arc<Self>,
        authenticators: impl FnOnce() -> Vec<Arc<dyn Authenticator>>,
        account: &str,
        generation: &str,
        password: &[u8],
        client: IpAddr,
    ) -> Verdict {
        let parts = [account.as_bytes(), generation.as_bytes(), password];
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
        self.compared_logins.fetch_add(1, Ordering::Relaxed);
        let (passwords, authenticators) = (Arc::clone(self), authenticators());
        let (account, password) = (account.to_owned(), password.to_vec());
        // A task of its own: the turn and the record belong to the comparison, which goes on when the caller hangs up.
        let compare = async move {
            let checked = check_with_each(&authenticators, &account, &password).await;
            passwords.record(checked, fingerprint, &account, client);
            drop((turn, alone));
            checked
        };
        match tokio::spawn(compare).await {
            Ok(Checked::Right) => Verdict::Right,
            Ok(Checked::Wrong | Checked::Unknown) => Verdict::Wrong,
            Ok(Checked::Unavailable) | Err(_) => LATER,
        }
    }

    fn record(&self, checked: Checked, fingerprint: [u8; 32], account: &str, client: IpAddr) {
        match checked {
            Checked::Right => {
                let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
                verified.insert(fingerprint, ());
            }
            Checked::Wrong | Checked::Unknown => {
                let now = self.clock.elapsed();
                self.failures.record(fingerprint, account, client, now);
            }
            Checked::Unavailable => {}
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
    /// Waits until no other request compares this login.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;
    use crate::clock::ManualClock;

    /// Says the same of every password, and counts how often it is asked.
    struct Says(Checked, AtomicUsize);

    #[async_trait::async_trait]
    impl Authenticator for Says {
        async fn check(&self, _account: &str, _password: &[u8]) -> Checked {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0
        }
    }

    #[tokio::test]
    async fn the_first_authenticator_that_knows_the_account_decides() {
        use Checked::{Right, Unavailable, Unknown, Wrong};
        const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        for (answers, expected, asked) in [
            ([Right, Wrong], Verdict::Right, 1),
            ([Wrong, Right], Verdict::Wrong, 1),
            ([Unknown, Right], Verdict::Right, 2),
            ([Unknown, Wrong], Verdict::Wrong, 2),
            ([Unknown, Unknown], Verdict::Wrong, 2),
            ([Unavailable, Right], LATER, 1),
            ([Unknown, Unavailable], LATER, 2),
        ] {
            let hash = KeyedHash::new(&Secret::default());
            let clock = Arc::new(ManualClock::at_unix_secs(1_795_500_000));
            let passwords = Arc::new(Passwords::new(&Limits::default(), hash, clock));
            let each = answers.map(|answer| Arc::new(Says(answer, AtomicUsize::new(0))));
            let [first, second] = &each;
            let list = || -> Vec<Arc<dyn Authenticator>> {
                vec![Arc::<Says>::clone(first), Arc::<Says>::clone(second)]
            };
            let check = || passwords.check(&list, "alice", "generation", b"password", CLIENT);
            assert_eq!(check().await, expected, "{answers:?}");
            let times_asked = || {
                each.iter()
                    .map(|one| one.1.load(Ordering::Relaxed))
                    .sum::<usize>()
            };
            assert_eq!(times_asked(), asked, "{answers:?}");
            // A verdict is remembered. If there was none, the next login asks again, and no failure is counted.
            assert_eq!(check().await, expected, "{answers:?}");
            let again = if expected == LATER { 2 * asked } else { asked };
            assert_eq!(times_asked(), again, "{answers:?}");
        }
    }
}
