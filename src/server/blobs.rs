//! Blobs over HTTP: reading (ranges, conditions) and removing.
//!
//! Source: distribution-spec end-2 and end-10; RFC 9110 sections 13 and 14. Invariant: a body is as long as its
//! `Content-Length` says, or breaks off.

use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_NONE_MATCH,
    IF_RANGE,
};
use http::header::{HeaderValue, RANGE};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::dispatch::{Allowed, State, header_text};
use super::multipart::Multipart;
use super::outgoing::ResponseBody;
use super::{ServerError, response};
use crate::oci::range::Requested;
use crate::oci::{Digest, RepositoryName};
use crate::registry::Blob;

/// A blob is bytes, whatever they mean.
const MEDIA_TYPE: &str = "application/octet-stream";

/// What a digest names never changes, so it may be kept for as long as anyone likes.
const KEEP: HeaderValue = HeaderValue::from_static("max-age=31536000");

pub(super) async fn read(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ServerError> {
    let registry = &state.services.registry;
    // By the same rule for both: GET keeps what HEAD has promised to this caller with this credential.
    let viewer = state.services.auth.viewer(&request.caller, &request.origin);
    let blob = registry.blobs.get_or_elsewhere(name, digest, &viewer);
    let blob = blob.await?;
    let mut answer = response::empty(StatusCode::OK);
    response::set_digest(&mut answer, digest);
    answer.headers_mut().insert(CACHE_CONTROL, KEEP);
    answer
        .headers_mut()
        .insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if is_known(&request.head, digest) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer.headers_mut().remove(CONTENT_LENGTH);
        return Ok(answer);
    }
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    let size_bytes = blob.size_bytes;
    let range = match requested(&request.head, digest, size_bytes) {
        Requested::Whole => 0..size_bytes,
        Requested::Parts(ranges) => match Multipart::new(ranges, size_bytes, MEDIA_TYPE) {
            Some(parts) => return Ok(several(state, answer, blob, parts)),
            None => 0..size_bytes,
        },
        Requested::Part(range) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let value = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
            response::set(&mut answer, CONTENT_RANGE, &value);
            range
        }
        Requested::Unsatisfiable => {
            let mut answer = response::empty(StatusCode::RANGE_NOT_SATISFIABLE);
            response::set(&mut answer, CONTENT_RANGE, &format!("bytes */{size_bytes}"));
            return Ok(answer);
        }
    };
    let length = range.end - range.start;
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    if request.head.method != Method::HEAD && length > 0 {
        let bytes = registry.blobs.read(&blob, Some(range)).await?;
        *answer.body_mut() = ResponseBody::stream(bytes, length);
    }
    Ok(answer)
}

/// 206 with several parts, each of which has a `Content-Range` of its own.
fn several(
    state: &State,
    mut answer: Response<ResponseBody>,
    blob: Blob,
    parts: Multipart,
) -> Response<ResponseBody> {
    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    response::set(&mut answer, CONTENT_TYPE, &parts.content_type());
    let length = parts.length_bytes();
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    let bytes = parts.stream(Arc::clone(&state.services.registry), blob);
    *answer.body_mut() = ResponseBody::stream(bytes, length);
    answer
}

pub(super) async fn delete(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ServerError> {
    let blobs = &state.services.registry.blobs;
    blobs.delete(name, digest, request.actor(state)).await?;
    Ok(response::empty(StatusCode::ACCEPTED))
}

/// The part that is asked for; a HEAD, and a part of something else (`If-Range`), ask for the whole.
fn requested(head: &Parts, digest: &Digest, size_bytes: u64) -> Requested {
    let same =
        header_text(head, IF_RANGE).is_none_or(|tag| tag.trim_matches('"') == digest.to_string());
    // It is not a list that may come in several lines.
    let is_one = head.headers.get_all(RANGE).iter().nth(1).is_none();
    let is_read = same && is_one && head.method == Method::GET;
    Requested::parse(header_text(head, RANGE).filter(|_| is_read), size_bytes)
}

/// Whether the client has told in `If-None-Match` that it has this content: quoted as the standard says, or bare, as old
/// clients send it.
pub(super) fn is_known(head: &Parts, digest: &Digest) -> bool {
    let Some(tags) = header_text(head, IF_NONE_MATCH) else {
        return false;
    };
    let digest = digest.to_string();
    let strip = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"') == digest;
    tags.trim() == "*" || tags.split(',').any(strip)
}
