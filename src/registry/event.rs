//! The vocabulary of the registry: the actor of a change, and what has happened.
//!
//! Must not know how a change is carried out, nor what subscribes. Invariant: an [`Actor`] is neither cloned nor copied, so
//! what one actor holds (`locks`) is held once.

use std::fmt;
use std::net::SocketAddr;

use crate::auth::{Permit, Refusal, Viewer};
use crate::oci::{Digest, Manifest, RepositoryName, Tag};

/// Who changes the registry: a request with its permit, a background task, or somebody on this machine.
pub struct Actor<'a>(By<'a>);

enum By<'a> {
    Request(ActingRequest<'a>, Permit<'a>),
    Task(&'static str),
    Operator { user_id: u32 },
}

/// What is known of a request: all that the envelope of a notification tells (distribution's `actor`, `request` and
/// `source`).
#[derive(Debug, Clone, Copy)]
pub struct ActingRequest<'a> {
    /// `X-Request-Id`
    pub id: &'a str,
    /// The account; empty for anonymous callers and in open mode.
    pub account: &'a str,
    /// The other end of the connection, which may be a proxy.
    pub peer: SocketAddr,
    /// The Host that the client used; empty if it named none.
    pub host: &'a str,
    /// The method of HTTP.
    pub method: &'a str,
    /// `User-Agent`; empty if there is none.
    pub user_agent: &'a str,
}

impl<'a> Actor<'a> {
    /// A request, which changes something only as long as `permit` holds.
    pub fn request(request: ActingRequest<'a>, permit: Permit<'a>) -> Self {
        Self(By::Request(request, permit))
    }

    /// A background task, or a command of the operator. No operation of a request may make one: it would hold locks for two
    /// actors at once.
    pub(super) fn task(name: &'static str) -> Self {
        Self(By::Task(name))
    }

    /// A user of this machine, by a command: who may send commands to a registry may do everything.
    pub fn operator(user_id: u32) -> Self {
        Self(By::Operator { user_id })
    }

    /// Whether it may still change what it was let in for. A task and an operator always may.
    pub(super) async fn confirm(&self) -> Result<(), Refusal> {
        match &self.0 {
            By::Request(_, permit) => permit.confirm().await,
            By::Task(_) | By::Operator { .. } => Ok(()),
        }
    }

    /// What it may see beyond the repository that it changes.
    pub(super) fn viewer(&self) -> &dyn Viewer {
        match &self.0 {
            By::Request(_, permit) => permit.viewer(),
            By::Task(_) => &NoView,
            By::Operator { .. } => &WholeView,
        }
    }

    /// Whether a client waits for the answer.
    pub(super) fn has_client(&self) -> bool {
        matches!(self.0, By::Request(..) | By::Operator { .. })
    }
}

impl fmt::Display for Actor<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            By::Request(request, _) => write!(formatter, "request {}", request.id),
            By::Task(name) => formatter.write_str(name),
            By::Operator { user_id } => write!(formatter, "user {user_id} of this machine"),
        }
    }
}

/// The view of a task: it looks into no other repository.
struct NoView;

impl Viewer for NoView {}

/// The view of an operator: all repositories.
struct WholeView;

impl Viewer for WholeView {
    fn may_pull(&self, _name: &RepositoryName) -> bool {
        true
    }

    fn may_list(&self, _name: &RepositoryName) -> bool {
        true
    }
}

/// What has happened in a repository. Subscribers get the events of one commit together: a manifest that was put under two
/// tags is one [`Event::ManifestPut`] and two [`Event::TagMoved`].
#[derive(Debug)]
pub(super) enum Event {
    /// A blob was received, and linked.
    BlobLinked { digest: Digest, size_bytes: u64 },
    /// A blob was linked that another repository had.
    BlobMounted { digest: Digest },
    /// The link of a blob was removed.
    BlobUnlinked { digest: Digest },
    /// A manifest was put.
    ManifestPut {
        digest: Digest,
        size_bytes: u64,
        /// What it says: media type, subject, references.
        manifest: Box<Manifest>,
        /// Whether it got a layer link of its own.
        is_linked_as_layer: bool,
    },
    /// A tag points at another manifest than before, or is new.
    TagMoved { tag: Tag, digest: Digest },
    /// A tag was removed.
    TagRemoved { tag: Tag },
    /// A manifest was removed; its tags were removed before.
    ManifestRemoved { digest: Digest },
    /// All that was left of the repository was removed; its tags were removed before.
    RepositoryRemoved,
}
