//! The data in a bucket, opened for one instance: checked, locked, and found to be the ones that are meant.
//!
//! Must not know how a bucket is reached. Invariants: the lock of the state directory is held before the lease is asked for, so
//! that a lease of the same installation is that of a run which has ended; nothing is written before the lease is held; without
//! permission to write there is no lease, and nothing that needs one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::missing_parts::refuse_new_bucket;
use super::{Data, Plan, locked};
use crate::durable_file;
use crate::platform;
use crate::store::faulty::HookedStore;
use crate::store::lease::{Holder, Lease, LeaseError};
use crate::store::s3::start_check::check;
use crate::store::shared_state::SharedState;
use crate::store::state_directory::StateDirectory;
use crate::store::{ObjectStore, s3};

/// Names an installation in the lease.
const INSTANCE_ID: &str = "instance-id";

/// Random bytes that no other run has.
const RUN_BYTES: usize = 16;

/// Opens the bucket of `plan`. A store that a test hands in is used in its place.
pub(super) async fn open(plan: &Plan, bucket: &s3::Settings) -> anyhow::Result<Data> {
    let Plan { config, clock, .. } = plan;
    let is_readonly = config.registry.readonly;
    let directory = &config.state_directory;
    let lock = locked(StateDirectory::lock(directory))?;
    let store = if let Some(store) = &plan.parts.store {
        Arc::clone(store)
    } else {
        if let Some(ahead_secs) = check(bucket, is_readonly, Arc::clone(clock)).await? {
            tracing::warn!(
                ahead_secs,
                "the clocks of this machine and of the bucket differ; hint: set the clock (`timedatectl set-ntp true`)"
            );
        }
        config.storage.open(is_readonly, Arc::clone(clock))?
    };
    if is_readonly {
        let shared = locked(SharedState::find(store.as_ref()).await)?;
        let shared = shared.with_context(|| {
            format!(
                "no instance has ever written to the {}, and this one may not\nhint: start once without storage.maintenance.readonly",
                config.storage
            )
        })?;
        return Ok(Data {
            state: StateDirectory::of_bucket(directory.clone(), lock, &shared),
            store: Some(store),
            lease: None,
        });
    }
    let holder = Holder {
        instance: instance_id(directory)?,
        host: platform::node_name(),
        address: config.server.address.to_string(),
        since: OffsetDateTime::from(clock.now())
            .truncate_to_second()
            .format(&Rfc3339)
            .unwrap_or_default(),
    };
    let tell = |other: &str| {
        tracing::warn!("{other}; waiting to see whether it is still there, for a minute at most");
    };
    let lease = Lease::take(
        Arc::clone(&store),
        Arc::clone(clock),
        holder,
        random()?,
        &tell,
    )
    .await;
    let lease = lease.map_err(|error| {
        let hint = match &error {
            LeaseError::Held(_) | LeaseError::HeldByUnknown => {
                "\nhint: stop the other instance, or give this one another bucket or another `rootdirectory`"
            }
            LeaseError::Store(_) => "",
        };
        anyhow::Error::new(error).context(format!("cannot use the {}{hint}", config.storage))
    })?;
    let lease = Arc::new(lease);
    let store: Arc<dyn ObjectStore> = Arc::new(HookedStore {
        inner: store,
        hook: Arc::clone(&lease),
    });
    let found = match locked(SharedState::find(store.as_ref()).await)? {
        Some(shared) => Ok(shared),
        None => make(plan, store.as_ref()).await,
    };
    let shared = match found {
        Ok(shared) => shared,
        Err(error) => {
            // The next start need not wait.
            lease.release().await;
            return Err(error);
        }
    };
    Ok(Data {
        state: StateDirectory::of_bucket(directory.clone(), lock, &shared),
        store: Some(store),
        lease: Some(lease),
    })
}

/// A new store, unless this installation had one.
async fn make(plan: &Plan, store: &dyn ObjectStore) -> anyhow::Result<SharedState> {
    let Plan { config, clock, .. } = plan;
    refuse_new_bucket(config, &plan.environment(), plan.expected)?;
    tracing::info!(bucket = %config.storage, "no instance has used these data before: a new store begins there");
    locked(SharedState::make(store, clock.as_ref()).await)
}

/// Made at the first start in this state directory.
fn instance_id(directory: &Path) -> anyhow::Result<String> {
    let path = directory.join(INSTANCE_ID);
    if let Ok(id) = fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return Ok(id.trim().to_owned());
    }
    let id = random()?;
    durable_file::replace(&path, id.as_bytes(), durable_file::PRIVATE_FILE)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(id)
}

fn random() -> anyhow::Result<String> {
    let mut bytes = [0; RUN_BYTES];
    getrandom::fill(&mut bytes).context("no random numbers")?;
    Ok(HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::config;
    use crate::instance::{Expected, Instance, Parts};
    use crate::store::bucket_like::BucketLike;

    /// An instance on `bucket` with its state in `state`.
    async fn opened(
        bucket: &BucketLike,
        state: &Path,
        clock: &ManualClock,
        expected: Expected,
    ) -> anyhow::Result<Instance> {
        let file = state.join("config.yml");
        let text = format!(
            "{{http: {{addr: '127.0.0.1:0'}}, state_directory: '{}', storage: {{s3: {{bucket: images, regionendpoint: 'http://s3.lab:9000'}}}}}}",
            state.display()
        );
        fs::write(&file, text).unwrap();
        let loaded = config::load(&[file], &BTreeMap::new()).unwrap();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let opening = Instance::open(Plan {
            config: loaded.config,
            clock: shared,
            source: None,
            expected,
            makes_new_authority: false,
            parts: Parts {
                store: Some(Arc::new(bucket.clone())),
                ..Parts::default()
            },
        });
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return opened,
                // Time passes for one who waits.
                () = tokio::time::sleep(Duration::from_millis(2)) => clock.advance(Duration::from_secs(4)),
            }
        }
    }

    #[tokio::test]
    async fn one_instance_at_a_time_uses_a_bucket_and_a_machine_can_follow_another() {
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        let bucket = BucketLike::new(4);
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = opened(&bucket, one.path(), &clock, Expected::Known)
            .await
            .unwrap();
        let secret = first.secret.clone();
        assert_eq!(
            bucket.content("boathouse/secret").as_deref(),
            Some(secret.as_slice())
        );
        assert!(!one.path().join("secret").exists(), "it is with the data");

        let refused = opened(&bucket, two.path(), &clock, Expected::Known)
            .await
            .err()
            .unwrap();
        let said = format!("{refused:#}");
        for part in [
            "cannot use the bucket images at http://s3.lab:9000",
            "hint: stop the other instance",
            "in use by the instance on ",
            " since 2027-01-15T08:00:00Z",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        first.close().await;
        let before = clock.elapsed();
        let second = opened(&bucket, two.path(), &clock, Expected::Known)
            .await
            .unwrap();
        assert_eq!(
            clock.elapsed(),
            before,
            "a lease that was given up is free at once"
        );
        assert_eq!(
            second.secret, secret,
            "uploads and tokens end with a machine"
        );
        // Killed: its lock is gone, its lease is not.
        drop(second);
        let again = opened(&bucket, two.path(), &clock, Expected::Known)
            .await
            .unwrap();
        assert_eq!(clock.elapsed(), before, "a restart waits for its own lease");
        again.close().await;
    }

    #[tokio::test]
    async fn a_bucket_without_the_data_of_this_installation_is_not_begun() {
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        let (bucket, other) = (BucketLike::new(4), BucketLike::new(5));
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        opened(&bucket, state, &clock, Expected::Known)
            .await
            .unwrap()
            .close()
            .await;
        fs::write(state.join("index.state"), "").unwrap();
        let refused = opened(&other, state, &clock, Expected::Known)
            .await
            .err()
            .unwrap();
        let said = format!("{refused:#}");
        assert!(
            said.contains("does not hold the data of this installation"),
            "{said}"
        );
        assert!(other.content("boathouse/secret").is_none());
        opened(&bucket, state, &clock, Expected::Known)
            .await
            .unwrap()
            .close()
            .await;
        opened(&other, state, &clock, Expected::None)
            .await
            .unwrap()
            .close()
            .await;
    }
}
