//! Every endpoint as a value: what was asked, with its fields already parsed.
//!
//! Source: distribution-spec "Endpoints"; distribution's token endpoint and catalog. Pure; must not know who asks. Invariant:
//! [`Route::access`] is one exhaustive match, so an endpoint without an access rule does not compile; and no text of a
//! request gets further than this file without having become a type.

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

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
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
    Referrers(RepositoryName, Digest, Option<String>),
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
    pub fn parse(method: &Method, path: &str, query: &str) -> Result<Self, RouteError> {
        let Some(path) = path.strip_prefix("/v2/") else {
            return parse_outside(method, path);
        };
        let segments: Vec<String> = path.split('/').map(decode).collect::<Result<_, _>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let query = Query::parse(query);
        // Names contain slashes, so what follows them is matched from the right.
        match segments.as_slice() {
            [""] => reading(method, Self::Base),
            ["_catalog"] => reading(method, Self::Catalog(query.page()?)),
            [name @ .., "tags", "list"] => {
                reading(method, Self::Tags(parse_name(name)?, query.page()?))
            }
            [name @ .., "referrers", digest] => {
                let artifact_type = query.one("artifactType").filter(|text| !text.is_empty());
                reading(
                    method,
                    Self::Referrers(
                        parse_name(name)?,
                        digest.parse()?,
                        artifact_type.map(Into::into),
                    ),
                )
            }
            [name @ .., "manifests", reference] => {
                parse_manifest(method, parse_name(name)?, reference.parse()?, &query)
            }
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                match *method {
                    Method::POST => Ok(Self::UploadBegin(parse_name(name)?, query.upload_start()?)),
                    _ => Err(RouteError::Method("POST")),
                }
            }
            [name @ .., "blobs", "uploads", id] => {
                parse_session(method, parse_name(name)?, id, &query)
            }
            [name @ .., "blobs", digest] => parse_blob(method, parse_name(name)?, digest.parse()?),
            _ => Err(RouteError::NotFound),
        }
    }

    /// What the caller must be allowed to do.
    pub fn access(&self) -> Access {
        match self {
            Self::Health
            | Self::Ready
            | Self::AuthorityCertificate
            | Self::Token
            | Self::BaseRedirect => Access::Public,
            Self::Base => Access::Any,
            Self::Catalog(_) => Access::Catalog,
            Self::Tags(name, _)
            | Self::Referrers(name, ..)
            | Self::BlobRead(name, _)
            | Self::ManifestRead(name, _) => Access::Pull(name.clone()),
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

/// What lies outside the registry's API.
fn parse_outside(method: &Method, path: &str) -> Result<Route, RouteError> {
    match path {
        "/" | "/healthz" => reading(method, Route::Health),
        "/readyz" => reading(method, Route::Ready),
        "/ca.crt" => reading(method, Route::AuthorityCertificate),
        "/v2" => reading(method, Route::BaseRedirect),
        "/token" | "/auth" | "/auth/token" => match *method {
            Method::GET | Method::HEAD | Method::POST => Ok(Route::Token),
            _ => Err(RouteError::Method("GET, HEAD, POST")),
        },
        _ => Err(RouteError::NotFound),
    }
}

fn parse_manifest(
    method: &Method,
    name: RepositoryName,
    reference: Reference,
    query: &Query,
) -> Result<Route, RouteError> {
    match *method {
        Method::GET | Method::HEAD => Ok(Route::ManifestRead(name, reference)),
        Method::PUT => Ok(Route::ManifestPut(name, reference, query.tags()?)),
        Method::DELETE => Ok(Route::ManifestDelete(name, reference)),
        _ => Err(RouteError::Method("GET, HEAD, PUT, DELETE")),
    }
}

fn parse_blob(method: &Method, name: RepositoryName, digest: Digest) -> Result<Route, RouteError> {
    match *method {
        Method::GET | Method::HEAD => Ok(Route::BlobRead(name, digest)),
        Method::DELETE => Ok(Route::BlobDelete(name, digest)),
        _ => Err(RouteError::Method("GET, HEAD, DELETE")),
    }
}

fn parse_session(
    method: &Method,
    name: RepositoryName,
    id: &str,
    query: &Query,
) -> Result<Route, RouteError> {
    let id: UploadId = id.parse().map_err(|_| RouteError::Upload)?;
    match *method {
        Method::PATCH => Ok(Route::UploadAppend(name, id)),
        Method::PUT => match query.one("digest") {
            Some(digest) => Ok(Route::UploadFinish(name, id, digest.parse()?)),
            None => Err(RouteError::Digest(DigestError::Malformed)),
        },
        Method::GET | Method::HEAD => Ok(Route::UploadStatus(name, id)),
        Method::DELETE => Ok(Route::UploadCancel(name, id)),
        _ => Err(RouteError::Method("GET, HEAD, PATCH, PUT, DELETE")),
    }
}

fn reading(method: &Method, route: Route) -> Result<Route, RouteError> {
    match *method {
        Method::GET | Method::HEAD => Ok(route),
        _ => Err(RouteError::Method("GET, HEAD")),
    }
}

/// Decodes a segment once. A slash that comes out of it would end up in a name as if it had been there all along.
fn decode(segment: &str) -> Result<String, RouteError> {
    let text = percent_decode_str(segment)
        .decode_utf8()
        .map_err(|_| RouteError::Name(NameError::Malformed))?;
    if text.contains('/') {
        Err(RouteError::Name(NameError::Malformed))
    } else {
        Ok(text.into_owned())
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

    fn page(&self) -> Result<PageRequest, RouteError> {
        // A number too large for us asks for all there is; anything else that is no number is a mistake.
        let count = self.one("n").map(|text| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let count = text.parse::<usize>().unwrap_or(usize::MAX);
            is_number.then_some(count).ok_or(RouteError::PageCount)
        });
        Ok(PageRequest {
            count: count.transpose()?,
            last: self.one("last").map(Into::into),
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
            let from = self
                .one("from")
                .filter(|text| !text.is_empty())
                .map(str::parse)
                .transpose();
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
    /// The path is there, the method is not; these are.
    #[error("this method is not for this path; allowed: {0}")]
    Method(&'static str),
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
