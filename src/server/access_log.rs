//! The access log: one line for each request, written when its answer has ended.
//!
//! Must not contain headers that may hold a secret. Text from the client is written as a `field`, so that it remains one
//! value. Invariant: each request has exactly one line, also if the client disconnects.

use std::sync::Arc;
use std::time::Duration;

use super::request_id::RequestId;
use crate::clock::Clock;
use crate::layout::UploadId;
use crate::telemetry::field;

/// The target of these lines, by which `telemetry` can disable them.
pub(super) const TARGET: &str = crate::telemetry::ACCESS_LOG_TARGET;

/// The values of one line.
pub(super) struct Line {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) began: Duration,
    pub(super) id: RequestId,
    pub(super) client: std::net::IpAddr,
    pub(super) method: http::Method,
    pub(super) path: String,
    pub(super) route: &'static str,
    pub(super) account: String,
    pub(super) user_agent: String,
    /// Why the caller was refused (401, 403 and 429).
    pub(super) refusal: Option<&'static str>,
    pub(super) status: u16,
    pub(super) sent_bytes: u64,
}

impl Line {
    pub(super) fn add_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let duration = self.clock.elapsed().saturating_sub(self.began);
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
            refusal = self.refusal,
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
}
