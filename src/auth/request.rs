//! Reading a token request: query, form, credentials, scopes.
//!
//! Must not know users or rules. Invariant: credentials come from the header or the form only, and what was meant as
//! credentials never ends as an anonymous request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

use super::access::Origin;
use crate::oci::scope::Scope;

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
pub(super) struct Asked {
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
pub(super) enum Credentials {
    /// Nobody.
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
pub(super) struct Login {
    pub account: String,
    pub password: Vec<u8>,
}

/// Why a request is not judged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Malformed(String),
    /// Credentials that cannot be right.
    Credentials,
}

/// Reads a request.
pub(super) fn read(request: &TokenRequest<'_>, scopes_max: usize) -> Result<Asked, Unreadable> {
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
pub(super) fn decode_basic(credentials: &str) -> Option<Login> {
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
