//! Whose tokens are believed: the issuers, in their order, and whether a token is one of theirs, for us, now.
//!
//! Must not know users or rules. Invariant: keys come from the configuration only, and an embedded `jwk` never counts; time
//! is the clock's.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificates::{TrustedCertificates, Vouched};
use super::jwks::JwkSet;
use super::keys::{PublicKey, SigningKey, TokenAlgorithm, certificates_of_pem};
use super::own_names::OwnNames;
use super::{Claims, TokenFault};
use crate::auth::SetupError;
use crate::auth::bounded::Bounded;
use crate::auth::keyed_hash::{KeyedHash, Purpose};
use crate::auth::settings::{Limits, TokenSettings};

/// Longer tokens are refused unread: no client gets them into its headers.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Clocks differ by so much, as the registries that we stand in for assume too.
const LEEWAY_SECS: u64 = 60;

/// The algorithms that tokens of others may be signed by, by their names in `auth.token.signingalgorithms`. RSA-PSS counts only
/// where it is named: with one of two families for a key, no token chooses between them.
pub const TOKEN_ALGORITHMS: [&str; 10] = [
    "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512",
];

/// How many of them count where none is named.
const DEFAULT_ALGORITHMS: usize = 7;

/// Those that distribution knows too, and that no public key can check.
pub const TOKEN_ALGORITHMS_WITHOUT_KEYS: [&str; 3] = ["HS256", "HS384", "HS512"];

/// For so long after a token's end its upload sessions go on: the layer of a VM image takes hours on a slow line.
pub(in crate::auth) const SESSION_EXTENSION_SECS: u64 = 24 * 60 * 60;

/// What an issuer's tokens are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::auth) enum JudgedBy {
    /// The users and rules of now, within what the token says.
    RulesOfNow,
    /// What the token says, until it expires.
    TokenAlone,
}

/// For which service an issuer's tokens may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audiences {
    /// `auth.token.service`
    Service,
    /// Any name of this registry, and none at all for a token that grants nothing. Some clients ask for the registry's host
    /// as service, or for none, and our key signs whatever service was asked for, also that of another registry.
    OwnNames,
}

/// Which keys sign an issuer's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Keys {
    /// This one, whichever trusted certificate vouches for it.
    One(PublicKey),
    /// Every key that a trusted certificate vouches for, but for these: our own of before, whose tokens end with their accounts.
    Vouched { except: Vec<PublicKey> },
}

/// Somebody whose tokens are believed.
#[derive(Debug)]
struct Issuer {
    /// `iss` of its tokens.
    name: String,
    keys: Keys,
    audiences: Audiences,
    judged_by: JudgedBy,
}

impl Issuer {
    fn signs_with(&self, key: &PublicKey) -> bool {
        match &self.keys {
            Keys::One(own) => own == key,
            Keys::Vouched { except } => !except.contains(key),
        }
    }

    /// Only tokens with a generation can be judged by the users of now.
    fn writes(&self, claims: &Claims) -> bool {
        let has_what_it_needs = match self.judged_by {
            JudgedBy::RulesOfNow => claims.bh.is_some(),
            JudgedBy::TokenAlone => true,
        };
        self.name == claims.iss && has_what_it_needs
    }
}

/// A genuine token; whether it is for us, now, is judged each time.
#[derive(Debug)]
pub(in crate::auth) struct Genuine {
    /// What it says.
    pub claims: Claims,
    issuer: Arc<Issuer>,
    /// When the certificates that vouch for it end.
    vouched_until_unix_secs: u64,
}

impl Genuine {
    /// What it is judged by.
    pub(in crate::auth) fn judged_by(&self) -> JudgedBy {
        self.issuer.judged_by
    }

    /// Why it counts no longer, not even for its upload sessions.
    pub(in crate::auth) fn end(&self, now_unix_secs: u64) -> Option<TokenFault> {
        let expired_secs = now_unix_secs.saturating_sub(self.claims.exp);
        if now_unix_secs > self.vouched_until_unix_secs {
            Some(TokenFault::CertificateExpired)
        } else if expired_secs > SESSION_EXTENSION_SECS {
            Some(TokenFault::Expired)
        } else {
            None
        }
    }

    /// For how long it has been expired; 0 if it is not.
    pub(in crate::auth) fn expired_secs(&self, now_unix_secs: u64) -> u64 {
        match now_unix_secs.saturating_sub(self.claims.exp) {
            0..=LEEWAY_SECS => 0,
            expired_secs => expired_secs,
        }
    }
}

/// What is read of a header before it is known which key signed the token.
#[derive(Deserialize)]
struct Header {
    alg: String,
    /// `JWT`; only its kind matters: the library reads it too.
    #[serde(default, rename = "typ")]
    _typ: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    x5c: Option<Vec<String>>,
    /// Extensions that must be understood: none is.
    #[serde(default)]
    crit: Option<Vec<String>>,
}

/// Knows the issuers, and remembers tokens that were genuine.
pub(in crate::auth) struct Verifier {
    /// The first one whose token it can be is the one.
    issuers: Vec<Arc<Issuer>>,
    certificates: TrustedCertificates,
    published: JwkSet,
    algorithms: Vec<TokenAlgorithm>,
    pub names: OwnNames,
    hash: KeyedHash,
    genuine: Mutex<Bounded<[u8; 32], Arc<Genuine>>>,
    /// How many signatures were checked.
    #[cfg(test)]
    pub checks: std::sync::atomic::AtomicUsize,
}

impl Verifier {
    /// Trusts the certificates of the settings, and our own.
    pub(in crate::auth) fn new(
        settings: &TokenSettings,
        signing: Option<&SigningKey>,
        limits: &Limits,
        hash: KeyedHash,
    ) -> Result<Self, SetupError> {
        let mut ders: Vec<Vec<u8>> = signing
            .map(|key| key.certificate_der.clone())
            .into_iter()
            .collect();
        for pem in &settings.trusted_certificates_pem {
            ders.extend(certificates_of_pem(pem)?);
        }
        let mut previous = Vec::new();
        for pem in &settings.previous_certificates_pem {
            for der in certificates_of_pem(pem)? {
                let (_, certificate) =
                    X509Certificate::from_der(&der).map_err(|_| SetupError::Certificate)?;
                previous.extend(PublicKey::of_certificate(&certificate));
                ders.push(der);
            }
        }
        let issuer = |keys, audiences, judged_by| {
            Arc::new(Issuer {
                name: settings.issuer.clone(),
                keys,
                audiences,
                judged_by,
            })
        };
        let mut issuers = Vec::new();
        if let Some(key) = signing {
            let keys = Keys::One(key.public_key().clone());
            let ours = issuer(keys.clone(), Audiences::OwnNames, JudgedBy::RulesOfNow);
            // A docker_auth whose key we took over. Its tokens carry no generation.
            let predecessor = issuer(keys, Audiences::OwnNames, JudgedBy::TokenAlone);
            issuers.extend([ours, predecessor]);
        }
        for key in &previous {
            let keys = Keys::One(key.clone());
            issuers.push(issuer(keys, Audiences::OwnNames, JudgedBy::RulesOfNow));
        }
        issuers.push(issuer(
            Keys::Vouched { except: previous },
            Audiences::Service,
            JudgedBy::TokenAlone,
        ));
        let named: Vec<&str> = settings
            .signing_algorithms
            .iter()
            .map(String::as_str)
            .collect();
        let (by_default, _) = TOKEN_ALGORITHMS.split_at(DEFAULT_ALGORITHMS);
        let algorithms = if named.is_empty() { by_default } else { &named };
        let algorithms = algorithms.iter();
        Ok(Self {
            issuers,
            certificates: TrustedCertificates::new(ders)?,
            published: settings.trusted_keys.clone(),
            algorithms: algorithms
                .filter_map(|name| TokenAlgorithm::from_name(name))
                .collect(),
            names: OwnNames::new(&settings.service, settings.external_host.as_ref()),
            hash,
            genuine: Mutex::new(Bounded::new(limits.verified_tokens_max)),
            #[cfg(test)]
            checks: std::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// The token, if it is genuine, for us, and not over; it may have expired so far that only its upload sessions go on.
    pub(in crate::auth) fn verify(
        &self,
        token: &str,
        now_unix_secs: u64,
    ) -> Result<Arc<Genuine>, TokenFault> {
        let token = self.genuine(token, now_unix_secs)?;
        if let Some(fault) = token.end(now_unix_secs) {
            Err(fault)
        } else if token.claims.nbf > now_unix_secs.saturating_add(LEEWAY_SECS) {
            Err(TokenFault::NotYetValid)
        } else if !self.is_for_us(&token) {
            Err(TokenFault::Audience)
        } else {
            Ok(token)
        }
    }

    fn is_for_us(&self, token: &Genuine) -> bool {
        let may_use_any_name = token.issuer.audiences == Audiences::OwnNames;
        let is_for_us = |service: &String| match service.as_str() {
            // It shows who is calling, and opens nothing (see `Auth::authorise`).
            "" => may_use_any_name && token.claims.access.is_empty(),
            service => {
                self.names.is_service(service)
                    || (may_use_any_name && self.names.is_own_name(service))
            }
        };
        token.claims.aud.0.iter().any(is_for_us)
    }

    fn genuine(&self, token: &str, now_unix_secs: u64) -> Result<Arc<Genuine>, TokenFault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::Malformed);
        }
        let fingerprint = self.hash.hash(Purpose::Token, &[token.as_bytes()]);
        let known = {
            let mut table = self.genuine.lock().unwrap_or_else(PoisonError::into_inner);
            table.get_mut(fingerprint).map(|known| Arc::clone(known))
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let genuine = Arc::new(self.check(token, now_unix_secs)?);
        self.genuine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(fingerprint, Arc::clone(&genuine));
        Ok(genuine)
    }

    fn check(&self, token: &str, now_unix_secs: u64) -> Result<Genuine, TokenFault> {
        let header = read_header(token).ok_or(TokenFault::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenFault::Malformed);
        }
        let algorithm = TokenAlgorithm::from_name(&header.alg).ok_or(TokenFault::Algorithm)?;
        let keys = if let Some(chain) = header.x5c.filter(|chain| !chain.is_empty()) {
            vec![self.certificates.key_of_chain(&chain, now_unix_secs)?]
        } else {
            let key_id = header.kid.ok_or(TokenFault::KeyUnknown)?;
            self.keys_of_id(&key_id, now_unix_secs)?
        };
        #[cfg(test)]
        self.checks
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut fault = TokenFault::Signature;
        for Vouched {
            key,
            until_unix_secs,
        } in keys
        {
            if !self.may_sign(&key, algorithm) {
                fault = TokenFault::Algorithm;
                continue;
            }
            match key.decode::<Claims>(token, algorithm) {
                Ok(claims) => return self.issued(claims, &key, until_unix_secs),
                Err(of_key) => fault = of_key,
            }
        }
        Err(fault)
    }

    /// The keys with this id, of a certificate or of the file of keys.
    fn keys_of_id(&self, key_id: &str, now_unix_secs: u64) -> Result<Vec<Vouched>, TokenFault> {
        // No certificate ends their time.
        let published = self.published.keys_of_id(key_id).map(|key| Vouched {
            key: key.clone(),
            until_unix_secs: u64::MAX,
        });
        let mut keys: Vec<Vouched> = published.collect();
        match self.certificates.keys_of_id(key_id, now_unix_secs) {
            Ok(vouched) => keys.extend(vouched),
            Err(fault) if keys.is_empty() => return Err(fault),
            Err(_) => {}
        }
        Ok(keys)
    }

    /// Whether tokens by this key and algorithm are believed. Our own key signs by one algorithm, which is no matter of the
    /// list: that is about others.
    fn may_sign(&self, key: &PublicKey, algorithm: TokenAlgorithm) -> bool {
        let is_own = |issuer: &Arc<Issuer>| matches!(&issuer.keys, Keys::One(own) if own == key);
        self.algorithms.contains(&algorithm)
            || (algorithm == key.signs_by() && self.issuers.iter().any(is_own))
    }

    /// The token of the issuer who signs with this key and writes such claims.
    fn issued(
        &self,
        claims: Claims,
        key: &PublicKey,
        vouched_until_unix_secs: u64,
    ) -> Result<Genuine, TokenFault> {
        let mut issuers = self.issuers.iter();
        let issuer = issuers.find(|issuer| issuer.signs_with(key) && issuer.writes(&claims));
        Ok(Genuine {
            issuer: Arc::clone(issuer.ok_or(TokenFault::Issuer)?),
            claims,
            vouched_until_unix_secs,
        })
    }
}

fn read_header(token: &str) -> Option<Header> {
    let (header, _) = token.split_once('.')?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
}
