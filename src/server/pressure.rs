//! Who has a place while connections are scarce.
//!
//! Connections are always taken; none waits for another one to end. Up to 80 % of the limit everybody has what they want.
//! Above it a client (an address, or the /64 of an IPv6 address) with more than its share gets another place only by giving
//! up the one of its own that has been idle for the longest, and what is idle is closed sooner. At the limit, a newcomer
//! gets the place that has been idle for the longest of the client that has the most. Who finds none is heard in a reserve,
//! where only health is answered. Peers that are trusted proxies have no share: they speak for many clients.
//!
//! Must not know what a connection carries. Invariants: a request that moves, or that is ours to go on with, is never cut
//! for another one; all places and the reserve together are bounded.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::pulse::{Pulse, Standing};
use crate::auth::address_group;
use crate::clock::Clock;

/// Places beyond the limit in which health is answered: enough for all who watch a machine at once.
pub(super) const RESERVE: usize = 32;

/// Connections that were put out and may finish their answers. Those that are leaving count against the reserve; this leaves
/// half of it to newcomers.
const FINISHING_MAX: usize = RESERVE / 2;

/// How long a connection may take in the reserve until it has asked.
const RESERVE_TIME: Duration = Duration::from_secs(2);

/// A client's share while connections are scarce, as a part of the limit: three may take what they want and leave some.
const SHARE_PARTS: usize = 4;

/// What handshakes, heads and idle connections may take while connections are scarce, as a part of what they may otherwise.
const TIGHT_PARTS: u32 = 4;

/// A request counts as one that does not move when nothing has come of it for so long: the pauses of a bad network are
/// shorter.
const STANDS_STILL: Duration = Duration::from_secs(5);

/// A request that has not moved for so long makes room without a newcomer while connections are scarce.
const TIGHT_STILL: Duration = Duration::from_secs(30);

/// How many connections of a client are looked at for one newcomer: the oldest, which bounds the work.
const LOOKED_AT: usize = 2_048;

/// How many clients are looked at for one newcomer: those with the most connections.
const HOLDERS_LOOKED_AT: usize = 8;

/// Who has which place.
#[derive(Clone)]
pub(super) struct Pressure(Arc<Roll>);

struct Roll {
    limit: usize,
    trusted_proxies: Vec<IpNet>,
    clock: Arc<dyn Clock>,
    next_number: AtomicU64,
    listed: Mutex<Listed>,
}

#[derive(Default)]
struct Listed {
    places: Members,
    reserve: Members,
    /// Put out, and not gone yet.
    leaving: usize,
}

/// Connections by their client; `None` for those of trusted proxies.
#[derive(Default)]
struct Members {
    by_holder: HashMap<Option<IpAddr>, BTreeMap<u64, Arc<Member>>>,
    count: usize,
}

struct Member {
    number: u64,
    holder: Option<IpAddr>,
    is_reserve: bool,
    pulse: Arc<Pulse>,
    put_out: CancellationToken,
}

/// A connection's place; given up when dropped.
pub(super) struct Place {
    pressure: Pressure,
    member: Arc<Member>,
}

impl Pressure {
    /// Nobody there yet.
    pub(super) fn new(limit: usize, trusted_proxies: Vec<IpNet>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Roll {
            limit,
            trusted_proxies,
            clock,
            next_number: AtomicU64::new(0),
            listed: Mutex::default(),
        }))
    }

    /// Whether more than 80 % are taken (DESIGN D7): only then is slowness a reason to end anything.
    pub(super) fn is_high(&self) -> bool {
        self.is_high_at(self.lock().places.count)
    }

    /// How many places are taken.
    pub(super) fn taken(&self) -> usize {
        self.lock().places.count
    }

    /// A place for a connection from `peer`, or one in the reserve; `None` if there is not even that.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<Place> {
        let roll = &self.0;
        let peer = peer.to_canonical();
        let is_proxy = roll.trusted_proxies.iter().any(|net| net.contains(&peer));
        let holder = (!is_proxy).then(|| address_group(peer));
        let mut listed = self.lock();
        let own = listed.places.of(holder);
        let has_share = holder.is_none() || own < (roll.limit / SHARE_PARTS).max(1);
        let is_free = listed.places.count < roll.limit;
        let would_be_high = self.is_high_at(listed.places.count + 1);
        if !(is_free && (has_share || !would_be_high)) {
            let victim = if has_share {
                self.victim_of_the_largest(&listed.places, holder, own)
            } else {
                self.longest_idle(listed.places.by_holder.get(&holder))
            };
            let Some(victim) = victim else {
                return self.admit_to_reserve(&mut listed, holder);
            };
            listed.put_out(&victim);
        }
        Some(self.place(&mut listed, holder, false))
    }

    /// Closes what has been idle for the longest, of whoever has the most: for want of descriptors.
    pub(super) fn make_room(&self) {
        let mut listed = self.lock();
        if let Some(victim) = self.victim_of_the_largest(&listed.places, None, 0) {
            listed.put_out(&victim);
        }
    }

    /// Closes what takes too long while others may need its place.
    pub(super) fn sweep(&self, limits: &Limits) {
        let now = self.0.clock.elapsed();
        let mut listed = self.lock();
        let tight = |secs| Duration::from_secs(secs) / TIGHT_PARTS;
        let is_over = |since: Duration, limit: Duration| now.saturating_sub(since) >= limit;
        let late = |member: &Member| match member.pulse.standing() {
            Standing::ShakingHands { since } => is_over(since, tight(limits.handshake_secs)),
            Standing::Idle { since } => is_over(since, tight(limits.header_secs)),
            Standing::Waiting { since } => {
                limits.floor_bytes_per_sec > 0 && is_over(since, TIGHT_STILL)
            }
            Standing::Working => false,
        };
        let mut victims = Vec::new();
        if self.is_high_at(listed.places.count) {
            victims.extend(listed.places.all().filter(|member| late(member)).cloned());
        }
        let is_unheard = |member: &Member| match member.pulse.standing() {
            Standing::ShakingHands { since }
            | Standing::Idle { since }
            | Standing::Waiting { since } => is_over(since, RESERVE_TIME),
            Standing::Working => false,
        };
        let unheard = listed.reserve.all().filter(|member| is_unheard(member));
        victims.extend(unheard.cloned());
        for victim in victims {
            listed.put_out(&victim);
        }
    }

    fn is_high_at(&self, taken: usize) -> bool {
        taken > self.0.limit - self.0.limit / 5
    }

    /// The connection that makes room for one more of `newcomer`, who has `own` already: of somebody who has more, or of
    /// its own.
    fn victim_of_the_largest(
        &self,
        places: &Members,
        newcomer: Option<IpAddr>,
        own: usize,
    ) -> Option<Arc<Member>> {
        let mut holders: Vec<_> = places
            .by_holder
            .iter()
            .filter(|(holder, members)| {
                holder.is_some() && (members.len() > own || **holder == newcomer)
            })
            .collect();
        holders.sort_unstable_by_key(|(_, members)| std::cmp::Reverse(members.len()));
        holders
            .into_iter()
            .take(HOLDERS_LOOKED_AT)
            .find_map(|(_, members)| self.longest_idle(Some(members)))
    }

    fn longest_idle(&self, members: Option<&BTreeMap<u64, Arc<Member>>>) -> Option<Arc<Member>> {
        let now = self.0.clock.elapsed();
        let idle_since = |member: &Arc<Member>| match member.pulse.standing() {
            Standing::ShakingHands { since } | Standing::Idle { since } => Some(since),
            Standing::Waiting { since } => {
                (now.saturating_sub(since) >= STANDS_STILL).then_some(since)
            }
            Standing::Working => None,
        };
        members?
            .values()
            .take(LOOKED_AT)
            .filter_map(|member| Some((idle_since(member)?, member)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, member)| Arc::clone(member))
    }

    fn admit_to_reserve(&self, listed: &mut Listed, holder: Option<IpAddr>) -> Option<Place> {
        if listed.leaving >= RESERVE {
            return None;
        }
        if listed.reserve.count >= RESERVE {
            let fullest = listed
                .reserve
                .by_holder
                .values()
                .max_by_key(|own| own.len());
            let oldest = fullest.and_then(|own| own.values().next()).cloned()?;
            listed.put_out(&oldest);
        }
        Some(self.place(listed, holder, true))
    }

    fn place(&self, listed: &mut Listed, holder: Option<IpAddr>, is_reserve: bool) -> Place {
        let member = Arc::new(Member {
            number: self.0.next_number.fetch_add(1, Ordering::Relaxed),
            holder,
            is_reserve,
            pulse: Pulse::new(Arc::clone(&self.0.clock)),
            put_out: CancellationToken::new(),
        });
        listed.members(is_reserve).insert(&member);
        Place {
            pressure: self.clone(),
            member,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listed> {
        // Lists stay whole whoever panics.
        self.0.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    fn members(&mut self, is_reserve: bool) -> &mut Members {
        if is_reserve {
            &mut self.reserve
        } else {
            &mut self.places
        }
    }

    fn put_out(&mut self, member: &Arc<Member>) {
        if self.members(member.is_reserve).remove(member) {
            self.leaving += 1;
            member.put_out.cancel();
        }
    }
}

impl Members {
    fn of(&self, holder: Option<IpAddr>) -> usize {
        self.by_holder.get(&holder).map_or(0, BTreeMap::len)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.by_holder.values().flat_map(BTreeMap::values)
    }

    fn insert(&mut self, member: &Arc<Member>) {
        let own = self.by_holder.entry(member.holder).or_default();
        own.insert(member.number, Arc::clone(member));
        self.count += 1;
    }

    fn remove(&mut self, member: &Member) -> bool {
        let Some(own) = self.by_holder.get_mut(&member.holder) else {
            return false;
        };
        let was_there = own.remove(&member.number).is_some();
        if own.is_empty() {
            self.by_holder.remove(&member.holder);
        }
        self.count -= usize::from(was_there);
        was_there
    }
}

impl Place {
    /// What tells how the connection stands.
    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.member.pulse
    }

    /// Whether only health is answered here.
    pub(super) fn is_reserve(&self) -> bool {
        self.member.is_reserve
    }

    /// Resolves when somebody else has the place.
    pub(super) async fn put_out(&self) {
        self.member.put_out.cancelled().await;
    }

    /// Whether a connection that was put out may finish its answer: not while many are leaving.
    pub(super) fn may_finish(&self) -> bool {
        self.pressure.lock().leaving <= FINISHING_MAX
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut listed = self.pressure.lock();
        if !listed.members(self.member.is_reserve).remove(&self.member) {
            listed.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::server::Settings;

    const ATTACKER: &str = "192.0.2.1";
    const PROXY: &str = "10.0.0.9";

    fn pressure(limit: usize) -> (Pressure, ManualClock) {
        let clock = ManualClock::at_unix_secs(0);
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let pressure = Pressure::new(limit, proxies, Arc::new(clock.clone()));
        (pressure, clock)
    }

    fn admit(pressure: &Pressure, peer: &str) -> Place {
        pressure.admit(peer.parse().unwrap()).expect("is heard")
    }

    fn is_put_out(place: &Place) -> bool {
        place.member.put_out.is_cancelled()
    }

    #[test]
    fn one_address_leaves_a_fifth_to_the_others_and_gives_up_its_own_longest_idle() {
        let (pressure, clock) = pressure(10);
        let mut attacker = Vec::new();
        for _ in 0..100 {
            clock.advance(Duration::from_millis(1));
            attacker.push(admit(&pressure, ATTACKER));
        }
        assert_eq!(pressure.taken(), 8);
        let put_out = attacker
            .iter()
            .take_while(|place| is_put_out(place))
            .count();
        assert_eq!(put_out, 92, "the longest idle ones, in their order");
        let other = admit(&pressure, "192.0.2.2");
        assert!(!other.is_reserve() && pressure.is_high());
        assert!(!attacker[92..].iter().any(is_put_out), "there was room");
    }

    #[test]
    fn addresses_of_one_ipv6_network_have_one_share() {
        let (pressure, clock) = pressure(10);
        let mut attacker = Vec::new();
        for number in 0..100 {
            clock.advance(Duration::from_millis(1));
            attacker.push(admit(&pressure, &format!("2001:db8::{number:x}")));
        }
        assert_eq!(pressure.taken(), 8);
        assert!(!admit(&pressure, "2001:db8:0:1::1").is_reserve());
    }

    #[test]
    fn at_the_limit_the_longest_idle_of_the_largest_makes_room() {
        let (pressure, clock) = pressure(10);
        let mut places = Vec::new();
        // Each has less than the share of 2, but one has more than the others.
        for last in [1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
            clock.advance(Duration::from_millis(1));
            places.push(admit(&pressure, &format!("192.0.2.{last}")));
        }
        let used = places[0].pulse().begin();
        clock.advance(Duration::from_millis(1));
        drop(used);
        let newcomer = admit(&pressure, "192.0.2.100");
        assert!(!newcomer.is_reserve());
        let put_out: Vec<bool> = places.iter().map(is_put_out).collect();
        assert_eq!(put_out.iter().filter(|out| **out).count(), 1);
        assert!(put_out[1], "the other one was used since");
        // Nobody has more than it now, so what it adds is at its own cost.
        let again = admit(&pressure, "192.0.2.100");
        assert!(!again.is_reserve() && is_put_out(&newcomer));
    }

    #[test]
    fn a_request_that_moves_or_is_worked_on_is_never_cut_and_one_that_crawls_is() {
        let (pressure, clock) = pressure(10);
        let places: Vec<Place> = (0..8).map(|_| admit(&pressure, ATTACKER)).collect();
        let turns: Vec<_> = places.iter().map(|place| place.pulse().begin()).collect();
        for turn in &turns[1..] {
            turn.clients();
        }
        for _ in 0..60 {
            clock.advance(Duration::from_secs(1));
            for turn in &turns[2..] {
                turn.moved(1_024);
            }
            turns[1].moved(1);
        }
        assert!(!admit(&pressure, ATTACKER).is_reserve());
        let put_out: Vec<bool> = places.iter().map(is_put_out).collect();
        assert_eq!(put_out.iter().filter(|out| **out).count(), 1);
        assert!(put_out[1]);
        let _last = admit(&pressure, ATTACKER);
        assert!(!places[2..].iter().any(is_put_out) && !is_put_out(&places[0]));
    }

    #[test]
    fn who_finds_no_place_is_heard_in_the_reserve_which_is_bounded_and_shared_too() {
        let (pressure, clock) = pressure(2);
        let busy: Vec<_> = (0..2)
            .map(|last| admit(&pressure, &format!("192.0.2.{last}")))
            .map(|place| (place.pulse().begin(), place))
            .collect();
        let mut crowd = Vec::new();
        for _ in 0..200 {
            crowd.retain(|place| !is_put_out(place));
            crowd.push(admit(&pressure, ATTACKER));
        }
        let health = admit(&pressure, "192.0.2.77");
        assert!(crowd.iter().all(Place::is_reserve) && health.is_reserve());
        assert_eq!(crowd.iter().filter(|place| !is_put_out(place)).count(), 31);
        clock.advance(RESERVE_TIME);
        pressure.sweep(&Settings::for_tests().limits);
        assert!(crowd.iter().all(is_put_out));
        assert!(!busy.iter().any(|(_, place)| is_put_out(place)));
        drop((crowd, busy, health));
        assert!(!admit(&pressure, ATTACKER).is_reserve());
        assert_eq!(pressure.lock().leaving, 0);
    }

    #[test]
    fn connections_that_finish_their_answers_leave_room_in_the_reserve() {
        let (pressure, clock) = pressure(100);
        let mut finishing = Vec::new();
        for _ in 0..500 {
            clock.advance(Duration::from_millis(1));
            finishing.push(admit(&pressure, ATTACKER));
            // What may not finish ends at once.
            finishing.retain(|place| !is_put_out(place) || place.may_finish());
        }
        let left = finishing.iter().filter(|place| is_put_out(place)).count();
        assert_eq!(left, FINISHING_MAX);
        let turns: Vec<_> = finishing
            .iter()
            .map(|place| place.pulse().begin())
            .collect();
        assert!(admit(&pressure, ATTACKER).is_reserve());
        drop(turns);
    }

    #[test]
    fn a_trusted_proxy_has_no_share_and_is_nobodys_victim() {
        let (pressure, _) = pressure(10);
        let proxied: Vec<Place> = (0..10).map(|_| admit(&pressure, PROXY)).collect();
        assert_eq!(pressure.taken(), 10);
        assert!(admit(&pressure, ATTACKER).is_reserve());
        assert!(!proxied.iter().any(is_put_out));
    }

    #[test]
    fn what_is_idle_goes_sooner_while_places_are_scarce_and_only_then() {
        let (pressure, clock) = pressure(10);
        let limits = Settings::for_tests().limits;
        let mut few: Vec<Place> = (0..8).map(|_| admit(&pressure, PROXY)).collect();
        few[0].pulse().speaks();
        clock.advance(Duration::from_secs(limits.header_secs));
        pressure.sweep(&limits);
        assert!(!few.iter().any(is_put_out));
        few.push(admit(&pressure, "192.0.2.2"));
        few[8].pulse().speaks();
        let turn = few[1].pulse().begin();
        clock.advance(Duration::from_secs(limits.handshake_secs) / TIGHT_PARTS);
        pressure.sweep(&limits);
        let put_out: Vec<bool> = few.iter().map(is_put_out).collect();
        assert!(!put_out[1] && !put_out[8], "one works, one has time left");
        assert_eq!(put_out.iter().filter(|out| **out).count(), 7);
        drop(turn);
    }
}
