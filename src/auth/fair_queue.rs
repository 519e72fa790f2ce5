//! A queue for work of which only a few pieces may run at a time. Clients take turns.
//!
//! Must not know what the work is. Invariants: free turns go to the waiting clients in rotation, so a client with one
//! waiting task does not stand behind the hundred of another. The number of waiting tasks is limited, for each client and
//! in all. If the queue is full, the client with the most waiting tasks loses its last one to a client with fewer.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Where tasks wait for a turn. A client is an address, or the /64 network of an IPv6 address.
#[derive(Clone)]
pub struct FairQueue(Arc<Turns>);

struct Turns {
    waiting_max: usize,
    waiting_per_client_max: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    waiting: usize,
    by_client: HashMap<IpAddr, VecDeque<oneshot::Sender<Turn>>>,
    /// Clients with waiting tasks, each once, in the order of their turns.
    rotation: VecDeque<IpAddr>,
}

/// A turn. When it is dropped, it passes to the next waiting task.
pub struct Turn(Option<FairQueue>);

/// The queue is full, or the client has as many waiting tasks as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many of this client wait already")]
pub struct Crowded;

impl FairQueue {
    /// An empty queue with `at_once` turns.
    pub fn new(at_once: usize, waiting_max: usize, waiting_per_client_max: usize) -> Self {
        Self(Arc::new(Turns {
            waiting_max,
            waiting_per_client_max: waiting_per_client_max.max(1),
            state: Mutex::new(State {
                free: at_once.max(1),
                waiting: 0,
                by_client: HashMap::new(),
                rotation: VecDeque::new(),
            }),
        }))
    }

    /// Waits until `client` has a turn.
    pub async fn turn(&self, client: IpAddr) -> Result<Turn, Crowded> {
        let waiting = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn(Some(self.clone())));
            }
            self.wait(&mut state, address_group(client))?
        };
        // The sender is dropped if this task lost its place in a full queue.
        waiting.await.map_err(|_| Crowded)
    }

    fn wait(&self, state: &mut State, client: IpAddr) -> Result<oneshot::Receiver<Turn>, Crowded> {
        state.drop_cancelled(client);
        let own = state.by_client.get(&client).map_or(0, VecDeque::len);
        if own >= self.0.waiting_per_client_max {
            return Err(Crowded);
        }
        if state.waiting >= self.0.waiting_max {
            state.make_room(own + 1)?;
        }
        let (sender, receiver) = oneshot::channel();
        if own == 0 {
            state.rotation.push_back(client);
        }
        state.by_client.entry(client).or_default().push_back(sender);
        state.waiting += 1;
        Ok(receiver)
    }

    /// Gives a turn that has ended to the next task.
    fn pass_on(&self) {
        loop {
            let mut state = self.lock();
            let Some(next) = state.next() else {
                state.free += 1;
                return;
            };
            drop(state);
            // A task that was cancelled does not take it. Its turn must not call this function again when it is dropped.
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                Err(mut unwanted) => unwanted.0 = None,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts and lists are changed together, without a panic between.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The first waiting task of the client whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let client = self.rotation.pop_front()?;
        let own = self.by_client.get_mut(&client)?;
        let next = own.pop_front();
        if own.is_empty() {
            self.by_client.remove(&client);
        } else {
            self.rotation.push_back(client);
        }
        self.waiting -= usize::from(next.is_some());
        next
    }

    fn drop_cancelled(&mut self, client: IpAddr) {
        let Some(own) = self.by_client.get_mut(&client) else {
            return;
        };
        let before = own.len();
        own.retain(|sender| !sender.is_closed());
        self.waiting -= before - own.len();
        self.forget_if_none_waits(client);
    }

    /// Removes the last task of the client with the most waiting tasks, if it has more than `wanted`.
    fn make_room(&mut self, wanted: usize) -> Result<(), Crowded> {
        let largest = self.by_client.iter().max_by_key(|(_, own)| own.len());
        let client = largest
            .filter(|(_, own)| own.len() > wanted)
            .map(|(client, _)| *client);
        let client = client.ok_or(Crowded)?;
        if let Some(own) = self.by_client.get_mut(&client) {
            self.waiting -= usize::from(own.pop_back().is_some());
        }
        self.forget_if_none_waits(client);
        Ok(())
    }

    fn forget_if_none_waits(&mut self, client: IpAddr) {
        if self.by_client.get(&client).is_some_and(VecDeque::is_empty) {
            self.by_client.remove(&client);
            self.rotation.retain(|other| *other != client);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.pass_on();
        }
    }
}

/// The address that stands for all those of one client: an IPv4 address for itself, an IPv6 address for its /64, among
/// which a caller chooses freely.
pub fn address_group(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Begins to wait, in this order.
    async fn wait(
        queue: &FairQueue,
        client: IpAddr,
        order: &Arc<Mutex<Vec<IpAddr>>>,
    ) -> tokio::task::JoinHandle<bool> {
        let (queue, order) = (queue.clone(), Arc::clone(order));
        let task = tokio::spawn(async move {
            let turn = queue.turn(client).await;
            if turn.is_ok() {
                order.lock().unwrap().push(client);
            }
            turn.is_ok()
        });
        tokio::task::yield_now().await;
        task
    }

    #[tokio::test]
    async fn clients_have_their_turns_in_rotation() {
        let queue = FairQueue::new(1, 100, 50);
        let held = queue.turn(client(1)).await.expect("free");
        let order = Arc::default();
        let mut tasks = Vec::new();
        for last in [1, 1, 1, 1, 2, 3, 3] {
            tasks.push(wait(&queue, client(last), &order).await);
        }
        drop(held);
        for task in tasks {
            assert!(task.await.unwrap());
        }
        let expected = [1, 2, 3, 1, 3, 1, 1].map(client);
        assert_eq!(*order.lock().unwrap(), expected);
        assert_eq!(queue.lock().free, 1);
    }

    #[tokio::test]
    async fn a_full_queue_makes_room_for_who_has_less() {
        let queue = FairQueue::new(1, 4, 4);
        let held = queue.turn(client(1)).await.expect("free");
        let order = Arc::default();
        let mut crowd = Vec::new();
        for _ in 0..4 {
            crowd.push(wait(&queue, client(1), &order).await);
        }
        assert!(
            queue.turn(client(1)).await.is_err(),
            "its own share is full"
        );
        let other = wait(&queue, client(2), &order).await;
        assert!(
            !crowd.pop().unwrap().await.unwrap(),
            "the last one made room"
        );
        drop(held);
        assert!(other.await.unwrap());
        for task in crowd {
            assert!(task.await.unwrap());
        }
        assert_eq!(queue.lock().free, 1);
        assert_eq!(queue.lock().waiting, 0);
    }

    #[tokio::test]
    async fn who_leaves_takes_no_turn_along() {
        let queue = FairQueue::new(1, 2, 2);
        let held = queue.turn(client(1)).await.expect("free");
        let order = Arc::default();
        for _ in 0..10 {
            let gone = wait(&queue, client(1), &order).await;
            gone.abort();
            let _ = gone.await;
        }
        let waits = wait(&queue, client(2), &order).await;
        drop(held);
        assert!(waits.await.unwrap());
        assert_eq!(queue.lock().free, 1);
        assert!(queue.turn(client(1)).await.is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_its_own() {
        let group = |text: &str| address_group(text.parse().unwrap()).to_string();
        assert_eq!(group("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(group("2001:db8:1:2:ffff::1"), group("2001:db8:1:2::1"));
        assert_ne!(group("2001:db8:1:3::1"), group("2001:db8:1:2::1"));
        assert_eq!(group("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(group("192.0.2.1"), group("192.0.2.2"));
    }
}
