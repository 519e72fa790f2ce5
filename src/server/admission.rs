//! Which connections have a slot, and which are closed while slots are scarce.
//!
//! Every connection is accepted; none waits for another one to end. Up to 80 % of the limit, all get a slot. Above that, a
//! client (an address, or the /64 network of an IPv6 address) that has more than its share gets another slot only in
//! exchange for its own connection that has been idle the longest, and idle connections are closed earlier. At the limit, a
//! new connection takes the slot of the longest idle connection of the client with the most connections. If there is none,
//! it is admitted to a reserve, in which only health requests are answered. Trusted proxies have no share, because they act
//! for many clients.
//!
//! Must not know what a connection carries. Invariants: a request that makes progress, or that the server works on, is
//! never closed in favour of another one; the number of slots, the reserve included, is limited.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::activity::{Activity, Phase};
use crate::auth::address_group;
use crate::clock::Clock;
use crate::metrics::Connections as Figures;

/// Slots beyond the limit, in which only health requests are answered: enough for all programs that monitor one machine.
pub(super) const RESERVE: usize = 32;

/// Evicted connections that may finish their answers. Connections that are being closed count against the reserve; this
/// limit leaves half of it to new ones.
const FINISHING_MAX: usize = RESERVE / 2;

/// The time in which a connection in the reserve must have sent its request.
const RESERVE_TIME: Duration = Duration::from_secs(2);

/// A client's share while slots are scarce, as a fraction of the limit: three clients can use all of their shares, and
/// slots remain.
const SHARE_PARTS: usize = 4;

/// The time for a handshake, for a head and for an idle connection while slots are scarce, as a fraction of the usual time.
const TIGHT_PARTS: u32 = 4;

/// A request has stalled if there was no progress for this time. Pauses of a bad network are shorter.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// A request that has stalled for this time is closed while slots are scarce, even if no new connection needs the slot.
const CLOSED_AFTER_STALL: Duration = Duration::from_secs(30);

/// How many connections of one client are examined for a new connection, oldest first. It limits the work.
const CONNECTIONS_EXAMINED: usize = 2_048;

/// How many clients are examined for a new connection: those with the most connections.
const CLIENTS_EXAMINED: usize = 8;

/// The slots of all connections.
#[derive(Clone)]
pub(super) struct Admission(Arc<Shared>);

struct Shared {
    limit: usize,
    trusted_proxies: Vec<IpNet>,
    clock: Arc<dyn Clock>,
    next_number: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: Connections,
    reserve: Connections,
    /// Evicted, but not closed yet.
    closing: usize,
}

/// Connections by client. The key is `None` for trusted proxies.
#[derive(Default)]
struct Connections {
    by_client: HashMap<Option<IpAddr>, BTreeMap<u64, Arc<Connection>>>,
    count: usize,
}

struct Connection {
    number: u64,
    client: Option<IpAddr>,
    is_reserve: bool,
    activity: Arc<Activity>,
    evicted: CancellationToken,
}

/// The slot of one connection. Dropping it frees the slot.
pub(super) struct Slot {
    admission: Admission,
    connection: Arc<Connection>,
}

impl Admission {
    /// All slots are free.
    pub(super) fn new(limit: usize, trusted_proxies: Vec<IpNet>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Shared {
            limit,
            trusted_proxies,
            clock,
            next_number: AtomicU64::new(0),
            state: Mutex::default(),
        }))
    }

    /// Whether more than 80 % of the slots are taken. Only then is slowness a reason to close a connection.
    pub(super) fn is_scarce(&self) -> bool {
        self.is_scarce_at(self.lock().slots.count)
    }

    /// The number of slots that are taken.
    pub(super) fn taken(&self) -> usize {
        self.lock().slots.count
    }

    /// How many connections there are, and what they do; those in the reserve are among them.
    pub(super) fn figures(&self) -> Figures {
        let now = self.0.clock.elapsed();
        let state = self.lock();
        let mut figures = Figures {
            limit: self.0.limit,
            ..Figures::default()
        };
        for connection in state.slots.all().chain(state.reserve.all()) {
            let count = match connection.activity.phase() {
                Phase::Handshake { .. } => &mut figures.handshake,
                Phase::Idle { .. } => &mut figures.idle,
                Phase::Working => &mut figures.working,
                Phase::Waiting { since } if now.saturating_sub(since) >= STALLED_AFTER => {
                    &mut figures.stalled
                }
                Phase::Waiting { .. } => &mut figures.waiting,
            };
            *count += 1;
        }
        figures
    }

    /// A slot for a connection from `peer`, in the reserve if there is no other; `None` if the reserve is full too.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Slot> {
        let shared = &self.0;
        let peer = peer.to_canonical();
        let is_proxy = shared.trusted_proxies.iter().any(|net| net.contains(&peer));
        let client = (!is_proxy).then(|| address_group(peer));
        let mut state = self.lock();
        let own = state.slots.of(client);
        let has_share = client.is_none() || own < (shared.limit / SHARE_PARTS).max(1);
        let is_free = state.slots.count < shared.limit;
        let would_be_scarce = self.is_scarce_at(state.slots.count + 1);
        if !(is_free && (has_share || !would_be_scarce)) {
            let victim = if has_share {
                self.victim_of_the_largest_client(&state.slots, client, own)
            } else {
                self.longest_idle(state.slots.by_client.get(&client))
            };
            let Some(victim) = victim else {
                return self.admit_to_reserve(&mut state, client);
            };
            state.evict(&victim);
        }
        Some(self.place(&mut state, client, false))
    }

    /// Closes the longest idle connection of the client with the most connections. Called when the process has no file
    /// descriptors left.
    pub(super) fn make_room(&self) {
        let mut state = self.lock();
        if let Some(victim) = self.victim_of_the_largest_client(&state.slots, None, 0) {
            state.evict(&victim);
        }
    }

    /// While slots are scarce, closes connections that take too long.
    pub(super) fn sweep(&self, limits: &Limits) {
        let now = self.0.clock.elapsed();
        let mut state = self.lock();
        let tight = |secs| Duration::from_secs(secs) / TIGHT_PARTS;
        let is_over = |since: Duration, limit: Duration| now.saturating_sub(since) >= limit;
        let late = |connection: &Connection| match connection.activity.phase() {
            Phase::Handshake { since } => is_over(since, tight(limits.handshake_secs)),
            Phase::Idle { since } => is_over(since, tight(limits.header_secs)),
            Phase::Waiting { since } => {
                limits.floor_bytes_per_sec > 0 && is_over(since, CLOSED_AFTER_STALL)
            }
            Phase::Working => false,
        };
        let mut victims = Vec::new();
        if self.is_scarce_at(state.slots.count) {
            victims.extend(
                state
                    .slots
                    .all()
                    .filter(|connection| late(connection))
                    .cloned(),
            );
        }
        let is_late_in_reserve = |connection: &Connection| match connection.activity.phase() {
            Phase::Handshake { since } | Phase::Idle { since } | Phase::Waiting { since } => {
                is_over(since, RESERVE_TIME)
            }
            Phase::Working => false,
        };
        let late_in_reserve = state
            .reserve
            .all()
            .filter(|connection| is_late_in_reserve(connection));
        victims.extend(late_in_reserve.cloned());
        for victim in victims {
            state.evict(&victim);
        }
    }

    fn is_scarce_at(&self, taken: usize) -> bool {
        taken > self.0.limit - self.0.limit / 5
    }

    /// The connection that is closed for a new one of `newcomer`, which has `own` connections: one of a client with more
    /// connections, or one of its own.
    fn victim_of_the_largest_client(
        &self,
        slots: &Connections,
        newcomer: Option<IpAddr>,
        own: usize,
    ) -> Option<Arc<Connection>> {
        let mut clients: Vec<_> = slots
            .by_client
            .iter()
            .filter(|(client, connections)| {
                client.is_some() && (connections.len() > own || **client == newcomer)
            })
            .collect();
        clients.sort_unstable_by_key(|(_, connections)| std::cmp::Reverse(connections.len()));
        clients
            .into_iter()
            .take(CLIENTS_EXAMINED)
            .find_map(|(_, connections)| self.longest_idle(Some(connections)))
    }

    fn longest_idle(
        &self,
        connections: Option<&BTreeMap<u64, Arc<Connection>>>,
    ) -> Option<Arc<Connection>> {
        let now = self.0.clock.elapsed();
        let idle_since = |connection: &Arc<Connection>| match connection.activity.phase() {
            Phase::Handshake { since } | Phase::Idle { since } => Some(since),
            Phase::Waiting { since } => {
                (now.saturating_sub(since) >= STALLED_AFTER).then_some(since)
            }
            Phase::Working => None,
        };
        connections?
            .values()
            .take(CONNECTIONS_EXAMINED)
            .filter_map(|connection| Some((idle_since(connection)?, connection)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, connection)| Arc::clone(connection))
    }

    fn admit_to_reserve(&self, state: &mut State, client: Option<IpAddr>) -> Option<Slot> {
        if state.closing >= RESERVE {
            return None;
        }
        if state.reserve.count >= RESERVE {
            let fullest = state.reserve.by_client.values().max_by_key(|own| own.len());
            let oldest = fullest.and_then(|own| own.values().next()).cloned()?;
            state.evict(&oldest);
        }
        Some(self.place(state, client, true))
    }

    fn place(&self, state: &mut State, client: Option<IpAddr>, is_reserve: bool) -> Slot {
        let connection = Arc::new(Connection {
            number: self.0.next_number.fetch_add(1, Ordering::Relaxed),
            client,
            is_reserve,
            activity: Activity::new(Arc::clone(&self.0.clock)),
            evicted: CancellationToken::new(),
        });
        state.connections(is_reserve).insert(&connection);
        Slot {
            admission: self.clone(),
            connection,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The lists are consistent even after a panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn connections(&mut self, is_reserve: bool) -> &mut Connections {
        if is_reserve {
            &mut self.reserve
        } else {
            &mut self.slots
        }
    }

    fn evict(&mut self, connection: &Arc<Connection>) {
        if self.connections(connection.is_reserve).remove(connection) {
            self.closing += 1;
            connection.evicted.cancel();
        }
    }
}

impl Connections {
    fn of(&self, client: Option<IpAddr>) -> usize {
        self.by_client.get(&client).map_or(0, BTreeMap::len)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.by_client.values().flat_map(BTreeMap::values)
    }

    fn insert(&mut self, connection: &Arc<Connection>) {
        let own = self.by_client.entry(connection.client).or_default();
        own.insert(connection.number, Arc::clone(connection));
        self.count += 1;
    }

    fn remove(&mut self, connection: &Connection) -> bool {
        let Some(own) = self.by_client.get_mut(&connection.client) else {
            return false;
        };
        let was_there = own.remove(&connection.number).is_some();
        if own.is_empty() {
            self.by_client.remove(&connection.client);
        }
        self.count -= usize::from(was_there);
        was_there
    }
}

impl Slot {
    /// The progress of this connection.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.connection.activity
    }

    /// Whether only health requests are answered on this connection.
    pub(super) fn is_reserve(&self) -> bool {
        self.connection.is_reserve
    }

    /// Resolves when the connection has lost its slot.
    pub(super) async fn evicted(&self) {
        self.connection.evicted.cancelled().await;
    }

    /// Whether an evicted connection may finish its answer: not while many are being closed.
    pub(super) fn may_finish(&self) -> bool {
        self.admission.lock().closing <= FINISHING_MAX
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        if !state
            .connections(self.connection.is_reserve)
            .remove(&self.connection)
        {
            state.closing -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::server::Settings;

    const FLOODER: &str = "192.0.2.1";
    const PROXY: &str = "10.0.0.9";

    fn admission(limit: usize) -> (Admission, ManualClock) {
        let clock = ManualClock::at_unix_secs(0);
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let admission = Admission::new(limit, proxies, Arc::new(clock.clone()));
        (admission, clock)
    }

    fn admit(admission: &Admission, peer: &str) -> Slot {
        admission.admit(peer.parse().unwrap()).expect("a slot")
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.connection.evicted.is_cancelled()
    }

    #[test]
    fn one_address_leaves_a_fifth_of_the_slots_and_loses_its_own_longest_idle_connection() {
        let (admission, clock) = admission(10);
        let mut flood = Vec::new();
        for _ in 0..100 {
            clock.advance(Duration::from_millis(1));
            flood.push(admit(&admission, FLOODER));
        }
        assert_eq!(admission.taken(), 8);
        let evicted = flood.iter().take_while(|slot| is_evicted(slot)).count();
        assert_eq!(evicted, 92, "the longest idle ones, in their order");
        let other = admit(&admission, "192.0.2.2");
        assert!(!other.is_reserve() && admission.is_scarce());
        assert!(!flood[92..].iter().any(is_evicted), "there were free slots");
    }

    #[test]
    fn addresses_of_one_ipv6_network_have_one_share() {
        let (admission, clock) = admission(10);
        let mut flood = Vec::new();
        for number in 0..100 {
            clock.advance(Duration::from_millis(1));
            flood.push(admit(&admission, &format!("2001:db8::{number:x}")));
        }
        assert_eq!(admission.taken(), 8);
        assert!(!admit(&admission, "2001:db8:0:1::1").is_reserve());
    }

    #[test]
    fn at_the_limit_the_client_with_the_most_connections_loses_its_longest_idle_one() {
        let (admission, clock) = admission(10);
        let mut slots = Vec::new();
        // Each has less than the share of 2, but one has more than the others.
        for last in [1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
            clock.advance(Duration::from_millis(1));
            slots.push(admit(&admission, &format!("192.0.2.{last}")));
        }
        let used = slots[0].activity().begin();
        clock.advance(Duration::from_millis(1));
        drop(used);
        let newcomer = admit(&admission, "192.0.2.100");
        assert!(!newcomer.is_reserve());
        let evicted: Vec<bool> = slots.iter().map(is_evicted).collect();
        assert_eq!(evicted.iter().filter(|is_evicted| **is_evicted).count(), 1);
        assert!(evicted[1], "the other one was used since");
        // No client has more connections now, so the next one replaces one of its own.
        let again = admit(&admission, "192.0.2.100");
        assert!(!again.is_reserve() && is_evicted(&newcomer));
    }

    #[test]
    fn a_request_in_progress_is_never_closed_and_one_that_crawls_is() {
        let (admission, clock) = admission(10);
        let slots: Vec<Slot> = (0..8).map(|_| admit(&admission, FLOODER)).collect();
        let turns: Vec<_> = slots.iter().map(|slot| slot.activity().begin()).collect();
        for activity in &turns[1..] {
            activity.waits_for_client();
        }
        for _ in 0..60 {
            clock.advance(Duration::from_secs(1));
            for activity in &turns[2..] {
                activity.transferred(1_024);
            }
            turns[1].transferred(1);
        }
        assert!(!admit(&admission, FLOODER).is_reserve());
        let evicted: Vec<bool> = slots.iter().map(is_evicted).collect();
        assert_eq!(evicted.iter().filter(|is_evicted| **is_evicted).count(), 1);
        assert!(evicted[1]);
        let _last = admit(&admission, FLOODER);
        assert!(!slots[2..].iter().any(is_evicted) && !is_evicted(&slots[0]));
    }

    #[test]
    fn the_reserve_is_for_connections_without_a_slot_and_is_limited_and_shared_too() {
        let (admission, clock) = admission(2);
        let busy: Vec<_> = (0..2)
            .map(|last| admit(&admission, &format!("192.0.2.{last}")))
            .map(|slot| (slot.activity().begin(), slot))
            .collect();
        let mut crowd = Vec::new();
        for _ in 0..200 {
            crowd.retain(|slot| !is_evicted(slot));
            crowd.push(admit(&admission, FLOODER));
        }
        let health = admit(&admission, "192.0.2.77");
        assert!(crowd.iter().all(Slot::is_reserve) && health.is_reserve());
        assert_eq!(crowd.iter().filter(|slot| !is_evicted(slot)).count(), 31);
        clock.advance(RESERVE_TIME);
        admission.sweep(&Settings::for_tests().limits);
        assert!(crowd.iter().all(is_evicted));
        assert!(!busy.iter().any(|(_, slot)| is_evicted(slot)));
        drop((crowd, busy, health));
        assert!(!admit(&admission, FLOODER).is_reserve());
        assert_eq!(admission.lock().closing, 0);
    }

    #[test]
    fn evicted_connections_leave_room_in_the_reserve() {
        let (admission, clock) = admission(100);
        let mut finishing = Vec::new();
        for _ in 0..500 {
            clock.advance(Duration::from_millis(1));
            finishing.push(admit(&admission, FLOODER));
            // The others are closed immediately.
            finishing.retain(|slot| !is_evicted(slot) || slot.may_finish());
        }
        let left = finishing.iter().filter(|slot| is_evicted(slot)).count();
        assert_eq!(left, FINISHING_MAX);
        let turns: Vec<_> = finishing
            .iter()
            .map(|slot| slot.activity().begin())
            .collect();
        assert!(admit(&admission, FLOODER).is_reserve());
        drop(turns);
    }

    #[test]
    fn connections_of_a_trusted_proxy_have_no_share_and_are_never_evicted() {
        let (admission, _) = admission(10);
        let proxied: Vec<Slot> = (0..10).map(|_| admit(&admission, PROXY)).collect();
        assert_eq!(admission.taken(), 10);
        assert!(admit(&admission, FLOODER).is_reserve());
        assert!(!proxied.iter().any(is_evicted));
    }

    #[test]
    fn idle_connections_are_closed_earlier_only_while_slots_are_scarce() {
        let (admission, clock) = admission(10);
        let limits = Settings::for_tests().limits;
        let mut few: Vec<Slot> = (0..8).map(|_| admit(&admission, PROXY)).collect();
        few[0].activity().handshake_done();
        clock.advance(Duration::from_secs(limits.header_secs));
        admission.sweep(&limits);
        assert!(!few.iter().any(is_evicted));
        few.push(admit(&admission, "192.0.2.2"));
        few[8].activity().handshake_done();
        let activity = few[1].activity().begin();
        clock.advance(Duration::from_secs(limits.handshake_secs) / TIGHT_PARTS);
        admission.sweep(&limits);
        let evicted: Vec<bool> = few.iter().map(is_evicted).collect();
        assert!(
            !evicted[1] && !evicted[8],
            "one is in progress, one has time left"
        );
        assert_eq!(evicted.iter().filter(|is_evicted| **is_evicted).count(), 7);
        drop(activity);
    }
}
