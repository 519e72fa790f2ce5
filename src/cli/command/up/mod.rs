//! `boathouse up`: the first run if it is one, then serving, with a welcome.

pub(super) mod first_run;
pub(super) mod foreign_files;
pub(super) mod port;
mod taking_over;

use std::any::Any;
use std::env;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};

use self::first_run::{ADMIN, FirstConfig, Request, Workshop};
use super::serve::{self, LogArguments, Start};
use super::welcome::ShownPassword;
use crate::auth::{RuleText, User};
use crate::cli::credentials::{self, PASSWORD_VARIABLE};
use crate::cli::password::{self, Password};
use crate::cli::talk;
use crate::clock::SystemClock;
use crate::config::{self, Template, TemplateBucket, TemplateStorage, UsersFile};
use crate::durable_file;
use crate::host_port::{BaseUrl, HostPort};
use crate::instance::missing_parts::Expected;
use crate::instance::places::{Places, Surroundings, refuse_data_of_another_as_root};
use crate::instance::{self, keys};
use crate::server::PassedSockets;
use crate::store::s3::{self, start_check};
use crate::tls::{self, Tls, TlsError};

/// What `--s3` says for Amazon's own endpoint of the region.
const AMAZON: &str = "amazon";

/// `boathouse up`
#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Keep everything below this directory instead of in the platform's places
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where to listen (first run only) [default: every address, the first free port of 443, 5443, 8443]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<HostPort>,
    /// A further name or address of this machine, for its certificates (may be repeated). After the first run, names that its
    /// authority may not sign for get an additional one; clients of the other names need no change
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    host: Vec<String>,
    /// Take over the installation that this file of the old registry or token server describes (first run only; may be
    /// repeated); the new files are written beside the first one, or into --dir
    #[arg(long, value_name = "FILE", conflicts_with_all = ["addr", "recreate_missing"])]
    from: Vec<PathBuf>,
    /// With --from: the registry's certificates [default: keep, unless clients come without a proxy over plain HTTP]
    #[arg(long, value_enum, value_name = "WHICH", requires = "from")]
    tls: Option<taking_over::CertificateChoice>,
    /// Keep the images in a bucket of the S3 server at this URL, or at `amazon` (first run only)
    #[arg(
        long,
        value_name = "ENDPOINT",
        requires = "bucket",
        conflicts_with = "from"
    )]
    s3: Option<String>,
    /// With --s3: the bucket, which must exist
    #[arg(long, value_name = "NAME", requires = "s3")]
    bucket: Option<String>,
    /// With --s3: the region
    #[arg(
        long,
        value_name = "REGION",
        requires = "s3",
        default_value = "us-east-1"
    )]
    region: String,
    /// With --s3: a file with the name of the account [default: the environment, a profile, or the instance has the credentials]
    #[arg(long, value_name = "FILE", requires_all = ["s3", "secret_key_file"])]
    access_key_file: Option<PathBuf>,
    /// With --s3: a file with its secret
    #[arg(long, value_name = "FILE", requires_all = ["s3", "access_key_file"])]
    secret_key_file: Option<PathBuf>,
    /// Make a new certificate authority; every client must then trust it anew
    #[arg(long)]
    new_ca: bool,
    /// Start although parts of the installation are missing: make a new authority, new keys, an admin, an empty store
    #[arg(long)]
    recreate_missing: bool,
    #[command(flatten)]
    log: LogArguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let sockets = serve::passed_sockets()?;
    if !arguments.from.is_empty() {
        let (config, is_first) = taking_over::take_over(arguments)?;
        return serve_as_ours(arguments, config, is_first, None, sockets);
    }
    let places = Places::choose(arguments.dir.as_deref(), &Surroundings::here())?;
    let is_first = !places.config.exists();
    let makes_admin = is_first || arguments.recreate_missing;
    let request = Request {
        address: arguments.addr.clone(),
        passed_port: sockets.port(),
        hosts: arguments.host.clone(),
        bucket: bucket(arguments)?,
        password: makes_admin.then(given_password).transpose()?.flatten(),
        is_terminal: io::stderr().is_terminal(),
    };
    let mut password = None;
    // Before anything is made: the data's owner could not open it.
    refuse_data_of_another_as_root(match request.bucket {
        None => &places.data,
        Some(_) => &places.state_directory,
    })?;
    if is_first {
        let paths = [
            places.ca_certificate.clone(),
            places.keys_directory.join("ca.key"),
            places.users.clone(),
            places.config.clone(),
        ];
        foreign_files::refuse_as_root(&paths)?;
    } else if arguments.recreate_missing {
        password = recreate_admin(&places, &request)?;
    }
    match &request.bucket {
        Some(_) if !is_first => talk::line(format_args!(
            "note: --s3 counts on the first run only; the bucket is now `storage.s3` in {}",
            places.config.display()
        )),
        Some(_) | None => {}
    }
    if let (true, Some(bucket)) = (is_first, &request.bucket) {
        // Before anything is written: a mistake in the command line must not become the configuration.
        ask(bucket, &places)?;
    }
    let password = first_run::complete(&places, &request, &RealWorkshop)?.or(password);
    serve_as_ours(arguments, places.config, makes_admin, password, sockets)
}

/// The bucket of a first run.
fn bucket(arguments: &Arguments) -> anyhow::Result<Option<TemplateBucket>> {
    let (Some(endpoint), Some(bucket)) = (&arguments.s3, &arguments.bucket) else {
        return Ok(None);
    };
    let full = |file: &PathBuf| {
        let path = std::path::absolute(file);
        path.with_context(|| format!("cannot use {}", file.display()))
    };
    let access_key = arguments.access_key_file.as_ref().map(full).transpose()?;
    let secret_key = arguments.secret_key_file.as_ref().map(full).transpose()?;
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint != AMAZON && endpoint.parse::<BaseUrl>().is_err() {
        bail!(
            "--s3 must be a URL without a path, or `{AMAZON}`\nhint: written like http://minio.example.com:9000"
        );
    }
    Ok(Some(TemplateBucket {
        endpoint: (endpoint != AMAZON).then(|| endpoint.to_owned()),
        bucket: bucket.clone(),
        region: arguments.region.clone(),
        key_files: access_key.zip(secret_key),
    }))
}

/// Fails if the bucket will not do.
fn ask(bucket: &TemplateBucket, places: &Places) -> anyhow::Result<()> {
    let read = |file: &PathBuf| {
        let text = fs::read_to_string(file);
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        anyhow::Ok(text.trim_end().to_owned())
    };
    let credentials = match &bucket.key_files {
        Some((access_key, secret_key)) => s3::Credentials::Keys {
            access_key: read(access_key)?,
            secret_key: read(secret_key)?,
            session_token: None,
        },
        None => s3::Credentials::Surroundings,
    };
    let settings = s3::Settings::of(
        bucket.endpoint.clone(),
        &bucket.region,
        &bucket.bucket,
        credentials,
        &places.state_directory,
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let clock = Arc::new(SystemClock::new());
    runtime.block_on(start_check::check(&settings, false, clock))?;
    Ok(())
}

/// Serves, with a welcome. `makes_parts`: parts of the installation that are missing are made. `password`: of the account that
/// this run has made.
fn serve_as_ours(
    arguments: &Arguments,
    config: PathBuf,
    makes_parts: bool,
    password: Option<ShownPassword>,
    sockets: PassedSockets,
) -> anyhow::Result<ExitCode> {
    if !arguments.host.is_empty() {
        remember_hosts(&config, &arguments.host)?;
    }
    serve::serve(Start {
        sockets,
        config_files: vec![config],
        makes_new_authority: arguments.new_ca,
        expected: if makes_parts {
            Expected::None
        } else {
            Expected::All
        },
        greets: true,
        password,
        log_format: arguments.log.format,
    })
}

/// Keeps the names for later starts, unless the config has them. A server that runs would not know them: it is refused here.
fn remember_hosts(file: &Path, hosts: &[String]) -> anyhow::Result<()> {
    let loaded = config::load_again(&[file.to_owned()], &crate::cli::environment());
    let config = loaded?.config;
    foreign_files::refuse_as_root(&foreign_files::of_config(&config))?;
    let _alone = instance::lock_used_data(&config)?;
    if !tls::remember_hosts(&config.tls, hosts)? {
        talk::line(
            "note: --host has no effect: the certificates are not of an authority of this registry",
        );
    }
    Ok(())
}

/// The password of a credential or of the environment. One that cannot be used is refused before anything is written.
fn given_password() -> anyhow::Result<Option<Password>> {
    let credential = credentials::of_this_process()?.remove(PASSWORD_VARIABLE);
    match credential.map_or_else(|| env::var(PASSWORD_VARIABLE), Ok) {
        Ok(password) => {
            let password = Password::chosen(ADMIN, password);
            let context = || format!("{PASSWORD_VARIABLE} cannot be the password of `{ADMIN}`");
            password.map(Some).with_context(context)
        }
        Err(env::VarError::NotPresent) => Ok(None),
        // The error would show the value.
        Err(env::VarError::NotUnicode(_)) => bail!("{PASSWORD_VARIABLE} is not UTF-8"),
    }
}

/// `--host`
fn host_name(text: &str) -> Result<String, TlsError> {
    tls::check_host(text)?;
    Ok(text.to_owned())
}

/// Makes another admin where the configured file of users is missing.
fn recreate_admin(places: &Places, request: &Request) -> anyhow::Result<Option<ShownPassword>> {
    let files = [places.config.clone()];
    let loaded = config::load_again(&files, &crate::cli::environment());
    let auth = loaded?.config.auth;
    match auth.users_file {
        Some(users) if !users.exists() && !auth.places.contains_key(ADMIN) => {
            let places = Places {
                users,
                ..places.clone()
            };
            first_run::make_admin(&places, request, &RealWorkshop)
        }
        Some(_) | None => Ok(None),
    }
}

/// The first run on a real machine.
struct RealWorkshop;

impl Workshop for RealWorkshop {
    fn random(&self, buffer: &mut [u8]) -> anyhow::Result<()> {
        password::random_bytes(buffer)
    }

    fn bind(&self, address: &HostPort) -> io::Result<u16> {
        port::try_bind(address)
    }

    fn lock(&self, first: &FirstConfig<'_>) -> anyhow::Result<Box<dyn Any>> {
        let places = first.places;
        Ok(match first.bucket {
            None => Box::new(instance::lock_data(&places.data, &SystemClock::new())?),
            Some(_) => Box::new(instance::lock_state(&places.state_directory)?),
        })
    }

    fn make_token_key(&self, keys_directory: &Path) -> anyhow::Result<()> {
        keys::own_token_key(keys_directory, &SystemClock::new()).map(drop)
    }

    fn make_certificates(&self, first: &FirstConfig<'_>) -> anyhow::Result<()> {
        let settings = tls::Settings::Automatic {
            ca_certificate: first.places.ca_certificate.clone(),
            keys_directory: first.places.keys_directory.clone(),
            hosts: first.hosts.to_vec(),
        };
        Tls::open(&settings, Arc::new(SystemClock::new())).context("cannot make certificates")?;
        Ok(())
    }

    fn write_users(&self, path: &Path, hash: &str) -> anyhow::Result<()> {
        let admin = User {
            password_hash: Some(hash.to_owned()),
            ..User::default()
        };
        let rule = RuleText {
            account: Some(ADMIN.to_owned()),
            actions: vec!["*".to_owned()],
            comment: Some("The first admin may do everything.".to_owned()),
            ..RuleText::default()
        };
        UsersFile::update(path, |file| {
            file.users.insert(ADMIN.to_owned(), admin);
            file.acl.push(rule);
            Ok(())
        })
        .map(|((), _)| ())
    }

    fn config_text(&self, first: &FirstConfig<'_>) -> String {
        let places = first.places;
        let template = Template {
            directory: durable_file::directory_of(&places.config).to_owned(),
            address: first.address.to_string(),
            hosts: first.hosts.to_vec(),
            storage: match first.bucket {
                None => TemplateStorage::Directory(places.data.clone()),
                Some(bucket) => TemplateStorage::Bucket(bucket.clone()),
            },
            ca_certificate: places.ca_certificate.clone(),
            keys_directory: places.keys_directory.clone(),
            users_file: places.users.clone(),
            state_directory: places.state_directory.clone(),
        };
        template.render()
    }

    fn tell(&self, line: &str) {
        talk::line(line);
    }
}
