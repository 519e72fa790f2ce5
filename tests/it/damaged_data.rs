//! Data that are not what their digest says: emptied, cut, lengthened, altered. They count as absent, and a push heals them.

use std::sync::Arc;

use boathouse::clock::{Clock, ManualClock};
use boathouse::index::Index;
use boathouse::layout::OwnedPlace;
use boathouse::oci::{Algorithm, Digest, RepositoryName};
use http::StatusCode;

use crate::data::Data;
use crate::support::{Answer, OCI_INDEX, OCI_MANIFEST, Options, TestRegistry, image_manifest};

const LAYER: &[u8] = b"layer of some bytes";

/// A store and its index, over several starts.
struct Lab {
    data: Arc<Data>,
    index: Arc<Index>,
}

impl Lab {
    fn new() -> Self {
        Self {
            data: Data::new(),
            index: empty_index(),
        }
    }

    /// A registry that has compared its index with the store.
    async fn start(&self) -> TestRegistry {
        let options = Options {
            index: Some(Arc::clone(&self.index)),
            runs_tasks: false,
            ..Options::default()
        };
        let registry = TestRegistry::start_in(Arc::clone(&self.data), options);
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
        registry
    }
}

fn data_key(digest: &Digest) -> String {
    OwnedPlace::BlobData(*digest).key().to_string()
}

fn empty_index() -> Arc<Index> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
    Arc::new(Index::in_memory(clock))
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

async fn statuses(registry: &TestRegistry, path: &str) -> (u16, u16) {
    let head = registry.head(path).send().await.status;
    let get = registry.get(path).send().await.status;
    (head.as_u16(), get.as_u16())
}

async fn put_manifest(registry: &TestRegistry, path: &str, kind: &str, bytes: &str) -> Answer {
    let put = registry.put(path).header("content-type", kind);
    put.body(bytes.as_bytes()).send().await
}

fn damages() -> [(&'static str, Vec<u8>); 4] {
    let mut long = LAYER.to_vec();
    long.extend_from_slice(b" and more");
    [
        ("emptied", Vec::new()),
        ("cut", LAYER[..5].to_vec()),
        ("lengthened", long),
        ("a byte less", LAYER[..LAYER.len() - 1].to_vec()),
    ]
}

#[tokio::test]
async fn a_blob_of_a_length_that_cannot_be_right_is_absent_until_it_is_pushed_again() {
    for (damage, bytes) in damages() {
        for index_survives in [true, false] {
            let mut lab = Lab::new();
            let registry = lab.start().await;
            let (manifest, _) = registry.push_image("a", "v1", LAYER).await;
            registry.stop().await;
            lab.data.write(&data_key(&digest(LAYER)), &bytes);
            if !index_survives {
                lab.index = empty_index();
            }
            let registry = lab.start().await;
            let case = format!("{damage}, index survives: {index_survives}");
            let path = format!("/v2/a/blobs/{}", digest(LAYER));
            assert_eq!(statuses(&registry, &path).await, (404, 404), "{case}");
            // Nobody gets it from here.
            let mount = format!("/v2/b/blobs/uploads/?mount={}&from=a", digest(LAYER));
            let mounted = registry.post(&mount).send().await.status;
            assert_eq!(mounted, StatusCode::ACCEPTED, "{case}");
            let put = put_manifest(&registry, "/v2/a/manifests/v2", OCI_MANIFEST, &manifest);
            put.await.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
            // Its right length is known over another start.
            registry.stop().await;
            let registry = lab.start().await;
            assert_eq!(statuses(&registry, &path).await, (404, 404), "{case}");
            // What clients do when they are told so.
            registry.push_blob("a", LAYER).await;
            assert_eq!(statuses(&registry, &path).await, (200, 200), "{case}");
            let put = put_manifest(&registry, "/v2/a/manifests/v2", OCI_MANIFEST, &manifest);
            put.await.expect(StatusCode::CREATED);
            let healed = lab.data.read(&data_key(&digest(LAYER)));
            assert_eq!(healed.unwrap(), LAYER, "{case}");
        }
    }
}

#[tokio::test]
async fn a_manifest_that_contradicts_the_file_finds_out_who_is_right() {
    let lab = Lab::new();
    let registry = lab.start().await;
    registry.push_blob("a", b"{}").await;
    registry.push_blob("a", LAYER).await;
    registry.stop().await;
    lab.data.write(&data_key(&digest(LAYER)), &LAYER[..5]);
    // Nobody knows how long it was: no manifest names it, and the index is a new one.
    let options = Options::default();
    let registry = TestRegistry::start_in(Arc::clone(&lab.data), options);
    let manifest = image_manifest(LAYER, "");
    let put = put_manifest(&registry, "/v2/a/manifests/v1", OCI_MANIFEST, &manifest);
    put.await.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    let path = format!("/v2/a/blobs/{}", digest(LAYER));
    assert_eq!(statuses(&registry, &path).await, (404, 404));
    registry.push_blob("a", LAYER).await;
    let put = put_manifest(&registry, "/v2/a/manifests/v1", OCI_MANIFEST, &manifest);
    put.await.expect(StatusCode::CREATED);
    // A manifest that is wrong about its layer hides nothing.
    let wrong = manifest.replace(&format!(r#""size":{}"#, LAYER.len()), r#""size":9999"#);
    assert_ne!(wrong, manifest);
    let put = put_manifest(&registry, "/v2/a/manifests/v2", OCI_MANIFEST, &wrong);
    assert_ne!(put.await.status, StatusCode::CREATED);
    assert_eq!(statuses(&registry, &path).await, (200, 200));
}

#[tokio::test]
async fn data_that_came_back_while_we_were_away_are_seen_whatever_the_index_thought() {
    let mut lab = Lab::new();
    let registry = lab.start().await;
    registry.push_blob("a", LAYER).await;
    registry.stop().await;
    for damaged in [&LAYER[..5], b"layer of some bytes and more"] {
        lab.data.write(&data_key(&digest(LAYER)), damaged);
        lab.index = empty_index();
        lab.start().await.stop().await;
        // Restored from a backup.
        lab.data.write(&data_key(&digest(LAYER)), LAYER);
        let registry = lab.start().await;
        let path = format!("/v2/a/blobs/{}", digest(LAYER));
        assert_eq!(statuses(&registry, &path).await, (200, 200));
        registry.stop().await;
    }
}

#[tokio::test]
async fn a_damaged_manifest_is_absent_everywhere_until_it_is_pushed_again() {
    type Change = fn(&[u8]) -> Vec<u8>;
    let changes: [(&str, Change); 4] = [
        ("emptied", |_| Vec::new()),
        ("cut", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("altered", |bytes| {
            let mut bytes = bytes.to_vec();
            let end = bytes.len() - 2;
            bytes[end] = b' ';
            bytes
        }),
        ("lengthened", |bytes| [bytes, b"\n"].concat()),
    ];
    for (damage, change) in changes {
        let lab = Lab::new();
        let registry = lab.start().await;
        let (_, subject) = registry.push_image("a", "v1", LAYER).await;
        let size_bytes = lab.data.read(&data_key(&subject)).unwrap().len();
        let about = format!(
            r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":{size_bytes}}}"#
        );
        let manifest = image_manifest(LAYER, &about);
        let put = put_manifest(&registry, "/v2/a/manifests/v2", OCI_MANIFEST, &manifest);
        put.await.expect(StatusCode::CREATED);
        let manifest_digest = digest(manifest.as_bytes());
        registry.stop().await;
        let key = data_key(&manifest_digest);
        lab.data.write(&key, change(manifest.as_bytes()));

        let registry = lab.start().await;
        let by_digest = format!("/v2/a/manifests/{manifest_digest}");
        for path in ["/v2/a/manifests/v2", &by_digest] {
            assert_eq!(
                statuses(&registry, path).await,
                (404, 404),
                "{damage}: {path}"
            );
        }
        let referrers = format!("/v2/a/referrers/{subject}");
        let listed = registry.get(&referrers).send().await.json();
        assert_eq!(listed["manifests"].as_array().unwrap().len(), 0, "{damage}");
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{manifest_digest}","size":{}}}]}}"#,
            manifest.len()
        );
        let put = put_manifest(&registry, "/v2/a/manifests/all", OCI_INDEX, &index).await;
        assert_eq!(put.status, StatusCode::BAD_REQUEST, "{damage}");

        let put = put_manifest(&registry, "/v2/a/manifests/v2", OCI_MANIFEST, &manifest);
        put.await.expect(StatusCode::CREATED);
        assert_eq!(
            statuses(&registry, &by_digest).await,
            (200, 200),
            "{damage}"
        );
        let put = put_manifest(&registry, "/v2/a/manifests/all", OCI_INDEX, &index);
        put.await.expect(StatusCode::CREATED);
        let listed = registry.get(&referrers).send().await.json();
        assert_eq!(listed["manifests"].as_array().unwrap().len(), 1, "{damage}");
    }
}

/// No reading for the index comes between: the request itself must find it.
#[tokio::test]
async fn a_manifest_that_is_altered_while_it_is_served_is_absent() {
    let lab = Lab::new();
    let registry = lab.start().await;
    registry.push_image("a", "v1", LAYER).await;
    let path = "/v2/a/manifests/v1";
    let manifest = registry.get(path).send().await.body;
    let mut altered = manifest.to_vec();
    let end = altered.len() - 2;
    altered[end] = b' ';
    lab.data.write(&data_key(&digest(&manifest)), altered);
    assert_eq!(statuses(&registry, path).await, (404, 404));
    let text = std::str::from_utf8(&manifest).unwrap();
    let put = put_manifest(&registry, path, OCI_MANIFEST, text).await;
    put.expect(StatusCode::CREATED);
    assert_eq!(statuses(&registry, path).await, (200, 200));
}

#[tokio::test]
async fn damaged_links_are_absent_and_stay_where_they_are_until_a_push_heals_them() {
    for damaged in ["", "sha256:0123", "nonsense"] {
        let lab = Lab::new();
        let registry = lab.start().await;
        let (manifest, image) = registry.push_image("a", "v1", LAYER).await;
        registry.stop().await;
        let name: RepositoryName = "a".parse().unwrap();
        let tag = "v1".parse().unwrap();
        let links = [
            OwnedPlace::LayerLink(name.clone(), digest(LAYER)),
            OwnedPlace::RevisionLink(name.clone(), image),
            OwnedPlace::TagCurrent(name, tag),
        ];
        let links = links.map(|link| link.key().to_string());
        for link in &links {
            lab.data.write(link, damaged);
        }
        let registry = lab.start().await;
        let (blob, by_digest) = (
            format!("/v2/a/blobs/{}", digest(LAYER)),
            format!("/v2/a/manifests/{image}"),
        );
        for path in [&*blob, &by_digest, "/v2/a/manifests/v1"] {
            assert_eq!(statuses(&registry, path).await, (404, 404), "{path}");
        }
        let tags = registry.get("/v2/a/tags/list").send().await;
        assert_eq!(
            tags.json()["tags"].as_array().map_or(0, Vec::len),
            0,
            "{damaged:?}"
        );
        let are_there = links.iter().all(|link| lab.data.read(link).is_some());
        assert!(are_there, "swept: {damaged:?}");
        registry.push_blob("a", LAYER).await;
        let put = put_manifest(&registry, "/v2/a/manifests/v1", OCI_MANIFEST, &manifest);
        put.await.expect(StatusCode::CREATED);
        for path in [&*blob, &by_digest, "/v2/a/manifests/v1"] {
            assert_eq!(statuses(&registry, path).await, (200, 200), "{path}");
        }
    }
}

#[tokio::test]
async fn the_empty_blob_is_sound_and_nothing_else_is_under_its_digest() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let path = format!("/v2/a/blobs/{}", digest(b""));
    registry.push_blob("a", b"").await;
    assert_eq!(statuses(&registry, &path).await, (200, 200));
    registry.stop().await;
    let registry = lab.start().await;
    assert_eq!(statuses(&registry, &path).await, (200, 200));
    registry.stop().await;
    lab.data.write(&data_key(&digest(b"")), "x");
    let registry = lab.start().await;
    assert_eq!(statuses(&registry, &path).await, (404, 404));
}

#[tokio::test]
async fn altered_bytes_of_the_right_length_are_healed_by_each_way_of_pushing() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (manifest, manifest_digest) = registry.push_image("a", "v1", LAYER).await;
    let (layer, manifest) = (digest(LAYER), manifest.as_bytes());
    let alter = |digest: &Digest| {
        let key = data_key(digest);
        let mut bytes = lab.data.read(&key).unwrap();
        bytes[0] ^= 1;
        lab.data.write(&key, bytes);
    };
    for way in ["POST and PUT", "POST, PATCH and PUT", "POST alone"] {
        alter(&layer);
        // To another repository too: the data are the same.
        let name = if way == "POST alone" { "b" } else { "a" };
        let pushed = if way == "POST alone" {
            let path = format!("/v2/{name}/blobs/uploads/?digest={layer}");
            registry.post(&path).body(LAYER).send().await
        } else {
            let begun = registry.post(&format!("/v2/{name}/blobs/uploads/"));
            let begun = begun.send().await.expect(StatusCode::ACCEPTED);
            let location = begun.header("location").to_owned();
            let (sent, left) = LAYER.split_at(if way == "POST and PUT" { 0 } else { 7 });
            if !sent.is_empty() {
                let patch = registry.patch(&location).body(sent).send().await;
                patch.expect(StatusCode::ACCEPTED);
            }
            let put = registry.put(&format!("{location}?digest={layer}"));
            put.body(left).send().await
        };
        pushed.expect(StatusCode::CREATED);
        for name in ["a", name] {
            let pulled = registry.get(&format!("/v2/{name}/blobs/{layer}"));
            let pulled = pulled.send().await.expect(StatusCode::OK);
            assert_eq!(pulled.body, LAYER, "{name} after {way}");
        }
    }
    for path in ["v2".to_owned(), manifest_digest.to_string()] {
        alter(&manifest_digest);
        let path = format!("/v2/a/manifests/{path}");
        let put = registry.put(&path).header("content-type", OCI_MANIFEST);
        put.body(manifest).send().await.expect(StatusCode::CREATED);
        let pulled = registry.get(&path).header("accept", OCI_MANIFEST).send();
        assert_eq!(pulled.await.expect(StatusCode::OK).body, manifest);
    }
}
