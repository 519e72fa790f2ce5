//! Whose name and password the examination uses: given, or those that a client on this machine has kept.
//!
//! Must not know what they open. Invariant: a password is never shown, not even in part.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A password is a line; what comes without end is none.
const PASSWORD_BYTES_MAX: u64 = 4_096;

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
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
    pub(super) fn from_stdin(account: &str) -> anyhow::Result<Self> {
        let mut password = String::new();
        std::io::stdin()
            .take(PASSWORD_BYTES_MAX)
            .read_to_string(&mut password)
            .context("cannot read the password from stdin")?;
        let end = password.trim_end_matches(['\r', '\n']).len();
        password.truncate(end);
        if password.is_empty() {
            bail!("there is no password on stdin");
        }
        Ok(Self {
            account: account.to_owned(),
            password,
            source: "the command line".to_owned(),
        })
    }

    /// What a client kept for `registry` in the first of `files` that has something.
    pub(super) fn kept(files: &[PathBuf], registry: &str) -> Option<Self> {
        files.iter().find_map(|file| kept_in(file, registry))
    }

    /// `Basic …`
    pub(super) fn basic(&self) -> String {
        let pair = format!("{}:{}", self.account, self.password);
        format!("Basic {}", STANDARD.encode(pair))
    }
}

/// Where clients keep what they log in with, in the order in which podman and docker would be asked.
pub(super) fn usual_files(environment: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
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
        let found = Credentials::kept(&files, "lab:5443").unwrap();
        assert_eq!(
            (found.account.as_str(), found.password.as_str()),
            ("ann", "a:b")
        );
        assert!(found.source.ends_with("good"));
        assert!(!format!("{found:?}").contains("a:b"));
        assert_eq!(Credentials::kept(&files, "lab:443"), None);
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
