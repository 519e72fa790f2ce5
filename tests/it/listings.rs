//! Lists: tags, catalog, referrers.

use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;
use serde_json::json;

use crate::support::{OCI_INDEX, OCI_MANIFEST, TestRegistry, image_manifest};

/// Follows `Link` from page to page.
async fn pages(registry: &TestRegistry, path: &str, field: &str) -> Vec<Vec<String>> {
    let mut next = Some(path.to_owned());
    let mut pages = Vec::new();
    while let Some(path) = next {
        let answer = registry.get(&path).send().await.expect(StatusCode::OK);
        next = answer.next_page();
        pages.push(answer.names(field));
    }
    pages
}

#[tokio::test]
async fn tags_are_sorted_and_paged() {
    let registry = TestRegistry::open();
    let (manifest, _) = registry.push_image("a", "b", b"layer").await;
    let all = [
        "CON", "Foo", "_uploads", "a..b", "b", "current", "foo", "index", "link",
    ];
    for tag in all {
        let put = registry
            .put(&format!("/v2/a/manifests/{tag}"))
            .header("content-type", OCI_MANIFEST);
        put.body(manifest.as_bytes())
            .send()
            .await
            .expect(StatusCode::CREATED);
    }
    let answer = registry
        .get("/v2/a/tags/list")
        .send()
        .await
        .expect(StatusCode::OK);
    assert_eq!(answer.json(), json!({ "name": "a", "tags": all }));
    let by_four = pages(&registry, "/v2/a/tags/list?n=4", "tags").await;
    assert_eq!(
        by_four,
        [&all[..4], &all[4..8], &all[8..]]
            .map(|page| page.iter().map(ToString::to_string).collect::<Vec<_>>())
    );
    assert_eq!(
        pages(&registry, "/v2/a/tags/list?last=b", "tags").await,
        [["current", "foo", "index", "link"]]
    );
    assert_eq!(
        pages(&registry, "/v2/a/tags/list?last=bb&n=9", "tags")
            .await
            .concat()
            .len(),
        4
    );
    assert_eq!(
        pages(&registry, "/v2/a/tags/list?n=0", "tags").await,
        [Vec::<String>::new()]
    );
    assert_eq!(
        pages(&registry, "/v2/a/tags/list?n=9", "tags").await.len(),
        1
    );
    registry
        .get("/v2/a/tags/list?n=-1")
        .send()
        .await
        .expect_error(400, "UNSUPPORTED");
}

#[tokio::test]
async fn what_has_no_current_link_is_not_a_tag() {
    let registry = TestRegistry::open();
    let (_, image) = registry.push_image("a", "v1", b"layer").await;
    let tags = "docker/registry/v2/repositories/a/_manifests/tags";
    registry.data.make_directory(&format!("{tags}/empty/index"));
    let index = format!("{tags}/half/index/sha256/{}/link", image.hex());
    registry.data.write(&index, image.to_string());
    assert_eq!(pages(&registry, "/v2/a/tags/list", "tags").await, [["v1"]]);
}

#[tokio::test]
async fn the_catalog_is_sorted_by_name_not_by_path() {
    let registry = TestRegistry::open();
    for name in ["a/b", "a-b", "a", "a.b", "c/d/e"] {
        registry.push_blob(name, b"x").await;
    }
    let all = pages(&registry, "/v2/_catalog", "repositories").await;
    assert_eq!(all, [["a", "a-b", "a.b", "a/b", "c/d/e"]]);
    let by_two = pages(&registry, "/v2/_catalog?n=2", "repositories").await;
    assert_eq!(
        by_two,
        [vec!["a", "a-b"], vec!["a.b", "a/b"], vec!["c/d/e"]]
    );
    assert_eq!(
        registry.get("/v2/_catalog?n=0").send().await.json(),
        json!({ "repositories": [] })
    );
}

#[tokio::test]
async fn referrers_are_found_by_their_subject() {
    let registry = TestRegistry::open();
    let (manifest, subject) = registry.push_image("a", "v1", b"layer").await;
    let size = manifest.len();
    let about = format!(
        r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":{size}}}"#
    );
    let signature = image_manifest(
        b"layer",
        &format!(r#"{about},"artifactType":"sig","annotations":{{"k":"v"}}"#),
    );
    let plain = image_manifest(b"layer", &about);
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]{about}}}"#);
    for (content, content_type) in [
        (&signature, OCI_MANIFEST),
        (&plain, OCI_MANIFEST),
        (&index, OCI_INDEX),
    ] {
        let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
        let put = registry
            .put(&format!("/v2/a/manifests/{digest}"))
            .header("content-type", content_type);
        let answer = put
            .body(content.as_bytes())
            .send()
            .await
            .expect(StatusCode::CREATED);
        assert_eq!(answer.header("oci-subject"), subject.to_string());
    }

    let answer = registry
        .get(&format!("/v2/a/referrers/{subject}"))
        .send()
        .await
        .expect(StatusCode::OK);
    assert_eq!(answer.header("content-type"), OCI_INDEX);
    assert!(!answer.headers.contains_key("oci-filters-applied"));
    let list = answer.json();
    assert_eq!(
        (&list["schemaVersion"], &list["mediaType"]),
        (&json!(2), &json!(OCI_INDEX))
    );
    assert_eq!(list["manifests"].as_array().unwrap().len(), 3);
    let types: Vec<_> = list["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["artifactType"])
        .collect();
    assert!(
        types.contains(&&json!("application/vnd.oci.empty.v1+json")),
        "the config's type stands in: {types:?}"
    );
    assert!(
        types.contains(&&serde_json::Value::Null),
        "an index has none: {types:?}"
    );

    let path = format!("/v2/a/referrers/{subject}?artifactType=sig");
    let answer = registry.get(&path).send().await.expect(StatusCode::OK);
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    let digest = Digest::of(Algorithm::Sha256, signature.as_bytes()).to_string();
    let expected = json!([{
        "mediaType": OCI_MANIFEST, "digest": digest, "size": signature.len(), "artifactType": "sig",
        "annotations": { "k": "v" },
    }]);
    assert_eq!(answer.json()["manifests"], expected);

    registry
        .delete(&format!("/v2/a/manifests/{digest}"))
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let answer = registry.get(&path).send().await.expect(StatusCode::OK);
    assert_eq!(answer.json()["manifests"], json!([]));
    let nobody = registry
        .get(&format!("/v2/unknown/referrers/{subject}"))
        .send()
        .await
        .expect(StatusCode::OK);
    assert_eq!(
        (nobody.header("content-type"), &nobody.json()["manifests"]),
        (OCI_INDEX, &json!([]))
    );
    registry
        .get("/v2/a/referrers/sha256:zz")
        .send()
        .await
        .expect_error(400, "DIGEST_INVALID");
}
