//! The model of an engine: sorted maps in memory.
//!
//! Must not know more than the seam. Invariant: does what sled must do; both pass one suite.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use super::IndexError;
use super::engine::{Engine, Op, Pair, Place, SCAN_MAX, Tree, check_sizes};

#[derive(Debug, Default)]
pub(super) struct MemoryEngine {
    pairs: RwLock<BTreeMap<Place, Vec<u8>>>,
}

impl Engine for MemoryEngine {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        Ok(pairs.get(&(tree, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        tree: Tree,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, IndexError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded((tree, after.to_vec())),
            _ => Bound::Included((tree, prefix.to_vec())),
        };
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        Ok(pairs
            .range((start, Bound::Unbounded))
            .take_while(|((of, key), _)| *of == tree && key.starts_with(prefix))
            .take(limit.min(SCAN_MAX))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, ops: Vec<Op>) -> Result<(), IndexError> {
        check_sizes(&ops)?;
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        for Op { tree, key, value } in ops {
            match value {
                Some(value) => pairs.insert((tree, key), value),
                None => pairs.remove(&(tree, key)),
            };
        }
        Ok(())
    }

    fn health(&self) -> Result<(), IndexError> {
        Ok(())
    }
}
