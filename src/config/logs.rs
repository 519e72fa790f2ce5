//! `log` and `version`: what is logged, and how.

use tracing::Level;

use super::key::{Family, Flag, InTemplate, Key, Text, Unread, Words, distribution, keys};
use super::reader::Reader;
use crate::telemetry;

keys! {
    table KEYS;

    /// The version of the format of distribution's file.
    VERSION: Text = distribution("version").text("0.1");

    /// The least level that is logged: error, warn, info, debug, trace.
    ///
    /// `BOATHOUSE_LOG`, else `RUST_LOG`, replaces it by a filter such as `boathouse=debug`. The access log does not depend on it.
    LEVEL: Words<Level> = distribution("log.level").words(Level::INFO, LEVELS).in_template(InTemplate::Default);

    /// An old name of `log.level`; it counts only without that.
    OLD_LEVEL: Words<Level> = distribution("loglevel").words(LEVEL.kind.default, LEVELS);

    /// How a line is written: text, or json with one object a line.
    ///
    /// `--log-format` overrides it.
    IS_JSON: Words<bool> = distribution("log.formatter").words(false, FORMATTERS).commented();

    /// Whether the access log is off.
    ACCESS_LOG_DISABLED: Flag = distribution("log.accesslog.disabled").flag(false).commented();
}

const LEVELS: &[(&str, Level)] = &[
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// distribution's third formatter is JSON too.
const FORMATTERS: &[(&str, bool)] = &[("text", false), ("json", true), ("logstash", true)];

const UNREAD: &[Key<Unread>] = &[
    distribution("log.fields").harmless("lines of the log have no extra fields"),
    distribution("log.hooks").harmless("the log is not mailed; watch `/readyz`"),
    distribution("log.reportcaller").harmless("not needed: lines of the log name their module"),
    distribution("reporting").harmless("nothing is reported to other services"),
];

pub(super) const FAMILY: Family = Family {
    heading: "Logs",
    intro: "",
    keys: KEYS,
    unread: UNREAD,
};

pub(super) fn telemetry(reader: &mut Reader<'_>) -> telemetry::Settings {
    if reader.get(&VERSION) != VERSION.kind.0 {
        reader.refuse(
            VERSION.path,
            "must be 0.1",
            "distribution knows no other version",
        );
    }
    let is_old = reader.node(LEVEL.path).is_none() && reader.node(OLD_LEVEL.path).is_some();
    telemetry::Settings {
        level: reader.get(if is_old { &OLD_LEVEL } else { &LEVEL }),
        json: reader.get(&IS_JSON),
        access_log_disabled: reader.get(&ACCESS_LOG_DISABLED),
    }
}
