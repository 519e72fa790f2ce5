//! `boathouse status`: whether the server runs and is healthy, and what is stored.
//!
//! Must not know how it is found out (`server::status`). Invariants: the answer goes to stdout, as text or, with `--json`, as one
//! JSON object; exit code 0 means a healthy server, 1 one that needs an operator, [`NOT_RUNNING`] none.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::installation::{Installation, Where, registry_name};
use crate::cli::progress::Meter;
use crate::cli::running::{ask, ask_as_group, ask_or_do, unexpected};
use crate::cli::talk;
use crate::config::Config;
use crate::instance::places::{control_socket, refuse_data_of_another};
use crate::platform;
use crate::registry::Status;
use crate::server::Address;
use crate::server::control::{Answer, Request};
use crate::server::status::{Report, ServerStatus};

/// As `systemctl status` answers for a service that does not run.
const NOT_RUNNING: u8 = 3;

/// `boathouse status`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    is_running: bool,
    is_healthy: bool,
    /// Where the server is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(flatten)]
    report: Option<&'a Report>,
}

/// Exit code 0, 1 or [`NOT_RUNNING`].
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let of_group = ask_as_group(&arguments.place, &Request::Status, &Meter::quiet())?;
    // The group of a service cannot read its configuration, which alone has the URL.
    let (installation, answer) = if of_group.is_some() {
        (None, of_group)
    } else {
        let installation = Installation::find_without_accounts(&arguments.place)?;
        let socket = control_socket(&installation.loaded.config);
        let answer = ask(&socket, &Request::Status, &Meter::quiet())?;
        (Some(installation), answer)
    };
    let report = match answer {
        Some(Answer::Status(report)) => Some(report),
        Some(answer) => return Err(unexpected(answer)),
        None => installation.as_ref().map(look).transpose()?.flatten(),
    };
    let report = report.as_deref();
    let server = report.and_then(|report| report.server.as_ref());
    let config = installation
        .as_ref()
        .map(|installation| &installation.loaded.config);
    let shown = Shown {
        is_running: server.is_some(),
        is_healthy: server.is_some_and(|server| server.is_healthy),
        url: config
            .zip(server)
            .map(|(config, server)| url(config, server)),
        report,
    };
    talk::data(&shown, arguments.json, text(&shown))?;
    Ok(match server {
        None => ExitCode::from(NOT_RUNNING),
        Some(server) if server.is_healthy => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

/// What is stored, without a server. `None` where this process would leave files that the server's user could not open.
fn look(installation: &Installation) -> anyhow::Result<Option<Box<Report>>> {
    let root = installation.loaded.config.owned_directory();
    if let Err(refusal) = refuse_data_of_another(root, platform::effective_user_id()) {
        talk::line(format_args!(
            "note: what is stored was not counted: {refusal:#}"
        ));
        return Ok(None);
    }
    match ask_or_do(installation, &Request::Status, &Meter::quiet())? {
        Answer::Status(report) => Ok(Some(report)),
        answer => Err(unexpected(answer)),
    }
}

/// As clients best call the registry.
fn url(config: &Config, server: &ServerStatus) -> String {
    let bound = server.address.parse::<SocketAddr>().ok();
    let address = match (&config.server.address, bound) {
        (Address::Tcp(configured), Some(bound)) => Address::Tcp(configured.with_port(bound.port())),
        (configured, _) => configured.clone(),
    };
    let scheme = if config.is_reached_by_https() {
        "https"
    } else {
        "http"
    };
    format!("{scheme}://{}", registry_name(config, &address))
}

fn text(shown: &Shown<'_>) -> String {
    let mut text = String::new();
    let server = shown.report.and_then(|report| report.server.as_ref());
    match server {
        Some(server) => server_text(&mut text, server, shown.url.as_deref()),
        None => text.push_str("server        not running\n"),
    }
    let Some(report) = shown.report else {
        return text;
    };
    if let Some(room) = report.room {
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "room          {} free of {}; nothing can be pushed below {}",
            HumanBytes(room.free_bytes),
            HumanBytes(room.size_bytes),
            HumanBytes(room.floor_bytes)
        );
    }
    stored_text(&mut text, &report.stored);
    text
}

fn server_text(text: &mut String, server: &ServerStatus, url: Option<&str>) {
    let ServerStatus {
        version,
        address,
        started_unix_secs,
        uptime_secs,
        is_healthy,
        uploads,
        certificates,
        memory_bytes,
        watched_loops,
    } = server;
    let started = i64::try_from(*started_unix_secs).unwrap_or(i64::MAX);
    let started = OffsetDateTime::from_unix_timestamp(started).ok();
    let started = started.and_then(|started| started.format(&Rfc3339).ok());
    let health = if *is_healthy {
        "healthy"
    } else {
        "not healthy"
    };
    // Writing into a String cannot fail.
    let _ = writeln!(
        text,
        "server        {health}; running since {} ({})",
        started.unwrap_or_default(),
        HumanDuration(Duration::from_secs(*uptime_secs))
    );
    let _ = writeln!(text, "version       {version}");
    let url = url.map(|url| format!("{url}, ")).unwrap_or_default();
    let _ = writeln!(text, "address       {url}listening at {address}");
    let _ = writeln!(
        text,
        "uploads       {} open, {} of them receive; they hold {}",
        uploads.open,
        uploads.active,
        HumanBytes(uploads.bytes)
    );
    for each in certificates {
        let of_tokens = if each.site == "registry" {
            ""
        } else {
            " of the token listener"
        };
        let _ = writeln!(
            text,
            "certificate   {}{of_tokens}: {} days left",
            each.certificate, each.days_left
        );
    }
    if let Some(bytes) = memory_bytes {
        let _ = writeln!(text, "memory        {}", HumanBytes(*bytes));
    }
    let _ = writeln!(text, "tasks         {watched_loops} watched");
}

fn stored_text(text: &mut String, status: &Status) {
    let Status {
        repositories,
        tags,
        manifests,
        blobs,
        logical_bytes,
        stored_bytes,
        lists_from_index,
        log_lines_lost,
        not_ready,
        degraded,
        index,
    } = status;
    // Writing into a String cannot fail.
    if index.health != "healthy" {
        let _ = writeln!(
            text,
            "counts        incomplete: they come from the index, which is {}",
            index.health
        );
    }
    let _ = write!(
        text,
        "repositories  {repositories}\ntags          {tags}\nmanifests     {manifests}\n\
         blobs         {blobs}\nlinked        {} by all repositories together\n\
         stored        {} (each blob once)\n",
        HumanBytes(*logical_bytes),
        HumanBytes(*stored_bytes),
    );
    let reason = index.reason.as_ref();
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let lists = if *lists_from_index { "index" } else { "store" };
    let _ = writeln!(
        text,
        "index         {}{reason}; lists come from the {lists}",
        index.health
    );
    let disk = index.disk_bytes.map_or_else(
        || "in memory".to_owned(),
        |bytes| format!("{} on disk", HumanBytes(bytes)),
    );
    let _ = writeln!(text, "              {} entries, {disk}", index.keys);
    let mut facts = Vec::new();
    if let Some(micros) = index.commit_p99_micros {
        let whole = micros / 1_000;
        let rest = micros % 1_000 / 100;
        let commits = index.commits;
        facts.push(format!(
            "{commits} commits, slow ones take {whole}.{rest} ms"
        ));
    }
    for (count, what) in [
        (index.queued, "changes wait"),
        (index.dropped_batches, "batches of changes were dropped"),
        (index.unread_repositories, "repositories must be read again"),
        (index.quarantines, "times set aside since the start"),
    ] {
        if count > 0 {
            facts.push(format!("{count} {what}"));
        }
    }
    for fact in facts {
        let _ = writeln!(text, "              {fact}");
    }
    if *log_lines_lost > 0 {
        let _ = writeln!(
            text,
            "log           {log_lines_lost} lines were lost since the start: stderr could not be written"
        );
    }
    for trouble in not_ready {
        let _ = writeln!(text, "not ready     {trouble}");
    }
    for trouble in degraded {
        let _ = writeln!(text, "degraded      {trouble}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_an_index_that_is_not_whole_are_called_incomplete() {
        let status = |health: &str| {
            let status = serde_json::json!({
                "repositories": 0, "tags": 0, "manifests": 0, "blobs": 0, "logical_bytes": 0, "stored_bytes": 0,
                "lists_from_index": false,
                "index": {
                    "health": health, "keys": 0, "queued": 0, "dropped_batches": 0, "unread_repositories": 0, "commits": 0,
                    "quarantines": 0
                }
            });
            let mut text = String::new();
            stored_text(&mut text, &serde_json::from_value(status).unwrap());
            text
        };
        let line = "counts        incomplete: they come from the index, which is degraded\nrepositories  0\n";
        assert!(status("degraded").contains(line), "{}", status("degraded"));
        assert!(!status("healthy").contains("incomplete"));
    }
}
