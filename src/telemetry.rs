//! Logs: tracing to stderr.
/// What the config decides about logs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `log.level`: error, warn, info, debug, trace.
    pub level: tracing::Level,
    /// `log.formatter: json`
    pub json: bool,
    /// `log.accesslog.disabled`
    pub access_log_disabled: bool,
}
pub const ACCESS_LOG_TARGET: &str = "boathouse::access";
