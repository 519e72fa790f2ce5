//! Removes from a machine what `install` put there.
//!
//! Must not know the registry's names: they may have changed since. Invariant: a file is removed only if every certificate in it
//! is one of the given authorities, and a directory only if it is empty then.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::clients::{self, Client, DEBIAN_ANCHORS, DEBIAN_UPDATE, FEDORA_ANCHORS, FEDORA_UPDATE};
use super::machine::Machine;
use crate::client::certificates::Authority;

/// Where Debian links to the certificates of its store, under the same name with another ending.
const DEBIAN_LINKS: &str = "/etc/ssl/certs";

/// Keeps Java's store in step with Debian's. It reads `-PATH` for each link that was removed; `update-ca-certificates` writes
/// that only for certificates of packages.
const JAVA_HOOK: &str = "/etc/ca-certificates/update.d/jks-keystore";

/// What is removed, and where.
pub(super) struct Remover<'a> {
    pub(super) machine: &'a Machine,
    pub(super) authorities: &'a [Authority],
}

/// The files that hold these authorities, by kind of store.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// `ca.crt` in directories of docker and of containers/image.
    of_clients: Vec<PathBuf>,
    debian: Vec<PathBuf>,
    fedora: Vec<PathBuf>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.of_clients
            .iter()
            .chain(&self.debian)
            .chain(&self.fedora)
    }
}

/// The certificate file, and those that `up --new-ca` has set aside.
pub(super) fn with_earlier(certificate: &Path) -> Vec<PathBuf> {
    let mut files = vec![certificate.to_owned()];
    let name = certificate
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let earlier = format!("{name}.old-");
    files.extend(files_in(
        crate::durable_file::directory_of(certificate),
        |name| name.starts_with(&earlier),
    ));
    files
}

impl Remover<'_> {
    pub(super) fn find(&self) -> Found {
        let mut found = Found::default();
        for place in clients::containers_directories() {
            let Some(directory) = self.machine.place(&place) else {
                continue;
            };
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let files = entries.map(|entry| entry.path().join("ca.crt"));
            found
                .of_clients
                .extend(files.filter(|file| self.holds_only_these(file)));
        }
        found.of_clients.sort();
        found.debian = self.anchors(DEBIAN_ANCHORS);
        found.fedora = self.anchors(FEDORA_ANCHORS);
        found
    }

    fn anchors(&self, directory: &str) -> Vec<PathBuf> {
        let mut files = files_in(&self.machine.path(directory), |name| {
            name.starts_with(clients::OWN_PREFIX)
        });
        files.retain(|file| self.holds_only_these(file));
        files
    }

    fn holds_only_these(&self, file: &Path) -> bool {
        let is_ours = |certificate: &CertificateDer<'_>| {
            let mut own = self.authorities.iter();
            own.any(|authority| authority.certificate == *certificate)
        };
        let Ok(certificates) = CertificateDer::pem_file_iter(file) else {
            return false;
        };
        let certificates: Result<Vec<_>, _> = certificates.collect();
        certificates.is_ok_and(|all| !all.is_empty() && all.iter().all(is_ours))
    }

    pub(super) fn remove(&self, found: &Found) -> anyhow::Result<()> {
        for file in found.paths() {
            fs::remove_file(file).map_err(|error| {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => "\nhint: run this as root",
                    _ => "",
                };
                let file = file.display();
                anyhow::Error::new(error).context(format!("cannot remove {file}{hint}"))
            })?;
        }
        for file in &found.of_clients {
            // A directory with other files, such as a client's certificate, stays.
            let _ = fs::remove_dir(crate::durable_file::directory_of(file));
        }
        if !found.debian.is_empty() {
            self.run(&DEBIAN_UPDATE, Client::Debian)?;
            self.tell_java(&found.debian)?;
        }
        if !found.fedora.is_empty() {
            self.run(&FEDORA_UPDATE, Client::Fedora)?;
        }
        Ok(())
    }

    /// Has the store collected again, and looks whether the authorities are out of it.
    fn run(&self, words: &[&str], client: Client) -> anyhow::Result<()> {
        let [name, arguments @ ..] = words else {
            return Ok(());
        };
        let program = self.machine.program(name);
        let program = program.with_context(|| format!("there is no `{name}` on this machine"))?;
        let output = Command::new(program)
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run `{name}`"))?;
        let bundle = client.bundle().map(|bundle| self.machine.path(bundle));
        let is_in = bundle.is_some_and(|bundle| {
            let found = CertificateDer::pem_file_iter(bundle).into_iter().flatten();
            let mut found = found.filter_map(Result::ok);
            found.any(|found| self.authorities.iter().any(|own| own.certificate == found))
        });
        if !output.status.success() || is_in {
            bail!("`{name}` has not removed the authority from the store of this machine");
        }
        Ok(())
    }

    fn tell_java(&self, removed: &[PathBuf]) -> anyhow::Result<()> {
        let hook = self.machine.path(JAVA_HOOK);
        if !hook.exists() {
            return Ok(());
        }
        let mut child = Command::new(&hook)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", hook.display()))?;
        if let Some(mut input) = child.stdin.take() {
            for file in removed {
                let link = Path::new(DEBIAN_LINKS).join(file.file_name().unwrap_or_default());
                writeln!(input, "-{}", link.with_extension("pem").display())?;
            }
        }
        if !child.wait()?.success() {
            bail!(
                "{} has not removed the authority from Java's store",
                hook.display()
            );
        }
        Ok(())
    }
}

fn files_in(directory: &Path, is_named: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named = entries.filter(|entry| is_named(&entry.file_name().to_string_lossy()));
    let mut files: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_installed_is_removed_and_nothing_else() {
        let disk = tempfile::tempdir().unwrap();
        let path = |path: &str| disk.path().join(path);
        let put = |name: &str, text: &str| {
            let file = path(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
        };
        let script = |name: &str, text: &str| {
            put(
                name,
                &format!("#!/bin/sh\ncd {}\n{text}\n", disk.path().display()),
            );
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        let (own, other) = (Authority::for_tests(), Authority::for_tests());
        let both = Authority::bundle(&[own.clone(), other.clone()]);
        let gone = [
            "etc/docker/certs.d/lab:5443/ca.crt",
            "etc/docker/certs.d/10.0.0.5:5443/ca.crt",
            "etc/containers/certs.d/lab:5443/ca.crt",
            "home/ann/.config/containers/certs.d/lab:5443/ca.crt",
            "usr/local/share/ca-certificates/boathouse-lab-5443.crt",
        ];
        for file in gone {
            put(file, &own.pem);
        }
        let kept = [
            ("etc/docker/certs.d/other:5443/ca.crt", &other.pem),
            ("etc/docker/certs.d/both:5443/ca.crt", &both),
            ("usr/local/share/ca-certificates/mine.crt", &own.pem),
            (
                "usr/local/share/ca-certificates/boathouse-other-5443.crt",
                &other.pem,
            ),
        ];
        for (file, text) in kept {
            put(file, text);
        }
        put("etc/docker/certs.d/10.0.0.5:5443/client.key", "");
        script(
            "usr/sbin/update-ca-certificates",
            "[ \"$1\" = --fresh ] && mkdir -p etc/ssl/certs && cat usr/local/share/ca-certificates/boathouse-*.crt >etc/ssl/certs/ca-certificates.crt",
        );
        script("etc/ca-certificates/update.d/jks-keystore", "cat >java");
        let machine = Machine::for_tests(disk.path(), false, false);
        let authorities = [own.clone()];
        let remover = Remover {
            machine: &machine,
            authorities: &authorities,
        };
        let found = remover.find();
        let mut files: Vec<_> = found.paths().cloned().collect();
        files.sort();
        let mut expected = gone.map(path);
        expected.sort();
        assert_eq!(files, expected);
        remover.remove(&found).unwrap();
        for file in gone {
            assert!(!path(file).exists(), "{file}");
        }
        for (file, _) in kept {
            assert!(path(file).exists(), "{file}");
        }
        assert!(!path("etc/docker/certs.d/lab:5443").exists());
        assert!(path("etc/docker/certs.d/10.0.0.5:5443/client.key").exists());
        let java = fs::read_to_string(path("java")).unwrap();
        assert_eq!(java, "-/etc/ssl/certs/boathouse-lab-5443.pem\n");
        assert!(remover.find().is_empty());
    }
}
