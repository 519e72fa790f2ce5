//! `status` and `du`: exact bytes, from a running server and without one.

use serde_json::{Value, json};

use super::images::Images;
use crate::golden::golden;
use crate::lab::Lab;

/// Config blobs are `{}`: two bytes that every repository has.
const CONFIG: u64 = 2;

/// What `status --json` must say of everything.
fn status(images: &Images) -> Value {
    let a = in_a(images);
    let common = CONFIG + 1_000 + images.common.size_bytes;
    let solo = CONFIG + 700 + images.solo.size_bytes;
    json!({
        "repositories": 3,
        "tags": 6,
        "manifests": 9,
        "blobs": 16,
        "logical_bytes": a + common + solo,
        "stored_bytes": a + solo - CONFIG,
    })
}

fn in_a(images: &Images) -> u64 {
    let Images {
        common,
        own,
        index,
        children: [one, two],
        untagged,
        referrer,
        solo: _,
    } = images;
    let manifests = [common, own, index, one, two, untagged, referrer];
    let manifests: u64 = manifests.map(|manifest| manifest.size_bytes).iter().sum();
    CONFIG + 1_000 + 200 + 300 + 400 + 500 + 60 + manifests
}

fn row(name: &str, bytes: u64, unique_bytes: u64) -> Value {
    json!({
        "name": name,
        "bytes": bytes,
        "shared_bytes": bytes - unique_bytes,
        "unique_bytes": unique_bytes,
    })
}

fn repositories(images: &Images) -> Value {
    let common = CONFIG + 1_000 + images.common.size_bytes;
    let solo = 700 + images.solo.size_bytes;
    let a = in_a(images);
    json!([
        row("a", a, a - common),
        row("a-b", CONFIG + solo, solo),
        row("a/b", common, 0),
    ])
}

fn tags_of_a(images: &Images) -> Value {
    // With its signature.
    let common = CONFIG + 1_000 + images.common.size_bytes + images.referrer.size_bytes + 60;
    let children = images.children.each_ref().map(|child| child.size_bytes);
    let multi = images.index.size_bytes + children.iter().sum::<u64>() + 300 + 400;
    let own = images.own.size_bytes + 200;
    let untagged = images.untagged.size_bytes + 500;
    let mut rows = [
        (row("multi", CONFIG + multi, multi), Some(&images.index)),
        // Two tags of one manifest: neither frees anything alone.
        (row("same", common, 0), Some(&images.common)),
        (row("v1", common, 0), Some(&images.common)),
        (row("v2", CONFIG + own, own), Some(&images.own)),
        (row("", CONFIG + untagged, untagged), None),
    ];
    for (row, target) in &mut rows {
        match target {
            Some(target) => row["digest"] = target.digest.to_string().into(),
            None => row["name"] = Value::Null,
        }
    }
    Value::from(rows.map(|(row, _)| row).to_vec())
}

/// Everything that the commands say is what was pushed.
fn check(lab: &Lab, images: &Images) {
    let found = lab.status();
    for (key, expected) in status(images).as_object().unwrap() {
        assert_eq!(found[key], *expected, "{key} in {found}");
    }
    assert_eq!(found["lists_from_index"], true, "{found}");
    assert_eq!(found["index"]["health"], "healthy", "{found}");
    assert!(found["index"]["disk_bytes"].as_u64() > Some(0), "{found}");

    assert_eq!(lab.json(&["du"]), repositories(images));
    let tags = tags_of_a(images);
    assert_eq!(lab.json(&["du", "a"]), tags);
    assert_eq!(lab.json(&["du", "a:v2"]), json!([tags[3]]));
    // All of it is in `a` too.
    let of_b = &lab.json(&["du", "a/b"])[0];
    assert_eq!(of_b["unique_bytes"], 0);

    let text = lab.run(&["status"]).out;
    assert!(
        text.contains("\nrepositories  3\ntags          6\n"),
        "{text}"
    );
    assert!(
        text.contains("healthy; lists come from the index"),
        "{text}"
    );
    for (name, line) in [
        ("du.txt", &["du"][..]),
        ("du-repository.txt", &["du", "a"]),
        ("du-tag.txt", &["du", "a:v1"]),
    ] {
        golden(name, &lab.run(line).fine());
    }

    for (subject, told) in [
        ("nowhere", "nowhere"),
        ("a:nothing", "nothing"),
        ("UPPER", "UPPER: "),
        ("a:b:c", "b:c: "),
        ("a@sha256:00", "a@sha256: "),
    ] {
        let refused = lab.run(&["du", subject]);
        assert_eq!(refused.out, "", "{subject}");
        let said = refused.failed();
        assert!(said.contains("error: ") && said.contains(told), "{said}");
    }
}

#[tokio::test]
async fn figures_are_exact_with_a_server_and_without_one() {
    let lab = Lab::open();
    let mut server = lab.serve().await;
    let images = server.push_everything().await;
    check(&lab, &images);
    assert_eq!(lab.differences(), 0);

    // Killed, it leaves its socket behind, which nobody listens to.
    server.kill();
    assert!(lab.socket().exists());
    check(&lab, &images);
    assert_eq!(lab.differences(), 0);

    let server = lab.serve().await;
    check(&lab, &images);
    server.end();
    assert!(!lab.socket().exists());
    check(&lab, &images);
    assert!(!lab.socket().exists(), "a command listens");
}
