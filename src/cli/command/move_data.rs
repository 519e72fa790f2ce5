//! `boathouse move`: copies all data to another place, from a directory to a bucket or back.
//!
//! The new place is described by a config file, the one that the server is to be started with afterwards: a bucket needs an
//! endpoint, a region, credentials and perhaps an authority, which are keys of that file already. Must not know how data are copied
//! (`registry::Move`). Invariants: the source is only read; while a server runs, or could start, the copy does not count as
//! complete, and no instance serves it; exit code 0 means that all was copied.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use indicatif::HumanBytes;

use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::{is_served, with_instance};
use crate::cli::talk;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::instance::places::{control_socket, refuse_data_of_another_as_root};
use crate::instance::{lock_used_data, missing_parts};
use crate::registry::{Move, MoveError, Moved};

/// Damage that is named line by line; of more, the number is printed.
const DAMAGE_NAMED_MAX: usize = 20;

/// `boathouse move`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The config file that the server is to be started with afterwards; its `storage` says where to copy the data
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Exit code 0 if everything was copied, 1 otherwise.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find_without_accounts(&arguments.place)?;
    let old = &installation.loaded.config;
    let to = std::slice::from_ref(&arguments.to);
    let new = config::load_without_users_file(to, &crate::cli::environment())?.config;
    if old.storage == new.storage {
        bail!(
            "{} names the place where the data are already: {}\nhint: change its section `storage`",
            arguments.to.display(),
            new.storage
        );
    }
    missing_parts::refuse_missing_root(old)?;
    missing_parts::refuse_missing_root(&new)?;
    refuse_data_of_another_as_root(new.owned_directory())?;
    let is_served = is_served(&control_socket(old))?;
    let meter = Meter::new("copying");
    let moved = if is_served {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let moved = runtime.block_on(copy(old, &new, clock, false, &meter));
        runtime.shutdown_background();
        moved?
    } else {
        let _destination = lock_used_data(&new).context("a server uses the destination")?;
        // Locked as by a server, which cannot start until this has ended.
        with_instance(old, async |instance, clock| {
            let moved = copy(old, &new, clock, true, &meter).await;
            instance.close().await;
            moved
        })?
    };
    meter.end();
    for what in moved.damaged.iter().take(DAMAGE_NAMED_MAX) {
        talk::line(format_args!("damaged: {what}"));
    }
    if !moved.damaged.is_empty() {
        talk::line(format_args!(
            "{} files could not be copied; everything else was\nhint: `boathouse check --data` looks through the data",
            moved.damaged.len()
        ));
    }
    let text = text(&moved, &new, &arguments.to.display().to_string(), is_served);
    talk::data(&moved, arguments.json, text)?;
    Ok(if moved.damaged.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn copy(
    old: &Config,
    new: &Config,
    clock: Arc<dyn Clock>,
    is_last: bool,
    meter: &Meter,
) -> anyhow::Result<Moved> {
    let open = |config: &Config, is_readonly| {
        let opened = config.storage.open(is_readonly, Arc::clone(&clock));
        opened.with_context(|| format!("cannot open {}", config.storage))
    };
    let copying = Move {
        from: open(old, true)?,
        to: open(new, false)?,
    };
    let moved = copying.run(is_last, &|progress| meter.tell(progress)).await;
    moved.map_err(|error| {
        let hint = match &error {
            MoveError::NotEmpty => {
                "name an empty directory or bucket, or another `rootdirectory` in it"
            }
            MoveError::Store(_) => "what was copied stays; run this again, it goes on where it was",
        };
        let context = format!("cannot copy to {}\nhint: {hint}", new.storage);
        anyhow::Error::new(error).context(context)
    })
}

fn text(moved: &Moved, new: &Config, file: &str, is_served: bool) -> String {
    let counts = format!(
        "{} repositories, {} blobs; copied now: {} blobs, {}, {} links; removed there: {} links\n",
        moved.repositories,
        moved.blobs,
        moved.copied_blobs,
        HumanBytes(moved.copied_bytes),
        moved.written_links,
        moved.removed_links
    );
    if is_served {
        format!(
            "{counts}the server runs, so this was not the last pass: stop it, run this again (it copies what has changed since), and start it with {file}\n"
        )
    } else {
        format!(
            "{counts}all data are in {}: start the server with {file}\n",
            new.storage
        )
    }
}
