//! A bucket in trouble, of one kind at a time: clients push, pull, list and delete meanwhile.
//!
//! Nothing that was acknowledged may be lost, nothing may be visible by half, and each request ends well or with 503 and
//! `Retry-After`, after which it can be sent again. `BOATHOUSE_TROUBLE_OPERATIONS=1000` makes more of them, and
//! `--nocapture` prints a line for each kind of trouble.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};

use crate::client::{Answer, Broken, Client, whole};
use crate::data::Data;
use crate::data_in_s3::DataInS3;
use crate::random::Random;
use crate::s3_server::{Fault, Kind, Manners, Plan, S3Server};
use crate::support::{OCI_MANIFEST, Options, TestRegistry, image_manifest};

/// How many times faster than others the store's clock runs: its limits and pauses are meant for buckets that are down for
/// minutes.
const HURRY: u32 = 20;

/// Clients at once, each with a repository of its own.
const CLIENTS: u64 = 8;

/// How often a client sends a request again. With its pauses, that is more than a minute of the store's clock.
const ATTEMPTS_MAX: u32 = 200;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// What all clients do, pushes and pulls of an image among it, unless the environment says how much.
const OPERATIONS: usize = 32;

fn operations() -> usize {
    let given = std::env::var("BOATHOUSE_TROUBLE_OPERATIONS");
    given.map_or(OPERATIONS, |given| given.parse().expect("a number"))
}

/// What has happened to the requests of all clients.
#[derive(Debug, Default)]
struct Tally {
    operations: Cell<u64>,
    /// Answers 503.
    busy: Cell<u64>,
    /// Answers whose body broke off.
    cut: Cell<u64>,
}

fn count(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// What may be under a tag: one possibility where the last change was acknowledged, more where it was not.
type Possible = BTreeSet<Option<Digest>>;

/// A client, and what it knows of its repository.
struct Pusher<'a> {
    client: Client,
    name: String,
    tally: &'a Tally,
    /// Whether a download may break off: only where answers of the bucket are cut.
    may_be_cut: bool,
    tags: RefCell<BTreeMap<String, Possible>>,
    /// The layer of each manifest.
    layers: RefCell<BTreeMap<Digest, (String, Bytes)>>,
}

impl Pusher<'_> {
    /// Sends a request until it is not told to come again.
    async fn insist(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Bytes,
    ) -> Answer {
        count(&self.tally.operations);
        for _ in 0..ATTEMPTS_MAX {
            let sent = self
                .client
                .send(method.clone(), path, headers, whole(body.clone()));
            match sent.await {
                Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                    answer.header("retry-after");
                    count(&self.tally.busy);
                }
                Ok(answer) => return answer,
                Err(Broken::Cut) if self.may_be_cut => count(&self.tally.cut),
                Err(broken) => panic!("{method} {path}: {broken:?}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{method} {path}: no success in {ATTEMPTS_MAX} attempts");
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.name)
    }

    async fn get(&self, rest: &str) -> Answer {
        self.insist(&Method::GET, &self.path(rest), &[], &Bytes::new())
            .await
    }

    /// In one request, or in a session; both are what clients do.
    async fn push_blob(&self, content: &Bytes, in_a_session: bool) {
        let digest = digest(content);
        if !in_a_session {
            let path = self.path(&format!("blobs/uploads/?digest={digest}"));
            let post = self.insist(&Method::POST, &path, &[], content).await;
            post.expect(StatusCode::CREATED);
            return;
        }
        let path = self.path("blobs/uploads/");
        let begun = self.insist(&Method::POST, &path, &[], &Bytes::new()).await;
        let begun = begun.expect(StatusCode::ACCEPTED);
        let sent = self
            .insist(&Method::PATCH, begun.header("location"), &[], content)
            .await;
        let location = sent
            .expect(StatusCode::ACCEPTED)
            .header("location")
            .to_owned();
        let mark = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{mark}digest={digest}");
        let put = self.insist(&Method::PUT, &path, &[], &Bytes::new()).await;
        put.expect(StatusCode::CREATED);
    }

    async fn push(&self, tag: &str, layer: Bytes, in_a_session: bool) {
        self.push_blob(&Bytes::from_static(b"{}"), false).await;
        self.push_blob(&layer, in_a_session).await;
        let manifest = image_manifest(&layer, "");
        let digest = digest(manifest.as_bytes());
        let image = (manifest.clone(), layer);
        self.layers.borrow_mut().insert(digest, image);
        self.may_be(tag, Some(digest));
        let path = self.path(&format!("manifests/{tag}"));
        let put = [("content-type", OCI_MANIFEST)];
        let put = self
            .insist(&Method::PUT, &path, &put, &manifest.into())
            .await;
        put.expect(StatusCode::CREATED);
        self.is(tag, Some(digest));
    }

    async fn remove(&self, tag: &str) {
        self.may_be(tag, None);
        let path = self.path(&format!("manifests/{tag}"));
        let gone = self
            .insist(&Method::DELETE, &path, &[], &Bytes::new())
            .await;
        // An attempt whose answer was lost may have removed it.
        assert!(matches!(gone.status.as_u16(), 202 | 404), "{gone:?}");
        self.is(tag, None);
    }

    async fn pull(&self, tag: &str) {
        let possible = self.possible(tag);
        let got = self.get(&format!("manifests/{tag}")).await;
        if got.status == StatusCode::NOT_FOUND {
            assert!(possible.contains(&None), "{}:{tag} is lost", self.name);
            return;
        }
        let got = got.expect(StatusCode::OK);
        let found = digest(&got.body);
        assert!(
            possible.contains(&Some(found)),
            "{}:{tag} is another",
            self.name
        );
        let (manifest, layer) = self.layers.borrow()[&found].clone();
        assert_eq!(got.body, manifest);
        let blob = self.get(&format!("blobs/{}", digest(&layer))).await;
        let blob = blob.expect(StatusCode::OK);
        assert!(
            blob.body == layer,
            "a layer of {}:{tag} is another",
            self.name
        );
    }

    async fn list(&self) {
        let listed = self.get("tags/list").await;
        let listed: BTreeSet<String> = match listed.status {
            StatusCode::NOT_FOUND => BTreeSet::new(),
            _ => listed
                .expect(StatusCode::OK)
                .names("tags")
                .into_iter()
                .collect(),
        };
        let tags = self.tags.borrow();
        for (tag, possible) in tags.iter() {
            let may_be_there = possible.iter().any(Option::is_some);
            let is_right = if listed.contains(tag) {
                may_be_there
            } else {
                possible.contains(&None)
            };
            assert!(is_right, "{tag} of {} in {listed:?}", self.name);
        }
        let is_known = |tag: &String| tags.contains_key(tag);
        assert!(listed.iter().all(is_known), "{listed:?}");
    }

    async fn work(&self, operations: usize, mut random: Random) {
        for _ in 0..operations {
            let tag = random.of(&["a", "b", "c", "d"]);
            match random.below(10) {
                0..4 => {
                    let size = random.below(20_000);
                    let in_a_session = random.below(2) == 0;
                    self.push(tag, random.bytes(size), in_a_session).await;
                }
                4..7 => self.pull(tag).await,
                7 => self.remove(tag).await,
                _ => self.list().await,
            }
        }
    }

    fn possible(&self, tag: &str) -> Possible {
        let tags = self.tags.borrow();
        tags.get(tag).cloned().unwrap_or_else(|| [None].into())
    }

    fn may_be(&self, tag: &str, digest: Option<Digest>) {
        let mut possible = self.possible(tag);
        possible.insert(digest);
        self.tags.borrow_mut().insert(tag.to_owned(), possible);
    }

    fn is(&self, tag: &str, digest: Option<Digest>) {
        self.tags
            .borrow_mut()
            .insert(tag.to_owned(), [digest].into());
    }
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// Blobs have the content that their key promises, and links a digest: at no moment may a reader of the bucket see less.
fn expect_whole(server: &S3Server) {
    for (key, content) in server.objects() {
        if let Some(hex) = key
            .strip_suffix("/data")
            .and_then(|key| key.rsplit('/').next())
            && key.contains("/blobs/sha256/")
        {
            assert_eq!(
                format!("sha256:{hex}"),
                digest(&content).to_string(),
                "{key}"
            );
        }
        if key.ends_with("/link") {
            let link = std::str::from_utf8(&content).expect("text");
            link.parse::<Digest>().expect("a digest");
        }
    }
}

/// Each tag is what its client was told, with all its bytes, and lists show it.
async fn expect_promises(pushers: &[Pusher<'_>], address: SocketAddr) {
    for pusher in pushers {
        let reader = Pusher {
            client: Client::plain(address),
            name: pusher.name.clone(),
            tally: &Tally::default(),
            may_be_cut: false,
            tags: pusher.tags.clone(),
            layers: pusher.layers.clone(),
        };
        let tags: Vec<String> = pusher.tags.borrow().keys().cloned().collect();
        for tag in tags {
            reader.pull(&tag).await;
        }
        reader.list().await;
    }
}

/// Clients at work while the bucket has the trouble that `begin` plans; `meanwhile` goes on beside them.
async fn under(
    trouble: &str,
    may_be_cut: bool,
    begin: impl Fn(&S3Server),
    meanwhile: impl AsyncFnOnce(&S3Server),
) {
    let data = Data::in_s3(DataInS3::in_this_process().in_a_hurry(HURRY));
    let registry = TestRegistry::start_in(Arc::clone(&data), Options::default());
    let server = data.s3().server();
    let tally = Tally::default();
    let pusher = |number| Pusher {
        client: Client::plain(registry.address),
        name: format!("client-{number}"),
        tally: &tally,
        may_be_cut,
        tags: RefCell::default(),
        layers: RefCell::default(),
    };
    let pushers: Vec<Pusher<'_>> = (0..CLIENTS).map(pusher).collect();
    // What is there before the trouble begins must be there afterwards as well.
    for pusher in &pushers {
        pusher
            .push("before", Bytes::from(vec![7; 1_000]), true)
            .await;
    }
    tally.operations.set(0);
    let requests_before = server.requests_in_all();
    begin(server);
    let each = operations().div_ceil(pushers.len());
    let seeded = pushers.iter().zip(0..);
    let work = seeded.map(|(pusher, seed)| pusher.work(each, Random::of_seed(seed)));
    let work = async {
        tokio::join!(join_all(work), meanwhile(server));
    };
    let watch = async {
        loop {
            expect_whole(server);
            tokio::time::sleep(10 * PAUSE).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = watch => {}
    }
    let (requests, struck) = (server.requests_in_all() - requests_before, server.struck());
    server.end_trouble();
    server.set_manners(Manners::aws());
    eprintln!(
        "{trouble}: {} requests of clients, {requests} to the bucket, {struck} of them in trouble; {} answers 503, {} broken off",
        tally.operations.get(),
        tally.busy.get(),
        tally.cut.get()
    );
    // As this process sees it, and as the next one does.
    expect_promises(&pushers, registry.address).await;
    registry.stop().await;
    let registry = TestRegistry::start_in(Arc::clone(&data), Options::default());
    expect_promises(&pushers, registry.address).await;
    expect_whole(server);
}

/// A test for each kind of trouble that is planned request by request.
macro_rules! trouble {
    ($($name:ident: $plan:expr, cut: $may_be_cut:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let begin = |server: &S3Server| server.plan($plan);
                under(stringify!($name), $may_be_cut, begin, async |_| ()).await;
            }
        )*
    };
}

fn refused(status: StatusCode, code: &'static str) -> Fault {
    Fault::Refused(status, code)
}

/// Of answers with a body.
fn reading(fault: Fault) -> Plan {
    Plan {
        kinds: vec![Kind::GetObject, Kind::ListObjects],
        ..Plan::one_in(4, fault)
    }
}

trouble! {
    status_500: Plan::one_in(4, refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")), cut: false;
    status_503: Plan::one_in(4, refused(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")), cut: false;
    slow_down: Plan::one_in(4, refused(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")), cut: false;
    status_429: Plan::one_in(4, refused(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests")), cut: false;
    reset: Plan::one_in(4, Fault::Reset), cut: false;
    reset_in_the_body: Plan::one_in(4, Fault::ResetInBody), cut: false;
    lost_answer: Plan::one_in(4, Fault::LostAnswer), cut: false;
    lost_behind_500: Plan::one_in(4, Fault::LostBehindError), cut: false;
    silence: Plan::one_in(16, Fault::Silence), cut: false;
    silence_after: Plan::one_in(16, Fault::SilenceAfter), cut: false;
    delay: Plan::one_in(4, Fault::Delay(Duration::from_millis(50))), cut: false;
    cut_body: reading(Fault::CutBody), cut: true;
    stalled_body: Plan { one_in: 16, ..reading(Fault::StalledBody) }, cut: true;
}

#[tokio::test]
async fn conflict_409() {
    let begin = |server: &S3Server| {
        server.set_manners(Manners {
            conflict_one_in: 2,
            ..Manners::aws()
        });
    };
    under("conflict_409", false, begin, async |_| ()).await;
}

#[tokio::test]
async fn gone_for_a_minute() {
    let away = async |server: &S3Server| {
        tokio::time::sleep(5 * PAUSE).await;
        server.go_away();
        tokio::time::sleep(Duration::from_mins(1) / HURRY).await;
        server.come_back();
    };
    under("gone_for_a_minute", false, |_| (), away).await;
}
