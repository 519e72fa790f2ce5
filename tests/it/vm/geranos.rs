//! Geranos: thousands of segments, many the same, each with a token of its own.

use http::{Method, StatusCode};

use super::geranos_replay::{Disk, Geranos};
use super::go_containerregistry::Failure;
use super::lab::Lab;
use super::process::Process;
use super::scale;
use super::wire::{Body, Gate};
use crate::client::Protocol;
use crate::data::Data;

const CREATED: &str = "2027-01-15T08:00:00Z";
const LATER: &str = "2027-01-16T08:00:00Z";

/// A smaller disk for what is shown as well by it, unless size is what was asked for.
fn disk() -> Disk {
    if scale() > 1 {
        Disk::new(1_600, 1_600)
    } else {
        Disk::new(200, 120)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_2048_segments_costs_one_bcrypt_and_comes_back() {
    let lab = Lab::start();
    let disk = Disk::new(2_048, 200);
    let geranos = Geranos::at(&lab.site, Protocol::Http2, "lab/vm");
    geranos.push(&disk, "v1", CREATED).await.unwrap();
    let tokens = geranos.wire.count(&Method::GET, "/token?", 200);
    assert_eq!(tokens, 2_048 + 1);
    assert_eq!(lab.registry.auth.compared_logins(), 1);
    geranos.pull(&disk, "v1", CREATED).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_sent_again_and_what_is_elsewhere_is_mounted() {
    let lab = Lab::start();
    let disk = disk();
    let first = Geranos::at(&lab.site, Protocol::Http1, "lab/vm");
    first.push(&disk, "v1", CREATED).await.unwrap();

    // The config holds the time, so it and the manifest are new.
    let again = Geranos::at(&lab.site, Protocol::Http2, "lab/vm");
    again.push(&disk, "v1", LATER).await.unwrap();
    assert_eq!(again.wire.count(&Method::PATCH, "", 202), 1);
    again.pull(&disk, "v1", LATER).await.unwrap();

    // By HEAD it learns already what it could mount.
    let mut copying = Geranos::at(&lab.site, Protocol::Http2, "lab/copy");
    copying.mount = Some("lab/vm");
    copying.push(&disk, "v1", CREATED).await.unwrap();
    assert_eq!(copying.wire.count(&Method::POST, "", 202), 0);
    copying.pull(&disk, "v1", CREATED).await.unwrap();

    // But not where the blobs were deleted a while ago: those it mounts.
    for blob in &disk.segments[..disk.distinct] {
        let path = format!("/v2/lab/copy/blobs/{}", blob.digest);
        let basic = lab.site.basic();
        let headers = [("authorization", &*basic)];
        let deleted = copying
            .wire
            .send(Method::DELETE, &path, &headers, Body::Empty);
        deleted.await.unwrap().expect(StatusCode::ACCEPTED);
    }
    copying.push(&disk, "v2", LATER).await.unwrap();
    let mounts = copying.wire.count(&Method::POST, "from=lab%2Fvm", 201);
    assert!(mounts >= disk.distinct, "{mounts}");
    assert_eq!(copying.wire.count(&Method::POST, "", 202), 0);
    copying.pull(&disk, "v2", LATER).await.unwrap();
    assert_eq!(lab.registry.auth.compared_logins(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_segment_is_pushed_by_all_workers_at_once() {
    let lab = Lab::start();
    let disk = Disk::new(64, 1);
    let geranos = Geranos::at(&lab.site, Protocol::Http1, "lab/vm");
    geranos.push(&disk, "v1", CREATED).await.unwrap();
    geranos.pull(&disk, "v1", CREATED).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_restarted_in_mid_push_is_pushed_to_again() {
    let lab = Lab::start();
    let disk = Disk::new(64, 60);
    let mut first = Geranos::at(&lab.site, Protocol::Http1, "lab/vm");
    let again = Geranos::at(&lab.site, Protocol::Http1, "lab/vm");
    let gate = Gate::default();
    let halts = gate.clone();
    // The server ends while half of a segment has arrived, and the client goes on when it is there again.
    first.body = Box::new(move |blob| match blob.number {
        30 => Body::Halting(blob.clone(), blob.size_bytes / 2, halts.clone()),
        _ => Body::blob(blob),
    });
    let restarts = async {
        gate.reached.notified().await;
        let lab = lab.restart(|_| {}).await;
        gate.opened.cancel();
        lab
    };
    let (outcome, _lab) = tokio::join!(first.push(&disk, "v1", CREATED), restarts);
    let outcome = outcome.map_err(Failure::text);
    println!("the push in whose middle the server was restarted: {outcome:?}");
    // As its user does, whether it has come through that or not.
    again.push(&disk, "v1", LATER).await.unwrap();
    assert_sent_once(&first, &again, disk.distinct + 1);
    again.pull(&disk, "v1", LATER).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_session_was_lost_is_begun_again() {
    let lab = Lab::start();
    let disk = Disk::new(1, 1);
    let mut geranos = Geranos::at(&lab.site, Protocol::Http1, "lab/vm");
    let gate = Gate::default();
    geranos.pause = Some(gate.clone());
    // As after a power cut: 202 promises nothing then.
    let loses_sessions = async {
        gate.reached.notified().await;
        let sessions = "docker/registry/v2/repositories/lab/vm/_uploads/";
        let lose = |data: &Data| assert!(data.remove_below(sessions));
        let lab = lab.restart(lose).await;
        gate.opened.cancel();
        lab
    };
    let (outcome, _lab) = tokio::join!(geranos.push(&disk, "v1", CREATED), loses_sessions);
    outcome.unwrap();
    assert_eq!(geranos.wire.count(&Method::PATCH, "", 404), 1);
    geranos.pull(&disk, "v1", CREATED).await.unwrap();
}

on_a_directory! {
    "it starts the program";
    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_is_killed_in_mid_push_is_pushed_to_again() {
        let mut server = Process::start().await;
        let began = tokio::time::Instant::now();
        let disk = disk();
        let bytes: u64 = disk.segments.iter().map(|blob| blob.size_bytes).sum();
        println!(
            "a disk of {} MiB made in {:?}",
            bytes >> 20,
            began.elapsed()
        );
        let site = server.site();
        let mut first = Geranos::at(&site, Protocol::Http2, "lab/vm");
        let gate = Gate::default();
        let halts = gate.clone();
        let halting = disk.segments[100].number;
        first.body = Box::new(move |blob| match blob.number {
            number if number == halting => {
                Body::Halting(blob.clone(), blob.size_bytes / 2, halts.clone())
            }
            _ => Body::blob(blob),
        });
        let kills = async {
            gate.reached.notified().await;
            server.kill_and_start().await;
            gate.opened.cancel();
        };
        let (outcome, ()) = tokio::join!(first.push(&disk, "v1", CREATED), kills);
        let outcome = outcome.map_err(Failure::text);
        println!("the push in whose middle the server was killed: {outcome:?}");
        let again = Geranos::at(&site, Protocol::Http2, "lab/vm");
        let began = tokio::time::Instant::now();
        again.push(&disk, "v1", LATER).await.unwrap();
        println!("pushed again in {:?}", began.elapsed());
        assert_sent_once(&first, &again, disk.distinct + 1);
        let began = tokio::time::Instant::now();
        again.pull(&disk, "v1", LATER).await.unwrap();
        println!("pulled in {:?}", began.elapsed());
        server.check_memory();
    }
}

/// What was acknowledged in the first push is not sent in the second.
fn assert_sent_once(first: &Geranos, again: &Geranos, distinct: usize) {
    let sent = |geranos: &Geranos| geranos.wire.count(&Method::PUT, "digest=", 201);
    let (first, again) = (sent(first), sent(again));
    println!("sent in the first push: {first}, in the second: {again}");
    assert!(first > 0 && again <= distinct.saturating_sub(first) + 1);
}
