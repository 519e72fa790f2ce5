//! The debug listener, `http.debug.addr`: the health checks that fail.
//!
//! Source: distribution's `/debug/health`. Must not know how checks are made. Invariant: it answers also while a check fails,
//! and shows nothing of the registry.

use http::{Method, Response, StatusCode};

use super::response::{self, ResponseBody};
use super::route::{RequestPath, RouteError};
use crate::health::HealthChecks;

/// The methods of its one path.
pub(super) const METHODS: &str = "GET, HEAD";

/// Refuses all requests but those for the checks.
pub(super) fn parse(method: &Method, path: &RequestPath) -> Result<(), RouteError> {
    if path.as_str() != "/debug/health" {
        return Err(RouteError::NotFound);
    }
    match *method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(RouteError::Method),
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
