//! Provisional.

use std::path::PathBuf;

use anyhow::anyhow;

use super::places::{Places, Surroundings};
use crate::config::{self, Loaded};

#[derive(Debug, clap::Args)]
pub(super) struct Where {
    /// The directory that `up --dir` was given
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// A config file, as `serve` was given it (may be repeated)
    #[arg(long = "config", value_name = "FILE", global = true)]
    config: Vec<PathBuf>,
}

pub(super) struct Installation {
    pub(super) loaded: Loaded,
}

impl Installation {
    pub(super) fn find(place: &Where) -> anyhow::Result<Self> {
        let config_files = if place.config.is_empty() {
            vec![Places::choose(place.dir.as_deref(), &Surroundings::here())?.config]
        } else {
            place.config.clone()
        };
        let loaded = config::load(&config_files, &super::environment())
            .map_err(|errors| anyhow!("{errors}"))?;
        Ok(Self { loaded })
    }
}
