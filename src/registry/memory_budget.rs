//! The memory that bodies may take which are held whole: manifests and forms on their way in, manifests and lists on their
//! way out.
//!
//! Each of them is bounded, and so are connections; their product is not. Bodies that are streamed are not counted. Must
//! not know what is in a body. Invariant: what is reserved is never more than the budget, nor is what one holder has
//! reserved more than its share, so that no client and no kind of use can shut out all the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// What is reserved at a time: each step takes a lock.
const STEP_BYTES: usize = 4 * 1024;

/// One holder has at most half: the other half is for all others.
const SHARES: usize = 2;

/// Who has reserved something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Requests and answers of one client (see [`crate::auth::address_group`]).
    Client(IpAddr),
    /// Manifests that were read: those that are kept, and those that are being sent, to whomever.
    Manifests,
}

/// What bodies held whole may take together.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    limit_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    by_holder: HashMap<Holder, usize>,
}

/// The budget is spent, or the holder's share of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much is held in memory already")]
pub struct BudgetSpent;

impl MemoryBudget {
    /// Nothing reserved yet, of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self(Arc::new(Ledger {
            limit_bytes,
            held: Mutex::default(),
        }))
    }

    /// Nothing yet, for a body that will grow.
    pub fn reservation(&self, holder: Holder) -> Reservation {
        let holder = match holder {
            Holder::Client(address) => Holder::Client(crate::auth::address_group(address)),
            Holder::Manifests => Holder::Manifests,
        };
        Reservation {
            ledger: Arc::clone(&self.0),
            holder,
            bytes: 0,
        }
    }

    /// Whether more than half is reserved.
    pub fn is_scarce(&self) -> bool {
        self.held_bytes() > self.0.limit_bytes / 2
    }

    /// The most that may be reserved.
    pub fn limit_bytes(&self) -> usize {
        self.0.limit_bytes
    }

    /// What is reserved now.
    pub fn held_bytes(&self) -> usize {
        self.0.lock().bytes
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Held> {
        // Each change is two numbers, and cannot panic between them.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, holder: Holder, bytes: usize) {
        let mut held = self.lock();
        held.bytes = held.bytes.saturating_sub(bytes);
        if let Some(of_holder) = held.by_holder.get_mut(&holder) {
            *of_holder = of_holder.saturating_sub(bytes);
            if *of_holder == 0 {
                held.by_holder.remove(&holder);
            }
        }
    }
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    ledger: Arc<Ledger>,
    holder: Holder,
    bytes: usize,
}

impl Reservation {
    /// Reserves as much as a body of `size_bytes` takes, if that is more than so far.
    pub fn grow_to(&mut self, size_bytes: usize) -> Result<(), BudgetSpent> {
        let wanted = size_bytes.checked_next_multiple_of(STEP_BYTES);
        let wanted = wanted.ok_or(BudgetSpent)?;
        let Some(more) = wanted.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return Ok(());
        };
        let limit_bytes = self.ledger.limit_bytes;
        let mut held = self.ledger.lock();
        let of_holder = held.by_holder.get(&self.holder).copied().unwrap_or(0);
        let is_within = |held: usize, limit: usize| {
            let sum = held.checked_add(more);
            sum.is_some_and(|sum| sum <= limit)
        };
        if !is_within(held.bytes, limit_bytes) || !is_within(of_holder, limit_bytes / SHARES) {
            return Err(BudgetSpent);
        }
        held.bytes += more;
        held.by_holder.insert(self.holder, of_holder + more);
        self.bytes = wanted;
        Ok(())
    }

    /// Gives back what a body no longer takes, now that `size_bytes` of it are left.
    pub fn shrink_to(&mut self, size_bytes: usize) {
        let wanted = size_bytes.saturating_add(STEP_BYTES - 1) / STEP_BYTES * STEP_BYTES;
        let less = self.bytes.saturating_sub(wanted);
        self.ledger.give_back(self.holder, less);
        self.bytes -= less;
    }

    /// The bytes, which keep the reservation for as long as any part of them is held.
    pub fn hold(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Reserved {
            bytes,
            _reservation: self,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.give_back(self.holder, self.bytes);
    }
}

struct Reserved<B> {
    bytes: B,
    _reservation: Reservation,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Reserved<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 16 * STEP_BYTES;

    fn client(last: u8) -> Holder {
        Holder::Client([192, 0, 2, last].into())
    }

    #[test]
    fn no_holder_has_more_than_half_and_all_together_no_more_than_all() {
        let budget = MemoryBudget::new(LIMIT);
        let mut first = budget.reservation(client(1));
        first.grow_to(LIMIT / 2).expect("half");
        assert_eq!(budget.reservation(client(1)).grow_to(1), Err(BudgetSpent));
        assert!(!budget.is_scarce());
        let mut second = budget.reservation(client(2));
        second.grow_to(LIMIT / 2).expect("the other half");
        assert!(budget.is_scarce());
        assert_eq!(budget.reservation(client(3)).grow_to(1), Err(BudgetSpent));
        drop(first);
        budget.reservation(client(1)).grow_to(1).expect("room");
        drop(second);
        assert_eq!(budget.held_bytes(), 0);
        assert!(budget.0.lock().by_holder.is_empty());
    }

    #[test]
    fn bytes_keep_their_reservation_until_the_last_part_is_gone() {
        let budget = MemoryBudget::new(LIMIT);
        let mut reservation = budget.reservation(Holder::Manifests);
        reservation.grow_to(10).expect("room");
        let mut bytes = reservation.hold(vec![7; 10]);
        let part = bytes.split_to(3);
        drop(bytes);
        assert_eq!(budget.held_bytes(), STEP_BYTES);
        drop(part);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[test]
    fn what_is_no_longer_held_is_given_back() {
        let budget = MemoryBudget::new(LIMIT);
        let mut reservation = budget.reservation(client(1));
        reservation.grow_to(4 * STEP_BYTES).expect("room");
        reservation.shrink_to(usize::MAX);
        assert_eq!(budget.held_bytes(), 4 * STEP_BYTES);
        reservation.shrink_to(STEP_BYTES + 1);
        assert_eq!(budget.held_bytes(), 2 * STEP_BYTES);
        reservation.grow_to(LIMIT / 2).expect("room again");
        reservation.shrink_to(0);
        assert!(budget.held_bytes() == 0 && budget.0.lock().by_holder.is_empty());
    }

    #[test]
    fn a_size_beyond_all_bounds_is_refused() {
        let budget = MemoryBudget::new(LIMIT);
        let mut reservation = budget.reservation(Holder::Manifests);
        assert_eq!(reservation.grow_to(usize::MAX), Err(BudgetSpent));
        reservation.grow_to(1).expect("room");
        assert_eq!(reservation.grow_to(usize::MAX - 5), Err(BudgetSpent));
        assert_eq!(budget.held_bytes(), STEP_BYTES);
    }
}
