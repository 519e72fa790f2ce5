//! Lists over HTTP: catalog, tags, referrers.
//!
//! Source: distribution-spec end-8 and end-12, distribution's catalog. Must not know where lists come from. Invariant: a
//! page that is not the last carries a `Link` to the next (RFC 8288), relative like every other address that we give.

use http::header::LINK;
use http::{Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::dispatch::{Allowed, State};
use super::outgoing::ResponseBody;
use super::{ServerError, response};
use crate::oci::{Digest, MediaType, RepositoryName};
use crate::registry::{Page, PageRequest, Referrer};

pub(super) async fn catalog(
    state: &State,
    request: &Allowed,
    page: &PageRequest,
) -> Result<Response<ResponseBody>, ServerError> {
    let viewer = state.services.auth.viewer(&request.caller, &request.origin);
    let found = state.services.registry.catalog(&viewer, page).await?;
    let names: Vec<&str> = found.items.iter().map(RepositoryName::as_str).collect();
    let body = json!({ "repositories": names });
    Ok(page_answer(
        &state.path("_catalog"),
        &body,
        &found,
        names.last().copied(),
        page,
    ))
}

pub(super) async fn tags(
    state: &State,
    name: &RepositoryName,
    page: &PageRequest,
) -> Result<Response<ResponseBody>, ServerError> {
    let found = state.services.registry.tags(name, page).await?;
    let tags: Vec<&str> = found.items.iter().map(crate::oci::Tag::as_str).collect();
    let body = json!({ "name": name.as_str(), "tags": tags });
    Ok(page_answer(
        &state.path(&format!("{name}/tags/list")),
        &body,
        &found,
        tags.last().copied(),
        page,
    ))
}

pub(super) async fn referrers(
    state: &State,
    name: &RepositoryName,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Response<ResponseBody>, ServerError> {
    let found = state
        .services
        .registry
        .referrers(name, subject, artifact_type)
        .await?;
    let manifests: Vec<Value> = found.into_iter().map(descriptor).collect();
    let index_type = MediaType::OciIndex.as_str();
    let body = json!({ "schemaVersion": 2, "mediaType": index_type, "manifests": manifests });
    let mut answer = response::json(StatusCode::OK, index_type, &body);
    if artifact_type.is_some() {
        response::set(&mut answer, response::FILTERS_APPLIED, "artifactType");
    }
    Ok(answer)
}

fn descriptor(referrer: Referrer) -> Value {
    let mut fields = Map::new();
    fields.insert("mediaType".into(), referrer.media_type.as_str().into());
    fields.insert("digest".into(), referrer.digest.to_string().into());
    fields.insert("size".into(), referrer.size_bytes.into());
    if let Some(artifact_type) = referrer.artifact_type {
        fields.insert("artifactType".into(), artifact_type.into());
    }
    if !referrer.annotations.is_empty() {
        let annotations = referrer
            .annotations
            .into_iter()
            .map(|(name, value)| (name, value.into()));
        fields.insert("annotations".into(), Value::Object(annotations.collect()));
    }
    Value::Object(fields)
}

fn page_answer<T>(
    path: &str,
    body: &impl Serialize,
    page: &Page<T>,
    last: Option<&str>,
    request: &PageRequest,
) -> Response<ResponseBody> {
    let mut answer = response::json(StatusCode::OK, "application/json", body);
    if let (true, Some(last)) = (page.has_more, last) {
        let last = utf8_percent_encode(last, NON_ALPHANUMERIC);
        // Asks for the next page in the size of this one, which is what the client asked for or what we give at most.
        let count = request
            .count
            .map_or(page.items.len(), |count| count.min(page.items.len()));
        response::set(
            &mut answer,
            LINK,
            &format!("<{path}?last={last}&n={count}>; rel=\"next\""),
        );
    }
    answer
}
