//! The index against the store: whatever happens behind its back, lists are what the store holds.
//!
//! A registry here is started anew on the same directory and the same index, as a process would be. "The old registry" is
//! played by writing and removing its files, the way 2.8.2 does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use boathouse::clock::{Clock, ManualClock};
use boathouse::index::{self, Child, Fact, Forget, Health, Index, PAGE_MAX, Revision};
use boathouse::layout::Place;
use boathouse::oci::{Algorithm, Digest, RepositoryName, Tag};
use boathouse::registry::Registry;
use boathouse::store::faulty::{Fault, FaultyStore, Operation};
use boathouse::store::filesystem::{self, FilesystemStore};
use boathouse::store::{ObjectStore, Step};
use http::StatusCode;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{OCI_MANIFEST, Options, TestRegistry, image_manifest};

/// A store and its index, which outlive the registries that serve them.
struct Lab {
    directory: Arc<TempDir>,
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
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let settings = filesystem::Settings::at(directory.path());
        let store = FilesystemStore::open(settings, shared(&clock)).unwrap();
        Self {
            directory,
            store: FaultyStore::new(Arc::new(store)),
            index: Arc::new(index),
            clock,
        }
    }

    /// A registry that has not looked at its store yet, and does so only when told.
    fn start_unread(&self) -> TestRegistry {
        let options = Options {
            index: Some(Arc::clone(&self.index)),
            keeps_index: false,
            ..Options::default()
        };
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        TestRegistry::start_on(
            store,
            Arc::clone(&self.directory),
            self.clock.clone(),
            options,
        )
    }

    /// As a process starts.
    async fn start(&self) -> TestRegistry {
        let registry = self.start_unread();
        registry.registry.read_everything().await.unwrap();
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
        registry.registry.catch_up().await;
        self.index.settle().await;
    }

    /// Where the old registry would write.
    fn path(&self, name: &str) -> PathBuf {
        let root = self.directory.path();
        root.join("docker/registry/v2/repositories").join(name)
    }

    fn data_file(&self, digest: &Digest) -> PathBuf {
        let blobs = self.directory.path();
        let blobs = blobs.join("docker/registry/v2/blobs/sha256");
        let hex = digest.hex();
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// What an index proposes, as far as the store confirms it: that the old registry took a link away shows in no
    /// directory's time, so the index may go on to propose it.
    async fn content(&self, index: &Index) -> Content {
        let mut all = Content::default();
        for name in index.repositories(None, PAGE_MAX).await.unwrap() {
            let path = self.path(name.as_str());
            let is_revision = |digest: &Digest| revision_link(&path, digest).exists();
            let mut revisions = index.revisions(&name, None, PAGE_MAX).await.unwrap();
            revisions.retain(|revision| is_revision(&revision.digest));
            let layers = index.layers(&name, None, PAGE_MAX).await.unwrap();
            let (mut referrers, mut children, mut is_holder) = (Vec::new(), Vec::new(), Vec::new());
            for Revision {
                digest, subject, ..
            } in &revisions
            {
                children.push(index.children(digest, None, PAGE_MAX).await.unwrap());
                let about = subject.as_ref().unwrap_or(digest);
                let mut found = index.referrers(&name, about, None, PAGE_MAX).await.unwrap();
                found.retain(is_revision);
                referrers.push(found);
            }
            for layer in &layers {
                let holders = index.repositories_with(layer, None, PAGE_MAX);
                is_holder.push(holders.await.unwrap().contains(&name));
            }
            let tags = index.tags(&name, None, PAGE_MAX).await.unwrap();
            let one = ContentOfOne {
                tags: tags.into_iter().map(|(tag, _)| tag).collect(),
                sizes: index.sizes(layers.clone()).await.unwrap(),
                revisions,
                referrers,
                children,
                layers,
                is_holder,
            };
            all.0.insert(name, one);
        }
        all
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
        registry.read_everything().await.unwrap();
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

/// Makes a tag as the old registry does.
fn tag_by_hand(repository: &Path, tag: &str, digest: &Digest) {
    let current = repository
        .join("_manifests/tags")
        .join(tag)
        .join("current/link");
    fs::create_dir_all(current.parent().unwrap()).unwrap();
    fs::write(current, digest.to_string()).unwrap();
}

fn revision_link(repository: &Path, digest: &Digest) -> PathBuf {
    let revisions = repository.join("_manifests/revisions/sha256");
    revisions.join(digest.hex()).join("link")
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
async fn what_changed_while_the_registry_was_down_is_seen_after_the_start() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, image) = registry.push_image("kept", "old", b"layer").await;
    registry.push_image("kept", "gone", b"layer").await;
    registry.push_image("removed", "v1", b"layer").await;
    lab.stop(registry).await;

    copy_tree(&lab.path("kept"), &lab.path("a/added"));
    tag_by_hand(&lab.path("kept"), "new", &image);
    fs::remove_dir_all(lab.path("kept/_manifests/tags/gone")).unwrap();
    fs::remove_dir_all(lab.path("removed")).unwrap();

    // Before the index was compared, and after.
    let registry = lab.start_unread();
    for when in ["unread", "read"] {
        assert_eq!(tags(&registry, "kept").await, ["new", "old"], "{when}");
        let added = tags(&registry, "a/added").await;
        assert_eq!(added, ["gone", "old"], "{when}");
        assert!(tags(&registry, "removed").await.is_empty(), "{when}");
        assert_eq!(catalog(&registry).await, ["a/added", "kept"], "{when}");
        registry.registry.read_everything().await.unwrap();
    }
    lab.expect_fresh("after changes while it was down").await;
}

#[tokio::test]
async fn what_the_old_registry_deletes_and_pushes_again_is_listed() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, subject) = registry.push_image("a", "v1", b"layer").await;
    let about = push_manifest(&registry, "a", &referrer_of(&subject)).await;
    let found = referrers(&registry, "a", &subject).await;
    assert_eq!(found, [about.to_string()]);
    lab.stop(registry).await;

    let link = revision_link(&lab.path("a"), &about);
    let layers = lab.path("a/_layers/sha256");
    let layer_link = layers.join(digest("layer").hex()).join("link");
    fs::remove_file(&link).unwrap();
    fs::remove_file(&layer_link).unwrap();
    // It deletes the tags of a manifest with it; without that no list differs, and nothing is read again.
    fs::remove_dir_all(lab.path("a/_manifests/tags/v1")).unwrap();
    let registry = lab.start().await;
    assert!(referrers(&registry, "a", &subject).await.is_empty());
    lab.expect_fresh("after the old registry deleted").await;
    lab.stop(registry).await;
    assert!(
        !link.parent().unwrap().exists() && !layer_link.parent().unwrap().exists(),
        "directories without a link stay, in which a new link would not be noticed"
    );

    fs::create_dir_all(link.parent().unwrap()).unwrap();
    fs::write(&link, about.to_string()).unwrap();
    fs::create_dir_all(layer_link.parent().unwrap()).unwrap();
    fs::write(&layer_link, digest("layer").to_string()).unwrap();
    let registry = lab.start().await;
    let found = referrers(&registry, "a", &subject).await;
    assert_eq!(found, [about.to_string()], "pushed again, and not listed");
    lab.expect_fresh("after the old registry pushed again")
        .await;
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
        let link = revision_link(&lab.path("a"), about);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::write(link, text).unwrap();
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
    let link = revision_link(&lab.path("a"), &digest(&torn));
    fs::write(link, digest(&torn).to_string()).unwrap();
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
async fn a_tag_that_the_old_registry_began_and_finished_later_is_listed() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, image) = registry.push_image("a", "v1", b"layer").await;
    lab.stop(registry).await;

    // Killed before `current` was written, or cut off from power after it was.
    let tag_directories = lab.path("a/_manifests/tags");
    fs::create_dir_all(tag_directories.join("half/index")).unwrap();
    fs::create_dir_all(tag_directories.join("torn/current")).unwrap();
    fs::write(tag_directories.join("torn/current/link"), "").unwrap();
    let registry = lab.start().await;
    assert!(!tags(&registry, "a").await.contains(&"half".to_owned()));
    lab.stop(registry).await;

    for tag in ["half", "torn"] {
        tag_by_hand(&lab.path("a"), tag, &image);
    }
    let registry = lab.start().await;
    assert_eq!(tags(&registry, "a").await, ["half", "torn", "v1"]);
}

#[tokio::test]
async fn a_tag_that_was_moved_by_a_process_that_died_is_read_again() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, first) = registry.push_image("a", "v1", b"first").await;
    let (_, second) = registry.push_image("a", "v2", b"second").await;
    assert_eq!(tags(&registry, "a").await, ["v1", "v2"]);
    lab.stop(registry).await;
    let stamp = lab.index.stamp(&name("a")).await.unwrap();
    assert!(stamp.is_some(), "it would be read again in any case");

    // To a manifest that is there already, so that nothing else changes; the index never hears of it.
    let tag: Tag = "v1".parse().unwrap();
    let current = Place::TagCurrent(name("a"), tag.clone()).key();
    let steps = vec![Step::put(current, second.to_string())];
    lab.store.apply(steps).await.unwrap();
    let pointed = async || lab.index.tags(&name("a"), None, 1).await.unwrap();
    assert_eq!(pointed().await, [(tag.clone(), first)]);
    let registry = lab.start().await;
    assert_eq!(pointed().await, [(tag, second)]);
    registry.stop().await;
}

#[tokio::test]
async fn a_push_does_not_hide_what_happened_before_it() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, image) = registry.push_image("a", "first", b"layer").await;
    lab.stop(registry).await;

    tag_by_hand(&lab.path("a"), "behind", &image);
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
    let tag_directories = fs::File::open(lab.path("a/_manifests/tags")).unwrap();
    tag_directories.set_modified(now).unwrap();
    registry.registry.catch_up().await;
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

#[tokio::test]
async fn a_failed_change_puts_the_repository_in_doubt() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (manifest, image) = registry.push_image("a", "v1", b"layer").await;
    // From now on its lists come from the index.
    assert_eq!(tags(&registry, "a").await, ["v1"]);
    lab.settle(&registry).await;

    // What a failed apply has done nobody knows; here it has made one tag and removed another.
    lab.store.fail(Operation::Apply, 0, Fault::Io);
    let put = registry
        .put("/v2/a/manifests/v2")
        .header("content-type", OCI_MANIFEST);
    let answer = put.body(manifest.as_bytes()).send().await;
    assert!(answer.status.is_server_error(), "{answer:?}");
    tag_by_hand(&lab.path("a"), "v2", &image);
    fs::remove_dir_all(lab.path("a/_manifests/tags/v1")).unwrap();

    assert_eq!(tags(&registry, "a").await, ["v2"], "listed while in doubt");
    lab.settle(&registry).await;
    assert_eq!(tags(&registry, "a").await, ["v2"]);
    lab.expect_fresh("after a failed change").await;
}

#[tokio::test]
async fn a_list_shows_nothing_that_only_the_index_knows() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, subject) = registry.push_image("a", "v1", b"layer").await;
    let ghost = digest("ghost");
    let gone = push_manifest(&registry, "a", &referrer_of(&subject)).await;
    // From now on its lists come from the index.
    assert_eq!(tags(&registry, "a").await, ["v1"]);
    lab.settle(&registry).await;
    let revision = |digest: &Digest| {
        Fact::Revision(Revision {
            digest: digest.clone(),
            size_bytes: 2,
            is_index: false,
            subject: Some(subject.clone()),
        })
    };
    let facts = vec![
        Fact::Tag("ghost".parse().unwrap(), ghost.clone()),
        revision(&ghost),
        Fact::Layer(ghost.clone()),
    ];
    lab.index.record(&name("a"), facts.clone());
    lab.index.record(&name("ghost"), facts);
    lab.index.settle().await;
    // The old collector removes bytes and leaves links.
    fs::remove_file(lab.data_file(&gone)).unwrap();

    let all = (
        tags(&registry, "a").await,
        catalog(&registry).await,
        referrers(&registry, "a", &subject).await,
    );
    assert_eq!(
        all,
        (vec!["v1".to_owned()], vec!["a".to_owned()], Vec::new()),
        "a list showed what only the index knows"
    );
    let mount = registry.post(&format!("/v2/b/blobs/uploads/?mount={ghost}"));
    mount.send().await.expect(StatusCode::ACCEPTED);
    let blob = registry.head(&format!("/v2/a/blobs/{ghost}"));
    blob.send().await.expect(StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushes_during_a_reading_are_not_lost() {
    let lab = Arc::new(Lab::new());
    let registry = Arc::new(lab.start().await);
    for repository in ["a", "b"] {
        registry.push_image(repository, "v0", b"layer").await;
    }
    let pushes: Vec<_> = (0..4)
        .map(|task| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move {
                for round in 0..12 {
                    let (repository, tag) = (["a", "b"][round % 2], format!("t{task}-{round}"));
                    let layer = format!("layer {task} {}", round % 5);
                    registry
                        .push_image(repository, &tag, layer.as_bytes())
                        .await;
                    let found = tags(&registry, repository).await;
                    assert!(found.contains(&tag), "{tag} was pushed and is not listed");
                    if round % 3 == 0 {
                        delete(&registry, &format!("/v2/{repository}/manifests/{tag}")).await;
                        let found = tags(&registry, repository).await;
                        assert!(!found.contains(&tag), "{tag} was deleted and is listed");
                    }
                }
            })
        })
        .collect();
    while !pushes.iter().all(tokio::task::JoinHandle::is_finished) {
        for repository in ["a", "b"] {
            // As if it differed, so that it is read while pushes go on.
            lab.index.forget(&name(repository), vec![Forget::Stamp]);
        }
        lab.index.settle().await;
        registry.registry.read_everything().await.unwrap();
        registry.registry.catch_up().await;
    }
    for push in pushes {
        push.await.unwrap();
    }
    lab.settle(&registry).await;
    lab.expect_fresh("after pushes during readings").await;
}

/// What becomes of an index between two starts.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    Damaged,
    Foreign,
    Older,
}

#[tokio::test]
async fn an_index_that_cannot_be_used_is_filled_again() {
    for fate in [
        Fate::Kept,
        Fate::Lost,
        Fate::Damaged,
        Fate::Foreign,
        Fate::Older,
    ] {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("index");
        let settings = |store_id: &str| index::Settings {
            directory: directory.clone(),
            store_id: store_id.to_owned(),
        };
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        let open = |store_id: &str| Index::open(&settings(store_id), shared(&clock)).unwrap();
        let mut lab = Lab::with(open("store"), clock.clone());
        let registry = lab.start().await;
        let (_, subject) = registry.push_image("a", "v1", b"layer").await;
        registry.registry.close_index().await;
        registry.stop().await;
        copy_tree(&directory, &home.path().join("older"));

        lab.index = Arc::new(open("store"));
        let registry = lab.start().await;
        registry.push_image("a", "v2", b"layer").await;
        registry.push_image("b", "v1", b"layer").await;
        let about = push_manifest(&registry, "a", &referrer_of(&subject)).await;
        registry.registry.close_index().await;
        registry.stop().await;

        let mut store_id = "store";
        match fate {
            Fate::Kept => {}
            Fate::Lost => fs::remove_dir_all(&directory).unwrap(),
            Fate::Damaged => {
                let database = directory.join("db");
                let mut bytes = fs::read(&database).unwrap();
                for byte in &mut bytes {
                    *byte = !*byte;
                }
                fs::write(database, bytes).unwrap();
            }
            Fate::Foreign => store_id = "another store",
            Fate::Older => {
                fs::remove_dir_all(&directory).unwrap();
                copy_tree(&home.path().join("older"), &directory);
            }
        }

        lab.index = Arc::new(open(store_id));
        let is_rebuilding = matches!(lab.index.health(), Health::Rebuilding { .. });
        assert_eq!(is_rebuilding, !matches!(fate, Fate::Kept), "{fate:?}");
        let registry = lab.start_unread();
        for when in ["unread", "read"] {
            assert_eq!(catalog(&registry).await, ["a", "b"], "{fate:?}, {when}");
            let found = tags(&registry, "a").await;
            assert_eq!(found, ["v1", "v2"], "{fate:?}, {when}");
            let found = referrers(&registry, "a", &subject).await;
            assert_eq!(found, [about.to_string()], "{fate:?}, {when}");
            registry.registry.read_everything().await.unwrap();
        }
        assert_eq!(lab.index.health(), Health::Healthy, "{fate:?}");
        lab.expect_fresh(&format!("{fate:?}")).await;
        registry.registry.close_index().await;
        registry.stop().await;
    }
}

/// One thing that happens; numbers choose among few, so that they meet.
#[derive(Debug, Clone)]
enum Event {
    Push { repository: u8, tag: u8, image: u8 },
    Refer { repository: u8, image: u8 },
    DeleteTag { repository: u8, tag: u8 },
    DeleteManifest { repository: u8, image: u8 },
    DeleteBlob { repository: u8, image: u8 },
    Mount { repository: u8, image: u8 },
    CatchUp,
    Restart { behind: Option<Behind> },
}

/// What the old registry does meanwhile.
#[derive(Debug, Clone)]
enum Behind {
    Tag { repository: u8, tag: u8, image: u8 },
    Untag { repository: u8, tag: u8 },
    Unlink { repository: u8, image: u8 },
    Link { repository: u8, image: u8 },
    Remove { repository: u8 },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let few = 0..3_u8;
    let two = || (few.clone(), few.clone());
    let three = || (few.clone(), few.clone(), few.clone());
    let behind = prop_oneof![
        three().prop_map(|(repository, tag, image)| Behind::Tag {
            repository,
            tag,
            image
        }),
        two().prop_map(|(repository, tag)| Behind::Untag { repository, tag }),
        two().prop_map(|(repository, image)| Behind::Unlink { repository, image }),
        two().prop_map(|(repository, image)| Behind::Link { repository, image }),
        few.clone()
            .prop_map(|repository| Behind::Remove { repository }),
    ];
    let event = prop_oneof![
        6 => three().prop_map(|(repository, tag, image)| Event::Push { repository, tag, image }),
        2 => two().prop_map(|(repository, image)| Event::Refer { repository, image }),
        1 => two().prop_map(|(repository, tag)| Event::DeleteTag { repository, tag }),
        1 => two().prop_map(|(repository, image)| Event::DeleteManifest { repository, image }),
        1 => two().prop_map(|(repository, image)| Event::DeleteBlob { repository, image }),
        1 => two().prop_map(|(repository, image)| Event::Mount { repository, image }),
        1 => Just(Event::CatchUp),
        3 => proptest::option::weighted(0.8, behind).prop_map(|behind| Event::Restart { behind }),
    ];
    proptest::collection::vec(event, 1..24)
}

impl Lab {
    async fn happen(&self, registry: TestRegistry, event: &Event) -> TestRegistry {
        let image_of = |image: &u8| digest(&image_manifest(&[*image], ""));
        // What is not there cannot be deleted: either answer will do.
        match event {
            Event::Push {
                repository,
                tag,
                image,
            } => {
                let (repository, tag) = (format!("r{repository}"), format!("t{tag}"));
                registry.push_image(&repository, &tag, &[*image]).await;
            }
            Event::Refer { repository, image } => {
                let repository = format!("r{repository}");
                registry.push_blob(&repository, b"{}").await;
                registry.push_blob(&repository, b"layer").await;
                let content = referrer_of(&image_of(image));
                push_manifest(&registry, &repository, &content).await;
            }
            Event::DeleteTag { repository, tag } => {
                let path = format!("/v2/r{repository}/manifests/t{tag}");
                registry.delete(&path).send().await;
            }
            Event::DeleteManifest { repository, image } => {
                let path = format!("/v2/r{repository}/manifests/{}", image_of(image));
                registry.delete(&path).send().await;
            }
            Event::DeleteBlob { repository, image } => {
                let layer = Digest::of(Algorithm::Sha256, &[*image]);
                let path = format!("/v2/r{repository}/blobs/{layer}");
                registry.delete(&path).send().await;
            }
            Event::Mount { repository, image } => {
                let layer = Digest::of(Algorithm::Sha256, &[*image]);
                let path = format!("/v2/r{repository}/blobs/uploads/?mount={layer}");
                registry.post(&path).send().await;
            }
            Event::CatchUp => self.settle(&registry).await,
            Event::Restart { behind } => {
                self.stop(registry).await;
                if let Some(behind) = behind {
                    self.behind(behind, image_of);
                }
                return self.start().await;
            }
        }
        registry
    }

    fn behind(&self, behind: &Behind, image_of: impl Fn(&u8) -> Digest) {
        let repository = |number: &u8| self.path(&format!("r{number}"));
        // What is not there cannot be removed.
        match behind {
            Behind::Tag {
                repository: number,
                tag,
                image,
            } => tag_by_hand(&repository(number), &format!("t{tag}"), &image_of(image)),
            Behind::Untag {
                repository: number,
                tag,
            } => {
                let tag = format!("_manifests/tags/t{tag}");
                let _ = fs::remove_dir_all(repository(number).join(tag));
            }
            Behind::Unlink {
                repository: number,
                image,
            } => {
                let _ = fs::remove_file(revision_link(&repository(number), &image_of(image)));
            }
            Behind::Link {
                repository: number,
                image,
            } => {
                let link = revision_link(&repository(number), &image_of(image));
                // As in any registry, bytes come before their link.
                if !self.data_file(&image_of(image)).exists() {
                    return;
                }
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                fs::write(link, image_of(image).to_string()).unwrap();
            }
            Behind::Remove { repository: number } => {
                let _ = fs::remove_dir_all(repository(number));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_is_what_a_fresh_one_would_be(events in events()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let lab = Lab::new();
            let mut registry = lab.start().await;
            for event in &events {
                registry = lab.happen(registry, event).await;
            }
            // What still waits to be read again is no difference.
            lab.settle(&registry).await;
            lab.expect_fresh("after all of that").await;
        });
    }
}
