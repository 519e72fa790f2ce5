//! Names with a percent-encoded slash, as some user interfaces send them: `team%2Fapp` is `team/app`, for every method.

use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;

use crate::access::{lab, token};
use crate::support::{OCI_MANIFEST, TestRegistry, image_manifest};

#[tokio::test]
async fn an_encoded_name_is_pushed_pulled_listed_and_deleted() {
    let registry = TestRegistry::open();
    let (config, layer) = (b"{}".as_slice(), b"layer".as_slice());
    for (name, content) in [("team%2Fapp", config), ("team%2fapp", layer)] {
        let begun = registry.post(&format!("/v2/{name}/blobs/uploads/"));
        let begun = begun.send().await.expect(StatusCode::ACCEPTED);
        let location = begun.header("location").to_owned();
        // Addresses that we give have the name as it is.
        assert!(location.starts_with("/v2/team/app/blobs/uploads/"));
        let encoded = location.replace("team/app", name).replace('-', "%2D");
        let patch = registry.patch(&encoded).body(content).send().await;
        patch.expect(StatusCode::ACCEPTED);
        let digest = Digest::of(Algorithm::Sha256, content);
        let put = registry.put(&format!("{encoded}?digest={digest}"));
        let put = put.send().await.expect(StatusCode::CREATED);
        assert_eq!(
            put.header("location"),
            format!("/v2/team/app/blobs/{digest}")
        );
    }
    let manifest = image_manifest(layer, "");
    let put = registry.put("/v2/team%2Fapp/manifests/v1");
    let put = put.header("content-type", OCI_MANIFEST);
    let put = put.body(manifest.as_bytes()).send().await;
    put.expect(StatusCode::CREATED);

    let digest = Digest::of(Algorithm::Sha256, layer);
    for path in [
        "/v2/team%2Fapp/manifests/v1".to_owned(),
        "/v2/team/app/manifests/v1".to_owned(),
        "/v2/team%2Fapp%2Fmanifests%2Fv1".to_owned(),
        "/v2/team%2fapp/tags/list?n=&last=".to_owned(),
        format!("/v2/team%2Fapp/blobs/{digest}"),
        format!("/v2/team%2Fapp/blobs/sha256%3A{}", digest.hex()),
        format!("/v2/team%2Fapp/referrers/{digest}"),
    ] {
        let answer = registry.get(&path).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        let answer = registry.head(&path).send().await;
        assert_eq!(answer.status, StatusCode::OK, "HEAD {path}");
    }
    let catalog = registry.get("/v2/_catalog?n=&last=").send().await;
    let names = catalog.json()["repositories"].clone();
    assert_eq!(names, serde_json::json!(["team/app"]));
    // Mounted by either spelling.
    let mount = format!("/v2/other%2Fapp/blobs/uploads/?mount={digest}&from=team%2Fapp");
    let mounted = registry.post(&mount).send().await;
    let mounted = mounted.expect(StatusCode::CREATED);
    assert_eq!(
        mounted.header("location"),
        format!("/v2/other/app/blobs/{digest}")
    );
    let deleted = registry.delete("/v2/team%2Fapp/manifests/v1").send().await;
    deleted.expect(StatusCode::ACCEPTED);
}

#[tokio::test]
async fn what_is_escaped_twice_or_leads_elsewhere_stays_refused() {
    let registry = TestRegistry::open();
    registry.push_image("team/app", "v1", b"layer").await;
    for (path, code) in [
        ("/v2/team%252Fapp/tags/list", 400),
        ("/v2/team%2F..%2Fteam%2Fapp/tags/list", 400),
        ("/v2/team%2F%2Fapp/tags/list", 400),
        ("/v2/%2Fteam%2Fapp/tags/list", 400),
        ("/v2/team%2Fapp%2F/tags/list", 400),
        ("/v2/team%00app/tags/list", 400),
        ("/v2/team%5Capp/tags/list", 400),
        ("/v2/team%C0%AFapp/tags/list", 400),
        ("/v2/team%u002Fapp/tags/list", 400),
        ("/v2/team%2Fapp/manifests/v1%2F", 404),
        ("/v2/team%2Fapp/manifests/v1%00", 404),
        ("/v2/team%2Fapp/manifests/..%2Fv1", 404),
        ("/v2/team%2Fapp/blobs/uploads%2F..", 404),
    ] {
        let answer = registry.get(path).send().await;
        assert_eq!(answer.status, code, "{path}: {answer:?}");
        assert!(answer.json()["errors"][0]["code"].is_string(), "{path}");
    }
}

/// Rules are asked about the name that is meant, whichever way it is written.
#[tokio::test]
async fn an_encoded_name_opens_what_its_plain_form_opens_and_no_more() {
    let registry = lab();
    let bob = token(&registry, "bob", "repository:bob/app:pull").await;
    for (name, status) in [
        ("bob%2Fapp", 404),
        ("bob/app", 404),
        ("ann%2Fapp", 401),
        ("bob%2Fapp%2F..%2F..%2Fann%2Fapp", 400),
    ] {
        let answer = registry.get(&format!("/v2/{name}/tags/list")).bearer(&bob);
        let answer = answer.send().await;
        assert_eq!(answer.status, status, "{name}: {answer:?}");
    }
    let refused = registry.get("/v2/ann%2Fapp/tags/list").send().await;
    let challenge = refused.header("www-authenticate").to_owned();
    assert!(
        challenge.ends_with(r#"scope="repository:ann/app:pull""#),
        "{challenge}"
    );
}
