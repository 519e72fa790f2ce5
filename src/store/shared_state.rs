//! What belongs to the data in a bucket, and to whichever machine serves them: the server's secret, and whether the data were
//! taken over from another registry.
//!
//! The secret is with the data, as it is in a directory, since what is derived from it must follow them to another machine: the
//! ids of upload sessions, the generations in tokens, and the id by which an index knows its data. It opens no door to readers of
//! the bucket that their access to it does not open already: tokens are signed by a key that is not there. Everything else of an
//! installation (index, lock, spool, keys, accounts) is on the machine. Must not know what the secret is used for. Invariants: a
//! secret, once there, is never replaced; a takeover is recorded before the secret is made, so that a first start that was killed
//! half-way does not count.

use futures_util::TryStreamExt as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::state_directory::{SECRET_BYTES, StateDirectoryError};
use super::{Condition, Depth, ObjectStore, Small, Step, StoreError};
use crate::clock::Clock;
use crate::layout::{self, Key, repositories_directory};
use crate::oci::RepositoryName;

/// See the module.
pub struct SharedState {
    /// Random bytes, the same for all instances on these data.
    pub secret: [u8; SECRET_BYTES],
    /// Whether the data held repositories of another registry at our first start.
    pub is_taken_over: bool,
}

impl SharedState {
    /// Reads it; `None` if no instance has used these data.
    pub async fn find(store: &dyn ObjectStore) -> Result<Option<Self>, StateDirectoryError> {
        let keys = [secret_key(), taken_over_key(), layout::unfinished_move()];
        let read = store.read_each(&keys, 4_096).await?;
        let [secret, taken_over, unfinished] = read.as_slice() else {
            return Err(StoreError::NotFound.into());
        };
        if !matches!(unfinished, Small::Absent) {
            return Err(StateDirectoryError::UnfinishedMove);
        }
        let secret = match secret {
            Small::Absent => return Ok(None),
            Small::Whole(_, bytes) => bytes.as_ref(),
            Small::TooLarge(_) => &[],
        };
        let bad = |_| StateDirectoryError::BadSecret {
            path: secret_key().as_str().into(),
            length_bytes: secret.len(),
        };
        Ok(Some(Self {
            secret: secret.try_into().map_err(bad)?,
            is_taken_over: !matches!(taken_over, Small::Absent),
        }))
    }

    /// Makes it at a first start.
    pub async fn make(
        store: &dyn ObjectStore,
        clock: &dyn Clock,
    ) -> Result<Self, StateDirectoryError> {
        if holds_repositories(store).await? {
            let now = OffsetDateTime::from(clock.now()).truncate_to_second();
            let now = now.format(&Rfc3339).unwrap_or_default();
            let record = format!(
                "{now} boathouse {} took over the data of another registry\n",
                env!("CARGO_PKG_VERSION")
            );
            store
                .apply(vec![Step::put(taken_over_key(), record)])
                .await?;
            tracing::info!("taking over the data of another registry");
        }
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)
            .map_err(|error| StoreError::from_io("make a secret", std::io::Error::other(error)))?;
        let step = Step::Put {
            key: secret_key(),
            bytes: secret.to_vec().into(),
            condition: Condition::Absent,
        };
        let made = store.apply(vec![step]).await;
        // An answer that was lost looks like a refusal: what is there counts.
        match (Self::find(store).await?, made) {
            (Some(state), _) => Ok(state),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(())) => Err(StoreError::NotFound.into()),
        }
    }
}

fn secret_key() -> Key {
    layout::own_key("secret")
}

fn taken_over_key() -> Key {
    layout::own_key("taken-over")
}

/// Whether something is where repositories are that can be one, or a part of its name.
async fn holds_repositories(store: &dyn ObjectStore) -> Result<bool, StoreError> {
    let prefix = repositories_directory();
    let mut entries = store.list(&prefix, Depth::One);
    while let Some(entry) = entries.try_next().await? {
        let name = entry.key.strip_prefix(prefix.as_str());
        let name = name.and_then(|name| name.strip_suffix('/'));
        if name.is_some_and(|name| name.parse::<RepositoryName>().is_ok()) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::store::bucket_like::BucketLike;

    fn clock() -> ManualClock {
        ManualClock::at_unix_secs(1_800_000_000)
    }

    #[tokio::test]
    async fn the_secret_is_made_once_also_where_answers_are_lost() {
        for seed in 0..20 {
            let bucket = BucketLike::new(seed);
            assert!(SharedState::find(&bucket).await.unwrap().is_none());
            bucket.be_busy(3);
            let (mut made, clock) = (Vec::new(), clock());
            for _ in 0..20 {
                let (one, two) = tokio::join!(
                    SharedState::make(&bucket, &clock),
                    SharedState::make(&bucket, &clock)
                );
                made.extend([one, two].into_iter().flatten().map(|state| state.secret));
            }
            made.dedup();
            assert_eq!(made.len(), 1, "seed {seed}");
            let kept = bucket.content("boathouse/secret").unwrap();
            assert_eq!(made.first().map(|made| made.to_vec()), Some(kept));
        }
    }

    #[tokio::test]
    async fn a_takeover_is_recorded_at_the_first_start_and_stays() {
        let bucket = BucketLike::new(1);
        bucket.put_by_another_program("docker/registry/v2/repositories/team/app/_layers/x", b"");
        assert!(
            SharedState::make(&bucket, &clock())
                .await
                .unwrap()
                .is_taken_over
        );
        let found = SharedState::find(&bucket).await.unwrap();
        assert!(found.is_some_and(|state| state.is_taken_over));
        let bucket = BucketLike::new(1);
        assert!(
            !SharedState::make(&bucket, &clock())
                .await
                .unwrap()
                .is_taken_over
        );
    }

    #[tokio::test]
    async fn a_bad_secret_and_an_unfinished_move_are_errors() {
        let bucket = BucketLike::new(1);
        bucket.put_by_another_program("boathouse/secret", b"short");
        let error = SharedState::find(&bucket).await.err().unwrap();
        assert!(error.to_string().contains("holds 5 bytes"), "{error}");
        bucket.put_by_another_program("boathouse/moving", b"");
        let error = SharedState::find(&bucket).await.err().unwrap();
        assert!(matches!(error, StateDirectoryError::UnfinishedMove));
    }
}
