//! Repositories over HTTP: the lists of their catalog, tags and referrers; removing one.
//!
//! Source: distribution-spec end-8 and end-12, distribution's catalog. Must not know where lists come from. Invariant:
//! every page but the last has a `Link` to the next page (RFC 8288), relative like every other URL.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::LINK;
use http::{Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Serialize;
use serde_json::json;

use super::response::ResponseBody;
use super::state::{Allowed, State};
use super::{ServerError, response};
use crate::oci::{Digest, MediaType, RepositoryName};
use crate::registry::{BudgetSpent, Page, PageRequest, Referrer, Reservation, Spares};
use crate::store::StoreError;

pub(super) async fn catalog(
    state: &State,
    request: &Allowed,
    page: &PageRequest,
) -> Result<Response<ResponseBody>, ServerError> {
    let viewer = state.services.auth.viewer(&request.caller, &request.origin);
    let found = request.registry.listings.catalog(&viewer, page);
    let found = found.await?;
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
    request: &Allowed,
    name: &RepositoryName,
    page: &PageRequest,
) -> Result<Response<ResponseBody>, ServerError> {
    let found = request.registry.listings.tags(name, page).await?;
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

/// Answers with what was removed.
pub(super) async fn delete_repository(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    spares: Spares,
) -> Result<Response<ResponseBody>, ServerError> {
    let registry = &request.registry;
    let removed = registry.remove_repository(name, spares, request.actor(state));
    let removed = removed.await?;
    Ok(response::json(
        StatusCode::ACCEPTED,
        "application/json",
        &removed,
    ))
}

pub(super) async fn referrers(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    subject: &Digest,
    artifact_type: Option<&str>,
    page: &PageRequest,
) -> Result<Response<ResponseBody>, ServerError> {
    let listings = &request.registry.listings;
    let found = listings
        .referrers(name, subject, artifact_type, page)
        .await?;
    let index = ReferrersIndex::new(found.items, state.reservation(&request.origin))?;
    let size_bytes = index.left_bytes as u64;
    let body = ResponseBody::stream(stream::iter(index).boxed(), size_bytes);
    let mut answer = response::with_body(StatusCode::OK, MediaType::OciIndex.as_str(), body);
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

/// Text that is written in one go, if entries are short. A longer entry is written whole.
const WRITTEN_AT_ONCE_BYTES: usize = 64 * 1024;

/// What a referrer takes in memory beside its text: a map of annotations, and an allocation for each of its texts.
const OVERHEAD_BYTES: usize = 1024;

/// The text of an image index that lists referrers (distribution-spec "Listing Referrers"). It is written entry by entry while
/// the client reads. The memory budget counts what is not sent yet.
struct ReferrersIndex {
    referrers: std::vec::IntoIter<Referrer>,
    /// Text that is written and not handed over.
    written: Bytes,
    /// All text that is not handed over.
    left_bytes: usize,
    reservation: Reservation,
}

impl ReferrersIndex {
    fn new(referrers: Vec<Referrer>, reservation: Reservation) -> Result<Self, BudgetSpent> {
        let media_type = MediaType::OciIndex;
        let mut head = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":["#);
        if referrers.is_empty() {
            head.push_str(Self::END);
        }
        let entries = referrers.iter().enumerate().map(|(position, referrer)| {
            let left = referrers.len() - position - 1;
            Self::entry(referrer, left).len()
        });
        let mut index = Self {
            left_bytes: head.len() + entries.sum::<usize>(),
            written: head.into(),
            referrers: referrers.into_iter(),
            reservation,
        };
        index.reservation.grow_to(index.held_bytes())?;
        Ok(index)
    }

    const END: &str = "]}";

    /// The text of one entry, with what separates it from the `left` entries after it.
    fn entry(referrer: &Referrer, left: usize) -> Vec<u8> {
        // Names and texts only: writing them as JSON cannot fail.
        let mut text = serde_json::to_vec(referrer).unwrap_or_default();
        text.extend(if left == 0 { Self::END } else { "," }.bytes());
        text
    }

    fn held_bytes(&self) -> usize {
        self.left_bytes + self.referrers.len() * OVERHEAD_BYTES
    }

    fn write_more(&mut self) {
        let mut text = Vec::new();
        while text.len() < WRITTEN_AT_ONCE_BYTES
            && let Some(referrer) = self.referrers.next()
        {
            text.extend(Self::entry(&referrer, self.referrers.len()));
        }
        self.written = text.into();
        self.reservation.shrink_to(self.held_bytes());
    }
}

impl Iterator for ReferrersIndex {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.written.is_empty() {
            self.write_more();
        }
        let size_bytes = self.written.len().min(WRITTEN_AT_ONCE_BYTES);
        self.left_bytes -= size_bytes;
        (size_bytes > 0).then(|| Ok(self.written.split_to(size_bytes)))
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
        // The next page has the size of this one: the requested count, or our maximum.
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
