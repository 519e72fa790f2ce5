//! Tests of `service_manager`: what a real socket receives.

use super::*;
use crate::clock::ManualClock;
use crate::heartbeat::{Beating, STILL_AFTER};
use crate::instance::keys::auth_settings;
use crate::instance::tests::open;
use crate::store::state_directory::SECRET_BYTES;

/// A service manager's end of the socket.
struct Manager {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { directory, socket }
    }

    fn environment(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let path = self.directory.path().join("notify").display().to_string();
        let more = more.iter().copied();
        let all = more.chain([("NOTIFY_SOCKET", path.as_str())]);
        all.map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The messages since the last call.
    fn received(&self) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0; 4_096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        messages
    }
}

#[test]
fn each_change_of_the_service_is_one_message() {
    let systemd = Manager::start();
    let manager = ServiceManager::of(&systemd.environment(&[])).unwrap();
    manager.status("starting");
    manager.serving(":443".to_owned());
    manager.ready();
    manager.reloading();
    manager.reloaded(&Err::<(), _>(anyhow::anyhow!("line 3\nhint: mend it")));
    manager.reloaded(&Ok(()));
    manager.stopping(Duration::from_secs(10));
    let mut received = systemd.received();
    let reloading = received.remove(2);
    let mut lines = reloading.lines();
    assert_eq!(lines.next(), Some("RELOADING=1"));
    let micros = lines
        .next()
        .unwrap()
        .strip_prefix("MONOTONIC_USEC=")
        .unwrap();
    assert!(micros.parse::<u64>().unwrap() > 0, "{reloading}");
    let serving = "READY=1\nSTATUS=serving at :443";
    let expected = [
        "STATUS=starting",
        serving,
        "READY=1\nSTATUS=the last reload failed: line 3; hint: mend it",
        serving,
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000\nSTATUS=ending; open requests may end first",
    ];
    assert_eq!(received, expected);
}

#[test]
fn without_a_service_manager_nothing_is_sent_and_no_watchdog_is_fed() {
    let nobody = ServiceManager::of(&BTreeMap::new()).unwrap();
    nobody.ready();
    assert!(!nobody.is_there());
    let systemd = Manager::start();
    let watchdog = |more: &[(&str, &str)]| {
        let manager = ServiceManager::of(&systemd.environment(more)).unwrap();
        manager.watchdog.map(|time| time.as_secs())
    };
    let own_id = std::process::id().to_string();
    assert_eq!(watchdog(&[("WATCHDOG_USEC", "30000000")]), Some(30));
    let is_ours = [("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", &own_id)];
    assert_eq!(watchdog(&is_ours), Some(30));
    assert_eq!(
        watchdog(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")]),
        None
    );
    assert_eq!(watchdog(&[("WATCHDOG_USEC", "0")]), None);
    let lost = [("NOTIFY_SOCKET".to_owned(), "/nonexistent/notify".to_owned())];
    assert!(ServiceManager::of(&lost.into()).is_err());
}

/// Moves the clock from look to look until `is_so`. The looks read a real directory in a thread of their own, so they take real
/// time.
async fn looks_until(clock: &ManualClock, mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        clock.advance(REPORT_PAUSE);
    }
    panic!("it is never so");
}

#[tokio::test]
async fn the_watchdog_is_fed_until_a_loop_stands_still_and_the_status_says_which() {
    let systemd = Manager::start();
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let instance = open(systemd.directory.path(), &clock).await;
    let registry = Arc::clone(&instance.registry);
    let settings = auth_settings(&instance.plan.config, [0; SECRET_BYTES], &clock).unwrap();
    let auth = Auth::new(settings, Arc::new(clock.clone())).unwrap();
    let environment = systemd.environment(&[("WATCHDOG_USEC", "30000000")]);
    let manager = Arc::new(ServiceManager::of(&environment).unwrap());
    let reporting = tokio::spawn({
        let (manager, registry, clock) =
            (Arc::clone(&manager), Arc::clone(&registry), clock.clone());
        async move {
            let heartbeat = ServiceManager::heartbeat(Arc::new(clock.clone()));
            let registry = Some(registry.as_ref());
            manager.report(registry, &auth, &heartbeat, &clock).await;
        }
    });
    let fed = || {
        let received = systemd.received();
        received.iter().filter(|text| *text == "WATCHDOG=1").count()
    };
    let mut signs = 0;
    looks_until(&clock, || {
        signs += fed();
        signs >= 2
    })
    .await;

    let stuck = Heartbeat::new("the stuck loop", Arc::new(clock.clone()));
    registry.health.watch(Arc::clone(&stuck));
    let _beating: Beating = stuck.begin();
    clock.advance(STILL_AFTER);
    // Loops that were busy when the clock moved may stand still as well.
    let status = || manager.status.lock().unwrap().clone();
    let told = "the stuck loop has made no progress for ";
    looks_until(&clock, || {
        status().contains("; not ready: ") && status().contains(told)
    })
    .await;
    fed();
    let before = status();
    looks_until(&clock, || status() != before).await;
    assert_eq!(
        fed(),
        0,
        "a loop that stands still is hidden from the watchdog"
    );
    assert!(!reporting.is_finished());
    reporting.abort();
    instance.close().await;
}
