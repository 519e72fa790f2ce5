//! `auth`, `token`, `users`, `acl`, `users_file`: who issues tokens and who may do what.
//!
//! Must not know how tokens look. Invariants: authentication is off only if none of these keys is there, or `auth` is
//! `none`; a key that is there with nothing behind it counts as there; a list of users or rules that is missing where one is
//! needed is a mistake, never an open or a shut door by accident. The one list that may be missing is `acl` beside
//! `auth.htpasswd`, whose users distribution knows no rules for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

use super::accounts;
use super::error::Place;
use super::htpasswd::{self, HtpasswdFile};
use super::node::Node;
use super::pem;
use super::reader::Reader;
use super::users_file::UsersFile;
use crate::auth::{
    Accounts, Authentication, BCRYPT_COST_MAX, Limits, LiveUsers, Mistake, Rule, Scheme, Secret,
    Settings, SigningKeyPem, TokenSettings, User, mistakes,
};

/// The issuer and the service when no key names them.
pub(super) const NAME_DEFAULT: &str = "boathouse";
/// Four hours: a push of hundreds of GB ends within it; `passwd`, `remove` and `revoke` end a token at once anyhow.
pub(super) const LIFETIME_SECS_DEFAULT: u64 = 14_400;
/// A year; clients and verifiers cannot be relied upon beyond.
const LIFETIME_SECS_MAX: u64 = 366 * 86_400;
/// Failed logins a minute for one account and address before the next are slowed.
const FAILED_LOGINS_DEFAULT: u64 = 10;
/// Several people share an address behind a router.
const FAILED_LOGINS_PER_ADDRESS_FACTOR: u32 = 10;

/// All that the files say about authentication; secrets and keys made at start are added by the cli.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of its own, or one fact about the files"
)]
pub struct AuthConfig {
    /// False: open to everybody.
    pub required: bool,
    /// Whether another server's tokens alone decide: there are no accounts here, and no rules.
    pub is_foreign_only: bool,
    /// Accounts of the configuration and of the `users_file`.
    pub users: BTreeMap<String, User>,
    /// Where each account of the configuration stands; the others are in the `users_file`.
    pub places: BTreeMap<String, Place>,
    /// `auth.htpasswd`: accounts of a file that is read again whenever it changes.
    pub htpasswd: Option<Arc<HtpasswdFile>>,
    /// What challenges ask for.
    pub scheme: Scheme,
    /// Rules of the configuration, then of the `users_file`.
    pub acl: Vec<Rule>,
    /// Accounts whose tokens from before that second are void.
    pub revoked: BTreeMap<String, u64>,
    /// `auth.token.realm`; absent: built from the request.
    pub realm: Option<String>,
    /// `auth.token.service`
    pub service: String,
    /// `token.issuer` or `auth.token.issuer`
    pub issuer: String,
    /// `token.expiration`
    pub lifetime_secs: u64,
    /// `token.refresh_tokens`
    pub refresh_tokens: bool,
    /// Who signs.
    pub signing: Signing,
    /// The text of `auth.token.rootcertbundle`.
    pub trusted_certificates_pem: Vec<String>,
    /// `users_file`, for the commands that write it.
    pub users_file: Option<PathBuf>,
    /// Whether that file was there: one that has gone later is no reason to take its users and revocations back.
    pub has_users_file: bool,
    /// `limits.failed_logins`; 0 switches the slowing off.
    pub failed_logins: u32,
}

/// Whose key signs tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signing {
    /// Nobody's: only foreign tokens are accepted, or none are needed.
    None,
    /// A key made at first start.
    Own,
    /// That of `token.certificate` and `token.key`, by default that of `server`.
    Files(SigningKeyPem),
}

impl AuthConfig {
    /// What is probably not meant in the rules from position `from` on.
    pub fn mistakes(&self, from: usize) -> Vec<Mistake> {
        mistakes(&self.acl, &self.all_users(), from)
    }

    /// Accounts of all files.
    pub fn all_users(&self) -> BTreeMap<String, User> {
        let mut users = self.users.clone();
        if let Some(htpasswd) = &self.htpasswd {
            users.extend(
                htpasswd
                    .users()
                    .iter()
                    .map(|(name, user)| (name.clone(), user.clone())),
            );
        }
        users
    }

    /// What a reload replaces.
    pub fn accounts(&self) -> Accounts {
        Accounts {
            users: self.users.clone(),
            acl: self.acl.clone(),
            revoked: self.revoked.clone(),
        }
    }

    /// `auth`'s own form of all this.
    pub(super) fn settings(
        &self,
        external_host: Option<String>,
        secret: Secret,
        own_key: Option<SigningKeyPem>,
    ) -> Settings {
        let signing = match &self.signing {
            Signing::None => None,
            Signing::Own => own_key,
            Signing::Files(pem) => Some(pem.clone()),
        };
        Settings {
            authentication: if self.required {
                Authentication::Required
            } else {
                Authentication::Open
            },
            scheme: self.scheme.clone(),
            accounts: self.accounts(),
            live_users: self
                .htpasswd
                .clone()
                .map(|file| -> Arc<dyn LiveUsers> { file }),
            token: TokenSettings {
                issuer: self.issuer.clone(),
                service: self.service.clone(),
                realm: self.realm.clone(),
                external_host,
                lifetime_secs: self.lifetime_secs,
                refresh_tokens: self.refresh_tokens,
                signing,
                trusted_certificates_pem: self.trusted_certificates_pem.clone(),
            },
            secret,
            limits: Limits {
                failed_logins_per_minute: self.failed_logins,
                failed_logins_per_minute_per_address: self
                    .failed_logins
                    .saturating_mul(FAILED_LOGINS_PER_ADDRESS_FACTOR),
                ..Limits::default()
            },
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> AuthConfig {
    // By the key alone: whoever emptied a list by commenting out its lines did not ask for an open door.
    let ours = ["users", "users_file", "acl", "token"]
        .into_iter()
        .any(|key| reader.is_given(key));
    refuse_empty_scheme(reader);
    // `auth: {token: }` chooses the token scheme as much as a full section does.
    let foreign = reader
        .node("auth")
        .is_some_and(|auth| auth.entries().iter().any(|entry| entry.key != "none"));
    let is_htpasswd = reader.is_given("auth.htpasswd");
    let users_file = reader.path_if_set("users_file");
    let issuer = issuer(reader);
    let service = reader.text("auth.token.service", NAME_DEFAULT);
    let realm = reader
        .text_if_set("auth.token.realm")
        .filter(|realm| !realm.is_empty());
    let mut config = AuthConfig {
        required: ours || foreign,
        is_foreign_only: foreign && !ours && !is_htpasswd,
        users: BTreeMap::new(),
        places: BTreeMap::new(),
        htpasswd: None,
        scheme: Scheme::Bearer,
        acl: Vec::new(),
        revoked: BTreeMap::new(),
        realm,
        service,
        issuer,
        lifetime_secs: reader.number(
            "token.expiration",
            LIFETIME_SECS_DEFAULT,
            1..=LIFETIME_SECS_MAX,
        ),
        refresh_tokens: reader.flag("token.refresh_tokens", false),
        signing: if ours && !is_htpasswd {
            signing(reader)
        } else {
            Signing::None
        },
        trusted_certificates_pem: trusted_certificates(reader),
        users_file,
        has_users_file: false,
        failed_logins: failed_logins(reader),
    };
    if is_htpasswd {
        htpasswd::read(reader, &mut config);
    } else if ours {
        accounts_and_rules(reader, &mut config);
    } else if foreign {
        foreign_needs(reader);
    }
    config
}

/// distribution takes an empty `auth`, also one that a variable emptied, for no authentication at all.
fn refuse_empty_scheme(reader: &mut Reader<'_>) {
    let chooses = |auth: &Node| !auth.entries().is_empty();
    if reader.is_given("auth") && !reader.node("auth").is_some_and(chooses) {
        reader.refuse(
            "auth",
            "empty; remove the key, or write which scheme it is",
            "`auth: none` is the word for open to everybody",
        );
    }
}

fn failed_logins(reader: &mut Reader<'_>) -> u32 {
    let number = reader.number("limits.failed_logins", FAILED_LOGINS_DEFAULT, 0..=1_000_000);
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Both files may name the issuer; they must agree, or the one would refuse what the other signs.
fn issuer(reader: &mut Reader<'_>) -> String {
    let named = |reader: &mut Reader<'_>, key: &str| {
        let issuer = reader.scalar(key).map(|(text, _)| text.to_owned());
        if issuer.as_deref() == Some("") {
            reader.refuse(key, "must not be empty", "any name will do");
        }
        issuer
    };
    let ours = named(reader, "token.issuer");
    let theirs = named(reader, "auth.token.issuer");
    if let (Some(ours), Some(theirs)) = (&ours, &theirs)
        && ours != theirs
    {
        reader.refuse(
            "auth.token.issuer",
            "differs from token.issuer",
            "give both the same name, or remove one",
        );
    }
    let key = if ours.is_none() && theirs.is_some() {
        "auth.token.issuer"
    } else {
        "token.issuer"
    };
    reader.text(key, NAME_DEFAULT)
}

fn signing(reader: &mut Reader<'_>) -> Signing {
    let own = ["token.certificate", "token.key"];
    let shared = ["server.certificate", "server.key"];
    let mut used = None;
    // docker_auth takes the token's pair, and its listener's where there is none; it insists on whole pairs in both.
    for [certificate_key, key_key] in [shared, own] {
        let certificate = reader.path_if_set(certificate_key);
        let key = reader.path_if_set(key_key);
        match (certificate, key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                let pair =
                    pem::check_pair(reader, (certificate_key, &certificate), (key_key, &key));
                used = Some((key_key, pair));
            }
            (Some(_), None) => {
                reader.refuse(
                    certificate_key,
                    &format!("given without {key_key}"),
                    "give both",
                );
            }
            (None, Some(_)) => {
                reader.refuse(
                    key_key,
                    &format!("given without {certificate_key}"),
                    "give both",
                );
            }
        }
    }
    let Some((key, pair)) = used else {
        return Signing::Own;
    };
    // A pair that cannot be read was refused, or none is to be read.
    let Some((algorithm, pem)) = pair else {
        return Signing::None;
    };
    let usable = [
        rustls::SignatureAlgorithm::RSA,
        rustls::SignatureAlgorithm::ECDSA,
    ];
    if !usable.contains(&algorithm) {
        reader.refuse(
            key,
            "this kind of key cannot sign tokens that registries accept",
            "use RSA, or EC on P-256, P-384 or P-521",
        );
    }
    Signing::Files(pem)
}

fn trusted_certificates(reader: &mut Reader<'_>) -> Vec<String> {
    const KEY: &str = "auth.token.rootcertbundle";
    let path = reader.path_if_set(KEY);
    path.filter(|_| reader.looks_at_certificates)
        .and_then(|path| pem::certificates(reader, KEY, &path))
        .map(|(text, _)| text)
        .into_iter()
        .collect()
}

fn accounts_and_rules(reader: &mut Reader<'_>, config: &mut AuthConfig) {
    for (key, what) in [
        ("users", "no users are configured"),
        ("acl", "no rules are configured"),
    ] {
        if reader.node(key).is_none() && config.users_file.is_none() {
            let hint = format!("add `{key}`, or `users_file`; an empty `{key}` is allowed");
            reader.refuse(key, what, &hint);
        }
    }
    if let Some(users) = reader.node("users") {
        config.users = accounts::accounts(users, &mut reader.errors);
        let places = users.entries().iter();
        config.places = places
            .filter(|entry| config.users.contains_key(&entry.key))
            .map(|entry| (entry.key.clone(), entry.place.clone()))
            .collect();
        reader.remember("users", format_args!("{} (set)", config.users.len()));
    }
    read_rules(reader, config);
    for (name, account) in &config.users {
        check_password(reader, name, account);
    }
    if let Some(path) = &config.users_file {
        match UsersFile::read_if_there(path) {
            Ok(Some(file)) => {
                config.has_users_file = true;
                add_users_file(reader, config, file);
            }
            Ok(None) => reader.warn("users_file", "is not there yet; nobody is in it"),
            Err(errors) => reader.errors.append(errors),
        }
    }
    warn_of_malformed(reader, &config.acl);
}

/// The configuration's own rules.
pub(super) fn read_rules(reader: &mut Reader<'_>, config: &mut AuthConfig) {
    if let Some(acl) = reader.node("acl") {
        let rules = accounts::rules(acl, &mut reader.errors);
        config.acl = accounts::compiled(rules, &mut reader.errors);
        reader.remember("acl", format_args!("{} rules", config.acl.len()));
    }
}

fn add_users_file(reader: &mut Reader<'_>, config: &mut AuthConfig, file: UsersFile) {
    for (name, account) in file.users {
        match config.users.entry(name) {
            Entry::Occupied(taken) => reader.refuse(
                &format!("users.{}", taken.key()),
                "this user is in the users_file too",
                "remove one of the two",
            ),
            Entry::Vacant(free) => {
                check_password(reader, free.key(), &account);
                free.insert(account);
            }
        }
    }
    let rules = accounts::compiled(file.acl, &mut reader.errors);
    config.acl.extend(rules);
    for name in file.revoked.keys() {
        if !config.users.contains_key(name) {
            let key = format!("revoked.{name}");
            reader.warn(&key, "there is no such user: nobody's tokens end by it");
        }
    }
    config.revoked = file.revoked;
}

/// Such a glob matches nothing, here and in `docker_auth`.
pub(super) fn warn_of_malformed(reader: &mut Reader<'_>, acl: &[Rule]) {
    for rule in acl.iter().filter(|rule| rule.is_malformed()) {
        reader.warnings.push(format!(
            "{}: acl[]: a pattern of this rule is malformed and matches nothing",
            rule.text().place
        ));
    }
}

/// No password and no hash are taken as `docker_auth` takes them, and neither is likely to be meant.
fn check_password(reader: &mut Reader<'_>, name: &str, account: &User) {
    match &account.password_hash {
        // The empty name is the anonymous user, who has none.
        None if !name.is_empty() => reader.warn(
            &format!("users.{name}"),
            "has no password: any password lets this user in",
        ),
        Some(hash) if !hash.starts_with("$2") => reader.warn(
            &format!("users.{name}.password"),
            "is not a bcrypt hash: nobody can log in with it",
        ),
        None | Some(_) => {}
    }
    if account
        .bcrypt_cost()
        .is_some_and(|cost| cost > BCRYPT_COST_MAX)
    {
        reader.refuse(
            &format!("users.{name}.password"),
            "this bcrypt hash is too dear: every failed login of anybody would cost as much",
            &format!("hash it again with a cost of at most {BCRYPT_COST_MAX}; 10 is customary"),
        );
    }
}

/// Tokens that others sign need all three, as in distribution.
fn foreign_needs(reader: &mut Reader<'_>) {
    for key in [
        "auth.token.realm",
        "auth.token.service",
        "auth.token.issuer",
        "auth.token.rootcertbundle",
    ] {
        if reader.node("auth.token").is_some() && reader.node(key).is_none() {
            reader.refuse(
                key,
                "missing: without `users`, tokens come from another server",
                "add it, or add `users` and `acl` to issue tokens here",
            );
        }
    }
    if reader.node("auth.token").is_none() {
        reader.refuse(
            "auth",
            "names no scheme that is complete",
            "give `auth.token` its keys, or add `users` and `acl`",
        );
    }
}
