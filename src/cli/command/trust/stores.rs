//! What this machine's clients trust now.
//!
//! Must not change anything. Invariant: the answer is about this machine as its clients see it: the same files, in the same
//! order.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::clients::{self, Client};
use super::machine::Machine;

/// A place where clients look for authorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Store {
    /// That of the system, for all programs; on macOS the keychain.
    System,
    Docker,
    Containers,
}

impl Store {
    pub(in crate::cli) const ALL: [Self; 3] = [Self::System, Self::Docker, Self::Containers];

    pub(in crate::cli) fn label(self) -> &'static str {
        match self {
            Self::System => "the system's store",
            Self::Docker => "docker's certs.d",
            Self::Containers => "podman's certs.d",
        }
    }

    /// What it holds for the registry. A certificate that cannot be read counts for nothing, as it does for clients.
    pub(in crate::cli) fn roots(self, machine: &Machine, registry: &str) -> RootCertStore {
        let certificates = match self {
            Self::System if machine.is_running() => rustls_native_certs::load_native_certs().certs,
            Self::System => {
                let bundles = [Client::Debian, Client::Fedora];
                let bundles = bundles.iter().filter_map(|client| client.bundle());
                bundles
                    .flat_map(|bundle| certificates_in(&machine.path(bundle)))
                    .collect()
            }
            Self::Docker => {
                let docker = machine.path("/etc/docker/certs.d");
                let names = clients::names_in_references(registry);
                let directories = names.iter().map(|name| docker.join(name));
                directories
                    .flat_map(|directory| certificates_below(&directory))
                    .collect()
            }
            Self::Containers => {
                let places = clients::containers_directories();
                let names = clients::names_in_references(registry);
                let of_name = |name: &String| {
                    let mut directories = places
                        .iter()
                        .filter_map(|place| machine.place(&place.join(name)));
                    // The first that exists is the only one that is read.
                    directories.find(|directory| directory.is_dir())
                };
                let directories = names.iter().filter_map(of_name);
                directories
                    .flat_map(|directory| certificates_below(&directory))
                    .collect()
            }
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates);
        roots
    }
}

/// The clients on this machine to which these stores say nothing of the registry.
pub(in crate::cli) fn left_out(
    machine: &Machine,
    registry: &str,
    trusting: &[Store],
) -> Vec<Client> {
    let is_left_out = |client: &Client| match client {
        Client::Keychain | Client::Debian | Client::Fedora => !trusting.contains(&Store::System),
        // Both look into the system's store too.
        Client::Docker => ![Store::System, Store::Docker]
            .iter()
            .any(|store| trusting.contains(store)),
        Client::Containers => ![Store::System, Store::Containers]
            .iter()
            .any(|store| trusting.contains(store)),
    };
    let ways = clients::on(machine, &[registry.to_owned()], 1);
    let here = ways.iter().map(|way| way.client);
    here.filter(is_left_out).collect()
}

fn certificates_in(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file)
        .map(|found| found.filter_map(Result::ok).collect())
        .unwrap_or_default()
}

fn certificates_below(directory: &Path) -> Vec<CertificateDer<'static>> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_authority = |path: &PathBuf| path.extension().is_some_and(|name| name == "crt");
    paths
        .filter(is_authority)
        .flat_map(|path| certificates_in(&path))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pem() -> String {
        let own = rcgen::generate_simple_self_signed(["lab".to_owned()]).unwrap();
        own.cert.pem()
    }

    /// How many authorities each store has for `lab:5443`, on a disk with these files.
    fn found(files: &[(&str, String)]) -> [usize; 3] {
        let disk = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = disk.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::for_tests(disk.path(), false, false);
        Store::ALL.map(|store| store.roots(&machine, "lab:5443").len())
    }

    #[test]
    fn each_store_has_its_own_files() {
        assert_eq!(found(&[]), [0, 0, 0]);
        let two = pem() + &pem();
        assert_eq!(
            found(&[("etc/ssl/certs/ca-certificates.crt", two)]),
            [2, 0, 0]
        );
        let fedora = "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem";
        assert_eq!(found(&[(fedora, pem())]), [1, 0, 0]);
        let containers = "etc/containers/certs.d/lab:5443/any.crt";
        assert_eq!(found(&[(containers, pem())]), [0, 0, 1]);
        for not_an_authority in ["client.cert", "client.key", "ca.pem"] {
            let path = format!("etc/docker/certs.d/lab:5443/{not_an_authority}");
            assert_eq!(found(&[(&path, pem())]), [0, 0, 0]);
        }
        assert_eq!(
            found(&[("etc/docker/certs.d/other:5443/ca.crt", pem())]),
            [0, 0, 0]
        );
    }

    #[test]
    fn podman_looks_into_docker_s_directory_but_into_one_directory_only() {
        let docker = ("etc/docker/certs.d/lab:5443/ca.crt", pem());
        assert_eq!(found(std::slice::from_ref(&docker)), [0, 1, 1]);
        let own = (
            "home/ann/.config/containers/certs.d/lab:5443/note",
            String::new(),
        );
        assert_eq!(
            found(&[docker, own]),
            [0, 1, 0],
            "its own directory hides the other"
        );
    }
}
