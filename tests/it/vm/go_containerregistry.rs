//! go-containerregistry's transport, which is all of Geranos' way to a registry: pings, tokens, and which failures it takes
//! for temporary.

use std::sync::Mutex;
use std::time::Duration;

use http::{Method, StatusCode, Uri};

use super::wire::{Body, Wire};
use crate::client::Broken;
use crate::support::Answer;

pub(super) const HABITS: &[(&str, &str)] = &[
    ("user-agent", "go-containerregistry/v0.19.1"),
    ("accept-encoding", "gzip"),
];
/// Pauses between its tries, of a twentieth of the real length.
const TRANSPORT_PAUSES_MS: [u64; 2] = [5, 15];
/// Codes on which it begins a blob again; it gives up on any other.
const TEMPORARY: [&str; 4] = [
    "BLOB_UPLOAD_INVALID",
    "TOOMANYREQUESTS",
    "UNKNOWN",
    "UNAVAILABLE",
];

/// Why something was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is tried again.
    Temporary(String),
    /// The push, or the pull, ends.
    Final(String),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            // ECONNREFUSED is not among what it takes for temporary.
            Broken::Refused => Self::Final("connection refused".into()),
            Broken::Cut => Self::Temporary("connection reset".into()),
        }
    }
}

impl Failure {
    /// What it prints; its exit status is 0 all the same.
    pub(super) fn text(self) -> String {
        match self {
            Self::Temporary(text) | Self::Final(text) => text,
        }
    }
}

pub(super) type Outcome<T> = Result<T, Failure>;

/// A transport of go-containerregistry: realm, scopes and token.
pub(super) struct Transport<'a> {
    wire: &'a Wire,
    realm: Uri,
    service: String,
    scopes: Mutex<Vec<String>>,
    token: Mutex<String>,
}

impl<'a> Transport<'a> {
    /// A ping, for the challenge, and a token.
    pub(super) async fn new(wire: &'a Wire, scopes: Vec<String>) -> Outcome<Self> {
        let ping = try_again(|| wire.send(Method::GET, "/v2/", &[], Body::Empty));
        let ping = check(ping.await?, &[401])?;
        let transport = Self {
            wire,
            realm: challenge(&ping, "realm").expect("a realm").parse().unwrap(),
            service: challenge(&ping, "service").expect("a service"),
            scopes: Mutex::new(scopes),
            token: Mutex::default(),
        };
        // A newer one asks no realm on another host.
        let authority = transport.realm.authority().expect("absolute").as_str();
        assert_eq!(authority, wire.site.host());
        transport.refresh().await?;
        Ok(transport)
    }

    async fn refresh(&self) -> Outcome<()> {
        let scopes = self.scopes.lock().unwrap().clone();
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        pairs.extend(scopes.iter().map(|scope| ("scope", &**scope)));
        pairs.push(("service", &self.service));
        let target = format!("{}{}", self.realm.path(), query(&pairs));
        let basic = self.wire.site.basic();
        let headers = [("authorization", &*basic)];
        let token = try_again(|| self.wire.send(Method::GET, &target, &headers, Body::Empty));
        let token = check(token.await?, &[200])?.json();
        // With one it would go on by POST.
        assert!(token.get("refresh_token").is_none(), "{token}");
        let token = token["token"].as_str().expect("a token");
        token.clone_into(&mut self.token.lock().unwrap());
        Ok(())
    }

    /// As it asks for everything but uploads.
    pub(super) async fn ask_again(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Outcome<Answer> {
        for pause_ms in TRANSPORT_PAUSES_MS {
            let asked = self.ask(method.clone(), target, headers, Body::Empty);
            match asked.await {
                Err(Failure::Temporary(_)) => {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                }
                outcome => return outcome,
            }
        }
        self.ask(method, target, headers, Body::Empty).await
    }

    /// With the token; on a challenge with a new one, for the scope of the challenge as well.
    pub(super) async fn ask(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Outcome<Answer> {
        let is_streamed = matches!(body, Body::Part(..) | Body::Halting(..));
        for attempt in 0..2 {
            let bearer = self.bearer();
            let headers = [headers, &[("authorization", &*bearer)]].concat();
            let answer = self
                .wire
                .send(method.clone(), target, &headers, body.clone());
            let answer = answer.await?;
            if answer.status != StatusCode::UNAUTHORIZED || attempt == 1 {
                return Ok(answer);
            }
            if is_streamed {
                return Err(Failure::Final(format!("its body is consumed: {answer:?}")));
            }
            if let Some(scope) = challenge(&answer, "scope") {
                let mut scopes = self.scopes.lock().unwrap();
                if !scopes.contains(&scope) {
                    scopes.insert(0, scope);
                }
            }
            self.refresh().await?;
        }
        unreachable!("the second attempt returns")
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.token.lock().unwrap())
    }

    /// The same, for another worker.
    pub(super) fn again(&self) -> Self {
        Self {
            wire: self.wire,
            realm: self.realm.clone(),
            service: self.service.clone(),
            scopes: Mutex::new(self.scopes.lock().unwrap().clone()),
            token: Mutex::new(self.token.lock().unwrap().clone()),
        }
    }
}

/// What it does with everything but uploads: on a broken connection, or an overloaded server, it asks again.
async fn try_again<F: Future<Output = Result<Answer, Broken>>>(
    ask: impl Fn() -> F,
) -> Outcome<Answer> {
    for pause_ms in TRANSPORT_PAUSES_MS {
        match ask().await {
            Err(Broken::Cut) => {}
            Ok(answer) if [408, 500, 502, 503, 504].contains(&answer.status.as_u16()) => {}
            other => return Ok(other?),
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
    Ok(ask().await?)
}

/// `?name=value&…`, escaped as Go does.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
    for (name, value) in pairs {
        query.append_pair(name, value);
    }
    query.finish()
}

/// A parameter of the challenge.
pub(super) fn challenge(answer: &Answer, name: &str) -> Option<String> {
    let challenge = answer.header("www-authenticate");
    let parameters = challenge.strip_prefix("Bearer ").expect(challenge);
    // Values hold commas, but no quotes.
    let start = format!("{name}=\"");
    let at = parameters.find(&start)? + start.len();
    let value = parameters[at..].split('"').next()?;
    Some(value.to_owned())
}

/// Where to go on: always a path here, since other hosts are not believed by newer clients.
pub(super) fn location(answer: &Answer) -> &str {
    let location = answer.header("location");
    assert!(location.starts_with("/v2/"), "{location}");
    location
}

pub(super) fn check(answer: Answer, expected: &[u16]) -> Outcome<Answer> {
    if expected.contains(&answer.status.as_u16()) {
        return Ok(answer);
    }
    let errors = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default();
    let text = format!("{answer:?}");
    let is_temporary = match errors["errors"].as_array() {
        Some(errors) if !errors.is_empty() => errors
            .iter()
            .all(|error| TEMPORARY.contains(&error["code"].as_str().unwrap_or_default())),
        _ => [408, 500, 502, 503, 504].contains(&answer.status.as_u16()),
    };
    Err(if is_temporary {
        Failure::Temporary(text)
    } else {
        Failure::Final(text)
    })
}
