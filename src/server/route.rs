//! Every endpoint as a value with parsed fields.
//!
//! Source: distribution-spec "Endpoints"; distribution's token endpoint and catalog. Pure; must not know the caller.
//! Invariants: [`Route::access`] is one exhaustive match, so an endpoint without an access rule does not compile. Text from
//! a request leaves this file only as a parsed type. A path is decoded once, before it is parsed, so rules, links and logs
//! see the same name.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::auth::{Access, SessionUse};
use crate::layout::UploadId;
use crate::metrics::Handler;
use crate::oci::{
    Algorithm, Digest, DigestError, NameError, Reference, ReferenceError, RepositoryName, Tag,
    TagError,
};
use crate::registry::{PageRequest, Spares};

/// The maximum of `tag` parameters in one manifest PUT. The specification requires ten, and each is a directory to sync.
const TAGS_MAX: usize = 32;

/// The path of a request with its percent-escapes decoded once: `team%2Fapp` is `team/app`, as in distribution. Double
/// escapes remain, and no name, tag or digest may contain a `%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath(String);

impl RequestPath {
    /// Decodes the path of a request line. Invalid UTF-8 becomes U+FFFD, which no name, tag or digest contains.
    pub fn decode(raw: &str) -> Self {
        Self(percent_decode_str(raw).decode_utf8_lossy().into_owned())
    }

    /// The path below `prefix` (`http.prefix`, which ends with a slash). A path outside it is unchanged: monitoring
    /// requests health at the root.
    #[must_use]
    pub fn below(self, prefix: &str) -> Self {
        match self.0.strip_prefix(prefix.trim_end_matches('/')) {
            Some(local) if local.starts_with('/') => Self(local.to_owned()),
            _ => self,
        }
    }

    /// The decoded text. It is safe to use only after it was parsed as a name, tag or digest.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The methods of the path, as in `Allow`; empty if there is no such path. `OPTIONS`, which every path has, is left
    /// out, as in distribution. Names in the path may be malformed: a browser asks for the methods before it sends the
    /// request whose answer reports that.
    pub fn methods(&self, takes: Takes) -> String {
        let everything: Methods = (&["GET", "HEAD"], &["POST", "PUT", "PATCH"], &["DELETE"]);
        let (always, writes, deletes) = match self.as_str() {
            // RFC 9110 section 9.3.7: the server as a whole.
            "*" => everything,
            path => Endpoint::at(path, &self.segments()).methods(),
        };
        let writes = writes.iter().filter(|_| takes.writes);
        let deletes = deletes.iter().filter(|_| takes.writes && takes.deletes);
        let all: Vec<&str> = always
            .iter()
            .chain(writes)
            .chain(deletes)
            .copied()
            .collect();
        all.join(", ")
    }

    /// The segments below `/v2/`; none elsewhere.
    fn segments(&self) -> Vec<&str> {
        let below = self.0.strip_prefix("/v2/");
        below.map_or_else(Vec::new, |below| below.split('/').collect())
    }
}

/// What the configuration permits.
#[derive(Debug, Clone, Copy)]
pub struct Takes {
    /// The registry is not read-only.
    pub writes: bool,
    /// Blobs and manifests may be deleted.
    pub deletes: bool,
}

/// The methods of a path that are always permitted, that write, and that delete stored content.
type Methods = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

/// The endpoint at a path, with unparsed fields.
enum Endpoint<'a> {
    Health,
    Ready,
    Metrics,
    AuthorityCertificate,
    Token,
    BaseRedirect,
    Base,
    Catalog,
    Tags(&'a [&'a str]),
    Referrers(&'a [&'a str], &'a str),
    Manifest(&'a [&'a str], &'a str),
    Uploads(&'a [&'a str]),
    Session(&'a [&'a str], &'a str),
    Blob(&'a [&'a str], &'a str),
    Repository(&'a [&'a str]),
    Nothing,
}

impl<'a> Endpoint<'a> {
    /// The endpoint at `path`; `segments` are those below `/v2/`.
    fn at(path: &str, segments: &'a [&'a str]) -> Self {
        // Names contain slashes, so paths are matched from the right.
        match segments {
            [] => match path {
                "/" | "/healthz" => Self::Health,
                "/readyz" => Self::Ready,
                "/metrics" => Self::Metrics,
                "/ca.crt" => Self::AuthorityCertificate,
                "/v2" => Self::BaseRedirect,
                "/token" | "/auth" | "/auth/token" => Self::Token,
                _ => Self::Nothing,
            },
            [""] => Self::Base,
            ["_catalog"] => Self::Catalog,
            [name @ .., "tags", "list"] => Self::Tags(name),
            [name @ .., "referrers", digest] => Self::Referrers(name, digest),
            [name @ .., "manifests", reference] => Self::Manifest(name, reference),
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                Self::Uploads(name)
            }
            [name @ .., "blobs", "uploads", id] => Self::Session(name, id),
            [name @ .., "blobs", digest] => Self::Blob(name, digest),
            // No component of a name begins with an underscore.
            [name @ .., "_boathouse", "repository"] => Self::Repository(name),
            _ => Self::Nothing,
        }
    }

    fn methods(&self) -> Methods {
        match self {
            Self::Health
            | Self::Ready
            | Self::Metrics
            | Self::AuthorityCertificate
            | Self::BaseRedirect
            | Self::Base
            | Self::Catalog
            | Self::Tags(_)
            | Self::Referrers(..) => (&["GET", "HEAD"], &[], &[]),
            Self::Token => (&["GET", "HEAD", "POST"], &[], &[]),
            Self::Manifest(..) => (&["GET", "HEAD"], &["PUT"], &["DELETE"]),
            Self::Uploads(_) => (&[], &["POST"], &[]),
            // Cancelling an upload does not delete stored content.
            Self::Session(..) => (&["GET", "HEAD"], &["PATCH", "PUT", "DELETE"], &[]),
            Self::Blob(..) => (&["GET", "HEAD"], &[], &["DELETE"]),
            Self::Repository(_) => (&[], &[], &["DELETE"]),
            Self::Nothing => (&[], &[], &[]),
        }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `OPTIONS` of any path: its methods. A browser sends it before a request to another site, without credentials (Fetch
    /// standard); some load balancers send it to check that the process is alive.
    Options,
    /// `GET /`, `GET /healthz`: whether the process is alive.
    Health,
    /// `GET /readyz`: whether it can serve requests.
    Ready,
    /// `GET /metrics`: the page that Prometheus reads.
    Metrics,
    /// `GET /ca.crt`: the CA certificate.
    AuthorityCertificate,
    /// `GET|POST /token`, `/auth`, `/auth/token`.
    Token,
    /// `GET /v2`: a redirect to `/v2/`.
    BaseRedirect,
    /// `GET /v2/` (end-1).
    Base,
    /// `GET /v2/_catalog`.
    Catalog(PageRequest),
    /// `GET tags/list` (end-8).
    Tags(RepositoryName, PageRequest),
    /// `GET referrers/<digest>` (end-12).
    Referrers(RepositoryName, Digest, Option<String>, PageRequest),
    /// `GET|HEAD blobs/<digest>` (end-2).
    BlobRead(RepositoryName, Digest),
    /// `DELETE blobs/<digest>` (end-10).
    BlobDelete(RepositoryName, Digest),
    /// `POST blobs/uploads/` (end-4, end-11).
    UploadBegin(RepositoryName, UploadStart),
    /// `PATCH blobs/uploads/<id>` (end-5).
    UploadAppend(RepositoryName, UploadId),
    /// `PUT blobs/uploads/<id>?digest=` (end-6).
    UploadFinish(RepositoryName, UploadId, Digest),
    /// `GET blobs/uploads/<id>` (end-13).
    UploadStatus(RepositoryName, UploadId),
    /// `DELETE blobs/uploads/<id>` (end-14).
    UploadCancel(RepositoryName, UploadId),
    /// `GET|HEAD manifests/<reference>` (end-3).
    ManifestRead(RepositoryName, Reference),
    /// `GET|HEAD manifests/<text>` where the text is neither a tag nor a digest: no manifest can have this reference, so
    /// the answer is that of an unknown manifest (end-3, and the specification's test suites).
    ManifestNowhere(RepositoryName),
    /// `PUT manifests/<reference>?tag=` (end-7).
    ManifestPut(RepositoryName, Reference, Vec<Tag>),
    /// `DELETE manifests/<reference>` (end-9).
    ManifestDelete(RepositoryName, Reference),
    /// `DELETE _boathouse/repository?unless=manifests`: the repository with all that it holds; with `unless=manifests`, only if
    /// it holds no manifest. No specification has it.
    RepositoryDelete(RepositoryName, Spares),
}

/// How an upload begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStart {
    /// As a session. The client may have announced an algorithm.
    Session(Option<Algorithm>),
    /// With the whole blob in the body.
    Whole(Digest),
    /// By a mount: the blob may be in the named repository, or in any.
    Mount(Digest, Option<RepositoryName>),
}

impl Route {
    /// Parses a request.
    pub fn parse(method: &Method, path: &RequestPath, query: &str) -> Result<Self, RouteError> {
        if *method == Method::OPTIONS {
            return Ok(Self::Options);
        }
        let segments = path.segments();
        let endpoint = Endpoint::at(path.as_str(), &segments);
        let query = Query::parse(query);
        let not_allowed = RouteError::Method;
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let reading = |route| if is_read { Ok(route) } else { Err(not_allowed) };
        match endpoint {
            Endpoint::Health => reading(Self::Health),
            Endpoint::Ready => reading(Self::Ready),
            Endpoint::Metrics => reading(Self::Metrics),
            Endpoint::AuthorityCertificate => reading(Self::AuthorityCertificate),
            Endpoint::BaseRedirect => reading(Self::BaseRedirect),
            Endpoint::Base => reading(Self::Base),
            Endpoint::Token if is_read || *method == Method::POST => Ok(Self::Token),
            Endpoint::Repository(name) if *method == Method::DELETE => {
                let spares = match query.one("unless") {
                    None => Spares::Nothing,
                    Some("manifests") => Spares::Manifests,
                    Some(_) => return Err(RouteError::Unless),
                };
                Ok(Self::RepositoryDelete(parse_name(name)?, spares))
            }
            Endpoint::Token | Endpoint::Repository(_) => Err(not_allowed),
            Endpoint::Catalog => reading(Self::Catalog(query.page()?)),
            Endpoint::Tags(name) => reading(Self::Tags(parse_name(name)?, query.page()?)),
            Endpoint::Referrers(name, digest) => {
                let artifact_type = query.filled("artifactType").map(Into::into);
                let (name, digest) = (parse_name(name)?, digest.parse()?);
                reading(Self::Referrers(name, digest, artifact_type, query.page()?))
            }
            Endpoint::Manifest(name, reference) => {
                let (name, reference) = (parse_name(name)?, reference.parse::<Reference>());
                match *method {
                    Method::GET | Method::HEAD => Ok(match reference {
                        Ok(reference) => Self::ManifestRead(name, reference),
                        Err(_) => Self::ManifestNowhere(name),
                    }),
                    Method::PUT => Ok(Self::ManifestPut(name, reference?, query.tags()?)),
                    Method::DELETE => Ok(Self::ManifestDelete(name, reference?)),
                    _ => Err(not_allowed),
                }
            }
            Endpoint::Uploads(name) => match *method {
                Method::POST => Ok(Self::UploadBegin(parse_name(name)?, query.upload_start()?)),
                _ => Err(not_allowed),
            },
            Endpoint::Session(name, id) => {
                let name = parse_name(name)?;
                let id: UploadId = id.parse().map_err(|_| RouteError::Upload)?;
                match *method {
                    Method::PATCH => Ok(Self::UploadAppend(name, id)),
                    Method::PUT => match query.one("digest") {
                        Some(digest) => Ok(Self::UploadFinish(name, id, digest.parse()?)),
                        None => Err(RouteError::Digest(DigestError::Malformed)),
                    },
                    Method::GET | Method::HEAD => Ok(Self::UploadStatus(name, id)),
                    Method::DELETE => Ok(Self::UploadCancel(name, id)),
                    _ => Err(not_allowed),
                }
            }
            Endpoint::Blob(name, digest) => {
                let (name, digest) = (parse_name(name)?, digest.parse()?);
                match *method {
                    Method::GET | Method::HEAD => Ok(Self::BlobRead(name, digest)),
                    Method::DELETE => Ok(Self::BlobDelete(name, digest)),
                    _ => Err(not_allowed),
                }
            }
            Endpoint::Nothing => Err(RouteError::NotFound),
        }
    }

    /// The access that the caller needs.
    pub fn access(&self) -> Access {
        match self {
            Self::Options
            | Self::Health
            | Self::Ready
            | Self::AuthorityCertificate
            | Self::Token
            | Self::BaseRedirect => Access::Public,
            Self::Base => Access::Any,
            Self::Catalog(_) => Access::Catalog,
            Self::Metrics => Access::Metrics,
            Self::Tags(name, _)
            | Self::Referrers(name, ..)
            | Self::BlobRead(name, _)
            | Self::ManifestRead(name, _)
            | Self::ManifestNowhere(name) => Access::Pull(name.clone()),
            Self::UploadBegin(name, _) | Self::ManifestPut(name, ..) => Access::Push(name.clone()),
            Self::UploadStatus(name, _) => Access::Session(name.clone(), SessionUse::Status),
            Self::UploadAppend(name, _)
            | Self::UploadFinish(name, ..)
            | Self::UploadCancel(name, _) => Access::Session(name.clone(), SessionUse::Write),
            Self::BlobDelete(name, _)
            | Self::ManifestDelete(name, _)
            | Self::RepositoryDelete(name, _) => Access::Delete(name.clone()),
        }
    }

    /// What it is counted as. Names are distribution's where it has the endpoint.
    pub(super) fn handler(&self) -> Handler {
        match self {
            Self::Options
            | Self::Health
            | Self::Ready
            | Self::Metrics
            | Self::AuthorityCertificate
            | Self::RepositoryDelete(..) => Handler::Other,
            Self::Token => Handler::Token,
            Self::BaseRedirect | Self::Base => Handler::Base,
            Self::Catalog(_) => Handler::Catalog,
            Self::Tags(..) => Handler::Tags,
            Self::Referrers(..) => Handler::Referrers,
            Self::BlobRead(..) | Self::BlobDelete(..) => Handler::Blob,
            Self::UploadBegin(..) => Handler::BlobUpload,
            Self::UploadAppend(..)
            | Self::UploadFinish(..)
            | Self::UploadStatus(..)
            | Self::UploadCancel(..) => Handler::BlobUploadChunk,
            Self::ManifestRead(..)
            | Self::ManifestNowhere(_)
            | Self::ManifestPut(..)
            | Self::ManifestDelete(..) => Handler::Manifest,
        }
    }

    /// A name for logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Options => "options",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Metrics => "metrics",
            Self::AuthorityCertificate => "authority-certificate",
            Self::Token => "token",
            Self::BaseRedirect => "base-redirect",
            Self::Base => "base",
            Self::Catalog(_) => "catalog",
            Self::Tags(..) => "tags",
            Self::Referrers(..) => "referrers",
            Self::BlobRead(..) => "blob-read",
            Self::BlobDelete(..) => "blob-delete",
            Self::UploadBegin(..) => "upload-begin",
            Self::UploadAppend(..) => "upload-append",
            Self::UploadFinish(..) => "upload-finish",
            Self::UploadStatus(..) => "upload-status",
            Self::UploadCancel(..) => "upload-cancel",
            Self::ManifestRead(..) => "manifest-read",
            Self::ManifestNowhere(_) => "manifest-nowhere",
            Self::ManifestPut(..) => "manifest-put",
            Self::ManifestDelete(..) => "manifest-delete",
            Self::RepositoryDelete(..) => "repository-delete",
        }
    }

    /// Whether the request runs to its end even if the client disconnects: because it changes stored content and leaves it
    /// in a defined state, or because it resumes a session, and a client that retries must find that done.
    pub fn runs_to_its_end(&self) -> bool {
        match self.access() {
            Access::Public | Access::Any | Access::Catalog | Access::Metrics | Access::Pull(_) => {
                false
            }
            Access::Push(_) | Access::Delete(_) | Access::Session(..) => true,
        }
    }
}

fn parse_name(segments: &[&str]) -> Result<RepositoryName, RouteError> {
    // `/v2//tags/list` and similar paths do not exist.
    if segments.is_empty() {
        Err(RouteError::NotFound)
    } else {
        Ok(segments.join("/").parse()?)
    }
}

/// The query parameters; unknown ones are ignored.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = form_urlencoded::parse(text.as_bytes());
        Self(
            pairs
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn one(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    /// A parameter whose empty value means that it is absent, as in distribution: clients send `?n=&last=` for the first
    /// page.
    fn filled(&self, name: &'static str) -> Option<&str> {
        self.one(name).filter(|text| !text.is_empty())
    }

    fn page(&self) -> Result<PageRequest, RouteError> {
        // A number that is too large means no limit; anything else that is not a number is an error.
        let count = self.filled("n").map(|text| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            let count = text.parse::<usize>().unwrap_or(usize::MAX);
            is_number.then_some(count).ok_or(RouteError::PageCount)
        });
        Ok(PageRequest {
            count: count.transpose()?,
            last: self.filled("last").map(Into::into),
        })
    }

    fn tags(&self) -> Result<Vec<Tag>, RouteError> {
        let tags = self
            .all("tag")
            .map(str::parse)
            .collect::<Result<Vec<Tag>, _>>()?;
        if tags.len() > TAGS_MAX {
            Err(RouteError::TooManyTags)
        } else {
            Ok(tags)
        }
    }

    fn upload_start(&self) -> Result<UploadStart, RouteError> {
        if let Some(digest) = self.one("mount") {
            // An invalid `from` is treated as a repository without the blob.
            let from = self.filled("from").map(str::parse).transpose();
            return match from {
                Ok(from) => Ok(UploadStart::Mount(digest.parse()?, from)),
                Err(_) => Ok(UploadStart::Session(None)),
            };
        }
        if let Some(digest) = self.one("digest") {
            return Ok(UploadStart::Whole(digest.parse()?));
        }
        Ok(UploadStart::Session(
            self.one("digest-algorithm").map(str::parse).transpose()?,
        ))
    }
}

/// Why a request matches no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such path.
    #[error("no such path")]
    NotFound,
    /// The path does not support the method.
    #[error(
        "this path does not support this method; the header `Allow` lists those that it supports"
    )]
    Method,
    /// The repository name is invalid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The digest is invalid, or a reference with a colon.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The tag is invalid, or a reference without a colon.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The upload session id is invalid.
    #[error("no such upload session")]
    Upload,
    /// `n` is not a number.
    #[error("`n` must be a number, 0 or more")]
    PageCount,
    /// `unless` has a value that is not known: what must be spared is not guessed.
    #[error("`unless` must be `manifests`")]
    Unless,
    /// Too many `tag` parameters.
    #[error("more than {TAGS_MAX} `tag` parameters")]
    TooManyTags,
}

impl From<ReferenceError> for RouteError {
    fn from(error: ReferenceError) -> Self {
        match error {
            ReferenceError::Tag(error) => Self::Tag(error),
            ReferenceError::Digest(error) => Self::Digest(error),
        }
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
