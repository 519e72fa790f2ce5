//! A token for runs with authentication.
//!
//! Must not know what it is used for.

use std::io;

use crate::connection::Connection;
use crate::load::REPOSITORY;
use crate::servers::{ACCOUNT, SERVICE};

/// Asks the server for one, as a client with a password does.
pub(crate) async fn of(connection: &mut Connection) -> io::Result<String> {
    use base64::Engine as _;
    let (account, password) = ACCOUNT;
    let login = base64::engine::general_purpose::STANDARD.encode(format!("{account}:{password}"));
    let path = format!("/token?service={SERVICE}&scope=repository:{REPOSITORY}:pull,push");
    let headers = format!("authorization: Basic {login}\r\n");
    let body = connection.body_of("GET", &path, &headers).await?;
    let answer: serde_json::Value = serde_json::from_slice(&body)?;
    let token = answer["token"].as_str().map(str::to_owned);
    token.ok_or_else(|| io::Error::other(format!("no token in {answer}")))
}
