//! `docker-auth-acl.jsonl`: configurations, the requests that were sent to them, and the answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::facts::{self, header};
use super::intended::{Rules, Verdict, check_all, intended};
use super::served::{Directory, Served};
use super::{Answer, strings, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_auth_decided_the_same() {
    check_all(&intended().requests, judge).await;
}

async fn judge(case: &Value, rules: &Rules) -> Verdict {
    let mut config = case["config"].clone();
    for user in config["users"].as_object_mut().into_iter().flatten() {
        if let Some(user) = user.1.as_object_mut() {
            user.remove("password_plain");
            user.remove("password_plain_base64");
        }
    }
    let directory = Directory::new();
    let served = Served::start(&directory, &config.to_string());
    let mut verdict = Verdict::default();
    for request in case["requests"].as_array().into_iter().flatten() {
        let recorded = Answer::recorded(request);
        let ours = match &served {
            Ok(served) => ask(served, request).await.compared_with(&recorded),
            Err(_) => Answer::none(),
        };
        if ours == recorded && request["panic"].is_null() {
            verdict.same();
            continue;
        }
        let refused = served.as_ref().err();
        let facts = facts::of_request(&config, refused, request, &recorded, &ours);
        verdict.differs(rules, &facts, || {
            described(&case["id"], request, &recorded, &ours, refused)
        });
    }
    verdict
}

/// The request byte by byte as it was recorded: no HTTP library sends all of them.
async fn ask(served: &Served, request: &Value) -> Answer {
    let query = text(&request["query"]).filter(|query| !query.is_empty());
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let method = request["method"].as_str().expect("a method");
    let path = request["path"].as_str().expect("a path");
    let mut head = format!("{method} {path}{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    let recorded = request["headers"].as_object().into_iter().flatten();
    for (name, value) in recorded {
        let values = text(value).map_or_else(|| strings(value), |one| vec![one]);
        for value in values {
            head = format!("{head}{name}: {value}\r\n");
        }
    }
    if let [user, password] = strings(&request["basic"]).as_slice() {
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        head = format!("{head}Authorization: Basic {credentials}\r\n");
    }
    let form = request["form"].as_str();
    if let Some(form) = form {
        head = format!("{head}Content-Length: {}\r\n", form.len());
    }
    head += "Connection: close\r\n\r\n";
    head += form.unwrap_or_default();
    served.exchange(method, head.as_bytes()).await
}

/// What differs, shortly: the scopes on which both disagree.
fn described(
    id: &Value,
    request: &Value,
    recorded: &Answer,
    ours: &Answer,
    refused: Option<&String>,
) -> String {
    let lists = |answer: &Answer| answer.access.as_array().cloned().unwrap_or_default();
    let (of_us, of_them) = (lists(ours), lists(recorded));
    let scopes = of_us.iter().zip(&of_them);
    let scopes = scopes.filter(|(one, other)| one != other);
    let scopes: Vec<String> = scopes
        .map(|(one, other)| format!("    ours {one}\n    there {other}\n"))
        .collect();
    format!(
        "{id} {} {} basic {} query {} form {} headers {} authorization {:?}\n  ours {ours:?}\n  there {recorded:?} {}\n{}{}",
        request["method"],
        request["path"],
        request["basic"],
        request["query"],
        request["form"],
        request["headers"],
        header(request, "Authorization"),
        request["panic"],
        scopes.join(""),
        refused
            .map(|error| format!("  refused: {error}\n"))
            .unwrap_or_default(),
    )
}
