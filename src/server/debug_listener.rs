//! The debug listener, `http.debug.addr`: the health checks that fail, and metrics.
//!
//! Source: distribution's `/debug/health` and `http.debug.prometheus`. Must not know how checks are made, nor what is counted.
//! Invariant: it answers also while a check fails, and shows nothing that is stored.

use http::{Method, Response, StatusCode};

use super::response::{self, ResponseBody};
use super::route::{RequestPath, RouteError};
use crate::health::HealthChecks;

/// The methods of its paths.
pub(super) const METHODS: &str = "GET, HEAD";

/// What a request to this listener asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DebugRoute {
    /// `/debug/health`
    Health,
    /// `http.debug.prometheus.path`
    Metrics,
}

impl DebugRoute {
    /// Parses a request; `metrics_path` is `None` where metrics are not shown here.
    pub(super) fn parse(
        method: &Method,
        path: &RequestPath,
        metrics_path: Option<&str>,
    ) -> Result<Self, RouteError> {
        let route = match path.as_str() {
            "/debug/health" => Self::Health,
            path if Some(path) == metrics_path => Self::Metrics,
            _ => return Err(RouteError::NotFound),
        };
        match *method {
            Method::GET | Method::HEAD => Ok(route),
            _ => Err(RouteError::Method),
        }
    }

    /// A name for logs.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Health => "debug-health",
            Self::Metrics => "metrics",
        }
    }
}

/// The checks that fail, by name, with the reason of each; 503 if there are any.
pub(super) fn health(checks: Option<&HealthChecks>) -> Response<ResponseBody> {
    let failing = checks.map(HealthChecks::failing).unwrap_or_default();
    let status = if failing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    response::json(status, "application/json", &failing)
}
