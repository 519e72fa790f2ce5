//! The token endpoint: who asks, and the token that says what they may do.
//!
//! Must not know HTTP. Invariant: a token for an account is issued only for its password or a refresh token of its present
//! generation, and no token says more than the rules of now.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use super::{
    self as token, Audience, BACKDATED_SECS, Claims, OUR_CLAIM_VERSION, OurClaim, refresh,
};
use crate::auth::access::{self, Details, Origin, TokenAnswer, TokenRefusal};
use crate::auth::accounts::{ANONYMOUS, Labels};
use crate::auth::passwords::Freshness;
use crate::auth::rules::Fields;
use crate::auth::service::{Auth, LoggedIn};
use crate::auth::settings::Authentication;
use crate::oci::scope::Scope;

/// Who has shown to be whom.
struct Shown {
    account: String,
    generation: String,
    /// Of an account that is in no list.
    labels: Option<Arc<Labels>>,
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
        let asked = read(request, self.scopes_max).map_err(|error| match error {
            Unreadable::Malformed(text) => TokenRefusal::Malformed(text),
            Unreadable::Credentials => self.unauthorized(Details::default()),
        })?;
        let shown = self
            .identify(asked.credentials, &asked.service, request.origin)
            .await?;
        let (mut access, mut by_program) = (Vec::new(), Vec::new());
        for scope in asked.scopes {
            let fields = Fields {
                account: &shown.account,
                resource_type: &scope.resource_type,
                name: &scope.name,
                service: &asked.service,
            };
            let (labels, origin) = (shown.labels.as_deref(), request.origin);
            let actions = match self.granted(fields, labels, origin, &scope.actions) {
                Some(actions) => actions,
                None if self
                    .program_grants(fields, labels, origin, &scope.actions)
                    .await
                    .map_err(TokenRefusal::Unavailable)? =>
                {
                    by_program.push(access.len());
                    scope.actions.clone()
                }
                None => Vec::new(),
            };
            access.push(Scope { actions, ..scope });
        }
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
            bh: self.token.names_generation.then_some(OurClaim {
                v: OUR_CLAIM_VERSION,
                generation: shown.generation,
                labels: shown.labels.as_deref().cloned(),
                by_program,
            }),
        };
        let token = key.sign(&claims).map_err(|()| TokenRefusal::Internal)?;
        Ok(self.answer(shown.account, token, refresh_token))
    }

    fn unauthorized(&self, details: Details) -> TokenRefusal {
        TokenRefusal::Unauthorized {
            challenge: access::basic(&self.token.issuer),
            details,
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
                    .await
                    .ok_or_else(|| self.unauthorized(Details::default()));
            }
        };
        match self.log_in(&login, origin, Freshness::Now).await {
            LoggedIn::As { generation, labels } => Ok(Shown {
                generation,
                labels,
                account: login.account,
                by: None,
            }),
            LoggedIn::No => Err(self.unauthorized(self.details_of(&login))),
            LoggedIn::Later { retry_after_secs } => Err(TokenRefusal::TooManyFailures {
                retry_after_secs,
                details: self.details_of(&login),
            }),
            LoggedIn::Unavailable(reason) => Err(TokenRefusal::Unavailable(reason)),
        }
    }

    /// Nothing slows guesses here: a MAC of 256 bits is not guessed, and costs nothing to check.
    async fn by_refresh_token(
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
        let is_current = self.generation_in(&self.now().await, &claims.sub)? == claims.generation;
        (is_for_this && is_current).then_some(Shown {
            account: claims.sub,
            generation: claims.generation,
            labels: None,
            by: Some(token),
        })
    }

    /// The refresh token to hand out. One that was shown comes back as it is: it is not prolonged, so that the password is
    /// needed again at its end.
    fn refresh_token(&self, shown: &Shown, service: &str) -> Result<Option<String>, TokenRefusal> {
        if shown.by.is_some() {
            return Ok(shown.by.clone());
        }
        // Only an external authenticator knows whether an account of its own still exists.
        let may_keep_one = shown.account != ANONYMOUS && shown.labels.is_none();
        if !self.token.refresh_tokens || !may_keep_one {
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

/// A request to the token endpoint: GET, HEAD or POST, already bounded by the server.
pub struct TokenRequest<'a> {
    /// The raw query, without `?`.
    pub query: &'a str,
    /// The raw form body of a POST.
    pub form: Option<&'a str>,
    /// The values of the `Authorization` headers.
    pub authorization: &'a [&'a str],
    /// Where it comes from.
    pub origin: &'a Origin,
}

impl std::fmt::Debug for TokenRequest<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TokenRequest")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// What is asked.
#[derive(PartialEq, Eq)]
struct Asked {
    /// As whom.
    pub credentials: Credentials,
    /// Whether a refresh token is asked for too (`offline_token=true`, `access_type=offline`).
    pub wants_refresh_token: bool,
    /// For which service; may be empty.
    pub service: String,
    /// For what; may be nothing.
    pub scopes: Vec<Scope>,
}

/// Who the client says it is.
#[derive(PartialEq, Eq)]
enum Credentials {
    /// No account.
    Anonymous,
    /// An account with its password.
    Login(Login),
    /// Whom a refresh token was given to (`grant_type=refresh_token`).
    Refresh {
        token: String,
        /// The account, where the client names it.
        account: Option<String>,
    },
}

/// Account and password as sent.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::auth) struct Login {
    pub account: String,
    pub password: Vec<u8>,
}

/// Why a request is not judged.
#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    Malformed(String),
    /// Credentials that cannot be right.
    Credentials,
}

/// Reads a request.
fn read(request: &TokenRequest<'_>, scopes_max: usize) -> Result<Asked, Unreadable> {
    let form = pairs(request.form.unwrap_or_default());
    let query = pairs(request.query);
    let first = |name: &str| -> Option<&str> {
        let mut both = form.iter().chain(&query);
        let (_, value) = both.find(|(key, _)| key == name)?;
        Some(value)
    };
    let account = first("account").filter(|account| !account.is_empty());
    let refresh = refresh_token(&form)?;
    let credentials = match (basic(request.authorization)?, refresh) {
        (Some(_), Some(_)) => {
            let text = "a password and a refresh token at once";
            return Err(Unreadable::Malformed(text.to_owned()));
        }
        (Some(login), None) => {
            if account.is_some_and(|account| account != login.account) {
                let text = "user and account are not the same";
                return Err(Unreadable::Malformed(text.to_owned()));
            }
            Credentials::Login(login)
        }
        (None, Some(token)) => Credentials::Refresh {
            token: token.to_owned(),
            account: account.map(str::to_owned),
        },
        (None, None) => form_login(&form, account)?,
    };
    let mut scopes = Vec::new();
    let values = form.iter().chain(&query).filter(|(key, _)| key == "scope");
    for text in values.flat_map(|(_, value)| value.split(' ')) {
        if text.is_empty() {
            continue;
        }
        if scopes.len() == scopes_max {
            return Err(Unreadable::Malformed("too many scopes".to_owned()));
        }
        let scope: Scope = text
            .parse()
            .map_err(|error| Unreadable::Malformed(format!("invalid scope: {error}")))?;
        scopes.push(scope);
    }
    Ok(Asked {
        credentials,
        wants_refresh_token: first("offline_token") == Some("true")
            || first("access_type") == Some("offline"),
        service: first("service").unwrap_or_default().to_owned(),
        scopes,
    })
}

/// A form's field; one that is not there is empty.
fn field<'a>(form: &'a [(String, String)], name: &str) -> &'a str {
    let found = form.iter().find(|(key, _)| key == name);
    found.map_or("", |(_, value)| value)
}

/// The refresh token of a form that asks by one: by its `grant_type`, or by bringing nothing else.
fn refresh_token(form: &[(String, String)]) -> Result<Option<&str>, Unreadable> {
    let token = field(form, "refresh_token");
    match (field(form, "grant_type"), token) {
        ("refresh_token", "") => Err(Unreadable::Credentials),
        ("refresh_token", token) => Ok(Some(token)),
        (_, token) => Ok(Some(token).filter(|token| {
            let has_login = ["username", "password"]
                .iter()
                .any(|name| !field(form, name).is_empty());
            !token.is_empty() && !has_login
        })),
    }
}

fn form_login(form: &[(String, String)], account: Option<&str>) -> Result<Credentials, Unreadable> {
    match (field(form, "username"), field(form, "password"), account) {
        ("", "", None) => Ok(Credentials::Anonymous),
        // Half a pair, or a name alone.
        ("", ..) | (_, "", _) => Err(Unreadable::Credentials),
        (user, password, account) => Ok(Credentials::Login(Login {
            account: account.unwrap_or(user).to_owned(),
            password: password.as_bytes().to_vec(),
        })),
    }
}

/// The credentials of a `Basic` header.
fn basic(authorization: &[&str]) -> Result<Option<Login>, Unreadable> {
    match authorization {
        [] => Ok(None),
        [value] => match value.split_once(' ') {
            Some((scheme, credentials)) if scheme.eq_ignore_ascii_case("Basic") => {
                decode_basic(credentials)
                    .map(Some)
                    .ok_or(Unreadable::Credentials)
            }
            _ => Err(Unreadable::Credentials),
        },
        _ => Err(Unreadable::Malformed(
            "more than one Authorization header".to_owned(),
        )),
    }
}

/// `base64(account:password)`; the account is text, the password any bytes.
pub(in crate::auth) fn decode_basic(credentials: &str) -> Option<Login> {
    let bytes = STANDARD.decode(credentials).ok()?;
    let colon = bytes.iter().position(|&byte| byte == b':')?;
    let (account, password) = bytes.split_at_checked(colon)?;
    Some(Login {
        account: String::from_utf8(account.to_vec()).ok()?,
        password: password.get(1..)?.to_vec(),
    })
}

/// The pairs of a query or form. As in Go, one with a `;` or a broken escape is passed over.
fn pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Option<String> {
    let is_whole = text.split('%').skip(1).all(|behind| {
        let digits = behind.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    let spaced = text.replace('+', " ");
    is_whole.then(|| percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}
