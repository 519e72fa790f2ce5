//! `auth.htpasswd`: the users of a file in Apache's format, as distribution takes them.
//!
//! Must not know how passwords are checked, nor when the file is read (`account_file`). Invariant: an entry that distribution
//! would let in is an account, and no other.

use super::account_file::{Format, Parsed};
use super::authentication::{AuthConfig, follow, read_rules};
use super::error::{ConfigError, Place};
use super::external;
use super::reader::Reader;
use super::tokens;
use super::yaml::TEXT_BYTES_MAX;
use crate::auth::{BCRYPT_COST_MAX, Rule, RuleText, Scheme, User};

/// The comment of the rule that holds where there are none.
const NO_RULES: &str =
    "Without `acl`, every user of the file may do everything, as in distribution.";

/// Reads the section, and with `acl` the rules that then govern.
pub(super) fn read(reader: &mut Reader<'_>, config: &mut AuthConfig) {
    let ours = ["auth.token", "users", "users_file", "token"];
    let external = external::AUTHENTICATORS.iter().copied();
    for key in ours
        .into_iter()
        .chain(external)
        .chain([external::EXT_AUTHZ])
    {
        if reader.is_given(key) {
            reader.refuse(
                key,
                "cannot be combined with auth.htpasswd: both define who can log in",
                "keep `auth.htpasswd`, or move its entries to `users` for tokens and for the commands that change users",
            );
        }
    }
    let realm = reader.get(&tokens::HTPASSWD_REALM);
    let path = reader.get(&tokens::HTPASSWD_PATH);
    let realm_key = tokens::HTPASSWD_REALM.path;
    // An empty realm is one.
    for (key, is_missing) in [
        (realm_key, reader.node(realm_key).is_none()),
        (tokens::HTPASSWD_PATH.path, path.is_none()),
    ] {
        if is_missing {
            reader.refuse(key, "missing", "`auth.htpasswd` needs realm and path");
        }
    }
    config.scheme = Scheme::Basic { realm };
    if let Some(path) = path
        && let Some(parsed) = follow(reader, config, &path, Format::Htpasswd)
    {
        let users = parsed.accounts.users.len();
        reader.summarise("auth.htpasswd", format_args!("{users} users"));
    }
    if reader.is_given("acl") {
        if reader.node("acl").is_none() {
            reader.refuse(
                "acl",
                "no rules are configured",
                "an empty list is written `[]`; without the key, every user may do everything",
            );
        }
        read_rules(reader, config);
    } else {
        let place = reader.place("auth.htpasswd").map(Place::to_string);
        let rule = RuleText {
            actions: vec!["*".to_owned()],
            comment: Some(NO_RULES.to_owned()),
            place: place.unwrap_or_default(),
            ..RuleText::default()
        };
        config.accounts.acl = Rule::parse(rule).into_iter().collect();
    }
}

/// As distribution reads it: blank lines and comments are ignored, any other line needs a colon, and the last entry of a name
/// holds.
pub(super) fn parse(text: &str, source: &Place) -> Result<Parsed, ConfigError> {
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > TEXT_BYTES_MAX {
        return Err(ConfigError::new(Some(source), "", "longer than 8 MiB")
            .hint("so many users belong into a directory service"));
    }
    let mut parsed = Parsed::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let refused = |message: &str, hint: &str| {
            ConfigError::new(Some(&source.at_line(number)), "", message).hint(hint)
        };
        let Some((name, hash)) = line.split_once(':') else {
            return Err(refused("not an entry", "an entry is written NAME:HASH"));
        };
        let user = User {
            password_hash: Some(hash.to_owned()),
            ..User::default()
        };
        let hint = "make the entry with `htpasswd -B -C 10`";
        let mut useless = |message| parsed.warnings.push(refused(message, hint).to_string());
        match user.bcrypt_cost() {
            _ if name.is_empty() => {
                useless("an entry without a name lets nobody in");
                continue;
            }
            Some(cost) if cost > BCRYPT_COST_MAX => {
                // Each wrong password of any account would cost as much.
                let message = format!("bcrypt cost {cost} exceeds the maximum {BCRYPT_COST_MAX}");
                let hint = "hash it again, for example with `htpasswd -B -C 10`";
                parsed.left_out.push(refused(&message, hint));
                parsed.accounts.users.remove(name);
                continue;
            }
            Some(_) => {}
            None => useless("not a bcrypt hash: nobody can log in with it"),
        }
        parsed.accounts.users.insert(name.to_owned(), user);
    }
    Ok(parsed)
}
