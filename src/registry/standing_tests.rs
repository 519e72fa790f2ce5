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
        let settings = Settings {
            deletes_enabled: true,
            readonly: false,
            // Each push of a manifest goes to its end, whatever was deleted meanwhile.
            references: References::Any,
            case_insensitive: false,
            limits: Limits {
                manifest_size_bytes: 1 << 20,
                whole_bodies_bytes: 64 * 1024 * 1024,
                mount_probes: 100,
                list_page: 100,
                catalog_page: 100,
                open_uploads: 100,
                grace_period_secs: 86_400,
            },
        };
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
        lab.registry.read_everything().await.unwrap();
        let gone = (0..BLOBS / 2).map(|number| Step::Remove(Place::BlobData(digest(number)).key()));
        lab.registry.store.apply(gone.collect()).await.unwrap();
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
        let permit = self.open.permit();
        let pushed = (self.registry).upload_whole(&name, &owner, &digest, chunk, &permit);
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
        let permit = self.open.permit();
        let reference = Reference::Tag(tag.parse().unwrap());
        let name = name(repository);
        let put = self.registry.put_manifest(
            &name,
            &reference,
            &[],
            Some(OCI_MANIFEST),
            manifest.into(),
            &permit,
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
                let (name, permit) = (name(repository), self.open.permit());
                let deleted = self.registry.delete_blob(&name, &digest, &permit);
                let _ = deleted.await;
            }
            6 => {
                let pushed = self.push_manifest(repository, round % 3, "gone").await;
                let reference = Reference::Digest(pushed);
                let name = name(repository);
                let permit = self.open.permit();
                let deleted = self.registry.delete_manifest(&name, &reference, &permit);
                let _ = deleted.await;
            }
            _ => {
                let permit = self.open.permit();
                let (to, from) = (name(repository), name("a"));
                let from = (!round.is_multiple_of(3)).then_some(&from);
                let digest = digest(round * 3);
                let mounted = self.registry.mount_blob(&to, &digest, from, &permit);
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
                lab.registry.fill_index_anew(&|_| {}).await.unwrap();
            }
            lab.registry.compare_index(&|_| {}).await.unwrap();
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
            () = lab.registry.keep_index() => {}
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
