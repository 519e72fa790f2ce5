//! Makes a machine's clients trust a registry's authorities: what is missing, and nothing twice.
//!
//! Must not know where the certificates came from, nor ask the user. Invariant: a client is reported as configured only if it is:
//! the result is checked, not the exit code of a program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::clients::{Files, Part, Place, Step, Way, Word};
use super::machine::Machine;
use crate::client::certificates::Authority;
use crate::durable_file;

/// All users may read an authority's certificate.
const MODE: u32 = 0o644;

/// What is installed, and where.
pub(super) struct Installer<'a> {
    pub(super) machine: &'a Machine,
    pub(super) authorities: &'a [Authority],
    /// Files with their certificates, for programs that want a path.
    pub(super) files: &'a Files,
}

impl Installer<'_> {
    /// Whether the client is configured already. What cannot be read counts as missing.
    pub(super) fn is_done(&self, way: &Way) -> bool {
        way.steps.iter().all(|step| match step {
            Step::MakeDirectory(_) => true,
            Step::Copy(part, place) => self
                .machine
                .place(place)
                .and_then(|path| fs::read_to_string(path).ok())
                .is_some_and(|found| found == self.pem(*part)),
            Step::Run(words) => match way.client.bundle() {
                Some(bundle) => self.is_in_bundle(&self.machine.path(bundle)),
                None => self.is_in_keychain(words),
            },
        })
    }

    /// Configures one client.
    pub(super) fn perform(&self, way: &Way) -> anyhow::Result<()> {
        for step in &way.steps {
            match step {
                Step::MakeDirectory(place) => {
                    let path = self.path(place)?;
                    fs::create_dir_all(&path)
                        .with_context(|| format!("cannot make {}", path.display()))?;
                }
                Step::Copy(part, place) => {
                    let path = self.path(place)?;
                    durable_file::replace(&path, self.pem(*part).as_bytes(), MODE)
                        .with_context(|| format!("cannot write {}", path.display()))?;
                }
                Step::Run(words) => self.run_to_its_end(words)?,
            }
        }
        // A program may succeed and do nothing (for another store, or with a certificate that it ignores).
        if !self.is_done(way) {
            bail!("the commands succeeded, but the store does not hold the certificate");
        }
        Ok(())
    }

    fn pem(&self, part: Part) -> String {
        match part {
            Part::All => Authority::bundle(self.authorities),
            Part::One(number) => {
                let authority = self.authorities.get(number);
                authority.map_or_else(String::new, |authority| authority.pem.clone())
            }
        }
    }

    fn path(&self, place: &Place) -> anyhow::Result<PathBuf> {
        let path = self.machine.place(place);
        path.context("there is no home directory\nhint: set HOME")
    }

    fn run_to_its_end(&self, words: &[Word]) -> anyhow::Result<()> {
        let output = self.run(words)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().last().unwrap_or("it printed nothing");
            bail!("`{}` failed: {last}", name(words));
        }
        Ok(())
    }

    fn run(&self, words: &[Word]) -> anyhow::Result<Output> {
        let name = name(words);
        let program = self.machine.program(name);
        let program = program.with_context(|| format!("there is no `{name}` on this machine"))?;
        let mut command = Command::new(program);
        for word in words.iter().skip(1) {
            match word {
                Word::Text(text) => command.arg(text),
                Word::Certificate(number) => {
                    let file = self.files.each.get(*number);
                    command.arg(file.unwrap_or(&self.files.all))
                }
            };
        }
        let output = command.output();
        output.with_context(|| format!("cannot run `{name}`"))
    }

    fn is_in_bundle(&self, bundle: &Path) -> bool {
        let found = CertificateDer::pem_file_iter(bundle);
        let found: Vec<_> = found.into_iter().flatten().filter_map(Result::ok).collect();
        let mut own = self.authorities.iter();
        own.all(|own| found.contains(&own.certificate))
    }

    /// macOS has no file that could be read: the program that adds a certificate also judges one.
    fn is_in_keychain(&self, words: &[Word]) -> bool {
        let certificate = words.last().copied();
        let judge = [Word::Text(name(words))].into_iter().chain(
            ["verify-cert", "-q", "-c"]
                .into_iter()
                .map(Word::Text)
                .chain(certificate),
        );
        let judged = self.run(&judge.collect::<Vec<_>>());
        judged.is_ok_and(|output| output.status.success())
    }
}

/// The program of a command.
fn name(words: &[Word]) -> &'static str {
    match words.first() {
        Some(Word::Text(name)) => name,
        Some(Word::Certificate(_)) | None => "",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::clients;
    use super::*;

    /// A disk with the programs given as scripts.
    struct Disk(tempfile::TempDir);

    impl Disk {
        fn new(programs: &[(&str, &str)]) -> Self {
            let disk = Self(tempfile::tempdir().unwrap());
            for (path, script) in programs {
                let path = disk.path(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            disk
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }
    }

    /// Configures every client of the disk, and returns each with whether that succeeded.
    fn install(disk: &Disk, is_macos: bool, authorities: &[Authority]) -> Vec<(String, bool)> {
        let write = |name: &str, pem: &str| {
            fs::write(disk.path(name), pem).unwrap();
            disk.path(name)
        };
        let numbered = authorities.iter().zip(1..);
        let files = Files {
            all: write("ca.crt", &Authority::bundle(authorities)),
            each: numbered
                .map(|(one, number)| write(&format!("ca-{number}.crt"), &one.pem))
                .collect(),
        };
        let machine = Machine::for_tests(disk.0.path(), false, is_macos);
        let installer = Installer {
            machine: &machine,
            authorities,
            files: &files,
        };
        clients::on(&machine, &["lab.local:5443".to_owned()], authorities.len())
            .iter()
            .map(|way| {
                assert!(!installer.is_done(way), "{way:?}");
                let performed = installer.perform(way);
                assert_eq!(performed.is_ok(), installer.is_done(way), "{performed:?}");
                (way.client.label().to_owned(), performed.is_ok())
            })
            .collect()
    }

    #[test]
    fn directories_are_made_for_docker_and_podman() {
        let disk = Disk::new(&[("usr/bin/docker", ""), ("usr/bin/podman", "")]);
        let authorities = [Authority::for_tests(), Authority::for_tests()];
        let done = install(&disk, false, &authorities);
        assert_eq!(
            done,
            [("docker".into(), true), ("podman, skopeo".into(), true)]
        );
        for path in [
            "etc/docker/certs.d/lab.local:5443/ca.crt",
            "home/ann/.config/containers/certs.d/lab.local:5443/ca.crt",
        ] {
            let found = fs::read_to_string(disk.path(path)).unwrap();
            assert_eq!(found, Authority::bundle(&authorities));
        }
    }

    /// What `update-ca-certificates` and `update-ca-trust` do, as far as it matters here.
    fn collect(anchors: &str, bundle: &str) -> String {
        format!(
            "cd \"$(dirname \"$0\")/../..\" && mkdir -p $(dirname {bundle}) && cat {anchors}/*.crt > {bundle}"
        )
    }

    #[test]
    fn a_system_s_store_is_told() {
        let anchors = "usr/local/share/ca-certificates";
        let bundle = "etc/ssl/certs/ca-certificates.crt";
        let script = collect(anchors, bundle);
        let disk = Disk::new(&[("usr/sbin/update-ca-certificates", &script)]);
        fs::create_dir_all(disk.path(anchors)).unwrap();
        let other = Authority::for_tests();
        fs::write(disk.path(anchors).join("other.crt"), &other.pem).unwrap();
        let authorities = [Authority::for_tests(), Authority::for_tests()];
        let done = install(&disk, false, &authorities);
        assert_eq!(done, [("Debian".into(), true)]);
        for (name, authority) in ["", "-2"].iter().zip(&authorities) {
            let file = disk
                .path(anchors)
                .join(format!("boathouse-lab.local-5443{name}.crt"));
            assert_eq!(fs::read_to_string(file).unwrap(), authority.pem);
        }

        let anchors = "etc/pki/ca-trust/source/anchors";
        let bundle = "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem";
        let script = format!("[ \"$1\" = extract ] && {}", collect(anchors, bundle));
        let disk = Disk::new(&[("usr/bin/update-ca-trust", &script)]);
        fs::create_dir_all(disk.path(anchors)).unwrap();
        assert_eq!(
            install(&disk, false, &authorities),
            [("Fedora".into(), true)]
        );
    }

    #[test]
    fn a_program_that_fails_or_does_nothing_is_not_believed() {
        for script in ["echo no >&2; exit 1", "exit 0"] {
            let disk = Disk::new(&[("usr/sbin/update-ca-certificates", script)]);
            fs::create_dir_all(disk.path("usr/local/share/ca-certificates")).unwrap();
            let done = install(&disk, false, &[Authority::for_tests()]);
            assert_eq!(done, [("Debian".into(), false)], "{script}");
        }
    }

    #[test]
    fn the_keychain_is_told_with_the_certificate_s_path() {
        let script = "cd \"$(dirname \"$0\")\"\n\
            case $1 in\n\
            add-trusted-cert) [ \"$2 $3 $4 $5 $6\" = '-d -r trustRoot -k /Library/Keychains/System.keychain' ] && cp \"$7\" chain ;;\n\
            verify-cert) [ \"$2 $3\" = '-q -c' ] && cmp -s \"$4\" chain ;;\n\
            esac";
        let disk = Disk::new(&[("usr/bin/security", script)]);
        assert_eq!(
            install(&disk, true, &[Authority::for_tests()]),
            [("macOS".into(), true)]
        );
    }
}
