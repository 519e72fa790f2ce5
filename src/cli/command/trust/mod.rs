//! `boathouse trust`: prints, or does, what the clients on this machine need to trust a registry's authority.
//!
//! Must not know how a client is told (`clients`) nor how that is done (`install`). Invariant: nothing outside our own files
//! is changed unless somebody agreed to it or `--yes` said so; an authority from another machine counts for nothing until its
//! fingerprint was compared.

pub(super) mod clients;
mod fingerprint;
mod install;
pub(super) mod machine;
mod person;
mod profile;
mod remote;
pub(super) mod stores;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};

use self::clients::Way;
use self::fingerprint::Fingerprint;
use self::install::Installer;
use self::machine::Machine;
use self::person::{AtTerminal, Person};
use crate::cli::installation::{Installation, Where, configured_name};
use crate::cli::talk;
use crate::client::certificates::Authority;
use crate::client::http::{self as client, Server};
use crate::clock::{Clock, SystemClock};
use crate::durable_file;
use crate::host_port::HostPort;
use crate::instance::places::{self, Surroundings};
use crate::tls;

/// `boathouse trust`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// Trust the registry on another machine; its fingerprint is shown and must be compared
    #[arg(long, value_name = "HOST:PORT", value_parser = client::parse_registry)]
    remote: Option<HostPort>,
    /// The fingerprint that the remote registry's authority must have, instead of a question
    #[arg(long, value_name = "AB:CD:…", requires = "remote")]
    fingerprint: Option<Fingerprint>,
    /// How clients on this machine call the registry, if not as `up` says (may be repeated)
    #[arg(long, value_name = "HOST:PORT", value_parser = client::parse_registry, conflicts_with = "remote")]
    name: Vec<HostPort>,
    /// Write a configuration profile for macOS (a new file), and do nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "install")]
    mobileconfig: Option<PathBuf>,
    /// Do it, instead of printing what to do
    #[arg(long)]
    install: bool,
    /// Change this machine without asking
    #[arg(long, requires = "install")]
    yes: bool,
    /// Install an authority that may sign for any name or address too; without it that is asked, or refused
    #[arg(long, requires = "install")]
    unlimited_authority: bool,
    /// Work on the disk below this directory instead of on the running system
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

/// An authority that is to be trusted, and under which names.
struct Subject {
    authority: Authority,
    /// A file that holds it.
    certificate: PathBuf,
    names: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let machine = Machine::below(arguments.root.as_deref());
    let person = AtTerminal;
    let subject = match &arguments.remote {
        Some(registry) => there(registry, arguments.fingerprint.as_ref(), &machine, &person)?,
        None => here(arguments)?,
    };
    talk::line("The fingerprint of the authority is");
    talk::line(format_args!("  {}", subject.authority.fingerprint()));
    let scope = &subject.authority.scope;
    talk::line("It may sign for");
    talk::line(format_args!("  {scope}"));
    if !arguments.install && !scope.is_limited() {
        talk::line(format_args!("warning: {UNLIMITED}"));
    }
    if let Some(file) = &arguments.mobileconfig {
        return write_profile(file, &subject);
    }
    let mut out = io::stdout().lock();
    let ways = ways(&machine, &subject.names);
    if !arguments.install {
        talk::written(print(&ways, &subject, &machine, &mut out))?;
        return Ok(ExitCode::SUCCESS);
    }
    let installer = Installer {
        machine: &machine,
        authority: &subject.authority,
        certificate: &subject.certificate,
    };
    if !arguments.unlimited_authority {
        agree_to_scope(&installer, &ways, arguments.yes, &person)?;
    }
    install(&installer, &ways, arguments.yes, &person, &mut out)
}

/// Writes the profile for macOS. A file that exists may be another authority's, so it is kept.
fn write_profile(file: &Path, subject: &Subject) -> anyhow::Result<ExitCode> {
    let name = subject
        .names
        .first()
        .map_or("this registry", String::as_str);
    let text = profile::text(&subject.authority, name);
    durable_file::create(file, text.as_bytes(), 0o644)
        .with_context(|| format!("cannot write {}", file.display()))?;
    talk::line(format_args!(
        "{} is written. On each Mac: `open` it, then install it in System Settings, General, Device Management; or give it to your device management",
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
    let scope = &installer.authority.scope;
    if scope.is_limited() || ways.iter().all(|way| installer.is_done(way)) {
        return Ok(());
    }
    if is_agreed || !person.is_there() {
        bail!(
            "{UNLIMITED}; nothing was changed\nhint: with `tls: auto` and `boathouse up --new-ca`, the registry makes an authority for its own names only; --unlimited-authority installs this one all the same"
        );
    }
    talk::line(format_args!("warning: {UNLIMITED}"));
    if person.agrees("Trust it all the same?")? {
        return Ok(());
    }
    bail!("nothing was changed")
}

/// The authority of the registry on this machine.
fn here(arguments: &Arguments) -> anyhow::Result<Subject> {
    let installation = Installation::find(&arguments.place)?;
    let config = &installation.loaded.config;
    let tls::Settings::Automatic { ca_certificate, .. } = &config.tls else {
        bail!(
            "this registry has no authority of its own to trust\nhint: set `tls: auto` in its config, or trust the issuer of its certificate"
        );
    };
    let pem = std::fs::read(ca_certificate).with_context(|| {
        let path = ca_certificate.display();
        format!("cannot read {path}\nhint: the first `boathouse up` makes it")
    })?;
    let mut names: Vec<String> = arguments.name.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        names.push(configured_name(config)?);
    }
    let authority = Authority::parse(&pem)
        .with_context(|| format!("{} is damaged", ca_certificate.display()))?;
    Ok(Subject {
        authority,
        certificate: ca_certificate.clone(),
        names,
    })
}

/// The authority of a registry on another machine, once somebody has compared its fingerprint.
fn there(
    registry: &HostPort,
    fingerprint: Option<&Fingerprint>,
    machine: &Machine,
    person: &dyn Person,
) -> anyhow::Result<Subject> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let server = Server {
        address: registry.clone(),
        is_tls: true,
    };
    let authority = client::converse(remote::fetch(&server, &clock))??;
    compare(&authority, fingerprint, registry, person)?;
    client::converse(remote::prove(&server, &authority, &clock))??;
    let certificate = keep(&authority, registry, machine)?;
    Ok(Subject {
        authority,
        certificate,
        names: vec![registry.to_string()],
    })
}

/// Goes on only with the fingerprint that was given, or that a person has compared.
fn compare(
    authority: &Authority,
    expected: Option<&Fingerprint>,
    registry: &HostPort,
    person: &dyn Person,
) -> anyhow::Result<()> {
    let shown = authority.fingerprint();
    match expected {
        Some(expected) if expected.to_string() == shown => Ok(()),
        Some(expected) => bail!(
            "the authority of {registry} is not the one that is expected\n  expected {expected}\n  found    {shown}\nhint: nothing was changed; ask the registry's administrator what `boathouse trust` prints there"
        ),
        None if person.is_there() => {
            talk::line(format_args!(
                "{registry} says that its authority has the fingerprint"
            ));
            talk::line(format_args!("  {shown}"));
            let question = "Is it the one that `boathouse up` or `boathouse trust` prints there?";
            if person.agrees(question)? {
                return Ok(());
            }
            bail!("nothing was changed")
        }
        None => bail!(
            "there is no terminal to confirm the fingerprint on, which is\n  {shown}\nhint: give the one that `boathouse up` printed there, with --fingerprint"
        ),
    }
}

/// Keeps a copy among our own files, for the lines that are printed and for programs that want a path.
fn keep(authority: &Authority, registry: &HostPort, machine: &Machine) -> anyhow::Result<PathBuf> {
    let own = places::own_directory(&Surroundings::here())?;
    let directory = machine.path(own.join("trusted").join(registry.to_string()));
    let path = directory.join("ca.crt");
    std::fs::create_dir_all(&directory)
        .and_then(|()| durable_file::replace(&path, &authority.pem, 0o644))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// What is to be done here; a system's store needs an authority but once, by whatever name the registry is called.
fn ways(machine: &Machine, names: &[String]) -> Vec<Way> {
    let mut ways: Vec<Way> = Vec::new();
    for name in names {
        for way in clients::on(machine, name) {
            let is_for_all_names = !way.is_for_one_name();
            let is_there = ways.iter().any(|there| there.client == way.client);
            if !(is_for_all_names && is_there) {
                ways.push(way);
            }
        }
    }
    ways
}

fn print(
    ways: &[Way],
    subject: &Subject,
    machine: &Machine,
    out: &mut dyn Write,
) -> io::Result<()> {
    for way in ways {
        let line = way.line(&subject.certificate, machine.is_for_everybody);
        writeln!(out, "{line}")?;
    }
    let line = clients::line_for_one_program(&subject.certificate);
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
            "no client is known on this machine: no docker, podman or skopeo, and no store of the system's\nhint: without --install, `boathouse trust` prints what a single program needs"
        );
    }
    let missing: Vec<bool> = ways.iter().map(|way| !installer.is_done(way)).collect();
    if missing.contains(&true) && !is_agreed {
        agree(installer, ways, &missing, person)?;
    }
    let mut failures = Vec::new();
    for (way, is_missing) in ways.iter().zip(missing) {
        let outcome = if !is_missing {
            "trusts it already"
        } else if let Err(error) = installer.perform(way) {
            failures.push((way, error));
            "could not be told"
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
        let commands = way.commands(installer.certificate, installer.machine.is_for_everybody);
        let error = error.context(format!(
            "{label} could not be told\nhint: by hand: {commands}"
        ));
        talk::line(crate::cli::told(&error));
    }
    Ok(ExitCode::FAILURE)
}

fn agree(
    installer: &Installer<'_>,
    ways: &[Way],
    missing: &[bool],
    person: &dyn Person,
) -> anyhow::Result<()> {
    if !person.is_there() {
        bail!(
            "there is no terminal to confirm the change on\nhint: --yes agrees beforehand; without --install nothing is changed, only printed"
        );
    }
    talk::line("To be done on this machine:");
    for (way, is_missing) in ways.iter().zip(missing) {
        if *is_missing {
            talk::line(format_args!("  {}", way.line(installer.certificate, true)));
        }
    }
    if person.agrees("Go on?")? {
        Ok(())
    } else {
        bail!("nothing was changed")
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
            let result = compare(&authority, given, &registry, &person);
            (result.is_ok(), person.1.take().len())
        };
        assert_eq!(goes_on(Some(&right), None), (true, 0));
        // A person is not asked to overrule what was given.
        assert_eq!(goes_on(Some(&wrong), Some(true)), (false, 0));
        assert_eq!(goes_on(None, Some(true)), (true, 1));
        assert_eq!(goes_on(None, Some(false)), (false, 1));
        assert_eq!(goes_on(None, None), (false, 0));
    }

    #[test]
    fn a_machine_is_changed_only_when_somebody_agrees_and_asked_only_when_it_must_be() {
        let disk = tempfile::tempdir().unwrap();
        fs::create_dir_all(disk.path().join("usr/bin")).unwrap();
        fs::write(disk.path().join("usr/bin/docker"), "").unwrap();
        let machine = Machine::for_tests(disk.path(), false, false);
        let authority = Authority::for_tests();
        let certificate = disk.path().join("ca.crt");
        let installer = Installer {
            machine: &machine,
            authority: &authority,
            certificate: &certificate,
        };
        let ways = ways(&machine, &["lab:5443".to_owned()]);
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
        let installer = Installer {
            machine: &machine,
            authority: &authority,
            certificate: &disk.path().join("ca.crt"),
        };
        let ways = ways(&machine, &["lab:5443".to_owned()]);
        let mut out = Vec::new();
        let person = Answers::new(None);
        let code = install(&installer, &ways, true, &person, &mut out).unwrap();
        assert_eq!(code, ExitCode::FAILURE);
        let expected = "docker          could not be told\npodman, skopeo  trusts it now\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_system_s_store_is_told_once_for_all_names() {
        let disk = tempfile::tempdir().unwrap();
        for path in ["usr/bin", "usr/sbin", "usr/local/share/ca-certificates"] {
            fs::create_dir_all(disk.path().join(path)).unwrap();
        }
        fs::write(disk.path().join("usr/bin/docker"), "").unwrap();
        fs::write(disk.path().join("usr/sbin/update-ca-certificates"), "").unwrap();
        let machine = Machine::for_tests(disk.path(), false, false);
        let names = ["lab:5443".to_owned(), "10.0.0.5:5443".to_owned()];
        let ways = ways(&machine, &names);
        let labels: Vec<&str> = ways.iter().map(|way| way.client.label()).collect();
        assert_eq!(labels, ["docker", "Debian", "docker"]);
    }
}
