//! Commands that ask a running instance, or do the same themselves where none is running.
//!
//! Must not know what is asked. Invariants: an instance that runs is asked, never worked around; without one, the data are
//! locked as by a server, and nothing is done as a user whose files the server could not open.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt as _;

use super::installation::{Installation, Where, is_unreadable};
use super::progress::Meter;
use super::talk;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::instance::missing_parts::refuse_missing_root;
use crate::instance::places::{control_socket, group_socket_of_root, refuse_data_of_another};
use crate::instance::{Expected, Instance, Parts, Plan};
use crate::oci::RepositoryName;
use crate::platform;
use crate::registry::IndexedError;
use crate::server::control::{Answer, Control, Request};
use crate::store;

/// A running server answers whether it is there within this time, whatever it does.
const CONNECT_SECS: u64 = 5;
/// Reading a few files again.
const RELOAD_SECS: u64 = 15;
/// Counting reads the index, which may be cold; there is no progress to see meanwhile.
const COUNT_SECS: u64 = 600;
/// A change of a repository waits for others for two minutes at most.
const HOLD_SECS: u64 = 180;
/// Of an answer that cannot be read.
const OTHER_VERSION: &str = "the running server is of another version\nhint: restart it";

/// The answer of the running server or, if there is none, our own.
pub(super) fn ask_or_do(
    installation: &Installation,
    request: &Request,
    meter: &Meter,
) -> anyhow::Result<Answer> {
    let config = &installation.loaded.config;
    let path = control_socket(config);
    let answer = if let Some(answer) = ask(&path, request, meter)? {
        answer
    } else {
        refuse_other_data(installation, &path)?;
        talk::line(format_args!(
            "note: no server listens at {}; using the data in {}",
            path.display(),
            config.storage
        ));
        do_it(config, request, meter)?
    };
    meter.end();
    Ok(answer)
}

/// The same for a question. The group of a service may ask it without reading the configuration.
pub(super) fn ask_or_look(
    place: &Where,
    request: &Request,
    meter: &Meter,
) -> anyhow::Result<Answer> {
    match ask_as_group(place, request, meter)? {
        Some(answer) => Ok(answer),
        None => ask_or_do(&Installation::find_without_accounts(place)?, request, meter),
    }
}

/// The answer of root's service, where its configuration cannot be read and this user is of its group.
pub(super) fn ask_as_group(
    place: &Where,
    request: &Request,
    meter: &Meter,
) -> anyhow::Result<Option<Answer>> {
    if !is_unreadable(place) {
        return Ok(None);
    }
    ask(&group_socket_of_root(), request, meter)
}

/// Tells that an answer does not come from the index, and what is not known then.
pub(super) fn note_source(from_store: Option<&str>) {
    if let Some(why) = from_store {
        talk::line(format_args!(
            "note: read from the stored data, since {why}; what images share is not known meanwhile"
        ));
    }
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

/// A relative path leads to other data in a server that was started in another directory. If no server has ever used the data
/// that it leads to here, they are not the ones that are meant.
fn refuse_other_data(installation: &Installation, path: &Path) -> anyhow::Result<()> {
    let Installation { loaded, .. } = installation;
    let Config {
        storage,
        state_directory,
        ..
    } = &loaded.config;
    let (key, directory) = match storage {
        store::Settings::Filesystem { root_directory } => {
            ("storage.filesystem.rootdirectory", root_directory)
        }
        store::Settings::Bucket(_) => ("state_directory", state_directory),
    };
    let is_relative = loaded.by_working_directory.iter().any(|known| known == key);
    if is_relative && !loaded.config.own_directory().join("lock").exists() {
        bail!(
            "no server listens at {}, and none has ever used {}, to which the relative path in `{key}` leads from this directory\n\
             hint: run this in the directory in which the server was started, or write the full path",
            path.display(),
            directory.display()
        );
    }
    Ok(())
}

/// `None` if no server listens at `path`. Every wait has a limit.
pub(super) fn ask(path: &Path, request: &Request, meter: &Meter) -> anyhow::Result<Option<Answer>> {
    let mut stream = match connect(path) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(unreachable(path, error)),
    };
    let answer_secs = match request {
        Request::Reload => RELOAD_SECS,
        Request::Status
        | Request::Rebuild
        | Request::Compare
        | Request::Usage { .. }
        | Request::List { .. }
        | Request::Show { .. }
        | Request::Hold { .. }
        | Request::Delete { .. }
        | Request::Copy { .. }
        | Request::RestoreTag { .. } => {
            check_is_alive(path)?;
            COUNT_SECS
        }
    };
    stream.set_write_timeout(Some(Duration::from_secs(CONNECT_SECS)))?;
    stream.set_read_timeout(Some(Duration::from_secs(answer_secs)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let lost = |error| lost(path, error, answer_secs);
    stream.write_all(&line).map_err(lost)?;
    for line in BufReader::new(stream).lines() {
        let answer = serde_json::from_str(&line.map_err(lost)?).context(OTHER_VERSION)?;
        match answer {
            Answer::Progress(progress) => meter.tell(progress),
            answer => return Ok(Some(answer)),
        }
    }
    Err(gone(path))
}

/// Whether a server listens at `path`. One that cannot be reached is an error.
pub(super) fn is_served(path: &Path) -> anyhow::Result<bool> {
    match connect(path) {
        Ok(_) => Ok(true),
        Err(error) if is_nobody(&error) => Ok(false),
        Err(error) => Err(unreachable(path, error)),
    }
}

/// A repository in which the running server lets nothing change.
pub(super) struct Hold {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Hold {
    /// Waits until changes that are under way have ended.
    pub(super) fn begin(path: &Path, repository: &RepositoryName) -> anyhow::Result<Self> {
        let mut stream = connect(path).map_err(|error| unreachable(path, error))?;
        stream.set_write_timeout(Some(Duration::from_secs(CONNECT_SECS)))?;
        stream.set_read_timeout(Some(Duration::from_secs(HOLD_SECS)))?;
        let request = Request::Hold {
            repository: repository.to_string(),
        };
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        stream
            .write_all(&line)
            .map_err(|error| lost(path, error, HOLD_SECS))?;
        let mut hold = Self {
            stream: BufReader::new(stream),
            path: path.to_owned(),
        };
        match hold.answer()? {
            Answer::Held => Ok(hold),
            answer => Err(unexpected(answer)),
        }
    }

    /// Lets changes go on. Returns whether nothing could change until now.
    pub(super) fn end(mut self) -> anyhow::Result<bool> {
        let ended = self.stream.get_mut().write_all(b"\n");
        match ended {
            // It has waited for too long, and has said so.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(lost(&self.path, error, HOLD_SECS));
            }
            _ => {}
        }
        Ok(self.answer()? == Answer::Released)
    }

    fn answer(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        match read.map_err(|error| lost(&self.path, error, HOLD_SECS))? {
            0 => Err(gone(&self.path)),
            _ => serde_json::from_str(&line).context(OTHER_VERSION),
        }
    }
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
        // After the time limit, nothing receives this.
        let _ = sender.send(UnixStream::connect(path));
    });
    receiver
        .recv_timeout(Duration::from_secs(CONNECT_SECS))
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn gone(path: &Path) -> anyhow::Error {
    anyhow!(
        "the server at {} closed the connection\nhint: its log has the reason",
        path.display()
    )
}

/// Why a connection that stood was lost, after a wait of at most `secs`.
fn lost(path: &Path, error: io::Error, secs: u64) -> anyhow::Error {
    match error.kind() {
        // The time limit of a Unix socket.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => silent(path, secs),
        _ => anyhow::Error::new(error).context(format!(
            "the connection to the server at {} was lost",
            path.display()
        )),
    }
}

/// Why there is no connection.
fn unreachable(path: &Path, error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::TimedOut {
        return silent(path, CONNECT_SECS);
    }
    anyhow::Error::new(error).context(format!(
        "cannot reach the running server at {}\nhint: run this as the user that Boathouse runs as, or as root",
        path.display()
    ))
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
    with_instance(config, async |instance, clock| {
        do_here(instance, clock, request, meter).await
    })
}

/// Opens the data as a server does, which must not be running, and gives the instance to `work`, which closes it.
pub(super) fn with_instance<T>(
    config: &Config,
    work: impl AsyncFnOnce(Instance, Arc<dyn Clock>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    // Without data there is nothing to do, and nothing is made.
    refuse_missing_root(config)?;
    refuse_data_of_another(config.owned_directory(), platform::effective_user_id())
        .context("no server is running")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let instance = Instance::open(Plan {
            config: config.clone(),
            clock: Arc::clone(&clock),
            source: None,
            // The server says what is missing, when it starts.
            expected: Expected::None,
            makes_new_authority: false,
            parts: Parts::default(),
        })
        .await?;
        work(instance, clock).await
    });
    runtime.shutdown_background();
    done
}

async fn do_here(
    instance: Instance,
    clock: Arc<dyn Clock>,
    request: &Request,
    meter: &Meter,
) -> anyhow::Result<Answer> {
    let registry = Arc::clone(&instance.registry);
    if *request != Request::Rebuild {
        match registry.index_sync.read_everything().await {
            // The answer says so, and comes from the store.
            Err(IndexedError::Index(_)) if *request != Request::Compare => {}
            read => read?,
        }
    }
    instance.keep_index();
    let reload = Box::new(|| async { Ok(Vec::new()) }.boxed());
    let control = Control::new(registry, None, reload, clock);
    let answer = control
        .carry_out(request, platform::effective_user_id(), &|progress| {
            meter.tell(progress);
        })
        .await;
    instance.close().await;
    Ok(answer)
}
