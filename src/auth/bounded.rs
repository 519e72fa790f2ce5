//! A table that forgets instead of growing.
//!
//! Must not know what it holds. Invariant: never more than twice its capacity; what was used within the last `capacity`
//! insertions is still there.

use std::collections::HashMap;
use std::hash::Hash;

/// Two generations: when the young one is full it becomes the old one, and the old one is forgotten.
#[derive(Debug)]
pub(super) struct Bounded<K, V> {
    capacity: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    /// An empty table; a capacity of 0 counts as 1.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// The value, which stays longer for having been asked for.
    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(&key) {
            self.insert(key, value).into()
        } else {
            self.young.get_mut(&key)
        }
    }

    /// Puts a value in place of any other.
    pub(super) fn insert(&mut self, key: K, value: V) -> &mut V {
        self.old.remove(&key);
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.entry(key).insert_entry(value).into_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_and_stays_bounded() {
        let mut table = Bounded::new(4);
        table.insert(0, "kept");
        for key in 1..100 {
            assert!(table.get_mut(0).is_some());
            table.insert(key, "passing");
            assert!(table.young.len() + table.old.len() <= 8);
        }
        assert!(table.get_mut(1).is_none());
    }
}
