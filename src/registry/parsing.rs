//! Reading manifests off the async threads.
//!
//! A manifest of megabytes takes tens of milliseconds to read, and an async thread that does so serves nobody meanwhile. Must
//! not know what is read for. Invariant: at most [`PARSERS_MAX`] long manifests are read at once, so that their memory is
//! bounded, however many wait.

use tokio::sync::Semaphore;

use super::RegistryError;
use crate::store::StoreError;

/// Long manifests read at once. Each takes a few times its own bytes; more of them are not faster on the machines that
/// registries run on.
const PARSERS_MAX: usize = 4;

/// A shorter manifest is read where it is: a usual image has a few kilobytes, which take tens of microseconds, and the way to
/// another thread takes as long.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Where manifests are read.
pub(super) struct Parsing(Semaphore);

impl Default for Parsing {
    fn default() -> Self {
        Self(Semaphore::new(PARSERS_MAX))
    }
}

impl Parsing {
    /// Runs `read`, which looks through `size_bytes`.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        size_bytes: usize,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RegistryError> {
        if size_bytes <= INLINE_BYTES_MAX {
            return Ok(read());
        }
        // It is never closed; without a permit there would be more readers, and nothing worse.
        let _permit = self.0.acquire().await;
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| {
            let source = std::io::Error::other(error);
            let doing = "read a manifest".to_owned();
            StoreError::Io { doing, source }.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::clock::{Clock, ManualClock};
    use crate::index::Index;
    use crate::layout::OwnedPlace;
    use crate::oci::{Algorithm, Digest, READ_HERE_BYTES, Reference, RepositoryName};
    use crate::registry::open_mode::OpenMode;
    use crate::registry::{Limits, ManifestContent, PageRequest, References, Registry, Settings};
    use crate::store::memory::MemoryStore;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn registry() -> Registry {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
        let settings = Settings {
            deletes_enabled: true,
            readonly: false,
            references: References::Strict,
            case_insensitive: false,
            limits: Limits {
                manifest_size_bytes: 4 * 1024 * 1024,
                whole_bodies_bytes: 64 * 1024 * 1024,
                mount_probes: 10,
                list_page: 10,
                catalog_page: 10,
                open_uploads: 10,
                grace_period_secs: 86_400,
            },
        };
        Registry::new(
            Arc::new(MemoryStore::new(Arc::clone(&clock))),
            Arc::new(Index::in_memory(Arc::clone(&clock))),
            settings,
            &[7; 32],
            Arc::clone(&clock),
        )
    }

    /// The runtime of this test has one thread, which is this one.
    #[tokio::test]
    async fn a_long_manifest_is_never_read_on_an_async_thread() {
        let registry = registry();
        let open = OpenMode::new().await;
        let permit = open.permit();
        let name = "a".parse().unwrap();
        let subject = Digest::of(Algorithm::Sha256, b"");
        let filling = "[],".repeat(50_000);
        let about = format!(r#""subject":{{"digest":"{subject}","size":0}}"#);
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],{about},"x":[[{filling}0]]}}"#
        );
        let body = bytes::Bytes::from(body);
        let reference = Reference::Tag("v1".parse().unwrap());
        let before = READ_HERE_BYTES.get();
        // One that is taken, and one that is not.
        let put = |body| registry.put_manifest(&name, &reference, &[], Some(INDEX), body, &permit);
        put(body.clone()).await.unwrap();
        put(body.slice(1..)).await.unwrap_err();
        let found = registry.manifest(&name, &reference).await.unwrap();
        assert!(matches!(found.content, ManifestContent::InMemory(bytes) if bytes == body));
        let page = PageRequest::default();
        let referrers = registry.referrers(&name, &subject, None, &page);
        assert_eq!(referrers.await.unwrap().items.len(), 1, "not read at all");
        registry.read_everything().await.unwrap();
        let read_bytes = READ_HERE_BYTES.get() - before;
        assert_eq!(read_bytes, 0, "a long manifest was read on an async thread");
    }

    #[tokio::test]
    async fn ten_thousand_links_are_not_read_in_one_go() {
        let registry = registry();
        let name: RepositoryName = "a".parse().unwrap();
        let link = |number: u32| {
            let digest = Digest::of(Algorithm::Sha256, &number.to_be_bytes());
            OwnedPlace::LayerLink(name.clone(), digest).key()
        };
        let links: Vec<_> = (0..10_000).map(link).collect();
        let turns = Arc::new(AtomicUsize::new(0));
        let others = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                others.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        registry.linked_each(&links).await.unwrap();
        other.abort();
        let turns = turns.load(Ordering::Relaxed);
        assert!(turns >= 10_000 / 256, "others had {turns} turns");
    }
}
