//! Requests for lists: how long they take, and whether the answers are right.

use std::time::Duration;

use http::StatusCode;
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
            names.extend(answer.names(field));
            next = answer.next_page();
        }
        Some(names)
    }

    async fn get(&mut self, path: &str) -> Option<Answer> {
        let answer = tokio::time::timeout(REQUEST_TIME_MAX, self.0.get(path)).await;
        let answer = answer.ok()?;
        Some(answer.unwrap_or_else(|broken| panic!("{path}: {broken:?}")))
    }
}
