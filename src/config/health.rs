//! `health` and `http.debug`: what is checked beside the requests, and where that and the metrics are shown.
//!
//! Must not know how a check is made. Invariant: a check that is written and cannot be made is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde::Deserialize;

use super::key::{Family, Flag, Number, OptionalText, Seconds, Special, Text, distribution, keys};
use super::reader::Reader;
use super::{duration, from_node};
use crate::health::{CHECK_SECS, Check, Target};
use crate::host_port::HostPort;

keys! {
    table KEYS;

    /// Whether requests are refused while the store does not answer.
    STORE: Flag = distribution("health.storagedriver.enabled").flag(false);

    /// The time between two looks at the store.
    STORE_INTERVAL: Seconds = distribution("health.storagedriver.interval").seconds(CHECK_SECS, SECS_MAX);

    /// How many looks in a row must fail.
    STORE_THRESHOLD: Number<u32> = distribution("health.storagedriver.threshold").number(0, 0..=THRESHOLD_MAX, "");

    /// A file that must not exist: making it takes the registry out of service.
    FILE: Special = distribution("health.file.[].file").special("path", "");

    /// The time between two checks, for each kind of check.
    FILE_INTERVAL: Special = distribution("health.file.[].interval").special("duration", "10s");

    /// How many checks in a row must fail, for each kind of check. 0 is the same as 1.
    FILE_THRESHOLD: Special = distribution("health.file.[].threshold").special("whole number", "0");

    /// A URL that must answer HEAD. Redirects are followed.
    HTTP_URI: Special = distribution("health.http.[].uri").special("URL", "");

    /// The headers of the request: `{Name: [value]}`.
    HTTP_HEADERS: Special = distribution("health.http.[].headers.*").special("list of texts", "{}");

    /// The status of the answer.
    HTTP_STATUS: Special = distribution("health.http.[].statuscode").special("100 to 599", "200");

    /// How long the answer may take. distribution's own default is no limit.
    HTTP_TIMEOUT: Special = distribution("health.http.[].timeout").special("duration", "10s");

    /// As for files.
    HTTP_INTERVAL: Special = distribution("health.http.[].interval").special("duration", "10s");

    /// As for files.
    HTTP_THRESHOLD: Special = distribution("health.http.[].threshold").special("whole number", "0");

    /// An address that must take TCP connections.
    TCP_ADDRESS: Special = distribution("health.tcp.[].addr").special("`HOST:PORT`", "");

    /// How long the connection may take. distribution's own default is no limit.
    TCP_TIMEOUT: Special = distribution("health.tcp.[].timeout").special("duration", "10s");

    /// As for files.
    TCP_INTERVAL: Special = distribution("health.tcp.[].interval").special("duration", "10s");

    /// As for files.
    TCP_THRESHOLD: Special = distribution("health.tcp.[].threshold").special("whole number", "0");

    /// Where `/debug/health` is answered, in plain HTTP and to everybody: the checks that fail, as JSON.
    ///
    /// 503 if there are any. The other debug pages of distribution, which are those of Go, do not exist.
    DEBUG_ADDRESS: OptionalText = distribution("http.debug.addr").optional_text();

    /// Whether metrics are shown at the same address, to everybody who can reach it.
    ///
    /// Accounts with the right `registry:metrics:*` find them at `/metrics` of the main address, with and without this key.
    PROMETHEUS: Flag = distribution("http.debug.prometheus.enabled").flag(false);

    /// The path of the metrics at the debug address.
    PROMETHEUS_PATH: Text = distribution("http.debug.prometheus.path").text("/metrics");
}

pub(super) const FAMILY: Family = Family {
    heading: "Health checks",
    intro: "While a check fails, every request to the registry but `/`, `/healthz`, `/readyz` and those for tokens is answered with 503 `UNAVAILABLE`. A check is made the first time after its interval. Without these keys, `/readyz` alone says how the registry is.",
    keys: KEYS,
    unread: &[],
};

/// The other path of the debug listener.
const HEALTH_PATH: &str = "/debug/health";

/// A day.
const SECS_MAX: u64 = 86_400;
/// More than anybody waits for.
const THRESHOLD_MAX: u64 = 1_000_000;

/// An item of any of the lists; which keys it may have was checked before.
#[derive(Deserialize)]
struct Entry {
    file: Option<String>,
    uri: Option<String>,
    addr: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Vec<String>>,
    statuscode: Option<String>,
    timeout: Option<String>,
    interval: Option<String>,
    threshold: Option<String>,
}

/// All checks. No two have one name, by which `/debug/health` shows them.
pub(super) fn checks(reader: &mut Reader<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    let is_on = reader.get(&STORE);
    let (interval_secs, threshold) = (reader.get(&STORE_INTERVAL), reader.get(&STORE_THRESHOLD));
    if is_on {
        checks.push(Check {
            name: "storagedriver_filesystem".to_owned(),
            target: Target::Store,
            interval_secs: if interval_secs == 0 {
                CHECK_SECS
            } else {
                interval_secs
            },
            threshold,
        });
    }
    for key in ["health.file", "health.http", "health.tcp"] {
        let entries: Vec<Entry> = match reader.node(key).map(|node| from_node::read(node, key)) {
            None => continue,
            Some(Ok(entries)) => entries,
            Some(Err(error)) => {
                reader.errors.push(error);
                continue;
            }
        };
        reader.summarise(key, format_args!("{} checks", entries.len()));
        for entry in entries {
            match entry.check(reader, key) {
                Ok(check) => checks.push(check),
                Err(expected) => reader.refuse(key, "a check that cannot be made", expected),
            }
        }
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = checks.iter().find(|check| !names.insert(&check.name)) {
        let message = format!("`{}` is checked twice", twice.name);
        reader.refuse("health", &message, "keep one of the two");
    }
    checks
}

impl Entry {
    fn check(self, reader: &mut Reader<'_>, key: &str) -> Result<Check, &'static str> {
        let interval_secs = secs(self.interval.as_deref())?;
        let timeout_secs = secs(self.timeout.as_deref())?;
        let threshold = match &self.threshold {
            None => 0,
            Some(text) => text.parse().map_err(|_| "`threshold` is a whole number")?,
        };
        let (name, target) = match (self.file, self.uri, self.addr) {
            (Some(file), None, None) if !file.is_empty() => {
                let path = reader.absolute(key, Path::new(&file));
                (file, Target::NoFile(path))
            }
            (None, Some(text), None) => {
                let uri =
                    url(&text).ok_or("`uri` is written like `https://other.example/health`")?;
                let target = Target::Http {
                    uri,
                    headers: header_map(&self.headers)
                        .ok_or("`headers` is written like `{Name: [value]}`")?,
                    status: status(self.statuscode.as_deref())
                        .ok_or("`statuscode` is a number from 100 to 599")?,
                    timeout_secs,
                };
                (text, target)
            }
            (None, None, Some(text)) => {
                let address: Option<HostPort> = text.parse().ok();
                let address = address.filter(|address| !address.host().is_empty());
                let target = Target::Tcp {
                    address: address.ok_or("`addr` is written like `redis.example:6379`")?,
                    timeout_secs,
                };
                (text, target)
            }
            _ => return Err("each needs `file`, `uri` or `addr`"),
        };
        Ok(Check {
            name,
            target,
            interval_secs,
            threshold,
        })
    }
}

/// distribution takes 0 for the default.
fn secs(text: Option<&str>) -> Result<u64, &'static str> {
    match text.map(duration::whole_secs) {
        None | Some(Some(0)) => Ok(CHECK_SECS),
        Some(Some(secs)) if secs <= SECS_MAX => Ok(secs),
        Some(_) => Err("durations are written like `30s` or `1m30s`, and are a day at most"),
    }
}

fn status(text: Option<&str>) -> Option<u16> {
    match text {
        None | Some("0") => Some(200),
        Some(text) => text
            .parse()
            .ok()
            .filter(|status| (100..600).contains(status)),
    }
}

fn url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_url = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    is_url.then_some(uri)
}

fn header_map(headers: &BTreeMap<String, Vec<String>>) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, values) in headers {
        for value in values {
            let name = HeaderName::try_from(name.as_str()).ok()?;
            map.append(name, HeaderValue::try_from(value.as_str()).ok()?);
        }
    }
    Some(map)
}

/// The path of the metrics at the debug address, if they are shown there.
pub(super) fn metrics_path(reader: &mut Reader<'_>, has_address: bool) -> Option<String> {
    let (is_on, path) = (reader.get(&PROMETHEUS), reader.get(&PROMETHEUS_PATH));
    // distribution takes an empty path for the default.
    let path = if path.is_empty() {
        PROMETHEUS_PATH.kind.0.to_owned()
    } else {
        path
    };
    if !path.starts_with('/') || path == HEALTH_PATH {
        reader.refuse(
            PROMETHEUS_PATH.path,
            "must be a path of its own that begins with a slash",
            "written like `/metrics`",
        );
    }
    if is_on && !has_address {
        reader.warn(
            PROMETHEUS.path,
            "has no effect without http.debug.addr; accounts with the right `registry:metrics:*` find the metrics at `/metrics` of the main address",
        );
    }
    is_on.then_some(path)
}

/// Where `/debug/health` is answered.
pub(super) fn debug_address(reader: &mut Reader<'_>) -> Option<HostPort> {
    let text = reader.get(&DEBUG_ADDRESS)?;
    let address = text.parse().ok();
    if address.is_none() {
        reader.refuse(
            DEBUG_ADDRESS.path,
            "must be an address and a port",
            "written like `127.0.0.1:5002`",
        );
    }
    address
}
