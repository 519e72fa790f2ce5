//! What each kind of client needs to trust an authority: the one description that `up` prints and `trust` prints or performs.
//!
//! Must not touch the disk. Invariant: a line and the steps it stands for cannot differ, since the line is made from them.

use std::path::{Path, PathBuf};

use super::machine::Machine;
use crate::config::shell_word;

/// Where all lines begin that are not about the first.
const LABEL_WIDTH: usize = 16;

/// A kind of client, by where it looks for authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Client {
    /// The docker engine on Linux.
    Docker,
    /// podman, skopeo, buildah and all else that uses containers/image.
    Containers,
    /// Every program on macOS.
    Keychain,
    /// Every program on a system with `update-ca-certificates`.
    Debian,
    /// Every program on a system with `update-ca-trust`.
    Fedora,
}

/// A path, for the machine and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    System(PathBuf),
    /// Below the home directory of the user who runs it.
    Home(PathBuf),
}

/// One change to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Step {
    MakeDirectory(Place),
    /// Puts the certificate there.
    Copy(Place),
    Run(Vec<Word>),
}

/// A word of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Word {
    Text(&'static str),
    /// The path of the certificate.
    Certificate,
}

/// All that one kind of client needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Way {
    pub(in crate::cli) client: Client,
    pub(super) steps: Vec<Step>,
    /// Whether these are places that only root may change.
    needs_root: bool,
}

impl Client {
    const ALL: [Self; 5] = [
        Self::Docker,
        Self::Containers,
        Self::Keychain,
        Self::Debian,
        Self::Fedora,
    ];

    pub(in crate::cli) fn label(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containers => "podman, skopeo",
            Self::Keychain => "macOS",
            Self::Debian => "Debian",
            Self::Fedora => "Fedora",
        }
    }

    fn is_on(self, machine: &Machine) -> bool {
        let has = |name: &str| machine.program(name).is_some();
        match self {
            // Docker Desktop asks the keychain.
            Self::Docker => !machine.is_macos && (has("dockerd") || has("docker")),
            // podman on macOS pulls inside a virtual machine, which sees none of this.
            Self::Containers => {
                has("skopeo") || has("buildah") || (has("podman") && !machine.is_macos)
            }
            Self::Keychain => machine.is_macos,
            Self::Debian => {
                !machine.is_macos
                    && has("update-ca-certificates")
                    && machine.path(DEBIAN_ANCHORS).is_dir()
            }
            Self::Fedora => {
                !machine.is_macos && has("update-ca-trust") && machine.path(FEDORA_ANCHORS).is_dir()
            }
        }
    }

    /// Where its store shows the authorities that are in force, if that is one file.
    pub(super) fn bundle(self) -> Option<&'static str> {
        match self {
            Self::Debian => Some("/etc/ssl/certs/ca-certificates.crt"),
            Self::Fedora => Some("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
            Self::Docker | Self::Containers | Self::Keychain => None,
        }
    }
}

const DEBIAN_ANCHORS: &str = "/usr/local/share/ca-certificates";
const FEDORA_ANCHORS: &str = "/etc/pki/ca-trust/source/anchors";

/// The ways of every kind of client, wherever it runs, for clients that call the registry `registry` (`HOST:PORT`).
pub(in crate::cli) fn anywhere(registry: &str) -> Vec<Way> {
    let ways = Client::ALL.iter();
    ways.map(|client| way(*client, registry, false)).collect()
}

/// The ways of the clients on this machine.
pub(in crate::cli) fn on(machine: &Machine, registry: &str) -> Vec<Way> {
    let here = Client::ALL.iter().filter(|client| client.is_on(machine));
    here.map(|client| way(*client, registry, machine.is_for_everybody))
        .collect()
}

fn way(client: Client, registry: &str, is_for_everybody: bool) -> Way {
    let needs_root = client != Client::Containers || is_for_everybody;
    let steps = match client {
        Client::Docker => certs_d(registry, &Place::system("/etc/docker/certs.d")),
        Client::Containers => certs_d(registry, &containers_directory(is_for_everybody)),
        Client::Keychain => vec![Step::Run(
            [
                "security",
                "add-trusted-cert",
                "-d",
                "-r",
                "trustRoot",
                "-k",
                "/Library/Keychains/System.keychain",
            ]
            .into_iter()
            .map(Word::Text)
            .chain([Word::Certificate])
            .collect(),
        )],
        Client::Debian => vec![
            Step::Copy(Place::system(DEBIAN_ANCHORS).join(&file_name(registry))),
            Step::Run(vec![Word::Text("update-ca-certificates")]),
        ],
        Client::Fedora => vec![
            Step::Copy(Place::system(FEDORA_ANCHORS).join(&file_name(registry))),
            Step::Run(vec![Word::Text("update-ca-trust"), Word::Text("extract")]),
        ],
    };
    Way {
        client,
        steps,
        needs_root,
    }
}

/// Where containers/image looks; of these it takes the first that has a directory for the registry.
pub(super) fn containers_directories() -> [Place; 3] {
    [
        containers_directory(false),
        containers_directory(true),
        Place::system("/etc/docker/certs.d"),
    ]
}

fn containers_directory(is_for_everybody: bool) -> Place {
    if is_for_everybody {
        Place::system("/etc/containers/certs.d")
    } else {
        Place::Home(".config/containers/certs.d".into())
    }
}

fn certs_d(registry: &str, directory: &Place) -> Vec<Step> {
    let names = names_in_references(registry);
    let directories = names.iter().map(|name| directory.join(name));
    directories
        .flat_map(|directory| {
            let file = directory.join("ca.crt");
            [Step::MakeDirectory(directory), Step::Copy(file)]
        })
        .collect()
}

/// How clients may write the registry in an image's name. Without a port they mean 443; a name without a dot is then one on
/// Docker Hub.
pub(super) fn names_in_references(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned()];
    if let Some(host) = registry.strip_suffix(":443")
        && (host.contains(['.', ':']) || host == "localhost")
    {
        names.push(host.to_owned());
    }
    names
}

/// One for each registry, so that two do not overwrite each other, and a new authority of one replaces the old.
fn file_name(registry: &str) -> String {
    let plain = registry.replace(['[', ']'], "").replace(':', "-");
    format!("boathouse-{plain}.crt")
}

impl Place {
    pub(super) fn system(path: &str) -> Self {
        Self::System(path.into())
    }

    pub(super) fn join(&self, name: &str) -> Self {
        match self {
            Self::System(path) => Self::System(path.join(name)),
            Self::Home(path) => Self::Home(path.join(name)),
        }
    }

    /// As a word of a shell.
    fn word(&self) -> String {
        match self {
            Self::System(path) => quoted_path(path),
            Self::Home(path) => format!("~/{}", quoted_path(path)),
        }
    }
}

impl Way {
    /// What to paste into a shell: the label, and the commands.
    pub(in crate::cli) fn line(&self, certificate: &Path, is_root: bool) -> String {
        labelled(self.client.label(), &self.commands(certificate, is_root))
    }

    /// Whether the client trusts the authority under the name it was told with only.
    pub(super) fn is_for_one_name(&self) -> bool {
        matches!(self.client, Client::Docker | Client::Containers)
    }

    /// The commands alone.
    pub(super) fn commands(&self, certificate: &Path, is_root: bool) -> String {
        let sudo = if self.needs_root && !is_root {
            "sudo "
        } else {
            ""
        };
        let certificate = quoted_path(certificate);
        let commands = self.steps.iter().map(|step| match step {
            Step::MakeDirectory(place) => format!("{sudo}mkdir -p {}", place.word()),
            Step::Copy(place) => format!("{sudo}cp {certificate} {}", place.word()),
            Step::Run(words) => {
                let words = words.iter().map(|word| match word {
                    Word::Text(text) => text,
                    Word::Certificate => certificate.as_str(),
                });
                format!("{sudo}{}", words.collect::<Vec<_>>().join(" "))
            }
        });
        commands.collect::<Vec<_>>().join("; ")
    }
}

/// For programs that are told by their environment: OpenSSL's and Go's on Linux.
pub(in crate::cli) fn line_for_one_program(certificate: &Path) -> String {
    let command = format!("export SSL_CERT_FILE={}", quoted_path(certificate));
    labelled("one program", &command)
}

/// A line of the table.
pub(in crate::cli) fn labelled(label: &str, text: &str) -> String {
    format!("{label:LABEL_WIDTH$}{text}")
}

pub(in crate::cli) fn quoted_path(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::golden::golden;

    fn lines(ways: &[Way], is_root: bool) -> Vec<String> {
        let certificate = Path::new("/srv/my lab/ca.crt");
        ways.iter()
            .map(|way| way.line(certificate, is_root))
            .collect()
    }

    #[test]
    fn the_lines_for_every_kind_of_client() {
        let lines = lines(&anywhere("lab.local:5443"), false);
        golden("trust-lines.txt", &(lines.join("\n") + "\n"));
    }

    #[test]
    fn a_name_that_needs_no_port_is_trusted_without_it_too() {
        assert_eq!(names_in_references("lab:443"), ["lab:443"]);
        assert_eq!(names_in_references("a.b:443"), ["a.b:443", "a.b"]);
        assert_eq!(names_in_references("[::1]:443"), ["[::1]:443", "[::1]"]);
        assert_eq!(names_in_references("a.b:5443"), ["a.b:5443"]);
        assert_eq!(file_name("[::1]:443"), "boathouse---1-443.crt");
    }

    #[test]
    fn only_what_is_here_is_told_and_root_needs_no_sudo() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let here = |is_root, is_macos| {
            let machine = Machine::for_tests(root.path(), is_root, is_macos);
            on(&machine, "lab:5443")
        };
        assert_eq!(here(true, false), []);
        put("usr/bin/skopeo");
        put("usr/sbin/update-ca-certificates");
        let labels = |ways: &[Way]| {
            let labels = ways.iter().map(|way| way.client.label());
            labels.collect::<Vec<_>>().join(" | ")
        };
        assert_eq!(labels(&here(true, false)), "podman, skopeo");
        put("usr/local/share/ca-certificates/other.crt");
        put("usr/bin/dockerd");
        assert_eq!(
            labels(&here(true, false)),
            "docker | podman, skopeo | Debian"
        );
        assert_eq!(labels(&here(true, true)), "podman, skopeo | macOS");
        let podman = lines(&here(true, false), true)[1].clone();
        assert!(podman.contains(" mkdir -p /etc/containers/certs.d/lab:5443"));
        assert!(!podman.contains("sudo"));
    }
}
