//! `boathouse trust`: prints, or does, what the clients on this machine need to trust a registry's authority.
//!
//! Must not know what a client needs (`clients`) nor how that is done and undone (`install`, `remove`). Invariant: nothing
//! outside our own files is changed unless somebody agreed to it or `--yes` said so; an authority from another machine counts
//! for nothing until its fingerprint was compared.

pub(super) mod clients;
mod fingerprint;
mod install;
pub(super) mod machine;
pub(super) mod person;
mod profile;
mod remote;
mod remove;
pub(super) mod stores;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use self::clients::{Files, Way};
use self::fingerprint::Fingerprint;
use self::install::Installer;
use self::machine::Machine;
use self::person::{AtTerminal, Person};
use self::remove::Remover;
use crate::cli::installation::{Installation, Where, configured_names};
use crate::cli::talk;
use crate::client::certificates::{Authority, Leaf};
use crate::client::http::{self as client, Server};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::durable_file;
use crate::host_port::HostPort;
use crate::instance::places::{self, Surroundings};
use crate::tls;

/// `boathouse trust`
#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// Trust the registry on another machine; its fingerprints are shown and must be compared
    #[arg(long, value_name = "HOST[:PORT]", value_parser = client::parse_registry)]
    remote: Option<HostPort>,
    /// The fingerprint that an authority of the remote registry must have, instead of a question; may be repeated, and
    /// authorities with another fingerprint are not trusted
    #[arg(long, value_name = "AB:CD:…", requires = "remote")]
    fingerprint: Vec<Fingerprint>,
    /// What clients on this machine call the registry, besides the names in its certificate (may be repeated)
    #[arg(long, value_name = "HOST[:PORT]", value_parser = client::parse_registry)]
    name: Vec<HostPort>,
    /// Write a configuration profile for macOS (a new file), and do nothing else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["install", "remove"])]
    mobileconfig: Option<PathBuf>,
    /// Do it, instead of printing what to do
    #[arg(long)]
    install: bool,
    /// Remove what --install made for this registry
    #[arg(long, conflicts_with_all = ["install", "fingerprint", "name"])]
    remove: bool,
    /// Change this machine without asking
    #[arg(long)]
    yes: bool,
    /// Install an authority that may sign for any name or address too; without it that is asked, or refused
    #[arg(long, requires = "install")]
    unlimited_authority: bool,
    /// Work on the disk below this directory instead of on the running system
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

/// The authorities that are to be trusted, and under which names.
struct Subject {
    /// At least one.
    authorities: Vec<Authority>,
    /// Files that hold them.
    files: Files,
    /// `HOST:PORT`, the best first.
    names: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let machine = Machine::below(arguments.root.as_deref());
    let person = AtTerminal;
    if arguments.remove {
        return remove(arguments, &machine, &person);
    }
    let mut subject = match &arguments.remote {
        Some(registry) => there(registry, &arguments.fingerprint, &machine, &person)?,
        None => here(arguments, &machine)?,
    };
    for name in arguments.name.iter().map(ToString::to_string) {
        if !subject.names.contains(&name) {
            subject.names.push(name);
        }
    }
    for authority in &subject.authorities {
        talk::line("The fingerprint of the authority is");
        talk::line(format_args!("  {}", authority.fingerprint()));
        talk::line("It may sign for");
        talk::line(format_args!("  {}", authority.scope));
    }
    if !arguments.install && !subject.is_limited() {
        talk::line(format_args!("warning: {UNLIMITED}"));
    }
    if let Some(file) = &arguments.mobileconfig {
        return write_profile(file, &subject);
    }
    let mut out = io::stdout().lock();
    let ways = clients::on(&machine, &subject.names, subject.authorities.len());
    if !arguments.install {
        talk::written(print(&ways, &subject, &machine, &mut out))?;
        return Ok(ExitCode::SUCCESS);
    }
    let installer = Installer {
        machine: &machine,
        authorities: &subject.authorities,
        files: &subject.files,
    };
    if !arguments.unlimited_authority && !subject.is_limited() {
        agree_to_scope(&installer, &ways, arguments.yes, &person)?;
    }
    install(&installer, &ways, arguments.yes, &person, &mut out)
}

impl Subject {
    fn is_limited(&self) -> bool {
        self.authorities.iter().all(|one| one.scope.is_limited())
    }
}

/// Writes the profile for macOS. A file that exists may be another authority's, so it is kept.
fn write_profile(file: &Path, subject: &Subject) -> anyhow::Result<ExitCode> {
    let name = subject
        .names
        .first()
        .map_or("this registry", String::as_str);
    let text = profile::text(&subject.authorities, name);
    durable_file::create(file, text.as_bytes(), 0o644).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "\nhint: no file is replaced: name a new one, or remove this one first"
            }
            _ => "",
        };
        anyhow::Error::new(error).context(format!("cannot write {}{hint}", file.display()))
    })?;
    talk::line(format_args!(
        "wrote {}. On each Mac: `open` it, then install it in System Settings, General, Device Management; or give it to your device management",
        file.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// What it means to trust such an authority.
const UNLIMITED: &str = "this authority has no name constraints for names or for addresses: with its key, anyone can impersonate any site to every program on this machine that trusts it";

/// An authority that may sign for anything is installed only if somebody said so who knows that.
fn agree_to_scope(
    installer: &Installer<'_>,
    ways: &[Way],
    is_agreed: bool,
    person: &dyn Person,
) -> anyhow::Result<()> {
    if ways.iter().all(|way| installer.is_done(way)) {
        return Ok(());
    }
    if is_agreed || !person.is_there() {
        bail!(
            "{UNLIMITED}; nothing was changed\nhint: with `tls: auto` and `boathouse up --new-ca`, the registry makes an authority for its own names only; --unlimited-authority installs this one anyway"
        );
    }
    talk::line(format_args!("warning: {UNLIMITED}"));
    if person.agrees("Trust it anyway?")? {
        return Ok(());
    }
    bail!("nothing was changed")
}

/// The authorities of the registry on this machine, under all names and addresses of its certificates.
fn here(arguments: &Arguments, machine: &Machine) -> anyhow::Result<Subject> {
    let installation = Installation::find(&arguments.place)?;
    let config = &installation.loaded.config;
    let ca_certificate = own_authority(config)?;
    let pem = std::fs::read(ca_certificate).with_context(|| {
        let path = ca_certificate.display();
        format!("cannot read {path}\nhint: the first `boathouse up` makes it")
    })?;
    let authorities = Authority::parse_all(&pem)
        .with_context(|| format!("{} is damaged", ca_certificate.display()))?;
    let reachable = configured_names(config)?;
    let mut names = vec![reachable.registry];
    let port = config.server.address.tcp().map(HostPort::port);
    for name in tls::names_in_files(&config.tls).into_iter().flatten() {
        let name = port.and_then(|port| HostPort::new(&name, port).ok());
        names.extend(name.map(|name| name.to_string()));
    }
    dedup(&mut names);
    let files = if authorities.len() == 1 {
        Files {
            all: ca_certificate.clone(),
            each: vec![ca_certificate.clone()],
        }
    } else {
        let kept = names.first().map_or("", String::as_str);
        Files {
            all: ca_certificate.clone(),
            ..keep(&authorities, kept, machine)?
        }
    };
    Ok(Subject {
        authorities,
        files,
        names,
    })
}

/// The file of the authorities that this registry's certificates are from.
fn own_authority(config: &Config) -> anyhow::Result<&PathBuf> {
    match &config.tls {
        tls::Settings::Automatic { ca_certificate, .. } => Ok(ca_certificate),
        tls::Settings::None => bail!(
            "this registry has no authority of its own to trust: it serves plain HTTP\nhint: set `tls: auto` in its config"
        ),
        tls::Settings::Files { certificate, .. } => {
            let chain = CertificateDer::from_pem_file(certificate)
                .with_context(|| format!("cannot read {}", certificate.display()))?;
            let reason = Leaf::parse(&chain)?.without_own_authority();
            bail!("this registry has no authority of its own to trust: {reason}")
        }
    }
}

/// Removes what comes again, and keeps the order.
fn dedup(names: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
}

/// The authorities of a registry on another machine, once somebody has compared their fingerprints.
fn there(
    registry: &HostPort,
    fingerprints: &[Fingerprint],
    machine: &Machine,
    person: &dyn Person,
) -> anyhow::Result<Subject> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let server = Server {
        address: registry.clone(),
        is_tls: true,
    };
    let shown = client::converse(remote::fetch(&server, &clock))??;
    let authorities = compare(shown, fingerprints, registry, person)?;
    let certified = client::converse(remote::prove(&server, &authorities, &clock))??;
    let mut names = vec![registry.to_string()];
    for name in certified {
        let name = HostPort::new(&name, registry.port()).ok();
        // There, these names are the other machine; here, they are this one.
        let name = name.filter(|name| !name.is_loopback() && !name.host().contains('*'));
        names.extend(name.map(|name| name.to_string()));
    }
    dedup(&mut names);
    let files = keep(&authorities, &registry.to_string(), machine)?;
    Ok(Subject {
        authorities,
        files,
        names,
    })
}

/// The authorities whose fingerprints were given, or that a person has compared.
fn compare(
    shown: Vec<Authority>,
    expected: &[Fingerprint],
    registry: &HostPort,
    person: &dyn Person,
) -> anyhow::Result<Vec<Authority>> {
    let all: Vec<String> = shown.iter().map(Authority::fingerprint).collect();
    let listed = all.join("\n  ");
    if !expected.is_empty() {
        let given: Vec<String> = expected.iter().map(Fingerprint::to_string).collect();
        if let Some(missing) = given.iter().find(|given| !all.contains(given)) {
            bail!(
                "the authority of {registry} is not the one that is expected\n  expected {missing}\n  found    {listed}\nhint: nothing was changed; ask the registry's administrator what `boathouse trust` prints there"
            );
        }
        let (chosen, others): (Vec<_>, Vec<_>) = shown
            .into_iter()
            .partition(|authority| given.contains(&authority.fingerprint()));
        for other in others {
            talk::line(format_args!(
                "note: {registry} has another authority, which is not trusted; give its --fingerprint too, if it is right: {}",
                other.fingerprint()
            ));
        }
        return Ok(chosen);
    }
    if !person.is_there() {
        bail!(
            "not a terminal, so nobody can confirm the fingerprint\n  {listed}\nhint: pass the one that `boathouse up` printed there with --fingerprint"
        );
    }
    talk::line(format_args!("{registry} shows the fingerprint"));
    talk::line(format_args!("  {listed}"));
    let question = "Is it the one that `boathouse welcome` prints there?";
    if person.agrees(question)? {
        return Ok(shown);
    }
    bail!("nothing was changed")
}

/// Where copies of a registry's authorities are kept among our own files.
fn kept_directory(registry: &str, machine: &Machine) -> anyhow::Result<PathBuf> {
    let own = places::own_directory(&Surroundings::here())?;
    Ok(machine.path(own.join("trusted").join(registry)))
}

/// Keeps copies among our own files, for the lines that are printed and for programs that want a path.
fn keep(authorities: &[Authority], registry: &str, machine: &Machine) -> anyhow::Result<Files> {
    let directory = kept_directory(registry, machine)?;
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let write = |name: String, pem: &str| {
        let path = directory.join(name);
        durable_file::replace(&path, pem.as_bytes(), 0o644)
            .with_context(|| format!("cannot write {}", path.display()))?;
        anyhow::Ok(path)
    };
    let all = write("ca.crt".to_owned(), &Authority::bundle(authorities))?;
    let each = match authorities {
        [_] => vec![all.clone()],
        several => several
            .iter()
            .zip(1..)
            .map(|(authority, number)| write(format!("ca-{number}.crt"), &authority.pem))
            .collect::<anyhow::Result<_>>()?,
    };
    Ok(Files { all, each })
}

/// `--remove`: everything on this machine that trusts the registry's authorities, present and earlier.
fn remove(
    arguments: &Arguments,
    machine: &Machine,
    person: &dyn Person,
) -> anyhow::Result<ExitCode> {
    let (files, kept) = if let Some(registry) = &arguments.remote {
        let kept = kept_directory(&registry.to_string(), machine)?;
        let file = kept.join("ca.crt");
        if !file.exists() {
            bail!(
                "this user has not trusted {registry}: there is no {}\nhint: name it as `trust --remote` was given it, and run this as the same user",
                file.display()
            );
        }
        (vec![file], Some(kept))
    } else {
        let installation = Installation::find(&arguments.place)?;
        let file = own_authority(&installation.loaded.config)?;
        (remove::with_earlier(file), None)
    };
    let mut authorities = Vec::new();
    for file in files {
        let pem =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = Authority::parse_all(&pem);
        authorities.extend(parsed.with_context(|| format!("{} is damaged", file.display()))?);
    }
    let remover = Remover {
        machine,
        authorities: &authorities,
    };
    let found = remover.find();
    if found.is_empty() {
        talk::line(
            "nothing to remove: no file of `trust --install` on this machine holds these authorities",
        );
    } else {
        talk::line("To be removed from this machine:");
        for path in found.paths() {
            talk::line(format_args!("  {}", path.display()));
        }
        confirm(arguments.yes, person)?;
        remover.remove(&found)?;
        talk::line("removed; running programs, such as dockerd, need no restart");
    }
    if let Some(kept) = kept {
        std::fs::remove_dir_all(&kept)
            .with_context(|| format!("cannot remove {}", kept.display()))?;
    }
    if machine.is_macos {
        for authority in &authorities {
            let hash = authority.fingerprint().replace(':', "");
            talk::line(format_args!(
                "macOS, by hand: sudo security delete-certificate -Z {hash} -t {}",
                clients::KEYCHAIN
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the person, unless `--yes` was given.
fn confirm(is_agreed: bool, person: &dyn Person) -> anyhow::Result<()> {
    if is_agreed {
        return Ok(());
    }
    if !person.is_there() {
        bail!("not a terminal; nothing was changed\nhint: pass --yes to change this machine");
    }
    if person.agrees("Go on?")? {
        Ok(())
    } else {
        bail!("nothing was changed")
    }
}

fn print(
    ways: &[Way],
    subject: &Subject,
    machine: &Machine,
    out: &mut dyn Write,
) -> io::Result<()> {
    for way in ways {
        let line = way.line(&subject.files, machine.is_for_everybody);
        writeln!(out, "{line}")?;
    }
    let line = clients::line_for_one_program(&subject.files.all);
    writeln!(out, "{line}")
}

/// Does what is missing, and says of each client what became of it.
fn install(
    installer: &Installer<'_>,
    ways: &[Way],
    is_agreed: bool,
    person: &dyn Person,
    out: &mut dyn Write,
) -> anyhow::Result<ExitCode> {
    if ways.is_empty() {
        bail!(
            "found no client on this machine: no docker, podman or skopeo, and no system store\nhint: without --install, `boathouse trust` prints what a single program needs"
        );
    }
    let missing: Vec<bool> = ways.iter().map(|way| !installer.is_done(way)).collect();
    if missing.contains(&true) {
        announce(installer, ways, &missing);
        confirm(is_agreed, person)?;
    }
    let mut failures = Vec::new();
    for (way, is_missing) in ways.iter().zip(missing) {
        let outcome = if !is_missing {
            "trusts it already"
        } else if let Err(error) = installer.perform(way) {
            failures.push((way, error));
            "could not be configured"
        } else {
            "trusts it now"
        };
        // A reader that has gone does not end the installation half-way.
        let line = clients::labelled(way.client.label(), outcome);
        talk::written(writeln!(out, "{line}").and_then(|()| out.flush()))?;
    }
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for (way, error) in failures {
        let label = way.client.label();
        let is_root = installer.machine.is_for_everybody;
        let commands = way.commands(installer.files, is_root);
        let cause = if way.needs_root && !is_root {
            ": needs root"
        } else {
            ""
        };
        let error = error.context(format!(
            "{label} could not be configured{cause}\nhint: run: {commands}"
        ));
        talk::line(crate::cli::told(&error));
    }
    Ok(ExitCode::FAILURE)
}

/// Says beforehand what is changed, and where that reaches beyond this registry's clients.
fn announce(installer: &Installer<'_>, ways: &[Way], missing: &[bool]) {
    talk::line("To be done on this machine:");
    let missing = ways.iter().zip(missing).filter(|(_, missing)| **missing);
    for (way, _) in missing {
        talk::line(format_args!("  {}", way.line(installer.files, true)));
        if way.is_for_every_program() {
            talk::line(format_args!(
                "  {}",
                clients::labelled(
                    "",
                    "this changes the whole machine: every program then trusts the authority, for what it may sign for"
                )
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use super::*;

    /// A person with one answer to every question; `None` is no person.
    struct Answers(Option<bool>, RefCell<Vec<String>>);

    impl Answers {
        fn new(answer: Option<bool>) -> Self {
            Self(answer, RefCell::default())
        }
    }

    impl Person for Answers {
        fn is_there(&self) -> bool {
            self.0.is_some()
        }

        fn agrees(&self, question: &str) -> io::Result<bool> {
            self.1.borrow_mut().push(question.to_owned());
            Ok(self.0.unwrap_or_default())
        }
    }

    #[test]
    fn a_fingerprint_is_compared_by_a_script_or_a_person() {
        let authority = Authority::for_tests();
        let registry: HostPort = "lab:5443".parse().unwrap();
        let right: Fingerprint = authority.fingerprint().parse().unwrap();
        let wrong: Fingerprint = "00".repeat(32).parse().unwrap();
        let goes_on = |given: Option<&Fingerprint>, answer| {
            let person = Answers::new(answer);
            let given: Vec<_> = given.into_iter().cloned().collect();
            let result = compare(vec![authority.clone()], &given, &registry, &person);
            (result.is_ok(), person.1.take().len())
        };
        assert_eq!(goes_on(Some(&right), None), (true, 0));
        // A person is not asked to overrule what was given.
        assert_eq!(goes_on(Some(&wrong), Some(true)), (false, 0));
        assert_eq!(goes_on(None, Some(true)), (true, 1));
        assert_eq!(goes_on(None, Some(false)), (false, 1));
        assert_eq!(goes_on(None, None), (false, 0));
    }

    /// Who stands between could add an authority of their own to the true one.
    #[test]
    fn only_authorities_whose_fingerprints_were_given_are_trusted() {
        let (one, other) = (Authority::for_tests(), Authority::for_tests());
        let registry: HostPort = "lab:5443".parse().unwrap();
        let given = [one.fingerprint().parse().unwrap()];
        let person = Answers::new(None);
        let shown = vec![other, one.clone()];
        let trusted = compare(shown, &given, &registry, &person).unwrap();
        assert_eq!(trusted, [one]);
    }

    #[test]
    fn a_machine_is_changed_only_when_somebody_agrees_and_asked_only_when_it_must_be() {
        let disk = tempfile::tempdir().unwrap();
        fs::create_dir_all(disk.path().join("usr/bin")).unwrap();
        fs::write(disk.path().join("usr/bin/docker"), "").unwrap();
        let machine = Machine::for_tests(disk.path(), false, false);
        let authority = Authority::for_tests();
        let files = files_in(disk.path());
        let authorities = [authority];
        let installer = Installer {
            machine: &machine,
            authorities: &authorities,
            files: &files,
        };
        let ways = clients::on(&machine, &["lab:5443".to_owned()], 1);
        let put = disk.path().join("etc/docker/certs.d/lab:5443/ca.crt");
        let run = |answer| {
            let person = Answers::new(answer);
            let result = install(&installer, &ways, false, &person, &mut Vec::new());
            (result.is_ok(), person.1.take().len(), put.exists())
        };
        assert_eq!(run(None), (false, 0, false));
        assert_eq!(run(Some(false)), (false, 1, false));
        assert_eq!(run(Some(true)), (true, 1, true));
        assert_eq!(run(None), (true, 0, true), "nothing is left to agree to");
    }

    #[test]
    fn what_could_not_be_done_stops_nothing_else() {
        let disk = tempfile::tempdir().unwrap();
        fs::create_dir_all(disk.path().join("usr/bin")).unwrap();
        for program in ["docker", "skopeo"] {
            fs::write(disk.path().join("usr/bin").join(program), "").unwrap();
        }
        // Where docker's directory should be, nothing can be made.
        fs::create_dir_all(disk.path().join("etc")).unwrap();
        fs::write(disk.path().join("etc/docker"), "").unwrap();
        let machine = Machine::for_tests(disk.path(), false, false);
        let authority = Authority::for_tests();
        let files = files_in(disk.path());
        let authorities = [authority];
        let installer = Installer {
            machine: &machine,
            authorities: &authorities,
            files: &files,
        };
        let ways = clients::on(&machine, &["lab:5443".to_owned()], 1);
        let mut out = Vec::new();
        let person = Answers::new(None);
        let code = install(&installer, &ways, true, &person, &mut out).unwrap();
        assert_eq!(code, ExitCode::FAILURE);
        let expected = "docker          could not be configured\npodman, skopeo  trusts it now\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_change_of_the_whole_machine_is_one_for_all_names() {
        let disk = tempfile::tempdir().unwrap();
        for path in ["usr/bin", "usr/sbin", "usr/local/share/ca-certificates"] {
            fs::create_dir_all(disk.path().join(path)).unwrap();
        }
        fs::write(disk.path().join("usr/bin/docker"), "").unwrap();
        fs::write(disk.path().join("usr/sbin/update-ca-certificates"), "").unwrap();
        let machine = Machine::for_tests(disk.path(), false, false);
        let names = ["lab:5443".to_owned(), "10.0.0.5:5443".to_owned()];
        let ways = clients::on(&machine, &names, 1);
        let found: Vec<_> = ways
            .iter()
            .map(|way| {
                (
                    way.client.label(),
                    way.is_for_every_program(),
                    way.steps.len(),
                )
            })
            .collect();
        // A directory and a file for each name; one file, and one program.
        assert_eq!(found, [("docker", false, 4), ("Debian", true, 2)]);
    }

    fn files_in(directory: &Path) -> Files {
        let all = directory.join("ca.crt");
        Files {
            each: vec![all.clone()],
            all,
        }
    }
}
