//! What the config says about users, rules and tokens, with what only a start can add: keys and secrets.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use aws_lc_rs::hmac;

use super::token_key::{self, TokenKey};
use crate::auth::{self, Authentication, Rule, Secret, SigningKeyPem, TokenSettings, User};
use crate::clock::Clock;
use crate::config::{Account, Config, RuleText, Signing};
use crate::store::state_directory::SECRET_BYTES;
use crate::tls;

/// The settings of `auth`.
pub(super) fn of_config(
    config: &Config,
    secret: [u8; SECRET_BYTES],
    clock: &dyn Clock,
) -> anyhow::Result<auth::Settings> {
    let from = &config.auth;
    let limits = auth::Limits {
        failed_logins_per_minute: u32::try_from(from.failed_logins).unwrap_or(u32::MAX),
        ..auth::Limits::default()
    };
    let users = from.users.iter();
    let users = users.map(|(name, account)| (name.clone(), user(account)));
    Ok(auth::Settings {
        authentication: if from.required {
            Authentication::Required
        } else {
            Authentication::Open
        },
        users: users.collect(),
        acl: from.acl.iter().map(rule).collect::<anyhow::Result<_>>()?,
        revoked: from.revoked.clone(),
        token: TokenSettings {
            issuer: from.issuer.clone(),
            service: from.service.clone(),
            realm: from.realm.clone(),
            external_host: config.external_host.clone(),
            lifetime_secs: from.lifetime_secs,
            signing: signing(config, clock)?,
            trusted_certificates_pem: from.trusted_certificates_pem.clone(),
        },
        secret: Secret(secret),
        limits,
    })
}

/// A secret for one use, so that what one layer shows of its own tells nothing about another's.
pub(super) fn derived_secret(secret: &[u8], purpose: &str) -> anyhow::Result<[u8; SECRET_BYTES]> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, purpose.as_bytes());
    let derived = tag.as_ref().try_into();
    derived.map_err(|_| anyhow!("the length of a secret is not that of its hash"))
}

/// The key pair that signs tokens, in `keys_directory`; made if it is not there.
pub(super) fn own_token_key(keys_directory: &Path, clock: &dyn Clock) -> anyhow::Result<TokenKey> {
    token_key::read_or_make(keys_directory, || {
        let made = auth::make_token_key(clock)?;
        Ok(TokenKey {
            certificate_pem: made.certificate_pem,
            key_pem: made.key_pem,
        })
    })
}

fn signing(config: &Config, clock: &dyn Clock) -> anyhow::Result<Option<SigningKeyPem>> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let pair = match &config.auth.signing {
        Signing::None => return Ok(None),
        Signing::Own => own_token_key(&keys_directory(config), clock)?,
        Signing::Files { certificate, key } => TokenKey {
            certificate_pem: read(certificate)?,
            key_pem: read(key)?,
        },
    };
    Ok(Some(SigningKeyPem {
        certificate_pem: pair.certificate_pem,
        key_pem: pair.key_pem,
    }))
}

/// Beside the certificates' keys; without certificates of our own, below the state directory.
fn keys_directory(config: &Config) -> PathBuf {
    match &config.tls {
        tls::Settings::Automatic { keys_directory, .. } => keys_directory.clone(),
        tls::Settings::None | tls::Settings::Files { .. } => config.state_directory.join("keys"),
    }
}

fn user(account: &Account) -> User {
    User {
        password_hash: account.password_hash.clone(),
        labels: account.labels.clone(),
        expires_unix_secs: account.expires_unix_secs,
        valid_after_unix_secs: account.valid_after_unix_secs,
    }
}

fn rule(text: &RuleText) -> anyhow::Result<Rule> {
    let rule = Rule::parse(auth::RuleText {
        account: text.account.clone(),
        r#type: text.r#type.clone(),
        name: text.name.clone(),
        service: text.service.clone(),
        ip: text.ip.clone(),
        labels: text.labels.clone(),
        actions: text.actions.clone(),
        comment: text.comment.clone(),
        place: text.place.clone(),
    });
    rule.with_context(|| format!("{}: a rule cannot be understood", text.place))
}
