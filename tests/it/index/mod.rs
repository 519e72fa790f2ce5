//! The index against the store: whatever happens behind its back, lists are what the store holds.
//!
//! A registry here is started again on the same data and the same index, as a process would be. "The old registry" is
//! played by writing and removing its keys, the way 2.8.2 does.

mod behind_its_back;
mod damage;
mod model;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use boathouse::clock::{Clock, ManualClock};
use boathouse::index::{self, Child, Fact, Forget, Health, Index, Revision};
use boathouse::layout::OwnedPlace;
use boathouse::oci::{Algorithm, Digest, RepositoryName, Tag};
use boathouse::registry::Registry;
use boathouse::store::faulty::{Fault, FaultyStore, Operation};
use boathouse::store::{ObjectStore, Step};
use http::StatusCode;
use proptest::prelude::*;

use crate::data::Data;
use crate::support::{OCI_MANIFEST, Options, TestRegistry, image_manifest};

/// A store and its index, which outlive the registries that serve them.
struct Lab {
    data: Arc<Data>,
    clock: ManualClock,
    store: FaultyStore,
    index: Arc<Index>,
}

/// All that lists and mounts take from an index.
#[derive(Debug, Default, PartialEq, Eq)]
struct Content(BTreeMap<RepositoryName, ContentOfOne>);

#[derive(Debug, PartialEq, Eq)]
struct ContentOfOne {
    /// Not what they point at: that is read from the store, and no directory's time tells that the old registry moved one.
    tags: Vec<Tag>,
    revisions: Vec<Revision>,
    referrers: Vec<Vec<Digest>>,
    children: Vec<Vec<Child>>,
    layers: Vec<Digest>,
    sizes: Vec<Option<u64>>,
    is_holder: Vec<bool>,
}

impl Lab {
    fn new() -> Self {
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        let index = Index::in_memory(shared(&clock));
        Self::with(index, clock)
    }

    fn with(index: Index, clock: ManualClock) -> Self {
        let data = Data::new();
        Self {
            store: FaultyStore::new(data.open(shared(&clock))),
            data,
            index: Arc::new(index),
            clock,
        }
    }

    /// A registry that has not looked at its store yet, and does so only when told.
    fn start_unread(&self) -> TestRegistry {
        let options = Options {
            index: Some(Arc::clone(&self.index)),
            runs_tasks: false,
            ..Options::default()
        };
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        TestRegistry::start_on(store, Arc::clone(&self.data), self.clock.clone(), options)
    }

    /// As a process starts.
    async fn start(&self) -> TestRegistry {
        let registry = self.start_unread();
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
        registry
    }

    /// As a process ends, except that the index lives on.
    async fn stop(&self, registry: TestRegistry) {
        self.settle(&registry).await;
        registry.stop().await;
    }

    async fn settle(&self, registry: &TestRegistry) {
        // Nothing has changed lately: everything may be stamped.
        self.clock.advance(Duration::from_mins(1));
        registry.registry.index_sync.catch_up().await;
        self.index.settle().await;
    }

    /// What an index proposes, as far as the store confirms it: that the old registry took a link away shows in no
    /// directory's time, so the index may go on to propose it.
    async fn content(&self, index: &Index) -> Content {
        let data = self.data.clone();
        let content = index.read(move |view| {
            let mut all = Content::default();
            for name in view.repositories(None) {
                let name = name?;
                let link = |digest: &Digest| revision_link(name.as_str(), digest);
                let is_revision = |digest: &Digest| data.read(&link(digest)).is_some();
                let mut revisions = view.revisions(&name).into_vec()?;
                revisions.retain(|revision| is_revision(&revision.digest));
                let layers = view.layers(&name).into_vec()?;
                let (mut referrers, mut children) = (Vec::new(), Vec::new());
                let (mut is_holder, mut sizes) = (Vec::new(), Vec::new());
                for Revision {
                    digest, subject, ..
                } in &revisions
                {
                    children.push(view.children(*digest).into_vec()?);
                    let about = subject.unwrap_or(*digest);
                    let mut found = view.referrers(&name, about, None).into_vec()?;
                    found.retain(is_revision);
                    referrers.push(found);
                }
                for layer in &layers {
                    is_holder.push(view.holders(*layer).into_vec()?.contains(&name));
                    sizes.push(view.size(*layer)?);
                }
                let tags = view.tags(&name, None).into_vec()?;
                let one = ContentOfOne {
                    tags: tags.into_iter().map(|(tag, _)| tag).collect(),
                    sizes,
                    revisions,
                    referrers,
                    children,
                    layers,
                    is_holder,
                };
                all.0.insert(name, one);
            }
            Ok(all)
        });
        content.await.unwrap()
    }

    /// What an index holds that was filled from the store as it is now.
    async fn fresh(&self) -> Content {
        let index = Arc::new(Index::in_memory(shared(&self.clock)));
        let mut settings = Options::default().registry;
        // It must leave no traces, or the next start would see those.
        settings.readonly = true;
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        let clock = shared(&self.clock);
        let registry = Registry::new(store, Arc::clone(&index), settings, &[7; 32], clock);
        registry.index_sync.read_everything().await.unwrap();
        self.content(&index).await
    }

    /// That the index is what a fresh one would be.
    async fn expect_fresh(&self, when: &str) {
        self.index.settle().await;
        let (found, fresh) = (self.content(&self.index).await, self.fresh().await);
        assert_eq!(found, fresh, "the index is not what the store is, {when}");
    }
}

fn shared(clock: &ManualClock) -> Arc<dyn Clock> {
    Arc::new(clock.clone())
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn digest(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

async fn list(registry: &TestRegistry, path: &str, field: &str) -> Vec<String> {
    let answer = registry.get(path).send().await;
    if answer.status == StatusCode::NOT_FOUND {
        return Vec::new();
    }
    let json = answer.expect(StatusCode::OK).json();
    let names = json[field].as_array().unwrap().iter();
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

async fn tags(registry: &TestRegistry, name: &str) -> Vec<String> {
    list(registry, &format!("/v2/{name}/tags/list"), "tags").await
}

async fn catalog(registry: &TestRegistry) -> Vec<String> {
    list(registry, "/v2/_catalog", "repositories").await
}

async fn referrers(registry: &TestRegistry, name: &str, subject: &Digest) -> Vec<String> {
    let path = format!("/v2/{name}/referrers/{subject}");
    let list = registry.get(&path).send().await.expect(StatusCode::OK);
    let list = list.json();
    let digests = list["manifests"].as_array().unwrap().iter();
    digests
        .map(|entry| entry["digest"].as_str().unwrap().to_owned())
        .collect()
}

/// A manifest of the layer `layer` about `subject`.
fn referrer_of(subject: &Digest) -> String {
    let about = format!(
        r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":2}},"artifactType":"signature""#
    );
    image_manifest(b"layer", &about)
}

async fn push_manifest(registry: &TestRegistry, name: &str, content: &str) -> Digest {
    let digest = digest(content);
    let put = registry.put(&format!("/v2/{name}/manifests/{digest}"));
    let put = put.header("content-type", OCI_MANIFEST);
    put.body(content.as_bytes())
        .send()
        .await
        .expect(StatusCode::CREATED);
    digest
}

async fn delete(registry: &TestRegistry, path: &str) {
    let answer = registry.delete(path).send().await;
    answer.expect(StatusCode::ACCEPTED);
}

/// Where a repository's keys begin; ends in `/`.
fn keys_of(repository: &str) -> String {
    format!("docker/registry/v2/repositories/{repository}/")
}

fn tag_keys(repository: &str, tag: &str) -> String {
    format!("{}_manifests/tags/{tag}/", keys_of(repository))
}

fn revision_keys(repository: &str, digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}_manifests/revisions/sha256/{hex}/", keys_of(repository))
}

fn revision_link(repository: &str, digest: &Digest) -> String {
    format!("{}link", revision_keys(repository, digest))
}

fn data_key(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])
}

/// Makes a tag as the old registry does.
fn tag_by_hand(data: &Data, repository: &str, tag: &str, digest: &Digest) {
    let current = format!("{}current/link", tag_keys(repository, tag));
    data.write(&current, digest.to_string());
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_pushed_or_deleted_is_listed_so_at_once() {
    let lab = Lab::new();
    let registry = lab.start().await;
    for round in 0..20 {
        // The first lists come from the store, those after this from the index.
        lab.settle(&registry).await;
        let tag = format!("t{round:02}");
        let layer = format!("layer {round}");
        let (_, image) = registry.push_image("a/b", &tag, layer.as_bytes()).await;
        assert_eq!(tags(&registry, "a/b").await, [tag.as_str()]);
        assert_eq!(catalog(&registry).await, ["a/b"]);
        registry.push_blob("a/b", b"layer").await;
        let about = push_manifest(&registry, "a/b", &referrer_of(&image)).await;
        let found = referrers(&registry, "a/b", &image).await;
        assert_eq!(found, [about.to_string()]);
        delete(&registry, &format!("/v2/a/b/manifests/{about}")).await;
        assert!(referrers(&registry, "a/b", &image).await.is_empty());
        delete(&registry, &format!("/v2/a/b/manifests/{tag}")).await;
        assert!(tags(&registry, "a/b").await.is_empty());
    }
    lab.expect_fresh("after pushes and deletes").await;
}

#[tokio::test]
async fn a_referrer_is_listed_as_soon_as_its_bytes_come_through_another_repository() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, subject) = registry.push_image("a", "v1", b"layer").await;
    lab.stop(registry).await;
    // Links without bytes, and one that a power cut has torn.
    let (content, torn) = (referrer_of(&subject), referrer_of(&digest("torn")));
    let about = digest(&content);
    for (about, text) in [(&about, about.to_string()), (&digest(&torn), String::new())] {
        lab.data.write(&revision_link("a", about), text);
    }
    for start in ["the first start", "another one"] {
        let registry = lab.start().await;
        assert!(referrers(&registry, "a", &subject).await.is_empty());
        assert_eq!(tags(&registry, "a").await, ["v1"], "{start}");
        lab.stop(registry).await;
        let stamp = lab.index.stamp(&name("a")).await.unwrap();
        assert_eq!(stamp, None, "{start}: it would not be read again");
    }

    let registry = lab.start().await;
    registry.push_image("b", "v1", b"layer").await;
    push_manifest(&registry, "b", &content).await;
    assert_eq!(
        referrers(&registry, "a", &subject).await,
        [about.to_string()],
        "its link and its bytes are there, and it is not listed"
    );
    lab.stop(registry).await;
    let link = revision_link("a", &digest(&torn));
    lab.data.write(&link, digest(&torn).to_string());
    let registry = lab.start().await;
    push_manifest(&registry, "b", &torn).await;
    let found = referrers(&registry, "a", &digest("torn")).await;
    assert_eq!(found, [digest(&torn).to_string()]);

    // Once it is whole it is read, stamped and listed like any other.
    lab.stop(registry).await;
    let registry = lab.start().await;
    lab.stop(registry).await;
    assert!(lab.index.stamp(&name("a")).await.unwrap().is_some());
    lab.expect_fresh("after the bytes have come").await;
}

#[tokio::test]
async fn a_push_does_not_hide_what_happened_before_it() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, image) = registry.push_image("a", "first", b"layer").await;
    lab.stop(registry).await;

    tag_by_hand(&lab.data, "a", "behind", &image);
    let registry = lab.start_unread();
    registry.push_image("a", "second", b"layer").await;
    lab.stop(registry).await;

    let registry = lab.start().await;
    assert_eq!(
        tags(&registry, "a").await,
        ["behind", "first", "second"],
        "a change behind our back was stamped over"
    );
    lab.expect_fresh("after a change behind a push").await;
}

on_a_directory! {
    "it is about file times";
    #[tokio::test]
    async fn a_directory_that_may_change_again_within_its_time_is_not_stamped() {
        let lab = Lab::new();
        let registry = lab.start().await;
        registry.push_image("a", "v1", b"layer").await;
        // It is read because it is listed, and stamped then.
        assert_eq!(tags(&registry, "a").await, ["v1"]);
        lab.settle(&registry).await;
        let before = lab.index.stamp(&name("a")).await.unwrap();
        assert!(before.is_some());

        // File times are as coarse as the system's tick: what is changed in the same one leaves the same time.
        registry.push_image("a", "v2", b"layer").await;
        let now = UNIX_EPOCH + Duration::from_secs(lab.clock.unix_secs());
        let tag_directories = lab.data.path().join(tag_keys("a", ""));
        let tag_directories = fs::File::open(tag_directories).unwrap();
        tag_directories.set_modified(now).unwrap();
        registry.registry.index_sync.catch_up().await;
        lab.index.settle().await;
        assert_eq!(
            lab.index.stamp(&name("a")).await.unwrap(),
            before,
            "stamped while the time of its directory is not over"
        );
        lab.settle(&registry).await;
        let after = lab.index.stamp(&name("a")).await.unwrap();
        assert!(after.is_some() && after != before, "never stamped");
    }
}
