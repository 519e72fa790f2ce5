//! What is read after a crash, against the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use boathouse::oci::{Algorithm, Digest};
use bytes::Bytes;
use http::Method;
use tokio::task::JoinSet;

use super::ledger::{Key, Ledger, Session, Value};
use super::workload::{REPOSITORIES, offset_of};
use crate::client::{Client, whole};
use crate::support::{Answer, OCI_MANIFEST};

/// How many clients read at once.
const READERS: usize = 6;

/// What happened to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    Kill,
    /// Upload sessions are promised only across a kill.
    PowerCut,
}

/// Lost: what was acknowledged is not so. Wrong: bytes that are not what their name says, lists that disagree with
/// single reads, answers that no server in good health gives.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) rounds: u64,
    pub(super) acknowledged: u64,
    pub(super) lost: u64,
    pub(super) wrong: u64,
    /// Changes that the crashes found without an answer, and open upload sessions: how much was tried at all.
    pub(super) in_flight: u64,
    pub(super) sessions: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rounds,
            acknowledged,
            lost,
            wrong,
            ..
        } = self;
        write!(
            formatter,
            "rounds {rounds} acknowledged {acknowledged} lost {lost} wrong {wrong}"
        )
    }
}

impl Tally {
    pub(super) fn lost(&mut self, what: &str) {
        eprintln!("round {}: lost: {what}", self.rounds);
        self.lost += 1;
    }

    pub(super) fn wrong(&mut self, what: &str) {
        eprintln!("round {}: wrong: {what}", self.rounds);
        self.wrong += 1;
    }
}

/// Reads everything back; what is there now is what must survive the next crash.
pub(super) async fn judge(
    address: SocketAddr,
    ledger: &Arc<Ledger>,
    crash: Crash,
    tally: &mut Tally,
) {
    for complaint in ledger.take_complaints() {
        tally.wrong(&complaint);
    }
    tally.in_flight += ledger.unanswered() as u64;
    let there = judge_keys(address, ledger, None, tally).await;
    judge_referrers(address, ledger, &there, tally).await;
    for session in ledger.take_sessions() {
        tally.sessions += 1;
        judge_session(address, ledger, crash, &there, session, tally).await;
    }
}

/// Reads back a copy that was begun at a `moment`.
pub(super) async fn judge_copy(
    address: SocketAddr,
    ledger: &Arc<Ledger>,
    moment: u64,
    tally: &mut Tally,
) {
    let there = judge_keys(address, ledger, Some(moment), tally).await;
    judge_referrers(address, ledger, &there, tally).await;
}

/// Every key alone, then the lists. Returns what is there.
pub(super) async fn judge_keys(
    address: SocketAddr,
    ledger: &Arc<Ledger>,
    moment: Option<u64>,
    tally: &mut Tally,
) -> BTreeMap<Key, Value> {
    let mut there = BTreeMap::new();
    for (key, read) in read_all(address, ledger).await {
        match read {
            Ok(value) => {
                if !ledger.may_hold(&key, &value, moment) {
                    let history = ledger.history(&key);
                    tally.lost(&format!("{key:?} is {value:?}, after {history}"));
                }
                ledger.settle(&key, value.clone());
                if value != Value::Absent {
                    there.insert(key, value);
                }
            }
            Err(reason) => tally.wrong(&format!("{key:?}: {reason}")),
        }
    }
    let client = Client::plain(address);
    let catalog = names(&client, "/v2/_catalog", "repositories").await;
    for repository in REPOSITORIES {
        let is_in_use = there.keys().any(|key| repository_of(key) == repository);
        if is_in_use && !catalog.contains(repository) {
            tally.wrong(&format!("{repository} is not in the catalog {catalog:?}"));
        }
        let listed = names(&client, &format!("/v2/{repository}/tags/list"), "tags").await;
        let single: BTreeSet<String> = there
            .keys()
            .filter_map(|key| match key {
                Key::Tag(of, tag) if *of == repository => Some((*tag).to_owned()),
                _ => None,
            })
            .collect();
        if listed != single {
            tally.wrong(&format!(
                "{repository} lists the tags {listed:?}, and has {single:?}"
            ));
        }
    }
    for stranger in catalog
        .iter()
        .filter(|name| !REPOSITORIES.contains(&name.as_str()))
    {
        tally.wrong(&format!("the catalog has {stranger}, which nobody pushed"));
    }
    there
}

fn repository_of(key: &Key) -> &'static str {
    match key {
        Key::Blob(repository, _) | Key::Manifest(repository, _) | Key::Tag(repository, _) => {
            repository
        }
    }
}

/// The names in a list; none where the registry does not know what is listed.
async fn names(client: &Client, path: &str, field: &str) -> BTreeSet<String> {
    let answer = client.get(path).await.expect("the server lives");
    if answer.status == 404 {
        return BTreeSet::new();
    }
    let names = answer.json()[field].as_array().cloned().unwrap_or_default();
    let names = names.iter().filter_map(|name| name.as_str());
    names.map(str::to_owned).collect()
}

type Read = Result<Value, String>;

async fn read_all(address: SocketAddr, ledger: &Arc<Ledger>) -> Vec<(Key, Read)> {
    let keys = ledger.keys();
    let mut readers = JoinSet::new();
    for share in keys.chunks(keys.len().div_ceil(READERS).max(1)) {
        let (share, ledger) = (share.to_vec(), Arc::clone(ledger));
        readers.spawn(async move {
            let client = Client::plain(address);
            let mut read = Vec::with_capacity(share.len());
            for key in share {
                let value = read_key(&client, &ledger, &key).await;
                read.push((key, value));
            }
            read
        });
    }
    readers.join_all().await.into_iter().flatten().collect()
}

async fn read_key(client: &Client, ledger: &Ledger, key: &Key) -> Read {
    let (path, digest) = match key {
        Key::Blob(repository, digest) => (format!("/v2/{repository}/blobs/{digest}"), Some(digest)),
        Key::Manifest(repository, digest) => {
            (format!("/v2/{repository}/manifests/{digest}"), Some(digest))
        }
        Key::Tag(repository, tag) => (format!("/v2/{repository}/manifests/{tag}"), None),
    };
    // The old registry serves an OCI manifest only to who says that it takes one.
    let accept = [("accept", OCI_MANIFEST)];
    let sent = client.send(Method::GET, &path, &accept, whole(""));
    let answer = sent.await.map_err(|_| "no whole answer".to_owned())?;
    match (answer.status.as_u16(), digest) {
        (404, _) => Ok(Value::Absent),
        (200, Some(digest)) => {
            let expected = ledger.content(digest);
            let is_whole = expected.is_some_and(|expected| expected == answer.body);
            let size = answer.body.len();
            is_whole
                .then_some(Value::Present)
                .ok_or_else(|| format!("{size} other bytes"))
        }
        (200, None) => {
            let digest = Digest::of(Algorithm::Sha256, &answer.body);
            let said = answer.header("docker-content-digest");
            (said == digest.to_string())
                .then_some(Value::Points(digest))
                .ok_or_else(|| format!("its bytes are {digest}, not {said}"))
        }
        _ => Err(format!("{answer:?}")),
    }
}

/// The referrers of each subject are the manifests there that name it.
async fn judge_referrers(
    address: SocketAddr,
    ledger: &Ledger,
    there: &BTreeMap<Key, Value>,
    tally: &mut Tally,
) {
    let mut expected: BTreeMap<(&'static str, String), BTreeSet<String>> = BTreeMap::new();
    for key in ledger.keys() {
        let Key::Manifest(repository, digest) = &key else {
            continue;
        };
        let content = ledger.content(digest).unwrap_or_default();
        let manifest: serde_json::Value = serde_json::from_slice(&content).unwrap_or_default();
        let Some(subject) = manifest["subject"]["digest"].as_str() else {
            continue;
        };
        // A subject whose referrers are all gone has an empty list, not none.
        let referrers = expected
            .entry((*repository, subject.to_owned()))
            .or_default();
        if there.contains_key(&key) {
            referrers.insert(digest.to_string());
        }
    }
    let client = Client::plain(address);
    for ((repository, subject), expected) in expected {
        let path = format!("/v2/{repository}/referrers/{subject}");
        let answer = client.get(&path).await.expect("the server lives");
        let listed = answer.json()["manifests"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let digests = listed.iter().filter_map(|listed| listed["digest"].as_str());
        let listed: BTreeSet<String> = digests.map(str::to_owned).collect();
        if listed != expected {
            tally.wrong(&format!(
                "{path} lists {listed:?}, and there are {expected:?}"
            ));
        }
    }
}

/// A session goes on where it says that it is, and becomes what was sent.
async fn judge_session(
    address: SocketAddr,
    ledger: &Ledger,
    crash: Crash,
    there: &BTreeMap<Key, Value>,
    session: Session,
    tally: &mut Tally,
) {
    let client = Client::plain(address);
    let digest = Digest::of(Algorithm::Sha256, &session.content);
    let key = Key::Blob(session.repository, digest);
    let put = format!("{}?digest={digest}", session.location);
    let status = client
        .get(&session.location)
        .await
        .expect("the server lives");
    if status.status == 404 {
        // It may have become the blob already; otherwise only a power cut may take it.
        if session.is_finishing {
            let answer = send(&client, Method::PUT, &put, Bytes::new()).await;
            let expected = if there.contains_key(&key) { 201 } else { 404 };
            // Its bytes may be linked by what was pushed meanwhile, so that 201 is never wrong by itself.
            if answer.status != expected && crash == Crash::Kill {
                tally.wrong(&format!("{put} of an ended session: {answer:?}"));
            }
        } else if crash == Crash::Kill {
            tally.lost(&format!("{session:?}: {status:?}"));
        }
        return;
    }
    if status.status != 204 {
        return tally.wrong(&format!("{}: {status:?}", session.location));
    }
    let offset = offset_of(&status);
    if offset > session.sent_bytes {
        return tally.wrong(&format!("{offset} bytes of {}", session.sent_bytes));
    }
    if offset < session.acknowledged_bytes && crash == Crash::Kill {
        let promised = session.acknowledged_bytes;
        tally.lost(&format!(
            "{} has {offset} of {promised} bytes",
            session.location
        ));
    }
    let rest = usize::try_from(offset).map(|offset| session.content.slice(offset..));
    let rest = rest.expect("it is less than what was sent");
    let change = ledger.begin(vec![(key.clone(), Value::Present, None)]);
    if !rest.is_empty() {
        let range = format!("{offset}-{}", session.content.len() - 1);
        let headers = [("content-range", &*range)];
        let sent = client.send(Method::PATCH, &session.location, &headers, whole(rest));
        let answer = sent.await.expect("the server lives");
        if answer.status != 202 {
            return tally.wrong(&format!(
                "PATCH {range} of {}: {answer:?}",
                session.location
            ));
        }
    }
    let answer = send(&client, Method::PUT, &put, Bytes::new()).await;
    if answer.status != 201 {
        return tally.wrong(&format!("{put} from {offset} on: {answer:?}"));
    }
    ledger.acknowledge(change);
    match read_key(&client, ledger, &key).await {
        Ok(Value::Present) => {}
        other => tally.wrong(&format!("{key:?}, resumed at {offset}: {other:?}")),
    }
}

async fn send(client: &Client, method: Method, path: &str, body: Bytes) -> Answer {
    let sent = client.send(method, path, &[], whole(body)).await;
    sent.expect("the server lives")
}
