//! Secrets that the service manager hands over as files (`LoadCredential=`). A credential that has the name of a variable stands
//! for this variable, so that the secret is not in the environment, which other programs of the user can read.
//!
//! Source: systemd.exec(5), "Credentials". systemd names their directory to all commands of a unit; some of them (`ExecReload=`)
//! cannot read it. Invariant: for a server, a credential that cannot be read is an error: a secret would silently be another one.
//! Other commands need no secrets, and go on without it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// Names the directory of the credentials.
const DIRECTORY_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// What the variables that override config keys begin with.
const KEY_PREFIX: &str = "REGISTRY_";
/// Sets the first admin's password.
pub(super) const PASSWORD_VARIABLE: &str = "BOATHOUSE_ADMIN_PASSWORD";

/// The variables for which this process has credentials, with their values.
pub(super) fn of_this_process() -> anyhow::Result<BTreeMap<String, String>> {
    match std::env::var_os(DIRECTORY_VARIABLE) {
        Some(directory) if !directory.is_empty() => read(Path::new(&directory)),
        _ => Ok(BTreeMap::new()),
    }
}

/// The same for a command that is not a server.
pub(super) fn readable_by_this_process() -> BTreeMap<String, String> {
    of_this_process().unwrap_or_default()
}

fn read(directory: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let cannot_list = || format!("cannot read the credentials in {}", directory.display());
    let mut credentials = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(cannot_list)? {
        let entry = entry.with_context(cannot_list)?;
        // Other credentials are files that the configuration names by their path, such as keys.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name != PASSWORD_VARIABLE && !name.starts_with(KEY_PREFIX) {
            continue;
        }
        let path = entry.path();
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read the credential {}", path.display()))?;
        // Editors and `echo` end a file with a line break, which is not a part of the secret.
        let value = text.strip_suffix('\n').unwrap_or(&text);
        credentials.insert(name, value.to_owned());
    }
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_with_the_name_of_a_variable_stands_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| fs::write(directory.path().join(name), text).unwrap();
        write("REGISTRY_HTTP_SECRET", b"a secret\n");
        write(PASSWORD_VARIABLE, b" a password ");
        write("tls.key", b"\xff");
        let read_now = || read(directory.path());
        let credentials = read_now().unwrap();
        let expected = [
            (PASSWORD_VARIABLE, " a password "),
            ("REGISTRY_HTTP_SECRET", "a secret"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(credentials, BTreeMap::from(expected));
        write("REGISTRY_HTTP_SECRET", b"\xff");
        let error = format!("{:#}", read_now().unwrap_err());
        assert!(
            error.contains("cannot read the credential ") && error.contains("REGISTRY_HTTP"),
            "{error}"
        );
    }
}
