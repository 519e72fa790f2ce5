//! Manifests over HTTP.
//!
//! Source: distribution-spec end-3, end-7, end-9. Must not know how they are stored. Invariant: the stored bytes are served
//! whatever the client accepts. (distribution answers 404 if the type is not accepted, which does not help the client.)

use http::header::LOCATION;
use http::{Method, Response, StatusCode};

use super::blobs::is_known;
use super::incoming::RequestBody;
use super::response::ResponseBody;
use super::state::{Allowed, State, content_type};
use super::{ServerError, response};
use crate::oci::{Reference, RepositoryName, Tag};
use crate::registry::ManifestContent;

pub(super) async fn read(
    request: &Allowed,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Response<ResponseBody>, ServerError> {
    let manifest = request.registry.manifests.get(name, reference);
    let manifest = manifest.await?;
    let is_known = is_known(&request.head, &manifest.digest);
    let mut answer = if is_known {
        response::empty(StatusCode::NOT_MODIFIED)
    } else {
        let body = match manifest.content {
            ManifestContent::InMemory(bytes) => ResponseBody::counted(bytes),
            ManifestContent::InStore(_) if request.head.method == Method::HEAD => {
                ResponseBody::unsent(manifest.size_bytes)
            }
            ManifestContent::InStore(blob) => {
                let content = request.registry.blobs.read(&blob, None).await?;
                ResponseBody::stream(content.bytes, manifest.size_bytes)
            }
        };
        response::with_body(StatusCode::OK, &manifest.media_type, body)
    };
    response::set_digest(&mut answer, &manifest.digest);
    Ok(answer)
}

pub(super) async fn put(
    state: &State,
    request: &Allowed,
    body: RequestBody,
    name: &RepositoryName,
    reference: &Reference,
    more_tags: &[Tag],
) -> Result<Response<ResponseBody>, ServerError> {
    let registry = &request.registry;
    let bytes = state
        .body_limits()
        .collect(
            body,
            registry.settings().limits.manifest_size_bytes,
            state.reservation(&request.origin),
        )
        .await?;
    let content_type = content_type(&request.head);
    let actor = request.actor(state);
    let pushed = registry
        .manifests
        .put(name, reference, more_tags, content_type, bytes, actor)
        .await?;
    let mut answer = response::empty(StatusCode::CREATED);
    let location = state.location(
        &request.origin,
        &format!("{name}/manifests/{}", pushed.digest),
    );
    response::set(&mut answer, LOCATION, &location);
    response::set(
        &mut answer,
        response::CONTENT_DIGEST,
        &pushed.digest.to_string(),
    );
    if let Some(subject) = &pushed.subject {
        response::set(&mut answer, response::SUBJECT, &subject.to_string());
    }
    if !more_tags.is_empty() {
        let tags: Vec<&str> = more_tags.iter().map(Tag::as_str).collect();
        response::set(&mut answer, response::TAG, &tags.join(", "));
    }
    Ok(answer)
}

pub(super) async fn delete(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Response<ResponseBody>, ServerError> {
    let manifests = &request.registry.manifests;
    manifests
        .delete(name, reference, request.actor(state))
        .await?;
    Ok(response::empty(StatusCode::ACCEPTED))
}
