//! What a running server says about itself: the answer to `boathouse status`.
//!
//! Must not know how it is printed. Invariant: a look writes nothing, and takes no lock of an operation for longer than an
//! operation does.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::auth::Auth;
use crate::clock::Clock;
use crate::platform;
use crate::registry::{IndexedError, Registry, Status, UploadFigures};
use crate::store::Room;
use crate::tls::Tls;

const DAY_SECS: u64 = 86_400;

/// What the running instance knows of itself.
pub struct Serving {
    /// Where the registry listens: `HOST:PORT`, or a path.
    pub address: String,
    /// When it was started, in seconds since 1970.
    pub started_unix_secs: u64,
    /// The certificates of each site.
    pub certificates: Vec<(&'static str, Arc<Tls>)>,
}

/// What is stored, and how the server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What is stored.
    #[serde(flatten)]
    pub stored: Status,
    /// How much may still be written; `None` if the store does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Room>,
    /// The running server; `None` where a command looks by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerStatus>,
}

/// A running server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Of the program.
    pub version: String,
    /// See [`Serving`].
    pub address: String,
    /// In seconds since 1970.
    pub started_unix_secs: u64,
    /// How long it has run.
    pub uptime_secs: u64,
    /// Whether nothing asks for an operator.
    pub is_healthy: bool,
    /// Upload sessions.
    pub uploads: UploadFigures,
    /// When certificates end.
    pub certificates: Vec<CertificateEnd>,
    /// Memory in RAM, where the system tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// How many loops are watched. Those that do not move are in [`Status::not_ready`] and [`Status::degraded`].
    pub watched_loops: usize,
}

/// When a certificate ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateEnd {
    /// `registry` or `token`
    pub site: String,
    /// `server` or `authority`
    pub certificate: String,
    /// In seconds since 1970.
    pub end_unix_secs: u64,
    /// Whole days left; 0 also if it has ended.
    pub days_left: u64,
}

/// Looks at everything.
pub(super) async fn report(
    registry: &Registry,
    auth: Option<&Auth>,
    serving: Option<&Serving>,
    clock: &dyn Clock,
) -> Result<Report, IndexedError> {
    let mut stored = registry.listings.status().await?;
    let readiness = registry.health.readiness().await;
    stored.not_ready = readiness.still.iter().map(ToString::to_string).collect();
    let accounts = match auth {
        Some(auth) => auth.trouble().await,
        None => None,
    };
    let has_accounts = accounts.is_none();
    stored.degraded = readiness.degraded_with(accounts);
    let now_unix_secs = clock.unix_secs();
    let server = match serving {
        None => None,
        Some(serving) => {
            let certificates = ends(serving, now_unix_secs);
            let are_valid = certificates
                .iter()
                .all(|each| each.end_unix_secs > now_unix_secs);
            let usage = tokio::task::spawn_blocking(platform::process_usage).await;
            Some(ServerStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                address: serving.address.clone(),
                started_unix_secs: serving.started_unix_secs,
                uptime_secs: now_unix_secs.saturating_sub(serving.started_unix_secs),
                is_healthy: readiness.is_healthy() && has_accounts && are_valid,
                uploads: registry.uploads.figures(),
                certificates,
                memory_bytes: usage.unwrap_or_default().resident_bytes,
                watched_loops: registry.health.heartbeats().len(),
            })
        }
    };
    Ok(Report {
        stored,
        room: registry.health.room().await,
        server,
    })
}

fn ends(serving: &Serving, now_unix_secs: u64) -> Vec<CertificateEnd> {
    let mut ends = Vec::new();
    for (site, tls) in &serving.certificates {
        for (certificate, end_unix_secs) in tls.ends() {
            ends.push(CertificateEnd {
                site: (*site).to_owned(),
                certificate,
                end_unix_secs,
                days_left: end_unix_secs.saturating_sub(now_unix_secs) / DAY_SECS,
            });
        }
    }
    ends
}
