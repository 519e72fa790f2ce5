//! What the real `docker_auth` decided, asked of our listener over HTTP.
//!
//! Every line of the records in `tests/oracle` must hold, but for the rules of `tests/oracle/intended.json`. With
//! `BOATHOUSE_ORACLE=DIRECTORY` the files of the same names there are asked by the same rules, whose counts are then only told.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test states its expectations by panicking, in its helpers too"
)]

mod configs;
mod facts;
mod intended;
mod requests;
mod served;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Records of somebody else's choice.
fn other_records() -> Option<PathBuf> {
    std::env::var_os("BOATHOUSE_ORACLE").map(PathBuf::from)
}

/// The lines of a file of records.
fn records(name: &str) -> Vec<Value> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle");
    let path = other_records().unwrap_or(own).join(name);
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// What a token endpoint said. The texts of errors are for information, and left out.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    /// 0: no answer.
    status: u64,
    content_type: Value,
    challenge: Value,
    hsts: Value,
    sub: Value,
    aud: Value,
    access: Value,
    lifetime_secs: Value,
}

impl Answer {
    fn none() -> Self {
        Self {
            status: 0,
            content_type: Value::Null,
            challenge: Value::Null,
            hsts: Value::Null,
            sub: Value::Null,
            aud: Value::Null,
            access: Value::Null,
            lifetime_secs: Value::Null,
        }
    }

    fn recorded(request: &Value) -> Self {
        Self {
            status: request["status"].as_u64().unwrap_or(0),
            content_type: request["content_type"].clone(),
            challenge: request["www_authenticate"].clone(),
            hsts: request["strict_transport_security"].clone(),
            sub: request["sub"].clone(),
            aud: request["aud"].clone(),
            access: request["access"].clone(),
            lifetime_secs: request["lifetime_secs"].clone(),
        }
    }

    /// What the head of an answer says, and the token in its body.
    fn received(status: u64, header: impl Fn(&str) -> Option<String>, body: &[u8]) -> Self {
        let header = |name: &str| header(name).map_or(Value::Null, Value::from);
        let mut answer = Self {
            status,
            content_type: header("content-type"),
            challenge: header("www-authenticate"),
            hsts: header("strict-transport-security"),
            ..Self::none()
        };
        let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let Some(token) = json["token"].as_str() else {
            return answer;
        };
        assert_eq!(json["access_token"], token);
        let claims = token.split('.').nth(1).expect("three parts");
        let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64url");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        let secs = |name: &str| claims[name].as_u64().expect("seconds");
        assert_eq!(secs("nbf"), secs("iat") - 10);
        answer.sub = claims["sub"].clone();
        answer.aud = claims["aud"].clone();
        answer.access = claims["access"].clone();
        answer.lifetime_secs = (secs("exp") - secs("iat")).into();
        answer
    }

    /// Forgets what the other was not asked for.
    fn compared_with(mut self, other: &Self) -> Self {
        if other.lifetime_secs.is_null() {
            self.lifetime_secs = Value::Null;
        }
        self
    }

    /// In which of its parts it differs.
    fn differences(&self, other: &Self) -> Vec<String> {
        let parts = [
            ("status", self.status == other.status),
            ("content type", self.content_type == other.content_type),
            ("challenge", self.challenge == other.challenge),
            ("hsts", self.hsts == other.hsts),
            ("sub", self.sub == other.sub),
            ("aud", self.aud == other.aud),
            ("access", self.access == other.access),
            ("lifetime", self.lifetime_secs == other.lifetime_secs),
        ];
        let different = parts.iter().filter(|(_, is_same)| !is_same);
        different.map(|(part, _)| (*part).to_owned()).collect()
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(text).collect()
}
