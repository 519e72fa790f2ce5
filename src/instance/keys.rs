//! What only a start can add to what the config says: the server's secrets, and the key pair that signs tokens.
//!
//! Invariant: a key pair that is there belongs together, since its second half is written last.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use aws_lc_rs::hmac;

use crate::auth::{self, Secret, SigningKeyPem};
use crate::clock::{self, Clock};
use crate::config::{Config, Signing, TokenPair};
use crate::store::state_directory::SECRET_BYTES;
use crate::{durable_file, tls};

/// The settings of `auth`.
pub(crate) fn auth_settings(
    config: &Config,
    secret: [u8; SECRET_BYTES],
    clock: &dyn Clock,
) -> anyhow::Result<auth::Settings> {
    let own_key = match config.auth.signing {
        Signing::Own => Some(own_token_key(&keys_directory(config), clock)?),
        Signing::None | Signing::Files(_) => None,
    };
    let mut settings = config.auth_settings(Secret(secret), own_key);
    if let Some(pair) = token_pair(config) {
        let path = previous_certificates(&pair.certificate);
        let previous = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => Some(text.with_context(|| format!("cannot read {}", path.display()))?),
        };
        settings.token.previous_certificates_pem.extend(previous);
    }
    Ok(settings)
}

/// The key pair that signs tokens here, whether or not it exists yet.
pub(crate) fn token_pair(config: &Config) -> Option<TokenPair> {
    let keys = keys_directory(config);
    let own = (config.auth.signing == Signing::Own).then(|| TokenPair {
        certificate: keys.join("token.crt"),
        key: keys.join("token.key"),
    });
    config.auth.token_pair.clone().or(own)
}

/// Where the certificates of the keys lie that signed tokens before this one: `token.previous.crt` with `token.crt`.
pub(crate) fn previous_certificates(certificate: &Path) -> PathBuf {
    certificate.with_extension("previous.crt")
}

/// A secret for one use, so that what one layer shows of its own tells nothing about another's.
pub(crate) fn derived_secret(secret: &[u8], purpose: &str) -> anyhow::Result<[u8; SECRET_BYTES]> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, purpose.as_bytes());
    let derived = tag.as_ref().try_into();
    derived.map_err(|_| anyhow!("the length of a secret is not that of its hash"))
}

/// The key pair that signs tokens, in `keys_directory`; made if it is not there.
pub(crate) fn own_token_key(
    keys_directory: &Path,
    clock: &dyn Clock,
) -> anyhow::Result<SigningKeyPem> {
    read_or_make(keys_directory, || {
        clock::check_is_set(clock.unix_secs()).context("no key for tokens can be made now")?;
        Ok(auth::make_token_key(clock)?)
    })
}

/// Beside the certificates' keys; without certificates of our own, below the state directory.
pub(crate) fn keys_directory(config: &Config) -> PathBuf {
    match &config.tls {
        tls::Settings::Automatic { keys_directory, .. } => keys_directory.clone(),
        tls::Settings::None | tls::Settings::Files { .. } => config.state_directory.join("keys"),
    }
}

/// The pair in `keys_directory`; `make` makes one if it is not whole.
fn read_or_make(
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
    write_private(&key, &pair.key_pem)?;
    write_private(&certificate, &pair.certificate_pem)?;
    Ok(pair)
}

/// Writes `text` to a file that only its owner may read, there whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    durable_file::replace(path, text.as_bytes(), durable_file::PRIVATE_FILE)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config;

    #[test]
    fn users_without_certificates_need_nothing_but_an_empty_state_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.yml");
        let state = directory.path().join("state");
        let text = format!(
            "storage: {{filesystem: {{rootdirectory: /srv}}}}\nstate_directory: {}\nusers: {{}}\nacl: []\n",
            state.display()
        );
        fs::write(&file, text).unwrap();
        let loaded = config::load(&[file], &BTreeMap::new()).unwrap();
        let clock = SystemClock::new();
        let start = || auth_settings(&loaded.config, [7; SECRET_BYTES], &clock).unwrap();
        let signing = start().token.signing;
        assert!(signing.is_some());
        assert!(signing == start().token.signing, "kept for the next start");
        let mode = fs::metadata(state.join("keys")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
    }

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
