//! `boathouse serve`: from config files to a running registry.
//!
//! Invariants: the data are locked before anything in the store is changed; an authority is set aside only when nothing else
//! can keep the start from succeeding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::up::first_run::ADMIN;
use super::up::welcome::Welcome;
use super::up::{foreign_files, port, welcome};
use crate::auth::Auth;
use crate::cli::installation::{listen_address, registry_name};
use crate::cli::{running, talk};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, Loaded};
use crate::instance::keys::{self, derived_secret};
use crate::instance::missing_parts::{self, Expected};
use crate::instance::reload::Reload;
use crate::instance::signals::Signals;
use crate::instance::{lock_data_of, open_registry, server_secret};
use crate::layout::OWN_DIRECTORY;
use crate::registry::Registry;
use crate::server::control::{Control, ControlSocket};
use crate::server::{Server, Services};
use crate::tls::{self, Tls};
use crate::{durable_file, platform, telemetry};

/// `boathouse serve`
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// A config file; may be repeated, for example for `registry.yml` and `auth_config.yml`
    #[arg(long = "config", value_name = "FILE", required = true)]
    config: Vec<PathBuf>,
    /// Start although parts of the installation are missing: make a new authority, new keys, an empty store
    #[arg(long)]
    recreate_missing: bool,
    #[command(flatten)]
    log: LogArguments,
}

/// How a server logs, where the command line decides.
#[derive(Debug, Default, Clone, Copy, Args)]
pub(super) struct LogArguments {
    /// How log lines are written, whatever `log.formatter` says
    #[arg(long = "log-format", value_enum, value_name = "FORMAT")]
    pub(super) format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    serve(&Start {
        config_files: arguments.config.clone(),
        makes_new_authority: false,
        expected: if arguments.recreate_missing {
            Expected::None
        } else {
            Expected::Known
        },
        greets: false,
        log_format: arguments.log.format,
    })
}

/// Fewer descriptors than connections (1,024 by default), and clients are turned away.
const DESCRIPTORS_MIN: u64 = 1_280;

/// How to start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) config_files: Vec<PathBuf>,
    /// `--new-ca`
    pub(super) makes_new_authority: bool,
    /// Which parts of the installation must be there.
    pub(super) expected: Expected,
    /// Whether a person is told what to do next.
    pub(super) greets: bool,
    /// `--log-format`
    pub(super) log_format: Option<LogFormat>,
}

/// Serves until a signal ends it.
pub(super) fn serve(start: &Start) -> anyhow::Result<ExitCode> {
    let environment = crate::cli::environment();
    let mut loaded = match config::load(&start.config_files, &environment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            // Each with its own hint beside it.
            for error in &errors {
                talk::line(format_args!("error: {error}"));
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    if let Some(format) = start.log_format {
        loaded.config.telemetry.json = format == LogFormat::Json;
    }
    telemetry::start(&loaded.config.telemetry, &|name| {
        environment.get(name).cloned()
    })?;
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve_until_ended(start, loaded, environment))?;
    // What still runs in threads of its own has been told to end, and is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn serve_until_ended(
    start: &Start,
    loaded: Loaded,
    environment: BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let control_path = running::socket(&loaded.config);
    let config = &loaded.config;
    let signals = Signals::listen()?;
    if start.greets {
        foreign_files::refuse_as_root(&foreign_files::of_config(config))?;
    }
    if start.greets {
        warn_of_another_place(config, start);
    }
    missing_parts::refuse(config, start.expected, start.makes_new_authority)?;
    let is_half_recreated =
        start.expected == Expected::None && missing_parts::is_half_an_authority(config);
    let state = lock_data_of(config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let secret = server_secret(config, &state);
    let auth_secret = derived_secret(&secret, "auth")?;
    let auth_settings = keys::auth_settings(config, auth_secret, clock.as_ref())?;
    let auth = Arc::new(Auth::new(auth_settings, clock.clone())?);
    let registry = Arc::new(open_registry(config, &state, &secret, &clock)?);
    if start.makes_new_authority || is_half_recreated {
        // Last of all that can fail: a start that comes to nothing must not cost the authority that clients trust.
        port::try_bind(&listen_address(config)?)
            .with_context(|| format!("cannot listen on {}", config.server.address))?;
        Tls::set_authority_aside(&config.tls, clock.as_ref())?;
    }
    let tls = Tls::open(&config.tls, clock.clone())?.map(Arc::new);
    let server = Server::bind(
        config.server.clone(),
        Services {
            registry: Arc::clone(&registry),
            auth: auth.clone(),
            tls: tls.clone(),
            clock: clock.clone(),
        },
    )
    .context("cannot serve\nhint: if the address is in use, end the other program (or the other installation with the same config), or change `http.addr`")?;
    missing_parts::remember(config);
    let index_keeper = Arc::clone(&registry);
    let index_keeper = tokio::spawn(async move { index_keeper.index_sync.run().await });
    let closer = Arc::clone(&registry);
    let closer = tokio::spawn(async move { closer.uploads.close_idle().await });
    let watcher = Arc::clone(&registry);
    let watcher = tokio::spawn(async move { watcher.health.keep_watch().await });
    let sweeper = Arc::clone(&registry);
    let sweeper = tokio::spawn(async move { sweeper.blobs.keep_tombstones().await });
    if let Some(tls) = &tls {
        registry.health.watch(tls.heartbeat());
    }
    let keeper = tls
        .clone()
        .map(|tls| tokio::spawn(async move { tls.keep_fresh().await }));
    if start.greets {
        let welcome = welcome(start, config, tls.as_deref())?;
        if config.telemetry.json {
            // Whoever reads these lines is a program: what it may want to know, in its own language.
            welcome.log();
        } else {
            telemetry::say(&welcome.text());
        }
    }
    tracing::info!(address = %config.server.address, "listening");
    let reload = Arc::new(Reload {
        config_files: start.config_files.clone(),
        environment,
        in_force: loaded.in_force,
        tls,
        auth,
        followed: Mutex::new(loaded.config.auth.account_file.clone()),
    });
    let control = hear_commands(&control_path, &registry, &reload, &clock);
    server.run(signals.until_shutdown(|| reload.run())).await;
    if let Some(control) = control {
        control.abort();
    }
    if let Some(keeper) = keeper {
        keeper.abort();
    }
    closer.abort();
    watcher.abort();
    sweeper.abort();
    index_keeper.abort();
    registry.index_sync.close().await;
    tracing::info!("ended");
    Ok(())
}

/// Earlier versions wrote full paths: of an installation that was copied since, the config still leads to the old place.
fn warn_of_another_place(config: &Config, start: &Start) {
    let root = &config.root_directory;
    for file in &start.config_files {
        let directory = durable_file::directory_of(file);
        let beside = directory.join("data");
        if !root.starts_with(directory) && beside.join(OWN_DIRECTORY).exists() {
            tracing::warn!(
                served = %root.display(),
                not_served = %beside.display(),
                "the paths in the configuration lead outside of its directory, which holds data as well; hint: if this is a \
                 copy, write its paths relative and add `relative_paths: config_directory`"
            );
        }
    }
}

/// Answers commands until it is aborted. Without a socket the registry serves all the same.
fn hear_commands(
    path: &Path,
    registry: &Arc<Registry>,
    reload: &Arc<Reload>,
    clock: &Arc<dyn Clock>,
) -> Option<tokio::task::JoinHandle<()>> {
    let socket = match ControlSocket::bind(path, Arc::clone(clock)) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(
                %error,
                path = %path.display(),
                "`status`, `du` and `rebuild` cannot reach this server; accounts and SIGHUP are not affected"
            );
            return None;
        }
    };
    let reload = Arc::clone(reload);
    let reload = move || {
        reload.run().map_err(|error| format!("{error:#}"))?;
        tracing::info!("users, rules and certificates were read again");
        Ok(())
    };
    registry.health.watch(socket.heartbeat());
    let control = Control::new(Arc::clone(registry), Box::new(reload), Arc::clone(clock));
    Some(tokio::spawn(async move {
        socket.run(Arc::new(control)).await;
    }))
}

fn welcome(start: &Start, config: &Config, tls: Option<&Tls>) -> anyhow::Result<Welcome> {
    let certificate = match &config.tls {
        tls::Settings::Automatic { ca_certificate, .. } => Some(ca_certificate),
        tls::Settings::None | tls::Settings::Files { .. } => None,
    };
    let registry = registry_name(config)?;
    let fingerprint = tls.and_then(Tls::authority_fingerprint);
    Ok(Welcome {
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
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_start_that_comes_to_nothing_keeps_the_authority() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!(
            "storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{}'}}\ntls: auto\n",
            path("data").display(),
            taken.local_addr().unwrap()
        );
        fs::write(path("config.yml"), text).unwrap();
        let start = Start {
            config_files: vec![path("config.yml")],
            makes_new_authority: true,
            expected: Expected::Known,
            greets: false,
            log_format: None,
        };
        let loaded = config::load(&start.config_files, &BTreeMap::new()).unwrap();
        let tls::Settings::Automatic { ca_certificate, .. } = &loaded.config.tls else {
            panic!("tls: auto");
        };
        Tls::open(&loaded.config.tls, Arc::new(SystemClock::new())).unwrap();
        let before = fs::read(ca_certificate).unwrap();
        let certificate = ca_certificate.clone();
        let error = serve_until_ended(&start, loaded, BTreeMap::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("cannot listen"), "{error:#}");
        assert_eq!(fs::read(certificate).unwrap(), before);
    }
}
