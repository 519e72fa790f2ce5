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
use crate::instance::backup::restore::restore;

/// `boathouse restore`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The directory that `boathouse backup` was given
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// The directory to restore to: new, or empty
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Exit code 0 if everything was restored, 1 otherwise.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let meter = Meter::of("restore", "files");
    let restored = restore(&arguments.backup, &arguments.dir, &|progress| {
        meter.tell(progress);
    })?;
    meter.end();
    let record = &restored.record;
    for what in record.damaged.iter().chain(&restored.damaged) {
        talk::line(format_args!("damaged: {what}"));
    }
    talk::print(&format!(
        "restored to {}: {} repositories, {} blobs, {}; the backup is of {}\nserve it: boathouse up --dir {}\n",
        arguments.dir.display(),
        record.repositories,
        record.blobs,
        HumanBytes(record.bytes),
        record.completed,
        shell_word(&arguments.dir.to_string_lossy())
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
