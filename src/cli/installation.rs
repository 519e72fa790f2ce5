//! Provisional.
use std::path::PathBuf;

use anyhow::anyhow;

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
    pub(super) config_files: Vec<PathBuf>,
    pub(super) loaded: Loaded,
}

impl Installation {
    pub(super) fn find(place: &Where) -> anyhow::Result<Self> {
        let config_files = match &place.dir {
            Some(dir) => vec![dir.join("boathouse.yml")],
            None => place.config.clone(),
        };
        let loaded = config::load_again(&config_files, &super::environment())
            .map_err(|errors| anyhow!("{errors}"))?;
        Ok(Self {
            config_files,
            loaded,
        })
    }
}
