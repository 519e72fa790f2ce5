//! The control socket: commands on this machine that query or change a running server.
//!
//! A Unix socket. The client sends one line of JSON, a [`Request`]; the server answers with lines of JSON: any number of
//! [`Answer::Progress`], then one other answer. Must not know who runs the commands. Invariants: the socket that carries out
//! everything accepts only root and the user of the server process, and one for a group answers questions only; work that has begun continues if the client disconnects, but [`Request::Hold`] ends then.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::status::{self, Report, Serving};
use crate::auth::Auth;
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::oci::{Digest, ImageName, Reference, RepositoryName, Tag};
use crate::platform;
use crate::registry::{
    Actor, Comparison, Copied, Filled, Image, IndexedError, Progress, Registry, RegistryError,
    Removal, RepositoryContent, RepositorySummary, Seen, Subject, Usage,
};

/// Parallel clients: the people and scripts of one machine.
const CLIENTS_MAX: usize = 16;

/// The longest request: many times a repository name and a tag.
const REQUEST_BYTES_MAX: u64 = 4_096;

/// The time for a client to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The longest hold of a repository: shorter than the two minutes after which a push that waits for it is refused.
const HOLD_TIME_MAX: Duration = Duration::from_secs(90);

/// What a command can request. Details are in a field of their own: serde ignores unknown fields next to the tag, so a
/// command of a later version would be only partly understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "request",
    content = "details",
    rename_all = "snake_case",
    deny_unknown_fields
)]
pub enum Request {
    /// Reload users, rules and certificates, as SIGHUP does.
    Reload,
    /// The number and size of the stored objects, and the state of the index.
    Status,
    /// Rebuild the index.
    Rebuild,
    /// Compare the index with the store.
    Compare,
    /// The disk usage of a repository or a tag.
    Usage {
        /// A repository; `None` for all.
        repository: Option<String>,
        /// One of its tags; `None` for all.
        tag: Option<String>,
    },
    /// The repositories, or the tags of one.
    List {
        /// A repository; `None` for all.
        repository: Option<ImageName>,
    },
    /// One image, or the tags of a repository.
    Show {
        /// The image; without a tag or digest, the repository.
        image: ImageName,
    },
    /// Let no change of a repository begin until the client sends one more line, or disconnects: a backup then reads the
    /// links of the repository as they are at one moment.
    Hold {
        /// The repository.
        repository: String,
    },
    /// Delete an image, or a repository.
    Delete {
        /// The image; without a tag or digest, the whole repository.
        image: ImageName,
        /// Only find out what would go.
        is_trial: bool,
    },
    /// Copy an image within the registry.
    Copy {
        /// The image.
        from: ImageName,
        /// The repository and tag of the copy.
        to: ImageName,
    },
    /// Point a tag at a manifest that it pointed at before.
    RestoreTag {
        /// The tag, with its repository.
        image: ImageName,
        /// The manifest.
        digest: Digest,
    },
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Intermediate progress.
    Progress(Progress),
    /// To [`Request::Reload`].
    Reloaded {
        /// Changed keys that only a restart applies.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        needs_restart: Vec<String>,
    },
    /// To [`Request::Status`].
    Status(Box<Report>),
    /// To [`Request::Rebuild`].
    Filled(Filled),
    /// To [`Request::Compare`].
    Compared(Comparison),
    /// To [`Request::Usage`].
    Usage {
        /// A row for each repository or tag.
        rows: Vec<Usage>,
        /// See [`Seen::from_store`].
        #[serde(skip_serializing_if = "Option::is_none", default)]
        from_store: Option<String>,
    },
    /// To [`Request::List`] without a repository.
    Repositories {
        /// In byte order of their names.
        rows: Vec<RepositorySummary>,
        /// See [`Seen::from_store`].
        #[serde(skip_serializing_if = "Option::is_none", default)]
        from_store: Option<String>,
    },
    /// To [`Request::List`] of a repository.
    Content(RepositoryContent),
    /// To [`Request::Show`].
    Image(Box<Image>),
    /// To [`Request::Hold`]: from now on nothing changes.
    Held,
    /// To the line that ends [`Request::Hold`]: nothing has changed until now.
    Released,
    /// To [`Request::Delete`].
    Removal(Removal),
    /// To [`Request::Copy`].
    Copied(Copied),
    /// To [`Request::RestoreTag`].
    Restored,
    /// The request failed.
    Failed {
        /// What happened, and where.
        what: String,
        /// What to do about it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        hint: Option<String>,
    },
}

/// Reloads the files, and returns the changed keys that only a restart applies; an error says what was not reloaded.
pub type Reload = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<String>, String>> + Send + Sync>;

/// Executes requests.
pub struct Control {
    registry: Arc<Registry>,
    /// None where a command works without a server.
    auth: Option<Arc<Auth>>,
    reload: Reload,
    clock: Arc<dyn Clock>,
    /// None where a command works without a server.
    serving: Option<Serving>,
}

impl Control {
    /// Executes requests with `registry`. Its `index_sync` must run in parallel.
    pub fn new(
        registry: Arc<Registry>,
        auth: Option<Arc<Auth>>,
        reload: Reload,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            registry,
            auth,
            reload,
            clock,
            serving: None,
        }
    }

    /// Of a running server.
    #[must_use]
    pub fn of_server(self, serving: Serving) -> Self {
        Self {
            serving: Some(serving),
            ..self
        }
    }

    /// Executes a request of a user of this machine; calls `tell` with its progress.
    pub async fn carry_out(
        &self,
        request: &Request,
        user_id: u32,
        tell: &(dyn Fn(Progress) + Send + Sync),
    ) -> Answer {
        let registry = &self.registry;
        let answer = match request {
            Request::Reload => {
                return match (self.reload)().await {
                    Ok(needs_restart) => Answer::Reloaded { needs_restart },
                    Err(what) => failed(what, None),
                };
            }
            Request::Status => {
                let (auth, serving) = (self.auth.as_deref(), self.serving.as_ref());
                let report = status::report(registry, auth, serving, self.clock.as_ref()).await;
                report.map(|report| Answer::Status(Box::new(report)))
            }
            Request::Rebuild => registry.index_sync.rebuild(tell).await.map(Answer::Filled),
            Request::Compare => registry
                .index_sync
                .compare(tell)
                .await
                .map(Answer::Compared),
            Request::Usage { repository, tag } => {
                let subject = match subject(repository.as_deref(), tag.as_deref()) {
                    Ok(subject) => subject,
                    Err(what) => return failed(what, None),
                };
                let seen = registry.listings.usage(&subject).await;
                seen.map(|Seen { value, from_store }| Answer::Usage {
                    rows: value,
                    from_store,
                })
            }
            Request::List { repository: None } => {
                let seen = registry.listings.summaries().await;
                seen.map(|Seen { value, from_store }| Answer::Repositories {
                    rows: value,
                    from_store,
                })
            }
            Request::List {
                repository: Some(ImageName { repository, .. }),
            } => {
                let content = registry.listings.content(repository).await;
                content.map(Answer::Content)
            }
            Request::Show { image } => self.show(image).await,
            // Without a server there is nobody to hold off; with one, `serve` carries it out.
            Request::Hold { .. } => return Answer::Held,
            Request::Delete {
                image,
                is_trial: true,
            } => {
                let planned = registry.planned_removal(image).await;
                planned.map(Answer::Removal).map_err(IndexedError::from)
            }
            Request::Delete {
                image,
                is_trial: false,
            } => {
                let removed = registry.remove_image(image, Actor::operator(user_id));
                let removed = removed.await.inspect(|removed| {
                    tracing::info!(user_id, %image, ?removed, "deleted by command");
                });
                removed.map(Answer::Removal).map_err(IndexedError::from)
            }
            Request::Copy { from, to } => self.copy(from, to, user_id).await,
            Request::RestoreTag { image, digest } => {
                let ImageName {
                    repository,
                    reference: Some(Reference::Tag(tag)),
                } = image
                else {
                    return failed(format!("{image} is not REPOSITORY:TAG"), None);
                };
                let manifests = &registry.manifests;
                let actor = Actor::operator(user_id);
                let restored = manifests.restore_tag(repository, tag, digest, actor);
                let restored = restored.await.inspect(|()| {
                    tracing::info!(user_id, %image, %digest, "tag restored by command");
                });
                restored
                    .map(|()| Answer::Restored)
                    .map_err(IndexedError::from)
            }
        };
        match answer {
            Ok(answer) => answer,
            Err(error) => self.failure(request, &error).await,
        }
    }

    /// Why a request failed, and what to do about it.
    async fn failure(&self, request: &Request, error: &IndexedError) -> Answer {
        let hint = match error {
            IndexedError::Index(error) => error.hint(),
            IndexedError::Registry(RegistryError::DeletesDisabled) => {
                Some("set `storage.delete.enabled: true` and restart the server")
            }
            // Clients hear of a manifest also where the repository is missing; a person should not look for the tag then.
            IndexedError::Registry(RegistryError::ManifestUnknown(_)) => {
                if let Some(name) = request.repository()
                    && matches!(self.registry.has_repository(&name).await, Ok(false))
                {
                    return failed(RegistryError::NameUnknown(name).to_string(), None);
                }
                None
            }
            IndexedError::Registry(_) => None,
        };
        failed(error.to_string(), hint)
    }

    async fn show(&self, image: &ImageName) -> Result<Answer, IndexedError> {
        let listings = &self.registry.listings;
        let ImageName {
            repository,
            reference,
        } = image;
        match reference {
            Some(reference) => {
                let image = listings.image(repository, reference).await?;
                Ok(Answer::Image(Box::new(image)))
            }
            None => listings.content(repository).await.map(Answer::Content),
        }
    }

    async fn copy(
        &self,
        from: &ImageName,
        to: &ImageName,
        user_id: u32,
    ) -> Result<Answer, IndexedError> {
        let Some(reference) = &from.reference else {
            return Ok(failed(format!("{from} names no image"), None));
        };
        let tag = match (&to.reference, reference) {
            (Some(Reference::Tag(tag)), _) | (None, Reference::Tag(tag)) => tag,
            (Some(Reference::Digest(_)), _) | (None, Reference::Digest(_)) => {
                return Ok(failed(format!("{to} names no tag for the copy"), None));
            }
        };
        let actor = || Actor::operator(user_id);
        let manifests = &self.registry.manifests;
        let copied = manifests.copy(&from.repository, reference, &to.repository, tag, &actor);
        let copied = copied.await?;
        tracing::info!(user_id, %from, %to, digest = copied.digest, "copied by command");
        Ok(Answer::Copied(copied))
    }
}

fn failed(what: String, hint: Option<&str>) -> Answer {
    let hint = hint.map(str::to_owned);
    Answer::Failed { what, hint }
}

fn subject(repository: Option<&str>, tag: Option<&str>) -> Result<Subject, String> {
    let Some(repository) = repository else {
        return Ok(Subject::Everything);
    };
    let name: RepositoryName = repository
        .parse()
        .map_err(|error| format!("{repository}: {error}"))?;
    let Some(tag) = tag else {
        return Ok(Subject::Repository(name));
    };
    let tag: Tag = tag.parse().map_err(|error| format!("{tag}: {error}"))?;
    Ok(Subject::Tag(name, tag))
}

impl Request {
    /// The repository that it is about, where it names one.
    fn repository(&self) -> Option<RepositoryName> {
        match self {
            Self::Reload | Self::Status | Self::Rebuild | Self::Compare => None,
            Self::Usage { repository, .. } => repository.as_ref()?.parse().ok(),
            Self::List { repository } => Some(repository.as_ref()?.repository.clone()),
            Self::Hold { repository } => repository.parse().ok(),
            Self::Show { image }
            | Self::Delete { image, .. }
            | Self::Copy { from: image, .. }
            | Self::RestoreTag { image, .. } => Some(image.repository.clone()),
        }
    }

    /// Whether it only reads what the index and the process know, and costs others nothing.
    fn is_question(&self) -> bool {
        match self {
            Self::Status | Self::Usage { .. } | Self::List { .. } | Self::Show { .. } => true,
            Self::Reload
            | Self::Rebuild
            | Self::Compare
            | Self::Hold { .. }
            | Self::Delete { .. }
            | Self::Copy { .. }
            | Self::RestoreTag { .. } => false,
        }
    }
}

/// Who may use a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Root and the user of the server process, for everything.
    Owner,
    /// The group of the server process too, for questions. The mode of the file keeps others out, which Linux heeds.
    Group,
}

/// How often it is looked whether the socket is still there: a command that finds none comes again after this time.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

/// The socket; removed when dropped.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    clients: Clients,
    /// Device and inode of the socket's file.
    file: Option<(u64, u64)>,
    clock: Arc<dyn Clock>,
    heartbeat: Arc<Heartbeat>,
}

impl ControlSocket {
    /// Listens at `path`. If another server is listening there, it keeps its socket and this is an error: its commands
    /// would be answered here. Any other file there was left by a process that has ended.
    pub fn bind(path: &Path, clients: Clients, clock: Arc<dyn Clock>) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another server is listening there; give each server its own state_directory",
            ));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let mode = match clients {
            Clients::Owner => 0o600,
            Clients::Group => 0o660,
        };
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            clients,
            file: file_at(path),
            clock: Arc::clone(&clock),
            heartbeat: Heartbeat::new("the socket of commands", clock),
        })
    }

    /// The heartbeat of [`ControlSocket::run`].
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// Makes the socket again if somebody has removed it. Commands would take the server for one that has ended.
    fn make_again_if_missing(&mut self) {
        if file_at(&self.path).is_some() {
            return;
        }
        // Where the whole directory was moved, the socket is still good in its new place.
        let Ok(mut new) = Self::bind(&self.path, self.clients, Arc::clone(&self.clock)) else {
            return;
        };
        std::mem::swap(&mut self.listener, &mut new.listener);
        self.file = new.file.take();
        tracing::warn!(path = %self.path.display(), "the control socket was removed by somebody, and was made again");
    }

    /// Answers commands; never returns.
    pub async fn run(&mut self, control: Arc<Control>) {
        let _beating = self.heartbeat.begin();
        // There may be no command for a long time: only the end of the loop is an error.
        self.heartbeat.rest();
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.clock.sleep(LOOK_PAUSE) => {
                    self.make_again_if_missing();
                    continue;
                }
            };
            match accepted {
                Ok((stream, _)) => {
                    let control = Arc::clone(&control);
                    let clients = self.clients;
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, clients, &control).await {
                            tracing::debug!(%error, "a command disconnected");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a command");
                    control.clock.sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // That of another server stays. One that remains is replaced at the next start.
        if self.file.is_some() && self.file == file_at(&self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode of what is at `path`.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

async fn serve(mut stream: UnixStream, clients: Clients, control: &Arc<Control>) -> io::Result<()> {
    // The mode of the file is set a moment after it is created, and some systems ignore it.
    let peer = stream.peer_cred()?.uid();
    let is_owner = peer == 0 || peer == platform::effective_user_id();
    if clients == Clients::Owner && !is_owner {
        let what = "only root and the user of the server process may do this".to_owned();
        return send(&mut stream, &failed(what, None)).await;
    }
    let (reader, mut writer) = stream.split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(REQUEST_BYTES_MAX));
    tokio::select! {
        read = reader.read_until(b'\n', &mut line) => read?,
        () = control.clock.sleep(REQUEST_TIME) => return Ok(()),
    };
    let request: Request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let what = format!("the running server does not understand this command: {error}");
            let hint = "it may be another version: restart the server";
            return send(&mut writer, &failed(what, Some(hint))).await;
        }
    };
    if clients == Clients::Group && !request.is_question() {
        let what = "only root and the user of the server process may do this".to_owned();
        return send(&mut writer, &failed(what, None)).await;
    }
    if let Request::Hold { repository } = &request {
        let changes = reader.into_inner().into_inner();
        return hold(changes, &mut writer, control, repository).await;
    }
    let (progress, mut told) = watch::channel(None);
    // Work that has begun continues if the client disconnects.
    let work = tokio::spawn({
        let control = Arc::clone(control);
        async move {
            let tell = |now| {
                progress.send_replace(Some(now));
            };
            control.carry_out(&request, peer, &tell).await
        }
    });
    while told.changed().await.is_ok() {
        let now = *told.borrow_and_update();
        if let Some(now) = now {
            send(&mut writer, &Answer::Progress(now)).await?;
        }
    }
    let answer = work.await.unwrap_or_else(|_| {
        failed(
            "internal error; the server's log has the cause".to_owned(),
            None,
        )
    });
    send(&mut writer, &answer).await
}

/// Carries out [`Request::Hold`]. `ending` is the client's side after the request.
async fn hold(
    mut ending: impl AsyncRead + Unpin,
    writer: &mut (impl AsyncWrite + Unpin),
    control: &Control,
    repository: &str,
) -> io::Result<()> {
    let name: RepositoryName = match repository.parse() {
        Ok(name) => name,
        Err(error) => return send(writer, &failed(format!("{repository}: {error}"), None)).await,
    };
    let mut line = [0];
    let quiet = tokio::select! {
        quiet = control.registry.quiet(&name) => quiet,
        // The client has gone, or does not wait for its answer.
        _ = ending.read(&mut line) => return Ok(()),
    };
    let quiet = match quiet {
        Ok(quiet) => quiet,
        Err(error) => return send(writer, &failed(error.to_string(), None)).await,
    };
    send(writer, &Answer::Held).await?;
    let is_held = tokio::select! {
        read = ending.read(&mut line) => read? > 0,
        () = control.clock.sleep(HOLD_TIME_MAX) => false,
    };
    drop(quiet);
    if is_held {
        return send(writer, &Answer::Released).await;
    }
    let what = format!(
        "{name} was held for {} s, and pushes must go on",
        HOLD_TIME_MAX.as_secs()
    );
    send(writer, &failed(what, None)).await
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.flush().await
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
