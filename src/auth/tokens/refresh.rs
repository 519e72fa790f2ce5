//! Refresh tokens: what a client keeps instead of a password, to ask for tokens with.
//!
//! A JWT like the others, but under a key derived from the server's secret and with a MAC instead of a signature: nobody
//! who trusts our certificate, and nothing here that reads bearer tokens, can take one for an access token. Must not know
//! users. Invariant: a refresh token is good for nothing but new tokens, for the service it was asked for, until its end or
//! its account's next generation.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::{Deserialize, Serialize};

use super::keys;

use crate::auth::keyed_hash::{KeyedHash, Purpose};

/// 90 days (DESIGN D6): a person logs in four times a year, and a lost laptop's token ends by itself.
pub(in crate::auth) const LIFETIME_SECS: u64 = 90 * 24 * 60 * 60;

/// Ours are a quarter of this; longer ones are refused unread.
const TOKEN_BYTES_MAX: usize = 4 * 1024;

/// The one algorithm that is accepted: no token chooses how it is checked.
const ALGORITHM: Algorithm = Algorithm::HS256;

/// What a refresh token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::auth) struct Claims {
    /// Who issued it.
    pub iss: String,
    /// The account.
    pub sub: String,
    /// The service that the tokens made from it are for.
    pub aud: String,
    /// Issued at, seconds since 1970.
    pub iat: u64,
    /// Ends, seconds since 1970.
    pub exp: u64,
    /// Generation of the account's credentials.
    #[serde(rename = "gen")]
    pub generation: String,
}

/// Makes and reads them.
pub(in crate::auth) struct RefreshTokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl RefreshTokens {
    /// Under a key of their own, derived from the server's secret.
    pub(in crate::auth) fn new(hash: &KeyedHash) -> Self {
        let key = hash.hash(Purpose::Refresh, &[]);
        Self {
            encoding: EncodingKey::from_secret(&key),
            decoding: DecodingKey::from_secret(&key),
        }
    }

    /// The token that says `claims`.
    pub(super) fn issue(&self, claims: &Claims) -> Result<String, ()> {
        jsonwebtoken::encode(&Header::new(ALGORITHM), claims, &self.encoding).map_err(|_| ())
    }

    /// What a genuine token says, unless it has ended.
    pub(super) fn read(&self, token: &str, now_unix_secs: u64) -> Option<Claims> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let claims: Claims = keys::decode(token, &self.decoding, ALGORITHM).ok()?;
        (now_unix_secs < claims.exp).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::auth::Secret;

    fn tokens(secret: u8) -> RefreshTokens {
        RefreshTokens::new(&KeyedHash::new(&Secret([secret; 32])))
    }

    fn claims() -> Claims {
        Claims {
            iss: "boathouse".to_owned(),
            sub: "alice".to_owned(),
            aud: "boathouse".to_owned(),
            iat: 1_000,
            exp: 2_000,
            generation: "g".to_owned(),
        }
    }

    #[test]
    fn a_token_reads_back_until_its_end() {
        let token = tokens(1).issue(&claims()).expect("a token");
        assert_eq!(tokens(1).read(&token, 1_999), Some(claims()));
        assert_eq!(tokens(1).read(&token, 2_000), None);
    }

    #[test]
    fn another_secret_another_header_and_other_claims_are_refused() {
        let token = tokens(1).issue(&claims()).expect("a token");
        assert_eq!(tokens(2).read(&token, 1_500), None);
        let parts: Vec<&str> = token.split('.').collect();
        let [own, body, mac] = parts.as_slice() else {
            panic!("three parts");
        };
        for header in [r#"{"typ":"JWT","alg":"none"}"#, r#"{"alg":"HS256"}"#] {
            let header = URL_SAFE_NO_PAD.encode(header);
            assert_eq!(
                tokens(1).read(&format!("{header}.{body}.{mac}"), 1_500),
                None
            );
            assert_eq!(tokens(1).read(&format!("{header}.{body}."), 1_500), None);
        }
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
        assert_eq!(
            header, *own,
            "tokens of earlier versions have the same header"
        );
        let other = serde_json::to_vec(&Claims {
            sub: "admin".to_owned(),
            ..claims()
        });
        let other = URL_SAFE_NO_PAD.encode(other.expect("JSON"));
        assert_eq!(
            tokens(1).read(&format!("{header}.{other}.{mac}"), 1_500),
            None
        );
        assert_eq!(tokens(1).read(&format!("{header}.{body}."), 1_500), None);
        assert_eq!(tokens(1).read("", 1_500), None);
    }
}
