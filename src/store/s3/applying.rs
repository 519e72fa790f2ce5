//! Writing and removing keys.
//!
//! Whatever is in the bucket is durable, so a barrier asks for no more than an order. Must not know what the keys mean.
//! Invariants: no step begins before all that precede a [`Step::Then`] or [`Step::Barrier`] have ended; steps that have begun
//! are waited for, also when one of them fails.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::attempts::RETRY_AFTER;
use super::requests::{Body, Bucket, Listed, Written};
use crate::layout::{Key, Prefix};
use crate::store::{Condition, Depth, Step, StoreError};

/// How many steps of one call are under way at once: half of all requests, so that a long removal leaves room for others.
const AT_ONCE: usize = 32;

impl Bucket {
    pub(super) async fn apply(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        let mut wave = Vec::new();
        for step in steps {
            match step {
                Step::Then | Step::Barrier => self.apply_wave(std::mem::take(&mut wave)).await?,
                step => wave.push(step),
            }
        }
        self.apply_wave(wave).await
    }

    async fn apply_wave(&self, steps: Vec<Step>) -> Result<(), StoreError> {
        let steps = stream::iter(steps).map(|step| self.apply_one(step));
        let results: Vec<Result<(), StoreError>> = steps.buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    async fn apply_one(&self, step: Step) -> Result<(), StoreError> {
        match step {
            Step::Put {
                key,
                bytes,
                condition,
            } => self.write(&key, bytes, &condition).await,
            Step::Remove(key) => self.delete(key.as_str()).await,
            Step::RemoveTree { prefix, first } => self.remove_tree(&prefix, first.as_ref()).await,
            Step::Settle(key) => self.head(key.as_str()).await.map(drop),
            Step::Then | Step::Barrier => Ok(()),
        }
    }

    /// If the answer to an own attempt was lost, the condition of the next one fails because of what that attempt has written.
    /// Equal bytes are then taken for our own: those that are compared and swapped carry a nonce. With other bytes, ours may
    /// have been there in between, so the caller learns no more than that the outcome is unknown.
    async fn write(
        &self,
        key: &Key,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<(), StoreError> {
        let body = Body::bytes(bytes.clone());
        match self.put(key.as_str(), &body, condition).await? {
            Written::Done(_) => return Ok(()),
            Written::Refused { may_be_own: false } => return Err(StoreError::Conflict),
            Written::Refused { may_be_own: true } => {}
        }
        let unknown = StoreError::Busy {
            retry_after: RETRY_AFTER,
        };
        match self.read(key.as_str(), None).await {
            Ok(found) if found.meta.size_bytes == bytes.len() as u64 => {
                let found: BytesMut = found.bytes.try_collect().await?;
                if found == bytes { Ok(()) } else { Err(unknown) }
            }
            Ok(_) | Err(StoreError::NotFound) => Err(unknown),
            Err(error) => Err(error),
        }
    }

    async fn remove_tree(&self, prefix: &Prefix, first: Option<&Key>) -> Result<(), StoreError> {
        if let Some(first) = first {
            self.delete(first.as_str()).await?;
        }
        let items = self.items(prefix.as_str(), Depth::All);
        let remove = |item: Listed| async move { self.delete(&item.key).await };
        items.try_for_each_concurrent(AT_ONCE, remove).await
    }
}
