//! `boathouse trust`: prints, or does, what the clients on this machine need to trust a registry's authority.
//!
//! Must not know how a client is told (`clients`) nor how that is done (`install`). Invariant: nothing outside our own files
//! is changed unless somebody agreed to it or `--yes` said so; an authority from another machine counts for nothing until its
//! fingerprint was compared.

pub(super) mod clients;
mod fingerprint;
mod install;
pub(super) mod machine;
mod remote;
pub(super) mod stores;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};

use self::clients::Way;
use self::fingerprint::Fingerprint;
use self::install::Installer;
use self::machine::Machine;
use super::assemble;
use super::certificates::Authority;
use super::client::Server;
use super::installation::{Installation, Where};
use super::person::{AtTerminal, Person};
use super::places::{self, Surroundings};
use super::port::ListenAddress;
use crate::clock::{Clock, SystemClock};
use crate::durable_file;
use crate::tls;

/// `boathouse trust`
#[derive(Debug, clap::Args)]
pub(super) struct TrustArguments {
    #[command(flatten)]
    place: Where,
    /// Trust the registry on another machine; its fingerprint is shown and must be compared
    #[arg(long, value_name = "HOST:PORT", value_parser = super::client::parse_registry)]
    remote: Option<ListenAddress>,
    /// The fingerprint that the remote registry's authority must have, instead of a question
    #[arg(long, value_name = "AB:CD:…", requires = "remote")]
    fingerprint: Option<Fingerprint>,
    /// How clients on this machine call the registry, if not as `up` says (may be repeated)
    #[arg(long, value_name = "HOST:PORT", value_parser = super::client::parse_registry, conflicts_with = "remote")]
    name: Vec<ListenAddress>,
    /// Do it, instead of printing what to do
    #[arg(long)]
    install: bool,
    /// Change this machine without asking
    #[arg(long, requires = "install")]
    yes: bool,
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

pub(super) fn run(arguments: &TrustArguments) -> anyhow::Result<ExitCode> {
    let machine = Machine::below(arguments.root.as_deref());
    let person = AtTerminal;
    let subject = match &arguments.remote {
        Some(registry) => there(registry, arguments.fingerprint.as_ref(), &machine, &person)?,
        None => here(arguments)?,
    };
    eprintln!("The fingerprint of the authority is");
    eprintln!("  {}", subject.authority.fingerprint());
    let mut out = io::stdout().lock();
    let ways = ways(&machine, &subject.names);
    if !arguments.install {
        print(&ways, &subject, &machine, &mut out).context("cannot write the result")?;
        return Ok(ExitCode::SUCCESS);
    }
    let installer = Installer {
        machine: &machine,
        authority: &subject.authority,
        certificate: &subject.certificate,
    };
    install(&installer, &ways, arguments.yes, &person, &mut out)
}

/// The authority of the registry on this machine.
fn here(arguments: &TrustArguments) -> anyhow::Result<Subject> {
    let installation = Installation::find(&arguments.place)?;
    let config = &installation.loaded.config;
    let tls::Settings::Automatic { ca_certificate, .. } = &config.tls else {
        bail!(
            "this registry has no authority of its own to trust\nhint: set `tls: auto` in its config, or trust whoever signed its certificate"
        );
    };
    let pem = std::fs::read(ca_certificate).with_context(|| {
        let path = ca_certificate.display();
        format!("cannot read {path}\nhint: the first `boathouse up` makes it")
    })?;
    let mut names: Vec<String> = arguments.name.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        names.push(assemble::registry_name(config)?);
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
    registry: &ListenAddress,
    fingerprint: Option<&Fingerprint>,
    machine: &Machine,
    person: &dyn Person,
) -> anyhow::Result<Subject> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let server = Server {
        address: registry.clone(),
        is_tls: true,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let authority = runtime.block_on(remote::fetch(&server, &clock))?;
    compare(&authority, fingerprint, registry, person)?;
    runtime.block_on(remote::prove(&server, &authority, &clock))?;
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
    registry: &ListenAddress,
    person: &dyn Person,
) -> anyhow::Result<()> {
    let shown = authority.fingerprint();
    match expected {
        Some(expected) if expected.to_string() == shown => Ok(()),
        Some(expected) => bail!(
            "the authority of {registry} is not the one that is expected\n  expected {expected}\n  found    {shown}\nhint: nothing was changed; ask whoever runs the registry what `boathouse trust` prints there"
        ),
        None if person.is_there() => {
            eprintln!("{registry} says that its authority has the fingerprint");
            eprintln!("  {shown}");
            let question = "Is it the one that `boathouse up` or `boathouse trust` prints there?";
            if person.agrees(question)? {
                return Ok(());
            }
            bail!("nothing was changed")
        }
        None => bail!(
            "nobody is here to compare the fingerprint, which is\n  {shown}\nhint: give the one that `boathouse up` printed there, with --fingerprint"
        ),
    }
}

/// Keeps a copy among our own files, for the lines that are printed and for programs that want a path.
fn keep(
    authority: &Authority,
    registry: &ListenAddress,
    machine: &Machine,
) -> anyhow::Result<PathBuf> {
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
        writeln!(out, "{}", clients::labelled(way.client.label(), outcome))?;
    }
    out.flush()?;
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for (way, error) in failures {
        let label = way.client.label();
        let commands = way.commands(installer.certificate, installer.machine.is_for_everybody);
        let error = error.context(format!(
            "{label} could not be told\nhint: by hand: {commands}"
        ));
        eprintln!("{}", super::told(&error));
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
            "nobody is here to agree that this machine is changed\nhint: --yes agrees beforehand; without --install nothing is changed, only printed"
        );
    }
    eprintln!("To be done on this machine:");
    for (way, is_missing) in ways.iter().zip(missing) {
        if *is_missing {
            eprintln!("  {}", way.line(installer.certificate, true));
        }
    }
    if person.agrees("Go on?")? {
        Ok(())
    } else {
        bail!("nothing was changed")
    }
}
