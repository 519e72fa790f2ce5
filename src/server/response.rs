//! The shapes of answers that endpoints share.
//!
//! Must not know which endpoint answers. Invariant: every header value is made from types or checked text, so that text
//! from a client cannot end a header early.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::outgoing::ResponseBody;
use crate::oci::Digest;

/// `Docker-Content-Digest`
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// `Docker-Upload-UUID`
pub(super) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// `OCI-Subject`
pub(super) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// `OCI-Tag`
pub(super) const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// `OCI-Filters-Applied`
pub(super) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// `Docker-Distribution-Api-Version`
pub(super) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut answer = Response::new(ResponseBody::empty());
    *answer.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        answer
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    answer
}

/// An answer with a small body.
pub(super) fn bytes(
    status: StatusCode,
    content_type: &str,
    body: impl Into<bytes::Bytes>,
) -> Response<ResponseBody> {
    with_body(status, content_type, ResponseBody::whole(body.into()))
}

/// An answer with `body`.
pub(super) fn with_body(
    status: StatusCode,
    content_type: &str,
    body: ResponseBody,
) -> Response<ResponseBody> {
    let length = HeaderValue::from(body.size_bytes());
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    set(&mut answer, CONTENT_TYPE, content_type);
    answer
}

/// An answer with a JSON body.
pub(super) fn json(
    status: StatusCode,
    content_type: &'static str,
    value: &impl Serialize,
) -> Response<ResponseBody> {
    // Our own types have text keys only, so serialising them cannot fail.
    bytes(
        status,
        content_type,
        serde_json::to_vec(value).unwrap_or_default(),
    )
}

/// Sets a header, unless the text is not a valid value.
pub(super) fn set(answer: &mut Response<ResponseBody>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// Sets the headers that identify the content: `Docker-Content-Digest`, and the quoted digest as `ETag`.
pub(super) fn set_digest(answer: &mut Response<ResponseBody>, digest: &Digest) {
    let digest = digest.to_string();
    set(answer, http::header::ETAG, &format!("\"{digest}\""));
    set(answer, CONTENT_DIGEST, &digest);
}

/// The progress of a session, as the specification has it: the position of the last byte; `0-0` if it is empty.
pub(super) fn upload_range(offset_bytes: u64) -> String {
    format!("0-{}", offset_bytes.saturating_sub(1))
}
