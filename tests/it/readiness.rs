//! What `/readyz` says of a registry that stands, and of one that works with less.

use std::sync::Arc;

use boathouse::clock::ManualClock;
use boathouse::store::faulty::{Fault, FaultyStore, Operation};
use http::StatusCode;

use crate::data::Data;
use crate::support::{Answer, Options, TestRegistry};

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test]
async fn what_only_works_with_less_is_ready_and_says_so() {
    let data = Data::new();
    let registry = TestRegistry::start_in(Arc::clone(&data), Options::default());
    registry.push_image("team/app", "v1", b"layer").await;
    registry
        .registry
        .index_sync
        .read_everything()
        .await
        .unwrap();
    let ready = registry.get("/readyz").send().await;
    assert_eq!(text(&ready.expect(StatusCode::OK)), "ready\n");
    registry.stop().await;

    let mut options = Options::default();
    options.registry.readonly = true;
    options.runs_tasks = false;
    let registry = TestRegistry::start_in(Arc::clone(&data), options);
    let before = data.files();
    let ready = registry.get("/readyz").send().await.expect(StatusCode::OK);
    let said = text(&ready);
    assert_eq!(said.lines().next(), Some("ready"));
    assert!(
        said.contains("degraded: read-only by its config\n"),
        "{said}"
    );
    assert!(
        said.contains("degraded: the index is not up to the store"),
        "{said}"
    );
    assert_eq!(data.files(), before, "asking has written");
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_not_ready() {
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let data = Data::new();
    let store = FaultyStore::new(data.open(Arc::new(clock.clone())));
    let options = Options {
        runs_tasks: false,
        ..Options::default()
    };
    let registry = TestRegistry::start_on(Arc::new(store.clone()), data, clock, options);
    store.fail(Operation::List, 0, Fault::Io);
    let not_ready = registry.get("/readyz").send().await;
    let not_ready = not_ready.expect(StatusCode::SERVICE_UNAVAILABLE);
    let said = text(&not_ready);
    assert!(
        said.starts_with("not ready\nstill: the store cannot be read\n"),
        "{said}"
    );
    registry.get("/healthz").send().await.expect(StatusCode::OK);
    registry.get("/readyz").send().await.expect(StatusCode::OK);
}
