//! `boathouse welcome`, and the same text at the end of a start by `up`: how to trust it, log in, push, and what it is called.
//!
//! Must not know how names are resolved. Invariants: every command can be pasted into a shell as it stands, on the machine that
//! its label names; what must be kept stands last.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::trust::clients::{self, Files, labelled};
use super::up::first_run::ADMIN;
use crate::cli::installation::{Installation, Where, configured_names};
use crate::cli::reachable::Reachable;
use crate::cli::talk;
use crate::client::certificates::Authority;
use crate::config::{Config, shell_word};
use crate::instance::places::{Places, Surroundings};
use crate::server::Address;
use crate::{durable_file, telemetry, tls};

/// `boathouse welcome`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    let config = &installation.loaded.config;
    let file = installation.config_files.first();
    let file = file.map_or(Path::new(""), PathBuf::as_path);
    let welcome = Welcome::with_names(config, file, configured_names(config)?);
    let has_colours = telemetry::has_colours(&std::io::stdout(), &|name| std::env::var(name).ok());
    talk::print(&welcome.text(None, has_colours))?;
    Ok(ExitCode::SUCCESS)
}

/// What a person is told of the first account's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::command) enum ShownPassword {
    /// It was made, and is shown to the person at the terminal.
    Made(String),
    /// It came by `BOATHOUSE_ADMIN_PASSWORD`.
    Given,
}

/// What a person needs to know of a registry.
#[derive(Debug, Clone)]
pub(in crate::cli::command) struct Welcome {
    names: Reachable,
    is_https: bool,
    config: PathBuf,
    /// The account to log in with; `None` where no login is needed.
    account: Option<String>,
    /// The file of the first password, if it still exists.
    password_file: Option<PathBuf>,
    /// The file of our own authorities' certificates; `None` with the user's certificate or plain HTTP.
    authority: Option<PathBuf>,
    /// Of these authorities.
    fingerprints: Vec<String>,
    /// How the program is called on this machine.
    program: String,
    /// The arguments by which a command finds this installation; empty where it does so by itself.
    place: String,
}

impl Welcome {
    /// The welcome of the registry of `config`, read from `file`, that listens at `address`. Blocks while names are resolved.
    pub(in crate::cli::command) fn find(config: &Config, file: &Path, address: &Address) -> Self {
        let certified = tls::names_in_files(&config.tls);
        Self::with_names(config, file, Reachable::find(config, address, certified))
    }

    fn with_names(config: &Config, file: &Path, names: Reachable) -> Self {
        // What was taken over has accounts of other names.
        let users = config.auth.users();
        let first = users.keys().find(|name| !name.is_empty());
        let account = users.get_key_value(ADMIN).map(|(name, _)| name);
        let account = account.or(first).cloned();
        let password_file = durable_file::directory_of(file).join("admin-password");
        let authority = match &config.tls {
            tls::Settings::Automatic { ca_certificate, .. } => Some(ca_certificate.clone()),
            tls::Settings::None | tls::Settings::Files { .. } => None,
        };
        let pem = authority.as_ref().and_then(|file| std::fs::read(file).ok());
        let authorities = pem.and_then(|pem| Authority::parse_all(&pem).ok());
        let fingerprints = authorities.iter().flatten().map(Authority::fingerprint);
        let fingerprints = fingerprints.collect();
        Self {
            names,
            is_https: config.is_reached_by_https(),
            config: file.to_owned(),
            account,
            password_file: Some(password_file).filter(|file| file.exists()),
            authority,
            fingerprints,
            program: program(),
            place: place_arguments(file),
        }
    }

    /// The lines. The password is shown only here, with the first start.
    pub(in crate::cli::command) fn text(
        &self,
        password: Option<&ShownPassword>,
        has_colours: bool,
    ) -> String {
        let registry = &self.names.registry;
        let mut lines = vec![String::new()];
        if !self.fingerprints.is_empty() {
            lines.extend(self.trust_lines());
        }
        if let Some(account) = &self.account {
            let account = shell_word(account);
            lines.push("Log in; podman, skopeo and others take the same arguments:".to_owned());
            let registry = shell_word(registry);
            lines.push(format!("  docker login --username {account} {registry}"));
        }
        lines.push("Push a first image, made by this command:".to_owned());
        lines.push(format!("  {} push-sample{}", self.program, self.place));
        lines.push(String::new());
        lines.extend(self.kept_lines(password, has_colours));
        lines.push(String::new());
        lines.join("\n")
    }

    /// What a person must keep.
    fn kept_lines(&self, password: Option<&ShownPassword>, has_colours: bool) -> Vec<String> {
        let marked = |text: &str| {
            if has_colours {
                // Bold and green.
                format!("\u{1b}[1;32m{text}\u{1b}[0m")
            } else {
                text.to_owned()
            }
        };
        let scheme = if self.is_https { "https" } else { "http" };
        let url = format!("{scheme}://{}", self.names.registry);
        let mut lines = vec![format!("Boathouse serves {}", marked(&url))];
        let mut say = |label: &str, text: &str| lines.push(format!("  {}", labelled(label, text)));
        say("configured by", &self.config.display().to_string());
        if !self.names.others.is_empty() {
            say("also called", &self.names.others.join(", "));
        }
        if !self.names.unresolved.is_empty() {
            say("not found", &self.names.unresolved.join(", "));
            say(
                "",
                "  in its certificate, but this machine does not resolve them to itself",
            );
        }
        for name in &self.names.unresolved_asked {
            say(
                "warning",
                &format!(
                    "{name} does not resolve on this machine: clients reach it once the DNS, or their /etc/hosts, has it"
                ),
            );
        }
        if let Some(account) = &self.account {
            say("account", account);
        }
        match (password, &self.password_file) {
            (Some(ShownPassword::Made(password)), _) => {
                say(
                    "password",
                    &format!("{}  (not shown again)", marked(password)),
                );
            }
            (Some(ShownPassword::Given), _) => say("password", "as in BOATHOUSE_ADMIN_PASSWORD"),
            (None, Some(file)) => {
                let file = file.display();
                say(
                    "password",
                    &format!("in {file}; remove the file once you have it"),
                );
            }
            (None, None) => {}
        }
        let again = format!("{} welcome{}", self.program, self.place);
        say("shown again by", &again);
        lines
    }

    /// What is not known otherwise, as one line of the log.
    pub(in crate::cli::command) fn log(&self) {
        let certificate = self.authority.as_ref();
        let certificate = certificate.map(|certificate| certificate.display().to_string());
        let fingerprint = Some(self.fingerprints.join(" ")).filter(|text| !text.is_empty());
        tracing::info!(registry = %self.names.registry, fingerprint, certificate, "serving");
    }

    fn trust_lines(&self) -> Vec<String> {
        let registry = &self.names.registry;
        let (program, place) = (&self.program, &self.place);
        // Brackets of an IPv6 address are a pattern to a shell.
        let remote = shell_word(registry);
        let address = shell_word(&format!("https://{registry}/ca.crt"));
        let mut lines = vec![
            labelled("this machine", &format!("{program} trust{place} --install")),
            labelled(
                "other machines",
                &format!("boathouse trust --remote {remote} --install"),
            ),
            labelled(
                "or by hand",
                &format!(
                    "curl -ko ca.crt {address}; openssl x509 -in ca.crt -noout -fingerprint -sha256"
                ),
            ),
        ];
        let several = self.fingerprints.len() > 1;
        let files = if several {
            // Some clients take one certificate in a file; openssl shows the first one of a file.
            let split = "awk '/BEGIN/ { n++ } { print > (\"ca-\" n \".crt\") }' ca.crt; for file in ca-*.crt; do openssl x509 -in $file -noout -fingerprint -sha256; done";
            lines.push(labelled("", split));
            let numbers = 1..=self.fingerprints.len();
            numbers
                .map(|number| format!("ca-{number}.crt").into())
                .collect()
        } else {
            vec![PathBuf::from("ca.crt")]
        };
        let files = Files {
            all: "ca.crt".into(),
            each: files,
        };
        let only = if several {
            "fingerprints are"
        } else {
            "fingerprint is"
        };
        lines.push(labelled("", &format!("and go on only if the {only}")));
        lines.extend(self.fingerprints.iter().map(|one| labelled("", one)));
        lines.push(labelled("", "with the line for your client:"));
        let names = std::slice::from_ref(registry);
        let ways = clients::anywhere(names, self.fingerprints.len());
        lines.extend(ways.iter().map(|way| way.line(&files, false)));
        let mut told = vec!["Trust its certificates, once on each client:".to_owned()];
        told.extend(lines.iter().map(|line| format!("  {line}")));
        told
    }
}

/// The program, as a word of a shell: its name, if that finds it, or its path.
fn program() -> String {
    const NAME: &str = "boathouse";
    let Ok(own) = std::env::current_exe() else {
        return NAME.to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(NAME))
        .find(|file| file.is_file());
    match found.and_then(|file| file.canonicalize().ok()) {
        Some(found) if found == own => NAME.to_owned(),
        _ => clients::quoted_path(&own),
    }
}

/// The arguments by which a command finds the installation of this config file: none where it looks by itself.
fn place_arguments(config: &Path) -> String {
    let usual = Places::choose(None, &Surroundings::here());
    if usual.is_ok_and(|usual| usual.config == config) {
        return String::new();
    }
    let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    format!(" --config {}", clients::quoted_path(&path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::golden;

    fn welcome() -> Welcome {
        let texts = |all: &[&str]| all.iter().copied().map(str::to_owned).collect();
        Welcome {
            names: Reachable {
                registry: "lab:5443".into(),
                others: texts(&["lab.local:5443", "192.168.1.5:5443"]),
                unresolved: texts(&["lab.corp.example:5443"]),
                unresolved_asked: Vec::new(),
                meant: String::new(),
            },
            is_https: true,
            config: "/srv/my lab/boathouse.yml".into(),
            account: Some("admin".into()),
            password_file: None,
            authority: Some("/srv/my lab/ca.crt".into()),
            fingerprints: vec!["AB:CD".into()],
            program: "boathouse".into(),
            place: " --config '/srv/my lab/boathouse.yml'".into(),
        }
    }

    #[test]
    fn the_whole_text() {
        let password = ShownPassword::Made("correct-horse".into());
        golden("welcome.txt", &welcome().text(Some(&password), false));
        let two = Welcome {
            fingerprints: vec!["AB:CD".into(), "EF:01".into()],
            ..welcome()
        };
        golden("welcome-two-authorities.txt", &two.text(None, false));
    }

    #[test]
    fn what_must_be_kept_stands_last_and_is_marked_on_a_terminal() {
        let password = ShownPassword::Made("correct-horse".into());
        let text = welcome().text(Some(&password), true);
        let (_, kept) = text.split_once("Boathouse serves ").unwrap();
        for marked in ["https://lab:5443", "correct-horse"] {
            assert!(
                kept.contains(&format!("\u{1b}[1;32m{marked}\u{1b}[0m")),
                "{kept}"
            );
        }
        assert!(kept.lines().count() < 10, "{kept}");
        // Later it is not known any more.
        let later = welcome().text(None, false);
        assert!(
            !later.contains("password") && !later.contains('\u{1b}'),
            "{later}"
        );
        let with_file = Welcome {
            password_file: Some("/srv/admin-password".into()),
            ..welcome()
        };
        assert!(
            with_file
                .text(None, false)
                .contains("in /srv/admin-password; remove")
        );
    }

    #[test]
    fn plain_http_without_login_says_neither() {
        let welcome = Welcome {
            is_https: false,
            account: None,
            authority: None,
            fingerprints: Vec::new(),
            ..welcome()
        };
        let text = welcome.text(None, false);
        assert!(text.contains("http://lab:5443"), "{text}");
        assert!(!text.contains("Trust") && !text.contains("login"), "{text}");
    }
}
