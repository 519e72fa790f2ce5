//! Checking passwords, without letting them use up the machine.
//!
//! Must not know tokens, rules, or how a password is compared (`authenticator`). Invariants: a right login is compared once,
//! also if it comes many times at once; a few logins are compared at a time, of each client in turn; guesses sent at once are
//! slowed like guesses sent one by one.

mod authenticator;
mod ext_auth;
mod failures;
mod ldap;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

pub(super) use authenticator::{Authenticator, StoredHashes, bcrypt_cost};
pub(super) use ext_auth::ProgramAuthenticator;
pub(super) use ldap::Directory;
pub use ldap::{LdapLabel, LdapSettings, LdapTls};

use authenticator::Checked;
use failures::Failures;

use super::accounts::Labels;
use super::bounded::Bounded;
use super::fair_queue::{Crowded, FairQueue, Turn, address_group};
use super::keyed_hash::{KeyedHash, Purpose};
use super::settings::Limits;
use super::tokens::endpoint::Login;
use crate::clock::Clock;

/// For how long a login counts that an external authenticator let in, where a client shows its password with each request: a
/// push of a thousand requests asks once a minute, and a password that no longer holds is good for a minute more. Tokens are
/// never given for what is remembered.
const EXTERNAL_LOGINS_HOLD: Duration = Duration::from_mins(1);

/// Logins remembered that external authenticators let in (4 KiB of labels each at most).
const EXTERNAL_LOGINS_MAX: usize = 1_024;

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The account exists, and this is its password. An account that is in no list has these labels.
    Right(Option<Arc<Labels>>),
    /// No such account, or another password.
    Wrong,
    /// Not known: too many failures, or too many waiting requests.
    Later { retry_after_secs: u64 },
    /// Not known: an external authenticator is unavailable. The text is for the log.
    Unavailable(String),
}

/// When an external authenticator must have been asked about a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Within [`EXTERNAL_LOGINS_HOLD`].
    Lately,
    /// After the request came.
    Now,
}

/// Too many wait already; a second is many comparisons.
const LATER: Verdict = Verdict::Later {
    retry_after_secs: 1,
};

/// Checks passwords and remembers those that were right.
pub(super) struct Passwords {
    clock: Arc<dyn Clock>,
    hash: KeyedHash,
    failures: Failures,
    verified: Mutex<Bounded<[u8; 32], ()>>,
    external: Mutex<Bounded<[u8; 32], ExternalLogin>>,
    external_logins_hold: Duration,
    turns: FairQueue,
    callers: Callers,
    comparing: Comparing,
    /// How many questions were put to authenticators.
    questions: AtomicUsize,
}

/// A login that an external authenticator let in.
struct ExternalLogin {
    labels: Arc<Labels>,
    /// The number of the question that it was the answer to.
    question: usize,
    until: Duration,
}

/// A login that is being checked.
struct Attempt {
    login: Login,
    fingerprint: [u8; 32],
    client: IpAddr,
    /// Answers of external authenticators to later questions count; without it, those that were remembered.
    after: Option<usize>,
}

impl Passwords {
    /// Nothing remembered yet. Tokens live for `token_lifetime`.
    pub(super) fn new(
        limits: &Limits,
        token_lifetime: Duration,
        hash: KeyedHash,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            clock,
            failures: Failures::new(limits, hash.clone()),
            hash,
            verified: Mutex::new(Bounded::new(limits.verified_passwords_max)),
            external: Mutex::new(Bounded::new(EXTERNAL_LOGINS_MAX)),
            // A password gives no more rights than a token.
            external_logins_hold: EXTERNAL_LOGINS_HOLD.min(token_lifetime),
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
            questions: AtomicUsize::new(0),
        }
    }

    /// Whether the password of `login` is that of its account, by the first authenticator that knows the account. What is
    /// remembered of a login holds for one `generation` of the account's credentials.
    pub(super) async fn check(
        self: &Arc<Self>,
        authenticators: impl FnOnce() -> Vec<Arc<dyn Authenticator>>,
        login: &Login,
        generation: &str,
        client: IpAddr,
        freshness: Freshness,
    ) -> Verdict {
        let Login { account, password } = login;
        let parts = [account.as_bytes(), generation.as_bytes(), password];
        let attempt = Attempt {
            login: login.clone(),
            fingerprint: self.hash.hash(Purpose::Password, &parts),
            client,
            after: match freshness {
                Freshness::Lately => None,
                Freshness::Now => Some(self.questions.load(Ordering::Relaxed)),
            },
        };
        if let Some(verdict) = self.known(&attempt) {
            return verdict;
        }
        let Some(waiting) = self.callers.enter(client) else {
            return LATER;
        };
        // The same login sent many times at once, as parallel clients begin, is compared once. Others of the same burst
        // were compared meanwhile as well: what they did counts for this one too, or a burst as long as the queue would be
        // guesses that nothing slows. What follows is recorded before the turn ends.
        let alone = self.comparing.enter(attempt.fingerprint).await;
        if let Some(verdict) = self.known(&attempt) {
            return verdict;
        }
        let authenticators = authenticators();
        let Some(first) = authenticators.first() else {
            return Verdict::Wrong;
        };
        let Ok(turn) = first.turns().turn(client).await else {
            return LATER;
        };
        drop(waiting);
        let passwords = Arc::clone(self);
        // A task of its own: the turn and the record belong to the comparison, which goes on when the caller hangs up.
        let compare = async move {
            let verdict = passwords.ask_each(&authenticators, turn, &attempt).await;
            drop(alone);
            verdict
        };
        let verdict = tokio::spawn(compare).await;
        verdict.unwrap_or_else(|_| Verdict::Unavailable("the check of a login crashed".to_owned()))
    }

    /// Asks each authenticator, until one knows the account. The first one has its turn.
    async fn ask_each(
        &self,
        authenticators: &[Arc<dyn Authenticator>],
        first: Turn,
        attempt: &Attempt,
    ) -> Verdict {
        let mut turn = Some(first);
        for authenticator in authenticators {
            let turn = match turn.take() {
                Some(turn) => turn,
                None => match authenticator.turns().turn(attempt.client).await {
                    Ok(turn) => turn,
                    Err(Crowded) => return LATER,
                },
            };
            if let Some(verdict) = self.known(attempt) {
                return verdict;
            }
            let question = self.questions.fetch_add(1, Ordering::Relaxed) + 1;
            let Login { account, password } = &attempt.login;
            let verdict = match authenticator.check(account, password).await {
                Checked::Unknown => continue,
                Checked::Right(labels) => Verdict::Right(labels),
                Checked::Wrong => Verdict::Wrong,
                Checked::Unavailable(reason) => return Verdict::Unavailable(reason),
            };
            self.record(&verdict, question, attempt);
            drop(turn);
            return verdict;
        }
        self.record(&Verdict::Wrong, 0, attempt);
        Verdict::Wrong
    }

    fn record(&self, verdict: &Verdict, question: usize, attempt: &Attempt) {
        let now = self.clock.elapsed();
        match verdict {
            Verdict::Right(None) => {
                let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
                verified.insert(attempt.fingerprint, ());
            }
            Verdict::Right(Some(labels)) => {
                let login = ExternalLogin {
                    labels: Arc::clone(labels),
                    question,
                    until: now.saturating_add(self.external_logins_hold),
                };
                let mut external = self.external.lock().unwrap_or_else(PoisonError::into_inner);
                external.insert(attempt.fingerprint, login);
            }
            Verdict::Wrong => {
                let account = &attempt.login.account;
                let (fingerprint, client) = (attempt.fingerprint, attempt.client);
                self.failures.record(fingerprint, account, client, now);
            }
            Verdict::Later { .. } | Verdict::Unavailable(_) => {}
        }
    }

    /// Forgets the logins that external authenticators let in: others are configured.
    pub(super) fn forget_external(&self) {
        let mut external = self.external.lock().unwrap_or_else(PoisonError::into_inner);
        *external = Bounded::new(EXTERNAL_LOGINS_MAX);
    }

    /// Where comparisons with stored hashes wait for their turns.
    pub(super) fn turns(&self) -> &FairQueue {
        &self.turns
    }

    /// How many questions were put to authenticators.
    pub(super) fn compared_logins(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }

    fn is_verified(&self, fingerprint: [u8; 32]) -> bool {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get_mut(fingerprint).is_some()
    }

    /// The labels of a login that an external authenticator let in, if it was asked lately enough.
    fn external_labels(&self, attempt: &Attempt) -> Option<Arc<Labels>> {
        let now = self.clock.elapsed();
        let mut external = self.external.lock().unwrap_or_else(PoisonError::into_inner);
        let login = external.get_mut(attempt.fingerprint)?;
        let holds = match attempt.after {
            None => now < login.until,
            Some(after) => login.question > after,
        };
        holds.then(|| Arc::clone(&login.labels))
    }

    /// What can be said of a login without comparing it.
    fn known(&self, attempt: &Attempt) -> Option<Verdict> {
        let fingerprint = attempt.fingerprint;
        if self.is_verified(fingerprint) {
            return Some(Verdict::Right(None));
        }
        if let Some(labels) = self.external_labels(attempt) {
            return Some(Verdict::Right(Some(labels)));
        }
        let (account, client) = (&attempt.login.account, attempt.client);
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
    struct Says(Checked, AtomicUsize, FairQueue);

    impl std::fmt::Debug for Says {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.fmt(formatter)
        }
    }

    #[async_trait::async_trait]
    impl Authenticator for Says {
        fn turns(&self) -> &FairQueue {
            &self.2
        }

        async fn check(&self, _account: &str, _password: &[u8]) -> Checked {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn the_first_authenticator_that_knows_the_account_decides() {
        use Checked::{Unknown, Wrong};
        const RIGHT: Checked = Checked::Right(None);
        const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let down = || Checked::Unavailable("down".to_owned());
        let unavailable = || Verdict::Unavailable("down".to_owned());
        for (answers, expected, asked) in [
            ([RIGHT, Wrong], Verdict::Right(None), 1),
            ([Wrong, RIGHT], Verdict::Wrong, 1),
            ([Unknown, RIGHT], Verdict::Right(None), 2),
            ([Unknown, Wrong], Verdict::Wrong, 2),
            ([Unknown, Unknown], Verdict::Wrong, 2),
            ([down(), RIGHT], unavailable(), 1),
            ([Unknown, down()], unavailable(), 2),
        ] {
            let hash = KeyedHash::new(&Secret::default());
            let clock = Arc::new(ManualClock::at_unix_secs(1_795_500_000));
            let lifetime = Duration::from_mins(15);
            let passwords = Passwords::new(&Limits::default(), lifetime, hash, clock);
            let passwords = Arc::new(passwords);
            let says =
                |answer| Arc::new(Says(answer, AtomicUsize::new(0), FairQueue::new(1, 1, 1)));
            let each = answers.clone().map(says);
            let [first, second] = &each;
            let list = || -> Vec<Arc<dyn Authenticator>> {
                vec![Arc::<Says>::clone(first), Arc::<Says>::clone(second)]
            };
            let login = Login {
                account: "alice".to_owned(),
                password: b"password".to_vec(),
            };
            let check = || passwords.check(&list, &login, "generation", CLIENT, Freshness::Lately);
            assert_eq!(check().await, expected, "{answers:?}");
            let times_asked = || {
                each.iter()
                    .map(|one| one.1.load(Ordering::Relaxed))
                    .sum::<usize>()
            };
            assert_eq!(times_asked(), asked, "{answers:?}");
            // A verdict is remembered. If there was none, the next login asks again, and no failure is counted.
            assert_eq!(check().await, expected, "{answers:?}");
            let again = match expected {
                Verdict::Unavailable(_) => 2 * asked,
                _ => asked,
            };
            assert_eq!(times_asked(), again, "{answers:?}");
        }
    }
}
