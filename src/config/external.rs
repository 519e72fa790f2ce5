//! `ext_auth`, `ldap_auth` and `ext_authz`: programs and directories that decide about accounts and rights.
//!
//! Must not know what is asked of them. Invariant: a program that is not there, or may not be run, is a mistake of the
//! configuration and not of the first login.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};

use super::error::ConfigError;
use super::from_node;
use super::key::{
    Family, Flag, Key, OptionalPath, OptionalText, Special, Text, Texts, Words, docker_auth, keys,
};
use super::node::join;
use super::reader::Reader;
use crate::auth::{External, LdapLabel, LdapSettings, LdapTls, Program};
use crate::clock::{Clock, SystemClock};
use crate::host_port::HostPort;

/// The sections of authenticators. Each knows accounts that `users` need not name.
pub(super) const AUTHENTICATORS: &[&str] = &[EXT_AUTH, LDAP_AUTH];
pub(super) const EXT_AUTH: &str = "ext_auth";
const LDAP_AUTH: &str = "ldap_auth";
const LDAP_LABELS: &str = "ldap_auth.labels";
pub(super) const EXT_AUTHZ: &str = "ext_authz";

/// With TLS from the first byte, unless the configuration says otherwise.
const LDAPS_PORT: u16 = 636;

/// What marks a place for the account's name in what is written.
const ACCOUNT: &str = "${account}";

keys! {
    table KEYS;

    /// A program that is asked about accounts that are not in `users`.
    ///
    /// A name that is looked for in `PATH`, or a path. It reads `ACCOUNT PASSWORD` and ends with 0 if that is right, with 1 if
    /// the password is wrong, and with 2 if it does not know the account. With 0 it may write
    /// `{"labels": {"team": ["red"]}}`. Anything else is an error. [security.md](security.md#external-deciders) has the limits.
    AUTH_COMMAND: OptionalText = docker_auth("ext_auth.command").optional_text().at_reload();

    /// The arguments of the program.
    AUTH_ARGUMENTS: Texts = docker_auth("ext_auth.args").texts().at_reload();

    /// A program that is asked about rights that no rule of `acl` decides.
    ///
    /// It reads `{"Account": …, "Type": …, "Name": …, "Service": …, "IP": …, "Actions": […], "Labels": …}`, and ends with 0 if
    /// all of the actions are granted, with 1 if none is. Anything else is an error. It is asked when a token is made.
    AUTHZ_COMMAND: OptionalText = docker_auth("ext_authz.command").optional_text().at_reload();

    /// The arguments of the program.
    AUTHZ_ARGUMENTS: Texts = docker_auth("ext_authz.args").texts().at_reload();

    /// The directory that is asked about accounts that neither `users` nor `ext_auth` know.
    ///
    /// It is searched for the account's entry, and then asked to take the password for that entry.
    /// [security.md](security.md#external-deciders) has the limits.
    LDAP_ADDRESS: OptionalText = docker_auth("ldap_auth.addr").optional_text().at_reload();

    /// How the connection is protected.
    ///
    /// By default from the first byte at port 636 (`always`), and not at all at any other port.
    LDAP_TLS: Words<Option<LdapTls>> = docker_auth("ldap_auth.tls").words(None, &[("none", Some(LdapTls::None)), ("starttls", Some(LdapTls::StartTls)), ("always", Some(LdapTls::Always)), ("", None)]).at_reload();

    /// Whether any certificate is taken: then anybody on the way can read the passwords.
    LDAP_INSECURE: Flag = docker_auth("ldap_auth.insecure_tls_skip_verify").flag(false).at_reload();

    /// The authorities that vouch for the directory, as PEM; by default those of this machine. The file is read at each login.
    LDAP_AUTHORITIES: OptionalPath = docker_auth("ldap_auth.ca_certificate").optional_path().at_reload();

    /// The entry below which accounts are.
    LDAP_BASE: Text = docker_auth("ldap_auth.base").text("").at_reload();

    /// The filter that finds an account, such as `(&(uid=${account})(objectClass=person))`.
    ///
    /// It must find one entry at most. What has a meaning in a filter is escaped in the account's name.
    LDAP_FILTER: Text = docker_auth("ldap_auth.filter").text("").at_reload();

    /// The name as which the directory is searched; without it the search is anonymous.
    LDAP_BIND_NAME: Text = docker_auth("ldap_auth.bind_dn").text("").at_reload();

    /// The file with the password of `bind_dn`. It is read at each login.
    LDAP_BIND_PASSWORD: OptionalPath = docker_auth("ldap_auth.bind_password_file").optional_path().at_reload();

    /// Whether the directory is searched as the account itself: `bind_dn` then holds `${account}`.
    LDAP_BIND_AS_USER: Flag = docker_auth("ldap_auth.initial_bind_as_user").flag(false).at_reload();

    /// The attribute whose values the label has.
    LDAP_LABEL_ATTRIBUTE: Special = docker_auth("ldap_auth.labels.*.attribute").special("text", "").at_reload();

    /// Whether only the first `CN` is taken of a value that is the name of an entry, as those of `memberOf` are.
    LDAP_LABEL_PARSE_CN: Special = docker_auth("ldap_auth.labels.*.parse_cn").special("`true` or `false`", "false").at_reload();

    /// Whether the values are made lower case.
    LDAP_LABEL_LOWER_CASE: Special = docker_auth("ldap_auth.labels.*.lower_case").special("`true` or `false`", "false").at_reload();
}

/// Why the logins of web sites are refused: docker cannot show a page of theirs. `docker_auth` makes up a password for each
/// account in its place, which `user add` does without them.
const NO_BROWSER: &str =
    "clients of a registry log in with a password, which no web login gives them";
const NO_DATABASE: &str = "accounts and rules are in files, whose changes take effect at once";
const NO_PLUGIN: &str = "plugins of Go cannot be loaded into this program";
const ACCOUNTS_HERE: &str = "add the accounts with `boathouse user add`, or ask a program of yours (`ext_auth`); docs/compatibility.md has more";
const RULES_HERE: &str = "write the rules under `acl`, or ask a program of yours (`ext_authz`); docs/compatibility.md has more";

pub(super) const FAMILY: Family = Family {
    heading: "External deciders",
    intro: "",
    keys: KEYS,
    unread: &[
        docker_auth("oidc_auth")
            .refused(&[], NO_BROWSER)
            .hint(ACCOUNTS_HERE),
        docker_auth("google_auth")
            .refused(&[], NO_BROWSER)
            .hint(ACCOUNTS_HERE),
        docker_auth("github_auth")
            .refused(&[], NO_BROWSER)
            .hint(ACCOUNTS_HERE),
        docker_auth("gitlab_auth")
            .refused(&[], NO_BROWSER)
            .hint(ACCOUNTS_HERE),
        docker_auth("mongo_auth")
            .refused(&[], NO_DATABASE)
            .hint(ACCOUNTS_HERE),
        docker_auth("xorm_auth")
            .refused(&[], NO_DATABASE)
            .hint(ACCOUNTS_HERE),
        docker_auth("plugin_authn")
            .refused(&[], NO_PLUGIN)
            .hint(ACCOUNTS_HERE),
        docker_auth("acl_mongo")
            .refused(&[], NO_DATABASE)
            .hint(RULES_HERE),
        docker_auth("acl_xorm")
            .refused(&[], NO_DATABASE)
            .hint(RULES_HERE),
        docker_auth("plugin_authz")
            .refused(&[], NO_PLUGIN)
            .hint(RULES_HERE),
        docker_auth("casbin_authz")
            .refused(&[], "rules have one language here, `acl`")
            .hint(RULES_HERE),
    ],
};

/// The deciders that the configuration names. They are other processes and machines, so their time is that of this machine.
pub(super) fn read(reader: &mut Reader<'_>) -> External {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ext_auth = program(reader, EXT_AUTH, &AUTH_COMMAND, &AUTH_ARGUMENTS, &clock);
    let ext_authz = program(reader, EXT_AUTHZ, &AUTHZ_COMMAND, &AUTHZ_ARGUMENTS, &clock);
    let ldap_auth = directory(reader);
    let external = External::new(ext_auth, ldap_auth, ext_authz, &clock);
    if external.knows_accounts() {
        let asked: Vec<&str> = AUTHENTICATORS
            .iter()
            .copied()
            .filter(|section| reader.node(section).is_some())
            .collect();
        reader.notes.push(format!(
            "accounts that are not in `users` are known to {} only: `check` and `acl explain` do not ask which there are, and which labels they have",
            asked.join(" and ")
        ));
    }
    if external.decides_rights() {
        reader.notes.push(format!(
            "{EXT_AUTHZ} decides what no rule of `acl` does: `check` and `acl explain` do not ask it"
        ));
    }
    external
}

fn program(
    reader: &mut Reader<'_>,
    section: &'static str,
    command: &Key<OptionalText>,
    arguments: &Key<Texts>,
    clock: &Arc<dyn Clock>,
) -> Option<Program> {
    let (name, arguments) = (reader.get(command), reader.get(arguments));
    reader.node(section)?;
    let Some(name) = name else {
        let hint = format!("give the program, or remove `{section}`");
        reader.refuse(command.path, "missing", &hint);
        return None;
    };
    match find_program(reader, command.path, &name) {
        Ok(path) => Some(Program::new(section, path, arguments, Arc::clone(clock))),
        Err(problem) => {
            let hint = "the full path of an executable file, or a name that is looked for in PATH";
            reader.refuse(command.path, problem, hint);
            None
        }
    }
}

/// The directory, if there is one. What `docker_auth` finds out at the first login only is a warning, so that its file is taken.
fn directory(reader: &mut Reader<'_>) -> Option<LdapSettings> {
    let address = reader.get(&LDAP_ADDRESS);
    let tls = reader.get(&LDAP_TLS);
    let insecure_tls_skip_verify = reader.get(&LDAP_INSECURE);
    let ca_certificate = reader.get(&LDAP_AUTHORITIES);
    let base = reader.get(&LDAP_BASE);
    let filter = reader.get(&LDAP_FILTER);
    let bind_dn = reader.get(&LDAP_BIND_NAME);
    let bind_password_file = reader.get(&LDAP_BIND_PASSWORD);
    let initial_bind_as_user = reader.get(&LDAP_BIND_AS_USER);
    let labels = labels(reader);
    reader.node(LDAP_AUTH)?;
    let address = server(reader, address.as_deref());
    let is_ldaps = |address: &HostPort| *address == address.with_port(LDAPS_PORT);
    let by_port = if address.as_ref().is_some_and(is_ldaps) {
        LdapTls::Always
    } else {
        LdapTls::None
    };
    let settings = LdapSettings {
        address,
        tls: tls.unwrap_or(by_port),
        insecure_tls_skip_verify,
        ca_certificate,
        base,
        filter,
        bind_dn,
        bind_password_file,
        initial_bind_as_user,
        labels,
    };
    check_directory(reader, &settings);
    Some(settings)
}

fn server(reader: &mut Reader<'_>, text: Option<&str>) -> Option<HostPort> {
    let Some(text) = text else {
        reader.warn(LDAP_ADDRESS.path, "missing: nobody can log in by ldap_auth");
        return None;
    };
    let address = text.parse::<HostPort>().ok();
    let address = address.filter(|address| !address.host().is_empty());
    if address.is_none() {
        let hint = "written like `ldap.example:636`; `tls: always` or `starttls` protects it";
        reader.refuse(LDAP_ADDRESS.path, "must be HOST:PORT", hint);
    }
    address
}

fn check_directory(reader: &mut Reader<'_>, settings: &LdapSettings) {
    let is_remote = settings
        .address
        .as_ref()
        .is_some_and(|address| !address.is_loopback());
    let is_open = settings.tls == LdapTls::None || settings.insecure_tls_skip_verify;
    if is_open && is_remote {
        reader.warn(
            LDAP_TLS.path,
            "the connection is not encrypted: anyone on the network path can read all passwords",
        );
    }
    if settings.base.is_empty() {
        reader.warn(
            LDAP_BASE.path,
            "missing: most directories find no entry without it; written like `ou=people,dc=example`",
        );
    }
    if !settings.filter.is_empty() && !settings.is_filter_valid() {
        let hint = "written like `(&(uid=${account})(objectClass=person))`, as in RFC 4515";
        reader.refuse(LDAP_FILTER.path, "not a filter", hint);
    } else if !settings.filter.contains(ACCOUNT) {
        reader.warn(
            LDAP_FILTER.path,
            "does not contain `${account}`: it matches no entry, or the same one for every account",
        );
    }
    let files = [
        (&LDAP_AUTHORITIES, &settings.ca_certificate),
        (&LDAP_BIND_PASSWORD, &settings.bind_password_file),
    ];
    for (key, path) in files {
        if path.as_ref().is_some_and(|path| File::open(path).is_err()) {
            reader.warn(
                key.path,
                "cannot be read: nobody can log in by ldap_auth until it can",
            );
        }
    }
    if settings.initial_bind_as_user && !settings.bind_dn.contains(ACCOUNT) {
        let hint =
            "written like `uid=${account},ou=people,dc=example`, or remove initial_bind_as_user";
        reader.refuse(
            LDAP_BIND_NAME.path,
            "must contain `${account}` with initial_bind_as_user",
            hint,
        );
    } else if !settings.initial_bind_as_user
        && !settings.bind_dn.is_empty()
        && settings.bind_password_file.is_none()
    {
        reader.warn(
            LDAP_BIND_PASSWORD.path,
            "missing: nobody can log in by ldap_auth",
        );
    }
}

/// A label as it is written in a file.
#[derive(Deserialize)]
struct LabelEntry {
    attribute: Option<String>,
    #[serde(default)]
    parse_cn: Truth,
    #[serde(default)]
    lower_case: Truth,
}

#[derive(Default)]
struct Truth(bool);

impl<'de> Deserialize<'de> for Truth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?
            .to_ascii_lowercase()
            .as_str()
        {
            "true" | "yes" | "on" => Ok(Self(true)),
            "false" | "no" | "off" => Ok(Self(false)),
            _ => Err(de::Error::custom("must be true or false")),
        }
    }
}

fn labels(reader: &mut Reader<'_>) -> BTreeMap<String, LdapLabel> {
    let mut labels = BTreeMap::new();
    let entries = reader
        .node(LDAP_LABELS)
        .map_or(&[][..], |node| node.entries());
    for entry in entries {
        let key = join(LDAP_LABELS, &entry.key);
        let read = from_node::read::<LabelEntry>(&entry.value, &key).and_then(|label| {
            let attribute = label.attribute.filter(|attribute| !attribute.is_empty());
            let missing = || {
                let place = Some(&entry.value.place);
                ConfigError::new(place, join(&key, "attribute"), "missing")
                    .hint("the attribute whose values the label has, such as memberOf")
            };
            Ok(LdapLabel {
                attribute: attribute.ok_or_else(missing)?,
                parse_cn: label.parse_cn.0,
                lower_case: label.lower_case.0,
            })
        });
        match read {
            Ok(label) => {
                labels.insert(entry.key.clone(), label);
            }
            Err(error) => reader.errors.push(error),
        }
    }
    labels
}

/// The path of a program. What has no slash is looked for in `PATH`.
fn find_program(reader: &mut Reader<'_>, key: &str, name: &str) -> Result<PathBuf, &'static str> {
    if name.contains('/') {
        let path = reader.absolute(key, Path::new(name));
        return can_be_run(&path).map(|()| path);
    }
    let directories = std::env::split_paths(reader.search_path);
    directories
        // An empty entry is the working directory, from which nothing should be run by its name.
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|path| can_be_run(path).is_ok())
        .ok_or("no such program in PATH")
}

fn can_be_run(path: &Path) -> Result<(), &'static str> {
    let found = fs::metadata(path).map_err(|_| "no such program")?;
    if found.is_dir() {
        Err("is a directory")
    } else if found.permissions().mode() & 0o111 == 0 {
        Err("is not executable")
    } else {
        Ok(())
    }
}
