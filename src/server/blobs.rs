//! Blobs over HTTP: reading (ranges, conditions) and deleting.
//!
//! Source: distribution-spec end-2 and end-10; RFC 9110 sections 13 and 14. Invariant: a body has the length of its
//! `Content-Length`, or the connection is closed early.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue,
    IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::response::ResponseBody;
use super::state::{Allowed, State, header_text};
use super::{ServerError, response};
use crate::oci::range::{Requested, Selected};
use crate::oci::{Digest, RepositoryName};
use crate::registry::{Blob, Registry, RegistryError};
use crate::store::{ByteStream, Content, StoreError};

/// The media type of every blob: the registry does not interpret it.
const MEDIA_TYPE: &str = "application/octet-stream";

/// The content of a digest never changes, so it may be cached for any time.
const KEEP: HeaderValue = HeaderValue::from_static("max-age=31536000");

pub(super) async fn read(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ServerError> {
    let blobs = &request.registry.blobs;
    // GET and HEAD have the same rule: GET must succeed if HEAD succeeded for the same caller.
    let viewer = state.services.auth.viewer(&request.caller, &request.origin);
    let is_known = is_known(&request.head, digest);
    if is_known || request.head.method == Method::HEAD {
        let blob = blobs.get_or_elsewhere(name, digest, &viewer).await?;
        let mut answer = described(digest, blob.size_bytes);
        if is_known {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer.headers_mut().remove(CONTENT_LENGTH);
            answer.headers_mut().remove(CONTENT_TYPE);
        }
        return Ok(answer);
    }
    if let Some(link) = blobs.link_or_elsewhere(name, digest, &viewer).await? {
        // The client repeats its headers there, `Range` among them.
        let mut answer = response::empty(StatusCode::TEMPORARY_REDIRECT);
        response::set_digest(&mut answer, digest);
        response::set(&mut answer, LOCATION, &link);
        return Ok(answer);
    }
    let range = match requested(&request.head, digest) {
        Requested::Whole => None,
        Requested::One(range) => Some(range),
        several @ Requested::Several(_) => {
            let blob = blobs.get_or_elsewhere(name, digest, &viewer).await?;
            let size_bytes = blob.size_bytes;
            match several.within(size_bytes) {
                Selected::Parts(ranges) => {
                    if let Some(parts) = Multipart::new(ranges, size_bytes, MEDIA_TYPE) {
                        return Ok(several_parts(request, digest, blob, parts));
                    }
                    None
                }
                Selected::Part(range) => Some(range.into()),
                Selected::Whole => None,
                Selected::Unsatisfiable => return Ok(unsatisfiable(size_bytes)),
            }
        }
    };
    let content = blobs.open_or_elsewhere(name, digest, &viewer, range);
    let Content {
        meta,
        range: part,
        bytes,
    } = content.await?;
    let Some(part) = part else {
        return Ok(unsatisfiable(meta.size_bytes));
    };
    let length = part.end - part.start;
    let mut answer = described(digest, length);
    if range.is_some() {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let (first, last) = (part.start, part.end - 1);
        let value = format!("bytes {first}-{last}/{}", meta.size_bytes);
        response::set(&mut answer, CONTENT_RANGE, &value);
    }
    if length > 0 {
        *answer.body_mut() = ResponseBody::stream(bytes, length);
    }
    Ok(answer)
}

/// 200 with the headers of a blob, and no body yet.
fn described(digest: &Digest, length: u64) -> Response<ResponseBody> {
    let mut answer = response::empty(StatusCode::OK);
    response::set_digest(&mut answer, digest);
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, KEEP);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(CONTENT_LENGTH, length.into());
    answer
}

/// 416 for a blob of `size_bytes`.
fn unsatisfiable(size_bytes: u64) -> Response<ResponseBody> {
    let mut answer = response::empty(StatusCode::RANGE_NOT_SATISFIABLE);
    response::set(&mut answer, CONTENT_RANGE, &format!("bytes */{size_bytes}"));
    answer
}

/// 206 with several parts. Each part has its own `Content-Range`.
fn several_parts(
    request: &Allowed,
    digest: &Digest,
    blob: Blob,
    parts: Multipart,
) -> Response<ResponseBody> {
    let length = parts.length_bytes();
    let mut answer = described(digest, length);
    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    response::set(&mut answer, CONTENT_TYPE, &parts.content_type());
    let bytes = parts.stream(Arc::clone(&request.registry), blob);
    *answer.body_mut() = ResponseBody::stream(bytes, length);
    answer
}

pub(super) async fn delete(
    state: &State,
    request: &Allowed,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, ServerError> {
    let blobs = &request.registry.blobs;
    blobs.delete(name, digest, request.actor(state)).await?;
    Ok(response::empty(StatusCode::ACCEPTED))
}

/// What a GET requests; a part of other content (`If-Range`) means everything.
fn requested(head: &Parts, digest: &Digest) -> Requested {
    let same =
        header_text(head, IF_RANGE).is_none_or(|tag| tag.trim_matches('"') == digest.to_string());
    // The header is not a list, so several of them are not combined.
    let is_one = head.headers.get_all(RANGE).iter().nth(1).is_none();
    Requested::parse(header_text(head, RANGE).filter(|_| same && is_one))
}

/// Whether the client already has this content, by `If-None-Match`: quoted as in the standard, or bare, as old clients send
/// it.
pub(super) fn is_known(head: &Parts, digest: &Digest) -> bool {
    let Some(tags) = header_text(head, IF_NONE_MATCH) else {
        return false;
    };
    let digest = digest.to_string();
    let strip = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"') == digest;
    tags.trim() == "*" || tags.split(',').any(strip)
}

/// Random bytes of a boundary: no blob can contain a line that ends a part.
const BOUNDARY_BYTES: usize = 16;

/// The parts and their separators.
pub(super) struct Multipart {
    boundary: String,
    /// The text before a part, and the part.
    parts: Vec<(Bytes, Range<u64>)>,
    end: Bytes,
}

impl Multipart {
    /// The parts `ranges` of content of `size_bytes` with the type `part_type`; `None` if there are no random numbers.
    pub(super) fn new(ranges: Vec<Range<u64>>, size_bytes: u64, part_type: &str) -> Option<Self> {
        let mut random = [0; BOUNDARY_BYTES];
        getrandom::fill(&mut random).ok()?;
        let boundary = HEXLOWER.encode(&random);
        let mut line_end = "";
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let (first, last) = (range.start, range.end.saturating_sub(1));
            let head = format!(
                "{line_end}--{boundary}\r\nContent-Type: {part_type}\r\nContent-Range: bytes {first}-{last}/{size_bytes}\r\n\r\n"
            );
            parts.push((head.into(), range));
            line_end = "\r\n";
        }
        let end = format!("{line_end}--{boundary}--\r\n").into();
        Some(Self {
            boundary,
            parts,
            end,
        })
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    pub(super) fn length_bytes(&self) -> u64 {
        let parts = self.parts.iter();
        let parts = parts.map(|(head, range)| head.len() as u64 + (range.end - range.start));
        parts.sum::<u64>() + self.end.len() as u64
    }

    /// The bytes. A part is opened when the part before it has been sent.
    pub(super) fn stream(self, registry: Arc<Registry>, blob: Blob) -> ByteStream {
        let blob = Arc::new(blob);
        let parts = stream::iter(self.parts).then(move |(head, range)| {
            let (registry, blob) = (Arc::clone(&registry), Arc::clone(&blob));
            async move {
                let content = registry.blobs.read(&blob, Some(range.into())).await;
                let content = content.map_err(|error| match error {
                    RegistryError::Store(error) => error,
                    // The blob was deleted meanwhile: the answer is cut off.
                    _ => StoreError::NotFound,
                })?;
                Ok(stream::once(async move { Ok(head) }).chain(content.bytes))
            }
        });
        let end = self.end;
        let end = stream::once(async move { Ok(end) });
        parts.try_flatten().chain(end).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_what_is_written() {
        let ranges = vec![0..3, 90..91, 20..30];
        let multipart = Multipart::new(ranges, 100, "application/octet-stream").unwrap();
        let mut written = 0;
        for (head, range) in &multipart.parts {
            let head = std::str::from_utf8(head).unwrap();
            assert!(head.contains(&format!(
                "\r\nContent-Range: bytes {}-{}/100\r\n\r\n",
                range.start,
                range.end - 1
            )));
            written += head.len() as u64 + (range.end - range.start);
        }
        written += multipart.end.len() as u64;
        assert_eq!(multipart.length_bytes(), written);
        let other = Multipart::new(vec![0..1, 2..3], 3, "a/b").unwrap();
        assert_ne!(multipart.boundary, other.boundary);
    }
}
