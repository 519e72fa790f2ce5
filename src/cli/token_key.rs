//! The key pair that signs tokens, in `keys/`: made once, then kept.
//!
//! Must not know how it is made. Invariant: a pair that is there belongs together, since its second half is written last.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::private_file;
use crate::auth::SigningKeyPem;
use crate::durable_file;

/// The pair in `keys_directory`; `make` makes one if it is not whole.
pub(super) fn read_or_make(
    keys_directory: &Path,
    make: impl FnOnce() -> anyhow::Result<SigningKeyPem>,
) -> anyhow::Result<SigningKeyPem> {
    let certificate = keys_directory.join("token.crt");
    let key = keys_directory.join("token.key");
    if certificate.exists() && key.exists() {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        return Ok(SigningKeyPem {
            certificate_pem: read(&certificate)?,
            key_pem: read(&key)?,
        });
    }
    // With the user's own certificate, or none, nothing else has made the directory.
    durable_file::make_private_directory(keys_directory)
        .with_context(|| format!("cannot make the directory {}", keys_directory.display()))?;
    let pair = make()?;
    // A key whose certificate never came signed nothing, and a certificate without its key signs nothing any more.
    if certificate.exists() {
        fs::remove_file(&certificate)
            .with_context(|| format!("cannot remove {}", certificate.display()))?;
    }
    private_file::write(&key, &pair.key_pem)?;
    private_file::write(&certificate, &pair.certificate_pem)?;
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_kept_and_half_a_pair_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let of = |number: u8| {
            let make = move || {
                Ok(SigningKeyPem {
                    certificate_pem: format!("certificate {number}"),
                    key_pem: format!("key {number}"),
                })
            };
            let pair = read_or_make(directory.path(), make).unwrap();
            (pair.certificate_pem, pair.key_pem)
        };
        let pair = |number: u8| (format!("certificate {number}"), format!("key {number}"));
        assert_eq!(of(1), pair(1));
        assert_eq!(of(2), pair(1));
        fs::remove_file(directory.path().join("token.crt")).unwrap();
        assert_eq!(of(3), pair(3));
        fs::remove_file(directory.path().join("token.key")).unwrap();
        assert_eq!(of(4), pair(4));
        assert_eq!(of(5), pair(4));
    }
}
