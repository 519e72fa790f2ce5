//! What every store does, whatever lies beneath: one suite over the seam.
//!
//! Must not know which store it runs on. Each check takes an empty store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::layout::{Key, OwnedPlace, Prefix, UploadId, tag_directory, upload_directory};
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};
use crate::store::{Condition, Depth, ObjectStore, Small, Step, StoreError, Upload, Version};

/// Runs all checks; `new` makes an empty store.
pub(super) async fn check_all<S: ObjectStore + 'static>(new: impl Fn() -> S) {
    reading(&new()).await;
    reading_each(&new()).await;
    conditions(&new()).await;
    order(&new()).await;
    listing(&new()).await;
    pages(&new()).await;
    own_keys(&new()).await;
    removal(&new()).await;
    finishing(&new()).await;
    resuming(&new()).await;
    digests(&new()).await;
    foreign_uploads(&new(), &new()).await;
    concurrency(Arc::new(new())).await;
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn session(number: u64) -> Prefix {
    let name: RepositoryName = "team/app".parse().unwrap();
    upload_directory(&name, UploadId::from_parts(number, 0))
}

async fn put(store: &dyn ObjectStore, path: &str, content: &str) {
    let steps = vec![Step::put(key(path), content.to_owned())];
    store.apply(steps).await.unwrap();
}

async fn read(store: &dyn ObjectStore, path: &Key) -> Option<Bytes> {
    match store.get(path, None).await {
        Ok((meta, stream)) => {
            let bytes: BytesMut = stream.try_collect().await.unwrap();
            assert_eq!(bytes.len() as u64, meta.size_bytes);
            Some(bytes.freeze())
        }
        Err(StoreError::NotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn keys(store: &dyn ObjectStore, below: &str, depth: Depth) -> Vec<String> {
    let entries = store.list(&prefix(below), None, depth, 1000).await.unwrap();
    entries.into_iter().map(|entry| entry.key).collect()
}

async fn reading(store: &dyn ObjectStore) {
    // Longer than any piece that a store may read at once.
    let content: Vec<u8> = (0..=u8::MAX).cycle().take(1_000_003).collect();
    let content = Bytes::from(content);
    let (long, short) = (key("a/long"), key("a/short"));
    let steps = vec![
        Step::put(long.clone(), content.clone()),
        Step::put(short.clone(), "abc"),
        Step::put(key("a/empty"), ""),
    ];
    store.apply(steps).await.unwrap();
    assert_eq!(read(store, &long).await.unwrap(), content);
    assert_eq!(read(store, &short).await.unwrap(), "abc");
    assert_eq!(read(store, &key("a/empty")).await.unwrap(), "");
    for range in [0..0, 0..1, 5..300_000, 262_144..524_288, 999_999..1_000_003] {
        let (meta, stream) = store.get(&long, Some(range.clone())).await.unwrap();
        assert_eq!(meta.size_bytes, 1_000_003);
        let bytes: BytesMut = stream.try_collect().await.unwrap();
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
        assert_eq!(bytes, content[start..end], "{range:?}");
    }
    assert!(store.get(&short, Some(0..4)).await.is_err());
    for nothing in ["a", "b", "a/short/c", &"x".repeat(300)] {
        let nothing = key(nothing);
        let head = store.head(&nothing).await;
        assert!(matches!(head, Err(StoreError::NotFound)), "{nothing}");
        assert!(read(store, &nothing).await.is_none(), "{nothing}");
        let touched = store.touch(&nothing).await;
        assert!(matches!(touched, Err(StoreError::NotFound)), "{nothing}");
    }
    let meta = store.head(&short).await.unwrap();
    assert_eq!((meta.size_bytes, meta.is_prefix), (3, false));
    store.touch(&short).await.unwrap();
    assert!(store.head(&short).await.unwrap().modified >= meta.modified);
    // A reader that stops early harms nobody.
    let (_, mut stream) = store.get(&long, None).await.unwrap();
    stream.next().await.unwrap().unwrap();
}

async fn reading_each(store: &dyn ObjectStore) {
    let long = Bytes::from(vec![7; 3 * 1024 * 1024]);
    let names = ["a/long", "a/longer", "a/longest", "a/short", "a/empty"];
    let keys = names.map(key);
    let contents = [long.clone(), long.clone(), long, "abc".into(), Bytes::new()];
    let steps = keys.iter().cloned().zip(contents);
    let steps = steps.map(|(key, content)| Step::put(key, content));
    store.apply(steps.collect()).await.unwrap();
    // A directory, something below a file, and nothing at all.
    let absent = ["a", "a/short/c", "b"].map(key);
    let wanted = [
        &absent[0], &keys[3], &absent[1], &keys[4], &absent[2], &keys[0],
    ]
    .map(Key::clone);

    let heads = store.head_each(&wanted).await.unwrap();
    let contents = store.read_each(&wanted, 3).await.unwrap();
    assert_eq!((heads.len(), contents.len()), (wanted.len(), wanted.len()));
    for ((key, head), content) in wanted.iter().zip(heads).zip(contents) {
        let alone = store.head(key).await.ok();
        assert_eq!(head, alone, "{key}");
        let expected = match (alone, read(store, key).await) {
            (None, None) => Small::Absent,
            (Some(meta), Some(bytes)) if bytes.len() <= 3 => Small::Whole(meta, bytes),
            (Some(meta), Some(_)) => Small::TooLarge(meta),
            (meta, bytes) => panic!("{key}: {meta:?}, {bytes:?}"),
        };
        assert_eq!(content, expected, "{key}");
    }
    assert!(store.head_each(&[]).await.unwrap().is_empty());
    assert!(store.read_each(&[], 3).await.unwrap().is_empty());

    // Long ones come in parts, each of which brings something.
    let mut left = &keys[..];
    let mut parts = Vec::new();
    while !left.is_empty() {
        let part = store.read_each(left, u64::MAX).await.unwrap();
        left = &left[part.len()..];
        parts.push(part.len());
    }
    assert_eq!(parts, [2, 3]);
}

async fn conditions(store: &dyn ObjectStore) {
    let place = key("a/b");
    let attempt = |content: &'static str, condition: Condition| {
        store.apply(vec![Step::Put {
            key: place.clone(),
            bytes: content.into(),
            condition,
        }])
    };
    let never = Condition::Match(Version("never".into()));
    let conflict = attempt("0", never.clone()).await;
    assert!(matches!(conflict, Err(StoreError::Conflict)));
    attempt("1", Condition::Absent).await.unwrap();
    let conflict = attempt("2", Condition::Absent).await;
    assert!(matches!(conflict, Err(StoreError::Conflict)));
    let first = store.head(&place).await.unwrap().version;
    attempt("3", Condition::Match(first.clone())).await.unwrap();
    for stale in [Condition::Match(first), never] {
        let conflict = attempt("4", stale).await;
        assert!(matches!(conflict, Err(StoreError::Conflict)));
    }
    assert_eq!(read(store, &place).await.unwrap(), "3");
    // No two contents ever have the same version, however fast they follow each other.
    let mut versions = Vec::new();
    for _ in 0..10 {
        attempt("x", Condition::Any).await.unwrap();
        versions.push(store.head(&place).await.unwrap().version.0);
    }
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), 10);
}

async fn order(store: &dyn ObjectStore) {
    let (a, b, c) = (key("x/a"), key("x/b"), key("x/c"));
    let steps = vec![
        Step::put(a.clone(), "1"),
        Step::put(a.clone(), "2"),
        Step::put(b.clone(), "1"),
        Step::Remove(b.clone()),
        Step::Barrier,
        Step::Barrier,
        Step::Remove(c.clone()),
        Step::put(c.clone(), "1"),
        Step::Barrier,
    ];
    store.apply(steps).await.unwrap();
    assert_eq!(keys(store, "x/", Depth::All).await, ["x/a", "x/c"]);
    assert_eq!(read(store, &a).await.unwrap(), "2");
    // What fails stops what follows, and only in its own request.
    let steps = vec![
        Step::put(b.clone(), "3"),
        Step::Put {
            key: a.clone(),
            bytes: "3".into(),
            condition: Condition::Absent,
        },
        Step::put(c.clone(), "3"),
        Step::Barrier,
        Step::put(key("x/d"), "3"),
    ];
    let other = [Step::put(key("y"), "1")];
    let (failed, other) = tokio::join!(store.apply(steps), store.apply(other.into()));
    assert!(matches!(failed, Err(StoreError::Conflict)));
    other.unwrap();
    assert_eq!(keys(store, "x/", Depth::All).await, ["x/a", "x/b", "x/c"]);
    assert_eq!(read(store, &c).await.unwrap(), "1");
    store.apply(Vec::new()).await.unwrap();
}

async fn listing(store: &dyn ObjectStore) {
    for path in [
        "r/a/1", "r/a-b/1", "r/a.b/1", "r/a/2/3", "r/ab", "r/é/1", "s",
    ] {
        put(store, path, "content").await;
    }
    let all = ["r/a-b/1", "r/a.b/1", "r/a/1", "r/a/2/3", "r/ab", "r/é/1"];
    assert_eq!(keys(store, "r/", Depth::All).await, all);
    let one = ["r/a-b/", "r/a.b/", "r/a/", "r/ab", "r/é/"];
    assert_eq!(keys(store, "r/", Depth::One).await, one);
    assert_eq!(keys(store, "", Depth::One).await, ["r/", "s"]);
    assert_eq!(keys(store, "r/a/", Depth::One).await, ["r/a/1", "r/a/2/"]);
    assert!(keys(store, "nothing/here/", Depth::One).await.is_empty());
    assert!(keys(store, "s/", Depth::All).await.is_empty());
    let entries = store.list(&prefix("r/"), None, Depth::One, 10).await;
    for entry in entries.unwrap() {
        assert_eq!(entry.meta.is_prefix, entry.key.ends_with('/'));
        let size_bytes = if entry.meta.is_prefix { 0 } else { 7 };
        assert_eq!(entry.meta.size_bytes, size_bytes);
    }
}

async fn pages(store: &dyn ObjectStore) {
    let mut expected = Vec::new();
    for number in 0..30 {
        let path = format!("p/{}/{}", number % 5, number);
        put(store, &path, "").await;
        expected.push(path);
    }
    expected.sort();
    for limit in [1, 2, 7, 30, 31] {
        let mut found: Vec<String> = Vec::new();
        loop {
            let after = found.last().cloned();
            let page = store
                .list(&prefix("p/"), after.as_deref(), Depth::All, limit)
                .await
                .unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            found.extend(page.into_iter().map(|entry| entry.key));
        }
        assert_eq!(found, expected, "by {limit}");
    }
    let after = |after: &'static str, depth| async move {
        let page = store.list(&prefix("p/"), Some(after), depth, 2).await;
        let keys = page.unwrap().into_iter().map(|entry| entry.key);
        keys.collect::<Vec<_>>()
    };
    assert_eq!(after("p/1/", Depth::One).await, ["p/2/", "p/3/"]);
    assert_eq!(after("p/1", Depth::One).await, ["p/1/", "p/2/"]);
    assert_eq!(after("p/1/zzz", Depth::All).await, ["p/2/12", "p/2/17"]);
    assert_eq!(after("p/~", Depth::All).await, [""; 0]);
    assert_eq!(after("a", Depth::One).await, ["p/0/", "p/1/"]);
}

async fn own_keys(store: &dyn ObjectStore) {
    put(store, "boathouse/deleted/1/a", "").await;
    for depth in [Depth::One, Depth::All] {
        let all = keys(store, "", depth).await;
        assert!(!all.iter().any(|key| key.starts_with("boathouse")));
    }
    let days = keys(store, "boathouse/deleted/", Depth::One).await;
    assert_eq!(days, ["boathouse/deleted/1/"]);
    let tree = Step::RemoveTree(prefix("boathouse/deleted/1/"));
    store.apply(vec![tree]).await.unwrap();
    assert!(read(store, &key("boathouse/deleted/1/a")).await.is_none());
}

async fn removal(store: &dyn ObjectStore) {
    let name: RepositoryName = "team/app".parse().unwrap();
    let digest = Digest::of(Algorithm::Sha256, b"manifest");
    let tag = |text: &str| -> Tag { text.parse().unwrap() };
    let put_tag = |text: &str| {
        let index = OwnedPlace::TagIndex(name.clone(), tag(text), digest);
        let current = OwnedPlace::TagCurrent(name.clone(), tag(text));
        let link = digest.to_string();
        [
            Step::put(index.key(), link.clone()),
            Step::put(current.key(), link),
        ]
    };
    store.apply(put_tag("v1").into()).await.unwrap();
    store.apply(put_tag("v1-rc").into()).await.unwrap();
    let current = OwnedPlace::TagCurrent(name.clone(), tag("v1")).key();
    assert_eq!(read(store, &current).await.unwrap(), digest.to_string());
    let v1 = tag_directory(&name, &tag("v1"));
    let remove = || vec![Step::RemoveTree(v1.clone())];
    store.apply(remove()).await.unwrap();
    assert!(keys(store, v1.as_str(), Depth::All).await.is_empty());
    assert_eq!(
        keys(store, "", Depth::All).await.len(),
        2,
        "its neighbour stays"
    );
    store.apply(remove()).await.unwrap();
    // Removed and put in one request, in both orders.
    let mut steps = remove();
    steps.extend(put_tag("v1"));
    store.apply(steps).await.unwrap();
    assert!(read(store, &current).await.is_some());
    let mut steps: Vec<Step> = put_tag("v2").into();
    steps.push(Step::RemoveTree(tag_directory(&name, &tag("v2"))));
    steps.extend(put_tag("v3"));
    steps.extend(remove());
    store.apply(steps).await.unwrap();
    assert!(read(store, &current).await.is_none());
    assert_eq!(keys(store, "", Depth::All).await.len(), 4);
    store
        .apply(vec![Step::Remove(key("not/there"))])
        .await
        .unwrap();
}

async fn finishing(store: &dyn ObjectStore) {
    let target = key("blobs/data");
    for (number, content) in [(1, "hello"), (2, "hello")] {
        let mut upload = store
            .open_upload(&session(number), None, None, None)
            .await
            .unwrap();
        for piece in content.as_bytes().chunks(2) {
            upload.append(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(upload.offset_bytes(), 5);
        let finish = Step::Finish {
            upload,
            key: target.clone(),
        };
        let link = Step::put(key("links/link"), "link");
        store.apply(vec![finish, link]).await.unwrap();
        assert_eq!(read(store, &target).await.unwrap(), "hello");
        assert_eq!(read(store, &key("links/link")).await.unwrap(), "link");
        let below = session(number);
        assert!(keys(store, below.as_str(), Depth::All).await.is_empty());
        assert!(store.resume_upload(&below).await.unwrap().is_none());
    }
    // An empty blob, and a session that is given up.
    let empty = store.open_upload(&session(3), None, None, None).await;
    let finish = Step::Finish {
        upload: empty.unwrap(),
        key: key("blobs/empty"),
    };
    store.apply(vec![finish]).await.unwrap();
    assert_eq!(read(store, &key("blobs/empty")).await.unwrap(), "");
    let mut upload = store
        .open_upload(&session(4), None, None, None)
        .await
        .unwrap();
    upload.append("gone".into()).await.unwrap();
    upload.persist().await.unwrap();
    upload.abort().await.unwrap();
    assert!(store.resume_upload(&session(4)).await.unwrap().is_none());
}

async fn resuming(store: &dyn ObjectStore) {
    assert!(store.resume_upload(&session(1)).await.unwrap().is_none());
    let piece = Bytes::from(vec![7; 700_000]);
    let mut expected = Vec::new();
    let mut upload = store
        .open_upload(&session(1), Some(Algorithm::Sha512), None, None)
        .await
        .unwrap();
    for sitting in 1..=3 {
        for _ in 0..2 {
            upload.append(piece.clone()).await.unwrap();
            expected.extend_from_slice(&piece);
        }
        assert_eq!(upload.persist().await.unwrap(), sitting * 1_400_000);
        drop(upload);
        upload = store.resume_upload(&session(1)).await.unwrap().unwrap();
        assert_eq!(upload.offset_bytes(), sitting * 1_400_000);
    }
    for algorithm in Algorithm::ALL {
        let digest = upload.digest(algorithm).await.unwrap();
        assert_eq!(digest, Digest::of(algorithm, &expected));
    }
    let below = session(1);
    assert_eq!(
        keys(store, below.as_str(), Depth::One)
            .await
            .iter()
            .filter(|key| { key.ends_with("/data") || key.ends_with("/startedat") })
            .count(),
        2
    );
}

async fn digests(store: &dyn ObjectStore) {
    let mut upload = store
        .open_upload(&session(1), None, None, None)
        .await
        .unwrap();
    let empty = upload.digest(Algorithm::Sha256).await.unwrap();
    assert_eq!(empty, Digest::of(Algorithm::Sha256, b""));
    upload.append("ab".into()).await.unwrap();
    // Not computed while receiving, and asked for in the middle.
    let wide = upload.digest(Algorithm::Sha512).await.unwrap();
    assert_eq!(wide, Digest::of(Algorithm::Sha512, b"ab"));
    upload.append("c".into()).await.unwrap();
    for algorithm in Algorithm::ALL {
        let digest = upload.digest(algorithm).await.unwrap();
        assert_eq!(digest, Digest::of(algorithm, b"abc"));
    }
}

async fn foreign_uploads(store: &dyn ObjectStore, other: &dyn ObjectStore) {
    let upload: Box<dyn Upload> = other
        .open_upload(&session(1), None, None, None)
        .await
        .unwrap();
    let finish = Step::Finish {
        upload,
        key: key("blobs/data"),
    };
    let refused = store.apply(vec![finish]).await;
    assert!(matches!(refused, Err(StoreError::Io { .. })));
}

async fn concurrency<S: ObjectStore + 'static>(store: Arc<S>) {
    // Sixteen writers add one each to a number, by comparing what they read.
    let counter = key("n/counter");
    put(&*store, "n/counter", "0").await;
    let writers: Vec<_> = (0..16)
        .map(|number| {
            let (store, counter) = (Arc::clone(&store), counter.clone());
            tokio::spawn(async move {
                put(&*store, &format!("n/{number}"), "mine").await;
                loop {
                    let (meta, stream) = store.get(&counter, None).await.unwrap();
                    let text: BytesMut = stream.try_collect().await.unwrap();
                    let value: u32 = std::str::from_utf8(&text).unwrap().parse().unwrap();
                    let step = Step::Put {
                        key: counter.clone(),
                        bytes: (value + 1).to_string().into(),
                        condition: Condition::Match(meta.version),
                    };
                    match store.apply(vec![step]).await {
                        Err(StoreError::Conflict) => {}
                        done => return done.unwrap(),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(read(&*store, &counter).await.unwrap(), "16");
    assert_eq!(keys(&*store, "n/", Depth::One).await.len(), 17);
    // Of many that want the same place, one gets it.
    let claims = (0..16).map(|number: u32| {
        store.apply(vec![Step::Put {
            key: key("n/claim"),
            bytes: number.to_string().into(),
            condition: Condition::Absent,
        }])
    });
    let results = futures_util::future::join_all(claims).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}
