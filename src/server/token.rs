//! The token endpoint over HTTP.
//!
//! Source: distribution's token and OAuth pages, `docker_auth`; `docs/security.md`. Must not know who gets a token.
//! Invariant: no cache on the way may store an answer.

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use super::incoming::RequestBody;
use super::origin::Reading;
use super::response::ResponseBody;
use super::state::{State, authorization};
use super::{ServerError, response};
use crate::auth::TokenRequest;

pub(super) async fn answer(
    state: &State,
    head: &Parts,
    body: RequestBody,
    reading: Reading,
    account: &mut String,
) -> Result<Response<ResponseBody>, ServerError> {
    reading.configured_address?;
    let origin = reading.origin;
    let form = if head.method == Method::POST {
        // Read also if it is not a form: the client then sees the answer instead of a connection reset.
        let bytes = state
            .body_limits()
            .collect(
                body,
                state.settings.limits.token_body_bytes,
                state.reservation(&origin),
            )
            .await?;
        is_form(&head.headers).then_some(bytes)
    } else {
        None
    };
    let form = form.as_deref().map(std::str::from_utf8).transpose();
    let form = form.map_err(|_| ServerError::BadHeader("the form is not text"))?;
    let authorization = authorization(head)?;
    let request = TokenRequest {
        query: head.uri.query().unwrap_or_default(),
        form,
        authorization: &authorization,
        origin: &origin,
    };
    let answer = state.services.auth.token(&request).await?;
    state.services.metrics.counters.issue_token();
    answer.account.clone_into(account);
    // Without `issued_at`: a client whose clock is behind would treat the token as expired.
    let mut body = json!({ "token": answer.token, "access_token": answer.token, "expires_in": answer.expires_in_secs });
    if let (Some(token), Some(fields)) = (answer.refresh_token, body.as_object_mut()) {
        fields.insert("refresh_token".to_owned(), token.into());
    }
    let mut answer = response::json(StatusCode::OK, "application/json", &body);
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// Whether the body of a POST is a form, by its `Content-Type`: Go, and therefore `docker_auth`, accepts no other type.
pub fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}
