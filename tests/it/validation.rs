//! `validation.manifests`: which layers may be elsewhere, and which images of an index must exist.

use boathouse::oci::{Algorithm, Digest, Platform};
use boathouse::registry::{Children, LayerUrls, References};
use http::StatusCode;

use crate::support::{Answer, OCI_INDEX, OCI_MANIFEST, Options, TestRegistry};

const FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";

fn registry(change: impl FnOnce(&mut boathouse::registry::Settings)) -> TestRegistry {
    let mut options = Options {
        runs_tasks: false,
        ..Options::default()
    };
    change(&mut options.registry);
    TestRegistry::start(options)
}

fn absent(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

async fn push(registry: &TestRegistry, tag: &str, media_type: &str, manifest: &str) -> Answer {
    let call = registry.put(&format!("/v2/a/manifests/{tag}"));
    let call = call.header("content-type", media_type);
    call.body(manifest.as_bytes()).send().await
}

/// Pushes an image with a layer that is only at this URL.
async fn push_foreign(registry: &TestRegistry, url: &str) -> Answer {
    let config = registry.push_blob("a", b"{}").await;
    let layer = absent(url);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"{FOREIGN}","digest":"{layer}","size":9,"urls":["{url}"]}}]}}"#
    );
    push(registry, "v1", OCI_MANIFEST, &manifest).await
}

fn urls(allow: &[&str], deny: &[&str]) -> LayerUrls {
    let compiled = |texts: &[&str]| {
        let compiled = texts.iter().map(|text| boathouse::auth::go_regex(text));
        compiled.collect::<Result<_, _>>().unwrap()
    };
    LayerUrls {
        allow: compiled(allow),
        deny: compiled(deny),
    }
}

#[tokio::test]
async fn a_layer_elsewhere_is_taken_from_the_urls_that_are_allowed() {
    let good = "https://go.example/layer";
    for (layer_urls, url, is_taken) in [
        (None, good, true),
        (Some(urls(&[], &[])), good, false),
        (Some(urls(&["^https://go[.]example/"], &[])), good, true),
        (Some(urls(&["other", "example"], &[])), good, true),
        (Some(urls(&["^https://other/"], &[])), good, false),
        (Some(urls(&[], &["other"])), good, true),
        (Some(urls(&[], &["example"])), good, false),
        (Some(urls(&["example"], &["layer$"])), good, false),
        (Some(urls(&["."], &[])), "ftp://go.example/layer", false),
        (Some(urls(&["."], &[])), "file:///etc/passwd", false),
        (
            Some(urls(&["."], &[])),
            "https://go.example/layer#part",
            false,
        ),
        (Some(urls(&["."], &[])), "http://go.example/layer", true),
    ] {
        let registry = registry(|settings| settings.layer_urls = layer_urls.clone());
        let answer = push_foreign(&registry, url).await;
        if is_taken {
            answer.expect(StatusCode::CREATED);
        } else {
            answer.expect_error(400, "MANIFEST_INVALID");
        }
    }
}

fn platform(architecture: &str) -> Platform {
    Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
    }
}

/// An index of these images, each for an architecture of Linux.
fn index(images: &[(&str, &Digest, usize)]) -> String {
    let entries: Vec<String> = images
        .iter()
        .map(|(architecture, digest, size)| {
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{size},"platform":{{"architecture":"{architecture}","os":"linux"}}}}"#
            )
        })
        .collect();
    let entries = entries.join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#)
}

#[tokio::test]
async fn images_of_an_index_must_exist_for_the_platforms_that_are_named() {
    let arm = absent("arm");
    for (children, references, both, arm_alone, amd_twice) in [
        (Children::All, References::Strict, false, false, false),
        (Children::None, References::Strict, true, true, true),
        (Children::All, References::Any, true, true, true),
        (
            Children::Of(vec![platform("amd64")]),
            References::Strict,
            true,
            true,
            false,
        ),
        (
            Children::Of(vec![platform("arm64")]),
            References::Strict,
            false,
            false,
            true,
        ),
    ] {
        let registry = registry(|settings| {
            settings.children = children.clone();
            settings.references = references;
        });
        let (image, amd) = registry.push_image("a", "v1", b"layer").await;
        let amd_entry = ("amd64", &amd, image.len());
        let missing_amd = absent("amd");
        for (entries, is_taken) in [
            (vec![amd_entry], true),
            (vec![amd_entry, ("arm64", &arm, 9)], both),
            (vec![("arm64", &arm, 9)], arm_alone),
            // One that is missing is needed for the platform for which it is listed a second time.
            (
                vec![("riscv64", &missing_amd, 9), ("amd64", &missing_amd, 9)],
                amd_twice,
            ),
        ] {
            let answer = push(&registry, "all", OCI_INDEX, &index(&entries)).await;
            if is_taken {
                answer.expect(StatusCode::CREATED);
            } else {
                answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
            }
        }
    }
}

/// Only images in an index are excepted: their own layers must exist, as in distribution.
#[tokio::test]
async fn layers_must_exist_whatever_is_said_of_indexes() {
    let registry = registry(|settings| settings.children = Children::None);
    let config = registry.push_blob("a", b"{}").await;
    let layer = absent("layer");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{layer}","size":9}}]}}"#
    );
    let answer = push(&registry, "v1", OCI_MANIFEST, &manifest).await;
    answer.expect_error(400, "MANIFEST_BLOB_UNKNOWN");
}
