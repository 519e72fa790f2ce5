//! What HEAD tells, and GET gives, of blobs that only other repositories have (DESIGN D8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use boathouse::clock::ManualClock;
use boathouse::index::{Fact, Index};
use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;

use crate::data::Data;
use crate::support::{Answer, Call, OCI_MANIFEST, Options, TestRegistry};
use crate::support::{image_manifest, with_users};

const SHARED: &[u8] = b"a layer of the base image";
const PRIVATE: &[u8] = b"ann's secret layer";

/// A registry where ann has pushed a shared and a private layer, and its index.
struct Lab {
    registry: TestRegistry,
    index: Arc<Index>,
}

fn options() -> Options {
    let mut options = Options::default();
    let (all, pull): (&[&str], &[&str]) = (&["*"], &["pull"]);
    let rules: &[(&str, &str, &[&str])] = &[
        ("ann", "*/*", all),
        // Pushes to his own, and to one in which he cannot read.
        ("bob", "bob/*", all),
        ("bob", "drop/*", &["push"]),
        ("bob", "base/*", pull),
        // Reads what bob has, and more.
        ("cid", "bob/*", pull),
        ("cid", "base/*", pull),
        ("", "open/*", all),
        ("", "base/*", pull),
    ];
    with_users(&mut options, &["ann", "bob", "cid", ""], rules);
    options.runs_tasks = false;
    options
}

impl Lab {
    fn start(options: Options) -> Self {
        Self::start_in(Data::new(), options)
    }

    fn start_in(data: Arc<Data>, mut options: Options) -> Self {
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        let index = Arc::new(Index::in_memory(Arc::new(clock)));
        options.index = Some(Arc::clone(&index));
        let registry = TestRegistry::start_in(data, options);
        Self { registry, index }
    }

    /// With both layers, and an index that knows of them.
    async fn filled(options: Options) -> Self {
        let lab = Self::start(options);
        lab.push("ann", "base/os", SHARED).await;
        lab.push("ann", "ann/app", PRIVATE).await;
        lab.read().await;
        lab
    }

    async fn read(&self) {
        self.registry
            .registry
            .index_sync
            .read_everything()
            .await
            .unwrap();
        self.index.settle().await;
    }

    async fn push(&self, user: &str, name: &str, content: &[u8]) {
        let digest = digest(content);
        let call = self
            .registry
            .post(&format!("/v2/{name}/blobs/uploads/?digest={digest}"));
        let call = call.body(content);
        let call = if user.is_empty() {
            call
        } else {
            basic(call, user)
        };
        call.send().await.expect(StatusCode::CREATED);
        self.index.settle().await;
    }

    fn head(&self, name: &str, content: &[u8]) -> Call {
        let path = format!("/v2/{name}/blobs/{}", digest(content));
        self.registry.head(&path)
    }

    fn get(&self, name: &str, content: &[u8]) -> Call {
        let path = format!("/v2/{name}/blobs/{}", digest(content));
        self.registry.get(&path)
    }

    async fn status(&self, user: &str, name: &str, content: &[u8]) -> u16 {
        let told = basic(self.head(name, content), user).send().await;
        let given = basic(self.get(name, content), user).send().await;
        same_status(&told, &given, content)
    }

    async fn status_by_token(&self, token: &str, name: &str, content: &[u8]) -> u16 {
        let told = self.head(name, content).bearer(token).send().await;
        let given = self.get(name, content).bearer(token).send().await;
        same_status(&told, &given, content)
    }

    async fn delete(&self, user: &str, name: &str, content: &[u8]) {
        let path = format!("/v2/{name}/blobs/{}", digest(content));
        let answer = basic(self.registry.delete(&path), user).send().await;
        answer.expect(StatusCode::ACCEPTED);
        self.index.settle().await;
    }

    async fn token(&self, user: &str, scopes: &[&str]) -> String {
        let scopes: Vec<String> = scopes
            .iter()
            .map(|scope| format!("&scope={scope}"))
            .collect();
        let path = format!("/token?service=boathouse{}", scopes.concat());
        let call = self.registry.get(&path);
        let call = if user.is_empty() {
            call
        } else {
            basic(call, user)
        };
        let answer = call.send().await.expect(StatusCode::OK).json();
        answer["token"].as_str().unwrap().to_owned()
    }

    /// What the old registry would see.
    fn data(&self) -> BTreeMap<String, Vec<u8>> {
        self.registry.data.shared_files()
    }
}

/// GET keeps what HEAD has told the same caller with the same credential, and gives no more.
fn same_status(told: &Answer, given: &Answer, content: &[u8]) -> u16 {
    assert_eq!(told.status, given.status, "HEAD and GET differ: {given:?}");
    assert!(told.status != StatusCode::OK || given.body == content);
    told.status.as_u16()
}

fn basic(call: Call, user: &str) -> Call {
    call.basic(user, &format!("{user}-secret"))
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// All that a client sees but the time and the name of its request, which is random.
fn seen(answer: &Answer) -> (u16, Vec<(String, String)>) {
    let headers = answer.headers.iter().map(|(name, value)| {
        let value = value.to_str().unwrap().to_owned();
        (name.as_str().to_owned(), value)
    });
    let headers = headers.filter(|(name, _)| name != "date" && name != "x-request-id");
    let headers = headers.collect();
    (answer.status.as_u16(), headers)
}

#[tokio::test]
async fn a_push_is_spared_what_another_repository_has() {
    let lab = Lab::filled(options()).await;
    lab.push("bob", "bob/app", b"{}").await;
    let before = lab.data();
    let push = lab.token("bob", &["repository:bob/app:pull,push"]).await;
    for call in [
        basic(lab.head("bob/app", SHARED), "bob"),
        lab.head("bob/app", SHARED).bearer(&push),
    ] {
        let answer = call.send().await.expect(StatusCode::OK);
        assert_eq!(answer.header("content-length"), SHARED.len().to_string());
        let told = answer.header("docker-content-digest");
        assert_eq!(told, digest(SHARED).to_string());
    }
    // GET keeps the promise, also for a part, and nothing has changed by either.
    let path = format!("/v2/bob/app/blobs/{}", digest(SHARED));
    for call in [
        basic(lab.registry.get(&path), "bob"),
        lab.registry.get(&path).bearer(&push),
    ] {
        let get = call.header("range", "bytes=2-6").send().await;
        assert_eq!(get.expect(StatusCode::PARTIAL_CONTENT).body, SHARED[2..7]);
    }
    let get = basic(lab.registry.get(&path), "cid").send().await;
    get.expect_error(404, "BLOB_UNKNOWN");
    let delete = basic(lab.registry.delete(&path), "bob").send().await;
    delete.expect_error(404, "BLOB_UNKNOWN");
    assert_eq!(lab.data(), before, "a HEAD has changed the store");

    // A client that was told so leaves the layer out; references are strict.
    let put = lab.registry.put("/v2/bob/app/manifests/v1").bearer(&push);
    let put = put.header("content-type", OCI_MANIFEST);
    let put = put.body(image_manifest(SHARED, "").as_bytes()).send().await;
    put.expect(StatusCode::CREATED);
    let get = basic(lab.registry.get(&path), "bob").send().await;
    assert_eq!(get.expect(StatusCode::OK).body, SHARED);
}

#[tokio::test]
async fn a_head_tells_nothing_of_a_private_blob() {
    let lab = Lab::filled(options()).await;
    let push = lab.token("bob", &["repository:bob/app:pull,push"]).await;
    for by_token in [false, true] {
        let ask = |content| {
            let call = lab.head("bob/app", content);
            if by_token {
                call.bearer(&push)
            } else {
                basic(call, "bob")
            }
        };
        let private = ask(PRIVATE).send().await;
        assert_eq!(
            private.status,
            StatusCode::NOT_FOUND,
            "a HEAD told of a blob that the caller may not pull"
        );
        let nowhere = ask(b"nowhere").send().await;
        assert_eq!(seen(&private), seen(&nowhere), "the two can be told apart");
    }
    // Who may pull there is told.
    assert_eq!(lab.status("ann", "bob/app", PRIVATE).await, 200);
}

#[tokio::test]
async fn only_who_pushes_here_is_told() {
    let lab = Lab::filled(options()).await;
    assert_eq!(lab.status("bob", "bob/app", SHARED).await, 200);
    assert_eq!(lab.status("cid", "bob/app", SHARED).await, 404, "a reader");
    // His token narrows him to a reader.
    let pull = lab.token("bob", &["repository:bob/app:pull"]).await;
    assert_eq!(lab.status_by_token(&pull, "bob/app", SHARED).await, 404);
    // A token for another repository's push is none for this one.
    let scopes = ["repository:bob/app:pull", "repository:bob/other:pull,push"];
    let other = lab.token("bob", &scopes).await;
    assert_eq!(lab.status_by_token(&other, "bob/app", SHARED).await, 404);
    // More than it was granted is not in it.
    let more = lab.token("cid", &["repository:bob/app:pull,push"]).await;
    assert_eq!(lab.status_by_token(&more, "bob/app", SHARED).await, 404);
    // Push alone does not read: it is refused as ever.
    assert_eq!(lab.status("bob", "drop/box", SHARED).await, 403);
    // What is here is told to all who may pull it.
    assert_eq!(lab.status("cid", "base/os", SHARED).await, 200);
}

#[tokio::test]
async fn who_shows_no_credentials_is_told_of_one_repository_only() {
    let lab = Lab::filled(options()).await;
    let scopes = ["repository:open/box:pull,push", "repository:base/os:pull"];
    let anonymous = lab.token("", &scopes).await;
    let head = |name: &'static str| lab.status_by_token(&anonymous, name, SHARED);
    assert_eq!(head("base/os").await, 200);
    assert_eq!(head("open/box").await, 404, "anonymous, with push");

    // Nobody is asked.
    let options = Options {
        runs_tasks: false,
        ..Options::default()
    };
    let lab = Lab::start(options);
    lab.push("", "base/os", SHARED).await;
    lab.read().await;
    let here = lab.head("base/os", SHARED).send().await;
    here.expect(StatusCode::OK);
    let elsewhere = lab.head("bob/app", SHARED).send().await;
    elsewhere.expect(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_foreign_token_is_judged_by_what_it_says() {
    // Ann's rules allow everything in both registries: they must not count for a token that the other has issued.
    let theirs = options();
    let mut options = options();
    let key = theirs.auth.token.signing.clone().unwrap();
    options.auth.token.trusted_certificates_pem = vec![key.certificate_pem];
    let issuer = Lab::start(theirs);
    let lab = Lab::filled(options).await;
    let cases: [(&[&str], u16); 5] = [
        (
            &["repository:bob/app:pull,push", "repository:base/os:pull"],
            200,
        ),
        (&["repository:bob/app:pull,push"], 404),
        (&["repository:bob/app:pull", "repository:base/os:pull"], 404),
        (
            &["repository:bob/app:pull,push", "repository:base/os:push"],
            404,
        ),
        (&["repository:bob/app:pull,push", "registry:catalog:*"], 404),
    ];
    for (scopes, expected) in cases {
        let token = issuer.token("ann", scopes).await;
        let found = lab.status_by_token(&token, "bob/app", SHARED).await;
        assert_eq!(found, expected, "{scopes:?}");
    }
}

#[tokio::test]
async fn nothing_is_told_where_nothing_can_be_pushed() {
    let filled = Lab::filled(options()).await;
    let data = filled.registry.stop().await;
    for (readonly, expected) in [(true, 404), (false, 200)] {
        let mut options = options();
        options.registry.readonly = readonly;
        let lab = Lab::start_in(Arc::clone(&data), options);
        lab.read().await;
        assert_eq!(lab.status("bob", "bob/app", SHARED).await, expected);
        lab.registry.stop().await;
    }
}

#[tokio::test]
async fn the_store_is_not_walked_for_a_head() {
    let lab = Lab::start(options());
    lab.push("ann", "base/os", SHARED).await;
    // The index does not know yet who there is.
    assert_eq!(lab.status("bob", "bob/app", SHARED).await, 404);
    lab.read().await;
    assert_eq!(lab.status("bob", "bob/app", SHARED).await, 200);

    // Nor are more repositories looked at than for a mount.
    for (mount_probes, expected) in [(2, 404), (3, 200)] {
        let mut options = options();
        options.registry.limits.mount_probes = mount_probes;
        let lab = Lab::filled(options).await;
        for name in ["base/a", "base/b"] {
            let fact = Fact::Layer(digest(SHARED));
            lab.index.record(&name.parse().unwrap(), vec![fact]);
        }
        lab.index.settle().await;
        assert_eq!(lab.status("bob", "bob/app", SHARED).await, expected);
    }
}

#[tokio::test]
async fn what_was_deleted_here_is_gone_here() {
    let lab = Lab::filled(options()).await;
    lab.push("bob", "bob/app", SHARED).await;
    lab.delete("bob", "bob/app", SHARED).await;
    let gone = lab.status("bob", "bob/app", SHARED).await;
    assert_eq!(gone, 404, "a deleted blob is told of as if it were here");
    // Whoever has not deleted it.
    assert_eq!(lab.status("bob", "bob/other", SHARED).await, 200);

    // A restart, and a lost index, bring nothing back.
    let data = lab.registry.stop().await;
    let lab = Lab::start_in(data, options());
    lab.read().await;
    let gone = lab.status("bob", "bob/app", SHARED).await;
    assert_eq!(gone, 404, "a restart has brought back a deleted blob");
    assert_eq!(lab.status("bob", "bob/other", SHARED).await, 200);

    // It lasts as long as it should, and leaves nothing behind.
    let clock = &lab.registry.clock;
    let sweep = || lab.registry.registry.blobs.sweep_tombstones();
    let days = || {
        let days = "boathouse/deleted/";
        let files = lab.registry.data.files();
        let deleted = files.keys().filter_map(|key| key.strip_prefix(days));
        let days: BTreeSet<_> = deleted.map(|key| key.split('/').next()).collect();
        days.len()
    };
    clock.advance(Duration::from_hours(24));
    sweep().await.unwrap();
    assert_eq!(lab.status("bob", "bob/app", SHARED).await, 404);
    assert_eq!(days(), 1);
    clock.advance(Duration::from_hours(24));
    assert_eq!(lab.status("bob", "bob/app", SHARED).await, 200);
    sweep().await.unwrap();
    assert_eq!(days(), 0, "old deletions are kept");
    assert_eq!(lab.status("bob", "bob/app", SHARED).await, 200);
}

#[tokio::test]
async fn what_was_deleted_here_may_be_pushed_again() {
    let lab = Lab::filled(options()).await;
    lab.push("bob", "bob/app", SHARED).await;
    for _ in 0..2 {
        lab.delete("bob", "bob/app", SHARED).await;
        assert_eq!(lab.status("bob", "bob/app", SHARED).await, 404);
        lab.push("bob", "bob/app", SHARED).await;
        assert_eq!(lab.status("bob", "bob/app", SHARED).await, 200);
    }
}

#[tokio::test]
async fn what_a_thousand_hold_is_found_in_the_pushers_own_name_space() {
    let lab = Lab::filled(options()).await;
    for number in 0..1_000 {
        let name = format!("a/{number}").parse().unwrap();
        let fact = Fact::Layer(digest(SHARED));
        lab.index.record(&name, vec![fact]);
    }
    lab.push("bob", "bob/base", SHARED).await;
    // Bob sees none of the thousand.
    assert_eq!(lab.status("bob", "bob/app", SHARED).await, 200);
    let mount = format!("/v2/bob/app/blobs/uploads/?mount={}", digest(SHARED));
    let mounted = basic(lab.registry.post(&mount), "bob").send().await;
    mounted.expect(StatusCode::CREATED);
}
