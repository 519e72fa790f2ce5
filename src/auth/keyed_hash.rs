//! Keyed hashes under the server's secret.
//!
//! Must not know what is hashed. Invariant: no two lists of parts give the same input, and no purpose meets another's.

use aws_lc_rs::hmac;

use super::settings::Secret;

/// What a hash is for; part of its input.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// The generation of an account's credentials, as it is written in tokens.
    Generation,
    /// The same for an account that an external authenticator knows.
    ExternalGeneration,
    /// Which passwords were verified.
    Password,
    /// Which accounts failed to log in.
    Account,
    /// Which tokens were verified.
    Token,
    /// The key of refresh tokens.
    Refresh,
}

/// Hashes parts under the secret.
#[derive(Clone)]
pub(super) struct KeyedHash(hmac::Key);

impl KeyedHash {
    /// Keyed by `secret`.
    pub(super) fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &secret.0))
    }

    /// The hash of length-prefixed parts.
    pub(super) fn hash(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; 32] {
        let label: &[u8] = match purpose {
            Purpose::Generation => b"generation",
            Purpose::ExternalGeneration => b"external generation",
            Purpose::Password => b"password",
            Purpose::Account => b"account",
            Purpose::Token => b"token",
            Purpose::Refresh => b"refresh",
        };
        let mut context = hmac::Context::with_key(&self.0);
        for part in std::iter::once(label).chain(parts.iter().copied()) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        hash
    }
}
