//! An index that cannot be used, that knows too much, or that was interrupted.

use super::*;

#[tokio::test]
async fn a_failed_change_puts_the_repository_in_doubt() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (manifest, image) = registry.push_image("a", "v1", b"layer").await;
    // From now on its lists come from the index.
    assert_eq!(tags(&registry, "a").await, ["v1"]);
    lab.settle(&registry).await;

    // What a failed apply has done nobody knows; here it has made one tag and removed another.
    lab.store.fail(Operation::Apply, 0, Fault::Io);
    let put = registry
        .put("/v2/a/manifests/v2")
        .header("content-type", OCI_MANIFEST);
    let answer = put.body(manifest.as_bytes()).send().await;
    assert!(answer.status.is_server_error(), "{answer:?}");
    tag_by_hand(&lab.data, "a", "v2", &image);
    assert!(lab.data.remove_below(&tag_keys("a", "v1")));

    assert_eq!(tags(&registry, "a").await, ["v2"], "listed while in doubt");
    lab.settle(&registry).await;
    assert_eq!(tags(&registry, "a").await, ["v2"]);
    lab.expect_fresh("after a failed change").await;
}

#[tokio::test]
async fn a_list_shows_nothing_that_only_the_index_knows() {
    let lab = Lab::new();
    let registry = lab.start().await;
    let (_, subject) = registry.push_image("a", "v1", b"layer").await;
    let ghost = digest("ghost");
    let gone = push_manifest(&registry, "a", &referrer_of(&subject)).await;
    // From now on its lists come from the index.
    assert_eq!(tags(&registry, "a").await, ["v1"]);
    lab.settle(&registry).await;
    let revision = |digest: &Digest| {
        Fact::Revision(Revision {
            digest: *digest,
            size_bytes: 2,
            is_index: false,
            subject: Some(subject),
        })
    };
    let facts = vec![
        Fact::Tag("ghost".parse().unwrap(), ghost),
        revision(&ghost),
        Fact::Layer(ghost),
    ];
    lab.index.record(&name("a"), facts.clone());
    lab.index.record(&name("ghost"), facts);
    lab.index.settle().await;
    // The old collector removes bytes and leaves links.
    assert!(lab.data.remove(&data_key(&gone)));

    let all = (
        tags(&registry, "a").await,
        catalog(&registry).await,
        referrers(&registry, "a", &subject).await,
    );
    assert_eq!(
        all,
        (vec!["v1".to_owned()], vec!["a".to_owned()], Vec::new()),
        "a list showed what only the index knows"
    );
    let mount = registry.post(&format!("/v2/b/blobs/uploads/?mount={ghost}"));
    mount.send().await.expect(StatusCode::ACCEPTED);
    let blob = registry.head(&format!("/v2/a/blobs/{ghost}"));
    blob.send().await.expect(StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushes_during_a_reading_are_not_lost() {
    let lab = Arc::new(Lab::new());
    let registry = Arc::new(lab.start().await);
    for repository in ["a", "b"] {
        registry.push_image(repository, "v0", b"layer").await;
    }
    let pushes: Vec<_> = (0..4)
        .map(|task| {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move {
                for round in 0..12 {
                    let (repository, tag) = (["a", "b"][round % 2], format!("t{task}-{round}"));
                    let layer = format!("layer {task} {}", round % 5);
                    registry
                        .push_image(repository, &tag, layer.as_bytes())
                        .await;
                    let found = tags(&registry, repository).await;
                    assert!(found.contains(&tag), "{tag} was pushed and is not listed");
                    if round % 3 == 0 {
                        delete(&registry, &format!("/v2/{repository}/manifests/{tag}")).await;
                        let found = tags(&registry, repository).await;
                        assert!(!found.contains(&tag), "{tag} was deleted and is listed");
                    }
                }
            })
        })
        .collect();
    while !pushes.iter().all(tokio::task::JoinHandle::is_finished) {
        for repository in ["a", "b"] {
            // As if it differed, so that it is read while pushes go on.
            lab.index.forget(&name(repository), vec![Forget::Stamp]);
        }
        lab.index.settle().await;
        registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
        registry.registry.index_sync.catch_up().await;
    }
    for push in pushes {
        push.await.unwrap();
    }
    lab.settle(&registry).await;
    lab.expect_fresh("after pushes during readings").await;
}

/// What becomes of an index between two starts.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    Damaged,
    Foreign,
    Older,
}

#[tokio::test]
async fn an_index_that_cannot_be_used_is_filled_again() {
    for fate in [
        Fate::Kept,
        Fate::Lost,
        Fate::Damaged,
        Fate::Foreign,
        Fate::Older,
    ] {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("index");
        let settings = |store_id: &str| index::Settings {
            directory: directory.clone(),
            store_id: store_id.to_owned(),
        };
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        let open = |store_id: &str| Index::open(&settings(store_id), shared(&clock)).unwrap();
        let mut lab = Lab::with(open("store"), clock.clone());
        let registry = lab.start().await;
        let (_, subject) = registry.push_image("a", "v1", b"layer").await;
        registry.registry.index_sync.close().await;
        registry.stop().await;
        copy_tree(&directory, &home.path().join("older"));

        lab.index = Arc::new(open("store"));
        let registry = lab.start().await;
        registry.push_image("a", "v2", b"layer").await;
        registry.push_image("b", "v1", b"layer").await;
        let about = push_manifest(&registry, "a", &referrer_of(&subject)).await;
        registry.registry.index_sync.close().await;
        registry.stop().await;

        let mut store_id = "store";
        match fate {
            Fate::Kept => {}
            Fate::Lost => fs::remove_dir_all(&directory).unwrap(),
            Fate::Damaged => {
                let database = directory.join("db");
                let mut bytes = fs::read(&database).unwrap();
                for byte in &mut bytes {
                    *byte = !*byte;
                }
                fs::write(database, bytes).unwrap();
            }
            Fate::Foreign => store_id = "another store",
            Fate::Older => {
                fs::remove_dir_all(&directory).unwrap();
                copy_tree(&home.path().join("older"), &directory);
            }
        }

        lab.index = Arc::new(open(store_id));
        let is_rebuilding = matches!(lab.index.health(), Health::Rebuilding { .. });
        assert_eq!(is_rebuilding, !matches!(fate, Fate::Kept), "{fate:?}");
        let registry = lab.start_unread();
        for when in ["unread", "read"] {
            assert_eq!(catalog(&registry).await, ["a", "b"], "{fate:?}, {when}");
            let found = tags(&registry, "a").await;
            assert_eq!(found, ["v1", "v2"], "{fate:?}, {when}");
            let found = referrers(&registry, "a", &subject).await;
            assert_eq!(found, [about.to_string()], "{fate:?}, {when}");
            registry
                .registry
                .index_sync
                .read_everything()
                .await
                .unwrap();
        }
        assert_eq!(lab.index.health(), Health::Healthy, "{fate:?}");
        lab.expect_fresh(&format!("{fate:?}")).await;
        registry.registry.index_sync.close().await;
        registry.stop().await;
    }
}
