//! `boathouse token-key`: the key that signs tokens and its certificate, where a configuration or the command line names them.
//!
//! Must not know how a token is signed. Invariants: `make` replaces no file and, after an error, leaves none behind; `rotate`
//! keeps the old certificate first, and what it began is completed when it is run again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;

use crate::auth::{self, SigningKeyPem};
use crate::cli::installation::{self, Where};
use crate::cli::talk;
use crate::clock::{self, Clock as _, SystemClock};
use crate::config::{self, Config, Served, TokenPair};
use crate::durable_file;
use crate::instance::keys;
use crate::store::user_access;

/// Every registry that checks the tokens reads it.
const PUBLIC_FILE: u32 = 0o644;

/// The last line of a certificate in PEM.
const CERTIFICATE_END: &str = "-----END CERTIFICATE-----";

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
    /// Replace the key and its certificate; tokens of the old key are accepted until they expire
    ///
    /// The server signs with the new key after its next restart. The old certificate is added to a file with the ending
    /// .previous.crt: remove it when no token of the old key is left, or at once if the old key may be in wrong hands.
    Rotate {
        #[command(flatten)]
        place: Where,
    },
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
    match &arguments.action {
        Action::Make(arguments) => make(arguments),
        Action::Rotate { place } => rotate(place),
    }
}

fn make(arguments: &MakeArguments) -> anyhow::Result<ExitCode> {
    let Configured {
        pair, issuer, data, ..
    } = match (&arguments.certificate, &arguments.key) {
        (Some(certificate), Some(key)) => Configured {
            pair: TokenPair {
                certificate: certificate.clone(),
                key: key.clone(),
            },
            issuer: None,
            data: None,
            lifetime_secs: 0,
        },
        _ => configured(&arguments.place, |_| None)?,
    };
    refuse_what_is_there(&pair)?;
    let pem = new_key(arguments.issuer.as_ref().or(issuer.as_ref()))?;
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

/// A new key, and its certificate with this subject.
fn new_key(issuer: Option<&String>) -> anyhow::Result<SigningKeyPem> {
    let clock = SystemClock::new();
    clock::check_is_set(clock.unix_secs()).context("no key can be made now")?;
    Ok(match issuer {
        Some(name) => auth::make_token_key_of(name, &clock)?,
        None => auth::make_token_key(&clock)?,
    })
}

fn rotate(place: &Where) -> anyhow::Result<ExitCode> {
    let Configured {
        pair,
        issuer,
        lifetime_secs,
        ..
    } = configured(place, keys::token_pair)?;
    let TokenPair { certificate, key } = &pair;
    let previous = keys::previous_certificates(certificate);
    let (certificate_shown, previous_shown) = (certificate.display(), previous.display());
    let missing = || {
        format!(
            "cannot read {certificate_shown}\nhint: `boathouse token-key make` makes a first pair"
        )
    };
    let old = fs::read_to_string(certificate).with_context(missing)?;
    let modes = [certificate, key].map(|path| fs::metadata(path).map(|found| found.mode() & 0o777));
    let [certificate_mode, key_mode] = modes;
    let (certificate_mode, key_mode) = (
        certificate_mode.with_context(missing)?,
        key_mode.with_context(|| format!("cannot look at {}", key.display()))?,
    );
    // Only the certificate of the key itself, not those that issued it.
    let end = old
        .find(CERTIFICATE_END)
        .map(|at| at + CERTIFICATE_END.len());
    let old = end.and_then(|end| old.get(..end)).with_context(|| {
        format!("{certificate_shown} is not a PEM certificate; nothing was changed")
    })?;
    let mut kept = match fs::read_to_string(&previous) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {previous_shown}"))?,
    };
    if !kept.contains(old.trim()) {
        kept.push_str(old.trim());
        kept.push('\n');
    }
    let pem = new_key(issuer.as_ref())?;
    replace(&previous, &kept, PUBLIC_FILE)?;
    replace(key, &pem.key_pem, key_mode)?;
    replace(certificate, &pem.certificate_pem, certificate_mode)
        .context("the new key has no certificate yet\nhint: run this command again before the server is restarted")?;
    talk::line(format_args!(
        "made a new key and its certificate, {certificate_shown}; the server signs with it after its next restart\n\
         other registries that accept these tokens need both certificates before that: {previous_shown} and {certificate_shown}\n\
         {} h after the restart, no token of the old key is left: remove {previous_shown}, and restart again",
        lifetime_secs.div_ceil(3_600)
    ));
    Ok(ExitCode::SUCCESS)
}

fn replace(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    durable_file::replace(path, text.as_bytes(), mode)
        .with_context(|| format!("cannot write {}", path.display()))
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
    /// The directory of the registry whose owner reads the key.
    data: Option<PathBuf>,
    /// How long a token lives.
    lifetime_secs: u64,
}

/// `own` says which pair a registry has that the files do not name.
fn configured(
    place: &Where,
    own: impl Fn(&Config) -> Option<TokenPair>,
) -> anyhow::Result<Configured> {
    let files = installation::config_files(place)?;
    let loaded = config::load_served_again(&files, &crate::cli::environment())?;
    let (data, own) = match &loaded.config {
        Served::Registry(config) => (Some(config.owned_directory().to_owned()), own(config)),
        Served::TokenIssuer(_) => (None, None),
    };
    let auth = loaded.config.auth();
    let Some(pair) = auth.token_pair.clone().or(own) else {
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
        lifetime_secs: auth.lifetime_secs,
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
