//! Which installation a command is about.
//!
//! Must not start or write anything. Invariant: what was not named is looked for in this user's place first, then in root's.

use std::path::PathBuf;

use anyhow::{anyhow, bail};

use super::places::{Places, Surroundings};
use crate::config::{self, Loaded};

/// Which installation.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Where {
    /// The directory that `up --dir` was given
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) dir: Option<PathBuf>,
    /// A config file, as `serve` was given it (may be repeated)
    #[arg(long = "config", value_name = "FILE", global = true)]
    pub(super) config: Vec<PathBuf>,
}

/// One installation, as its files describe it.
pub(super) struct Installation {
    pub(super) config_files: Vec<PathBuf>,
    /// Without the keys that sign tokens: a command needs none.
    pub(super) loaded: Loaded,
}

impl Installation {
    pub(super) fn find(place: &Where) -> anyhow::Result<Self> {
        let config_files = config_files(place)?;
        let loaded = config::load_again(&config_files, &super::environment())
            .map_err(|errors| anyhow!("{errors}"))?;
        Ok(Self {
            config_files,
            loaded,
        })
    }
}

/// The files that were named, or else those of the installation that is looked for.
pub(super) fn config_files(place: &Where) -> anyhow::Result<Vec<PathBuf>> {
    if !place.config.is_empty() {
        return Ok(place.config.clone());
    }
    let own = Places::choose(place.dir.as_deref(), &Surroundings::here())?.config;
    if own.exists() {
        return Ok(vec![own]);
    }
    let root = Surroundings {
        user_id: 0,
        ..Surroundings::here()
    };
    let of_root = Places::choose(None, &root)?.config;
    if place.dir.is_none() && of_root.exists() {
        return Ok(vec![of_root]);
    }
    bail!(
        "there is no {}\nhint: name the installation with `--dir DIR` or `--config FILE`, or make one with `boathouse up`",
        own.display()
    )
}
