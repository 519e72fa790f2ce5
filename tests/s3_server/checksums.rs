//! Checksums: those a client sends are verified before anything is stored.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64, HEXLOWER};
use http::HeaderMap;
use md5::{Digest as _, Md5};

use super::answer::Failure;
use super::request::header;

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// The checksums that a header or an element may name, by their suffix.
pub(super) const ALGORITHMS: [&str; 3] = ["sha256", "crc32", "crc32c"];

/// The checksum as headers have it; `None` for an algorithm that this server does not know.
pub(super) fn checksum(algorithm: &str, bytes: &[u8]) -> Option<String> {
    Some(match algorithm {
        "sha256" => BASE64.encode(digest(&SHA256, bytes).as_ref()),
        "crc32" => BASE64.encode(&crc32fast::hash(bytes).to_be_bytes()),
        "crc32c" => BASE64.encode(&crc32c::crc32c(bytes).to_be_bytes()),
        _ => return None,
    })
}

/// Compares `body` with every checksum among `headers`. `wrong` is the code of the answer if one differs.
pub(super) fn verify(headers: &HeaderMap, body: &[u8], wrong: &'static str) -> Result<(), Failure> {
    if let Some(expected) = header(headers, "content-md5")
        && expected != BASE64.encode(&md5(body))
    {
        return Err(Failure::bad_request("BadDigest"));
    }
    let about_it = [
        "x-amz-checksum-algorithm",
        "x-amz-checksum-type",
        "x-amz-checksum-mode",
    ];
    for (name, expected) in headers {
        let Some(algorithm) = name.as_str().strip_prefix("x-amz-checksum-") else {
            continue;
        };
        if about_it.contains(&name.as_str()) {
            continue;
        }
        let found = checksum(algorithm, body);
        let found = found.ok_or_else(|| Failure::not_implemented(name.as_str()))?;
        if found.as_bytes() != expected.as_bytes() {
            return Err(Failure::bad_request(wrong));
        }
    }
    Ok(())
}
