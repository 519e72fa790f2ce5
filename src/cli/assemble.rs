//! From config to a running registry: the one place where every layer is put together.
//!
//! Invariant: the state directory is locked before anything in it, or in the store, is changed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};

use super::first_run::{ADMIN, FirstConfig};
use super::port::ListenAddress;
use super::signals::Signals;
use super::welcome::{self, Welcome};
use crate::clock::{Clock, SystemClock};
use crate::tls::{self, Tls};
use crate::{platform, server, telemetry};

/// How to start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) config_files: Vec<PathBuf>,
    /// `--new-ca`
    pub(super) makes_new_authority: bool,
    /// Whether a person is told what to do next.
    pub(super) greets: bool,
}

/// What the config files decide, as far as it is put together here.
struct InForce {
    telemetry: telemetry::Settings,
    server: server::Settings,
    tls: tls::Settings,
    /// Whether anyone must log in.
    asks_for_login: bool,
}

/// Serves until a signal ends it.
pub(super) fn serve(start: &Start) -> anyhow::Result<ExitCode> {
    let in_force = load(&start.config_files)?;
    telemetry::start(&in_force.telemetry, &|name| std::env::var(name).ok())?;
    if platform::raise_descriptor_limit().is_some_and(|limit| limit < 1_024) {
        tracing::warn!("fewer than 1,024 open files are allowed; hint: raise `ulimit -n`");
    }
    // Needs the lock of the state directory here, before certificates are changed: `StateDirectory::open`.
    if start.makes_new_authority {
        Tls::set_authority_aside(&in_force.tls)?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tls = Tls::open(&in_force.tls, clock)?.map(Arc::new);
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
            eprint!("{}", greeting(start, &in_force, tls.as_deref())?);
        }
        // Needs store, auth, registry and `server::run` here; `until_shutdown` is its shutdown signal.
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

fn greeting(start: &Start, in_force: &InForce, tls: Option<&Tls>) -> anyhow::Result<String> {
    let (hosts, certificate) = match &in_force.tls {
        tls::Settings::Automatic {
            hosts,
            ca_certificate,
            ..
        } => (hosts.as_slice(), Some(ca_certificate)),
        tls::Settings::None | tls::Settings::Files { .. } => (&[][..], None),
    };
    let registry = if let Some(external) = &in_force.server.external_host {
        let (_scheme, rest) = external.split_once("://").unwrap_or(("", external));
        rest.trim_end_matches('/').to_owned()
    } else {
        let address = &in_force.server.address;
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
        account: in_force.asks_for_login.then(|| ADMIN.to_owned()),
        authority: certificate
            .zip(fingerprint)
            .map(|(certificate, fingerprint)| welcome::Authority {
                certificate: certificate.clone(),
                fingerprint,
            }),
    };
    Ok(welcome.text())
}

// What follows waits for `config` and `auth`.

fn load(_config_files: &[PathBuf]) -> anyhow::Result<InForce> {
    bail!("this build cannot read a config yet: it needs config::load")
}

/// Checks the config files and prints what is in force.
pub(super) fn check(_config_files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    bail!("this build cannot check a config yet: it needs cli::check")
}

/// Makes the key pair that signs tokens, unless it is there.
pub(super) fn make_token_key(_keys_directory: &Path) -> anyhow::Result<()> {
    bail!("this build cannot make a token key yet: it needs auth's function")
}

/// Writes the first file of users.
pub(super) fn write_users(_path: &Path, _hash: &str) -> anyhow::Result<()> {
    bail!("this build cannot write users yet: it needs config::UsersFile")
}

/// The first `boathouse.yml`.
pub(super) fn config_text(first: &FirstConfig<'_>) -> anyhow::Result<String> {
    bail!(
        "this build cannot write a config for {} yet: it needs config's template",
        first.address
    )
}
