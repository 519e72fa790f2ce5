//! `boathouse check`: reads the configuration as `serve` or `up` would, warns of mistakes, shows on demand what is in force, and fails where they would not
//! start, or where a rule has an action that does not exist; or looks through the data.
//!
//! Must not start or write anything, but for an object below `boathouse/start-check/` in a bucket, which is removed again. What only a start can find out (a port in use, a full disk) is not looked for. Invariant: what is in force, or was found, goes to stdout, everything else to stderr, and
//! no secret to either.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use crate::auth::{Auth, Secret};
use crate::cli::findings::{Findings, Wanted};
use crate::cli::installation::{self, Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::talk;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, Served};
use crate::instance::{Expected, missing_parts};
use crate::store;
use crate::store::s3::start_check::check;
use crate::tls::{self, Tls};

/// `boathouse check`
#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// Print every value in force as well, and where it was decided
    #[arg(long, short, conflicts_with_all = ["data", "hand_back"])]
    verbose: bool,
    /// Look through the data for damage; exit code 1 if there is any
    #[arg(long)]
    data: bool,
    /// Name what docker-registry 2.8 or distribution 3.1 would not serve, or would delete; exit code 1 if there is anything to do
    #[arg(long)]
    hand_back: bool,
    /// With --hand-back: the user that the old registry runs as (NAME, UID or UID:GID); by default the owner of the data
    #[arg(long, value_name = "USER", requires = "hand_back")]
    as_user: Option<String>,
    /// With --data or --hand-back: print one JSON object
    #[arg(long)]
    json: bool,
}

/// Exit code 0 if the files are fine, 1 if not.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let wanted = match (arguments.data, arguments.hand_back) {
        (true, true) => Some(Wanted::Everything),
        (true, false) => Some(Wanted::Damage),
        (false, true) => Some(Wanted::Obstacles),
        (false, false) => None,
    };
    if let Some(wanted) = wanted {
        return look_through(arguments, wanted);
    }
    if arguments.json {
        anyhow::bail!("--json is for --data and --hand-back\nhint: add one of them");
    }
    let files = installation::config_files(&arguments.place)?;
    if arguments.place.config.is_empty() {
        for file in &files {
            talk::line(format_args!("note: using {}", file.display()));
        }
    }
    let environment = crate::cli::environment();
    let loaded = match config::load_served(&files, &environment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            for error in &errors {
                talk::line(format_args!("error: {error}"));
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    if arguments.verbose {
        let in_force = loaded.in_force.iter().map(|key| format!("{key}\n"));
        talk::print(&in_force.collect::<String>())?;
    }
    for note in &loaded.notes {
        talk::line(format_args!("note: {note}"));
    }
    for warning in &loaded.warnings {
        talk::line(format_args!("warning: {warning}"));
    }
    let is_registry = matches!(loaded.config, Served::Registry(_));
    let mut has_errors = false;
    for mistake in loaded.config.auth().mistakes() {
        let is_error = is_registry && mistake.is_error();
        has_errors |= is_error;
        let severity = if is_error { "error" } else { "warning" };
        talk::line(format_args!("{severity}: {mistake}"));
    }
    let now_unix_secs = SystemClock::new().unix_secs();
    for certificate in loaded.config.auth().ending_certificates(now_unix_secs) {
        talk::line(format_args!("warning: {certificate}"));
    }
    let settings = loaded.config.auth().settings(Secret::default(), None);
    Auth::new(settings, Arc::new(SystemClock::new()))
        .context("accounts and tokens cannot be set up")?;
    if let Served::Registry(config) = &loaded.config {
        let expected = if installation::is_of_up(&arguments.place) {
            Expected::All
        } else {
            Expected::Known
        };
        missing_parts::refuse(config, &environment, expected, false)?;
        open_own_certificates(config)?;
        check_bucket(config)?;
        if let Some(warning) = missing_parts::empty_root_warning(config) {
            talk::line(format_args!("warning: {warning}"));
        }
    }
    if has_errors {
        return Ok(ExitCode::FAILURE);
    }
    if !arguments.verbose {
        let count = loaded.in_force.len();
        talk::print(&format!(
            "the configuration can be served; {count} values are in force, which --verbose prints\n"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the bucket for all that a server needs of it; what is wrong is one line with a hint.
fn check_bucket(config: &Config) -> anyhow::Result<()> {
    let bucket = match &config.storage {
        store::Settings::Filesystem { .. } => return Ok(()),
        store::Settings::Bucket(bucket) => bucket,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let clock = Arc::new(SystemClock::new());
    let ahead_secs = runtime.block_on(check(bucket, config.registry.readonly, clock))?;
    if let Some(ahead_secs) = ahead_secs {
        talk::line(format_args!(
            "warning: the clock of the bucket is {ahead_secs} s ahead of this machine's; hint: set the clock (`timedatectl set-ntp true`)"
        ));
    }
    Ok(())
}

/// Certificates of the user's own are opened as a server opens them. Those of our own authority may yet have to be made.
fn open_own_certificates(config: &Config) -> anyhow::Result<()> {
    let of_listener = config.token_listener.as_ref().map(|listener| &listener.tls);
    for settings in std::iter::once(&config.tls).chain(of_listener) {
        match settings {
            tls::Settings::Files { .. } => {
                Tls::open(settings, Arc::new(SystemClock::new()))?;
            }
            tls::Settings::None | tls::Settings::Automatic { .. } => {}
        }
    }
    Ok(())
}

/// Exit code 0 if there is nothing to do, 1 otherwise.
fn look_through(arguments: &Arguments, wanted: Wanted) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    let meter = Meter::new("looking through the data");
    let as_user = arguments.as_user.as_deref();
    let findings = Findings::look(&installation, wanted, as_user, &meter)?;
    talk::data(&findings, arguments.json, findings.text(wanted))?;
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
