//! `docker-auth-config-validation.jsonl`: texts of configurations, whether `docker_auth` started with them, and what a doubtful
//! value came to mean.

use serde_json::Value;

use super::intended::{Facts, Rules, Verdict, check_all, intended};
use super::served::{Directory, Served};
use super::{Answer, text};
use crate::client::basic;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_start_with_what_docker_auth_starts_with() {
    check_all(&intended().configs, judge).await;
}

async fn judge(case: &Value, rules: &Rules) -> Verdict {
    let mut verdict = Verdict::default();
    let config = text(&case["config_yaml"]).expect("a text");
    let directory = Directory::new();
    let served = Served::start(&directory, &config);
    let accepted = case["accepted"].as_bool().expect("accepted");
    let mut facts = Facts::from([
        ("config", vec![config]),
        ("accepted there", vec![accepted.to_string()]),
        ("error there", text(&case["error"]).into_iter().collect()),
        ("accepted here", vec![served.is_ok().to_string()]),
        (
            "error here",
            served.as_ref().err().into_iter().cloned().collect(),
        ),
        ("probe", Vec::new()),
    ]);
    if served.is_ok() != accepted {
        let told = || format!("{}: accepted there: {accepted}; {facts:?}", case["id"]);
        verdict.differs(rules, &facts, told);
        return verdict;
    }
    if let Ok(served) = &served {
        for probe in case["probes"].as_array().into_iter().flatten() {
            let recorded = Answer::recorded(probe);
            let ours = ask(served, probe).await;
            // Only the status and what the token says were recorded.
            let same = ours.status == recorded.status
                && (ours.status != 200
                    || (&ours.sub, &ours.access, &ours.lifetime_secs)
                        == (&recorded.sub, &recorded.access, &recorded.lifetime_secs));
            if !same {
                facts.insert("probe", vec![probe.to_string()]);
                let told = || format!("{}: {ours:?} to {probe}", case["id"]);
                verdict.differs(rules, &facts, told);
                return verdict;
            }
        }
    }
    verdict.same();
    verdict
}

async fn ask(served: &Served, probe: &Value) -> Answer {
    let query = probe["query"].as_str().expect("a query");
    let mut head = format!("GET /auth?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    if let [user, password] = super::strings(&probe["basic"]).as_slice() {
        head = format!("{head}Authorization: {}\r\n", basic(user, password));
    }
    head += "Connection: close\r\n\r\n";
    served.exchange("GET", head.as_bytes()).await
}
