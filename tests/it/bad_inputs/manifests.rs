//! Bad inputs 23 to 33: manifests.

use http::StatusCode;

use super::{ask, sha256, stored, unchanged};
use crate::support::{Answer, OCI_INDEX, OCI_MANIFEST, TestRegistry, image_manifest};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

async fn put(registry: &TestRegistry, reference: &str, media_type: &str, body: &str) -> Answer {
    let line = format!("PUT /v2/a/manifests/{reference}");
    let header = format!("content-type: {media_type}");
    let headers: &[&str] = if media_type.is_empty() {
        &[]
    } else {
        &[&header]
    };
    ask(registry, &line, headers, body.as_bytes()).await
}

/// A registry with the blobs of `image_manifest(b"layer", …)` and the tag `v1`, and that manifest.
async fn with_image() -> (TestRegistry, String) {
    let registry = TestRegistry::open();
    let (manifest, _) = registry.push_image("a", "v1", b"layer").await;
    (registry, manifest)
}

/// Each is refused as `MANIFEST_INVALID`, by tag and by its own digest, and nothing is stored.
async fn are_refused(registry: &TestRegistry, media_type: &str, bodies: &[String]) {
    let before = stored(registry);
    for body in bodies {
        let digest = sha256(body).to_string();
        for reference in ["v1", "v2", &digest] {
            let answer = put(registry, reference, media_type, body).await;
            answer.expect_error(400, "MANIFEST_INVALID");
        }
    }
    unchanged(registry, &before);
}

fn index_of(children: &[(String, usize)]) -> String {
    let children: Vec<String> = children
        .iter()
        .map(|(digest, size)| {
            format!(r#"{{"mediaType":"{OCI_INDEX}","digest":"{digest}","size":{size}}}"#)
        })
        .collect();
    let children = children.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{children}]}}"#)
}

#[tokio::test]
async fn bad_input_23_a_manifest_of_another_digest() {
    let (registry, manifest) = with_image().await;
    let before = stored(&registry);
    let other = sha256("other").to_string();
    let answer = put(&registry, &other, OCI_MANIFEST, &manifest).await;
    answer.expect_error(400, "DIGEST_INVALID");
    let line = format!("{other}?tag=x");
    let answer = put(&registry, &line, OCI_MANIFEST, &manifest).await;
    answer.expect_error(400, "DIGEST_INVALID");
    unchanged(&registry, &before);
}

#[tokio::test]
async fn bad_input_24_what_is_no_json_object() {
    let (registry, good) = with_image().await;
    let bodies = [
        String::new(),
        "[]".into(),
        "null".into(),
        "\"text\"".into(),
        "{}".into(),
        format!("[{good}]"),
        good[1..].into(),
        good[..good.len() - 1].into(),
        format!("{good}{good}"),
        format!("{good}x"),
        format!("\u{feff}{good}"),
        good.replacen('{', r#"{"schemaVersion":2,"#, 1),
        // The same name, written differently, and deep inside.
        good.replacen('{', "{\"schema\\u0056ersion\":2,", 1),
        good.replace("\"size\":2", "\"size\":2,\"size\":2"),
        good.replacen('{', r#"{"annotations":{"a":"b","a":"c"},"#, 1),
    ];
    are_refused(&registry, OCI_MANIFEST, &bodies).await;
    // A name that Go reads as another one: in addition to it, and alone.
    let first = |name: &str, value: &str| good.replacen('{', &format!("{{\"{name}\":{value},"), 1);
    let bodies = [
        first("Config", "{}"),
        first("LAYERS", "[]"),
        first("MediaType", "\"x\""),
        first("\u{17f}chemaVersion", "2"),
        first("\\u017fchemaVersion", "2"),
        first("Subject", "null"),
        first("Manifests", "[]"),
        first("ArtifactType", "\"x\""),
        first("Annotations", "{}"),
        first("x", r#"1,"X":2"#),
        first("x", r#"{"y":[{"z":1,"Z":2}]}"#),
        good.replacen("\"config\"", "\"Config\"", 1),
        good.replacen("\"layers\"", "\"Layers\"", 1),
        good.replacen("\"mediaType\"", "\"MEDIATYPE\"", 1),
        good.replacen("\"schemaVersion\"", "\"schemaversion\"", 1),
        good.replace("\"size\":5", "\"Size\":5"),
        good.replace("\"size\":5", "\"size\":5,\"SIZE\":6"),
        good.replace("\"size\":5", "\"size\":5,\"Digest\":null"),
        good.replace("\"size\":5", "\"size\":5,\"Urls\":[]"),
        good.replace("\"size\":5", "\"size\":5,\"platform\":{\"OS\":\"linux\"}"),
    ];
    are_refused(&registry, OCI_MANIFEST, &bodies).await;
    let index = index_of(&[(sha256(&good).to_string(), good.len())]);
    let bodies = [
        index.replacen("\"manifests\"", "\"Manifests\"", 1),
        index.replacen('{', r#"{"Config":{},"#, 1),
        index.replace("\"size\"", "\"platform\":{\"\u{212a}\":1,\"k\":2},\"size\""),
    ];
    are_refused(&registry, OCI_INDEX, &bodies).await;
}

#[tokio::test]
async fn bad_input_25_json_of_twenty_thousand_levels() {
    let (registry, good) = with_image().await;
    let deep =
        |open: &str, close: &str| format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
    let arrays = deep("[", "]");
    let objects = deep("{\"a\":", "}");
    let within = |value: &str| good.replacen('{', &format!("{{\"x\":{value},"), 1);
    let bodies = [
        within(&arrays),
        within(&objects),
        "[".repeat(20_000),
        arrays,
        objects,
    ];
    are_refused(&registry, OCI_MANIFEST, &bodies).await;
    ask(&registry, "GET /v2/", &[], b"")
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn bad_input_26_a_manifest_that_is_too_long() {
    let (registry, good) = with_image().await;
    let before = stored(&registry);
    let limit = 4 * 1024 * 1024;
    let of_size = |size: usize| format!("{}{good}", " ".repeat(size - good.len()));
    let long = of_size(limit + 1);
    let answer = put(&registry, "v2", OCI_MANIFEST, &long).await;
    answer.expect_error(413, "MANIFEST_INVALID");
    let chunked = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    let header = format!("content-type: {OCI_MANIFEST}");
    let headers = [header.as_str(), "transfer-encoding: chunked"];
    let answer = ask(
        &registry,
        "PUT /v2/a/manifests/v2",
        &headers,
        chunked.as_bytes(),
    )
    .await;
    answer.expect_error(413, "MANIFEST_INVALID");
    unchanged(&registry, &before);
    let answer = put(&registry, "v2", OCI_MANIFEST, &of_size(limit)).await;
    answer.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn bad_input_27_a_media_type_that_differs() {
    let (registry, good) = with_image().await;
    for media_type in [
        DOCKER_MANIFEST,
        OCI_INDEX,
        "application/json",
        "nonsense",
        "text/html",
    ] {
        are_refused(&registry, media_type, std::slice::from_ref(&good)).await;
    }
    let unsaid = good.replace(&format!(r#""mediaType":"{OCI_MANIFEST}","#), "");
    are_refused(&registry, DOCKER_MANIFEST, std::slice::from_ref(&unsaid)).await;
    are_refused(&registry, OCI_INDEX, std::slice::from_ref(&unsaid)).await;
    // Ours: one of header and field is enough. Parameters mean nothing.
    let with_parameters = format!("{OCI_MANIFEST}; charset=utf-8");
    for (media_type, body) in [
        ("", &good),
        (&with_parameters, &good),
        (OCI_MANIFEST, &unsaid),
    ] {
        let answer = put(&registry, "v2", media_type, body).await;
        answer.expect(StatusCode::CREATED);
        let answer = ask(&registry, "GET /v2/a/manifests/v2", &[], b"").await;
        assert_eq!(answer.header("content-type"), OCI_MANIFEST);
        assert_eq!(answer.body, body.as_bytes());
    }
}

#[tokio::test]
async fn bad_input_28_image_and_index_at_once() {
    let (registry, good) = with_image().await;
    let both = good.replacen('{', r#"{"manifests":[],"#, 1);
    let index = both.replacen(OCI_MANIFEST, OCI_INDEX, 1);
    are_refused(&registry, OCI_MANIFEST, &[both]).await;
    let layers = r#"{"layers":[],"#;
    let listed = index_of(&[]).replacen('{', layers, 1);
    are_refused(&registry, OCI_INDEX, &[index, listed]).await;
}

#[tokio::test]
async fn bad_input_29_the_first_schema() {
    let (registry, _) = with_image().await;
    let body = r#"{"schemaVersion":1,"name":"a","tag":"v2","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}"#;
    let body = [body.to_owned()];
    for media_type in [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
        OCI_MANIFEST,
    ] {
        are_refused(&registry, media_type, &body).await;
    }
}

#[tokio::test]
async fn bad_input_30_a_layer_or_a_child_that_is_not_there() {
    let (registry, _) = with_image().await;
    let before = stored(&registry);
    let missing = image_manifest(b"absent", "");
    let answer = put(&registry, "v1", OCI_MANIFEST, &missing).await;
    answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    let index = index_of(&[(sha256("absent").to_string(), 6)]);
    let answer = put(&registry, "v1", OCI_INDEX, &index).await;
    answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
    unchanged(&registry, &before);
    let octets = "\"application/octet-stream\"";
    for elsewhere in [
        "\"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip\"",
        "\"x\",\"urls\":[\"https://elsewhere.test/\"]",
    ] {
        let foreign = missing.replace(octets, elsewhere);
        let answer = put(&registry, "v2", OCI_MANIFEST, &foreign).await;
        answer.expect(StatusCode::CREATED);
    }
}

#[tokio::test]
async fn bad_input_31_a_size_that_is_wrong() {
    let (registry, good) = with_image().await;
    let sizes = [
        "4",
        "6",
        "0",
        "-5",
        "-1",
        "5.0",
        "5e0",
        "\"5\"",
        "null",
        "99999999999999999999",
    ];
    let mut bodies: Vec<String> = sizes
        .iter()
        .map(|size| good.replace("\"size\":5", &format!("\"size\":{size}")))
        .collect();
    bodies.push(good.replace(",\"size\":5", ""));
    bodies.push(good.replace("\"size\":2", "\"size\":3"));
    are_refused(&registry, OCI_MANIFEST, &bodies).await;
    let index = index_of(&[(sha256(&good).to_string(), good.len() + 1)]);
    let negative = index.replace("\"size\":", "\"size\":-");
    are_refused(&registry, OCI_INDEX, &[index, negative]).await;
}

#[tokio::test]
async fn bad_input_32_a_subject_that_is_not_there() {
    let (registry, _) = with_image().await;
    let subject = sha256("absent").to_string();
    let more =
        format!(r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":6}}"#);
    let manifest = image_manifest(b"layer", &more);
    let before = stored(&registry);
    // The nearest that there is to a manifest about itself.
    let answer = put(&registry, &subject, OCI_MANIFEST, &manifest).await;
    answer.expect_error(400, "DIGEST_INVALID");
    unchanged(&registry, &before);
    let answer = put(&registry, "signature", OCI_MANIFEST, &manifest).await;
    let answer = answer.expect(StatusCode::CREATED);
    assert_eq!(answer.header("oci-subject"), subject);
    let line = format!("GET /v2/a/referrers/{subject}");
    let listed = ask(&registry, &line, &[], b"").await.expect(StatusCode::OK);
    let digest = sha256(&manifest).to_string();
    assert_eq!(listed.json()["manifests"][0]["digest"], digest);
}

#[tokio::test]
async fn bad_input_33_a_chain_of_indexes() {
    let registry = TestRegistry::open();
    let mut below: Vec<(String, usize)> = Vec::new();
    let mut digests = Vec::new();
    for level in 0..100 {
        let index = index_of(&below);
        let digest = sha256(&index).to_string();
        let reference = if level % 2 == 0 { &digest } else { "top" };
        let answer = put(&registry, reference, OCI_INDEX, &index).await;
        answer.expect(StatusCode::CREATED);
        below = vec![(digest.clone(), index.len())];
        digests.push(digest);
    }
    // An index of itself cannot be built; one that is put where its child would be is another's content.
    let before = stored(&registry);
    let child = sha256("itself").to_string();
    let answer = put(
        &registry,
        &child,
        OCI_INDEX,
        &index_of(&[(child.clone(), 6)]),
    )
    .await;
    answer.expect_error(400, "DIGEST_INVALID");
    unchanged(&registry, &before);
    // One is taken out of the middle and one off the top: nothing follows what they point at.
    for gone in [&digests[50], &digests[99]] {
        let line = format!("DELETE /v2/a/manifests/{gone}");
        ask(&registry, &line, &[], b"")
            .await
            .expect(StatusCode::ACCEPTED);
    }
    for (level, digest) in digests.iter().enumerate() {
        let line = format!("GET /v2/a/manifests/{digest}");
        let answer = ask(&registry, &line, &[], b"").await;
        let is_gone = level == 50 || level == 99;
        assert_eq!(answer.status, if is_gone { 404 } else { 200 }, "{level}");
    }
}
