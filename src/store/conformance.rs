//! What every store must do, whatever it is built on: one suite over the seam.
//!
//! Must not know which store it runs on. Each check takes an empty store.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::layout::{
    self, Key, OwnedPlace, Prefix, UploadId, layer_directory, tag_directory, upload_directory,
};
use crate::oci::range::ByteRange;
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};
use crate::store::{
    Condition, Content, Depth, Entry, ObjectStore, Small, Step, StoreError, Upload, Version,
};

/// Runs all checks; `new` makes an empty store.
pub(super) async fn check_all<S: ObjectStore + 'static>(new: impl Fn() -> S) {
    check_keys(&new).await;
    finishing(&new()).await;
    resuming(&new()).await;
    digests(&new()).await;
}

/// All but uploads.
pub(super) async fn check_keys<S: ObjectStore + 'static>(new: impl Fn() -> S) {
    reading(&new()).await;
    reading_each(&new()).await;
    conditions(&new()).await;
    order(&new()).await;
    listing(&new()).await;
    lazy_listing(&new()).await;
    fingerprints(&new()).await;
    own_keys(&new()).await;
    removal(&new()).await;
    settling(&new()).await;
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
    match store.read(path, None).await {
        Ok(Content { meta, range, bytes }) => {
            let bytes: BytesMut = bytes.try_collect().await.unwrap();
            assert_eq!(bytes.len() as u64, meta.size_bytes);
            assert_eq!(range, Some(0..meta.size_bytes));
            Some(bytes.freeze())
        }
        Err(StoreError::NotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn keys(store: &dyn ObjectStore, below: &str, depth: Depth) -> Vec<String> {
    let listed = store.list(&prefix(below), depth);
    let keys = listed.map_ok(|listed: Entry| listed.key);
    keys.try_collect().await.unwrap()
}

fn remove_tag(name: &RepositoryName, tag: &Tag) -> Step {
    let current = OwnedPlace::TagCurrent(name.clone(), tag.clone());
    Step::remove_tree(tag_directory(name, tag), current.key())
}

async fn begin(store: &dyn ObjectStore, number: u64) -> Box<dyn Upload> {
    store.open_upload(&session(number), None).await.unwrap()
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
    let between = |first, last| ByteRange::Between { first, last };
    let cases = [
        (between(0, 0), Some(0..1)),
        (between(5, 299_999), Some(5..300_000)),
        (between(262_144, 524_287), Some(262_144..524_288)),
        (between(999_999, u64::MAX), Some(999_999..1_000_003)),
        (ByteRange::From(999_999), Some(999_999..1_000_003)),
        (ByteRange::Last(4), Some(999_999..1_000_003)),
        (ByteRange::Last(u64::MAX), Some(0..1_000_003)),
        (between(1_000_003, 1_000_004), None),
        (ByteRange::From(1_000_003), None),
        (ByteRange::Last(0), None),
    ];
    for (asked, expected) in cases {
        let Content { meta, range, bytes } = store.read(&long, Some(asked)).await.unwrap();
        assert_eq!(meta, store.head(&long).await.unwrap());
        assert_eq!(range, expected, "{asked:?}");
        let bytes: BytesMut = bytes.try_collect().await.unwrap();
        let [start, end] = range
            .map_or([0, 0], |range| [range.start, range.end])
            .map(|at| usize::try_from(at).unwrap());
        assert_eq!(bytes, content[start..end], "{asked:?}");
    }
    for range in [ByteRange::From(0), ByteRange::Last(4)] {
        let empty = store.read(&key("a/empty"), Some(range)).await;
        assert_eq!(empty.unwrap().range, None, "{range:?}");
    }
    for nothing in ["a", "b", "a/short/c", &"x".repeat(300)] {
        let nothing = key(nothing);
        let head = store.head(&nothing).await;
        assert!(matches!(head, Err(StoreError::NotFound)), "{nothing}");
        assert!(read(store, &nothing).await.is_none(), "{nothing}");
    }
    let meta = store.head(&short).await.unwrap();
    assert_eq!(meta.size_bytes, 3);
    // A reader may stop early.
    let mut content = store.read(&long, None).await.unwrap();
    content.bytes.next().await.unwrap().unwrap();
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
    for content in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        attempt(content, Condition::Any).await.unwrap();
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
        Step::put(b.clone(), "1"),
        Step::Then,
        Step::put(a.clone(), "2"),
        Step::Remove(b.clone()),
        Step::Barrier,
        Step::Barrier,
        Step::Remove(c.clone()),
        Step::Then,
        Step::Then,
        Step::put(c.clone(), "1"),
        Step::Barrier,
    ];
    store.apply(steps).await.unwrap();
    assert_eq!(keys(store, "x/", Depth::All).await, ["x/a", "x/c"]);
    assert_eq!(read(store, &a).await.unwrap(), "2");
    // What fails stops what follows, and only in its own request.
    let steps = vec![
        Step::put(b.clone(), "3"),
        Step::Then,
        Step::Put {
            key: a.clone(),
            bytes: "3".into(),
            condition: Condition::Absent,
        },
        Step::Then,
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
}

async fn lazy_listing(store: &dyn ObjectStore) {
    let mut expected = Vec::new();
    for number in 0..30 {
        let path = format!("p/{}/{}", number % 5, number);
        put(store, &path, "").await;
        expected.push(path);
    }
    expected.sort();
    assert_eq!(keys(store, "p/", Depth::All).await, expected);
    // A reader may stop early, and the store may change meanwhile: what was there before and after shows.
    let mut listed = store.list(&prefix("p/"), Depth::All);
    assert_eq!(listed.next().await.unwrap().unwrap().key, expected[0]);
    store
        .apply(vec![Step::Remove(key("p/4/29")), Step::put(key("q"), "")])
        .await
        .unwrap();
    let rest: Vec<Entry> = listed.try_collect().await.unwrap();
    let rest: Vec<String> = rest.into_iter().map(|listed| listed.key).collect();
    for path in &expected[1..] {
        assert!(rest.contains(path) || path == "p/4/29", "{path}");
    }
}

async fn fingerprints(store: &dyn ObjectStore) {
    let name: RepositoryName = "team/app".parse().unwrap();
    let other: RepositoryName = "team/app2".parse().unwrap();
    let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes());
    let tag = |text: &str| -> Tag { text.parse().unwrap() };
    let watched = [
        layout::tags_directory(&name),
        layout::revisions_directory(&name, Algorithm::Sha256),
        layout::layer_links_directory(&name, Algorithm::Sha256),
    ];
    let look = async || store.fingerprint(&watched).await.unwrap();
    let Some(nothing) = look().await else {
        return;
    };
    assert_eq!(look().await, Some(nothing.clone()));
    let link = |place: OwnedPlace, text: &str| Step::put(place.key(), digest(text).to_string());
    let tag_to = |name: &RepositoryName, text: &str, target: &str| {
        let index = OwnedPlace::TagIndex(name.clone(), tag(text), digest(target));
        let current = OwnedPlace::TagCurrent(name.clone(), tag(text));
        vec![link(index, target), link(current, target)]
    };
    let layer =
        |name: &RepositoryName| vec![link(OwnedPlace::LayerLink(name.clone(), digest("l")), "l")];
    let revision = OwnedPlace::RevisionLink(name.clone(), digest("m"));
    let changes = [
        layer(&name),
        vec![link(revision, "m")],
        tag_to(&name, "v1", "m"),
        tag_to(&name, "v2", "m"),
        // A tag that is moved.
        tag_to(&name, "v1", "n"),
        vec![remove_tag(&name, &tag("v2"))],
        vec![Step::remove_tree(
            layer_directory(&name, &digest("l")),
            OwnedPlace::LayerLink(name.clone(), digest("l")).key(),
        )],
    ];
    let mut before = vec![nothing.value];
    for (number, steps) in changes.into_iter().enumerate() {
        // Times that are made of a clock's ticks may be the same within one of them.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        store.apply(steps).await.unwrap();
        let found = look().await.unwrap();
        assert!(
            !before.contains(&found.value),
            "change {number} does not show"
        );
        assert_eq!(look().await.unwrap().value, found.value);
        // What happens elsewhere does not.
        store.apply(tag_to(&other, "v1", "m")).await.unwrap();
        store.apply(layer(&other)).await.unwrap();
        assert_eq!(look().await.unwrap().value, found.value);
        before.push(found.value);
    }
}

async fn own_keys(store: &dyn ObjectStore) {
    put(store, "boathouse/deleted/1/a", "").await;
    for depth in [Depth::One, Depth::All] {
        let all = keys(store, "", depth).await;
        assert!(!all.iter().any(|key| key.starts_with("boathouse")));
    }
    let days = keys(store, "boathouse/deleted/", Depth::One).await;
    assert_eq!(days, ["boathouse/deleted/1/"]);
    let tree = Step::remove_tree(prefix("boathouse/deleted/1/"), None);
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
    let remove = || vec![remove_tag(&name, &tag("v1"))];
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
    steps.push(Step::Then);
    steps.extend(put_tag("v1"));
    store.apply(steps).await.unwrap();
    assert!(read(store, &current).await.is_some());
    let mut steps: Vec<Step> = put_tag("v2").into();
    steps.push(Step::Then);
    steps.push(remove_tag(&name, &tag("v2")));
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
    let sha256 = |content: &str| Digest::of(Algorithm::Sha256, content.as_bytes());
    let target = OwnedPlace::BlobData(sha256("hello")).key();
    for number in [1, 2] {
        let mut upload = begin(store, number).await;
        if number == 2 {
            upload.expect(&sha256("hello"), Some(5));
        }
        for piece in "hello".as_bytes().chunks(2) {
            upload.append(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(upload.offset_bytes(), 5);
        let link = Step::put(key("links/link"), "link");
        upload.finish(&sha256("hello"), vec![link]).await.unwrap();
        assert_eq!(read(store, &target).await.unwrap(), "hello");
        assert_eq!(read(store, &key("links/link")).await.unwrap(), "link");
        let below = session(number);
        assert!(keys(store, below.as_str(), Depth::All).await.is_empty());
        assert!(store.resume_upload(&below).await.unwrap().is_none());
    }
    // Data of the same length that are there, and damaged, are replaced.
    store
        .apply(vec![Step::put(target.clone(), "hellx")])
        .await
        .unwrap();
    let mut upload = begin(store, 3).await;
    upload.append("hello".into()).await.unwrap();
    upload.finish(&sha256("hello"), Vec::new()).await.unwrap();
    assert_eq!(read(store, &target).await.unwrap(), "hello");
    // Bytes that are not what they are finished as do not come under that digest, nor does what was to follow.
    let mut upload = begin(store, 4).await;
    upload.append("other".into()).await.unwrap();
    let link = Step::put(key("links/other"), "link");
    let refused = upload.finish(&sha256("wanted"), vec![link]).await;
    assert!(matches!(refused, Err(StoreError::Io { .. })));
    let wanted = OwnedPlace::BlobData(sha256("wanted")).key();
    assert!(read(store, &wanted).await.is_none());
    assert!(read(store, &key("links/other")).await.is_none());
    // An empty blob by the other algorithm, and a session that is given up.
    let wide = Digest::of(Algorithm::Sha512, b"");
    let empty = begin(store, 5).await;
    empty.finish(&wide, Vec::new()).await.unwrap();
    let wide = OwnedPlace::BlobData(wide).key();
    assert_eq!(read(store, &wide).await.unwrap(), "");
    let mut upload = begin(store, 6).await;
    upload.append("gone".into()).await.unwrap();
    upload.persist().await.unwrap();
    upload.abort().await.unwrap();
    assert!(store.resume_upload(&session(6)).await.unwrap().is_none());
}

async fn settling(store: &dyn ObjectStore) {
    put(store, "a/b", "c").await;
    let steps = || vec![Step::Settle(key("a/b")), Step::put(key("d"), "e")];
    store.apply(steps()).await.unwrap();
    assert_eq!(read(store, &key("a/b")).await.unwrap(), "c");
    assert_eq!(read(store, &key("d")).await.unwrap(), "e");
    for absent in ["a", "a/c", "a/b/c"] {
        let steps = vec![
            Step::Settle(key(absent)),
            Step::Then,
            Step::put(key("f"), ""),
        ];
        let refused = store.apply(steps).await;
        assert!(matches!(refused, Err(StoreError::NotFound)), "{absent}");
        assert!(read(store, &key("f")).await.is_none());
    }
}

async fn resuming(store: &dyn ObjectStore) {
    assert!(store.resume_upload(&session(1)).await.unwrap().is_none());
    let piece = Bytes::from(vec![7; 700_000]);
    let mut expected = Vec::new();
    let mut upload = store
        .open_upload(&session(1), Some(Algorithm::Sha512))
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
}

async fn digests(store: &dyn ObjectStore) {
    let mut upload = begin(store, 1).await;
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
                    let read = store.read(&counter, None).await.unwrap();
                    let text: BytesMut = read.bytes.try_collect().await.unwrap();
                    let value: u32 = std::str::from_utf8(&text).unwrap().parse().unwrap();
                    let step = Step::Put {
                        key: counter.clone(),
                        bytes: (value + 1).to_string().into(),
                        condition: Condition::Match(read.meta.version),
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
