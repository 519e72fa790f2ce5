//! Which installation a command is about.
//!
//! Must not start or write anything. Invariant: what was not named is looked for in this user's place first, then in root's.

use std::io;
use std::path::PathBuf;

use anyhow::bail;

use super::reachable::Reachable;
use crate::config::{self, Config, Loaded};
use crate::instance::places::{Places, Surroundings};
use crate::server::Address;
use crate::tls;

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
        let loaded = config::load_again(&config_files, &super::environment())?;
        Ok(Self {
            config_files,
            loaded,
        })
    }

    /// The same for a command that reads the file of users itself, or that needs no accounts: a mistake in that file, or its
    /// loss, must not hide how the server is.
    pub(super) fn find_without_accounts(place: &Where) -> anyhow::Result<Self> {
        let config_files = config_files(place)?;
        let loaded = config::load_without_users_file(&config_files, &super::environment())?;
        Ok(Self {
            config_files,
            loaded,
        })
    }
}

/// The files that were named, by arguments or by the variable, or else those of the installation that is looked for.
pub(super) fn config_files(place: &Where) -> anyhow::Result<Vec<PathBuf>> {
    if !place.config.is_empty() {
        return Ok(place.config.clone());
    }
    if place.dir.is_none()
        && let Some(file) = file_of_variable()
    {
        return Ok(vec![file]);
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

/// Whether the installation that was found is root's, and this user may not read its configuration.
pub(super) fn is_unreadable(place: &Where) -> bool {
    if place.dir.is_some() || !place.config.is_empty() {
        return false;
    }
    let files = config_files(place).unwrap_or_default();
    let is_denied = |file: &PathBuf| {
        let opened = std::fs::File::open(file);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    files.iter().any(is_denied)
}

/// Whether the installation is one that `up` made, and not files as `serve` is given them.
pub(super) fn is_of_up(place: &Where) -> bool {
    place.config.is_empty() && (place.dir.is_some() || file_of_variable().is_none())
}

/// The file that distribution's variable names.
pub(super) fn file_of_variable() -> Option<PathBuf> {
    std::env::var_os(config::FILE_VARIABLE)
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
}

/// `HOST:PORT` as clients best call the registry, by its configuration.
pub(super) fn configured_name(config: &Config) -> anyhow::Result<String> {
    Ok(configured_names(config)?.registry)
}

/// All that clients may call the registry, by its configuration.
pub(super) fn configured_names(config: &Config) -> anyhow::Result<Reachable> {
    let address = &config.server.address;
    let has_port = address.tcp().is_some_and(|address| address.port() != 0);
    if !has_port && config.external_host.is_none() {
        bail!(
            "`http.addr` is {address}, which has no fixed port\nhint: name the registry as HOST:PORT"
        );
    }
    let certified = tls::names_in_files(&config.tls);
    Ok(Reachable::find(config, address, certified))
}

/// The name that was configured for the registry, which another machine may resolve although this one does not.
pub(super) fn meant_name(config: &Config, address: &Address) -> String {
    let certified = tls::names_in_files(&config.tls);
    Reachable::find(config, address, certified).meant
}

/// `HOST:PORT` as clients best call a registry that listens at `address`.
pub(super) fn registry_name(config: &Config, address: &Address) -> String {
    let certified = tls::names_in_files(&config.tls);
    Reachable::find(config, address, certified).registry
}
