//! A registry in this process with certificates and an account, which can be stopped and started again where it was.

use std::sync::Arc;
use std::time::Duration;

use boathouse::auth;
use boathouse::clock::ManualClock;
use boathouse::tls::{self, Tls};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use super::crypto;
use super::wire::Site;
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
            address: registry.address,
            trust: trust(&authority, Some(NOW_UNIX_SECS)),
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
        options.server.address = self.site.host();
        options.auth = self.auth.clone();
        Self {
            registry: TestRegistry::start_in(data, options),
            ..self
        }
    }
}

fn options(keys: &TempDir) -> Options {
    let settings = tls::Settings::Automatic {
        ca_certificate: keys.path().join("ca.crt"),
        keys_directory: keys.path().join("keys"),
        hosts: Vec::new(),
    };
    let clock = ManualClock::at_unix_secs(NOW_UNIX_SECS);
    let tls = Tls::open(&settings, Arc::new(clock)).expect("certificates");
    Options {
        tls: tls.map(Arc::new),
        ..Options::default()
    }
}

/// What believes certificates of this authority, and nothing else.
pub(super) fn trust(authority_pem: &[u8], now_unix_secs: Option<u64>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority_pem).expect("PEM");
    roots.add(authority).expect("a certificate");
    let builder = match now_unix_secs {
        Some(secs) => ClientConfig::builder_with_details(crypto(), Arc::new(FixedTime(secs))),
        None => ClientConfig::builder_with_provider(crypto()),
    };
    let builder = builder.with_safe_default_protocol_versions().expect("TLS");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

#[derive(Debug)]
struct FixedTime(u64);

impl TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}
