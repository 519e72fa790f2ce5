//! Manifests of every kind that clients push: indexes of blobs, artifacts, wrong sizes, and JSON as Go writes and reads it.

use boathouse::oci::{Algorithm, Digest};
use boathouse::registry::References;
use http::StatusCode;

use crate::data::Data;
use crate::support::{
    Answer, OCI_INDEX, OCI_MANIFEST, Options, TestRegistry, image_manifest, with_users,
};

const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn sha256(content: impl AsRef<[u8]>) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_ref())
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// An entry for each of these: its media type, and what it is.
fn index_of(index_type: &str, entries: &[(&str, &[u8])]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(media_type, content)| descriptor(media_type, &sha256(content), content.len()))
        .collect();
    let entries = entries.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{index_type}","manifests":[{entries}]}}"#)
}

async fn put(registry: &TestRegistry, path: &str, media_type: &str, body: &[u8]) -> Answer {
    let call = registry.put(&format!("/v2/{path}"));
    call.header("content-type", media_type)
        .body(body)
        .send()
        .await
}

async fn status(registry: &TestRegistry, path: &str) -> u16 {
    let answer = registry.get(&format!("/v2/{path}")).send().await;
    answer.status.as_u16()
}

fn with_references(references: References) -> Options {
    let mut options = Options {
        runs_tasks: false,
        ..Options::default()
    };
    options.registry.references = references;
    options
}

/// Sees that what a push recorded is what is read from the store.
async fn index_agrees(registry: &TestRegistry) {
    registry
        .registry
        .index_sync
        .read_everything()
        .await
        .unwrap();
    let found = registry.registry.index_sync.compare(&|_| {}).await.unwrap();
    assert_eq!(found.told, Vec::<String>::new());
    assert!(found.facts > 0);
}

#[tokio::test]
async fn an_index_may_list_blobs_of_any_media_type() {
    let registry = TestRegistry::start(with_references(References::Strict));
    // So that later changes are recorded, and not read.
    registry
        .registry
        .index_sync
        .read_everything()
        .await
        .unwrap();
    let (image, image_digest) = registry.push_image("a", "v1", b"layer").await;
    registry.push_blob("a", b"cache").await;
    for (media_type, index_type) in [
        (CACHE_CONFIG, OCI_INDEX),
        (LAYER, OCI_INDEX),
        (LAYER, DOCKER_LIST),
        ("", OCI_INDEX),
        ("application/octet-stream", OCI_INDEX),
        (OCI_MANIFEST, OCI_INDEX),
    ] {
        let entries: [(&str, &[u8]); 3] = [
            (media_type, b"cache"),
            (media_type, b"layer"),
            (media_type, image.as_bytes()),
        ];
        let index = index_of(index_type, &entries);
        let answer = put(&registry, "a/manifests/cache", index_type, index.as_bytes()).await;
        answer.expect(StatusCode::CREATED);
        let answer = registry.get("/v2/a/manifests/cache").send().await;
        assert_eq!(answer.expect(StatusCode::OK).body, index);
        // And an index of that one.
        let nested = index_of(OCI_INDEX, &[(media_type, index.as_bytes())]);
        let answer = put(
            &registry,
            "a/manifests/nested",
            OCI_INDEX,
            nested.as_bytes(),
        )
        .await;
        answer.expect(StatusCode::CREATED);
    }
    let cache = format!("a/blobs/{}", sha256("cache"));
    assert_eq!(status(&registry, &cache).await, 200);
    index_agrees(&registry).await;

    // One that is nowhere is told of, and only that one.
    let entries: [(&str, &[u8]); 2] = [(LAYER, b"cache"), (LAYER, b"nowhere")];
    let index = index_of(OCI_INDEX, &entries);
    let answer = put(&registry, "a/manifests/x", OCI_INDEX, index.as_bytes()).await;
    let errors = answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN").json();
    let named = serde_json::json!(sha256("nowhere").to_string());
    assert_eq!(errors["errors"][0]["detail"]["digest"], named);
    assert_eq!(errors["errors"].as_array().unwrap().len(), 1);

    // The index goes, its blobs stay; a blob goes, and is missed by the next index.
    let path = format!("/v2/a/manifests/{image_digest}");
    let gone = registry.delete(&path).send().await;
    gone.expect(StatusCode::ACCEPTED);
    let gone = registry.delete("/v2/a/manifests/cache").send().await;
    gone.expect(StatusCode::ACCEPTED);
    assert_eq!(status(&registry, &cache).await, 200);
    let gone = registry.delete(&format!("/v2/{cache}")).send().await;
    gone.expect(StatusCode::ACCEPTED);
    let index = index_of(OCI_INDEX, &[(LAYER, b"cache")]);
    let answer = put(&registry, "a/manifests/x", OCI_INDEX, index.as_bytes()).await;
    answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    index_agrees(&registry).await;
}

#[tokio::test]
async fn a_blob_that_an_index_lists_is_linked_as_a_layer_is() {
    let mut options = Options::default();
    let (all, pull): (&[&str], &[&str]) = (&["*"], &["pull"]);
    let rules: &[(&str, &str, &[&str])] = &[
        ("ann", "*/*", all),
        ("bob", "bob/*", all),
        ("bob", "base/*", pull),
    ];
    with_users(&mut options, &["ann", "bob"], rules);
    let registry = TestRegistry::start(options);
    for (name, content) in [("base/cache", &b"shared"[..]), ("ann/app", b"secret")] {
        let path = format!("/v2/{name}/blobs/uploads/?digest={}", sha256(content));
        let call = registry.post(&path).basic("ann", "ann-secret");
        call.body(content).send().await.expect(StatusCode::CREATED);
    }
    let put = |content: &[u8]| {
        let index = index_of(OCI_INDEX, &[(CACHE_CONFIG, content)]);
        let call = registry.put("/v2/bob/app/manifests/cache");
        let call = call.header("content-type", OCI_INDEX);
        let call = call.basic("bob", "bob-secret");
        call.body(index.as_bytes()).send()
    };
    let get = |content: &[u8]| {
        let path = format!("/v2/bob/app/blobs/{}", sha256(content));
        registry.get(&path).basic("bob", "bob-secret").send()
    };
    let refused = put(b"secret").await;
    assert_eq!(
        refused.status, 400,
        "an index of a private blob was taken from somebody who merely knew its digest"
    );
    refused.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    get(b"secret").await.expect_error(404, "BLOB_UNKNOWN");
    put(b"shared").await.expect(StatusCode::CREATED);
    assert_eq!(get(b"shared").await.expect(StatusCode::OK).body, "shared");
}

#[tokio::test]
async fn a_wrong_size_is_refused_only_where_references_are_strict() {
    let wrong_sizes = ["4", "6", "0", "9223372036854775807", "null"];
    let never = ["-1", "5.0", "5e0", "\"5\"", "9223372036854775808"];
    for references in [References::Strict, References::Any] {
        let registry = TestRegistry::start(with_references(references));
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
        let (image, _) = registry.push_image("a", "v1", b"layer").await;
        let listed = index_of(OCI_INDEX, &[(OCI_MANIFEST, image.as_bytes())]);
        let cache = index_of(OCI_INDEX, &[(LAYER, b"layer")]);
        let size = format!("\"size\":{}", image.len());
        let bodies = |wrong: &str| {
            let wrong = format!("\"size\":{wrong}");
            [
                (OCI_MANIFEST, image.replace("\"size\":5", &wrong)),
                (OCI_INDEX, listed.replace(&size, &wrong)),
                (OCI_INDEX, cache.replace("\"size\":5", &wrong)),
            ]
        };
        let mut all: Vec<(&str, String, bool)> = Vec::new();
        for wrong in wrong_sizes {
            let bodies = bodies(wrong).into_iter();
            all.extend(bodies.map(|(media_type, body)| (media_type, body, true)));
        }
        all.push((OCI_MANIFEST, image.replace(",\"size\":5", ""), true));
        all.push((
            OCI_MANIFEST,
            image.replace("\"size\":2", "\"size\":3"),
            true,
        ));
        for wrong in never {
            let bodies = bodies(wrong).into_iter();
            all.extend(bodies.map(|(media_type, body)| (media_type, body, false)));
        }
        for (media_type, body, may_be_taken) in all {
            let answer = put(&registry, "a/manifests/x", media_type, body.as_bytes()).await;
            if may_be_taken && references == References::Any {
                answer.expect(StatusCode::CREATED);
            } else {
                answer.expect_error(400, "MANIFEST_INVALID");
            }
        }
        index_agrees(&registry).await;
        // What nobody can look at may say any size.
        let elsewhere = r#""size":7,"urls":["https://elsewhere.test/"]"#;
        let foreign = image.replace("\"size\":5", elsewhere);
        let answer = put(&registry, "a/manifests/x", OCI_MANIFEST, foreign.as_bytes()).await;
        answer.expect(StatusCode::CREATED);
    }
}

#[tokio::test]
async fn wrong_sizes_do_not_reach_the_figures() {
    let registry = TestRegistry::start(with_references(References::Any));
    registry
        .registry
        .index_sync
        .read_everything()
        .await
        .unwrap();
    let (image, _) = registry.push_image("a", "v1", b"layer").await;
    let wrong = image.replace("\"size\":5", "\"size\":9223372036854775807");
    let answer = put(&registry, "a/manifests/v1", OCI_MANIFEST, wrong.as_bytes()).await;
    answer.expect(StatusCode::CREATED);
    let subject = boathouse::registry::Subject::Tag("a".parse().unwrap(), "v1".parse().unwrap());
    let rows = registry.registry.listings.usage(&subject).await.unwrap();
    let expected = wrong.len() + b"{}".len() + b"layer".len();
    assert_eq!(rows.value[0].bytes, expected as u64);
}

#[tokio::test]
async fn what_go_reads_is_taken_and_kept_as_it_came() {
    let registry = TestRegistry::start(with_references(References::Strict));
    registry
        .registry
        .index_sync
        .read_everything()
        .await
        .unwrap();
    let (image, digest) = registry.push_image("a", "v1", b"layer").await;
    let image = image.into_bytes();
    let about = descriptor(OCI_MANIFEST, &digest, image.len());
    let with = |more: &[u8]| [b"{", more, b",", &image[1..]].concat();
    let bodies = [
        with(br#""annotations":null,"subject":null,"artifactType":null,"manifests":null"#),
        with(br#""annotations":{"a":"\ud800","b":"\udc00\ud800x","c":null}"#),
        with(b"\"annotations\":{\"a\":\"\xff\xc3\"}"),
        with(br#""annotations":{"Config":"1","config":"2"}"#),
        with(br#""x":[1e999,-1E+400,123456789012345678901234567890,{"\ud800":null}]"#),
        with(format!(r#""subject":{about},"annotations":{{"a":"\ud83d"}}"#).as_bytes()),
        String::from_utf8(image.clone())
            .unwrap()
            .replace(
                "\"size\":5",
                "\"size\":5,\"urls\":null,\"annotations\":null,\"platform\":null",
            )
            .into_bytes(),
    ];
    for body in &bodies {
        let answer = put(&registry, "a/manifests/x", OCI_MANIFEST, body).await;
        let answer = answer.expect(StatusCode::CREATED);
        assert_eq!(
            answer.header("docker-content-digest"),
            sha256(body).to_string()
        );
        let answer = registry.get("/v2/a/manifests/x").send().await;
        let answer = answer.expect(StatusCode::OK);
        assert_eq!(answer.body, body);
        assert_eq!(answer.header("content-type"), OCI_MANIFEST);
    }
    // Others read a lone surrogate as Go does.
    let referrers = registry.get(&format!("/v2/a/referrers/{digest}")).send();
    let referrers = referrers.await.expect(StatusCode::OK).json();
    assert_eq!(referrers["manifests"][0]["annotations"]["a"], "\u{fffd}");
    index_agrees(&registry).await;
}

/// Puts a manifest where another registry would have.
fn store_manifest(data: &Data, name: &str, body: &[u8]) -> Digest {
    let (digest, root) = (sha256(body), "docker/registry/v2");
    let hex = digest.hex();
    data.write(
        &format!("{root}/blobs/sha256/{}/{hex}/data", &hex[..2]),
        body,
    );
    let revision = format!("{root}/repositories/{name}/_manifests/revisions/sha256/{hex}/link");
    data.write(&revision, digest.to_string());
    digest
}

#[tokio::test]
async fn an_artifact_manifest_is_pushed_and_listed() {
    let registry = TestRegistry::start(with_references(References::Strict));
    let (image, subject) = registry.push_image("a", "v1", b"layer").await;
    registry.push_blob("b", b"sbom").await;
    let about = descriptor(OCI_MANIFEST, &subject, image.len());
    let artifact = |artifact_type: &str| {
        let blob = descriptor("text/spdx", &sha256("sbom"), 4);
        format!(
            r#"{{"mediaType":"{ARTIFACT}",{artifact_type}"blobs":[{blob}],"subject":{about},"annotations":{{"k":"v"}}}}"#
        )
    };
    // One that another registry stored, and two that are pushed.
    let stored = artifact(r#""artifactType":"stored","#);
    let digest = store_manifest(&registry.data, "a", stored.as_bytes());
    let answer = registry.get(&format!("/v2/a/manifests/{digest}")).send();
    let answer = answer.await.expect(StatusCode::OK);
    assert_eq!(answer.header("content-type"), ARTIFACT);
    registry
        .registry
        .index_sync
        .read_everything()
        .await
        .unwrap();
    for artifact_type in [r#""artifactType":"sbom","#, ""] {
        let pushed = artifact(artifact_type);
        let digest = sha256(&pushed);
        let path = format!("a/manifests/{digest}");
        let answer = put(&registry, &path, ARTIFACT, pushed.as_bytes()).await;
        let answer = answer.expect(StatusCode::CREATED);
        assert_eq!(answer.header("oci-subject"), subject.to_string());
    }
    // Its blob was linked as a layer is.
    let blob = format!("a/blobs/{}", sha256("sbom"));
    assert_eq!(status(&registry, &blob).await, 200);
    let list = async |query: &str| {
        let path = format!("/v2/a/referrers/{subject}{query}");
        let answer = registry.get(&path).send().await.expect(StatusCode::OK);
        let mut types: Vec<String> = Vec::new();
        for entry in answer.json()["manifests"].as_array().unwrap() {
            assert_eq!(entry["mediaType"], ARTIFACT);
            assert_eq!(entry["annotations"]["k"], "v");
            types.push(entry["artifactType"].as_str().unwrap_or("none").to_owned());
        }
        types.sort();
        types
    };
    assert_eq!(list("").await, ["none", "sbom", "stored"]);
    assert_eq!(list("?artifactType=stored").await, ["stored"]);
    index_agrees(&registry).await;

    // Strict about its blobs, and about what it is.
    let missing = artifact("").replace(&sha256("sbom").to_string(), &sha256("x").to_string());
    let answer = put(&registry, "a/manifests/x", ARTIFACT, missing.as_bytes()).await;
    answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    let unsaid = artifact("").replacen(&format!(r#""mediaType":"{ARTIFACT}","#), "", 1);
    let answer = put(&registry, "a/manifests/x", ARTIFACT, unsaid.as_bytes()).await;
    answer.expect_error(400, "MANIFEST_INVALID");
}

#[tokio::test]
async fn a_stored_artifact_is_listed_while_the_repository_is_unread() {
    let data = Data::new();
    let subject = sha256("subject");
    let about = descriptor(OCI_MANIFEST, &subject, 7);
    let body = format!(r#"{{"mediaType":"{ARTIFACT}","artifactType":"x","subject":{about}}}"#);
    let digest = store_manifest(&data, "a", body.as_bytes());
    let registry = TestRegistry::start_in(data, with_references(References::Strict));
    let answer = registry.get(&format!("/v2/a/referrers/{subject}")).send();
    let listed = answer.await.expect(StatusCode::OK).json();
    assert_eq!(listed["manifests"][0]["digest"], digest.to_string());
    assert_eq!(listed["manifests"][0]["artifactType"], "x");
}

#[tokio::test]
async fn an_error_names_at_most_a_hundred_digests() {
    let registry = TestRegistry::start(with_references(References::Strict));
    registry
        .registry
        .index_sync
        .read_everything()
        .await
        .unwrap();
    registry.push_blob("a", b"{}").await;
    let layers: Vec<String> = (0..3_000)
        .map(|number: u32| descriptor(LAYER, &sha256(number.to_be_bytes()), 4))
        .collect();
    let manifest = image_manifest(b"absent", "");
    let layer = descriptor("application/octet-stream", &sha256("absent"), 6);
    for (media_type, body) in [
        (OCI_MANIFEST, manifest.replace(&layer, &layers.join(","))),
        (
            OCI_INDEX,
            index_of(OCI_INDEX, &[]).replace("[]", &format!("[{}]", layers.join(","))),
        ),
    ] {
        let answer = put(&registry, "a/manifests/x", media_type, body.as_bytes()).await;
        let answer = answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
        assert!(answer.body.len() < 64 * 1024, "{} bytes", answer.body.len());
        let errors = answer.json();
        let errors = errors["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 100);
        let message = errors[0]["message"].as_str().unwrap();
        assert!(
            message.contains("3000") && message.contains("2900 more"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn an_error_is_short_whatever_was_sent() {
    let registry = TestRegistry::open();
    let long = "x".repeat(1_000_000);
    let image = image_manifest(b"layer", "");
    for body in [
        format!(r#"{{"{long}":1,"{long}":1}}"#),
        image.replacen(OCI_MANIFEST, &long, 1),
        image.replacen("sha256:", &format!("sha256:{long}"), 1),
        image.replacen("[{", &format!("\"{long}\",\"x\":[{{"), 1),
        format!("{{\"x\":{}", "[".repeat(1_000_000)),
        "[[],".repeat(250_000),
    ] {
        let answer = put(&registry, "a/manifests/x", OCI_MANIFEST, body.as_bytes()).await;
        let answer = answer.expect_error(400, "MANIFEST_INVALID");
        assert!(answer.body.len() < 4_096, "{} bytes", answer.body.len());
    }
    // In the address and in a header, as long as these may be.
    let long = "x".repeat(7_000);
    for path in [
        format!("/v2/a/manifests/sha256:{long}"),
        format!("/v2/a/manifests/{long}"),
        format!("/v2/{long}/manifests/x"),
        format!("/v2/a/blobs/uploads/?digest={long}"),
        format!("/v2/a/blobs/uploads/{long}"),
        format!("/v2/a/tags/list?n={long}"),
        format!("/v2/a/manifests/sha256:{}?tag={long}", sha256("x").hex()),
    ] {
        for call in [
            registry.put(&path),
            registry.get(&path),
            registry.post(&path),
        ] {
            let answer = call.body(b"").send().await;
            assert!(!answer.status.is_success(), "{}", answer.status);
            assert!(answer.body.len() < 4_096, "{} bytes", answer.body.len());
        }
    }
    let answer = put(&registry, "a/manifests/x", &long, image.as_bytes()).await;
    let answer = answer.expect_error(400, "MANIFEST_INVALID");
    assert!(answer.body.len() < 4_096, "{} bytes", answer.body.len());
}
