//! The token endpoint: who asks, and the token that says what they may do.
//!
//! Must not know HTTP. Invariant: nobody gets a token for an account without its password or a refresh token of its present
//! generation, and no token says more than the rules of now.

use super::access::{Origin, TokenAnswer, TokenRefusal};
use super::challenge;
use super::placeholder::Fields;
use super::refresh;
use super::request::{self, Credentials, Login, TokenRequest, Unreadable};
use super::service::{Auth, LoggedIn};
use super::settings::Authentication;
use super::token::{self, Audience, BACKDATED_SECS, Claims, OUR_CLAIM_VERSION, OurClaim};
use super::users::ANONYMOUS;
use crate::oci::scope::Scope;

/// Who has shown to be whom.
struct Shown {
    account: String,
    generation: String,
    /// The refresh token by which they did.
    by: Option<String>,
}

impl Auth {
    /// The token endpoint as a function.
    pub async fn token(&self, request: &TokenRequest<'_>) -> Result<TokenAnswer, TokenRefusal> {
        if self.authentication == Authentication::Open {
            let token = token::random_id().map_err(|()| TokenRefusal::Internal)?;
            return Ok(self.answer(String::new(), token, None));
        }
        let Some(key) = &self.signing else {
            return Err(TokenRefusal::NoIssuer);
        };
        let asked = request::read(request, self.scopes_max).map_err(|error| match error {
            Unreadable::Malformed(text) => TokenRefusal::Malformed(text),
            Unreadable::Credentials => self.unauthorized(),
        })?;
        let shown = self
            .identify(asked.credentials, &asked.service, request.origin)
            .await?;
        let access = asked.scopes.into_iter().map(|scope| {
            let fields = Fields {
                account: &shown.account,
                resource_type: &scope.resource_type,
                name: &scope.name,
                service: &asked.service,
            };
            let actions = self.granted(fields, request.origin, &scope.actions);
            Scope { actions, ..scope }
        });
        let access = access.collect();
        let refresh_token = if asked.wants_refresh_token {
            self.refresh_token(&shown, &asked.service)?
        } else {
            None
        };
        let iat = self.clock.unix_secs();
        let claims = Claims {
            iss: self.token.issuer.clone(),
            sub: shown.account.clone(),
            aud: Audience(vec![asked.service]),
            nbf: iat.saturating_sub(BACKDATED_SECS),
            iat,
            exp: iat.saturating_add(self.token.lifetime_secs),
            jti: token::random_id().map_err(|()| TokenRefusal::Internal)?,
            access,
            bh: Some(OurClaim {
                v: OUR_CLAIM_VERSION,
                generation: shown.generation,
            }),
        };
        let token = token::sign(&claims, key).map_err(|()| TokenRefusal::Internal)?;
        Ok(self.answer(shown.account, token, refresh_token))
    }

    fn unauthorized(&self) -> TokenRefusal {
        TokenRefusal::Unauthorized {
            challenge: challenge::basic(&self.token.issuer),
        }
    }

    async fn identify(
        &self,
        credentials: Credentials,
        service: &str,
        origin: &Origin,
    ) -> Result<Shown, TokenRefusal> {
        let login = match credentials {
            Credentials::Login(login) => login,
            Credentials::Anonymous => Login {
                account: ANONYMOUS.to_owned(),
                password: Vec::new(),
            },
            Credentials::Refresh { token, account } => {
                return self
                    .by_refresh_token(token, account.as_deref(), service)
                    .ok_or_else(|| self.unauthorized());
            }
        };
        match self.log_in(&login, origin).await {
            LoggedIn::As { generation } => Ok(Shown {
                generation,
                account: login.account,
                by: None,
            }),
            LoggedIn::No => Err(self.unauthorized()),
            LoggedIn::Later { retry_after_secs } => {
                Err(TokenRefusal::TooManyFailures { retry_after_secs })
            }
        }
    }

    /// Nothing slows guesses here: a MAC of 256 bits is not guessed, and costs nothing to check.
    fn by_refresh_token(
        &self,
        token: String,
        account: Option<&str>,
        service: &str,
    ) -> Option<Shown> {
        if !self.token.refresh_tokens {
            return None;
        }
        let claims = self.refresh_tokens.read(&token, self.clock.unix_secs())?;
        let is_for_this = claims.iss == self.token.issuer
            && claims.aud == service
            && account.is_none_or(|account| account == claims.sub);
        let is_current = self.generation_of(&claims.sub)? == claims.generation;
        (is_for_this && is_current).then_some(Shown {
            account: claims.sub,
            generation: claims.generation,
            by: Some(token),
        })
    }

    /// The refresh token to hand out. One that was shown comes back as it is: it is not prolonged, so that the password is
    /// needed again at its end.
    fn refresh_token(&self, shown: &Shown, service: &str) -> Result<Option<String>, TokenRefusal> {
        if shown.by.is_some() {
            return Ok(shown.by.clone());
        }
        if !self.token.refresh_tokens || shown.account == ANONYMOUS {
            return Ok(None);
        }
        let iat = self.clock.unix_secs();
        let claims = refresh::Claims {
            iss: self.token.issuer.clone(),
            sub: shown.account.clone(),
            aud: service.to_owned(),
            iat,
            exp: iat.saturating_add(refresh::LIFETIME_SECS),
            generation: shown.generation.clone(),
        };
        let token = self.refresh_tokens.issue(&claims);
        token.map(Some).map_err(|()| TokenRefusal::Internal)
    }

    fn answer(&self, account: String, token: String, refresh_token: Option<String>) -> TokenAnswer {
        TokenAnswer {
            account,
            token,
            expires_in_secs: self.token.lifetime_secs,
            refresh_token,
        }
    }
}
