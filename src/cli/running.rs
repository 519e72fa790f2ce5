//! Commands that ask a running instance, or do the same themselves where none is running.
//!
//! Must not know what is asked. Invariants: an instance that runs is asked, never worked around; without one, the data are
//! locked as by a server, and nothing is done as a user whose files the server could not open.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::installation::Installation;
use super::progress::Meter;
use super::talk;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ServingMark, ServingServer};
use crate::instance::{self, places::Surroundings};
use crate::layout::OWN_DIRECTORY;
use crate::platform;
use crate::server::control::{Answer, Control, Request};
use crate::store::state_directory::StateDirectory;

/// A running server answers whether it is there within this time, whatever it does.
const CONNECT_SECS: u64 = 5;
/// Reading a few files again.
const RELOAD_SECS: u64 = 15;
/// Counting reads the index, which may be cold; there is no progress to see meanwhile.
const COUNT_SECS: u64 = 600;
/// A server leaves its mark a moment before it listens.
const START_ATTEMPTS: u32 = 12;
const START_PAUSE: Duration = Duration::from_millis(250);

/// What became of a change that a running server should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Every server that reads the file has loaded it.
    Reloaded,
    /// There is none.
    NotRunning,
}

/// Where the instance with this configuration listens for commands.
pub(super) fn socket(config: &Config) -> PathBuf {
    Surroundings::here().control_socket(&config.state_directory)
}

/// Has every running server that reads this users file read it again. An error unless that is certain, or it is certain that
/// there is none: the configuration as this process sees it does not say where a server listens that was started with another
/// working directory or environment, so its mark beside the users file does.
pub(super) fn reload(installation: &Installation) -> anyhow::Result<Told> {
    let auth = &installation.loaded.config.auth;
    let file = auth.users_file.as_deref().context("no `users_file`")?;
    let looking = || {
        format!(
            "cannot see whether a server reads {}\nhint: run this as the user that Boathouse runs as, or as root",
            file.display()
        )
    };
    let mut attempts = 0;
    loop {
        let servers = ServingMark::servers(file).with_context(looking)?;
        if servers.is_empty() {
            return reload_unmarked(installation, file);
        }
        let unreachable = servers
            .iter()
            .find_map(|server| reload_marked(server, file, &installation.loaded.config).err());
        match unreachable {
            None => return Ok(Told::Reloaded),
            // It may be starting, or have just ended.
            Some(Refusal::NobodyListens(_)) if attempts < START_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(START_PAUSE);
            }
            Some(Refusal::NobodyListens(error) | Refusal::Other(error)) => return Err(error),
        }
    }
}

/// Why a marked server has not loaded the file.
enum Refusal {
    /// Nobody is where its mark says.
    NobodyListens(anyhow::Error),
    /// Anything else.
    Other(anyhow::Error),
}

/// The socket may lie elsewhere than its server says: the server runs in a container, or its directory was moved. The id of the
/// mark in the answer tells whether it is the one.
fn reload_marked(server: &ServingServer, file: &Path, config: &Config) -> Result<(), Refusal> {
    let mut places = vec![server.socket.clone(), socket(config)];
    places.dedup();
    let mut others = Vec::new();
    for path in &places {
        match ask(path, &Request::Reload, &Meter::quiet()) {
            Ok(None) => {}
            Ok(Some(Answer::Reloaded { mark })) if mark.as_ref() == Some(&server.id) => {
                return Ok(());
            }
            Ok(Some(Answer::Reloaded { .. })) => others.push(path),
            Ok(Some(answer)) => {
                let context = format!("the server at {} has not loaded it", path.display());
                return Err(Refusal::Other(unexpected(answer).context(context)));
            }
            Err(error) => return Err(Refusal::Other(error)),
        }
    }
    let file = file.display();
    if let Some(other) = others.first() {
        return Err(Refusal::Other(anyhow!(
            "a server reads {file}, and another one answers at {}\nhint: give each server its own state_directory",
            other.display()
        )));
    }
    let places: Vec<String> = places
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    Err(Refusal::NobodyListens(anyhow!(
        "a server reads {file}, and does not listen at {}\nhint: it may run in a container, its directory may have been moved, or its log says why it could not listen there",
        places.join(" nor at ")
    )))
}

/// Where no server has left a mark: one of an earlier version, one that may not write there, or none.
fn reload_unmarked(installation: &Installation, file: &Path) -> anyhow::Result<Told> {
    let config = &installation.loaded.config;
    let path = socket(config);
    match ask(&path, &Request::Reload, &Meter::quiet())? {
        Some(Answer::Reloaded { mark: None }) => return Ok(Told::Reloaded),
        Some(Answer::Reloaded { mark: Some(_) }) => bail!(
            "the server at {} reads another file of users than {}\nhint: name every config file that the server was given, in the same order",
            path.display(),
            file.display()
        ),
        Some(answer) => return Err(unexpected(answer)),
        None => {}
    }
    let data = config.root_directory.join(OWN_DIRECTORY);
    if StateDirectory::is_in_use(&data).context("cannot tell whether a server is running")? {
        bail!(
            "a server uses {}, and does not listen at {}\nhint: it may be starting; its log says whether it could not listen there",
            config.root_directory.display(),
            path.display()
        );
    }
    // The lock of these data is free, so nobody serves them; without it, and where a server could not leave a mark, there may
    // be one that this command cannot see.
    let is_certain = data.join("lock").exists()
        || ServingMark::could_be_left(file).context("cannot tell whether a server is running")?;
    if !is_certain {
        bail!(
            "no server listens at {}, but one that was started with another working directory or environment may read {}\n\
             hint: let Boathouse's user write in the directory of that file, so that commands find it",
            path.display(),
            file.display()
        );
    }
    Ok(Told::NotRunning)
}

/// The answer of the running server or, if there is none, our own.
pub(super) fn ask_or_do(
    installation: &Installation,
    request: &Request,
    meter: &Meter,
) -> anyhow::Result<Answer> {
    let config = &installation.loaded.config;
    let path = socket(config);
    let answer = if let Some(answer) = ask(&path, request, meter)? {
        answer
    } else {
        refuse_other_data(config, &path)?;
        let root = config.root_directory.display();
        talk::line(format_args!(
            "note: no server listens at {}; using the data in {root}",
            path.display()
        ));
        do_it(config, request, meter)?
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

/// Data at which no server has ever been are not those of a server that runs with the same users file: this process only sees
/// another directory under the configured name.
fn refuse_other_data(config: &Config, path: &Path) -> anyhow::Result<()> {
    let data = config.root_directory.join(OWN_DIRECTORY);
    let Some(file) = config.auth.users_file.as_deref() else {
        return Ok(());
    };
    if data.join("lock").exists() {
        return Ok(());
    }
    // Without a directory there is no mark, and without marks nothing to refuse.
    let servers = ServingMark::servers(file).unwrap_or_default();
    match servers.first() {
        None => Ok(()),
        Some(server) => bail!(
            "no server listens at {}, but one that reads {} listens at {}\nhint: run this with the working directory, the REGISTRY_ variables and the config files of that server",
            path.display(),
            file.display(),
            server.socket.display()
        ),
    }
}

/// `None` if nobody listens at `path`. Waits for nobody for ever.
fn ask(path: &Path, request: &Request, meter: &Meter) -> anyhow::Result<Option<Answer>> {
    let mut stream = match connect(path) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(silent(path, CONNECT_SECS));
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "cannot reach the running server at {}\nhint: run this as the user that Boathouse runs as, or as root",
                    path.display()
                )
            });
        }
    };
    let answer_secs = match request {
        Request::Reload => RELOAD_SECS,
        Request::Status | Request::Rebuild | Request::Compare | Request::Usage { .. } => {
            check_is_alive(path)?;
            COUNT_SECS
        }
    };
    stream.set_write_timeout(Some(Duration::from_secs(CONNECT_SECS)))?;
    stream.set_read_timeout(Some(Duration::from_secs(answer_secs)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let lost = |error: io::Error| match error.kind() {
        // How Unix calls a socket's time limit.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => silent(path, answer_secs),
        _ => {
            anyhow::Error::new(error).context(format!("the server at {} went away", path.display()))
        }
    };
    stream.write_all(&line).map_err(lost)?;
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(lost)?;
        let answer = serde_json::from_str(&line)
            .context("the running server is of another version\nhint: restart it")?;
        match answer {
            Answer::Progress(progress) => meter.tell(progress),
            answer => return Ok(Some(answer)),
        }
    }
    bail!(
        "the server at {} went away\nhint: its log says why",
        path.display()
    )
}

/// Whether the server answers at all, before a long wait for its work: every version answers at once that it does not
/// understand an empty request.
fn check_is_alive(path: &Path) -> anyhow::Result<()> {
    let lost = |_| silent(path, RELOAD_SECS);
    let mut stream = connect(path).map_err(lost)?;
    let limit = Some(Duration::from_secs(RELOAD_SECS));
    stream.set_write_timeout(limit)?;
    stream.set_read_timeout(limit)?;
    stream.write_all(b"{}\n").map_err(lost)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(lost)?;
    Ok(())
}

/// Connects within a time limit: a server that is stopped takes no more connections than fit into its queue.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let (sender, receiver) = mpsc::channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        // Nobody listens after the time limit.
        let _ = sender.send(UnixStream::connect(path));
    });
    receiver
        .recv_timeout(Duration::from_secs(CONNECT_SECS))
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn silent(path: &Path, secs: u64) -> anyhow::Error {
    anyhow!(
        "the server at {} does not answer within {secs} s\nhint: its log may say why; a server that is stopped or stuck must be restarted",
        path.display()
    )
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
    let state = instance::lock_data_of(config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let secret = instance::server_secret(config, &state);
    let registry = Arc::new(instance::open_registry(config, &state, &secret, &clock)?);
    if *request != Request::Rebuild {
        registry.index_sync.read_everything().await?;
    }
    let keeper = Arc::clone(&registry);
    let keeper = tokio::spawn(async move { keeper.index_sync.run().await });
    let reload = Box::new(|| Ok(None));
    let control = Control::new(Arc::clone(&registry), reload, clock);
    let answer = control
        .carry_out(request, &|progress| meter.tell(progress))
        .await;
    keeper.abort();
    registry.index_sync.close().await;
    Ok(answer)
}
