//! `boathouse backup`: a copy of the whole installation in another directory, while it is served.
//!
//! Must not know how it is copied (`instance::backup`). Invariant: exit code 0 means that the backup holds all that the
//! installation holds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use indicatif::HumanBytes;

use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::{Hold, is_served};
use crate::cli::talk;
use crate::config;
use crate::durable_file::directory_of;
use crate::instance::backup::{Job, Made, back_up};
use crate::instance::lock_used_data;
use crate::instance::places::control_socket;
use crate::oci::RepositoryName;

/// Damage that is named line by line; of more, the number is printed.
const DAMAGE_NAMED_MAX: usize = 20;

/// How often a repository is read if the server could not hold it long enough. The second time, its links are in memory.
const READS_MAX: usize = 3;

/// `boathouse backup`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The directory of the backup: new, empty, or with an earlier backup, which is brought up to date
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Read all images in the backup again, also those that an earlier run has copied and checked
    #[arg(long)]
    verify: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Exit code 0 if everything was copied, 1 otherwise.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    let files = &installation.config_files;
    let config = &installation.loaded.config;
    let relocated = config::relocated(files, &crate::cli::environment())
        .context("the configuration cannot be copied")?;
    let socket = control_socket(config);
    // Without a server, none may start meanwhile.
    let locks = if is_served(&socket)? {
        Vec::new()
    } else {
        lock_used_data(config).context("no command can reach the server\nhint: restart it")?
    };
    let is_held = locks.is_empty();
    let meter = Meter::new("backup");
    let job = Job {
        config,
        relocated: &relocated,
        config_directory: files
            .first()
            .map_or(Path::new("."), |file| directory_of(file)),
        destination: &arguments.destination,
        reads_all: arguments.verify,
        quietly: &|name, read| {
            if is_held {
                read_held(&socket, name, read)
            } else {
                read()
            }
        },
        tell: &|progress| meter.tell(progress),
    };
    let made = back_up(&job)?;
    meter.end();
    for variable in &relocated.variables {
        talk::line(format_args!(
            "note: {variable} decides a part of the configuration here, and is not in the backup"
        ));
    }
    if !relocated.is_verbatim {
        talk::line(
            "note: boathouse.yml in the backup is the whole configuration in one file, without its comments: paths in it are relative, so that it can be restored anywhere",
        );
    }
    if made.record.same_disk {
        talk::line(format_args!(
            "warning: {} is on the same disk as the images: this is no backup, since both are lost with the disk\nhint: name a directory on another disk, or copy this one to another machine",
            arguments.destination.display()
        ));
    }
    let damaged = &made.record.damaged;
    for what in damaged.iter().take(DAMAGE_NAMED_MAX) {
        talk::line(format_args!("damaged: {what}"));
    }
    if !damaged.is_empty() {
        talk::line(format_args!(
            "{} files could not be copied; everything else was\nhint: `boathouse check --data` looks through the installation",
            damaged.len()
        ));
    }
    let is_whole = damaged.is_empty();
    talk::data(
        &made.record,
        arguments.json,
        text(&made, &arguments.destination),
    )?;
    Ok(if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads the links of a repository while the server lets nothing change in it.
fn read_held(
    socket: &Path,
    name: &RepositoryName,
    read: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for _ in 0..READS_MAX {
        let hold = Hold::begin(socket, name)?;
        read()?;
        if hold.end()? {
            return Ok(());
        }
    }
    bail!(
        "{name} takes too long to read: pushes to it would have to wait\nhint: stop the server, make the backup, and start it again"
    )
}

fn text(made: &Made, destination: &Path) -> String {
    let record = &made.record;
    let (copied, bytes) = made.copied;
    let outcome = if record.damaged.is_empty() {
        "backup complete".to_owned()
    } else {
        format!("backup made without {} damaged files", record.damaged.len())
    };
    format!(
        "{outcome}: {}\n{} repositories, {} blobs, {}; copied now: {copied} blobs, {}\n",
        destination.display(),
        record.repositories,
        record.blobs,
        HumanBytes(record.bytes),
        HumanBytes(bytes)
    )
}
