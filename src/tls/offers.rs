//! Which cipher suites and key exchanges a listener offers, where its configuration decides.
//!
//! Must not know where the lists come from. Invariants: only what the library holds to be strong is offered; the suites of
//! TLS 1.3 are always among it, as with Go's library.

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite};

/// What is offered. The default is all that the library has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offers {
    /// The cipher suites of TLS 1.2; `None`: all.
    pub suites: Option<Vec<CipherSuite>>,
    /// The groups for key exchange, the best first; `None`: all.
    pub groups: Option<Vec<NamedGroup>>,
}

impl Offers {
    /// Leaves in `provider` only what is offered.
    pub fn restrict(&self, provider: &mut CryptoProvider) {
        if let Some(suites) = &self.suites {
            let is_tls13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
            provider
                .cipher_suites
                .retain(|suite| is_tls13(suite) || suites.contains(&suite.suite()));
        }
        if let Some(groups) = &self.groups {
            let rank = |name: NamedGroup| groups.iter().position(|group| *group == name);
            provider
                .kx_groups
                .retain(|group| rank(group.name()).is_some());
            provider.kx_groups.sort_by_key(|group| rank(group.name()));
        }
    }
}
