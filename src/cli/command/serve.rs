//! `boathouse serve`: from config files to a running registry.
//!
//! Must not know how an instance is put together. Invariant: nothing is opened before the whole config was found to be sound.

use std::collections::BTreeMap;
use std::mem;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::up::foreign_files;
use super::welcome::{ShownPassword, Welcome};
use crate::cli::installation;
use crate::cli::{MISCONFIGURED, credentials, talk};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, IssuerConfig, Served};
use crate::instance::issuer::TokenIssuer;
use crate::instance::service_manager::ServiceManager;
use crate::instance::signals::{Endings, Hangups};
use crate::instance::{BoundInstance, ConfigSource, Expected, Instance, Parts, Plan, Warnings};
use crate::layout::OWN_DIRECTORY;
use crate::server::{Address, BoundAddress, PassedSockets};
use crate::{durable_file, platform, store, telemetry};

/// `boathouse serve`
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    /// A config file; may be repeated, for example for `registry.yml` and `auth_config.yml`. By default the one that the
    /// variable `REGISTRY_CONFIGURATION_PATH` names
    #[arg(long = "config", value_name = "FILE")]
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
    let config_files = if arguments.config.is_empty() {
        installation::file_of_variable().into_iter().collect()
    } else {
        arguments.config.clone()
    };
    serve(Start {
        sockets: passed_sockets()?,
        config_files,
        makes_new_authority: false,
        expected: if arguments.recreate_missing {
            Expected::None
        } else {
            Expected::Known
        },
        greets: false,
        password: None,
        log_format: arguments.log.format,
    })
}

/// Fewer descriptors than connections (1,024 by default), and clients are turned away.
const DESCRIPTORS_MIN: u64 = 1_280;

/// By then the log lines of a start are written: an empty or a known store takes no longer.
const START_LINES_TIME: Duration = Duration::from_millis(500);

/// The sockets of the service manager. To be called once, before the program has threads.
pub(super) fn passed_sockets() -> anyhow::Result<PassedSockets> {
    PassedSockets::take().context(
        "cannot use a socket of the service manager\nhint: only TCP and Unix stream sockets can be served; look at `ListenStream=` in the socket unit",
    )
}

/// How to start.
#[derive(Debug)]
pub(super) struct Start {
    /// The sockets of the service manager.
    pub(super) sockets: PassedSockets,
    pub(super) config_files: Vec<PathBuf>,
    /// `--new-ca`
    pub(super) makes_new_authority: bool,
    /// Which parts of the installation must be there.
    pub(super) expected: Expected,
    /// Whether a person is told what to do next.
    pub(super) greets: bool,
    /// What the welcome shows of the password that was made for this start.
    pub(super) password: Option<ShownPassword>,
    /// `--log-format`
    pub(super) log_format: Option<LogFormat>,
}

/// Serves until a signal ends it.
pub(super) fn serve(start: Start) -> anyhow::Result<ExitCode> {
    let mut environment = crate::cli::environment();
    environment.extend(credentials::of_this_process()?);
    let manager = ServiceManager::of(&environment).unwrap_or_else(|error| {
        talk::line(format_args!(
            "warning: cannot reach the service manager, serving without it: {error}"
        ));
        ServiceManager::default()
    });
    let manager = Arc::new(manager);
    manager.status("starting");
    let result = serve_for(start, environment, &manager);
    if let Err(error) = &result {
        manager.status(&format!("not started: {error:#}"));
    }
    result
}

fn serve_for(
    mut start: Start,
    environment: BTreeMap<String, String>,
    manager: &Arc<ServiceManager>,
) -> anyhow::Result<ExitCode> {
    let loaded = match config::load_served(&start.config_files, &environment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            // Each with its own hint beside it.
            for error in &errors {
                talk::line(format_args!("error: {error}"));
            }
            manager.status(&format!("not started: {errors}"));
            return Ok(ExitCode::from(MISCONFIGURED));
        }
    };
    let mut log = loaded.config.telemetry().clone();
    if let Some(format) = start.log_format {
        log.json = format == LogFormat::Json;
    }
    telemetry::start(&log, &|name| environment.get(name).cloned())?;
    for note in &loaded.notes {
        tracing::info!("{note}");
    }
    let mut warnings = Warnings::default();
    warnings.log(&loaded.warnings, loaded.config.auth());
    let now_unix_secs = SystemClock::new().unix_secs();
    for certificate in loaded.config.auth().ending_certificates(now_unix_secs) {
        tracing::warn!("{certificate}");
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
    let source = ConfigSource {
        files: start.config_files.clone(),
        environment,
        in_force: loaded.in_force,
        warnings,
        followed: loaded.followed,
    };
    let sockets = mem::take(&mut start.sockets);
    match loaded.config {
        Served::Registry(mut config) => {
            config.telemetry = log;
            runtime.block_on(serve_until_ended(&start, config, source, sockets, manager))?;
        }
        Served::TokenIssuer(config) => {
            runtime.block_on(issue_until_ended(&config, source, sockets, manager))?;
        }
    }
    // What still runs in threads of its own has been told to end, and is not waited for.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// The instance, bound to its addresses.
async fn open(
    start: &Start,
    config: Config,
    source: ConfigSource,
    sockets: PassedSockets,
) -> anyhow::Result<BoundInstance> {
    if start.greets {
        foreign_files::refuse_as_root(&foreign_files::of_config(&config))?;
        warn_of_another_place(&config, start);
    }
    let instance = Instance::open(Plan {
        config,
        clock: Arc::new(SystemClock::new()),
        source: Some(source),
        expected: start.expected,
        makes_new_authority: start.makes_new_authority,
        parts: Parts {
            sockets,
            ..Parts::default()
        },
    })
    .await?;
    instance.bind(Vec::new())
}

async fn serve_until_ended(
    start: &Start,
    config: Box<Config>,
    source: ConfigSource,
    sockets: PassedSockets,
    manager: &Arc<ServiceManager>,
) -> anyhow::Result<()> {
    let endings = Endings::listen()?;
    let hangups = Hangups::listen()?;
    let mut instance = open(start, *config, source, sockets).await?;
    instance.report_to(Arc::clone(manager));
    let config = instance.config();
    let address = shown_address(&config.server.address, instance.address());
    tracing::info!(%address, "listening");
    manager.serving(address.to_string());
    if let Some(listener) = &instance.config().token_listener {
        let address = shown_address(&listener.server.address, instance.token_address());
        tracing::info!(%address, "listening for token requests, as docker_auth does");
    }
    instance.reload_on(hangups);
    let greeting = start.greets.then(|| {
        let file = start.config_files.first().cloned().unwrap_or_default();
        let config = instance.config().clone();
        tokio::spawn(greet(config, file, address, start.password.clone()))
    });
    let drain = Duration::from_secs(instance.config().server.drain_secs);
    Box::pin(instance.run(told_to_end(endings, manager, drain))).await;
    if let Some(greeting) = greeting {
        greeting.abort();
    }
    tracing::info!("ended");
    Ok(())
}

/// Tells the person at the terminal what to do next, after the log lines of the start.
async fn greet(config: Config, file: PathBuf, address: Address, password: Option<ShownPassword>) {
    SystemClock::new().sleep(START_LINES_TIME).await;
    let is_json = config.telemetry.json;
    // It waits for the resolver.
    let found = tokio::task::spawn_blocking(move || Welcome::find(&config, &file, &address));
    let Ok(welcome) = found.await else { return };
    if is_json {
        // These lines are read by programs: the values as fields.
        welcome.log();
    } else {
        let environment = |name: &str| std::env::var(name).ok();
        let has_colours = telemetry::has_colours(&std::io::stderr(), &environment);
        telemetry::say(&welcome.text(password.as_ref(), has_colours));
    }
}

/// Waits for the signal to end, then reports it to the service manager.
async fn told_to_end(endings: Endings, manager: &ServiceManager, drain: Duration) {
    endings.received().await;
    manager.stopping(drain);
}

/// Serves tokens alone: `docker_auth`'s listener, and no registry.
async fn issue_until_ended(
    config: &IssuerConfig,
    source: ConfigSource,
    sockets: PassedSockets,
    manager: &ServiceManager,
) -> anyhow::Result<()> {
    let endings = Endings::listen()?;
    let hangups = Hangups::listen()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let issuer = TokenIssuer::bind(config, Some(source), &clock, sockets)?;
    let address = shown_address(&config.listener.server.address, issuer.address());
    tracing::info!(%address, "listening for token requests only: no `storage` is configured, so there is no registry");
    manager.serving(address.to_string());
    let drain = Duration::from_secs(config.listener.server.drain_secs);
    let ended = told_to_end(endings, manager, drain);
    issuer.run(hangups, manager, ended).await;
    tracing::info!("ended");
    Ok(())
}

/// A configured address, with the port that it got.
fn shown_address(configured: &Address, bound: Option<BoundAddress>) -> Address {
    match (configured, bound.and_then(|address| address.tcp())) {
        (Address::Tcp(configured), Some(bound)) => Address::Tcp(configured.with_port(bound.port())),
        _ => configured.clone(),
    }
}

/// Earlier versions wrote full paths: of an installation that was copied since, the config still leads to the old place.
fn warn_of_another_place(config: &Config, start: &Start) {
    let root = match &config.storage {
        store::Settings::Filesystem { root_directory } => root_directory,
        store::Settings::Bucket(_) => return,
    };
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::*;
    use crate::tls::{self, Tls};

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
        fs::create_dir(path("data")).unwrap();
        let start = Start {
            sockets: PassedSockets::default(),
            config_files: vec![path("config.yml")],
            makes_new_authority: true,
            expected: Expected::Known,
            greets: false,
            password: None,
            log_format: None,
        };
        let loaded = config::load(&start.config_files, &BTreeMap::new()).unwrap();
        let tls::Settings::Automatic { ca_certificate, .. } = &loaded.config.tls else {
            panic!("tls: auto");
        };
        Tls::open(&loaded.config.tls, Arc::new(SystemClock::new())).unwrap();
        let before = fs::read(ca_certificate).unwrap();
        let certificate = ca_certificate.clone();
        let error = Box::pin(serve_until_ended(
            &start,
            Box::new(loaded.config),
            ConfigSource::default(),
            PassedSockets::default(),
            &Arc::default(),
        ))
        .await
        .unwrap_err();
        assert!(format!("{error:#}").contains("cannot listen"), "{error:#}");
        assert_eq!(fs::read(certificate).unwrap(), before);
    }
}
