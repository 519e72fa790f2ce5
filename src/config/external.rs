//! `ext_auth` and `ext_authz`: programs that decide about accounts and rights.
//!
//! Must not know what is asked of them. Invariant: a program that is not there, or may not be run, is a mistake of the
//! configuration and not of the first login.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::{Family, Key, OptionalText, Texts, docker_auth, keys};
use super::reader::Reader;
use crate::auth::{External, Program};
use crate::clock::SystemClock;

/// The sections of authenticators. Each knows accounts that `users` need not name.
pub(super) const AUTHENTICATORS: &[&str] = &[EXT_AUTH];
pub(super) const EXT_AUTH: &str = "ext_auth";
pub(super) const EXT_AUTHZ: &str = "ext_authz";

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
}

pub(super) const FAMILY: Family = Family {
    heading: "External deciders",
    intro: "",
    keys: KEYS,
    unread: &[
        docker_auth("ldap_auth").not_yet(&[]),
        docker_auth("oidc_auth").not_yet(&[]),
        docker_auth("google_auth").not_yet(&[]),
        docker_auth("github_auth").not_yet(&[]),
        docker_auth("gitlab_auth").not_yet(&[]),
        docker_auth("mongo_auth").not_yet(&[]),
        docker_auth("xorm_auth").not_yet(&[]),
        docker_auth("plugin_authn").not_yet(&[]),
        docker_auth("acl_mongo").not_yet(&[]),
        docker_auth("acl_xorm").not_yet(&[]),
        docker_auth("plugin_authz").not_yet(&[]),
        docker_auth("casbin_authz").not_yet(&[]),
    ],
};

/// The deciders that the configuration names. Some of them read files, which have the times of the machine.
pub(super) fn read(reader: &mut Reader<'_>) -> External {
    let ext_auth = program(reader, EXT_AUTH, &AUTH_COMMAND, &AUTH_ARGUMENTS);
    let ext_authz = program(reader, EXT_AUTHZ, &AUTHZ_COMMAND, &AUTHZ_ARGUMENTS);
    let external = External::new(ext_auth, ext_authz);
    if external.knows_accounts() {
        let asked: Vec<&str> = AUTHENTICATORS
            .iter()
            .copied()
            .filter(|section| reader.node(section).is_some())
            .collect();
        reader.notes.push(format!(
            "{} decides about accounts that are not in `users`: `check` and `acl explain` do not ask it which accounts and labels there are",
            asked.join(", ")
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
) -> Option<Program> {
    let (name, arguments) = (reader.get(command), reader.get(arguments));
    reader.node(section)?;
    let Some(name) = name else {
        let hint = format!("give the program, or remove `{section}`");
        reader.refuse(command.path, "missing", &hint);
        return None;
    };
    match find_program(reader, command.path, &name) {
        Ok(path) => {
            let clock = Arc::new(SystemClock::new());
            Some(Program::new(section, path, arguments, clock))
        }
        Err(problem) => {
            let hint = "the full path of an executable file, or a name that is looked for in PATH";
            reader.refuse(command.path, problem, hint);
            None
        }
    }
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
