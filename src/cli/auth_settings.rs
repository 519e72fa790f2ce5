//! What the config says about users, rules and tokens, with what only a start can add: keys and secrets.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use aws_lc_rs::hmac;

use super::token_key;
use crate::auth::{self, Secret, SigningKeyPem};
use crate::clock::{self, Clock};
use crate::config::{Config, Signing};
use crate::store::state_directory::SECRET_BYTES;
use crate::tls;

/// The settings of `auth`.
pub(super) fn of_config(
    config: &Config,
    secret: [u8; SECRET_BYTES],
    clock: &dyn Clock,
) -> anyhow::Result<auth::Settings> {
    let own_key = match config.auth.signing {
        Signing::Own => Some(own_token_key(&keys_directory(config), clock)?),
        Signing::None | Signing::Files(_) => None,
    };
    Ok(config.auth_settings(Secret(secret), own_key))
}

/// A secret for one use, so that what one layer shows of its own tells nothing about another's.
pub(super) fn derived_secret(secret: &[u8], purpose: &str) -> anyhow::Result<[u8; SECRET_BYTES]> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, purpose.as_bytes());
    let derived = tag.as_ref().try_into();
    derived.map_err(|_| anyhow!("the length of a secret is not that of its hash"))
}

/// The key pair that signs tokens, in `keys_directory`; made if it is not there.
pub(super) fn own_token_key(
    keys_directory: &Path,
    clock: &dyn Clock,
) -> anyhow::Result<SigningKeyPem> {
    token_key::read_or_make(keys_directory, || {
        clock::check_is_set(clock.unix_secs()).context("no key for tokens can be made now")?;
        Ok(auth::make_token_key(clock)?)
    })
}

/// Beside the certificates' keys; without certificates of our own, below the state directory.
pub(super) fn keys_directory(config: &Config) -> PathBuf {
    match &config.tls {
        tls::Settings::Automatic { keys_directory, .. } => keys_directory.clone(),
        tls::Settings::None | tls::Settings::Files { .. } => config.state_directory.join("keys"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
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
        let start = || of_config(&loaded.config, [7; SECRET_BYTES], &clock).unwrap();
        let signing = start().token.signing;
        assert!(signing.is_some());
        assert!(signing == start().token.signing, "kept for the next start");
        let mode = fs::metadata(state.join("keys")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
    }
}
