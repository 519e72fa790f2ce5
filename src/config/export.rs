//! The configuration as the old programs read it: distribution's `config.yml`, and `docker_auth`'s `auth_config.yml`.
//!
//! Must not know where Boathouse keeps what it makes: the caller says it. Invariants: only keys that the program knows are
//! written; what it cannot do is in the remarks, never dropped in silence; an account that has ended is not exported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigErrors, Place};
use super::merged::{self, PARTS};
use super::node::{Node, Value};
use super::pem::TokenPair;
use super::reader;
use super::users_file::UsersFile;
use super::{AuthConfig, Config, Loaded, Served, check, load_served_again, read_files, written};
use crate::auth::{RuleText, User};
use crate::{store, tls};

/// A version of distribution's registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DistributionVersion {
    /// 2.8, the version of Debian.
    V2_8,
    /// 3.1
    V3_1,
}

/// What the files do not say.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The certificate and the key that the registry shows to clients: its own ones, or those of `http.tls`.
    pub server_pair: Option<TokenPair>,
    /// The certificate and the key that sign tokens.
    pub token_pair: TokenPair,
    /// The host by which clients call the registry, without a port.
    pub host: String,
    /// Seconds since 1970.
    pub now_unix_secs: u64,
}

/// A file for an old program.
#[derive(Debug)]
pub struct Exported {
    /// YAML, with secrets.
    pub text: String,
    /// What the old program will not do, or what must be done by hand.
    pub remarks: Vec<String>,
}

/// Keys that are taken as they are written: distribution knows them in both versions.
const OF_BOTH: &[&str] = &[
    "log.accesslog.disabled",
    "log.formatter",
    "log.fields",
    "log.hooks",
    "storage.filesystem.maxthreads",
    "storage.maintenance.uploadpurging",
    "storage.redirect.disable",
    "http.net",
    "http.draintimeout",
    "http.headers",
    "http.debug",
    "http.http2.disabled",
    "http.tls.clientcas",
    "http.tls.ciphersuites",
    "http.tls.minimumtls",
    "auth.token.autoredirect",
    "auth.token.autoredirectpath",
    "health",
    "catalog.maxentries",
    "validation.enabled",
    "validation.disabled",
    "validation.manifests.urls",
    "policy",
];

const OF_2_8: &[&str] = &["compatibility.schema1", "reporting"];

const OF_3_1: &[&str] = &[
    "log.reportcaller",
    "storage.tag",
    "http.h2c.enabled",
    "http.tls.clientauth",
    "auth.token.jwks",
    "auth.token.signingalgorithms",
    "tags.maxtags",
    "validation.manifests.indexes",
];

/// Where `docker_auth` listens if no key says so: its customary port.
const TOKEN_PORT: u16 = 5_001;

/// The `config.yml` with which that version serves the same data at the same address.
pub fn for_distribution(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
    surroundings: &Surroundings,
    version: DistributionVersion,
) -> Result<Exported, ConfigErrors> {
    let (tree, loaded) = read(files, environment)?;
    let loaded = super::of_registry(loaded)?;
    let mut export = Export::of(&tree, &loaded, &loaded.config.auth);
    export.plain("version", "0.1");
    export.log();
    let of_version = match version {
        DistributionVersion::V2_8 => OF_2_8,
        DistributionVersion::V3_1 => OF_3_1,
    };
    for key in OF_BOTH.iter().chain(of_version) {
        export.copy(key);
    }
    export.storage();
    export.http(surroundings);
    export.authentication(surroundings);
    let (other, name) = match version {
        DistributionVersion::V2_8 => (OF_3_1, "2.8"),
        DistributionVersion::V3_1 => (OF_2_8, "3.1"),
    };
    for key in other.iter().filter(|key| tree.find(key).is_some()) {
        let remark = format!("{key}: version {name} does not know it");
        export.remarks.push(remark);
    }
    export.other_remarks();
    Ok(export.done())
}

/// The `auth_config.yml` with which `docker_auth` knows the same accounts and rules.
pub fn for_docker_auth(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
    surroundings: &Surroundings,
    version: DistributionVersion,
) -> Result<Exported, ConfigErrors> {
    let (tree, loaded) = read(files, environment)?;
    let auth = loaded.config.auth();
    if auth.is_foreign_only {
        let message = "these files accept the tokens of another server, and issue none";
        return Err(ConfigError::new(None, "", message)
            .hint("name the file with the users and rules too")
            .into());
    }
    if !auth.required || auth.htpasswd().is_some() {
        let message = "this configuration issues no tokens, so docker_auth has nothing to do";
        return Err(ConfigError::new(None, "", message)
            .hint("`boathouse config export --for distribution` is all that is needed")
            .into());
    }
    let mut export = Export::of(&tree, &loaded, auth);
    export.token_server(surroundings, version);
    let accounts = export.accounts(surroundings.now_unix_secs);
    export.copy("ext_auth");
    export.copy("ext_authz");
    export.copy("ldap_auth");
    let mut exported = export.done();
    exported.text.push_str(&accounts);
    Ok(exported)
}

/// The tree with the environment, whose relative paths are full ones, and what it means. The users file is read, too.
fn read(
    files: &[PathBuf],
    environment: &BTreeMap<String, String>,
) -> Result<(Node, Loaded<Served>), ConfigErrors> {
    let mut tree = read_files(files)?;
    let loaded = check(&mut tree, files, environment, PARTS)?;
    merged::write_full_paths(&mut tree, files, &loaded);
    Ok((tree, load_served_again(files, environment)?))
}

/// `C` is [`Config`] for the file of a registry, and [`Served`] for that of a token server.
struct Export<'a, C> {
    tree: &'a Node,
    loaded: &'a Loaded<C>,
    auth: &'a AuthConfig,
    out: Node,
    remarks: Vec<String>,
}

impl<'a, C> Export<'a, C> {
    fn of(tree: &'a Node, loaded: &'a Loaded<C>, auth: &'a AuthConfig) -> Self {
        Self {
            tree,
            loaded,
            auth,
            out: Node::empty_map(Place::variable("export")),
            remarks: Vec::new(),
        }
    }

    fn done(self) -> Exported {
        Exported {
            text: written::yaml(&self.out),
            remarks: self.remarks,
        }
    }

    fn set(&mut self, key: &str, value: Value) {
        let path: Vec<&str> = key.split('.').collect();
        let place = self.out.place.clone();
        self.out.set(&path, Node { place, value });
    }

    fn plain(&mut self, key: &str, text: &(impl ToString + ?Sized)) {
        let text = text.to_string();
        self.set(key, Value::Scalar { text, plain: true });
    }

    fn text(&mut self, key: &str, text: &(impl ToString + ?Sized)) {
        let text = text.to_string();
        self.set(key, Value::Scalar { text, plain: false });
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, &path.display());
    }

    /// Takes over what is written.
    fn copy(&mut self, key: &str) {
        if let Some(node) = self.tree.find(key) {
            let path: Vec<&str> = key.split('.').collect();
            self.out.set(&path, node.clone());
        }
    }

    /// A text or a path in force.
    fn in_force(&self, key: &str) -> Option<String> {
        let found = self.loaded.in_force.iter().find(|known| known.key == key)?;
        match &found.value {
            reader::Value::Text(text) => Some(text.clone()),
            reader::Value::Path(path) => Some(path.to_string_lossy().into_owned()),
            _ => None,
        }
    }

    fn authentication(&mut self, surroundings: &Surroundings) {
        let auth = self.auth;
        if let Some(file) = auth.htpasswd() {
            self.path("auth.htpasswd.path", file);
            self.copy("auth.htpasswd.realm");
            if self.tree.find("acl").is_some() {
                self.remarks.push(
                    "acl: with auth.htpasswd, the registry lets every user do everything"
                        .to_owned(),
                );
            }
            return;
        }
        if !auth.required {
            return;
        }
        let (address, scheme) = (self.token_address(), self.token_scheme(surroundings));
        if let Some(realm) = &auth.realm {
            self.text("auth.token.realm", realm);
        } else {
            let port = address.rsplit_once(':').map_or("", |(_, port)| port);
            let host = match surroundings.host.as_str() {
                host if host.contains(':') && !host.starts_with('[') => format!("[{host}]"),
                host => host.to_owned(),
            };
            let realm = format!("{scheme}://{host}:{port}/auth");
            self.remarks.push(format!(
                "auth.token.realm: {realm}, where docker_auth listens by `boathouse config export --for docker_auth`"
            ));
            self.text("auth.token.realm", &realm);
        }
        self.text("auth.token.service", &auth.service);
        self.text("auth.token.issuer", &auth.issuer);
        let given = self
            .in_force("auth.token.rootcertbundle")
            .map(PathBuf::from);
        let bundle = match given {
            Some(given) if auth.is_foreign_only => given,
            given => {
                let own = surroundings.token_pair.certificate.clone();
                if let Some(given) = given.filter(|given| *given != own) {
                    self.remarks.push(format!(
                        "auth.token.rootcertbundle: the certificates in {} are trusted, too; a registry reads one file: `cat {} {} >bundle.pem`, and name that",
                        given.display(),
                        super::shell_word(&own.to_string_lossy()),
                        super::shell_word(&given.to_string_lossy())
                    ));
                }
                own
            }
        };
        self.path("auth.token.rootcertbundle", &bundle);
    }

    /// What Boathouse does and the old registry cannot.
    fn other_remarks(&mut self) {
        let sections = [
            "limits",
            "users_file",
            "state_directory",
            "compatibility.referrers_fallback_tags",
        ];
        let given: Vec<&str> = sections
            .into_iter()
            .chain(["http.trusted_proxies", "validation.manifests.references"])
            .filter(|key| self.tree.find(key).is_some())
            .collect();
        if !given.is_empty() {
            self.remarks.push(format!(
                "{}: the registry has no such keys",
                given.join(", ")
            ));
        }
    }

    /// Where `docker_auth` listens.
    fn token_address(&self) -> String {
        let written = self.tree.find("server.addr").map(|node| &node.value);
        match written {
            Some(Value::Scalar { text, .. }) if !text.is_empty() => text.clone(),
            _ => format!(":{TOKEN_PORT}"),
        }
    }

    fn token_scheme(&self, surroundings: &Surroundings) -> &'static str {
        let is_configured = self.tree.find("server.addr").is_some();
        let has_pair = if is_configured {
            self.tree.find("server.certificate").is_some()
        } else {
            surroundings.server_pair.is_some()
        };
        if has_pair { "https" } else { "http" }
    }

    fn token_server(&mut self, surroundings: &Surroundings, version: DistributionVersion) {
        let address = self.token_address();
        if self.tree.find("server.addr").is_some() {
            self.copy("server");
        } else {
            // Its own section may have keys for rules, such as `real_ip_header`.
            self.copy("server");
            if let Some(pair) = &surroundings.server_pair {
                self.path("server.certificate", &pair.certificate);
                self.path("server.key", &pair.key);
            }
            self.remarks.push(format!(
                "server.addr: {address}, where docker_auth usually listens; here tokens are served with the registry"
            ));
        }
        self.text("server.addr", &address);
        let auth = self.auth;
        self.text("token.issuer", &auth.issuer);
        self.plain("token.expiration", &auth.lifetime_secs);
        let TokenPair { certificate, key } = &surroundings.token_pair;
        self.path("token.certificate", certificate);
        self.path("token.key", key);
        if version == DistributionVersion::V3_1 {
            self.plain("token.disable_legacy_key_id", &true);
            self.remarks.push(format!(
                "token.key: registry 3.1 takes docker_auth's tokens only if the key is RSA; see `openssl pkey -noout -text -in {}`",
                super::shell_word(&key.to_string_lossy())
            ));
        }
    }

    /// The sections `users` and `acl`.
    fn accounts(&mut self, now_unix_secs: u64) -> String {
        let auth = self.auth;
        let (users, remarks) = exportable_users(auth, now_unix_secs);
        self.remarks.extend(remarks);
        let rules: Vec<RuleText> = auth
            .rules()
            .iter()
            .map(|rule| rule.text().clone())
            .collect();
        let has_placeholder = |rule: &RuleText| {
            rule.conditions().any(|(_, text)| text.contains("${"))
                || rule.labels.values().any(|text| text.contains("${"))
        };
        if rules.iter().any(has_placeholder) {
            self.remarks.push(
                "acl: docker_auth fills an empty value into `${…}` as text, and such a rule may then match everything; here it matches nothing"
                    .to_owned(),
            );
        }
        if !auth.revoked().is_empty() {
            self.remarks.push(
                "revoked: the registry takes a token that was revoked here until it expires"
                    .to_owned(),
            );
        }
        let (no_users, no_rules) = (users.is_empty(), rules.is_empty());
        let file = UsersFile {
            users,
            acl: rules,
            revoked: BTreeMap::new(),
        };
        let mut text = file.render_sections();
        if no_users {
            text.insert_str(0, "users: {}\n");
        }
        if no_rules {
            text.push_str("acl: []\n");
        }
        text
    }
}

impl Export<'_, Config> {
    fn log(&mut self) {
        // distribution has no level below.
        let level = match self.loaded.config.telemetry.level {
            tracing::Level::TRACE => tracing::Level::DEBUG,
            level => level,
        };
        self.plain("log.level", &level.as_str().to_lowercase());
    }

    fn storage(&mut self) {
        let config = &self.loaded.config;
        match &config.storage {
            store::Settings::Filesystem { root_directory } => {
                self.path("storage.filesystem.rootdirectory", root_directory);
            }
            store::Settings::Bucket(_) => self.copy("storage.s3"),
        }
        self.plain("storage.delete.enabled", &config.registry.deletes_enabled);
        if config.registry.readonly {
            self.plain("storage.maintenance.readonly.enabled", &true);
        }
        let cache = self.tree.find("storage.cache.blobdescriptor");
        match cache.map(|node| &node.value) {
            Some(Value::Scalar { text, .. }) if text == "inmemory" => {
                self.plain("storage.cache.blobdescriptor", "inmemory");
            }
            Some(_) => self.remarks.push(
                "storage.cache: left out; only `inmemory` means the same to every version"
                    .to_owned(),
            ),
            None => {}
        }
        if self.tree.find("redis").is_some() {
            self.remarks
                .push("redis: left out; 2.8 and 3.1 read different keys there".to_owned());
        }
    }

    fn http(&mut self, surroundings: &Surroundings) {
        let config = &self.loaded.config;
        if let Some(address) = self.in_force("http.addr") {
            self.text("http.addr", &address);
        }
        if let Some(host) = &config.external_host {
            self.text("http.host", host);
        } else {
            // `Location` follows the request or is relative, as here.
            let is_relative = config.server.locations == crate::server::Locations::Relative;
            self.plain("http.relativeurls", &is_relative);
        }
        if config.server.prefix != "/" {
            self.text("http.prefix", &config.server.prefix);
        }
        if let Some(secret) = &config.secret {
            self.text("http.secret", secret.expose());
        }
        if let Some(pair) = &surroundings.server_pair {
            self.path("http.tls.certificate", &pair.certificate);
            self.path("http.tls.key", &pair.key);
        }
        if let tls::Settings::Automatic { .. } = config.tls {
            self.remarks.push(
                "http.tls: the registry shows the last certificate that Boathouse made; without Boathouse nothing renews it"
                    .to_owned(),
            );
        }
    }
}

/// The accounts that have not ended, as `docker_auth` can have them, and what it will not know of them.
fn exportable_users(
    auth: &AuthConfig,
    now_unix_secs: u64,
) -> (BTreeMap<String, User>, Vec<String>) {
    let (mut users, mut remarks) = (BTreeMap::new(), Vec::new());
    for (name, user) in auth.users() {
        let end = user.expires_unix_secs;
        if end.is_some_and(|end| end <= now_unix_secs) {
            remarks.push(format!(
                "users.{name}: left out, since the account has ended"
            ));
            continue;
        }
        if end.is_some() {
            remarks.push(format!(
                "users.{name}: the account ends here by itself, and not in docker_auth"
            ));
        }
        if user.valid_after_unix_secs.is_some() {
            remarks.push(format!(
                "users.{name}: the registry takes tokens from before the account was changed until they expire"
            ));
        }
        let user = User {
            expires_unix_secs: None,
            valid_after_unix_secs: None,
            ..user
        };
        users.insert(name, user);
    }
    (users, remarks)
}
