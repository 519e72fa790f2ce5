//! Uploads over HTTP.
//!
//! Source: distribution-spec end-4 to end-6, end-11, end-13, end-14. Must not know how bytes are kept. Invariant: every
//! answer about a session says where it is and how far it is.

use http::header::{CONTENT_RANGE, LOCATION, RANGE};
use http::request::Parts;
use http::{Response, StatusCode};

use super::dispatch::{Allowed, State, content_length};
use super::incoming::RequestBody;
use super::outgoing::ResponseBody;
use super::{ServerError, UploadStart, response};
use crate::auth::Origin;
use crate::layout::UploadId;
use crate::oci::range::Sent;
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::registry::{Chunk, Owner};

pub(super) async fn begin(
    state: &State,
    request: Allowed,
    name: &RepositoryName,
    start: UploadStart,
) -> Result<Response<ResponseBody>, ServerError> {
    let registry = &state.services.registry;
    let owner = owner(&request);
    match start {
        UploadStart::Session(algorithm) => {
            open_session(state, &request.origin, name, &owner, algorithm).await
        }
        UploadStart::Whole(digest) => {
            let chunk = chunk(state, &request.head, request.body, None);
            let auth = &state.services.auth;
            let permit = auth.permit(&request.caller, &request.access, &request.origin);
            registry
                .upload_whole(name, &owner, &digest, chunk, &permit)
                .await?;
            Ok(created(state, &request.origin, name, &digest))
        }
        UploadStart::Mount(digest, from) => {
            if registry
                .mount_blob(name, &digest, from.as_ref(), &request.permit(state))
                .await?
            {
                return Ok(created(state, &request.origin, name, &digest));
            }
            open_session(
                state,
                &request.origin,
                name,
                &owner,
                Some(digest.algorithm()),
            )
            .await
        }
    }
}

async fn open_session(
    state: &State,
    origin: &Origin,
    name: &RepositoryName,
    owner: &Owner,
    algorithm: Option<Algorithm>,
) -> Result<Response<ResponseBody>, ServerError> {
    let id = state
        .services
        .registry
        .begin_upload(name, owner, algorithm)
        .await?;
    Ok(progress(state, origin, StatusCode::ACCEPTED, name, id, 0))
}

pub(super) async fn append(
    state: &State,
    request: Allowed,
    name: &RepositoryName,
    id: UploadId,
) -> Result<Response<ResponseBody>, ServerError> {
    let owner = owner(&request);
    let chunk = sent_chunk(state, &request.head, request.body)?;
    let auth = &state.services.auth;
    let permit = auth.permit(&request.caller, &request.access, &request.origin);
    let offset = state
        .services
        .registry
        .append_upload(name, id, &owner, chunk, &permit)
        .await?;
    Ok(progress(
        state,
        &request.origin,
        StatusCode::ACCEPTED,
        name,
        id,
        offset,
    ))
}

pub(super) async fn finish(
    state: &State,
    request: Allowed,
    name: &RepositoryName,
    id: UploadId,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ServerError> {
    let owner = owner(&request);
    let chunk = sent_chunk(state, &request.head, request.body)?;
    let auth = &state.services.auth;
    let permit = auth.permit(&request.caller, &request.access, &request.origin);
    state
        .services
        .registry
        .finish_upload(name, id, &owner, digest, chunk, &permit)
        .await?;
    Ok(created(state, &request.origin, name, digest))
}

pub(super) async fn status(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    id: UploadId,
) -> Result<Response<ResponseBody>, ServerError> {
    let offset = state
        .services
        .registry
        .upload_offset(name, id, &owner(request))
        .await?;
    Ok(progress(
        state,
        &request.origin,
        StatusCode::NO_CONTENT,
        name,
        id,
        offset,
    ))
}

pub(super) async fn cancel(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    id: UploadId,
) -> Result<Response<ResponseBody>, ServerError> {
    state
        .services
        .registry
        .cancel_upload(name, id, &owner(request))
        .await?;
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

/// The body with what its headers say of it.
fn sent_chunk(state: &State, head: &Parts, body: RequestBody) -> Result<Chunk, ServerError> {
    let sent = match head.headers.get(CONTENT_RANGE) {
        // Nothing belongs nowhere: clients write `0-0` or `0--1` then, or repeat their last range in the closing PUT, and
        // the old registry does not look at it.
        _ if body.is_empty() || content_length(head) == Some(0) => None,
        // One that is no text is malformed, not absent.
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
        body: state.patience().receive(body),
    }
}

/// 201: the blob is there.
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

/// 202 or 204: where the session is, and how far.
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
