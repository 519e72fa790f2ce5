//! What is pushed and pulled: bytes that no file system can shrink, with digests that are known before a clock runs.
//!
//! Must not know servers.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// A blob: a part of one large piece of noise, behind a few bytes that make it another one.
#[derive(Clone)]
pub(crate) struct Blob {
    mark: [u8; 16],
    /// How much follows: the noise from its start, again and again.
    rest_bytes: usize,
    pub(crate) digest: String,
}

/// Noise, of which blobs are made; it is in memory once.
pub(crate) struct Noise(pub(crate) Vec<u8>);

impl Noise {
    pub(crate) fn new(size_bytes: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(size_bytes + 8);
        while bytes.len() < size_bytes {
            // xorshift64*: quick, and not to be compressed.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        bytes.truncate(size_bytes);
        Self(bytes)
    }

    /// A blob of `size_bytes` that differs from all with another `number`, in this run and others.
    pub(crate) fn blob(&self, run: u64, number: u64, size_bytes: usize) -> Blob {
        let mut mark = [0; 16];
        let (front, back) = mark.split_at_mut(8);
        front.copy_from_slice(&run.to_be_bytes());
        back.copy_from_slice(&number.to_be_bytes());
        let mut blob = Blob {
            mark,
            rest_bytes: size_bytes.saturating_sub(mark.len()),
            digest: String::new(),
        };
        let mut hasher = Sha256::new();
        for part in self.parts(&blob) {
            hasher.update(part);
        }
        blob.digest = digest_text(&hasher.finalize());
        blob
    }

    /// The bytes of a blob.
    pub(crate) fn parts<'a>(&'a self, blob: &'a Blob) -> Vec<&'a [u8]> {
        let mut parts: Vec<&[u8]> = vec![&blob.mark];
        let mut left = blob.rest_bytes;
        while left > 0 {
            let part = &self.0[..left.min(self.0.len())];
            left -= part.len();
            parts.push(part);
        }
        parts
    }
}

impl Blob {
    pub(crate) fn size_bytes(&self) -> usize {
        self.mark.len() + self.rest_bytes
    }
}

/// An image manifest of one config and one layer, which is larger than it needs to be by `note`.
pub(crate) fn manifest(config: &Blob, layer: &Blob, note: &str) -> (String, String) {
    let descriptor = |media_type: &str, blob: &Blob| serde_json::json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size_bytes()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        "annotations": {"note": note},
    });
    let text = manifest.to_string();
    let digest = digest_text(&Sha256::digest(&text));
    (text, digest)
}

/// The media type of [`manifest`].
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn digest_text(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
