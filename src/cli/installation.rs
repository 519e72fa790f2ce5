//! Which installation a command is about.
//!
//! Must not start or write anything. Invariant: what was not named is looked for in this user's place first, then in root's.

use std::path::PathBuf;

use anyhow::bail;

use crate::config::{self, Config, Loaded};
use crate::host_port::HostPort;
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

    /// For a command that changes the file of users, and reads it itself.
    pub(super) fn find_for_a_change(place: &Where) -> anyhow::Result<Self> {
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

/// The file that distribution's variable names.
pub(super) fn file_of_variable() -> Option<PathBuf> {
    std::env::var_os(config::FILE_VARIABLE)
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
}

/// `HOST:PORT` as clients best call the registry, by its configuration.
pub(super) fn configured_name(config: &Config) -> anyhow::Result<String> {
    let address = &config.server.address;
    let has_port = address.tcp().is_some_and(|address| address.port() != 0);
    if !has_port && config.external_host.is_none() {
        bail!(
            "`http.addr` is {address}, which names no port that stays the same\nhint: name the registry as HOST:PORT"
        );
    }
    Ok(registry_name(config, address))
}

/// `HOST:PORT` as clients best call a registry that listens at `address`.
pub(super) fn registry_name(config: &Config, address: &Address) -> String {
    if let Some(external) = &config.external_host {
        return external.authority().to_owned();
    }
    let Address::Tcp(address) = address else {
        return address.to_string();
    };
    let hosts = match &config.tls {
        tls::Settings::Automatic { hosts, .. } => hosts.as_slice(),
        tls::Settings::None | tls::Settings::Files { .. } => &[],
    };
    reachable_name(address, hosts, &tls::best_host_name())
}

/// `HOST:PORT` as clients write it. The port always stands there, 443 too: in `lab/image`, docker takes `lab` for a name on
/// Docker Hub.
fn reachable_name(address: &HostPort, hosts: &[String], best_name: &str) -> String {
    let host = match (hosts.first(), address.host()) {
        (Some(host), _) => host,
        (None, _) if address.is_every_address() => best_name,
        (None, "127.0.0.1" | "::1") => "localhost",
        (None, host) => host,
    };
    match HostPort::new(host, address.port()) {
        Ok(named) => named.to_string(),
        // No certificate can have this name, and the start fails for that reason.
        Err(_) => format!("{host}:{}", address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_a_name_that_they_can_use() {
        let name = |address: &str, hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().copied().map(str::to_owned).collect();
            reachable_name(&address.parse().unwrap(), &hosts, "vm.local")
        };
        assert_eq!(name(":443", &[]), "vm.local:443");
        assert_eq!(name("0.0.0.0:443", &[]), "vm.local:443");
        assert_eq!(name("[::1]:5443", &[]), "localhost:5443");
        assert_eq!(name("10.0.0.5:5443", &[]), "10.0.0.5:5443");
        assert_eq!(name("[fd00::5]:5443", &[]), "[fd00::5]:5443");
        assert_eq!(
            name("[::1]:5443", &["boathouse.test", "b"]),
            "boathouse.test:5443"
        );
        assert_eq!(name(":443", &["fd00::5"]), "[fd00::5]:443");
    }
}
