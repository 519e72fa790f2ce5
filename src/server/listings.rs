//! Lists over HTTP: catalog, tags, referrers.
//!
//! Source: distribution-spec end-8 and end-12, distribution's catalog. Must not know where lists come from. Invariant: a
//! page that is not the last carries a `Link` to the next (RFC 8288), relative like every other address that we give.

use std::collections::BTreeMap;

use http::header::LINK;
use http::{Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Serialize;
use serde_json::json;

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
    page: &PageRequest,
) -> Result<Response<ResponseBody>, ServerError> {
    let registry = &state.services.registry;
    let found = registry
        .referrers(name, subject, artifact_type, page)
        .await?;
    let index_type = MediaType::OciIndex.as_str();
    let body = ReferrersIndex {
        schema_version: 2,
        media_type: index_type,
        manifests: found.items.iter().map(ReferrerDescriptor::of).collect(),
    };
    let mut answer = response::json(StatusCode::OK, index_type, &body);
    if artifact_type.is_some() {
        response::set(&mut answer, response::FILTERS_APPLIED, "artifactType");
    }
    if let Some(next) = &found.next {
        let path = state.path(&format!("{name}/referrers/{subject}"));
        let last = escaped(&next.to_string()).to_string();
        let count = page.count.map(|count| format!("&n={count}"));
        let kind = artifact_type.map(|kind| format!("&artifactType={}", escaped(kind)));
        let (count, kind) = (count.unwrap_or_default(), kind.unwrap_or_default());
        let link = format!("<{path}?last={last}{count}{kind}>; rel=\"next\"");
        response::set(&mut answer, LINK, &link);
    }
    Ok(answer)
}

/// The answer of `/referrers`: an image index (distribution-spec "Listing Referrers").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferrersIndex<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: Vec<ReferrerDescriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerDescriptor<'a> {
    media_type: &'a str,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl<'a> ReferrerDescriptor<'a> {
    fn of(referrer: &'a Referrer) -> Self {
        Self {
            media_type: referrer.media_type.as_str(),
            digest: referrer.digest.to_string(),
            size: referrer.size_bytes,
            artifact_type: referrer.artifact_type.as_deref(),
            annotations: &referrer.annotations,
        }
    }
}

fn escaped(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
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
        let last = escaped(last);
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
