//! Shares of the upload sessions: how many each owner may have open, and which are closed first.
//!
//! Must not know the uploads. Invariant: no owner has a session closed, or is refused one, because of an owner with fewer.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::layout::UploadId;

/// How many sessions of one account, or of one address where there are no accounts, may be open: forty pushes of fifty
/// layers at once. Each is a directory with a file in it.
const SESSIONS_PER_HOLDER_MAX: usize = 2_000;

/// After so long without a request a session does not count any more: pushes that broke off must not shut a pipeline out
/// for a week. Its bytes stay as long as those of any other.
const COUNTED: Duration = Duration::from_hours(1);

/// How long an idle session stays open. Clients send the next chunk within seconds; taking it up again costs little.
const IDLE: Duration = Duration::from_mins(5);

/// How many sessions are counted in all: bounds memory (about 100 bytes each). Beyond it, those of the owner with most no
/// longer count.
const COUNTED_MAX: usize = 65_536;

/// The owner of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The account; empty in open mode.
    pub account: String,
    /// The generation of its credentials; empty in open mode and for foreign tokens.
    pub generation: String,
    /// The client's address: it has the share where there is no account. The session is not bound to it.
    pub client: IpAddr,
}

/// What a share belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Account(String),
    /// For clients without an account; of IPv6 the /64, all of which a client can use.
    Address(IpAddr),
}

/// Too many sessions have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) struct TooManySessions {
    /// How many may be.
    pub(in crate::registry) limit: usize,
}

/// Sessions that have not ended, with when each was last used.
#[derive(Default)]
pub(super) struct Shares {
    holders: HashMap<UploadId, Holder>,
    sessions: HashMap<Holder, HashMap<UploadId, Duration>>,
}

/// Sessions that are open and idle, oldest first.
#[derive(Default)]
pub(super) struct Idle {
    by_age: BTreeMap<(Duration, u64), (UploadId, Option<Holder>)>,
    ages: HashMap<UploadId, (Duration, u64)>,
    next: u64,
}

impl Holder {
    fn of(owner: &Owner) -> Self {
        if !owner.account.is_empty() {
            return Self::Account(owner.account.clone());
        }
        Self::Address(match owner.client.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl Shares {
    pub(super) fn admit(
        &mut self,
        id: UploadId,
        owner: &Owner,
        now: Duration,
    ) -> Result<(), TooManySessions> {
        let holder = Holder::of(owner);
        let open = self.sessions.get(&holder).map_or(0, HashMap::len);
        if open >= SESSIONS_PER_HOLDER_MAX {
            self.forget_old(&holder, now);
            let open = self.sessions.get(&holder).map_or(0, HashMap::len);
            if open >= SESSIONS_PER_HOLDER_MAX {
                let limit = SESSIONS_PER_HOLDER_MAX;
                return Err(TooManySessions { limit });
            }
        }
        self.note(id, owner, now);
        Ok(())
    }

    pub(super) fn note(&mut self, id: UploadId, owner: &Owner, now: Duration) {
        let holder = self.holders.entry(id).or_insert_with(|| Holder::of(owner));
        let sessions = self.sessions.entry(holder.clone()).or_default();
        sessions.insert(id, now);
        if self.holders.len() > COUNTED_MAX {
            let most = self.sessions.iter().max_by_key(|(_, ids)| ids.len());
            if let Some(holder) = most.map(|(holder, _)| holder.clone()) {
                self.forget_all(&holder);
            }
        }
    }

    pub(super) fn forget(&mut self, id: UploadId) {
        let Some(holder) = self.holders.remove(&id) else {
            return;
        };
        if let Some(sessions) = self.sessions.get_mut(&holder) {
            sessions.remove(&id);
            if sessions.is_empty() {
                self.sessions.remove(&holder);
            }
        }
    }

    /// How many sessions are counted.
    pub(super) fn count(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn holder_of(&self, id: UploadId) -> Option<Holder> {
        self.holders.get(&id).cloned()
    }

    fn forget_old(&mut self, holder: &Holder, now: Duration) {
        if let Some(sessions) = self.sessions.get_mut(holder) {
            let holders = &mut self.holders;
            sessions.retain(|id, used| {
                let counts = now.saturating_sub(*used) < COUNTED;
                if !counts {
                    holders.remove(id);
                }
                counts
            });
        }
    }

    fn forget_all(&mut self, holder: &Holder) {
        for id in self.sessions.remove(holder).into_iter().flatten() {
            self.holders.remove(&id.0);
        }
    }
}

impl Idle {
    pub(super) fn count(&self) -> usize {
        self.ages.len()
    }

    pub(super) fn insert(&mut self, id: UploadId, holder: Option<Holder>, now: Duration) {
        let age = (now, self.next);
        self.next += 1;
        self.ages.insert(id, age);
        self.by_age.insert(age, (id, holder));
    }

    pub(super) fn remove(&mut self, id: UploadId) {
        if let Some(age) = self.ages.remove(&id) {
            self.by_age.remove(&age);
        }
    }

    /// The oldest, if it has been idle for too long; it does not count any more.
    pub(super) fn take_old(&mut self, now: Duration) -> Option<UploadId> {
        let (&(since, _), &(id, _)) = self.by_age.first_key_value()?;
        if now.saturating_sub(since) < IDLE {
            return None;
        }
        self.remove(id);
        Some(id)
    }

    /// Where there are more than `most`: the oldest of the owner with most, which no longer counts.
    pub(super) fn take_beyond(&mut self, most: usize) -> Option<UploadId> {
        if self.by_age.len() <= most {
            return None;
        }
        let mut counts: HashMap<&Option<Holder>, usize> = HashMap::new();
        for (_, holder) in self.by_age.values() {
            *counts.entry(holder).or_default() += 1;
        }
        let largest = counts.values().copied().max()?;
        let mut sessions = self.by_age.values();
        let of_largest = sessions.find(|(_, holder)| counts.get(holder) == Some(&largest));
        let id = of_largest?.0;
        self.remove(id);
        Some(id)
    }
}
