//! Supervised tasks, and what is left when an instance ends.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

use super::*;
use crate::clock::ManualClock;
use crate::config;
use crate::heartbeat::STILL_AFTER;
use crate::telemetry::kept::KeptLog;

async fn says(log: &KeptLog, text: &str) {
    for _ in 0..2_000 {
        if log.text().contains(text) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not say `{text}`:\n{}", log.text());
}

/// An instance on empty data, as the program opens it.
pub(super) async fn open(directory: &Path, clock: &ManualClock) -> Instance {
    let file = directory.join("config.yml");
    let place = directory.display();
    let text = format!(
        "{{http: {{addr: '127.0.0.1:0'}}, storage: {{filesystem: {{rootdirectory: '{place}/data'}}}}}}"
    );
    std::fs::write(&file, text).unwrap();
    std::fs::create_dir_all(directory.join("data")).unwrap();
    let loaded = config::load(&[file], &std::collections::BTreeMap::new()).unwrap();
    Instance::open(Plan {
        config: loaded.config,
        clock: Arc::new(clock.clone()),
        source: None,
        expected: Expected::Known,
        makes_new_authority: false,
        parts: Parts::default(),
    })
    .await
    .unwrap()
}

async fn ready(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn status(socket: &Path) -> serde_json::Value {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream
        .write_all(b"{\"request\":\"status\"}\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[tokio::test]
async fn a_task_that_ends_early_is_logged_once_and_shows_in_readyz_and_status() {
    let log = KeptLog::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false);
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let instance = open(directory.path(), &clock)
        .await
        .bind(Vec::new())
        .unwrap();
    let address = instance.address().unwrap().tcp().unwrap();
    let socket = places::control_socket(instance.config());
    let heartbeat = |name| Heartbeat::new(name, Arc::new(clock.clone()));
    let tasks = &instance.instance.tasks;
    tasks.spawn(heartbeat("a task that returns"), async {});
    tasks.spawn(heartbeat("a task that panics"), async {
        panic!("on purpose")
    });
    tasks.spawn(heartbeat("a task that goes on"), std::future::pending());
    // Work that stands still shows below that the watch has looked.
    let slow = heartbeat("slow work");
    instance.registry().health.watch(Arc::clone(&slow));
    let _work = slow.enter();
    let (end, ended) = oneshot::channel::<()>();
    let running = tokio::spawn(instance.run(async { drop(ended.await) }));

    says(&log, "on purpose").await;
    let answer = ready(address).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    for name in ["a task that returns", "a task that panics"] {
        let line = format!("still: {name} has ended, 0 s ago\n");
        assert!(answer.contains(&line), "{answer}");
    }
    assert!(!answer.contains("goes on"), "{answer}");
    let said = status(&socket).await;
    let not_ready = [
        "a task that returns has ended, 0 s ago",
        "a task that panics has ended, 0 s ago",
    ];
    assert_eq!(said["not_ready"], serde_json::json!(not_ready), "{said}");

    clock.advance(STILL_AFTER);
    says(&log, "slow work has made no progress").await;
    let text = log.text();
    for name in ["a task that returns", "a task that panics"] {
        assert_eq!(text.matches(name).count(), 1, "{text}");
    }
    end.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn nothing_of_an_instance_goes_on_after_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let instance = open(directory.path(), &clock).await;
    let held = Arc::new(());
    let holds = Arc::clone(&held);
    let heartbeat = Heartbeat::new("a task", Arc::new(clock.clone()));
    instance.tasks.spawn(heartbeat, async move {
        std::future::pending::<()>().await;
        drop(holds);
    });
    let registry = Arc::clone(&instance.registry);
    instance.keep_index();
    instance.close().await;
    assert_eq!(Arc::strong_count(&held), 1, "a task goes on");
    assert_eq!(
        Arc::strong_count(&registry),
        1,
        "somebody holds the registry"
    );
    // The lock is free again.
    open(directory.path(), &clock).await.close().await;
}
