//! Every endpoint as a value: what was asked, with its fields already parsed.
//!
//! Source: distribution-spec "Endpoints"; distribution's token endpoint and catalog. Pure; must not know who asks. Invariant:
//! [`Route::access`] is one exhaustive match, so an endpoint without an access rule does not compile; and no text of a
//! request gets further than this file without having become a type. A path is decoded once, before anything is read from
//! it, so rules, links and logs see the same name.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::auth::{Access, SessionUse};
use crate::layout::UploadId;
use crate::oci::{
    Algorithm, Digest, DigestError, NameError, Reference, ReferenceError, RepositoryName, Tag,
    TagError,
};
use crate::registry::PageRequest;

/// How many `tag` parameters one manifest PUT may carry: the specification asks for ten, and each is a directory to make
/// durable.
const TAGS_MAX: usize = 32;

/// The path of a request with its percent-escapes decoded once: `team%2Fapp` is `team/app`, as in distribution. What is
/// escaped twice stays escaped, and no name, tag or digest may contain a `%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath(String);

impl RequestPath {
    /// Decodes the path of a request line. Bytes that are not UTF-8 become U+FFFD, which no name, tag or digest contains.
    pub fn decode(raw: &str) -> Self {
        Self(percent_decode_str(raw).decode_utf8_lossy().into_owned())
    }

    /// The path below `prefix` (`http.prefix`, which ends with a slash); a path outside it stays as it is: whoever watches
    /// the machine asks for its health at the root.
    #[must_use]
    pub fn below(self, prefix: &str) -> Self {
        match self.0.strip_prefix(prefix.trim_end_matches('/')) {
            Some(local) if local.starts_with('/') => Self(local.to_owned()),
            _ => self,
        }
    }

    /// The decoded text. Only the grammars of names, tags and digests make it safe to use.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The methods that the path has, as `Allow` lists them; empty if nothing is there. `OPTIONS`, which every path has, is
    /// left out, as in distribution. Names in the path may be malformed: a browser asks for the methods before it sends
    /// the request whose answer says so.
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

/// What the registry takes, by its configuration.
#[derive(Debug, Clone, Copy)]
pub struct Takes {
    /// It is not read-only.
    pub writes: bool,
    /// Blobs and manifests may be deleted.
    pub deletes: bool,
}

/// The methods that a path always has, that write, and that delete what is stored.
type Methods = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

/// What is at a path, with its fields as they were sent.
enum Endpoint<'a> {
    Health,
    Ready,
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
    Nothing,
}

impl<'a> Endpoint<'a> {
    /// What is at `path`, of which `segments` are below `/v2/`.
    fn at(path: &str, segments: &'a [&'a str]) -> Self {
        // Names contain slashes, so what follows them is matched from the right.
        match segments {
            [] => match path {
                "/" | "/healthz" => Self::Health,
                "/readyz" => Self::Ready,
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
            _ => Self::Nothing,
        }
    }

    fn methods(&self) -> Methods {
        match self {
            Self::Health
            | Self::Ready
            | Self::AuthorityCertificate
            | Self::BaseRedirect
            | Self::Base
            | Self::Catalog
            | Self::Tags(_)
            | Self::Referrers(..) => (&["GET", "HEAD"], &[], &[]),
            Self::Token => (&["GET", "HEAD", "POST"], &[], &[]),
            Self::Manifest(..) => (&["GET", "HEAD"], &["PUT"], &["DELETE"]),
            Self::Uploads(_) => (&[], &["POST"], &[]),
            // Cancelling an upload deletes nothing that is stored.
            Self::Session(..) => (&["GET", "HEAD"], &["PATCH", "PUT", "DELETE"], &[]),
            Self::Blob(..) => (&["GET", "HEAD"], &[], &["DELETE"]),
            Self::Nothing => (&[], &[], &[]),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `OPTIONS` of anything: which methods are there. A browser asks it before a request to another site, and sends no
    /// credentials with it (Fetch standard); some load balancers ask it to see whether the process is alive.
    Options,
    /// `GET /`, `GET /healthz`: is the process alive?
    Health,
    /// `GET /readyz`: can it serve?
    Ready,
    /// `GET /ca.crt`: the authority to trust.
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
    /// `GET|HEAD manifests/<text>` where the text is neither a tag nor a digest: nothing can be stored under it, so the
    /// answer is that of a manifest that is not there (end-3, and the specification's suites).
    ManifestNowhere(RepositoryName),
    /// `PUT manifests/<reference>?tag=` (end-7).
    ManifestPut(RepositoryName, Reference, Vec<Tag>),
    /// `DELETE manifests/<reference>` (end-9).
    ManifestDelete(RepositoryName, Reference),
}

/// How an upload begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStart {
    /// A session, for which the client may have announced an algorithm.
    Session(Option<Algorithm>),
    /// The whole blob is in the body.
    Whole(Digest),
    /// The blob may be in another repository: the one named, or any.
    Mount(Digest, Option<RepositoryName>),
}

impl Route {
    /// What `method` on `path` with `query` asks for.
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
            Endpoint::AuthorityCertificate => reading(Self::AuthorityCertificate),
            Endpoint::BaseRedirect => reading(Self::BaseRedirect),
            Endpoint::Base => reading(Self::Base),
            Endpoint::Token if is_read || *method == Method::POST => Ok(Self::Token),
            Endpoint::Token => Err(not_allowed),
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

    /// What the caller must be allowed to do.
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
            Self::BlobDelete(name, _) | Self::ManifestDelete(name, _) => {
                Access::Delete(name.clone())
            }
        }
    }

    /// A name for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Options => "options",
            Self::Health => "health",
            Self::Ready => "ready",
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
        }
    }

    /// Whether it is run to its end even when the client goes away: it changes what is stored, and what was received must
    /// be put in order; or it takes up a session, and a client that asks again should find that done, not begun anew.
    pub fn runs_to_its_end(&self) -> bool {
        match self.access() {
            Access::Public | Access::Any | Access::Catalog | Access::Pull(_) => false,
            Access::Push(_) | Access::Delete(_) | Access::Session(..) => true,
        }
    }
}

fn parse_name(segments: &[&str]) -> Result<RepositoryName, RouteError> {
    // `/v2//tags/list` and the like name nothing.
    if segments.is_empty() {
        Err(RouteError::NotFound)
    } else {
        Ok(segments.join("/").parse()?)
    }
}

/// The parameters behind the question mark; unknown ones are ignored.
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

    /// A parameter for which an empty value means the same as none, as in distribution: clients send `?n=&last=` for the
    /// first page.
    fn filled(&self, name: &'static str) -> Option<&str> {
        self.one(name).filter(|text| !text.is_empty())
    }

    fn page(&self) -> Result<PageRequest, RouteError> {
        // A number too large for us asks for all there is; anything else that is no number is a mistake.
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
            // A `from` that names nothing is a repository that does not have the blob.
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

/// Why a request asks for nothing that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such path.
    #[error("there is nothing at this path")]
    NotFound,
    /// The path is there, the method is not.
    #[error("this path does not take this method; the header `Allow` lists those that it takes")]
    Method,
    /// The repository's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The digest, or a reference that looks like one.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The tag, or a reference that looks like one.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// The upload session's name.
    #[error("no such upload session")]
    Upload,
    /// `n` is not a number.
    #[error("`n` must be a number, 0 or more")]
    PageCount,
    /// More `tag` parameters than are taken.
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
