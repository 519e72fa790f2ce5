//! Commands that ask a running instance, or do the same themselves where none is running.
//!
//! Must not know what is asked. Invariants: an instance that runs is asked, never worked around; without one, the data are
//! locked as by a server, and nothing is done as a user whose files the server could not open.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};

use super::assemble;
use super::installation::Installation;
use super::places::Surroundings;
use super::progress::Meter;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::layout::OWN_DIRECTORY;
use crate::platform;
use crate::server::control::{Answer, Control, Request};
use crate::store::state_directory::StateDirectory;

/// What became of a change that a running server should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It goes by it.
    Reloaded,
    /// There is none.
    NotRunning,
}

/// Where the instance with this configuration listens for commands.
pub(super) fn socket(config: &Config) -> PathBuf {
    Surroundings::here().control_socket(&config.state_directory)
}

/// Has a running server read users, rules and certificates again. One that cannot be reached is not taken for none.
pub(super) fn reload(installation: &Installation) -> anyhow::Result<Told> {
    let quiet = Meter::quiet();
    match ask(installation, &Request::Reload, &quiet)? {
        None => {
            let config = &installation.loaded.config;
            let data = config.root_directory.join(OWN_DIRECTORY);
            if StateDirectory::is_in_use(&data)
                .context("cannot tell whether a server is running")?
            {
                bail!(
                    "a server uses {}, and does not listen at {}\nhint: it may be starting; its log says whether it could not listen there",
                    config.root_directory.display(),
                    socket(config).display()
                );
            }
            Ok(Told::NotRunning)
        }
        Some(Answer::Reloaded) => Ok(Told::Reloaded),
        Some(answer) => Err(unexpected(answer)),
    }
}

/// The answer of the running server or, if there is none, our own.
pub(super) fn ask_or_do(
    installation: &Installation,
    request: &Request,
    meter: &Meter,
) -> anyhow::Result<Answer> {
    let answer = match ask(installation, request, meter)? {
        Some(answer) => answer,
        None => do_it(&installation.loaded.config, request, meter)?,
    };
    meter.end();
    Ok(answer)
}

/// What an answer that does not fit means: that it was refused, and why.
pub(super) fn unexpected(answer: Answer) -> anyhow::Error {
    match answer {
        Answer::Failed { what, hint: None } => anyhow::anyhow!("{what}"),
        Answer::Failed {
            what,
            hint: Some(hint),
        } => anyhow::anyhow!("{what}\nhint: {hint}"),
        _ => anyhow::anyhow!(
            "the running server answered something else\nhint: it is of another version; restart it"
        ),
    }
}

/// `None` if no instance is running.
fn ask(
    installation: &Installation,
    request: &Request,
    meter: &Meter,
) -> anyhow::Result<Option<Answer>> {
    let path = socket(&installation.loaded.config);
    let mut stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "cannot reach the running server at {}\nhint: run this as the user that Boathouse runs as, or as root",
                    path.display()
                )
            });
        }
    };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let lost = || format!("the server at {} went away", path.display());
    stream.write_all(&line).with_context(lost)?;
    for line in BufReader::new(stream).lines() {
        let line = line.with_context(lost)?;
        let answer = serde_json::from_str(&line)
            .context("the running server is of another version\nhint: restart it")?;
        match answer {
            Answer::Progress(progress) => meter.tell(progress),
            answer => return Ok(Some(answer)),
        }
    }
    bail!("{}\nhint: its log says why", lost())
}

/// Nothing lies there, or only what a killed server left.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn do_it(config: &Config, request: &Request, meter: &Meter) -> anyhow::Result<Answer> {
    let root = &config.root_directory;
    let owner = std::fs::metadata(root)
        .with_context(|| format!("cannot look at {}", root.display()))?
        .uid();
    if owner != platform::effective_user_id() {
        bail!(
            "no server is running, and {} belongs to another user: files made now would be in its way\nhint: run this as the user with id {owner}",
            root.display()
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let answer = runtime.block_on(do_here(config, request, meter));
    runtime.shutdown_background();
    answer
}

async fn do_here(config: &Config, request: &Request, meter: &Meter) -> anyhow::Result<Answer> {
    let state = assemble::lock_data(&config.root_directory)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let secret = assemble::server_secret(config, &state);
    let registry = Arc::new(assemble::open_registry(config, &state, &secret, &clock)?);
    if *request != Request::Rebuild {
        registry.read_everything().await?;
    }
    let keeper = Arc::clone(&registry);
    let keeper = tokio::spawn(async move { keeper.keep_index().await });
    let reload = Box::new(|| Ok(()));
    let control = Control::new(Arc::clone(&registry), reload, clock);
    let answer = control
        .carry_out(request, &|progress| meter.tell(progress))
        .await;
    keeper.abort();
    registry.close_index().await;
    Ok(answer)
}
