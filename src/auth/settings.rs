//! What the layer above says about callers: filled by `config`, read once here.
//!
//! Must not know files. Invariant: nothing secret is printed by `Debug`.

use std::fmt;

use super::accounts::Accounts;
use super::tokens::JwkSet;
use crate::host_port::BaseUrl;

/// Everything that decides who may do what; fixed at start but for the accounts.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Whether callers are asked who they are at all.
    pub authentication: Authentication,
    /// How callers are asked to show who they are.
    pub scheme: Scheme,
    /// What a reload replaces.
    pub accounts: Accounts,
    /// Tokens, issued and accepted.
    pub token: TokenSettings,
    /// Keys everything that is remembered or derived from passwords and tokens.
    pub secret: Secret,
    /// Bounds.
    pub limits: Limits,
}

/// Whether callers are asked who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Authentication {
    /// Every client may do everything.
    Open,
    /// Only what the rules, or a trusted token, allow.
    #[default]
    Required,
}

/// What a challenge asks for; a right password is taken either way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scheme {
    /// A token from the token endpoint.
    #[default]
    Bearer,
    /// The password itself, at each request.
    Basic {
        /// What clients show to people.
        realm: String,
    },
}

/// Tokens, issued and accepted.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// `iss` of every token.
    pub issuer: String,
    /// `aud` of tokens for this registry.
    pub service: String,
    /// The address of the token endpoint, verbatim.
    pub realm: Option<String>,
    /// `auth.token.autoredirect`: the realm follows from each request, whatever `realm` is.
    pub auto_redirect: Option<AutoRedirect>,
    /// `http.host`: this registry's own address, from which the realm follows when none is given.
    pub external_host: Option<BaseUrl>,
    /// `http.prefix`, with a slash at both ends: the token endpoint is below it.
    pub prefix: String,
    /// How long a token lives.
    pub lifetime_secs: u64,
    /// Whether a client that asks for a refresh token gets one: it keeps that instead of the password.
    pub refresh_tokens: bool,
    /// Whether tokens that are issued say which of our accounts they are of, so that the rules of now decide about them. Without
    /// it the token itself decides until it expires, as with `docker_auth`'s.
    pub names_generation: bool,
    /// Our own key; without one no tokens are issued.
    pub signing: Option<SigningKeyPem>,
    /// Certificates of keys that signed our tokens before: those tokens go on until they expire, judged by the rules of now.
    pub previous_certificates_pem: Vec<String>,
    /// Certificates whose keys, or whose issued certificates' keys, sign tokens that are believed.
    pub trusted_certificates_pem: Vec<String>,
    /// `auth.token.jwks`: more keys that sign tokens that are believed.
    pub trusted_keys: JwkSet,
    /// `auth.token.signingalgorithms`: the names of algorithms by which tokens of others may be signed; none = all but RSA-PSS.
    pub signing_algorithms: Vec<String>,
}

/// `auth.token.autoredirect`: the realm is at the host that the client used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoRedirect {
    /// `auth.token.autoredirectpath`, with the first slash.
    pub path: String,
    /// Whether clients see `https` whatever this server sees, as distribution assumes: no proxy is named that could tell.
    pub assumes_https: bool,
}

impl TokenSettings {
    /// The issuer and the service if no key names them.
    pub const NAME: &str = "boathouse";
    /// Four hours: the push of a large VM image lasts hours, and not every client renews; tokens end with their account anyway.
    pub const LIFETIME_SECS: u64 = 4 * 60 * 60;
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            issuer: Self::NAME.to_owned(),
            service: Self::NAME.to_owned(),
            realm: None,
            auto_redirect: None,
            external_host: None,
            prefix: "/".to_owned(),
            lifetime_secs: Self::LIFETIME_SECS,
            // docker would store one in place of the password, and Tart cannot use it.
            refresh_tokens: false,
            names_generation: true,
            signing: None,
            previous_certificates_pem: Vec::new(),
            trusted_certificates_pem: Vec::new(),
            trusted_keys: JwkSet::default(),
            signing_algorithms: Vec::new(),
        }
    }
}

/// The key that signs tokens, with its certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKeyPem {
    /// What verifiers trust.
    pub certificate_pem: String,
    /// PKCS#8, SEC1 or PKCS#1.
    pub key_pem: String,
}

impl fmt::Debug for SigningKeyPem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SigningKeyPem(…)")
    }
}

/// 32 secret random bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Bounds of this layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Password checks at a time. Two: each takes a core for 50 ms or more, and the smallest machines have two cores; with
    /// the cache of verified passwords one core is enough for 20 new logins a second.
    pub bcrypt_concurrency: usize,
    /// Password checks that wait; clients have their turns in rotation. Where more would wait, the client with the most is
    /// turned away. One second of patience per 20.
    pub bcrypt_waiting_max: usize,
    /// Of these, from one client (an IPv6 /64): more parallel first logins than any tool makes, and at most a second or two
    /// of waiting for all others.
    pub bcrypt_waiting_per_client_max: usize,
    /// Verified passwords remembered (32 bytes each).
    pub verified_passwords_max: usize,
    /// Verified tokens remembered (at most 16 KiB each, mostly under 1 KiB).
    pub verified_tokens_max: usize,
    /// Failed logins a minute for an account from an address before it is slowed; 0 = never.
    pub failed_logins_per_minute: u32,
    /// The same for all accounts from an address.
    pub failed_logins_per_minute_per_address: u32,
    /// Addresses and accounts with failed logins remembered.
    pub failed_logins_tracked_max: usize,
    /// Scopes in one token request: a token must fit into a header.
    pub scopes_per_token_max: usize,
}

impl Limits {
    /// Failed logins a minute for one account and address, if no key says otherwise.
    pub const FAILED_LOGINS: u32 = 10;
    /// Several people share an address behind a router.
    const FAILED_LOGINS_PER_ADDRESS_FACTOR: u32 = 10;

    /// The defaults, with this many failed logins a minute for one account and address; 0 = any number.
    pub fn with_failed_logins(per_minute: u32) -> Self {
        Self {
            failed_logins_per_minute: per_minute,
            failed_logins_per_minute_per_address: per_minute
                .saturating_mul(Self::FAILED_LOGINS_PER_ADDRESS_FACTOR),
            bcrypt_concurrency: 2,
            bcrypt_waiting_max: 1_024,
            bcrypt_waiting_per_client_max: 32,
            verified_passwords_max: 4_096,
            verified_tokens_max: 1_024,
            failed_logins_tracked_max: 16_384,
            scopes_per_token_max: 100,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::with_failed_logins(Self::FAILED_LOGINS)
    }
}
