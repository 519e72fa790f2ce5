//! `auth`, `token`, `users`, `acl`, `users_file`: who issues tokens and who may do what.
//!
//! Must not know how tokens look. Invariants: authentication is off only if none of these keys is there, or `auth` is
//! `none`; a key that is there with nothing behind it counts as there; a list of users or rules that is missing where one is
//! needed is a mistake, never an open or a shut door by accident. The one list that may be missing is `acl` beside
//! `auth.htpasswd`, whose users distribution knows no rules for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::account_file::{AccountFile, Format, Parsed};
use super::error::{ConfigErrors, Place};
use super::node::Node;
use super::pem::{self, Pair, TokenPair};
use super::reader::Reader;
use super::users_file::UsersFile;
use super::{accounts, external, htpasswd, limits, token_listener, tokens};
use crate::auth::{
    AccountSource as _, Accounts, Authentication, EndingCertificate, Limits, Mistake, Rule, Scheme,
    Secret, Settings, SigningKeyPem, TokenSettings, User, ending_certificates, is_vouched_for,
    mistakes,
};
use crate::auth::{AutoRedirect, JwkSet, TOKEN_ALGORITHMS, TOKEN_ALGORITHMS_WITHOUT_KEYS};
use crate::clock::{Clock as _, SystemClock};

/// All that the files say about authentication; secrets and keys made at start are added by the cli.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// If false, every client may do everything.
    pub required: bool,
    /// Whether another server's tokens alone decide: there are no accounts here, and no rules.
    pub is_foreign_only: bool,
    /// Accounts and rules of the configuration; those of `account_file` are live.
    pub accounts: Accounts,
    /// The places of the accounts of the configuration.
    pub places: BTreeMap<String, Place>,
    /// The file of `users_file` or of `auth.htpasswd`.
    pub account_file: Option<AccountFile>,
    /// What challenges ask for.
    pub scheme: Scheme,
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
    /// The files that the configuration names for the key that signs, whether or not they exist.
    pub token_pair: Option<TokenPair>,
    /// The text of `auth.token.rootcertbundle`.
    pub trusted_certificates_pem: Vec<String>,
    /// `auth.token.jwks`
    pub trusted_keys: JwkSet,
    /// `auth.token.signingalgorithms`
    pub signing_algorithms: Vec<String>,
    /// `auth.token.autoredirect`
    pub auto_redirect: Option<AutoRedirect>,
    /// `users_file`, for the commands that write it.
    pub users_file: Option<PathBuf>,
    /// `limits.failed_logins`; 0 switches the slowing off.
    pub failed_logins: u32,
}

/// Whose key signs tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signing {
    /// No key: only tokens of other issuers are accepted, or no tokens are needed.
    None,
    /// A key made at first start.
    Own,
    /// That of `token.certificate` and `token.key`, by default that of `server`.
    Files(SigningKeyPem),
}

impl AuthConfig {
    /// The accounts of the configuration, then those of the file.
    fn parts(&self) -> Vec<Arc<Accounts>> {
        let of_file = self.account_file.iter().map(AccountFile::known);
        std::iter::once(Arc::new(self.accounts.clone()))
            .chain(of_file)
            .collect()
    }

    /// The accounts of all files.
    pub fn users(&self) -> BTreeMap<String, User> {
        let parts = self.parts();
        // What the configuration says holds.
        let users = parts.iter().rev().flat_map(|part| &part.users);
        users
            .map(|(name, user)| (name.clone(), user.clone()))
            .collect()
    }

    /// The rules of all files, in their order.
    pub fn rules(&self) -> Vec<Rule> {
        let parts = self.parts();
        parts
            .iter()
            .flat_map(|part| part.acl.iter().cloned())
            .collect()
    }

    /// What is probably not meant in the rules.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let has_others = self.accounts.external.knows_accounts();
        mistakes(&self.rules(), &self.users(), has_others, |_| true)
    }

    /// Accounts and rules as they are where `file` is the content of the `users_file`.
    pub fn accounts_with(&self, file: &UsersFile) -> Accounts {
        let (mut warnings, mut errors) = (Vec::new(), ConfigErrors::default());
        let of_file = accounts::compiled(file.acl.clone(), &mut warnings, &mut errors);
        let mut accounts = self.accounts.clone();
        accounts.acl.extend(of_file);
        for (name, user) in &file.users {
            // What the configuration says holds.
            accounts
                .users
                .entry(name.clone())
                .or_insert_with(|| user.clone());
        }
        accounts
    }

    /// Certificates of tokens that have expired or soon will. One that was made at first start is not among them.
    pub fn ending_certificates(&self, now_unix_secs: u64) -> Vec<EndingCertificate> {
        let own = match &self.signing {
            Signing::None | Signing::Own => None,
            Signing::Files(pem) => Some(pem),
        };
        ending_certificates(own, &self.trusted_certificates_pem, now_unix_secs)
    }

    /// `auth.htpasswd.path`
    pub fn htpasswd(&self) -> Option<&Path> {
        let file = self
            .account_file
            .as_ref()
            .filter(|_| self.users_file.is_none());
        file.map(AccountFile::path)
    }

    /// The accounts whose tokens from before that second (since 1970) are void.
    pub fn revoked(&self) -> BTreeMap<String, u64> {
        let of_file = self.account_file.as_ref().map(AccountFile::known);
        of_file.map_or_else(BTreeMap::new, |file| file.revoked.clone())
    }

    /// `auth`'s own form of all this.
    pub(crate) fn settings(&self, secret: Secret, own_key: Option<SigningKeyPem>) -> Settings {
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
            accounts: self.accounts.clone(),
            token: TokenSettings {
                issuer: self.issuer.clone(),
                service: self.service.clone(),
                realm: self.realm.clone(),
                lifetime_secs: self.lifetime_secs,
                refresh_tokens: self.refresh_tokens,
                signing,
                trusted_certificates_pem: self.trusted_certificates_pem.clone(),
                trusted_keys: self.trusted_keys.clone(),
                signing_algorithms: self.signing_algorithms.clone(),
                auto_redirect: self.auto_redirect.clone(),
                ..TokenSettings::default()
            },
            secret,
            limits: Limits::with_failed_logins(self.failed_logins),
        }
    }
}

/// `listener_pair` is that of `server.certificate`.
pub(super) fn read(reader: &mut Reader<'_>, listener_pair: Option<&Pair>) -> AuthConfig {
    // The key alone counts: a list whose lines are commented out is not a request for open access.
    let ours = ["users", "users_file", "acl", "token", external::EXT_AUTHZ]
        .iter()
        .chain(external::AUTHENTICATORS)
        .any(|key| reader.is_given(key));
    refuse_empty_scheme(reader);
    // `auth: {token: }` chooses the token scheme as much as a full section does.
    let foreign = reader
        .node("auth")
        .is_some_and(|auth| auth.entries().iter().any(|entry| entry.key != "none"));
    let is_htpasswd = reader.is_given("auth.htpasswd");
    let users_file = reader.get(&tokens::USERS_FILE);
    let issuer = issuer(reader);
    let service = reader.get(&tokens::SERVICE);
    let realm = realm(reader);
    let (signing, token_pair) = if ours && !is_htpasswd {
        signing(reader, listener_pair)
    } else {
        (Signing::None, None)
    };
    let mut config = AuthConfig {
        required: ours || foreign,
        is_foreign_only: foreign && !ours && !is_htpasswd,
        accounts: Accounts {
            external: external::read(reader),
            ..Accounts::default()
        },
        places: BTreeMap::new(),
        account_file: None,
        scheme: Scheme::Bearer,
        realm,
        service,
        issuer,
        lifetime_secs: reader.get(&tokens::EXPIRATION),
        refresh_tokens: reader.get(&tokens::REFRESH_TOKENS),
        signing,
        trusted_certificates_pem: trusted_certificates(reader, token_pair.as_ref()),
        token_pair,
        trusted_keys: trusted_keys(reader),
        signing_algorithms: signing_algorithms(reader),
        auto_redirect: auto_redirect(reader),
        users_file,
        failed_logins: limits::failed_logins(reader),
    };
    warn_of_untrusted_certificate(reader, &config);
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
            "`auth: none` switches authentication off",
        );
    }
}

/// Clients open it, so it needs a scheme.
fn realm(reader: &mut Reader<'_>) -> Option<String> {
    let realm = reader.get(&tokens::REALM)?;
    if !["http://", "https://"]
        .iter()
        .any(|scheme| realm.starts_with(scheme))
    {
        reader.refuse(
            tokens::REALM.path,
            "must be a URL",
            "written like `https://registry.example/token`; without the key, it follows from http.host or the request",
        );
    }
    Some(realm)
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
    let ours = named(reader, tokens::ISSUER.path);
    let theirs = named(reader, tokens::REGISTRY_ISSUER.path);
    if let (Some(ours), Some(theirs)) = (&ours, &theirs)
        && ours != theirs
    {
        reader.refuse(
            tokens::REGISTRY_ISSUER.path,
            "differs from token.issuer",
            "give both the same name, or remove one",
        );
    }
    // Each file's key is in force with its own place.
    let of_registry = theirs.map(|_| reader.get(&tokens::REGISTRY_ISSUER));
    match of_registry {
        Some(issuer) if ours.is_none() => issuer,
        Some(_) | None => reader.get(&tokens::ISSUER),
    }
}

/// Who signs, and the files that are named for it. `docker_auth` takes the token's pair, and its listener's if there is none;
/// it insists on whole pairs in both.
fn signing(reader: &mut Reader<'_>, of_listener: Option<&Pair>) -> (Signing, Option<TokenPair>) {
    let own = pem::pair(
        reader,
        &tokens::CERTIFICATE,
        &tokens::KEY,
        pem::check_token_pair,
    );
    let (key, pair) = match (&own, of_listener) {
        (Some(own), _) => (tokens::KEY.path, own),
        (None, Some(pair)) => (token_listener::KEY.path, pair),
        (None, None) => return (Signing::Own, None),
    };
    let files = Some(pair.files.clone());
    // A pair that cannot be read was refused, or none is to be read.
    let Some((algorithm, pem)) = pair.content.clone() else {
        return (Signing::None, files);
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
    (Signing::Files(pem), files)
}

fn trusted_certificates(reader: &mut Reader<'_>, own: Option<&TokenPair>) -> Vec<String> {
    let key = &tokens::ROOT_CERTIFICATES;
    let path = reader.get(key).filter(|_| reader.looks_at_certificates);
    path.and_then(|path| pem::trusted_certificates(reader, key.path, &path, own))
        .into_iter()
        .collect()
}

/// This program believes its own tokens in any case; the registry that it took over from does not. A JWKS may hold the key.
fn warn_of_untrusted_certificate(reader: &mut Reader<'_>, config: &AuthConfig) {
    let (Signing::Files(own), [trusted]) =
        (&config.signing, config.trusted_certificates_pem.as_slice())
    else {
        return;
    };
    let now_unix_secs = SystemClock::new().unix_secs();
    if reader.node(tokens::JWKS.path).is_none() && !is_vouched_for(own, trusted, now_unix_secs) {
        reader.warn(
            tokens::ROOT_CERTIFICATES.path,
            "the certificate that signs tokens here (token.certificate, else server.certificate) is not in this file: another registry that trusts the file refuses them; add it to the file",
        );
    }
}

fn trusted_keys(reader: &mut Reader<'_>) -> JwkSet {
    let path = reader.get(&tokens::JWKS);
    let Some(path) = path.filter(|_| reader.looks_at_certificates) else {
        return JwkSet::default();
    };
    let Some(text) = pem::readable(reader, tokens::JWKS.path, &path) else {
        return JwkSet::default();
    };
    match JwkSet::parse(&text) {
        Ok(keys) => {
            for fault in &keys.left_out {
                reader.warn(tokens::JWKS.path, &format!("{}: {fault}", path.display()));
            }
            keys
        }
        Err(error) => {
            let message = format!("{}: {error}", path.display());
            reader.refuse(
                tokens::JWKS.path,
                &message,
                "the issuer of the tokens publishes such a file",
            );
            JwkSet::default()
        }
    }
}

fn signing_algorithms(reader: &mut Reader<'_>) -> Vec<String> {
    let key = &tokens::SIGNING_ALGORITHMS;
    let names = reader.get(key);
    for name in &names {
        if TOKEN_ALGORITHMS_WITHOUT_KEYS.contains(&name.as_str()) {
            let message = format!("{name} has no effect: no public key can check it");
            reader.warn(key.path, &message);
        } else if !TOKEN_ALGORITHMS.contains(&name.as_str()) {
            let hint = format!("of {}", TOKEN_ALGORITHMS.join(", "));
            reader.refuse(key.path, "unknown algorithm", &hint);
            break;
        }
    }
    names
}

fn auto_redirect(reader: &mut Reader<'_>) -> Option<AutoRedirect> {
    let (is_on, path) = (
        reader.get(&tokens::AUTO_REDIRECT),
        reader.get(&tokens::AUTO_REDIRECT_PATH),
    );
    // distribution takes an empty path for its default.
    let path = match path.trim_start_matches('/') {
        "" => tokens::AUTO_REDIRECT_PATH.kind.0.to_owned(),
        path => format!("/{path}"),
    };
    is_on.then(|| AutoRedirect {
        path,
        assumes_https: reader.node(super::http::TRUSTED_PROXIES.path).is_none(),
    })
}

fn accounts_and_rules(reader: &mut Reader<'_>, config: &mut AuthConfig) {
    let external = &config.accounts.external;
    for (key, what, is_decided_elsewhere) in [
        (
            "users",
            "no users are configured",
            external.knows_accounts(),
        ),
        ("acl", "no rules are configured", external.decides_rights()),
    ] {
        let is_given = reader.node(key).is_some() || config.users_file.is_some();
        if !is_given && !is_decided_elsewhere {
            let hint = format!("add `{key}`, or `users_file`; an empty `{key}` is allowed");
            reader.refuse(key, what, &hint);
        }
    }
    if let Some(users) = reader.node("users") {
        config.accounts.users = accounts::accounts(users, &mut reader.errors);
        let places = users.entries().iter();
        config.places = places
            .filter(|entry| config.accounts.users.contains_key(&entry.key))
            .map(|entry| (entry.key.clone(), entry.place.clone()))
            .collect();
        let count = config.accounts.users.len();
        reader.summarise("users", format_args!("{count} (set)"));
    }
    read_rules(reader, config);
    for (name, account) in &config.accounts.users {
        let place = config.places.get(name);
        accounts::check_password(
            name,
            account,
            place,
            &mut reader.warnings,
            &mut reader.errors,
        );
    }
    let path = config
        .users_file
        .clone()
        .filter(|_| reader.reads_users_file);
    if let Some(path) = path {
        let has_others = config.accounts.external.knows_accounts();
        let format = Format::Users {
            places: config.places.clone(),
            has_others,
        };
        follow(reader, config, &path, format);
        if config
            .account_file
            .as_ref()
            .is_some_and(|file| !file.was_there())
        {
            let consequence = if config.accounts.users.is_empty() && !has_others {
                ", nobody can log in"
            } else {
                ""
            };
            let message = format!(
                "{} is missing{consequence}; restore it, or: boathouse user add admin --admin",
                path.display()
            );
            reader.warn("users_file", &message);
        }
    }
}

/// The configuration's own rules.
pub(super) fn read_rules(reader: &mut Reader<'_>, config: &mut AuthConfig) {
    if let Some(acl) = reader.node("acl") {
        let rules = accounts::rules(acl, &mut reader.errors);
        let rules = accounts::compiled(rules, &mut reader.warnings, &mut reader.errors);
        config.accounts.acl = rules;
        let count = config.accounts.acl.len();
        reader.summarise("acl", format_args!("{count} rules"));
    }
}

/// Reads a file of accounts, which a running server then follows.
pub(super) fn follow(
    reader: &mut Reader<'_>,
    config: &mut AuthConfig,
    path: &Path,
    format: Format,
) -> Option<Parsed> {
    // Files have the times of the machine, whatever clock the rest of the program is given.
    match AccountFile::open(path, format, Arc::new(SystemClock::new())) {
        Ok((file, mut parsed)) => {
            reader.warnings.append(&mut parsed.warnings);
            for error in parsed.left_out.drain(..) {
                reader.errors.push(error);
            }
            config.accounts.live = Some(Arc::new(file.clone()));
            config.account_file = Some(file);
            Some(parsed)
        }
        Err(errors) => {
            reader.errors.append(errors);
            None
        }
    }
}

/// Tokens that others sign need all of them, as in distribution, or what may be in their place.
fn foreign_needs(reader: &mut Reader<'_>) {
    for (key, other) in [
        ("auth.token.realm", tokens::AUTO_REDIRECT.path),
        ("auth.token.service", ""),
        ("auth.token.issuer", ""),
        ("auth.token.rootcertbundle", tokens::JWKS.path),
    ] {
        let is_given = |key: &str| reader.node(key).is_some();
        if is_given("auth.token") && !is_given(key) && !is_given(other) {
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
