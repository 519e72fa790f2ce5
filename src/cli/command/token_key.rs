//! `boathouse token-key make`: the key that signs tokens and its certificate, where a configuration or the command line
//! names them.
//!
//! Must not know how a token is signed. Invariants: no file is ever replaced; after an error, neither file is left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;

use crate::auth;
use crate::cli::installation::{self, Where};
use crate::cli::talk;
use crate::clock::{self, Clock as _, SystemClock};
use crate::config::{self, Served, TokenPair};
use crate::durable_file;
use crate::store::user_access;

/// Every registry that checks the tokens reads it.
const PUBLIC_FILE: u32 = 0o644;

/// The longest name that X.509 allows for a subject, in characters.
const NAME_LENGTH_MAX: usize = 64;

/// `boathouse token-key`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key (P-256) and its certificate, as registries 2.8 and 3 accept it in `auth.token.rootcertbundle`
    ///
    /// The files are those that the configuration names: `token.certificate` and `token.key`, else `server.certificate`
    /// and `server.key`. A file that is there is never replaced.
    Make(MakeArguments),
}

#[derive(Debug, clap::Args)]
struct MakeArguments {
    #[command(flatten)]
    place: Where,
    /// Where to write the certificate, instead of where the configuration says
    #[arg(long, value_name = "PATH", requires = "key", conflicts_with_all = ["config", "dir"])]
    certificate: Option<PathBuf>,
    /// Where to write the key
    #[arg(long, value_name = "PATH", requires = "certificate", conflicts_with_all = ["config", "dir"])]
    key: Option<PathBuf>,
    /// The subject of the certificate [default: the issuer that the configuration names]
    #[arg(long, value_name = "NAME", value_parser = subject)]
    issuer: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Action::Make(arguments) = &arguments.action;
    let Configured { pair, issuer, data } = match (&arguments.certificate, &arguments.key) {
        (Some(certificate), Some(key)) => Configured {
            pair: TokenPair {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            issuer: None,
            data: None,
        },
        _ => configured(&arguments.place)?,
    };
    refuse_what_is_there(&pair)?;
    let clock = SystemClock::new();
    clock::check_is_set(clock.unix_secs()).context("no key can be made now")?;
    let pem = match arguments.issuer.as_ref().or(issuer.as_ref()) {
        Some(name) => auth::make_token_key_of(name, &clock)?,
        None => auth::make_token_key(&clock)?,
    };
    let directories = [&pair.key, &pair.certificate].map(|path| durable_file::directory_of(path));
    let mut made: Vec<&Path> = directories
        .into_iter()
        .filter(|path| !path.exists())
        .collect();
    made.extend([pair.key.as_path(), pair.certificate.as_path()]);
    write(&pair.key, &pem.key_pem, durable_file::PRIVATE_FILE)?;
    if let Err(error) = write(&pair.certificate, &pem.certificate_pem, PUBLIC_FILE) {
        // This run made it.
        let _ = fs::remove_file(&pair.key);
        return Err(error);
    }
    if let Some(data) = data {
        user_access::give_to_owner_of_data(&data, &made)
            .with_context(|| format!("cannot give {} to the server's user", pair.key.display()))?;
    }
    talk::line(format_args!(
        "made {} (the certificate) and {} (its key, for the owner of the file alone)\n\
         give a copy of the certificate to every registry that accepts its tokens, as auth.token.rootcertbundle",
        pair.certificate.display(),
        pair.key.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// `--issuer`
fn subject(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().count() > NAME_LENGTH_MAX || text.contains(char::is_control)
    {
        return Err(format!(
            "must be one line of 1 to {NAME_LENGTH_MAX} characters"
        ));
    }
    Ok(text.to_owned())
}

/// What a configuration says about the key.
struct Configured {
    pair: TokenPair,
    /// As far as a certificate can have it as its subject.
    issuer: Option<String>,
    /// The registry's data, whose owner reads the key.
    data: Option<PathBuf>,
}

fn configured(place: &Where) -> anyhow::Result<Configured> {
    let files = installation::config_files(place)?;
    let loaded = config::load_served_again(&files, &crate::cli::environment())?;
    let data = match &loaded.config {
        Served::Registry(config) => Some(config.storage.root_directory().to_owned()),
        Served::TokenIssuer(_) => None,
    };
    let auth = loaded.config.auth();
    let Some(pair) = auth.token_pair.clone() else {
        bail!(
            "the configuration names no files for the key that signs tokens{}\nhint: give `--certificate PATH --key PATH`, or write `token.certificate` and `token.key` into the configuration",
            match auth.signing {
                config::Signing::None => ", and signs none",
                config::Signing::Own | config::Signing::Files(_) =>
                    ": it makes its own at the first start",
            }
        );
    };
    Ok(Configured {
        pair,
        issuer: subject(&auth.issuer).ok(),
        data,
    })
}

fn refuse_what_is_there(pair: &TokenPair) -> anyhow::Result<()> {
    let TokenPair { certificate, key } = pair;
    let (certificate_shown, key_shown) = (certificate.display(), key.display());
    if certificate == key {
        bail!("certificate and key must be two files, not both {certificate_shown}");
    }
    // A link that leads nowhere is there as well.
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    match (is_there(certificate), is_there(key)) {
        (false, false) => Ok(()),
        (true, true) => bail!(
            "{certificate_shown} and {key_shown} exist already; nothing was changed\n\
             hint: for a new pair, move both away first; every registry that accepts its tokens then needs the new certificate"
        ),
        (true, false) => bail!(
            "{certificate_shown} exists already, without its key {key_shown}; nothing was changed\n\
             hint: restore the key; or move the certificate away, and run this again for a new pair"
        ),
        (false, true) => bail!(
            "{key_shown} exists already, without its certificate {certificate_shown}; nothing was changed\n\
             hint: restore the certificate; or move the key away, and run this again for a new pair"
        ),
    }
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let directory = durable_file::directory_of(path);
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    durable_file::create(path, text.as_bytes(), mode)
        .with_context(|| format!("cannot write {}", path.display()))
}
