//! `boathouse config`: the configuration in force, several files as one, and the files of the old programs.
//!
//! Must not know any key. Invariants: nothing is written but stdout and stderr; only `merge` and `export`, whose output is a
//! configuration, print secrets.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use crate::cli::installation::{Where, config_files, meant_name};
use crate::cli::talk;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, DistributionVersion, Served, TokenPair};
use crate::instance::keys;
use crate::tls;

/// `boathouse config`
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the whole configuration in force as YAML, with the place of each value; secrets are masked
    Show {
        #[command(flatten)]
        place: Where,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print several config files as one that means the same: full paths, no comments, all secrets
    Merge {
        /// The config files, in their order
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print the config file with which an old program takes over again, with all secrets
    Export(ExportArguments),
}

#[derive(Debug, Args)]
struct ExportArguments {
    #[command(flatten)]
    place: Where,
    /// The program that will read it
    #[arg(long = "for", value_enum, value_name = "PROGRAM")]
    program: Program,
    /// The version of the registry
    #[arg(long, value_enum, value_name = "VERSION", default_value = "2.8")]
    distribution_version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    /// Docker's registry: its config.yml
    Distribution,
    /// The token server: its `auth_config.yml`
    #[value(name = "docker_auth")]
    DockerAuth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Version {
    #[value(name = "2.8")]
    V2_8,
    #[value(name = "3.1")]
    V3_1,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let environment = crate::cli::environment();
    match &arguments.action {
        Action::Show { place, json } => {
            let files = config_files(place)?;
            let shown = config::shown(&files, &environment)?;
            for note in &shown.notes {
                talk::line(format_args!("note: {note}"));
            }
            talk::data(&shown.keys, *json, shown.text)
        }
        Action::Merge { files } => {
            let merged = config::merged(files, &environment)?;
            talk::line(
                "note: this file holds secrets; only the user that runs Boathouse should be able to read it (chmod 600)",
            );
            if !merged.variables.is_empty() {
                talk::line(format_args!(
                    "note: not included: environment variables that override it: {}",
                    merged.variables.join(", ")
                ));
            }
            talk::print(&merged.text)?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Export(arguments) => {
            let files = config_files(&arguments.place)?;
            let loaded = config::load_served_again(&files, &environment)?;
            let surroundings = surroundings(&loaded.config)?;
            let version = match arguments.distribution_version {
                Version::V2_8 => DistributionVersion::V2_8,
                Version::V3_1 => DistributionVersion::V3_1,
            };
            let export = match arguments.program {
                Program::Distribution => config::for_distribution,
                Program::DockerAuth => config::for_docker_auth,
            };
            let exported = export(&files, &environment, &surroundings, version)?;
            talk::line(match arguments.program {
                Program::Distribution => {
                    "note: this file may hold secrets; only the user that runs the registry should be able to read it (chmod 600)"
                }
                Program::DockerAuth => {
                    "note: this file holds the hashes of passwords; only the user that runs docker_auth should be able to read it (chmod 600)"
                }
            });
            for remark in &exported.remarks {
                talk::line(format_args!("note: {remark}"));
            }
            talk::print(&exported.text)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What the old programs need and the files do not say.
fn surroundings(served: &Served) -> anyhow::Result<config::Surroundings> {
    let now_unix_secs = SystemClock::new().unix_secs();
    let config = match served {
        Served::Registry(config) => config,
        // `docker_auth`'s own file names all that it needs: such a file without a pair for tokens was refused.
        Served::TokenIssuer(issuer) => {
            let pair = issuer.auth.token_pair.clone();
            return Ok(config::Surroundings {
                server_pair: None,
                token_pair: pair.context("no key signs tokens")?,
                host: String::new(),
                now_unix_secs,
            });
        }
    };
    let keys = keys::keys_directory(config);
    let pair = |name: &str| TokenPair {
        certificate: keys.join(format!("{name}.crt")),
        key: keys.join(format!("{name}.key")),
    };
    let server_pair = match &config.tls {
        tls::Settings::None => None,
        tls::Settings::Automatic { .. } => Some(pair("tls")),
        tls::Settings::Files {
            certificate, key, ..
        } => Some(TokenPair {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
    };
    let name = meant_name(config, &config.server.address);
    let host = name
        .rsplit_once(':')
        .map_or(name.as_str(), |(host, _)| host);
    Ok(config::Surroundings {
        server_pair,
        token_pair: config
            .auth
            .token_pair
            .clone()
            .unwrap_or_else(|| pair("token")),
        host: host.to_owned(),
        now_unix_secs,
    })
}
