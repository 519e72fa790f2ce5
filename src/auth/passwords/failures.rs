//! Slowing of failed logins.
//!
//! Must not know passwords. Invariant: only failures count, and what is remembered is bounded.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::auth::bounded::Bounded;
use crate::auth::fair_queue::address_group;
use crate::auth::keyed_hash::{KeyedHash, Purpose};
use crate::auth::settings::Limits;

/// Failures are counted by the minute, and an account left alone for as long after its delay is forgiven.
const WINDOW: Duration = Duration::from_mins(1);

/// The longest delay: a person who mistyped waits no longer than this.
const DELAY_SECS_MAX: u64 = 60;

/// Some clients try the same credentials by POST and again by GET; within this time that is one failure.
const REPEAT: Duration = Duration::from_secs(2);

/// Who failed: an account (by a hash, since a request may bring a name of any length) from an address, or the address as a
/// whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    Account(IpAddr, [u8; 32]),
    Address(IpAddr),
}

#[derive(Debug)]
struct Record {
    window_start: Duration,
    failures: u32,
    blocked_until: Duration,
    delay_secs: u64,
}

/// Who failed to log in lately.
pub(super) struct Failures {
    limits: [u32; 2],
    hash: KeyedHash,
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    records: Bounded<Source, Record>,
    wrong: Bounded<([u8; 32], IpAddr), Duration>,
}

impl Failures {
    /// No failures yet.
    pub(super) fn new(limits: &Limits, hash: KeyedHash) -> Self {
        Self {
            hash,
            limits: [
                limits.failed_logins_per_minute,
                limits.failed_logins_per_minute_per_address,
            ],
            tables: Mutex::new(Tables {
                records: Bounded::new(limits.failed_logins_tracked_max),
                wrong: Bounded::new(limits.failed_logins_tracked_max),
            }),
        }
    }

    fn sources(&self, account: &str, client: IpAddr) -> [Source; 2] {
        let client = address_group(client);
        let account = self.hash.hash(Purpose::Account, &[account.as_bytes()]);
        [Source::Account(client, account), Source::Address(client)]
    }

    fn is_off(&self) -> bool {
        self.limits.first() == Some(&0)
    }

    /// Whether these credentials (`fingerprint`) failed from this address a moment ago, so that they need no other look.
    pub(super) fn is_repeat(&self, fingerprint: [u8; 32], client: IpAddr, now: Duration) -> bool {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let failed_at = tables.wrong.get_mut((fingerprint, address_group(client)));
        failed_at.is_some_and(|failed_at| now < *failed_at + REPEAT)
    }

    /// For how many seconds this account is not looked at from this address.
    pub(super) fn delay_secs(&self, account: &str, client: IpAddr, now: Duration) -> Option<u64> {
        if self.is_off() {
            return None;
        }
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        self.sources(account, client)
            .into_iter()
            .filter_map(|source| {
                let left = tables
                    .records
                    .get_mut(source)?
                    .blocked_until
                    .checked_sub(now)?;
                (!left.is_zero()).then(|| left.as_millis().div_ceil(1_000))
            })
            .max()
            .and_then(|secs| u64::try_from(secs).ok())
    }

    /// Counts a failure, unless it is the repeat of one.
    pub(super) fn record(
        &self,
        fingerprint: [u8; 32],
        account: &str,
        client: IpAddr,
        now: Duration,
    ) {
        if self.is_off() {
            return;
        }
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tables.wrong.get_mut((fingerprint, address_group(client)));
        if before.is_some_and(|failed_at| now < *failed_at + REPEAT) {
            return;
        }
        tables
            .wrong
            .insert((fingerprint, address_group(client)), now);
        for (source, limit) in self.sources(account, client).into_iter().zip(self.limits) {
            let fresh = Record {
                window_start: now,
                failures: 0,
                blocked_until: Duration::ZERO,
                delay_secs: 1,
            };
            let record = match tables.records.get_mut(source.clone()) {
                Some(record) => record,
                None => tables.records.insert(source, fresh),
            };
            if now >= record.window_start.max(record.blocked_until) + WINDOW {
                *record = Record {
                    window_start: now,
                    failures: 0,
                    blocked_until: Duration::ZERO,
                    delay_secs: 1,
                };
            }
            record.failures = record.failures.saturating_add(1);
            if record.failures >= limit {
                record.blocked_until = now + Duration::from_secs(record.delay_secs);
                record.delay_secs = (record.delay_secs * 2).min(DELAY_SECS_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;

    fn hash() -> KeyedHash {
        KeyedHash::new(&Secret::default())
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn fail(failures: &Failures, number: u8, account: &str, at_secs: u64) {
        let at = Duration::from_secs(at_secs);
        failures.record([number; 32], account, CLIENT, at);
    }

    #[test]
    fn the_eleventh_waits_and_delays_double_to_a_minute() {
        let failures = Failures::new(&Limits::default(), hash());
        let delay = |at_secs| failures.delay_secs("alice", CLIENT, Duration::from_secs(at_secs));
        for number in 0..9 {
            fail(&failures, number, "alice", 0);
            assert_eq!(delay(0), None);
        }
        let mut now = 0;
        for (number, expected) in (9_u8..).zip([1, 2, 4, 8, 16, 32, 60, 60]) {
            fail(&failures, number, "alice", now);
            assert_eq!(delay(now), Some(expected));
            now += expected;
            assert_eq!(delay(now), None);
        }
        assert_eq!(failures.delay_secs("bob", CLIENT, Duration::ZERO), None);
        fail(&failures, 99, "alice", now + 60);
        assert_eq!(delay(now + 60), None, "forgiven after a quiet minute");
    }

    #[test]
    fn what_is_remembered_is_small_however_long_the_name() {
        assert!(size_of::<Source>() <= 64);
        let failures = Failures::new(&Limits::default(), hash());
        let long = "a".repeat(64 * 1024);
        for number in 0..10 {
            fail(&failures, number, &long, 0);
        }
        assert!(failures.delay_secs(&long, CLIENT, Duration::ZERO).is_some());
    }

    #[test]
    fn an_address_that_tries_many_accounts_waits() {
        let failures = Failures::new(&Limits::default(), hash());
        for number in 0..100 {
            fail(&failures, number, &format!("user-{number}"), 0);
        }
        assert_eq!(
            failures.delay_secs("other", CLIENT, Duration::ZERO),
            Some(1)
        );
    }

    #[test]
    fn zero_switches_it_off_and_a_repeat_is_known_for_two_seconds() {
        let limits = Limits {
            failed_logins_per_minute: 0,
            ..Limits::default()
        };
        let failures = Failures::new(&limits, hash());
        for number in 0..200 {
            fail(&failures, number, "alice", 0);
        }
        assert_eq!(failures.delay_secs("alice", CLIENT, Duration::ZERO), None);
        let failures = Failures::new(&Limits::default(), hash());
        fail(&failures, 1, "alice", 0);
        let repeats = |secs| failures.is_repeat([1; 32], CLIENT, Duration::from_secs(secs));
        assert!(repeats(1) && !repeats(2));
    }
}
