//! Trees as they are found on real volumes: with directories of others, links, and what may not be looked into.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boathouse::clock::{Clock, ManualClock};
use boathouse::index::Index;
use boathouse::layout::OwnedPlace;
use boathouse::oci::{Algorithm, Digest, RepositoryName};
use http::StatusCode;
use tempfile::TempDir;

use crate::data::{Data, tree};
use crate::support::{OCI_MANIFEST, Options, TestRegistry};

const LAYER: &[u8] = b"layer";

struct Lab {
    data: Arc<Data>,
    /// What lies beside the store, and is no business of it.
    outside: TempDir,
    index: Arc<Index>,
}

impl Lab {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
        Self {
            data: Data::new(),
            outside: tempfile::tempdir().unwrap(),
            index: Arc::new(Index::in_memory(clock)),
        }
    }

    fn start_unread(&self) -> TestRegistry {
        let options = Options {
            index: Some(Arc::clone(&self.index)),
            runs_tasks: false,
            ..Options::default()
        };
        TestRegistry::start_in(Arc::clone(&self.data), options)
    }

    /// With an image `a:v1`, and stopped.
    async fn with_an_image() -> Self {
        let lab = Self::new();
        let registry = lab.start_unread();
        registry.push_image("a", "v1", LAYER).await;
        registry.stop().await;
        lab
    }

    fn repositories(&self) -> PathBuf {
        self.v2().join("repositories")
    }

    fn v2(&self) -> PathBuf {
        self.data.path().join("docker/registry/v2")
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

async fn catalog(registry: &TestRegistry) -> Vec<String> {
    let answer = registry.get("/v2/_catalog").send().await;
    let answer = answer.expect(StatusCode::OK).json();
    serde_json::from_value(answer["repositories"].clone()).unwrap()
}

async fn status(registry: &TestRegistry, path: &str) -> u16 {
    registry.get(path).send().await.status.as_u16()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (name, content) in tree(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[tokio::test]
async fn directories_that_can_be_no_repository_are_passed_over_at_any_depth() {
    let lab = Lab::with_an_image().await;
    for place in ["", "a", "a/b"] {
        let place = lab.repositories().join(place);
        fs::create_dir_all(&place).unwrap();
        for stranger in [
            "lost+found",
            "@eaDir",
            ".snapshot",
            ".Trashes",
            "#recycle",
            "Upper",
        ] {
            copy(
                &lab.repositories().join("a/_manifests"),
                &place.join(stranger).join("x/_manifests"),
            );
        }
        fs::write(place.join(".DS_Store"), "x").unwrap();
        fs::write(place.join("file"), "x").unwrap();
    }
    for place in [
        "a/_layers/sha256",
        "a/_manifests/tags",
        "a/_manifests/revisions/sha256",
        "a/_layers",
    ] {
        fs::create_dir_all(lab.repositories().join(place).join("@eaDir/x")).unwrap();
        fs::write(lab.repositories().join(place).join(".DS_Store"), "x").unwrap();
    }
    let before = tree(&lab.repositories());
    let registry = lab.start_unread();
    for _ in ["by the store", "by the index"] {
        assert_eq!(catalog(&registry).await, ["a"]);
        let tags = registry.get("/v2/a/tags/list").send().await.json();
        assert_eq!(tags["tags"], serde_json::json!(["v1"]));
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
    }
    assert_eq!(tree(&lab.repositories()), before, "something was swept");
}

#[tokio::test]
async fn links_in_a_circle_end() {
    let lab = Lab::with_an_image().await;
    let a = lab.repositories().join("a");
    symlink("../a", a.join("self")).unwrap();
    symlink("..", a.join("up")).unwrap();
    symlink("nowhere", a.join("dangling")).unwrap();
    symlink("endless", a.join("endless")).unwrap();
    copy(
        &a.join("_manifests"),
        &lab.repositories().join("b/_manifests"),
    );
    symlink("../b", a.join("across")).unwrap();
    symlink("../a", lab.repositories().join("b/back")).unwrap();
    // What people do on purpose: a second name.
    symlink("a", lab.repositories().join("alias")).unwrap();
    let registry = lab.start_unread();
    for _ in ["by the store", "by the index"] {
        let names = catalog(&registry).await;
        for name in ["a", "b", "alias"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        assert!(names.len() < 12, "{names:?}");
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
    }
    assert_eq!(status(&registry, "/v2/alias/manifests/v1").await, 200);
}

#[tokio::test]
async fn links_out_of_the_tree_are_not_followed_and_nothing_is_swept_because_of_them() {
    let lab = Lab::with_an_image().await;
    let outside = lab.outside.path();
    let registry = lab.start_unread();
    registry.push_image("known", "v1", LAYER).await;
    registry.push_image("torn", "v1", LAYER).await;
    registry.push_blob("torn", b"elsewhere").await;
    registry
        .registry
        .index_sync
        .read_everything()
        .await
        .unwrap();
    registry.stop().await;
    // A repository that nobody knows yet, one that the index knows, a link file and the data of a blob.
    copy(&lab.repositories().join("a"), &outside.join("evil"));
    symlink(outside.join("evil"), lab.repositories().join("evil")).unwrap();
    fs::rename(lab.repositories().join("known"), outside.join("known")).unwrap();
    symlink(outside.join("known"), lab.repositories().join("known")).unwrap();
    let name: RepositoryName = "torn".parse().unwrap();
    let link = OwnedPlace::LayerLink(name.clone(), digest(LAYER)).key();
    let link = lab.data.path().join(link.as_str());
    fs::rename(&link, outside.join("link")).unwrap();
    symlink(outside.join("link"), &link).unwrap();
    // Its directory has changed, so that it is read again, and what holds no link would be swept.
    fs::create_dir(lab.repositories().join("torn/_layers/sha256/@eaDir")).unwrap();
    let data = OwnedPlace::BlobData(digest(b"elsewhere")).key();
    let data = lab.data.path().join(data.as_str());
    fs::rename(&data, outside.join("data")).unwrap();
    symlink(outside.join("data"), &data).unwrap();
    let before = tree(outside);

    let registry = lab.start_unread();
    for when in ["unread", "read"] {
        assert_eq!(catalog(&registry).await, ["a", "torn"], "{when}");
        for path in [
            "/v2/evil/manifests/v1".to_owned(),
            "/v2/known/manifests/v1".to_owned(),
            format!("/v2/evil/blobs/{}", digest(LAYER)),
            format!("/v2/torn/blobs/{}", digest(LAYER)),
            format!("/v2/torn/blobs/{}", digest(b"elsewhere")),
        ] {
            assert_eq!(status(&registry, &path).await, 404, "{when}: {path}");
        }
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
    }
    assert!(fs::symlink_metadata(&link).is_ok(), "the link was swept");
    assert!(
        lab.index
            .read(|view| view.knows(&"known".parse().unwrap()))
            .await
            .unwrap(),
        "taken for removed"
    );
    // Nothing is written there either.
    let post = registry.post(&format!(
        "/v2/evil/blobs/uploads/?digest={}",
        digest(b"new")
    ));
    assert_ne!(post.body(b"new").send().await.status, StatusCode::CREATED);
    let bytes = fs::read(
        lab.data
            .path()
            .join(OwnedPlace::BlobData(manifest_of(&lab)).key().as_str()),
    );
    let put = registry
        .put("/v2/evil/manifests/v9")
        .header("content-type", OCI_MANIFEST);
    let put = put.body(&bytes.unwrap()).send().await;
    assert_ne!(put.status, StatusCode::CREATED);
    assert_eq!(tree(outside), before, "written or removed outside");
    // And what the tree holds itself goes on.
    registry.push_image("a", "v2", b"another").await;
    registry.push_blob("torn", b"elsewhere").await;
    let path = format!("/v2/torn/blobs/{}", digest(b"elsewhere"));
    assert_eq!(status(&registry, &path).await, 200);
    assert_eq!(tree(outside), before, "written or removed outside");
}

/// The digest of `a:v1`.
fn manifest_of(lab: &Lab) -> Digest {
    let link = lab.repositories().join("a/_manifests/tags/v1/current/link");
    fs::read_to_string(link).unwrap().parse().unwrap()
}

#[tokio::test]
async fn links_of_the_administrator_are_followed() {
    for moved in [
        "docker",
        "docker/registry/v2",
        "docker/registry/v2/blobs",
        "docker/registry/v2/repositories",
    ] {
        let lab = Lab::with_an_image().await;
        let place = lab.data.path().join(moved);
        fs::rename(&place, lab.outside.path().join("moved")).unwrap();
        symlink(lab.outside.path().join("moved"), &place).unwrap();
        let registry = lab.start_unread();
        for _ in ["unread", "read"] {
            assert_eq!(catalog(&registry).await, ["a"], "{moved}");
            assert_eq!(
                status(&registry, "/v2/a/manifests/v1").await,
                200,
                "{moved}"
            );
            let path = format!("/v2/a/blobs/{}", digest(LAYER));
            assert_eq!(status(&registry, &path).await, 200, "{moved}");
            registry
                .registry
                .index_sync
                .read_everything()
                .await
                .unwrap();
        }
        registry.push_image("b/c", "v1", b"new").await;
        let gone = registry.delete("/v2/a/manifests/v1").send().await;
        gone.expect(StatusCode::ACCEPTED);
        assert_eq!(
            status(&registry, "/v2/b/c/manifests/v1").await,
            200,
            "{moved}"
        );
    }
}
