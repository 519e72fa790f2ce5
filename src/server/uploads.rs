//! Uploads over HTTP.
//!
//! Source: distribution-spec end-4 to end-6, end-11, end-13, end-14. Must not know how bytes are stored. Invariant: every
//! answer about a session contains its location and its progress.

use http::header::{CONTENT_RANGE, LOCATION, RANGE};
use http::request::Parts;
use http::{Response, StatusCode};

use super::incoming::RequestBody;
use super::response::ResponseBody;
use super::state::{Allowed, State, content_length};
use super::{ServerError, UploadStart, response};
use crate::auth::Origin;
use crate::layout::UploadId;
use crate::oci::range::Sent;
use crate::oci::{Digest, RepositoryName};
use crate::registry::{Chunk, Owner};

pub(super) async fn begin(
    state: &State,
    request: &Allowed,
    body: RequestBody,
    name: &RepositoryName,
    start: UploadStart,
) -> Result<Response<ResponseBody>, ServerError> {
    let registry = &request.registry;
    let actor = request.actor(state);
    let (digest, algorithm) = match start {
        UploadStart::Session(algorithm) => (None, algorithm),
        UploadStart::Whole(digest) => {
            let chunk = chunk(state, &request.head, body, None);
            let owner = owner(request);
            let received = registry
                .uploads
                .receive_whole(name, &owner, &digest, chunk, actor);
            received.await?;
            (Some(digest), None)
        }
        UploadStart::Mount(digest, from) => {
            let mounted = registry.blobs.mount(name, &digest, from.as_ref(), actor);
            let is_mounted = mounted.await?;
            (is_mounted.then_some(digest), Some(digest.algorithm()))
        }
    };
    if let Some(digest) = digest {
        return Ok(created(state, &request.origin, name, &digest));
    }
    let owner = owner(request);
    let id = registry.uploads.begin(name, &owner, algorithm).await?;
    let status = StatusCode::ACCEPTED;
    Ok(progress(state, &request.origin, status, name, id, 0))
}

pub(super) async fn append(
    state: &State,
    request: &Allowed,
    body: RequestBody,
    name: &RepositoryName,
    id: UploadId,
) -> Result<Response<ResponseBody>, ServerError> {
    let uploads = &request.registry.uploads;
    let chunk = sent_chunk(state, &request.head, body)?;
    let actor = request.actor(state);
    let owner = owner(request);
    let offset = uploads.append(name, id, &owner, chunk, actor).await?;
    let status = StatusCode::ACCEPTED;
    Ok(progress(state, &request.origin, status, name, id, offset))
}

pub(super) async fn finish(
    state: &State,
    request: &Allowed,
    body: RequestBody,
    name: &RepositoryName,
    id: UploadId,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ServerError> {
    let uploads = &request.registry.uploads;
    let chunk = sent_chunk(state, &request.head, body)?;
    let actor = request.actor(state);
    let owner = owner(request);
    uploads
        .finish(name, id, &owner, digest, chunk, actor)
        .await?;
    Ok(created(state, &request.origin, name, digest))
}

pub(super) async fn status(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    id: UploadId,
) -> Result<Response<ResponseBody>, ServerError> {
    let uploads = &request.registry.uploads;
    let offset = uploads.offset(name, id, &owner(request)).await?;
    let status = StatusCode::NO_CONTENT;
    Ok(progress(state, &request.origin, status, name, id, offset))
}

pub(super) async fn cancel(
    request: &Allowed,
    name: &RepositoryName,
    id: UploadId,
) -> Result<Response<ResponseBody>, ServerError> {
    let uploads = &request.registry.uploads;
    uploads.cancel(name, id, &owner(request)).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

fn owner(request: &Allowed) -> Owner {
    let caller = &request.caller;
    Owner {
        account: caller.account().to_owned(),
        generation: caller.generation().to_owned(),
        client: request.origin.client,
    }
}

/// The body, with its length and range from the headers.
fn sent_chunk(state: &State, head: &Parts, body: RequestBody) -> Result<Chunk, ServerError> {
    let sent = match head.headers.get(CONTENT_RANGE) {
        // The range of an empty body is ignored: clients send `0-0` or `0--1`, or repeat their last range in the closing
        // PUT, and the old registry ignores this header.
        _ if body.is_empty() || content_length(head) == Some(0) => None,
        // A value that is not text is malformed, not absent.
        Some(value) => Some(Sent::parse(value.to_str().unwrap_or_default())?),
        None => None,
    };
    Ok(chunk(state, head, body, sent))
}

fn chunk(state: &State, head: &Parts, body: RequestBody, sent: Option<Sent>) -> Chunk {
    let length_bytes = if body.is_empty() {
        Some(0)
    } else {
        content_length(head)
    };
    Chunk {
        sent,
        length_bytes,
        body: state.body_limits().receive(body),
    }
}

/// 201: the blob is stored.
fn created(
    state: &State,
    origin: &Origin,
    name: &RepositoryName,
    digest: &Digest,
) -> Response<ResponseBody> {
    let mut answer = response::empty(StatusCode::CREATED);
    let location = state.location(origin, &format!("{name}/blobs/{digest}"));
    response::set(&mut answer, LOCATION, &location);
    response::set(&mut answer, response::CONTENT_DIGEST, &digest.to_string());
    answer
}

/// 202 or 204: the location of the session, and its progress.
fn progress(
    state: &State,
    origin: &Origin,
    status: StatusCode,
    name: &RepositoryName,
    id: UploadId,
    offset_bytes: u64,
) -> Response<ResponseBody> {
    let mut answer = response::empty(status);
    let location = state.location(origin, &format!("{name}/blobs/uploads/{id}"));
    response::set(&mut answer, LOCATION, &location);
    response::set(&mut answer, RANGE, &response::upload_range(offset_bytes));
    response::set(&mut answer, response::UPLOAD_UUID, &id.to_string());
    answer
}
