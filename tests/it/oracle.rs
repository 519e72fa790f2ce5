//! What the real `docker_auth` decided, asked of our token endpoint as a function.
//!
//! Intended differences are the rules of [`difference`], each with its reason and its count; anything else fails.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test states its expectations by panicking, in its helpers too"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use boathouse::auth::{
    Access, Accounts, Auth, Authentication, Limits, Origin, Rule, RuleText, Secret, Settings,
    SigningKeyPem, TokenRefusal, TokenRequest, TokenSettings, User, make_token_key,
};
use boathouse::clock::ManualClock;
use boathouse::server::{self, RealIp};
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

const ACL: &str = include_str!("../oracle/docker-auth-acl.jsonl");
const TOKENS: &str = include_str!("../oracle/docker-auth-tokens.jsonl");

/// Some time after the recorded tokens were made.
const NOW: u64 = 1_795_500_000;

/// What the token endpoint said.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u64,
    sub: Value,
    aud: Value,
    access: Value,
}

impl Answer {
    fn refused(status: u64) -> Self {
        Self {
            status,
            sub: Value::Null,
            aud: Value::Null,
            access: Value::Null,
        }
    }

    fn recorded(request: &Value) -> Self {
        Self {
            status: request["status"].as_u64().unwrap_or(0),
            sub: request["sub"].clone(),
            aud: request["aud"].clone(),
            access: request["access"].clone(),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(text).collect()
}

fn rule(entry: &Value) -> Option<Rule> {
    let matched = entry["match"].as_object()?;
    let field = |name: &str| matched.get(name).and_then(text);
    let labels = matched.get("labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    entry["actions"].as_array()?;
    Rule::parse(RuleText {
        account: field("account"),
        r#type: field("type"),
        name: field("name"),
        service: field("service"),
        ip: field("ip"),
        labels: labels
            .filter_map(|(label, pattern)| Some((label.clone(), text(pattern)?)))
            .collect(),
        actions: strings(&entry["actions"]),
        ..RuleText::default()
    })
    .map_err(|error| eprintln!("{entry}: {error}"))
    .ok()
}

fn users(config: &Value) -> BTreeMap<String, User> {
    let users = config["users"].as_object().into_iter().flatten();
    users
        .filter(|(_, user)| user.is_object())
        .map(|(name, user)| {
            let labels = user["labels"].as_object().into_iter().flatten();
            let user = User {
                password_hash: text(&user["password"]),
                labels: labels
                    .map(|(label, values)| (label.clone(), strings(values)))
                    .collect(),
                ..User::default()
            };
            (name.clone(), user)
        })
        .collect()
}

fn auth(config: &Value, signing: &SigningKeyPem) -> Option<Auth> {
    let entries = config["acl"].as_array().into_iter().flatten();
    let settings = Settings {
        authentication: Authentication::Required,
        accounts: Accounts {
            users: users(config),
            acl: entries.map(rule).collect::<Option<_>>()?,
            ..Accounts::default()
        },
        token: TokenSettings {
            issuer: text(&config["token"]["issuer"])?,
            signing: Some(signing.clone()),
            ..TokenSettings::default()
        },
        secret: Secret([7; 32]),
        limits: Limits {
            failed_logins_per_minute: 0,
            ..Limits::default()
        },
        ..Settings::default()
    };
    let clock = Arc::new(ManualClock::at_unix_secs(NOW));
    Some(Auth::new(settings, clock).expect("the settings of a config that docker_auth took"))
}

/// The values of a header, in order.
fn header(request: &Value, name: &str) -> Vec<String> {
    let headers = request["headers"].as_object().into_iter().flatten();
    headers
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .flat_map(|(_, value)| text(value).map_or_else(|| strings(value), |one| vec![one]))
        .map(|value| value.trim().to_owned())
        .collect()
}

/// The headers of a request as the server receives them: `Host` too, which is not recorded.
fn headers(request: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("127.0.0.1"));
    let recorded = request["headers"].as_object().into_iter().flatten();
    for (name, value) in recorded {
        let values = text(value).map_or_else(|| strings(value), |one| vec![one]);
        for value in values {
            // As hyper reads a line: without the white space around the value.
            let value = HeaderValue::from_str(value.trim()).expect("a header's value");
            headers.append(name.parse::<HeaderName>().expect("a header's name"), value);
        }
    }
    headers
}

/// The address that the server judges a request by.
fn client(config: &Value, headers: &HeaderMap) -> Option<IpAddr> {
    let server = &config["server"];
    let named = text(&server["real_ip_header"]);
    if server["net"] == "unix" && named.is_none() {
        // A socket without addresses, which we have not.
        return None;
    }
    let is_six = server["addr"]
        .as_str()
        .is_some_and(|addr| addr.starts_with("[::1]"));
    let peer = if is_six { "[::1]:1" } else { "127.0.0.1:1" };
    let position = server["real_ip_pos"].as_i64().unwrap_or(0);
    let mut settings = server::Settings::for_tests();
    settings.real_ip = named.map(|header| RealIp {
        header,
        position: position.try_into().expect("a small number"),
    });
    server::token_client(&settings, peer.parse().expect("an address"), headers)
}

async fn ask(auth: &Auth, config: &Value, request: &Value) -> Answer {
    let headers = headers(request);
    let Some(client) = client(config, &headers) else {
        return Answer::refused(400);
    };
    let mut authorization = header(request, "Authorization");
    if let [user, password] = strings(&request["basic"]).as_slice() {
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        authorization.push(format!("Basic {credentials}"));
    }
    let authorization: Vec<&str> = authorization.iter().map(String::as_str).collect();
    let origin = Origin {
        client,
        is_https: false,
        host: "registry.lab".to_owned(),
    };
    let is_form = request["method"] == "POST" && server::is_form(&headers);
    let answer = auth
        .token(&TokenRequest {
            query: request["query"].as_str().unwrap_or_default(),
            form: request["form"].as_str().filter(|_| is_form),
            authorization: &authorization,
            origin: &origin,
        })
        .await;
    match answer {
        Ok(_) if request["method"] == "HEAD" => Answer::refused(200),
        Ok(answer) => {
            let claims = answer.token.split('.').nth(1).expect("three parts");
            let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64url");
            let claims: Value = serde_json::from_slice(&claims).expect("JSON");
            Answer {
                status: 200,
                sub: claims["sub"].clone(),
                aud: claims["aud"].clone(),
                access: claims["access"].clone(),
            }
        }
        Err(TokenRefusal::Malformed(_)) => Answer::refused(400),
        Err(TokenRefusal::Unauthorized { .. }) => Answer::refused(401),
        Err(refusal) => panic!("{refusal}"),
    }
}

/// The values of a parameter, in the query or a form.
fn parameters(source: &Value, name: &str) -> Vec<String> {
    let pairs = source.as_str().unwrap_or_default().split('&');
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value.replace('+', " ").replace("%20", " "))
        .collect()
}

/// Whether the first answer grants nothing that the second does not: each list is of the same scopes, in order.
fn grants_no_more(ours: &Answer, recorded: &Answer) -> bool {
    let lists = |answer: &Answer| answer.access.as_array().cloned().unwrap_or_default();
    let (ours, recorded) = (lists(ours), lists(recorded));
    let is_within = |(ours, recorded): (&Value, &Value)| {
        let granted = strings(&recorded["actions"]);
        ours["name"] == recorded["name"]
            && strings(&ours["actions"])
                .iter()
                .all(|action| granted.contains(action))
    };
    ours.len() == recorded.len() && ours.iter().zip(&recorded).all(is_within)
}

/// An intended difference, by its reason. `None`: there is no reason to differ.
fn difference(config: &Value, request: &Value, ours: &Answer) -> Option<&'static str> {
    let asked = |name: &str| {
        let mut values = parameters(&request["form"], name);
        values.extend(parameters(&request["query"], name));
        values
    };
    let is_empty = |values: &[String]| values.iter().all(String::is_empty);
    let user = strings(&request["basic"]).first().cloned();
    let account = user.clone().unwrap_or_default();
    let stored = config["users"][&account]["password"].as_str();
    let is_strict = |hash: &str| {
        ["$2a$", "$2b$", "$2x$", "$2y$"].contains(&&hash[..4.min(hash.len())])
            && hash.len() == 60
            // The last letter of the salt has four bits to spare, which must be zero.
            && ".Oeu".contains(&hash[28..29])
    };
    let prefix = config["server"]["path_prefix"].as_str().unwrap_or_default();
    let path = request["path"].as_str().unwrap_or_default();
    let is_endpoint = ["/auth", "/auth/token"].contains(&path) && prefix.is_empty();
    let authorization = header(request, "Authorization");
    // What a matcher reads as more than a letter, in a text that a placeholder can bring.
    let is_syntax = |text: &str| text.contains(|c: char| "/*?[]\\.+()|^$-{}".contains(c));
    let labels = config["users"][&account]["labels"].as_object();
    let brings_syntax = is_syntax(&account)
        || asked("service")
            .iter()
            .any(|service| service.contains(['/', '*', '[']) || service.contains("%2F"))
        || labels
            .into_iter()
            .flatten()
            .any(|(_, values)| strings(values).iter().any(|v| is_syntax(v)));
    // An empty value may narrow what docker_auth grants, and never widen it.
    let only_narrows = config["acl"].to_string().contains("${")
        && request["status"] == 200
        && grants_no_more(ours, &Answer::recorded(request));
    let brings_nothing = account.is_empty()
        // A group of an expression may be empty for anybody.
        || config["acl"].to_string().contains("${account:")
        || is_empty(&asked("service"))
        || labels
            .into_iter()
            .flatten()
            .any(|(_, values)| strings(values).iter().any(String::is_empty));
    if !["GET", "HEAD", "POST"].contains(&request["method"].as_str().unwrap_or_default()) {
        Some("method: only GET, HEAD and POST ask for tokens")
    } else if !request["panic"].is_null()
        || config["acl"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|entry| entry["actions"].is_null())
    {
        Some("panic: docker_auth died of it, we refuse the rule at start or answer 400")
    } else if config["ext_auth"].is_object() || config["ext_authz"].is_object() {
        Some("external: commands that decide are not built yet")
    } else if !is_endpoint {
        Some("path: the server routes, not this function")
    } else if strings(&request["basic"])
        .iter()
        .any(|part| part.contains('\0'))
    {
        Some("NUL: a password ends at none, so one that holds it is refused")
    } else if authorization.len() > 1 {
        Some("credentials twice: refused instead of taking the first")
    } else if request["method"] == "POST" && !is_empty(&parameters(&request["query"], "password")) {
        Some("credentials in the query: they end in logs, so they do not count")
    } else if header(request, "Content-Type")
        .iter()
        .any(|kind| kind.starts_with("multipart"))
    {
        Some("multipart: no client sends it")
    } else if request["method"] == "POST"
        && user.is_none()
        && is_empty(&parameters(&request["form"], "username"))
            != is_empty(&parameters(&request["form"], "password"))
    {
        Some("half of the credentials: 401 instead of anonymous")
    } else if asked("scope")
        .iter()
        .any(|scope| scope.split(' ').any(str::is_empty))
    {
        Some("empty scope: passed over, the others are judged")
    } else if user.is_none() && authorization.is_empty() && !is_empty(&asked("account")) {
        Some("account alone: a name without credentials is nobody")
    } else if stored.is_some_and(|hash| !is_strict(hash)) {
        Some("bcrypt: 2a, 2b, 2x and 2y, with nothing behind")
    } else if authorization.len() == 1 {
        Some("broken credentials: 401 instead of anonymous")
    } else if config["acl"].to_string().contains("${") && request["status"] == 200 && brings_syntax
    {
        Some("quoting: what is substituted stands for itself")
    } else if only_narrows && brings_nothing {
        Some("empty: an empty value matches nothing")
    } else if request["access"]
        .to_string()
        .contains(char::REPLACEMENT_CHARACTER)
    {
        Some("text: names are UTF-8")
    } else {
        None
    }
}

/// What differs, shortly: the scopes on which both disagree.
fn described(id: &Value, request: &Value, recorded: &Answer, ours: &Answer) -> String {
    let lists = |answer: &Answer| answer.access.as_array().cloned().unwrap_or_default();
    let (of_us, of_them) = (lists(ours), lists(recorded));
    let scopes = of_us
        .iter()
        .zip(&of_them)
        .filter(|(one, other)| one != other);
    let scopes: Vec<String> = scopes
        .map(|(one, other)| format!("    ours {one}\n    there {other}"))
        .collect();
    format!(
        "{id} {} {} {} query {} form {} headers {}\n  ours {} {} {}, there {} {} {}\n{}",
        request["method"],
        request["path"],
        request["basic"],
        request["query"],
        request["form"],
        request["headers"],
        ours.status,
        ours.sub,
        ours.aud,
        recorded.status,
        recorded.sub,
        recorded.aud,
        scopes.join("\n")
    )
}

fn judge(line: &str, signing: &SigningKeyPem) -> (BTreeMap<&'static str, usize>, Vec<String>) {
    let case: Value = serde_json::from_str(line).expect("JSON");
    let config = &case["config"];
    let mut counts = BTreeMap::new();
    let mut wrong = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let auth = auth(config, signing);
    for request in case["requests"].as_array().into_iter().flatten() {
        let recorded = Answer::recorded(request);
        let ours = match &auth {
            Some(auth) => runtime.block_on(ask(auth, config, request)),
            None => Answer::refused(0),
        };
        if ours == recorded {
            *counts.entry("the same").or_default() += 1;
        } else if let Some(reason) = difference(config, request, &ours) {
            *counts.entry(reason).or_default() += 1;
        } else {
            wrong.push(described(&case["id"], request, &recorded, &ours));
        }
    }
    (counts, wrong)
}

#[test]
fn docker_auth_decided_the_same() {
    let clock = ManualClock::at_unix_secs(NOW);
    let signing = make_token_key(&clock).expect("a key");
    let lines: Vec<&str> = ACL.lines().collect();
    let mut counts = BTreeMap::new();
    let mut wrong = Vec::new();
    std::thread::scope(|scope| {
        let part = |first: usize| {
            let (lines, signing) = (&lines, &signing);
            scope.spawn(move || {
                let mine = lines.iter().skip(first).step_by(2);
                mine.map(|line| judge(line, signing)).collect::<Vec<_>>()
            })
        };
        for thread in [part(0), part(1)] {
            for (more, errors) in thread.join().expect("a judge") {
                for (reason, count) in more {
                    *counts.entry(reason).or_insert(0) += count;
                }
                wrong.extend(errors);
            }
        }
    });
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let expected: BTreeMap<&str, usize> = BTreeMap::from([
        ("the same", 5_903),
        (
            "NUL: a password ends at none, so one that holds it is refused",
            2,
        ),
        ("account alone: a name without credentials is nobody", 9),
        ("bcrypt: 2a, 2b, 2x and 2y, with nothing behind", 9),
        ("broken credentials: 401 instead of anonymous", 1),
        (
            "credentials in the query: they end in logs, so they do not count",
            2,
        ),
        ("credentials twice: refused instead of taking the first", 1),
        ("empty scope: passed over, the others are judged", 51),
        ("empty: an empty value matches nothing", 15),
        ("external: commands that decide are not built yet", 33),
        ("half of the credentials: 401 instead of anonymous", 11),
        ("method: only GET, HEAD and POST ask for tokens", 6),
        ("multipart: no client sends it", 1),
        (
            "panic: docker_auth died of it, we refuse the rule at start or answer 400",
            11,
        ),
        ("path: the server routes, not this function", 39),
        ("quoting: what is substituted stands for itself", 45),
        ("text: names are UTF-8", 1),
    ]);
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn tokens_of_docker_auth_are_accepted() {
    let mut accepted = 0;
    let mut absent = 0;
    for line in TOKENS.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let parts = strings(&case["token"]);
        if parts.is_empty() {
            // docker_auth refused to start with this key.
            absent += 1;
            continue;
        }
        let settings = Settings {
            token: TokenSettings {
                issuer: text(&case["issuer"]).expect("an issuer"),
                service: text(&case["service"]).expect("a service"),
                trusted_certificates_pem: vec![text(&case["certificate_pem"]).expect("PEM")],
                ..TokenSettings::default()
            },
            ..Settings::default()
        };
        let clock = Arc::new(ManualClock::at_unix_secs(NOW));
        let auth = Auth::new(settings, clock).expect("a trusted certificate");
        let origin = Origin {
            client: "192.0.2.1".parse().expect("an address"),
            is_https: true,
            host: "registry.lab".to_owned(),
        };
        let bearer = format!("Bearer {}", parts.join("."));
        let caller = auth.caller(&[&bearer], &origin).await.expect("a caller");
        let judged = |access| auth.authorise(&caller, &access, &origin);
        let name = || "team/app".parse().expect("a name");
        assert_eq!(judged(Access::Push(name())), Ok(()), "{}", case["id"]);
        assert!(judged(Access::Delete(name())).is_err(), "{}", case["id"]);
        assert_eq!(caller.account(), "admin");
        // The last letter of a signature may hold unused bits: change one in its middle.
        let (head, signature) = bearer.rsplit_once('.').expect("three parts");
        let (left, right) = signature.split_at(signature.len() / 2);
        let other = if right.starts_with('A') { 'B' } else { 'A' };
        let forged = format!("{head}.{left}{other}{}", &right[1..]);
        let caller = auth.caller(&[&forged], &origin).await.expect("a caller");
        assert!(
            auth.authorise(&caller, &Access::Any, &origin).is_err(),
            "{}",
            case["id"]
        );
        accepted += 1;
    }
    assert_eq!((accepted, absent), (14, 2));
}
