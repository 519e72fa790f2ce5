//! Several parts of a blob in one answer: `multipart/byteranges`.
//!
//! Source: RFC 9110 section 14.6. Must not know which parts are requested. Invariant: the answer has exactly
//! [`Multipart::length_bytes`] bytes. Only one part is open at a time.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::registry::{Blob, Registry, RegistryError};
use crate::store::{ByteStream, StoreError};

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
