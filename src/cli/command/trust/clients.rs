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
    /// Puts certificates there.
    Copy(Part, Place),
    Run(Vec<Word>),
}

/// Which certificates of a registry's authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Part {
    All,
    /// One, counted from 0: some stores take one certificate in a file.
    One(usize),
}

/// A word of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Word {
    Text(&'static str),
    /// The path of a file with one authority's certificate.
    Certificate(usize),
}

/// Files that hold the certificates of a registry's authorities.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Files {
    pub(in crate::cli) all: PathBuf,
    /// One file for each authority.
    pub(in crate::cli) each: Vec<PathBuf>,
}

/// All that one kind of client needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Way {
    pub(in crate::cli) client: Client,
    pub(super) steps: Vec<Step>,
    /// Whether these are places that only root may change.
    pub(super) needs_root: bool,
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

pub(super) const DEBIAN_ANCHORS: &str = "/usr/local/share/ca-certificates";
pub(super) const FEDORA_ANCHORS: &str = "/etc/pki/ca-trust/source/anchors";
/// Without `--fresh`, links to a removed certificate stay, and one that was replaced under the same name is not linked anew.
pub(super) const DEBIAN_UPDATE: [&str; 2] = ["update-ca-certificates", "--fresh"];
pub(super) const FEDORA_UPDATE: [&str; 2] = ["update-ca-trust", "extract"];
pub(super) const KEYCHAIN: &str = "/Library/Keychains/System.keychain";
const DOCKER_DIRECTORY: &str = "/etc/docker/certs.d";

/// The ways of every kind of client, wherever it runs, for clients that call the registry by these names (`HOST:PORT`), which
/// has so many authorities.
pub(in crate::cli) fn anywhere(names: &[String], authorities: usize) -> Vec<Way> {
    let ways = Client::ALL.iter();
    ways.map(|client| way(*client, names, authorities, false))
        .collect()
}

/// The ways of the clients on this machine.
pub(in crate::cli) fn on(machine: &Machine, names: &[String], authorities: usize) -> Vec<Way> {
    let here = Client::ALL.iter().filter(|client| client.is_on(machine));
    here.map(|client| way(*client, names, authorities, machine.is_for_everybody))
        .collect()
}

fn way(client: Client, names: &[String], authorities: usize, is_for_everybody: bool) -> Way {
    let needs_root = client != Client::Containers || is_for_everybody;
    let steps = match client {
        Client::Docker => certs_d(names, &Place::system(DOCKER_DIRECTORY)),
        Client::Containers => certs_d(names, &containers_directory(is_for_everybody)),
        Client::Keychain => {
            let add = [
                "security",
                "add-trusted-cert",
                "-d",
                "-r",
                "trustRoot",
                "-k",
                KEYCHAIN,
            ];
            let add = |authority| {
                let words = add.map(Word::Text).into_iter();
                Step::Run(words.chain([Word::Certificate(authority)]).collect())
            };
            (0..authorities).map(add).collect()
        }
        Client::Debian => anchors(DEBIAN_ANCHORS, names, authorities, &DEBIAN_UPDATE),
        Client::Fedora => anchors(FEDORA_ANCHORS, names, authorities, &FEDORA_UPDATE),
    };
    Way {
        client,
        steps,
        needs_root,
    }
}

/// A store of the system: a file for each authority, since tools of these systems take one certificate in a file.
fn anchors(
    directory: &str,
    names: &[String],
    authorities: usize,
    update: &[&'static str],
) -> Vec<Step> {
    let directory = Place::system(directory);
    let copy = |authority| {
        let file = directory.join(&file_name(names, authority));
        Step::Copy(Part::One(authority), file)
    };
    let update = update.iter().copied().map(Word::Text).collect();
    (0..authorities)
        .map(copy)
        .chain([Step::Run(update)])
        .collect()
}

/// Where containers/image looks; of these it takes the first that has a directory for the registry.
pub(super) fn containers_directories() -> [Place; 3] {
    [
        containers_directory(false),
        containers_directory(true),
        Place::system(DOCKER_DIRECTORY),
    ]
}

fn containers_directory(is_for_everybody: bool) -> Place {
    if is_for_everybody {
        Place::system("/etc/containers/certs.d")
    } else {
        Place::Home(".config/containers/certs.d".into())
    }
}

fn certs_d(names: &[String], directory: &Place) -> Vec<Step> {
    let names = names.iter().flat_map(|name| names_in_references(name));
    let directories: Vec<Place> = names.map(|name| directory.join(&name)).collect();
    let made = directories.iter().cloned().map(Step::MakeDirectory);
    let copied = directories.iter().map(|directory| {
        let file = directory.join("ca.crt");
        Step::Copy(Part::All, file)
    });
    made.chain(copied).collect()
}

/// How clients may write the registry in an image's name. Without a port they mean 443; a name without a dot is then one on
/// Docker Hub.
pub(in crate::cli) fn names_in_references(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned()];
    if let Some(host) = registry.strip_suffix(":443")
        && (host.contains(['.', ':']) || host == "localhost")
    {
        names.push(host.to_owned());
    }
    names
}

/// One for each authority of a registry, so that two registries do not overwrite each other, and a new authority of one replaces
/// the old.
fn file_name(names: &[String], authority: usize) -> String {
    let registry = names.first().map_or("", String::as_str);
    let plain = registry.replace(['[', ']'], "").replace(':', "-");
    let number = match authority {
        0 => String::new(),
        more => format!("-{}", more + 1),
    };
    format!("{OWN_PREFIX}{plain}{number}.crt")
}

/// What names of our files in a system's store begin with.
pub(super) const OWN_PREFIX: &str = "boathouse-";

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
    pub(in crate::cli) fn line(&self, files: &Files, is_root: bool) -> String {
        labelled(self.client.label(), &self.commands(files, is_root))
    }

    /// Whether every program on the machine then trusts the authority, and not one kind of client for this registry only.
    pub(super) fn is_for_every_program(&self) -> bool {
        match self.client {
            Client::Docker | Client::Containers => false,
            Client::Keychain | Client::Debian | Client::Fedora => true,
        }
    }

    /// The commands alone.
    pub(super) fn commands(&self, files: &Files, is_root: bool) -> String {
        let sudo = if self.needs_root && !is_root {
            "sudo "
        } else {
            ""
        };
        let file = |part: Part| match part {
            Part::All => quoted_path(&files.all),
            Part::One(authority) => {
                let file = files.each.get(authority);
                quoted_path(file.unwrap_or(&files.all))
            }
        };
        let made = self.steps.iter().filter_map(|step| match step {
            Step::MakeDirectory(place) => Some(place.word()),
            Step::Copy(..) | Step::Run(_) => None,
        });
        let made: Vec<String> = made.collect();
        let copied = self.steps.iter().filter_map(|step| match step {
            Step::Copy(Part::All, place) => Some(place.word()),
            Step::Copy(Part::One(_), _) | Step::MakeDirectory(_) | Step::Run(_) => None,
        });
        let copied: Vec<String> = copied.collect();
        let mut commands = Vec::new();
        if !made.is_empty() {
            commands.push(format!("{sudo}mkdir -p {}", made.join(" ")));
        }
        match copied.as_slice() {
            [] => {}
            [to] => commands.push(format!("{sudo}cp {} {to}", file(Part::All))),
            several => commands.push(format!(
                "for file in {}; do {sudo}cp {} \"$file\"; done",
                several.join(" "),
                file(Part::All)
            )),
        }
        for step in &self.steps {
            match step {
                Step::Copy(part @ Part::One(_), place) => {
                    commands.push(format!("{sudo}cp {} {}", file(*part), place.word()));
                }
                Step::Run(words) => {
                    let words = words.iter().map(|word| match word {
                        Word::Text(text) => (*text).to_owned(),
                        Word::Certificate(authority) => file(Part::One(*authority)),
                    });
                    let words: Vec<String> = words.collect();
                    commands.push(format!("{sudo}{}", words.join(" ")));
                }
                Step::MakeDirectory(_) | Step::Copy(Part::All, _) => {}
            }
        }
        commands.join("; ")
    }
}

/// For programs that read the variable: those of OpenSSL and Go on Linux.
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

    fn lines(ways: &[Way], authorities: usize, is_root: bool) -> Vec<String> {
        let numbered =
            (1..=authorities).map(|number| format!("/srv/my lab/ca-{number}.crt").into());
        let all = Path::new("/srv/my lab/ca.crt").to_owned();
        let files = Files {
            each: if authorities == 1 {
                vec![all.clone()]
            } else {
                numbered.collect()
            },
            all,
        };
        ways.iter().map(|way| way.line(&files, is_root)).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().copied().map(str::to_owned).collect()
    }

    #[test]
    fn the_lines_for_every_kind_of_client() {
        let one = anywhere(&names(&["lab.local:5443"]), 1);
        let several = anywhere(&names(&["lab.local:443", "10.0.0.5:443", "[::1]:443"]), 2);
        let lines = [lines(&one, 1, false), lines(&several, 2, false)].concat();
        golden("trust-lines.txt", &(lines.join("\n") + "\n"));
    }

    #[test]
    fn a_name_that_needs_no_port_is_trusted_without_it_too() {
        assert_eq!(names_in_references("lab:443"), ["lab:443"]);
        assert_eq!(names_in_references("a.b:443"), ["a.b:443", "a.b"]);
        assert_eq!(names_in_references("[::1]:443"), ["[::1]:443", "[::1]"]);
        assert_eq!(names_in_references("a.b:5443"), ["a.b:5443"]);
        let name = names(&["[::1]:443"]);
        assert_eq!(file_name(&name, 0), "boathouse---1-443.crt");
        assert_eq!(file_name(&name, 1), "boathouse---1-443-2.crt");
    }

    #[test]
    fn only_clients_of_this_machine_are_named_and_root_needs_no_sudo() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let here = |is_root, is_macos| {
            let machine = Machine::for_tests(root.path(), is_root, is_macos);
            on(&machine, &names(&["lab:5443"]), 1)
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
        let podman = lines(&here(true, false), 1, true)[1].clone();
        assert!(podman.contains(" mkdir -p /etc/containers/certs.d/lab:5443"));
        assert!(!podman.contains("sudo"));
    }
}
