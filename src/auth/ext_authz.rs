//! `ext_authz`: a program that decides what no rule decides.
//!
//! Source: `docker_auth`'s `ext_authz`, whose questions look the same to the byte. Must not know rules or tokens. Invariant: a
//! program that gives no answer grants nothing.

use std::net::IpAddr;

use serde::Serialize;

use super::accounts::Labels;
use super::program::Program;
use super::rules::Fields;

/// What the program reads. The order is that of `docker_auth`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Question<'a> {
    account: &'a str,
    r#type: &'a str,
    name: &'a str,
    service: &'a str,
    #[serde(rename = "IP")]
    ip: IpAddr,
    actions: &'a [String],
    labels: Option<&'a Labels>,
}

/// Whether the program grants all of `actions`; it grants all or nothing. The error is for the log.
pub(super) async fn grants(
    program: &Program,
    fields: Fields<'_>,
    client: IpAddr,
    labels: &Labels,
    actions: &[String],
) -> Result<bool, String> {
    let question = Question {
        account: fields.account,
        r#type: fields.resource_type,
        name: fields.name,
        service: fields.service,
        ip: client.to_canonical(),
        actions,
        labels: Some(labels).filter(|labels| !labels.is_empty()),
    };
    let question = written(&question).ok_or_else(|| program.trouble("no JSON"))?;
    let turn = program.turns().turn(client).await;
    let _turn = turn.map_err(|_| program.trouble("too many questions of this client wait"))?;
    match program.run(question.as_bytes()).await?.status {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        other => Err(program.unexpected(other)),
    }
}

/// As Go writes it, which escapes what a web page could take for its own. Scripts search this text.
fn written(question: &Question<'_>) -> Option<String> {
    let text = serde_json::to_string(question).ok()?;
    Some(
        text.replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_written_as_docker_auth_writes_it() {
        let labels = Labels::from([("team".to_owned(), vec!["r&d".to_owned()])]);
        let actions = ["pull".to_owned(), "push".to_owned()];
        let mut question = Question {
            account: "ann",
            r#type: "repository",
            name: "team/<app>",
            service: "registry.lab",
            ip: "::ffff:192.0.2.1".parse::<IpAddr>().unwrap().to_canonical(),
            actions: &actions,
            labels: Some(&labels),
        };
        assert_eq!(
            written(&question).unwrap(),
            r#"{"Account":"ann","Type":"repository","Name":"team/\u003capp\u003e","Service":"registry.lab","IP":"192.0.2.1","Actions":["pull","push"],"Labels":{"team":["r\u0026d"]}}"#
        );
        question.labels = None;
        assert!(written(&question).unwrap().ends_with(r#""Labels":null}"#));
    }
}
