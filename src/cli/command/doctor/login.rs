//! Logging in, as clients do it: the challenge, the token, and whether the registry takes it.
//!
//! Must not know what the token is used for. Invariant: a password goes only where the registry itself sends its clients, and
//! never over plain HTTP from a registry that speaks https.

use anyhow::{Context, anyhow, bail};
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Request, StatusCode, Uri};

use super::credentials::Credentials;
use super::report::Finding;
use crate::client::http::{self as client, Answer, Client, Connection, Server};
use crate::host_port::{HostPort, default_port};
use crate::oci::RepositoryName;

/// What opens the registry.
pub(in crate::cli::command) struct Login {
    /// The value of `Authorization`; `None` where nothing is asked.
    pub(in crate::cli::command) authorization: Option<String>,
    /// Who that is; empty where nothing is asked.
    pub(super) account: String,
}

impl Login {
    /// The account, as messages name it.
    pub(super) fn shown_account(&self) -> &str {
        match self.account.as_str() {
            "" => "a caller without a login",
            account => account,
        }
    }
}

/// The request that finds out what a registry asks for.
pub(super) fn ping() -> anyhow::Result<Request<client::Body>> {
    Ok(Request::get("/v2/").body(client::empty())?)
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Bearer { realm: String, service: String },
    Basic,
}

/// Logs in, for pushing to, pulling from and deleting in `repository`. `asked` is the answer to `GET /v2/` on `connection`.
pub(in crate::cli::command) async fn log_in(
    client: &Client,
    server: &Server,
    connection: &mut Connection,
    asked: Answer,
    credentials: Option<&Credentials>,
    repository: &RepositoryName,
) -> anyhow::Result<Finding<Login>> {
    let status = asked.status();
    let challenge = challenge(asked.headers());
    connection.read(asked).await?;
    match status {
        StatusCode::OK => {
            let login = Login {
                authorization: None,
                account: String::new(),
            };
            return Ok(Finding::new("not needed: the registry is open", login));
        }
        StatusCode::UNAUTHORIZED => {}
        StatusCode::NOT_FOUND => bail!(
            "the server there is not a registry: it has no /v2/\nhint: check the address; `boathouse welcome` prints it on the registry's machine"
        ),
        StatusCode::BAD_REQUEST if !server.is_tls => {
            bail!("the server there does not accept plain HTTP\nhint: leave out --plain-http")
        }
        status => bail!("the registry answers {status} to GET /v2/"),
    }
    let challenge = challenge.context("the registry refuses without saying how to log in")?;
    let credentials = credentials.with_context(|| {
        let registry = &server.address;
        format!("the registry asks for a login, and no client on this machine keeps one for {registry}\nhint: name an account: --username NAME --password-stdin")
    })?;
    let authorization = match challenge {
        Challenge::Basic => credentials.basic(),
        Challenge::Bearer { realm, service } => {
            let token = token(client, server, &realm, &service, credentials, repository).await?;
            format!("Bearer {token}")
        }
    };
    let request = Request::get("/v2/")
        .header(AUTHORIZATION, &authorization)
        .body(client::empty())?;
    let answer = connection.send(request, 0).await?;
    let status = answer.status();
    connection.read(answer).await?;
    let account = credentials.account.clone();
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED if authorization.starts_with("Basic") => {
            return Err(refused(&account));
        }
        status => bail!(
            "the registry answers {status} to its own token\nhint: are the issuer, service and certificate of `auth.token` those of the program that issues tokens?"
        ),
    }
    let found = format!("as {account}, by {}", credentials.source);
    let login = Login {
        authorization: Some(authorization),
        account,
    };
    Ok(Finding::new(found, login))
}

/// The first repository that the account may see; `None` if it sees none, or may not ask.
pub(super) async fn first_repository(
    connection: &mut Connection,
    login: &Login,
) -> anyhow::Result<Option<RepositoryName>> {
    #[derive(serde::Deserialize)]
    struct Catalog {
        repositories: Vec<String>,
    }
    let mut request = Request::get("/v2/_catalog?n=1");
    if let Some(authorization) = &login.authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let answer = connection.send(request.body(client::empty())?, 0).await?;
    let body = connection.read(answer).await?;
    let catalog: Option<Catalog> = serde_json::from_slice(&body).ok();
    let first = catalog.and_then(|catalog| catalog.repositories.into_iter().next());
    Ok(first.and_then(|name| name.parse().ok()))
}

async fn token(
    client: &Client,
    server: &Server,
    realm: &str,
    service: &str,
    credentials: &Credentials,
    repository: &RepositoryName,
) -> anyhow::Result<String> {
    let (issuer, path) = parse_realm(realm)
        .with_context(|| format!("the registry names {realm} as its token endpoint, which is not a URL\nhint: correct `auth.token.realm` in its config"))?;
    if server.is_tls && !issuer.is_tls {
        bail!(
            "the registry speaks https, and its token endpoint {realm} does not: the password would be sent unencrypted\nhint: correct `auth.token.realm` or `http.host` in its config; behind a proxy, `http.trusted_proxies`"
        );
    }
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("service", service)
        .append_pair("account", &credentials.account)
        .append_pair(
            "scope",
            &format!("repository:{repository}:pull,push,delete"),
        )
        .finish();
    let separator = if path.contains('?') { '&' } else { '?' };
    let request = Request::get(format!("{path}{separator}{query}"))
        .header(AUTHORIZATION, credentials.basic())
        .body(client::empty())?;
    let answer = async {
        let mut connection = client.connect(&issuer).await?;
        let answer = connection.send(request, 0).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = connection.read(answer).await?;
        anyhow::Ok((status, headers, body))
    };
    let (status, headers, body) = answer
        .await
        .with_context(|| format!("cannot ask {realm} for a token"))?;
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err(refused(&credentials.account)),
        StatusCode::TOO_MANY_REQUESTS => {
            let wait = headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok());
            bail!(
                "too many failed logins\nhint: wait {} s; another client may be retrying an old password",
                wait.unwrap_or("60")
            )
        }
        status => bail!("{realm} answers {status} to the request for a token"),
    }
    let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let token = parsed.get("token").or_else(|| parsed.get("access_token"));
    let token = token.and_then(serde_json::Value::as_str);
    token
        .map(str::to_owned)
        .with_context(|| format!("the answer of {realm} has no token in it"))
}

fn refused(account: &str) -> anyhow::Error {
    anyhow!(
        "the name or the password of {account} is wrong\nhint: on the registry's machine, `boathouse user list` shows who there is, and `boathouse user passwd {account}` makes a new password"
    )
}

/// Bearer if it is offered, since every client takes it.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    let values: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    let of_scheme = |scheme: &str| {
        let mut rest = values.iter().filter_map(|value| {
            let (found, rest) = value.split_once(' ').unwrap_or((value, ""));
            found.eq_ignore_ascii_case(scheme).then_some(rest)
        });
        rest.next()
    };
    if let Some(rest) = of_scheme("bearer") {
        return Some(Challenge::Bearer {
            realm: parameter(rest, "realm")?,
            service: parameter(rest, "service").unwrap_or_default(),
        });
    }
    of_scheme("basic").map(|_| Challenge::Basic)
}

/// A parameter's value: what is between its quotes.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (found, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(characters.next()?.1),
                (_, character) => value.push(character),
            }
        };
        let found = found.trim_start_matches([',', ' ']);
        if found.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = after.get(end + 1..)?;
    }
}

/// Where a realm is, and its path with its query.
fn parse_realm(realm: &str) -> Option<(Server, String)> {
    let uri: Uri = realm.parse().ok()?;
    let is_tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let port = uri.port_u16().unwrap_or(default_port(is_tls));
    let address = HostPort::new(uri.host()?, port).ok()?;
    let path = uri.path_and_query()?.as_str().to_owned();
    Some((Server { address, is_tls }, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenged(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, http::HeaderValue::from_static(value));
        }
        challenge(&headers)
    }

    #[test]
    fn a_challenge_is_read_however_it_is_ordered() {
        let bearer = challenged(&[
            "Basic realm=\"x\"",
            r#"bearer service="a \"lab\"", realm="https://lab/token",scope="repository:a:pull""#,
        ]);
        let expected = Challenge::Bearer {
            realm: "https://lab/token".into(),
            service: "a \"lab\"".into(),
        };
        assert_eq!(bearer, Some(expected));
        assert_eq!(challenged(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(challenged(&["Bearer service=\"x\""]), None);
        assert_eq!(challenged(&[]), None);
    }

    #[test]
    fn a_realm_is_an_address() {
        let (server, path) = parse_realm("https://[::1]:5443/token?x=1").unwrap();
        assert_eq!(server.address.to_string(), "[::1]:5443");
        assert!(server.is_tls && path == "/token?x=1");
        let (server, path) = parse_realm("http://lab/auth").unwrap();
        assert_eq!((server.address.port(), path.as_str()), (80, "/auth"));
        assert!(parse_realm("/token").is_none() && parse_realm("ftp://lab/").is_none());
    }
}
