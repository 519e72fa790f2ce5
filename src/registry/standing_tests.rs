//! Everything that takes locks, at once, on a store with links whose data are gone: nothing may stand still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::open_mode::OpenMode;
use super::*;
use crate::clock::SystemClock;
use crate::layout::Place;
use crate::oci::{Algorithm, Digest, Reference, RepositoryName};
use crate::store::Step;
use crate::store::filesystem::{self, FilesystemStore};

/// Ten times what it takes on a busy machine, and less than a request waits for a lock: who gives up would hide it.
const NEVER: Duration = Duration::from_mins(1);

const ROUNDS: u64 = 60;
const BLOBS: u64 = 24;
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Lab {
    registry: Registry,
    open: OpenMode,
    done: AtomicU64,
    _directory: tempfile::TempDir,
}

fn content(number: u64) -> Bytes {
    Bytes::from(format!("layer {}", number % BLOBS))
}

fn digest(number: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &content(number))
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

impl Lab {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let directory = tempfile::tempdir().unwrap();
        let place = filesystem::Settings::at(directory.path());
        let store = FilesystemStore::open(place, Arc::clone(&clock)).unwrap();
        let mut settings = Settings::for_tests();
        // Each push of a manifest goes to its end, whatever was deleted meanwhile.
        settings.references = References::Any;
        let index = Arc::new(Index::in_memory(Arc::clone(&clock)));
        let lab = Self {
            registry: Registry::new(Arc::new(store), index, settings, b"s", clock),
            open: OpenMode::new().await,
            done: AtomicU64::new(0),
            _directory: directory,
        };
        // As a collector leaves it that removes data and not links.
        for number in 0..BLOBS {
            lab.push_blob("a", number).await;
        }
        lab.registry.index_sync.read_everything().await.unwrap();
        let gone = (0..BLOBS / 2).map(|number| Step::Remove(Place::BlobData(digest(number)).key()));
        lab.registry.core.store.apply(gone.collect()).await.unwrap();
        lab
    }

    async fn push_blob(&self, repository: &str, number: u64) {
        let owner = Owner {
            account: String::new(),
            generation: String::new(),
            client: [127, 0, 0, 1].into(),
        };
        let bytes = content(number);
        let chunk = Chunk {
            sent: None,
            length_bytes: Some(bytes.len() as u64),
            body: futures_util::stream::iter([Ok(bytes)]).boxed(),
        };
        let (name, digest) = (name(repository), digest(number));
        let (uploads, actor) = (&self.registry.uploads, self.open.actor());
        let pushed = uploads.receive_whole(&name, &owner, &digest, chunk, actor);
        pushed.await.unwrap();
    }

    async fn push_manifest(&self, repository: &str, number: u64, tag: &str) -> Digest {
        let layers = (number..number + 8).map(|number| {
            let size_bytes = content(number).len();
            let digest = digest(number);
            format!(r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size_bytes}}}"#)
        });
        let layers = layers.collect::<Vec<_>>();
        let (config, layers) = (&layers[0], layers[1..].join(","));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layers}]}}"#
        );
        let reference = Reference::Tag(tag.parse().unwrap());
        let name = name(repository);
        let put = self.registry.manifests.put(
            &name,
            &reference,
            &[],
            Some(OCI_MANIFEST),
            manifest.into(),
            self.open.actor(),
        );
        put.await.unwrap().digest
    }

    /// What one of the workers does in one round.
    async fn work(&self, worker: u64, round: u64) {
        let repository = ["a", "b"][(round % 2) as usize];
        match worker {
            0..4 => {
                self.push_blob(repository, round * 5 + worker).await;
                self.push_manifest(repository, round + worker, &format!("w{worker}"))
                    .await;
            }
            4 => {
                self.push_manifest(repository, round % 3, &format!("t{}", round % 7))
                    .await;
            }
            5 => {
                // What is not there any more was deleted by others.
                let digest = digest(round * 7);
                let (name, actor) = (name(repository), self.open.actor());
                let deleted = self.registry.blobs.delete(&name, &digest, actor);
                let _ = deleted.await;
            }
            6 => {
                let pushed = self.push_manifest(repository, round % 3, "gone").await;
                let reference = Reference::Digest(pushed);
                let name = name(repository);
                let (manifests, actor) = (&self.registry.manifests, self.open.actor());
                let deleted = manifests.delete(&name, &reference, actor);
                let _ = deleted.await;
            }
            _ => {
                let (to, from) = (name(repository), name("a"));
                let from = (!round.is_multiple_of(3)).then_some(&from);
                let digest = digest(round * 3);
                let (blobs, actor) = (&self.registry.blobs, self.open.actor());
                let mounted = blobs.mount(&to, &digest, from, actor);
                mounted.await.unwrap();
            }
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_stands_still_while_the_index_is_compared_and_filled() {
    let lab = Lab::new().await;
    let is_over = AtomicBool::new(false);
    let workers = futures_util::future::join_all((0..8).map(|worker| {
        let lab = &lab;
        async move {
            for round in 0..ROUNDS {
                lab.work(worker, round).await;
            }
        }
    }));
    let compares = async {
        for round in 1_u64.. {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            if round.is_multiple_of(4) {
                lab.registry.index_sync.rebuild(&|_| {}).await.unwrap();
            }
            lab.registry.index_sync.compare(&|_| {}).await.unwrap();
        }
    };
    let all = async {
        let work = async {
            workers.await;
            is_over.store(true, Ordering::Relaxed);
        };
        let beside = async { tokio::join!(work, compares) };
        tokio::select! {
            _ = beside => {}
            () = lab.registry.index_sync.run() => {}
        }
    };
    let ended = tokio::time::timeout(NEVER, all).await;
    let done = lab.done.load(Ordering::Relaxed);
    assert!(
        ended.is_ok(),
        "everything stands still after {done} of {} operations",
        8 * ROUNDS
    );
}
