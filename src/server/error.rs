//! The only map from errors to a status, an OCI code and headers.
//!
//! Source: distribution-spec "Error Codes" (a closed list), `docs/architecture.md`. Must not know how a route works.
//! Invariant: an answer with a 5xx status never contains internals; they are logged here, once.

use http::header::{HeaderName, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::access_log::LoggedRefusal;
use super::response;
use super::response::ResponseBody;
use super::route::RouteError;
use crate::auth::{Reason, Refusal, TokenRefusal};
use crate::metrics::Refused;
use crate::oci::Digest;
use crate::registry::{BodyError, BudgetSpent, RegistryError};
use crate::store::StoreError;
use crate::telemetry::{chain, field};

/// `Retry-After` of a request that waited for minutes for others with the same names and digests.
const RETRY_AFTER_LOCKS_SECS: u64 = 10;
/// `Retry-After` of a new upload session beyond the limit: by then, some sessions of a push under way have ended.
const RETRY_AFTER_SESSIONS_SECS: u64 = 30;
/// `Retry-After` of a body for which there was no memory: most bodies that are held in memory are sent in less time.
const RETRY_AFTER_MEMORY_SECS: u64 = 5;
/// `Retry-After` of a connection in the reserve: by then, stalled requests have lost their slots.
const RETRY_AFTER_CONNECTIONS_SECS: u64 = 5;

/// The longest message. Most errors repeat text from the request, which can be long.
const MESSAGE_CHARS_MAX: usize = 1_000;
/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    /// No such endpoint.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The caller is not authenticated, or not permitted.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// No token is issued.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The operation failed.
    #[error(transparent)]
    Registry(RegistryError),
    /// A manifest is requested by a text that is neither a tag nor a digest.
    #[error("this is not a manifest reference: it is neither a tag nor a digest")]
    NoSuchReference,
    /// A header is malformed.
    #[error("{0}")]
    BadHeader(&'static str),
    /// `Content-Range` is malformed.
    #[error(transparent)]
    ContentRange(#[from] crate::oci::range::SentError),
    /// The body is longer than the limit.
    #[error("the body is longer than {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// A body that is held in memory did not arrive in time.
    #[error("the body was not complete after {limit_secs} s")]
    BodyTooLate {
        /// The time.
        limit_secs: u64,
    },
    /// The memory budget is spent.
    #[error("no memory is free for this request; hint: try again in a few seconds")]
    MemoryBudget(#[from] BudgetSpent),
    /// No slot is free, and no connection can be closed.
    #[error("all connections are taken; hint: try again in a few seconds")]
    NoPlace,
    /// A health check of the configuration fails.
    #[error("a health check fails: see /debug/health")]
    Unhealthy,
    /// A plain HTTP request on a port for HTTPS.
    #[error("this port serves HTTPS, not HTTP{}", .authority_url.as_ref().map(|url| format!("; the CA certificate is at {url}")).unwrap_or_default())]
    PlainHttp {
        /// The URL of the CA certificate, if there is one.
        authority_url: Option<String>,
    },
    /// A bug of the server.
    #[error("internal error")]
    Internal,
}

/// The codes of the specification that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    /// Codes of distribution that are not in the specification, for cases that none of its codes describes: clients retry
    /// on these.
    Unknown,
    Unavailable,
}

#[derive(Serialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Serialize)]
struct ErrorEntry {
    code: Code,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<serde_json::Value>,
}

impl From<RegistryError> for ServerError {
    /// A refusal has the same answer wherever it is found.
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Refused(refusal) => Self::Refusal(refusal),
            other => Self::Registry(other),
        }
    }
}

impl ServerError {
    /// The answer.
    pub(super) fn response(&self) -> Response<ResponseBody> {
        let (status, code) = self.status_and_code();
        self.log(status);
        let entry = |detail| ErrorEntry {
            code,
            message: self.message(status),
            detail,
        };
        let errors = match self {
            // One entry for each missing digest (distribution-spec "Pushing Manifests").
            Self::Registry(RegistryError::ReferencesUnknown { named, total: _ }) => named
                .iter()
                .map(|digest| entry(Some(detail_of(digest))))
                .collect(),
            _ => vec![entry(None)],
        };
        self.with_headers(response::json(
            status,
            "application/json",
            &ErrorBody { errors },
        ))
    }

    /// The answer of `docker_auth`'s own listener: text, worded as there.
    pub(super) fn plain_response(&self) -> Response<ResponseBody> {
        let (status, _) = self.status_and_code();
        self.log(status);
        let text = match status {
            StatusCode::UNAUTHORIZED => "Auth failed.".to_owned(),
            StatusCode::NOT_FOUND => "Not found".to_owned(),
            StatusCode::BAD_REQUEST => format!("Bad request: {}", self.message(status)),
            _ => self.message(status),
        };
        let content_type = "text/plain; charset=utf-8";
        self.with_headers(response::bytes(status, content_type, text + "\n"))
    }

    fn log(&self, status: StatusCode) {
        // A check that fails was logged when it began to.
        let is_known = matches!(
            self,
            Self::MemoryBudget(_) | Self::NoPlace | Self::Unhealthy
        );
        let is_ours = status.is_server_error() && !is_known;
        if is_ours {
            tracing::error!(error = %field(&chain(self)), status = status.as_u16(), "request failed");
        } else {
            tracing::debug!(error = %field(&chain(self)), status = status.as_u16(), "request refused");
        }
    }

    fn with_headers(&self, mut answer: Response<ResponseBody>) -> Response<ResponseBody> {
        for (name, value) in self.headers() {
            answer.headers_mut().insert(name, value);
        }
        answer
    }

    /// Why the caller was refused, as it is counted and for the access log; `None` if the request failed for another reason.
    pub(super) fn refusal(&self) -> Option<LoggedRefusal> {
        let (counted, text, details) = match self {
            Self::Refusal(Refusal::Unauthorized {
                reason, details, ..
            }) => {
                let counted = match reason {
                    Reason::NoCredential => Refused::NoCredential,
                    Reason::WrongPassword => Refused::WrongPassword,
                    Reason::InvalidToken(_) => Refused::InvalidToken,
                    Reason::InsufficientScope => Refused::NotPermitted,
                };
                (counted, reason.logged(), details)
            }
            Self::Refusal(Refusal::Denied(details)) => {
                (Refused::NotPermitted, "not permitted", details)
            }
            Self::Token(TokenRefusal::Unauthorized { details, .. }) => {
                let text = Reason::WrongPassword.logged();
                (Refused::WrongPassword, text, details)
            }
            Self::Refusal(Refusal::TooManyFailures { details, .. })
            | Self::Token(TokenRefusal::TooManyFailures { details, .. }) => {
                (Refused::Slowed, "slowed: too many failed logins", details)
            }
            _ => return None,
        };
        Some(LoggedRefusal {
            counted,
            text,
            details: details.clone(),
        })
    }

    fn status_and_code(&self) -> (StatusCode, Code) {
        match self {
            Self::Route(error) => match error {
                RouteError::NotFound => (StatusCode::NOT_FOUND, Code::NameUnknown),
                RouteError::Method => (StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported),
                RouteError::Name(_) => (StatusCode::BAD_REQUEST, Code::NameInvalid),
                RouteError::Digest(_) => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
                RouteError::Tag(_) => (StatusCode::BAD_REQUEST, Code::ManifestInvalid),
                RouteError::Upload => (StatusCode::NOT_FOUND, Code::BlobUploadUnknown),
                RouteError::PageCount | RouteError::Unless => {
                    (StatusCode::BAD_REQUEST, Code::Unsupported)
                }
                RouteError::TooManyTags => (StatusCode::URI_TOO_LONG, Code::ManifestInvalid),
            },
            Self::Refusal(refusal) => match refusal {
                Refusal::Unauthorized { .. } => (StatusCode::UNAUTHORIZED, Code::Unauthorized),
                Refusal::Denied(_) => (StatusCode::FORBIDDEN, Code::Denied),
                Refusal::TooManyFailures { .. } => {
                    (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests)
                }
                Refusal::Malformed(_) => (StatusCode::BAD_REQUEST, Code::Unauthorized),
                Refusal::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
            },
            Self::Token(refusal) => match refusal {
                TokenRefusal::Malformed(_) => (StatusCode::BAD_REQUEST, Code::Unauthorized),
                TokenRefusal::Unauthorized { .. } => (StatusCode::UNAUTHORIZED, Code::Unauthorized),
                TokenRefusal::TooManyFailures { .. } => {
                    (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests)
                }
                TokenRefusal::NoIssuer => (StatusCode::NOT_FOUND, Code::Unsupported),
                TokenRefusal::Unavailable(_) | TokenRefusal::Internal => {
                    (StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown)
                }
            },
            Self::Registry(error) => registry_status_and_code(error),
            Self::NoSuchReference => (StatusCode::NOT_FOUND, Code::ManifestUnknown),
            Self::BadHeader(_) | Self::PlainHttp { .. } => {
                (StatusCode::BAD_REQUEST, Code::Unsupported)
            }
            Self::ContentRange(error) => match error {
                crate::oci::range::SentError::Malformed => {
                    (StatusCode::BAD_REQUEST, Code::BlobUploadInvalid)
                }
                crate::oci::range::SentError::Reversed
                | crate::oci::range::SentError::BeyondLength => {
                    (StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid)
                }
            },
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::ManifestInvalid),
            Self::BodyTooLate { .. } => (StatusCode::REQUEST_TIMEOUT, Code::ManifestInvalid),
            Self::MemoryBudget(_) | Self::NoPlace => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::TooManyRequests)
            }
            Self::Unhealthy => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown),
        }
    }

    /// The message for the client, of limited length. The cause of a 5xx status is in the log only.
    fn message(&self, status: StatusCode) -> String {
        let message = self.whole_message(status);
        match message.char_indices().nth(MESSAGE_CHARS_MAX) {
            None => message,
            Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        }
    }

    fn whole_message(&self, status: StatusCode) -> String {
        match self {
            Self::Registry(RegistryError::Store(StoreError::Full)) => {
                "no space left on this registry; hint: free some space, then try again".to_owned()
            }
            Self::Registry(error @ RegistryError::Busy) => error.to_string(),
            Self::Registry(RegistryError::Store(StoreError::Busy { .. })) => {
                "the registry's storage is busy; hint: try again in a few seconds".to_owned()
            }
            Self::MemoryBudget(_) | Self::NoPlace | Self::Unhealthy => self.to_string(),
            _ if status.is_server_error() => {
                "internal error; the registry's log has the cause".to_owned()
            }
            Self::Registry(RegistryError::DeletesDisabled) => {
                format!("{self}; hint: set `storage.delete.enabled: true`")
            }
            other => other.to_string(),
        }
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let header = match self {
            Self::Refusal(Refusal::Unauthorized { challenge, .. })
            | Self::Token(TokenRefusal::Unauthorized { challenge, .. }) => {
                (WWW_AUTHENTICATE, value(challenge))
            }
            Self::Refusal(Refusal::TooManyFailures {
                retry_after_secs, ..
            })
            | Self::Token(TokenRefusal::TooManyFailures {
                retry_after_secs, ..
            }) => (RETRY_AFTER, Some(HeaderValue::from(*retry_after_secs))),
            Self::Registry(RegistryError::TooManyUploads { .. }) => {
                (RETRY_AFTER, Some(RETRY_AFTER_SESSIONS_SECS.into()))
            }
            Self::Registry(RegistryError::Busy) => {
                (RETRY_AFTER, Some(RETRY_AFTER_LOCKS_SECS.into()))
            }
            Self::Registry(RegistryError::Store(StoreError::Busy { retry_after })) => {
                // Rounded up: a client that comes too early is refused again.
                let secs = retry_after.as_millis().div_ceil(1000).max(1);
                let secs = u64::try_from(secs).unwrap_or(u64::MAX);
                (RETRY_AFTER, Some(secs.into()))
            }
            Self::MemoryBudget(_) => (RETRY_AFTER, Some(RETRY_AFTER_MEMORY_SECS.into())),
            Self::NoPlace => (RETRY_AFTER, Some(RETRY_AFTER_CONNECTIONS_SECS.into())),
            // Where the client must continue (distribution-spec "Pushing a blob in chunks").
            Self::Registry(
                RegistryError::OutOfOrder { offset_bytes }
                | RegistryError::UploadBusy { offset_bytes },
            ) => (RANGE, value(&response::upload_range(*offset_bytes))),
            _ => return Vec::new(),
        };
        header
            .1
            .map(|value| (header.0, value))
            .into_iter()
            .collect()
    }
}

fn registry_status_and_code(error: &RegistryError) -> (StatusCode, Code) {
    match error {
        // `From` converts a refusal before it gets here.
        RegistryError::Refused(_) => (StatusCode::UNAUTHORIZED, Code::Unauthorized),
        RegistryError::NameUnknown(_) => (StatusCode::NOT_FOUND, Code::NameUnknown),
        RegistryError::BlobUnknown(_) => (StatusCode::NOT_FOUND, Code::BlobUnknown),
        RegistryError::ManifestUnknown(_) => (StatusCode::NOT_FOUND, Code::ManifestUnknown),
        RegistryError::UploadUnknown => (StatusCode::NOT_FOUND, Code::BlobUploadUnknown),
        // go-containerregistry restarts the blob on this code, and gives up on the one above.
        RegistryError::UploadInvalid => (StatusCode::NOT_FOUND, Code::BlobUploadInvalid),
        RegistryError::UploadBusy { .. } | RegistryError::OutOfOrder { .. } => {
            (StatusCode::RANGE_NOT_SATISFIABLE, Code::BlobUploadInvalid)
        }
        RegistryError::SizeInvalid(_) | RegistryError::Body(BodyError::Broken(_)) => {
            (StatusCode::BAD_REQUEST, Code::SizeInvalid)
        }
        RegistryError::DigestMismatch { .. } => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
        RegistryError::ManifestInvalid(_)
        | RegistryError::DescriptorSize { .. }
        | RegistryError::TagCase { .. } => (StatusCode::BAD_REQUEST, Code::ManifestInvalid),
        RegistryError::ReferencesUnknown { .. } => {
            (StatusCode::BAD_REQUEST, Code::ManifestBlobUnknown)
        }
        RegistryError::TooManyUploads { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests)
        }
        RegistryError::DeletesDisabled | RegistryError::Readonly => {
            (StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported)
        }
        RegistryError::HoldsManifests(_) => (StatusCode::CONFLICT, Code::Denied),
        RegistryError::Body(
            BodyError::Stalled { .. } | BodyError::TooSlow | BodyError::TakenOver,
        ) => (StatusCode::REQUEST_TIMEOUT, Code::BlobUploadInvalid),
        RegistryError::Store(StoreError::Full) => {
            (StatusCode::INSUFFICIENT_STORAGE, Code::Unavailable)
        }
        RegistryError::Busy
        | RegistryError::Store(StoreError::Conflict | StoreError::Busy { .. }) => {
            (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable)
        }
        RegistryError::Store(StoreError::NotFound | StoreError::Io { .. }) => {
            (StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown)
        }
    }
}

fn detail_of(digest: &Digest) -> serde_json::Value {
    serde_json::json!({ "digest": digest.to_string() })
}
