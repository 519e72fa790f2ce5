//! `boathouse restore`: an installation from its backup.
//!
//! Must not know how it is copied (`instance::backup::restore`). Invariant: exit code 0 means that everything in the backup was
//! restored, byte for byte.

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::HumanBytes;

use crate::cli::progress::Meter;
use crate::cli::talk;
use crate::config::shell_word;
use crate::durable_file::directory_of;
use crate::instance::backup::restore::restore;
use crate::instance::places::{Places, Surroundings};

/// `boathouse restore`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The directory that `boathouse backup` was given
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// The directory to restore to, as `up --dir` takes it: new, or empty [default: the platform's places, as of `up`]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Exit code 0 if everything was restored, 1 otherwise.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let meter = Meter::of("restore", "files");
    let places = Places::choose(arguments.dir.as_deref(), &Surroundings::here())?;
    let restored = restore(&arguments.backup, &places, &|progress| {
        meter.tell(progress);
    })?;
    meter.end();
    let record = &restored.record;
    for what in record.damaged.iter().chain(&restored.damaged) {
        talk::line(format_args!("damaged: {what}"));
    }
    talk::print(&format!(
        "restored to {}: {} repositories, {} blobs, {}; the backup is of {}\nserve it: boathouse up{}\n",
        directory_of(&places.config).display(),
        record.repositories,
        record.blobs,
        HumanBytes(record.bytes),
        record.completed,
        arguments
            .dir
            .as_ref()
            .map_or_else(String::new, |dir| format!(
                " --dir {}",
                shell_word(&dir.to_string_lossy())
            ))
    ))?;
    Ok(if restored.damaged.is_empty() {
        ExitCode::SUCCESS
    } else {
        talk::line(format_args!(
            "{} files are missing or damaged in the backup; everything else was restored",
            restored.damaged.len()
        ));
        ExitCode::FAILURE
    })
}
