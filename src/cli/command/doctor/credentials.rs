//! Whose name and password the examination uses: given, or those that a client on this machine has kept.
//!
//! Must not know what they open. Invariant: a password is never shown, not even in part.

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::talk;

/// A password is a line; what comes without end is none.
const PASSWORD_BYTES_MAX: u64 = 4_096;

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::cli::command) struct Credentials {
    pub(super) account: String,
    password: String,
    /// Where they are from.
    pub(super) source: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Credentials({})", self.account)
    }
}

impl Credentials {
    /// A name from the command line, and the password from stdin.
    pub(in crate::cli::command) fn from_stdin(account: &str) -> anyhow::Result<Self> {
        let mut password = String::new();
        std::io::stdin()
            .take(PASSWORD_BYTES_MAX)
            .read_to_string(&mut password)
            .context("cannot read the password from stdin")?;
        Self::of(account, password, "stdin")
    }

    /// A name from the command line, and the password that a person types without seeing it.
    pub(in crate::cli::command) fn from_terminal(account: &str) -> anyhow::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            bail!(
                "not a terminal, so no password can be asked\nhint: pass it with --password-stdin"
            );
        }
        let shown = tcgetattr(&stdin)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        talk::ask(format_args!("The password of {account}: "));
        tcsetattr(&stdin, OptionalActions::Now, &hidden)?;
        let mut password = String::new();
        let read = stdin.read_line(&mut password);
        tcsetattr(&stdin, OptionalActions::Now, &shown)?;
        talk::line("");
        read.context("cannot read the password")?;
        Self::of(account, password, "what was typed")
    }

    /// The password of `account` in a file, as `up` writes it.
    pub(in crate::cli::command) fn from_file(account: &str, file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        let password = fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        Self::of(account, password, &shown.to_string())
    }

    fn of(account: &str, mut password: String, source: &str) -> anyhow::Result<Self> {
        let end = password.trim_end_matches(['\r', '\n']).len();
        password.truncate(end);
        if password.is_empty() {
            bail!("the password from {source} is empty");
        }
        Ok(Self {
            account: account.to_owned(),
            password,
            source: source.to_owned(),
        })
    }

    /// What a client kept for the registry, under one of its names, in the first of `files` that has something.
    pub(in crate::cli::command) fn kept(files: &[PathBuf], names: &[String]) -> Option<Self> {
        let of_file = |file: &PathBuf| names.iter().find_map(|name| kept_in(file, name));
        files.iter().find_map(of_file)
    }

    /// `Basic …`
    pub(super) fn basic(&self) -> String {
        let pair = format!("{}:{}", self.account, self.password);
        format!("Basic {}", STANDARD.encode(pair))
    }
}

/// Where clients keep what they log in with, in the order in which podman and docker would be asked.
pub(in crate::cli::command) fn usual_files(
    environment: &dyn Fn(&str) -> Option<PathBuf>,
) -> Vec<PathBuf> {
    let home = environment("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let docker = environment("DOCKER_CONFIG").map(|directory| directory.join("config.json"));
    [
        environment("REGISTRY_AUTH_FILE"),
        environment("XDG_RUNTIME_DIR").map(|directory| directory.join("containers/auth.json")),
        below_home(".config/containers/auth.json"),
        docker.or_else(|| below_home(".docker/config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A file that is not there, is none, or leaves the password to a helper program has nothing for us.
fn kept_in(file: &Path, registry: &str) -> Option<Credentials> {
    let text = fs::read(file).ok()?;
    let parsed: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let pair = parsed.get("auths")?.get(registry)?.get("auth")?.as_str()?;
    let pair = String::from_utf8(STANDARD.decode(pair).ok()?).ok()?;
    let (account, password) = pair.split_once(':')?;
    if password.is_empty() {
        return None;
    }
    Some(Credentials {
        account: account.to_owned(),
        password: password.to_owned(),
        source: file.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_that_has_a_password_counts() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let auth = STANDARD.encode("ann:a:b");
        let files = [
            directory.path().join("absent"),
            file("damaged", "{"),
            // docker with a helper program keeps an empty entry; with an identity token, an empty password.
            file(
                "helper",
                r#"{"auths": {"lab:5443": {}}, "credsStore": "desktop"}"#,
            ),
            file(
                "token",
                &format!(
                    r#"{{"auths": {{"lab:5443": {{"auth": "{}"}}}}}}"#,
                    STANDARD.encode("ann:")
                ),
            ),
            file(
                "good",
                &format!(r#"{{"auths": {{"lab:5443": {{"auth": "{auth}"}}}}}}"#),
            ),
        ];
        let names = |name: &str| [name.to_owned()];
        let found = Credentials::kept(&files, &names("lab:5443")).unwrap();
        assert_eq!(
            (found.account.as_str(), found.password.as_str()),
            ("ann", "a:b")
        );
        assert!(found.source.ends_with("good"));
        assert!(!format!("{found:?}").contains("a:b"));
        assert_eq!(Credentials::kept(&files, &names("lab:443")), None);
        // Without a port, 443 is meant, and clients keep the name as it was written.
        let both = ["lab.example:443".to_owned(), "lab:5443".to_owned()];
        assert_eq!(Credentials::kept(&files, &both), Some(found));
    }

    #[test]
    fn the_usual_files_follow_the_environment() {
        let environment = |name: &str| match name {
            "HOME" => Some("/home/ann".into()),
            "DOCKER_CONFIG" => Some("/d".into()),
            _ => None,
        };
        let expected: [PathBuf; 2] = [
            "/home/ann/.config/containers/auth.json".into(),
            "/d/config.json".into(),
        ];
        assert_eq!(usual_files(&environment), expected);
    }
}
