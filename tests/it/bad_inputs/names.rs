//! Bad inputs 16 to 22, 37 and 38: names, tags, digests and paths.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::{ask, begin, sha256, stands_at, stored, unchanged};
use crate::data::{Data, tree};
use crate::support::{OCI_MANIFEST, Options, TestRegistry, image_manifest};

const IS_MANIFEST: &str = "content-type: application/vnd.oci.image.manifest.v1+json";

#[tokio::test]
async fn bad_input_16_a_way_out_of_the_store() {
    // The store lies in a directory that holds something else too, so that a step outside is seen.
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let data = Data::within(outside.path());
    let registry = TestRegistry::start_in(Arc::clone(&data), Options::default());
    let (manifest, _) = registry.push_image("a/b", "v1", b"layer").await;
    let location = begin(&registry, "a/b").await;
    let before = (tree(outside.path()), data.files());
    let digest = sha256("layer");
    let ups = [
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "%2e%2e%2f%2e%2e",
        "%2f",
        "..%5c..",
        "%252e%252e",
        "%00",
        ".",
    ];
    for up in ups {
        let far = [up; 8].join("/");
        let lines = [
            format!("GET /v2/{far}/secret/manifests/v1"),
            format!("GET /v2/a/{up}/b/blobs/{digest}"),
            format!("GET /v2/a/b/manifests/{up}"),
            format!("GET /v2/a/b/manifests/{far}/secret"),
            format!("GET /v2/a/b/blobs/{up}"),
            format!("GET /v2/a/b/blobs/sha256:{up}"),
            format!("GET /v2/a/b/blobs/uploads/{up}"),
            format!("GET /v2/a/{up}/b/tags/list"),
            format!("GET /v2/a/b/referrers/sha256:{up}"),
            format!("POST /v2/{far}/x/blobs/uploads/"),
            format!("PATCH /v2/a/b/blobs/uploads/{up}"),
            format!("PUT /v2/a/b/blobs/uploads/{up}?digest={digest}"),
            format!("DELETE /v2/a/b/blobs/uploads/{up}"),
            format!("PUT /v2/a/{up}/b/manifests/v1"),
            format!("PUT /v2/a/b/manifests/{up}"),
            format!("DELETE /v2/a/b/manifests/{up}"),
            format!("DELETE /v2/a/b/blobs/{up}"),
        ];
        for line in lines {
            let answer = ask(&registry, &line, &[IS_MANIFEST], manifest.as_bytes()).await;
            assert!(
                matches!(answer.status.as_u16(), 400 | 404),
                "{line}: {answer:?}"
            );
            assert!(answer.json()["errors"][0]["code"].is_string(), "{line}");
        }
    }
    // An encoded slash is a slash, once: what is encoded twice names nothing.
    let answer = ask(&registry, "GET /v2/a%2Fb/manifests/v1", &[], b"").await;
    answer.expect(StatusCode::OK);
    let answer = ask(&registry, "GET /v2/a%252Fb/manifests/v1", &[], b"").await;
    answer.expect_error(400, "NAME_INVALID");
    let line = format!("PUT /v2/a/b/manifests/v1?tag={}", "..%2f..%2fx");
    let answer = ask(&registry, &line, &[IS_MANIFEST], manifest.as_bytes()).await;
    answer.expect_error(400, "MANIFEST_INVALID");
    assert_eq!((tree(outside.path()), data.files()), before);
    stands_at(&registry, &location, "0-0").await;
}

/// Every request that carries a name is refused, and leaves nothing.
async fn is_no_name(registry: &TestRegistry, name: &str) {
    let before = stored(registry);
    let digest = sha256("{}");
    for line in [
        format!("POST /v2/{name}/blobs/uploads/"),
        format!("POST /v2/{name}/blobs/uploads/?digest={digest}"),
        format!("POST /v2/{name}/blobs/uploads/?mount={digest}"),
        format!("GET /v2/{name}/blobs/{digest}"),
        format!("GET /v2/{name}/tags/list"),
        format!("GET /v2/{name}/referrers/{digest}"),
        format!("GET /v2/{name}/manifests/v1"),
        format!("PUT /v2/{name}/manifests/v1"),
        format!("DELETE /v2/{name}/manifests/v1"),
    ] {
        let answer = ask(registry, &line, &[], b"{}").await;
        answer.expect_error(400, "NAME_INVALID");
    }
    unchanged(registry, &before);
    let files = registry.data.files();
    assert!(!files.keys().any(|name| name.contains("_uploads")));
}

#[tokio::test]
async fn bad_input_17_an_upper_case_name() {
    let registry = TestRegistry::open();
    for name in ["Team/app", "team/App", "TEAM", "a/b/C"] {
        is_no_name(&registry, name).await;
    }
}

#[tokio::test]
async fn bad_input_18_a_name_that_is_too_long() {
    let registry = TestRegistry::open();
    is_no_name(&registry, &"a".repeat(256)).await;
    is_no_name(&registry, &["ab"; 86].join("/")).await;
    for name in ["a".repeat(255), ["a"; 128].join("/")] {
        assert_eq!(name.len(), 255);
        registry.push_image(&name, "v1", b"layer").await;
        let line = format!("GET /v2/{name}/manifests/v1");
        ask(&registry, &line, &[], b"").await.expect(StatusCode::OK);
    }
}

/// Reading under a name that no manifest can have is reading what is not there.
async fn is_read_nowhere(registry: &TestRegistry, reference: &str) {
    let line = format!("GET /v2/a/manifests/{reference}");
    let answer = ask(registry, &line, &[], b"").await;
    answer.expect_error(404, "MANIFEST_UNKNOWN");
    let line = format!("HEAD /v2/a/manifests/{reference}");
    let answer = ask(registry, &line, &[], b"").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{line}");
}

#[tokio::test]
async fn bad_input_19_what_is_no_tag() {
    let registry = TestRegistry::open();
    let (manifest, _) = registry.push_image("a", "v1", b"layer").await;
    let before = stored(&registry);
    let long = "a".repeat(129);
    // With a colon it is meant to be a digest. What cannot be written under is read as what is not there.
    for (tag, code) in [
        (".INVALID_MANIFEST_NAME", "MANIFEST_INVALID"),
        ("%ff", "MANIFEST_INVALID"),
        ("a:b", "DIGEST_INVALID"),
        (&long, "MANIFEST_INVALID"),
        (".a", "MANIFEST_INVALID"),
        ("-a", "MANIFEST_INVALID"),
        ("a+b", "MANIFEST_INVALID"),
        ("a%20b", "MANIFEST_INVALID"),
        ("%C3%A4", "MANIFEST_INVALID"),
        ("", "MANIFEST_INVALID"),
    ] {
        for method in ["PUT", "DELETE"] {
            let line = format!("{method} /v2/a/manifests/{tag}");
            let answer = ask(&registry, &line, &[IS_MANIFEST], manifest.as_bytes()).await;
            answer.expect_error(400, code);
        }
        is_read_nowhere(&registry, tag).await;
    }
    unchanged(&registry, &before);
}

#[tokio::test]
async fn bad_input_20_tags_that_look_like_something_else() {
    let registry = TestRegistry::open();
    let long = "z".repeat(128);
    // In the order of their bytes, as they are listed.
    let tags = [
        "CON",
        "Foo",
        "_layers",
        "_manifests",
        "_uploads",
        "a..b",
        "current",
        "foo",
        "index",
        "link",
        "tags",
        &long,
    ];
    let mut digests = Vec::new();
    for tag in tags {
        let (_, digest) = registry.push_image("a", tag, tag.as_bytes()).await;
        digests.push(digest.to_string());
    }
    for (tag, digest) in tags.iter().zip(&digests) {
        let answer = ask(&registry, &format!("GET /v2/a/manifests/{tag}"), &[], b"").await;
        let answer = answer.expect(StatusCode::OK);
        assert_eq!(answer.header("docker-content-digest"), digest, "{tag}");
    }
    let list = ask(&registry, "GET /v2/a/tags/list", &[], b"").await;
    assert_eq!(list.json(), json!({"name": "a", "tags": tags}));
}

#[tokio::test]
async fn bad_input_21_a_blob_of_no_digest() {
    let registry = TestRegistry::open();
    registry.push_blob("a", b"blob").await;
    let before = stored(&registry);
    for bad in ["sha256:zz", "sha256:", "md5:00", "zz", ":"] {
        for method in ["GET", "DELETE"] {
            let answer = ask(&registry, &format!("{method} /v2/a/blobs/{bad}"), &[], b"").await;
            answer.expect_error(400, "DIGEST_INVALID");
        }
        let head = ask(&registry, &format!("HEAD /v2/a/blobs/{bad}"), &[], b"").await;
        assert_eq!(head.status, 400);
    }
    unchanged(&registry, &before);
}

#[tokio::test]
async fn bad_input_22_a_manifest_of_no_digest() {
    let registry = TestRegistry::open();
    let (manifest, _) = registry.push_image("a", "v1", b"layer").await;
    let before = stored(&registry);
    for bad in ["sha256:bad", "sha256:", "md5:00"] {
        for method in ["PUT", "DELETE"] {
            let line = format!("{method} /v2/a/manifests/{bad}");
            let answer = ask(&registry, &line, &[IS_MANIFEST], manifest.as_bytes()).await;
            answer.expect_error(400, "DIGEST_INVALID");
        }
        is_read_nowhere(&registry, bad).await;
    }
    unchanged(&registry, &before);
}

#[tokio::test]
async fn bad_input_37_pages_that_cannot_be() {
    let registry = TestRegistry::open();
    let manifest = image_manifest(b"layer", "");
    registry.push_image("a", "a", b"layer").await;
    for tag in ["c", "e"] {
        let line = format!("PUT /v2/a/manifests/{tag}");
        let header = format!("content-type: {OCI_MANIFEST}");
        let put = ask(&registry, &line, &[&header], manifest.as_bytes()).await;
        put.expect(StatusCode::CREATED);
    }
    for path in ["/v2/a/tags/list", "/v2/_catalog"] {
        // An empty one is absent, as in distribution.
        let empty = ask(&registry, &format!("GET {path}?n=&last="), &[], b"").await;
        empty.expect(StatusCode::OK);
        for n in ["-1", "x", "1.5", "+1", "0x1", "1%20"] {
            let answer = ask(&registry, &format!("GET {path}?n={n}"), &[], b"").await;
            answer.expect_error(400, "UNSUPPORTED");
        }
        let huge = format!("GET {path}?n=99999999999999999999999");
        ask(&registry, &huge, &[], b"").await.expect(StatusCode::OK);
    }
    for (last, expected) in [
        ("b", json!(["c", "e"])),
        ("c", json!(["e"])),
        ("Z", json!(["a", "c", "e"])),
        ("zz", json!([])),
        ("..%2f", json!(["a", "c", "e"])),
    ] {
        let line = format!("GET /v2/a/tags/list?last={last}");
        let answer = ask(&registry, &line, &[], b"").await;
        assert_eq!(
            answer.expect(StatusCode::OK).json()["tags"],
            expected,
            "{last}"
        );
    }
}

#[tokio::test]
async fn bad_input_38_paths_and_methods_that_are_not_there() {
    let registry = TestRegistry::open();
    let (_, manifest) = registry.push_image("a", "v1", b"layer").await;
    let before = stored(&registry);
    let blob = sha256("layer");
    for path in [
        "/v2/a/tags/list/".to_owned(),
        "/v2/_catalog/".to_owned(),
        "/v2/a/manifests/v1/".to_owned(),
        format!("/v2/a/manifests/{manifest}/"),
        format!("/v2/a/blobs/{blob}/"),
        "//v2/".to_owned(),
        "//v2/a/tags/list".to_owned(),
        "/v2/tags/list".to_owned(),
        "/v3/".to_owned(),
        "/V2/".to_owned(),
    ] {
        for method in ["GET", "DELETE"] {
            let answer = ask(&registry, &format!("{method} {path}"), &[], b"").await;
            answer.expect_error(404, "NAME_UNKNOWN");
        }
    }
    // Ours: a name of which nothing is there is a bad name.
    let empty = ask(&registry, "GET /v2//tags/list", &[], b"").await;
    empty.expect_error(400, "NAME_INVALID");
    let base = ask(&registry, "GET /v2", &[], b"").await;
    let base = base.expect(StatusCode::MOVED_PERMANENTLY);
    assert_eq!(base.header("location"), "/v2/");
    let session = begin(&registry, "a").await;
    for (path, method, allowed) in [
        ("/v2/", "POST", "GET, HEAD"),
        ("/v2", "DELETE", "GET, HEAD"),
        ("/v2/_catalog", "PUT", "GET, HEAD"),
        ("/v2/a/tags/list", "DELETE", "GET, HEAD"),
        ("/v2/a/manifests/v1", "PATCH", "GET, HEAD, PUT, DELETE"),
        (&format!("/v2/a/blobs/{blob}"), "PUT", "GET, HEAD, DELETE"),
        (&format!("/v2/a/referrers/{blob}"), "POST", "GET, HEAD"),
        ("/v2/a/blobs/uploads/", "GET", "POST"),
        (&session, "POST", "GET, HEAD, PATCH, PUT, DELETE"),
        (&session, "BREW", "GET, HEAD, PATCH, PUT, DELETE"),
    ] {
        let answer = ask(&registry, &format!("{method} {path}"), &[], b"").await;
        let answer = answer.expect_error(405, "UNSUPPORTED");
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
    }
    unchanged(&registry, &before);
    stands_at(&registry, &session, "0-0").await;
}
