//! Checking passwords, without letting them eat the machine.
//!
//! Must not know tokens or rules. Invariant: an unknown account costs what a wrong password costs, verified credentials
//! cost one bcrypt, and a password is compared off the async threads, a few at a time.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::bounded::Bounded;
use super::failures::Failures;
use super::keyed_hash::{KeyedHash, Purpose};
use super::settings::Limits;
use super::users::Users;
use crate::clock::Clock;

/// What an unknown account costs when no account has a hash: bcrypt's customary cost.
const COST_DEFAULT: u32 = 10;

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

/// Checks passwords and remembers those that were right.
pub(super) struct Passwords {
    clock: Arc<dyn Clock>,
    hash: KeyedHash,
    failures: Failures,
    verified: Mutex<Bounded<[u8; 32], ()>>,
    permits: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
    /// How many times bcrypt ran.
    pub bcrypt_runs: AtomicUsize,
}

impl Passwords {
    /// Nothing remembered yet.
    pub(super) fn new(limits: &Limits, hash: KeyedHash, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            hash,
            failures: Failures::new(limits),
            verified: Mutex::new(Bounded::new(limits.verified_passwords_max)),
            permits: Semaphore::new(limits.bcrypt_concurrency.max(1)),
            waiting: AtomicUsize::new(0),
            waiting_max: limits.bcrypt_waiting_max,
            bcrypt_runs: AtomicUsize::new(0),
        }
    }

    /// Whether `password` is the one of `account`.
    pub(super) async fn check(
        &self,
        users: &Users,
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
        if self.is_verified(fingerprint) {
            return Verdict::Right;
        }
        let now = self.clock.elapsed();
        if self.failures.is_repeat(fingerprint, client, now) {
            return Verdict::Wrong;
        }
        if let Some(retry_after_secs) = self.failures.delay_secs(account, client, now) {
            return Verdict::Later { retry_after_secs };
        }
        let usable = stored.filter(|stored| bcrypt_cost(stored).is_some());
        let compared = usable.map_or_else(|| dummy_hash(users), str::to_owned);
        let Some(is_equal) = self.compare(password.to_vec(), compared, fingerprint).await else {
            return Verdict::Later {
                retry_after_secs: 1,
            };
        };
        if is_equal && usable.is_some() {
            self.verified
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(fingerprint, ());
            return Verdict::Right;
        }
        let now = self.clock.elapsed();
        if !self.failures.is_repeat(fingerprint, client, now) {
            self.failures.record(fingerprint, account, client, now);
        }
        Verdict::Wrong
    }

    fn is_verified(&self, fingerprint: [u8; 32]) -> bool {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get_mut(fingerprint).is_some()
    }

    /// Runs bcrypt when its turn comes; `None` when too many wait.
    async fn compare(
        &self,
        password: Vec<u8>,
        stored: String,
        fingerprint: [u8; 32],
    ) -> Option<bool> {
        let waiting = Waiting::enter(&self.waiting);
        if waiting.others >= self.waiting_max {
            return None;
        }
        let _permit = self.permits.acquire().await.ok()?;
        drop(waiting);
        // A burst of the same credentials needs one comparison, not one each.
        if self.is_verified(fingerprint) {
            return Some(true);
        }
        self.bcrypt_runs.fetch_add(1, Ordering::Relaxed);
        let compare = move || bcrypt::verify(password, &stored).unwrap_or(false);
        Some(tokio::task::spawn_blocking(compare).await.unwrap_or(false))
    }
}

/// Counts those who wait, also when one of them gives up.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    others: usize,
}

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        let others = count.fetch_add(1, Ordering::Relaxed);
        Self { count, others }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The cost of a well-formed hash: `$2b$10$` and 53 characters, nothing behind it.
fn bcrypt_cost(stored: &str) -> Option<u32> {
    let (version, rest) = stored.split_at_checked("$2b$".len())?;
    let (cost, rest) = rest.split_once('$')?;
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    let is_whole = ["$2a$", "$2b$", "$2x$", "$2y$"].contains(&version)
        && cost.len() == 2
        && rest.len() == SALT_AND_HASH_LENGTH
        && rest.bytes().all(is_base64);
    let cost = cost.parse().ok()?;
    (is_whole && (4..=31).contains(&cost)).then_some(cost)
}

/// As dear as the dearest account.
fn dummy_hash(users: &Users) -> String {
    let dearest = users.password_hashes().filter_map(bcrypt_cost).max();
    let cost = dearest.unwrap_or(COST_DEFAULT);
    format!("$2b${cost:02}${DUMMY_SALT_AND_HASH}")
}
