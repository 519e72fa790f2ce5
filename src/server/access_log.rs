//! One line for each request, when its answer has ended.
//!
//! Must not know headers that may hold a secret. Invariant: written exactly once for each request, also when the client
//! leaves in the middle.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;

/// The name under which `telemetry` can switch these lines off.
pub(super) const TARGET: &str = crate::telemetry::ACCESS_LOG_TARGET;

/// What will be written.
pub(super) struct Line {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) began: Duration,
    pub(super) id: u64,
    pub(super) client: std::net::IpAddr,
    pub(super) method: http::Method,
    pub(super) path: String,
    pub(super) route: &'static str,
    pub(super) account: String,
    pub(super) user_agent: String,
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
            id = self.id,
            client = %self.client,
            account = %self.account,
            method = %self.method,
            path = %self.path,
            route = self.route,
            status = self.status,
            sent_bytes = self.sent_bytes,
            duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            user_agent = %self.user_agent,
            "request"
        );
    }
}
