//! What a person needs next: where it listens, how to log in, how to trust it, the first push.
//!
//! Must not know where these come from. Invariant: every command can be pasted into a shell as it stands.

use std::path::PathBuf;

use crate::cli::command::trust::clients::{self, labelled};
use crate::config::shell_word;

/// What is said at every start.
#[derive(Debug, Clone)]
pub(in crate::cli::command) struct Welcome {
    /// `HOST:PORT` as clients write it.
    pub(in crate::cli::command) registry: String,
    pub(in crate::cli::command) is_https: bool,
    pub(in crate::cli::command) config: PathBuf,
    /// The account to log in with; `None` where no login is needed.
    pub(in crate::cli::command) account: Option<String>,
    /// Our own authority; `None` with the user's certificate or plain HTTP.
    pub(in crate::cli::command) authority: Option<Authority>,
}

/// The authority to trust.
#[derive(Debug, Clone)]
pub(in crate::cli::command) struct Authority {
    pub(in crate::cli::command) certificate: PathBuf,
    pub(in crate::cli::command) fingerprint: String,
}

impl Welcome {
    /// The lines, for stderr.
    pub(in crate::cli::command) fn text(&self) -> String {
        let registry = &self.registry;
        let scheme = if self.is_https { "https" } else { "http" };
        let mut lines = vec![
            String::new(),
            format!("Boathouse serves {scheme}://{registry}"),
            format!("  configured by {}", self.config.display()),
        ];
        if let Some(authority) = &self.authority {
            lines.extend(self.trust_lines(authority));
        }
        if let Some(account) = &self.account {
            lines.push("Log in:".to_owned());
            lines.push(format!(
                "  docker login --username {} {registry}",
                shell_word(account)
            ));
        }
        lines.push("The first push:".to_owned());
        lines.push(format!(
            "  docker tag alpine {registry}/alpine; docker push {registry}/alpine"
        ));
        lines.push(String::new());
        lines.join("\n")
    }

    /// What is not known otherwise, as one line of the log.
    pub(in crate::cli::command) fn log(&self) {
        let authority = self.authority.as_ref();
        let fingerprint = authority.map(|authority| authority.fingerprint.as_str());
        let certificate = authority.map(|authority| authority.certificate.display().to_string());
        tracing::info!(registry = %self.registry, fingerprint, certificate, "serving");
    }

    fn trust_lines(&self, authority: &Authority) -> Vec<String> {
        let registry = &self.registry;
        let certificate = &authority.certificate;
        let mut lines: Vec<String> = clients::anywhere(registry)
            .iter()
            .map(|way| way.line(certificate, false))
            .collect();
        lines.push(clients::line_for_one_program(certificate));
        // Brackets of an IPv6 address are a pattern to a shell.
        let remote = shell_word(registry);
        let address = shell_word(&format!("https://{registry}/ca.crt"));
        lines.extend([
            labelled(
                "other machines",
                &format!("boathouse trust --remote {remote} --install"),
            ),
            labelled(
                "or",
                &format!(
                    "curl -ko ca.crt {address}; openssl x509 -in ca.crt -noout -fingerprint -sha256"
                ),
            ),
            labelled("", "and go on only if the fingerprint is"),
            labelled("", &authority.fingerprint),
        ]);
        let mut told = vec!["Trust its certificates, once on each client:".to_owned()];
        told.extend(lines.iter().map(|line| format!("  {line}")));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::golden;

    #[test]
    fn the_whole_text() {
        let welcome = Welcome {
            registry: "lab.local:5443".into(),
            is_https: true,
            config: "/srv/lab/boathouse.yml".into(),
            account: Some("admin".into()),
            authority: Some(Authority {
                certificate: "/srv/my lab/ca.crt".into(),
                fingerprint: "AB:CD".into(),
            }),
        };
        golden("welcome.txt", &welcome.text());
    }

    #[test]
    fn plain_http_without_login_says_neither() {
        let welcome = Welcome {
            registry: "lab:5000".into(),
            is_https: false,
            config: "/c.yml".into(),
            account: None,
            authority: None,
        };
        let text = welcome.text();
        assert!(
            text.contains("http://lab:5000") && !text.contains("Trust") && !text.contains("login")
        );
    }
}
