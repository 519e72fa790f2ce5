//! Configuration files into each module's own `Settings`.
//!
//! The files are the union of distribution's `config.yml` and `docker_auth`'s `auth_config.yml`, with a few keys of ours. The
//! order: `yaml` reads trees, `node` merges them, `environment` overrides, `known` refuses keys that are not in the table
//! (`keys`), `reader` gives values their types, and the sections (`http`, `storage`, …) make settings of them. A section
//! declares its own keys (`key`); the file that `up` writes (`template`) and `docs/configuration.md` (`documentation`) follow
//! from these rows. Must not know what the settings do. Invariants: the process's environment is read by the caller; no error
//! shows a value of a file; what `load` returns has been checked as a whole.

mod account_file;
mod accounts;
mod addresses;
mod authentication;
mod bucket;
mod certificates;
mod documentation;
mod duration;
mod environment;
mod error;
#[cfg(test)]
mod every_key_tests;
mod export;
mod external;
mod file_content;
mod followed;
mod from_node;
mod health;
mod htpasswd;
mod http;
mod key;
mod keys;
mod known;
mod limits;
mod logs;
mod merged;
mod node;
mod pem;
mod reader;
mod relative;
mod relocated;
mod storage;
mod taken_over;
mod template;
mod token_listener;
mod token_tls;
mod tokens;
mod users_file;
mod usual_places;
mod written;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use account_file::AccountFile;
pub use authentication::{AuthConfig, Signing};
pub use documentation::documentation;
pub use environment::FILE_VARIABLE;
pub use error::{ConfigError, ConfigErrors, Place, shell_word};
pub use export::{DistributionVersion, Exported, Surroundings, for_distribution, for_docker_auth};
pub use followed::FollowedFiles;
pub use keys::{needs_restart, own_keys};
pub use merged::{Merged, Shown, ShownKey, merged, shown};
pub use pem::TokenPair;
pub use reader::{InForce, Secret, Value};
pub use relocated::{Relocated, relocated, with_data_at};
pub use taken_over::{NewCertificates, NewPlaces, OldFile, OldFiles, OldProgram};
pub use template::{Template, TemplateBucket, TemplateStorage};
pub use token_listener::{IssuerConfig, TokenListener};
pub use users_file::{UsersFile, UsersFileError};
pub use usual_places::{service_directory, usual_places};

use keys::Scope;
use node::Node;
use reader::{FullPath, Reader};

use crate::health::Check;
use crate::host_port::{BaseUrl, HostPort};
use crate::layout::OWN_DIRECTORY;
use crate::{auth, registry, server, store, telemetry, tls};

/// Everything that the files decide.
#[derive(Debug, Clone)]
pub struct Config {
    /// Logs.
    pub telemetry: telemetry::Settings,
    /// HTTP.
    pub server: server::Settings,
    /// `http.host`: `scheme://host[:port]`, what clients see.
    pub external_host: Option<BaseUrl>,
    /// Certificates.
    pub tls: tls::Settings,
    /// The operations.
    pub registry: registry::Settings,
    /// `health`
    pub health: Vec<Check>,
    /// `http.debug.addr`
    pub debug_address: Option<HostPort>,
    /// `http.debug.prometheus`: the path of the metrics there; `None` where they are not shown.
    pub metrics_path: Option<String>,
    /// Users, rules, tokens.
    pub auth: AuthConfig,
    /// `server.addr`: `docker_auth`'s own listener.
    pub token_listener: Option<TokenListener>,
    /// `storage`
    pub storage: store::Settings,
    /// `state_directory`: index, control socket, keys that were made here.
    pub state_directory: PathBuf,
    /// `http.secret`; without one the cli keeps its own in the state directory.
    pub secret: Option<Secret>,
}

impl Config {
    /// The directory of our own files on this machine, with the lock: beside the data or, for data in a bucket, the state
    /// directory.
    pub fn own_directory(&self) -> PathBuf {
        match &self.storage {
            store::Settings::Filesystem { root_directory } => root_directory.join(OWN_DIRECTORY),
            store::Settings::Bucket(_) => self.state_directory.clone(),
        }
    }

    /// The directory whose owner is the user that serves: that of the data or, for data in a bucket, the state directory.
    pub fn owned_directory(&self) -> &Path {
        match &self.storage {
            store::Settings::Filesystem { root_directory } => root_directory,
            store::Settings::Bucket(_) => &self.state_directory,
        }
    }

    /// Whether clients come by https: to what `http.host` names, or else to this server.
    pub fn is_reached_by_https(&self) -> bool {
        match &self.external_host {
            Some(external) => external.is_https(),
            None => self.tls != tls::Settings::None,
        }
    }

    /// What the files say about authentication, with the server's secret and, where no file names a key, the one that was
    /// made at first start.
    pub fn auth_settings(
        &self,
        secret: auth::Secret,
        own_key: Option<auth::SigningKeyPem>,
    ) -> auth::Settings {
        let mut settings = self.auth.settings(secret, own_key);
        settings.token.external_host.clone_from(&self.external_host);
        settings.token.prefix.clone_from(&self.server.prefix);
        settings
    }
}

/// What files may describe.
#[derive(Debug, Clone)]
pub enum Served {
    /// A registry, with or without accounts.
    Registry(Box<Config>),
    /// Tokens alone: the files are `docker_auth`'s.
    TokenIssuer(Box<IssuerConfig>),
}

impl Served {
    /// Logs.
    pub fn telemetry(&self) -> &telemetry::Settings {
        match self {
            Self::Registry(config) => &config.telemetry,
            Self::TokenIssuer(config) => &config.telemetry,
        }
    }

    /// Users, rules, tokens.
    pub fn auth(&self) -> &AuthConfig {
        match self {
            Self::Registry(config) => &config.auth,
            Self::TokenIssuer(config) => &config.auth,
        }
    }
}

/// A configuration, and what there is to say about it.
#[derive(Debug, Clone)]
pub struct Loaded<C = Config> {
    /// The configuration.
    pub config: C,
    /// Every key in force, in the order of the sections.
    pub in_force: Vec<InForce>,
    /// Keys with a relative path that starts at the working directory, so that it is another one to other processes.
    pub by_working_directory: Vec<String>,
    /// Keys that have no effect here, and what was chosen where there was a choice.
    pub notes: Vec<String>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
    /// The files that hold users or rules, for a program that follows them.
    pub followed: FollowedFiles,
    /// Where relative paths lead.
    full_paths: Vec<FullPath>,
}

impl<C> Loaded<C> {
    fn map<D>(self, change: impl FnOnce(C) -> D) -> Loaded<D> {
        Loaded {
            config: change(self.config),
            in_force: self.in_force,
            by_working_directory: self.by_working_directory,
            notes: self.notes,
            warnings: self.warnings,
            followed: self.followed,
            full_paths: self.full_paths,
        }
    }
}

/// Reads and checks the files, with the `REGISTRY_…` variables of `environment` over them.
pub fn load_served(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Loaded<Served>, ConfigErrors> {
    read_and_check(files, environment, Parts::ALL)
}

/// The same for files that must describe a registry.
pub fn load(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Loaded, ConfigErrors> {
    of_registry(load_served(files, environment)?)
}

/// The same for a running program. The certificates that the files name are not looked at: a mistake in one must not keep a
/// revocation from taking effect, and `tls` reads its own itself. The keys that sign tokens are therefore not in the result.
pub fn load_again(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Loaded, ConfigErrors> {
    of_registry(load_served_again(files, environment)?)
}

/// The same for files that may describe an issuer of tokens alone.
pub fn load_served_again(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Loaded<Served>, ConfigErrors> {
    read_and_check(files, environment, Parts::NO_CERTIFICATES)
}

/// The users and rules alone, of a registry or of an issuer of tokens, as [`load_again`] reads them.
pub fn load_accounts_again(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Loaded<AuthConfig>, ConfigErrors> {
    let loaded = load_served_again(files, environment)?;
    Ok(loaded.map(|served| match served {
        Served::Registry(config) => config.auth,
        Served::TokenIssuer(config) => config.auth,
    }))
}

/// The same for a command that changes the `users_file`, and reads it itself.
pub fn load_without_users_file(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<Loaded, ConfigErrors> {
    let parts = Parts {
        reads_users_file: false,
        ..Parts::NO_CERTIFICATES
    };
    of_registry(read_and_check(files, environment, parts)?)
}

/// An error if the files describe no registry.
fn of_registry(loaded: Loaded<Served>) -> Result<Loaded, ConfigErrors> {
    let mut registry = None;
    let loaded = loaded.map(|served| match served {
        Served::Registry(config) => registry = Some(*config),
        Served::TokenIssuer(_) => {}
    });
    match registry {
        Some(config) => Ok(loaded.map(|()| config)),
        None => Err(ConfigError::new(
            None,
            "storage",
            "no storage is configured: these files describe an issuer of tokens, and no registry",
        )
        .hint("name the registry's config file as well")
        .into()),
    }
}

/// Which of the files that the configuration names are read.
#[derive(Clone, Copy)]
struct Parts {
    looks_at_certificates: bool,
    reads_users_file: bool,
}

impl Parts {
    const ALL: Self = Self {
        looks_at_certificates: true,
        reads_users_file: true,
    };
    const NO_CERTIFICATES: Self = Self {
        looks_at_certificates: false,
        reads_users_file: true,
    };
}

fn read_and_check(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
    parts: Parts,
) -> Result<Loaded<Served>, ConfigErrors> {
    let mut followed = FollowedFiles::default();
    let mut tree = read_files_and(files, |file, text, documents| {
        followed.add(file, text, documents);
    })?;
    let loaded = check(&mut tree, files, environment, parts)?;
    Ok(Loaded { followed, ..loaded })
}

/// Checks a tree that was read from `files`, and applies the environment to it.
fn check(
    tree: &mut Node,
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
    parts: Parts,
) -> Result<Loaded<Served>, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let mut warnings = environment::apply(tree, environment, &mut errors);
    expand_short_forms(tree, &mut errors);
    let mut notes = known::check(tree, Scope::Config, &mut errors);
    let mut reader = Reader::new(tree, files, parts.looks_at_certificates);
    reader.usual_state_directory = usual_places::state_directory(environment);
    reader.reads_users_file = parts.reads_users_file;
    reader.search_path = environment.get("PATH").map_or("", String::as_str);
    let config = if token_listener::is_alone(&reader) {
        issuer_sections(&mut reader)
    } else {
        Some(Served::Registry(Box::new(sections(&mut reader))))
    };
    errors.append(reader.errors);
    warnings.append(&mut reader.warnings);
    notes.append(&mut reader.notes);
    errors.or(())?;
    // What is missing was refused above.
    let config = config.ok_or_else(ConfigErrors::default)?;
    Ok(Loaded {
        config,
        in_force: reader.in_force,
        by_working_directory: reader.by_working_directory,
        notes,
        warnings,
        followed: FollowedFiles::default(),
        full_paths: reader.full_paths,
    })
}

/// All documents of all files in one tree. Stops here if one cannot be read: all its keys would seem to be missing.
fn read_files(files: &[PathBuf]) -> Result<Node, ConfigErrors> {
    read_files_and(files, |_, _, _| {})
}

/// The same; `look` is called with each file, its text and its documents.
fn read_files_and(
    files: &[PathBuf],
    mut look: impl FnMut(&Path, &str, &[Node]),
) -> Result<Node, ConfigErrors> {
    let Some(first) = files.first() else {
        return Err(
            ConfigError::new(None, "", "no configuration file was named")
                .hint("name one with `--config FILE`, or make one with `boathouse up`")
                .into(),
        );
    };
    refuse_repeated(files)?;
    let mut errors = ConfigErrors::default();
    let mut tree = Node::empty_map(Place::file(first));
    for file in files {
        let place = Place::file(file);
        let documents = users_file::read_text(file).and_then(|text| {
            let documents = yaml::documents(&text, &place)?;
            look(file, &text, &documents);
            Ok(documents)
        });
        match documents {
            Err(error) => errors.push(error),
            Ok(documents) if documents.is_empty() => errors.push(
                ConfigError::new(Some(&place), "", "holds no key")
                    .hint("remove the file from the command line, or fill it"),
            ),
            Ok(documents) => {
                for document in documents {
                    merge_document(&mut tree, document, &mut errors);
                }
            }
        }
    }
    errors.or(tree)
}

/// One error for a file that is named twice, instead of one for each key in it.
fn refuse_repeated(files: &[PathBuf]) -> Result<(), ConfigErrors> {
    let mut seen = Vec::new();
    for file in files {
        // What cannot be found is reported where it is read.
        let real = std::fs::canonicalize(file).unwrap_or_else(|_| file.clone());
        if seen.contains(&real) {
            let message = "this file is named twice";
            return Err(ConfigError::new(Some(&Place::file(file)), "", message)
                .hint("name it once")
                .into());
        }
        seen.push(real);
    }
    Ok(())
}

fn merge_document(tree: &mut Node, mut document: Node, errors: &mut ConfigErrors) {
    if !matches!(document.value, node::Value::Map(_)) {
        known::check(&document, Scope::Config, errors);
        return;
    }
    expand_short_forms(&mut document, errors);
    tree.merge(document, "", errors);
}

/// The two keys for which distribution has a short form, and the names of the bucket's keys.
fn expand_short_forms(tree: &mut Node, errors: &mut ConfigErrors) {
    for key in ["storage", "auth"] {
        if let Some(node) = tree.top_mut(key) {
            node.expand_short_form();
        }
    }
    if let Some(storage) = tree.top_mut("storage") {
        bucket::rename(storage, errors);
    }
}

/// `None` if something that an issuer needs is missing, which is an error.
fn issuer_sections(reader: &mut Reader<'_>) -> Option<Served> {
    storage::relative_paths(reader);
    let telemetry = logs::telemetry(reader);
    let config = token_listener::alone(reader, telemetry)?;
    Some(Served::TokenIssuer(Box::new(config)))
}

fn sections(reader: &mut Reader<'_>) -> Config {
    storage::relative_paths(reader);
    let telemetry = logs::telemetry(reader);
    let (storage, state_directory) = storage::storage(reader);
    let external_host = http::external_host(reader);
    let server = http::server(reader, external_host.as_ref());
    let tls = certificates::tls(reader, &state_directory);
    let secret = http::secret(reader);
    let listener_pair = token_listener::pair(reader);
    let auth = authentication::read(reader, listener_pair.as_ref());
    let token_listener = token_listener::token_listener(reader, &server, &auth, listener_pair);
    let registry = storage::registry(reader);
    let (health, debug_address) = (health::checks(reader), health::debug_address(reader));
    let metrics_path = health::metrics_path(reader, debug_address.is_some());
    let is_plain = tls == tls::Settings::None;
    http::warn_of_openness(reader, &server.address, is_plain, !auth.required);
    let config = Config {
        telemetry,
        server,
        external_host,
        tls,
        registry,
        health,
        debug_address,
        metrics_path,
        auth,
        token_listener,
        storage,
        state_directory,
        secret,
    };
    addresses::check(reader, &config);
    config
}
