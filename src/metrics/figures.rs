//! Figures that are read when the page is asked for.
//!
//! Must not know how a figure comes about. Invariant: a look takes no lock of an operation for longer than an operation does,
//! and writes nothing.

use std::sync::PoisonError;

use super::exposition::{Labels, Page, number};
use super::{Connections, Metrics, process};
use crate::registry::{IndexStatus, Registry, Status};
use crate::{platform, telemetry};

impl Metrics {
    pub(super) async fn show_figures(&self, page: &mut Page) {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        page.gauges(
            "boathouse_build_info",
            "The version of the program; always 1",
            vec![(version, 1.0)],
        );
        page.gauge(
            "process_start_time_seconds",
            "When the process was started, in seconds since 1970",
            number(self.started_unix_secs),
        );
        let usage = tokio::task::spawn_blocking(platform::process_usage).await;
        process::show(&usage.unwrap_or_default(), page);
        self.show_connections(page);
        self.show_accounts(page).await;
        self.show_certificates(page);
        page.counter(
            "boathouse_log_lines_lost",
            "Log lines that could not be written, or were not read in time",
            telemetry::lost_lines(),
        );
        if let Some(health) = &self.sources.health {
            page.gauge(
                "boathouse_health_checks_failing",
                "Health checks of the configuration that fail; while there is one, requests are refused",
                number(health.failing().len() as u64),
            );
        }
        if let Some(registry) = &self.sources.registry {
            show_registry(registry, page).await;
        }
    }

    fn show_connections(&self, page: &mut Page) {
        let looks = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (mut connections, mut limits) = (Vec::new(), Vec::new());
        for (site, look) in looks.iter() {
            let Connections {
                limit,
                handshake,
                idle,
                working,
                waiting,
                stalled,
            } = look();
            let labels = |state: &str| {
                let site = ("site", (*site).to_owned());
                vec![site, ("state", state.to_owned())]
            };
            for (state, count) in [
                ("handshake", handshake),
                ("idle", idle),
                ("working", working),
                ("waiting", waiting),
                ("stalled", stalled),
            ] {
                connections.push((labels(state), number(count as u64)));
            }
            limits.push((vec![("site", (*site).to_owned())], number(limit as u64)));
        }
        page.gauges(
            "boathouse_connections",
            "Open connections; waiting: the client must act next; stalled: and has not for 5 seconds",
            connections,
        );
        page.gauges(
            "boathouse_connections_limit",
            "The most connections that may be open (limits.connections, or what file descriptors allow)",
            limits,
        );
    }

    async fn show_accounts(&self, page: &mut Page) {
        let auth = &self.sources.auth;
        page.counter(
            "boathouse_passwords_compared",
            "Passwords that were compared with a stored hash or by an external authenticator; remembered logins are not",
            auth.compared_logins() as u64,
        );
        page.gauge(
            "boathouse_accounts_stale",
            "1 if changes of accounts may not be in force, because their file cannot be read",
            flag(auth.trouble().await.is_some()),
        );
    }

    fn show_certificates(&self, page: &mut Page) {
        let mut ends = Vec::new();
        for (site, tls) in &self.sources.certificates {
            for (certificate, end_unix_secs) in tls.ends() {
                let labels = vec![("site", (*site).to_owned()), ("certificate", certificate)];
                ends.push((labels, number(end_unix_secs)));
            }
        }
        page.gauges(
            "boathouse_certificate_expiry_timestamp_seconds",
            "When a certificate ends, in seconds since 1970; (… - time()) / 86400 are the days left",
            ends,
        );
    }
}

async fn show_registry(registry: &Registry, page: &mut Page) {
    let readiness = registry.health.readiness().await;
    page.gauge(
        "boathouse_ready",
        "Whether the registry can serve, as /readyz reports it",
        flag(readiness.still.is_empty()),
    );
    page.gauge(
        "boathouse_degraded",
        "How many things work only in part, as /readyz reports them",
        number(readiness.degraded.len() as u64),
    );
    if let Some(room) = registry.health.room().await {
        page.gauge(
            "boathouse_store_free_bytes",
            "What may still be written to the volume of the store",
            number(room.free_bytes),
        );
        page.gauge(
            "boathouse_store_size_bytes",
            "The size of the volume of the store",
            number(room.size_bytes),
        );
    }
    let uploads = registry.uploads.figures();
    page.gauge(
        "boathouse_uploads_open",
        "Upload sessions used within the last hour that were neither finished nor cancelled",
        number(uploads.open),
    );
    page.gauge(
        "boathouse_uploads_active",
        "Upload sessions on which a request works",
        number(uploads.active),
    );
    page.gauge(
        "boathouse_lock_wait_seconds",
        "The longest time that a request has been waiting for other changes of the same repository, tag or blob",
        registry.health.longest_wait().as_secs_f64(),
    );
    page.counter(
        "boathouse_damaged_data",
        "Stored data that were found not to be what their digest says; each version of a file counts once",
        registry.health.damaged_data(),
    );
    let memory = registry.memory();
    page.gauge(
        "boathouse_bodies_memory_bytes",
        "Memory that is reserved for bodies that are held whole",
        number(memory.held_bytes() as u64),
    );
    page.gauge(
        "boathouse_bodies_memory_limit_bytes",
        "The most that may be reserved for bodies that are held whole",
        number(memory.limit_bytes() as u64),
    );
    show_index(&registry.listings.figures().await, page);
}

/// What the index says of the store, and how it is itself.
fn show_index(status: &Status, page: &mut Page) {
    let index = &status.index;
    let samples = IndexStatus::STATES.iter().map(|state| {
        let labels: Labels = vec![("state", (*state).to_owned())];
        (labels, flag(index.health == *state))
    });
    page.gauges(
        "boathouse_index_state",
        "1 for the state that the index is in",
        samples.collect(),
    );
    page.gauge(
        "boathouse_lists_from_index",
        "1 if lists come from the index, 0 if they come from the store",
        flag(status.lists_from_index),
    );
    for (name, help, value) in [
        (
            "boathouse_repositories",
            "Repositories that the index knows",
            status.repositories,
        ),
        ("boathouse_tags", "Tags of all repositories", status.tags),
        (
            "boathouse_manifests",
            "Manifests, each counted in every repository that has it",
            status.manifests,
        ),
        (
            "boathouse_blobs",
            "Different blobs and manifests that some repository has",
            status.blobs,
        ),
        (
            "boathouse_logical_bytes",
            "What the repositories hold, each for itself",
            status.logical_bytes,
        ),
        (
            "boathouse_stored_bytes",
            "What the repositories hold, every blob and manifest once",
            status.stored_bytes,
        ),
        (
            "boathouse_index_queued_changes",
            "Changes that wait to be written to the index: how far it lags",
            index.queued,
        ),
        (
            "boathouse_index_unread_repositories",
            "Repositories that must be read again",
            index.unread_repositories,
        ),
        (
            "boathouse_index_entries",
            "Entries of the index",
            index.keys,
        ),
    ] {
        page.gauge(name, help, number(value));
    }
    if let Some(bytes) = index.disk_bytes {
        page.gauge(
            "boathouse_index_disk_bytes",
            "What the index takes on its volume",
            number(bytes),
        );
    }
    if let Some(micros) = index.commit_p99_micros {
        page.gauge(
            "boathouse_index_commit_seconds",
            "How long a slow commit of the index takes (99th percentile of the last ones)",
            number(micros) / 1e6,
        );
    }
    for (name, help, value) in [
        (
            "boathouse_index_commits",
            "Commits of the index",
            index.commits,
        ),
        (
            "boathouse_index_dropped_batches",
            "Batches of changes that the index has dropped; their repositories are read again",
            index.dropped_batches,
        ),
        (
            "boathouse_index_quarantines",
            "How often the index was set aside and rebuilt",
            index.quarantines,
        ),
    ] {
        page.counter(name, help, value);
    }
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}
