//! SIGHUP: users, rules and certificates are read again.
//!
//! Invariant: a file with a mistake changes nothing; what cannot change while the program runs is named, not ignored.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use super::auth_settings;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{self, InForce};
use crate::store::state_directory::SECRET_BYTES;
use crate::tls::Tls;

/// Keys that a reload takes up.
const RELOADED: [&str; 4] = ["users", "acl", "users_file", "revoked"];

/// All that a reload needs.
pub(super) struct Reload {
    pub(super) config_files: Vec<PathBuf>,
    pub(super) environment: BTreeMap<String, String>,
    /// As the program was started.
    pub(super) in_force: Vec<InForce>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) auth: Arc<Auth>,
    pub(super) auth_secret: [u8; SECRET_BYTES],
    pub(super) clock: Arc<dyn Clock>,
}

impl Reload {
    /// Reads the files again.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let loaded = config::load(&self.config_files, &self.environment)?;
        let clock = self.clock.as_ref();
        let settings = auth_settings::of_config(&loaded.config, self.auth_secret, clock)?;
        if let Some(tls) = &self.tls {
            tls.reload().context("the certificates stay as they are")?;
        }
        self.auth.reload(settings)?;
        for key in changed(&self.in_force, &loaded.in_force) {
            tracing::warn!(key, "was changed; this needs a restart");
        }
        Ok(())
    }
}

/// The keys that have another value now and that a reload does not take up.
fn changed<'a>(before: &'a [InForce], now: &'a [InForce]) -> Vec<&'a str> {
    let stays = |key: &InForce| {
        before
            .iter()
            .any(|old| old.key == key.key && old.value == key.value)
    };
    let is_reloaded = |key: &InForce| {
        let top = key.key.split('.').next().unwrap_or_default();
        RELOADED.contains(&top)
    };
    let changed = now.iter().filter(|key| !stays(key) && !is_reloaded(key));
    changed.map(|key| key.key.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_needs_a_restart_is_named() {
        let key = |key: &str, value: &str| InForce {
            key: key.into(),
            value: value.into(),
            place: None,
        };
        let before = [
            key("http.addr", ":443"),
            key("users", "1"),
            key("log.level", "info"),
        ];
        let now = [
            key("http.addr", ":80"),
            key("users", "2"),
            key("log.level", "info"),
        ];
        assert_eq!(changed(&before, &now), ["http.addr"]);
    }
}
