//! What the old registry, or a person, does to the data is listed after the next comparison.

use super::*;

#[tokio::test]
async fn what_changed_while_the_registry_was_down_is_seen_after_the_start() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, image) = registry.push_image("kept", "old", b"layer").await;
    registry.push_image("kept", "gone", b"layer").await;
    registry.push_image("removed", "v1", b"layer").await;
    lab.stop(registry).await;

    for (key, content) in lab.data.files() {
        if let Some(key) = key.strip_prefix(&keys_of("kept")) {
            let copy = format!("{}{key}", keys_of("a/added"));
            lab.data.write(&copy, content);
        }
    }
    tag_by_hand(&lab.data, "kept", "new", &image);
    assert!(lab.data.remove_below(&tag_keys("kept", "gone")));
    assert!(lab.data.remove_below(&keys_of("removed")));

    // Before the index was compared, and after.
    let registry = lab.start_unread();
    for when in ["unread", "read"] {
        assert_eq!(tags(&registry, "kept").await, ["new", "old"], "{when}");
        let added = tags(&registry, "a/added").await;
        assert_eq!(added, ["gone", "old"], "{when}");
        assert!(tags(&registry, "removed").await.is_empty(), "{when}");
        assert_eq!(catalog(&registry).await, ["a/added", "kept"], "{when}");
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
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

    let revision = revision_keys("a", &about);
    let layer = format!("{}_layers/sha256/{}/", keys_of("a"), digest("layer").hex());
    let [link, layer_link] = [&revision, &layer].map(|directory| format!("{directory}link"));
    assert!(lab.data.remove(&link));
    assert!(lab.data.remove(&layer_link));
    // It deletes the tags of a manifest with it; without that no list differs, and nothing is read again.
    assert!(lab.data.remove_below(&tag_keys("a", "v1")));
    let registry = lab.start().await;
    assert!(referrers(&registry, "a", &subject).await.is_empty());
    lab.expect_fresh("after the old registry deleted").await;
    lab.stop(registry).await;
    assert!(
        !lab.data.is_there(&revision) && !lab.data.is_there(&layer),
        "directories without a link stay, in which a new link would not be noticed"
    );

    lab.data.write(&link, about.to_string());
    lab.data.write(&layer_link, digest("layer").to_string());
    let registry = lab.start().await;
    let found = referrers(&registry, "a", &subject).await;
    assert_eq!(found, [about.to_string()], "pushed again, and not listed");
    lab.expect_fresh("after the old registry pushed again")
        .await;
}

#[tokio::test]
async fn a_tag_that_the_old_registry_began_and_finished_later_is_listed() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, image) = registry.push_image("a", "v1", b"layer").await;
    lab.stop(registry).await;

    // Killed before `current` was written, or cut off from power after it was.
    let half = tag_keys("a", "half");
    lab.data.make_directory(&format!("{half}index"));
    let linked = format!(
        "{}index/sha256/{}/link",
        tag_keys("a", "linked"),
        image.hex()
    );
    lab.data.write(&linked, image.to_string());
    let torn = format!("{}current/link", tag_keys("a", "torn"));
    lab.data.write(&torn, "");
    let registry = lab.start().await;
    assert_eq!(tags(&registry, "a").await, ["v1"]);
    lab.stop(registry).await;

    for tag in ["half", "linked", "torn"] {
        tag_by_hand(&lab.data, "a", tag, &image);
    }
    let registry = lab.start().await;
    let all = ["half", "linked", "torn", "v1"];
    assert_eq!(tags(&registry, "a").await, all);
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
    let current = OwnedPlace::TagCurrent(name("a"), tag.clone()).key();
    let steps = vec![Step::put(current, second.to_string())];
    lab.store.apply(steps).await.unwrap();
    let pointed = async || {
        let tags = lab
            .index
            .read(|view| view.tags(&name("a"), None).at_most(1).into_vec());
        tags.await.unwrap()
    };
    assert_eq!(pointed().await, [(tag.clone(), first)]);
    let registry = lab.start().await;
    assert_eq!(pointed().await, [(tag, second)]);
    registry.stop().await;
}
