//! A registry in this process with certificates and an account, which can be stopped and started again where it was.

use std::sync::Arc;
use std::time::Duration;

use boathouse::auth;
use boathouse::server::Address;
use boathouse::tls;
use tempfile::TempDir;

use super::wire::Site;
use crate::client::{Target, trust};
use crate::data::Data;
use crate::support::{Options, TestRegistry, with_users};

/// The time of the test's registries when they start.
const NOW_UNIX_SECS: u64 = 1_800_000_000;

pub(super) struct Lab {
    pub(super) registry: TestRegistry,
    pub(super) site: Site,
    auth: auth::Settings,
    keys: Arc<TempDir>,
}

impl Lab {
    pub(super) fn start() -> Self {
        let keys = Arc::new(tempfile::tempdir().expect("a directory"));
        let mut options = options(&keys);
        with_users(&mut options, &["ann"], &[("ann", "lab/*", &["*"])]);
        let auth = options.auth.clone();
        let registry = TestRegistry::start(options);
        let authority = std::fs::read(keys.path().join("ca.crt")).expect("an authority");
        let site = Site {
            target: Target {
                address: registry.address,
                host: registry.address.to_string(),
                trust: Some(trust(&authority, Some(NOW_UNIX_SECS))),
            },
            user: "ann",
            password: "ann-secret",
        };
        Self {
            registry,
            site,
            auth,
            keys,
        }
    }

    /// Ends it, while requests are going on or not, and starts another on the same data and address. `meanwhile` is done
    /// to the data.
    pub(super) async fn restart(self, meanwhile: impl FnOnce(&Data)) -> Self {
        let clock = self.registry.clock.clone();
        let old = Arc::downgrade(&self.registry.registry);
        let time_passes = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                clock.advance(Duration::from_secs(1));
            }
        };
        let data = tokio::select! {
            data = self.registry.stop() => data,
            () = time_passes => unreachable!("it never ends"),
        };
        // What was begun goes on to its end, where a process would end with all that it has begun.
        while old.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        meanwhile(&data);
        let mut options = options(&self.keys);
        options.server.address = Address::Tcp(self.site.host().parse().unwrap());
        options.auth = self.auth.clone();
        Self {
            registry: TestRegistry::start_in(data, options),
            ..self
        }
    }
}

fn options(keys: &TempDir) -> Options {
    Options {
        tls: tls::Settings::Automatic {
            ca_certificate: keys.path().join("ca.crt"),
            keys_directory: keys.path().join("keys"),
            hosts: Vec::new(),
        },
        ..Options::default()
    }
}
