//! Requests for lists: how long they take, and whether the answers are right.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::time::Instant;

use super::server::Server;
use crate::client::Client;
use crate::support::Answer;

/// A list that takes longer is none.
pub(super) const REQUEST_TIME_MAX: Duration = Duration::from_mins(2);

/// Each request is repeated so often, unless that takes longer than [`REPEAT_TIME_MAX`].
const REPEATS: usize = 200;
const REPEAT_TIME_MAX: Duration = Duration::from_secs(20);

/// How long the same request took, over and over, on one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    pub(super) median: Duration,
    /// 99 of 100 took no longer.
    pub(super) high: Duration,
}

/// What came of a request that was repeated.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Took(Latency),
    Refused(StatusCode),
    TookTooLong,
}

pub(super) struct Requests(Client);

impl Requests {
    pub(super) fn to(server: &Server) -> Self {
        Self(server.client())
    }

    /// Repeats a request; `check` panics if an answer is wrong.
    pub(super) async fn repeat(&mut self, path: &str, check: impl Fn(&Answer)) -> Outcome {
        let began = Instant::now();
        let mut times = Vec::new();
        while times.len() < REPEATS && began.elapsed() < REPEAT_TIME_MAX {
            let asked = Instant::now();
            let Some(answer) = self.get(path).await else {
                return Outcome::TookTooLong;
            };
            times.push(asked.elapsed());
            if answer.status != StatusCode::OK {
                return Outcome::Refused(answer.status);
            }
            check(&answer);
        }
        times.sort_unstable();
        let part = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        Outcome::Took(Latency {
            median: part(50),
            high: part(99),
        })
    }

    /// Follows a list from page to page to its end; `None` if one of them takes too long.
    pub(super) async fn all(&mut self, path: &str, field: &str) -> Option<Vec<String>> {
        let mut names = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let answer = self.get(&path).await?.expect(StatusCode::OK);
            names.extend(names_of(&answer, field));
            next = next_page(&answer);
        }
        Some(names)
    }

    async fn get(&mut self, path: &str) -> Option<Answer> {
        let answer = tokio::time::timeout(REQUEST_TIME_MAX, self.0.get(path)).await;
        let answer = answer.ok()?;
        Some(answer.unwrap_or_else(|broken| panic!("{path}: {broken:?}")))
    }
}

/// Where the list goes on, if it does.
pub(super) fn next_page(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().expect("text");
    let (path, rest) = link
        .strip_prefix('<')
        .and_then(|rest| rest.split_once('>'))
        .expect(link);
    assert_eq!(rest, "; rel=\"next\"");
    Some(path.to_owned())
}

/// The names in a list.
pub(super) fn names_of(answer: &Answer, field: &str) -> Vec<String> {
    let json = answer.json();
    let names = json[field].as_array();
    let names = names.unwrap_or_else(|| panic!("no list {field} in {json}"));
    names.iter().map(|name| text(name).to_owned()).collect()
}

/// The digests in an index.
pub(super) fn digests_of(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let manifests = json["manifests"].as_array();
    let manifests = manifests.unwrap_or_else(|| panic!("no manifests in {json}"));
    let digests = manifests
        .iter()
        .map(|manifest| text(&manifest["digest"]).to_owned());
    digests.collect()
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}
