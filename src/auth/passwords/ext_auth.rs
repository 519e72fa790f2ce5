//! `ext_auth`: a program that knows accounts and their passwords.
//!
//! Source: `docker_auth`'s `ext_auth`. Must not know what the labels of an account are for. Invariant: the account that the
//! program reads is the one that the client named.

use async_trait::async_trait;
use serde::Deserialize;

use super::authenticator::{Authenticator, Checked};
use crate::auth::accounts::Labels;
use crate::auth::external::checked_labels;
use crate::auth::fair_queue::FairQueue;
use crate::auth::program::Program;

/// A program that is asked about accounts.
#[derive(Debug)]
pub(in crate::auth) struct ProgramAuthenticator(pub Program);

/// What the program may write when it lets an account in.
#[derive(Deserialize)]
struct Answer {
    #[serde(default, alias = "Labels")]
    labels: Option<Labels>,
}

#[async_trait]
impl Authenticator for ProgramAuthenticator {
    fn turns(&self) -> &FairQueue {
        self.0.turns()
    }

    async fn check(&self, account: &str, password: &[u8]) -> Checked {
        // The program takes what is before the first space for the name. Somebody with a password of several words could
        // move some of them into the name, and log in under a name that is not theirs.
        if account.contains(|character: char| character.is_whitespace() || character.is_control()) {
            return Checked::Unknown;
        }
        let input = [account.as_bytes(), b" ", password].concat();
        let ended = match self.0.run(&input).await {
            Ok(ended) => ended,
            Err(trouble) => return Checked::Unavailable(trouble),
        };
        match ended.status {
            Some(0) => {
                let labels = labels(&ended.output).and_then(checked_labels);
                labels.map_or_else(
                    |what| Checked::Unavailable(self.0.trouble(what)),
                    |labels| Checked::Right(Some(labels)),
                )
            }
            Some(1) => Checked::Wrong,
            Some(2) => Checked::Unknown,
            other => Checked::Unavailable(self.0.unexpected(other)),
        }
    }
}

fn labels(output: &[u8]) -> Result<Labels, String> {
    if output.is_empty() {
        return Ok(Labels::new());
    }
    // An error of the parser would quote the output.
    let answer: Option<Answer> = serde_json::from_slice(output).map_err(
        |_| "what the program wrote is not JSON like {\"labels\": {\"team\": [\"red\"]}}",
    )?;
    Ok(answer.and_then(|answer| answer.labels).unwrap_or_default())
}
