//! The access log: one line for each request, written when its answer has ended; and the id that names the request there.
//!
//! The id is in every log line about a request, and in the header `X-Request-Id` of its answer. Must not contain headers
//! that may hold a secret, nor know which peers may choose an id (`origin` does). Text from the client is written as a
//! `field`, so that it remains one value. Invariants: each request has exactly one line, also if the client disconnects; an
//! id is short and has safe characters only, so that it can be written to any log and header.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Details;
use crate::clock::Clock;
use crate::layout::UploadId;
use crate::metrics::{CountedRequest, Refused};
use crate::telemetry::field;

/// The target of these lines, by which `telemetry` can disable them.
pub(super) const TARGET: &str = crate::telemetry::ACCESS_LOG_TARGET;

/// The values of one line.
pub(super) struct Line {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) began: Duration,
    /// The same request in the metrics.
    pub(super) counted: CountedRequest,
    pub(super) id: RequestId,
    pub(super) client: std::net::IpAddr,
    pub(super) method: http::Method,
    pub(super) path: String,
    pub(super) route: &'static str,
    pub(super) account: String,
    pub(super) user_agent: String,
    /// Why the caller was refused (401, 403 and 429).
    pub(super) refusal: Option<LoggedRefusal>,
    pub(super) status: u16,
    pub(super) sent_bytes: u64,
}

/// Why a caller was refused.
pub(super) struct LoggedRefusal {
    /// As what it is counted.
    pub(super) counted: Refused,
    pub(super) text: &'static str,
    pub(super) details: Details,
}

impl Line {
    pub(super) fn add_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.counted.send(bytes);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let duration = self.clock.elapsed().saturating_sub(self.began);
        self.counted.end(self.status, duration);
        let refusal = self.refusal.as_ref();
        let detail = |of: fn(&Details) -> &Option<String>| {
            let text = of(&refusal?.details).as_deref()?;
            Some(tracing::field::display(field(text)))
        };
        tracing::info!(
            target: TARGET,
            id = %self.id,
            client = %self.client,
            account = %field(&self.account),
            method = %field(self.method.as_str()),
            path = %field(&self.path),
            route = self.route,
            status = self.status,
            sent_bytes = self.sent_bytes,
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            refusal = refusal.map(|refusal| refusal.text),
            claimed_account = detail(|details| &details.claimed_account),
            needed = detail(|details| &details.needed),
            decided_by = detail(|details| &details.decided_by),
            user_agent = %field(&self.user_agent),
            "request"
        );
    }
}

/// A header's value as text. Bytes that are not UTF-8 are written as `\xff`.
pub(super) fn header_text(value: &http::HeaderValue) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for chunk in value.as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// A path as it may be logged. The second half of an upload session's id is a MAC, which is not logged; the first half
/// identifies the session.
pub(super) fn shown(path: &str) -> String {
    let is_session = |part: &str| part.parse::<UploadId>().is_ok();
    if !path.split('/').any(is_session) {
        return path.to_owned();
    }
    path.split('/')
        .map(|part| match part.parse::<UploadId>() {
            Ok(id) => id.public_part(),
            Err(_) => part.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("/")
}

/// `X-Request-Id`, in requests and answers.
pub(super) const ID_HEADER: &str = "x-request-id";

/// A UUID has 36 characters; some proxies add a prefix.
const ID_LENGTH_MAX: usize = 64;

/// The id of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(String);

impl RequestId {
    /// The id from a proxy; `None` if it is not safe.
    pub(super) fn given(text: &str) -> Option<Self> {
        let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = (1..=ID_LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_harmless);
        is_name.then(|| Self(text.to_owned()))
    }

    /// A random id. A counter would reveal the number of requests.
    pub(super) fn random() -> Self {
        let mut random = [0; 8];
        // Without random numbers all requests have the same id: they are served anyway.
        let _ = getrandom::fill(&mut random);
        Self(format!("{:016x}", u64::from_be_bytes(random)))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_shown_whatever_its_bytes() {
        let shown = |bytes: &[u8]| header_text(&http::HeaderValue::from_bytes(bytes).unwrap());
        assert_eq!(shown("J\u{f6}rg/1".as_bytes()), "J\u{f6}rg/1");
        assert_eq!(shown(b"a\xffb\xc3"), r"a\xffb\xc3");
    }

    #[test]
    fn a_session_is_shown_without_its_mac() {
        let id = UploadId::from_parts(0x0123_4567_89ab_cdef, u64::MAX);
        let path = format!("/v2/team/app/blobs/uploads/{id}");
        let shown = shown(&path);
        assert!(path.ends_with("-bfff-ffffffffffff"), "{path}");
        assert!(shown.ends_with("-…") && !shown.contains("bfff"), "{shown}");
        assert_eq!(path.split('-').next(), shown.split('-').next());
        assert_eq!(super::shown("/v2/a/tags/list"), "/v2/a/tags/list");
    }

    #[test]
    fn random_ids_differ_and_are_valid_ids_of_a_proxy() {
        let (first, second) = (RequestId::random(), RequestId::random());
        assert_ne!(first, second);
        assert_eq!(RequestId::given(first.as_str()), Some(first));
    }

    #[test]
    fn ids_with_unsafe_characters_are_ignored() {
        let long = "a".repeat(ID_LENGTH_MAX + 1);
        for bad in ["", "a b", "a\nb", "a\"b", "a,b", "é", long.as_str()] {
            assert_eq!(RequestId::given(bad), None, "{bad:?}");
        }
        let uuid = "7f0c9d58-6c3f-4d5e-9a41-1c2d3e4f5a6b";
        assert_eq!(RequestId::given(uuid).unwrap().to_string(), uuid);
    }
}
