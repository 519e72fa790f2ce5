//! From config to a running registry: the one place where every layer is put together.
//!
//! Invariant: the state directory is locked before anything in it, or in the store, is changed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};

use super::first_run::ADMIN;
use super::port::ListenAddress;
use super::signals::Signals;
use super::token_key::{self, TokenKey};
use super::welcome::{self, Welcome};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::tls::{self, Tls};
use crate::{platform, telemetry};

/// Fewer descriptors than connections (1,024 by default), and clients are turned away.
const DESCRIPTORS_MIN: u64 = 1_280;

/// How to start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) config_files: Vec<PathBuf>,
    /// `--new-ca`
    pub(super) makes_new_authority: bool,
    /// Whether a person is told what to do next.
    pub(super) greets: bool,
}

/// Serves until a signal ends it.
pub(super) fn serve(start: &Start) -> anyhow::Result<ExitCode> {
    let environment = super::environment();
    let loaded = match config::load(&start.config_files, &environment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            // Each with its own hint beside it.
            for error in &errors {
                eprintln!("error: {error}");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let config = loaded.config;
    telemetry::start(&config.telemetry, &|name| environment.get(name).cloned())?;
    for note in &loaded.notes {
        tracing::info!("{note}");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let descriptors = platform::raise_descriptor_limit();
    if descriptors.is_some_and(|limit| limit < DESCRIPTORS_MIN) {
        tracing::warn!(
            descriptors,
            "few open files are allowed; hint: raise `ulimit -n`"
        );
    }
    // `StateDirectory::open(config.state_directory)` belongs here: the lock, before anything is changed.
    if start.makes_new_authority {
        Tls::set_authority_aside(&config.tls)?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tls = Tls::open(&config.tls, clock)?.map(Arc::new);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let signals = Signals::listen()?;
        let keeper = tls
            .clone()
            .map(|tls| tokio::spawn(async move { tls.keep_fresh().await }));
        if start.greets {
            eprint!("{}", greeting(start, &config, tls.as_deref())?);
        }
        // Store, auth and registry belong here, and `server::run`: until then nothing listens. The closure is to reload
        // users and rules too.
        signals
            .until_shutdown(|| match &tls {
                Some(tls) => tls.reload(),
                None => Ok(()),
            })
            .await;
        if let Some(keeper) = keeper {
            keeper.abort();
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn greeting(start: &Start, config: &Config, tls: Option<&Tls>) -> anyhow::Result<String> {
    let (hosts, certificate) = match &config.tls {
        tls::Settings::Automatic {
            hosts,
            ca_certificate,
            ..
        } => (hosts.as_slice(), Some(ca_certificate)),
        tls::Settings::None | tls::Settings::Files { .. } => (&[][..], None),
    };
    let registry = if let Some(external) = &config.server.external_host {
        let (_scheme, rest) = external.split_once("://").unwrap_or(("", external));
        rest.trim_end_matches('/').to_owned()
    } else {
        let address = &config.server.address;
        let address: ListenAddress = address
            .parse()
            .map_err(|shape| anyhow!("cannot listen on {address}\nhint: {shape}"))?;
        welcome::registry_name(&address, hosts, &tls::best_host_name())
    };
    let fingerprint = tls.and_then(Tls::authority_fingerprint);
    let welcome = Welcome {
        registry,
        is_https: tls.is_some(),
        config: start.config_files.first().cloned().unwrap_or_default(),
        account: config.auth.required.then(|| ADMIN.to_owned()),
        authority: certificate
            .zip(fingerprint)
            .map(|(certificate, fingerprint)| welcome::Authority {
                certificate: certificate.clone(),
                fingerprint,
            }),
    };
    Ok(welcome.text())
}

/// The key pair that signs tokens, in `keys_directory`; made if it is not there.
pub(super) fn token_key(keys_directory: &Path) -> anyhow::Result<TokenKey> {
    token_key::read_or_make(keys_directory, || {
        bail!("this build cannot make a token key yet: it needs auth::make_token_key")
    })
}
