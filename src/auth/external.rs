//! Deciders outside of this program: who is asked about accounts that are in no list, and about rights that no rule decides.
//!
//! Design: `docs/security.md`. Must not know how they are asked. Invariant: a list comes before an authenticator, and a rule
//! before the authorizer.

use std::sync::Arc;

use super::accounts::Labels;
use super::passwords::{Authenticator, Directory, LdapSettings, ProgramAuthenticator};
use super::program::Program;
use crate::clock::Clock;

/// The longest labels of an account, as JSON: they are in its tokens, tokens are in headers, and proxies take headers of 8 KiB.
const LABELS_BYTES_MAX: usize = 4 * 1024;

/// Those that a configuration names.
#[derive(Debug, Clone, Default)]
pub struct External {
    /// In the order in which they are asked.
    authenticators: Vec<Arc<dyn Authenticator>>,
    authorizer: Option<Arc<Program>>,
}

impl External {
    /// `ext_auth`, `ldap_auth` and `ext_authz`. The clock is for the time that a directory may take.
    pub fn new(
        ext_auth: Option<Program>,
        ldap_auth: Option<LdapSettings>,
        ext_authz: Option<Program>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
        if let Some(program) = ext_auth {
            authenticators.push(Arc::new(ProgramAuthenticator(program)));
        }
        if let Some(settings) = ldap_auth {
            authenticators.push(Arc::new(Directory::new(settings, Arc::clone(clock))));
        }
        Self {
            authenticators,
            authorizer: ext_authz.map(Arc::new),
        }
    }

    /// Whether accounts that are in no list may log in.
    pub fn knows_accounts(&self) -> bool {
        !self.authenticators.is_empty()
    }

    /// Whether rights that no rule decides may be granted.
    pub fn decides_rights(&self) -> bool {
        self.authorizer.is_some()
    }

    pub(super) fn authenticators(&self) -> &[Arc<dyn Authenticator>] {
        &self.authenticators
    }

    pub(super) fn authorizer(&self) -> Option<&Arc<Program>> {
        self.authorizer.as_ref()
    }
}

/// The labels, if they fit into a token. The error is for the log.
pub(super) fn checked_labels(labels: Labels) -> Result<Arc<Labels>, String> {
    let length = serde_json::to_vec(&labels).map_or(usize::MAX, |text| text.len());
    if length > LABELS_BYTES_MAX {
        return Err(format!(
            "the labels of an account take {length} bytes; a token has room for {LABELS_BYTES_MAX}"
        ));
    }
    Ok(Arc::new(labels))
}
