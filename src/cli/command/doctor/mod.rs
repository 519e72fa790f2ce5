//! `boathouse doctor`: run on a client, finds what keeps it from a registry, in the order in which things fail.
//!
//! Must not know how a step is done. Invariants: it stops at the first step that fails, since the later ones need it; a step that
//! the account may not do is left out, and the others are tried; what it pushed it takes away again.

pub(super) mod credentials;
pub(super) mod login;
mod network;
mod report;
mod transfer;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;

use self::credentials::Credentials;
use self::login::Login;
use self::network::Network;
use self::report::{Finding, Report, Step, Stopped};
use self::transfer::Transfer;
use super::trust::clients::names_in_references;
use super::trust::machine::Machine;
use crate::cli::installation::{Installation, Where, configured_name};
use crate::cli::talk;
use crate::client::http::{self as client, Client, Connection, Server, Trust};
use crate::clock::{Clock, SystemClock};
use crate::host_port::HostPort;
use crate::oci::RepositoryName;

/// The repository of scratch blobs, below the account's name.
const SCRATCH: &str = "doctor-scratch";

/// `boathouse doctor`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The registry, as in the names of images [default: the one on this machine]
    #[arg(value_name = "HOST[:PORT]", value_parser = client::parse_registry)]
    registry: Option<HostPort>,
    #[command(flatten)]
    place: Where,
    /// The account to log in with [default: what docker, podman or skopeo keep for this registry]
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from stdin [default: asked on the terminal]
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Where the scratch blob goes [default: NAME/doctor-scratch]
    #[arg(long, value_name = "NAME")]
    repository: Option<RepositoryName>,
    /// The size of the scratch blob, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: u16,
    /// The registry serves plain http on purpose
    #[arg(long)]
    plain_http: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Look at the disk below this directory instead of the running system's
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

/// All that an examination needs to know beforehand.
struct Examination {
    network: Network,
    credentials: Option<Credentials>,
    repository: RepositoryName,
    is_repository_named: bool,
    size_mib: usize,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let server = match &arguments.registry {
        Some(address) => Server {
            address: address.clone(),
            is_tls: !arguments.plain_http,
        },
        None => here(&arguments.place, arguments.plain_http)?,
    };
    let address = &server.address;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let machine = Machine::below(arguments.root.as_deref());
    let credentials = if let Some(account) = &arguments.username {
        Some(if arguments.password_stdin {
            Credentials::from_stdin(account)?
        } else {
            Credentials::from_terminal(account)?
        })
    } else {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let files: Vec<PathBuf> = credentials::usual_files(&variable)
            .iter()
            .map(|file| machine.path(file))
            .collect();
        Credentials::kept(&files, &names_in_references(&address.to_string()))
    };
    let repository = match &arguments.repository {
        Some(repository) => repository.clone(),
        None => scratch_repository(credentials.as_ref())?,
    };
    let mut report = Report::new(address.to_string());
    let examination = Examination {
        network: Network {
            server,
            machine,
            clock,
        },
        credentials,
        repository,
        is_repository_named: arguments.repository.is_some(),
        size_mib: arguments.size.into(),
    };
    // Whether it stopped early stands in the report.
    let _ = client::converse(examination.run(&mut report))?;
    let mut out = io::stdout().lock();
    talk::written(if arguments.json {
        report.write_json(&mut out)
    } else {
        report.write_text(&mut out)
    })?;
    Ok(if report.is_healthy() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The registry on this machine, by the scheme that its clients use.
pub(super) fn here(place: &Where, plain_http: bool) -> anyhow::Result<Server> {
    const HINT: &str = "hint: name the registry as HOST:PORT";
    let installation = Installation::find(place).context(HINT)?;
    let config = &installation.loaded.config;
    let name = configured_name(config)?;
    let address = client::parse_registry(&name)
        .map_err(|shape| anyhow::anyhow!("cannot examine `{name}`: {shape}\n{HINT}"))?;
    Ok(Server {
        address,
        is_tls: config.is_reached_by_https() && !plain_http,
    })
}

/// Below the account's own name, where it most likely may push.
fn scratch_repository(credentials: Option<&Credentials>) -> anyhow::Result<RepositoryName> {
    let own = credentials.and_then(|credentials| {
        let account = credentials.account.to_lowercase();
        format!("{account}/{SCRATCH}").parse().ok()
    });
    match own {
        Some(own) => Ok(own),
        // A name that cannot stand in a repository's.
        None => Ok(SCRATCH.parse()?),
    }
}

impl Examination {
    async fn run(&self, report: &mut Report) -> Result<(), Stopped> {
        let network = &self.network;
        let addresses = report.note(Step::Name, network.name().await)?;
        let address = report.note(Step::Port, network.port(&addresses).await)?;
        let roots = report.note(Step::Tls, network.tls(address).await)?;
        let connected = async {
            let client = Client::new(Trust::Authorities(roots), Arc::clone(&network.clock))?;
            let stream = client.reach(address).await?;
            let connection = client.speak(&network.server, stream).await?;
            anyhow::Ok((client, connection))
        };
        let (client, mut connection) = match connected.await {
            Ok(connected) => connected,
            Err(error) => return report.note(Step::Clock, Err(error)),
        };
        let asked = report.note(Step::Clock, network.clock(&mut connection).await)?;
        let login = login::log_in(
            &client,
            &network.server,
            &mut connection,
            asked,
            self.credentials.as_ref(),
            &self.repository,
        );
        let login = report.note(Step::Login, login.await)?;
        let mut transfer = Transfer {
            connection: &mut connection,
            login: &login,
            repository: &self.repository,
            is_scratch_repository: self.repository.as_str().ends_with(SCRATCH),
            clock: network.clock.as_ref(),
        };
        let scratch = report.note(Step::Push, transfer.push(self.size_mib).await)?;
        let Some(scratch) = scratch else {
            let pulled = self.pull_only(&client, &mut connection, &login).await;
            return report.note(Step::Pull, pulled);
        };
        let mut pulled = transfer.pull(&scratch).await;
        let cleaned = transfer.clean_up(&scratch).await;
        if let (Ok(finding), Some(cleaned)) = (&mut pulled, cleaned) {
            finding.found = format!("{}; {cleaned}", finding.found);
        }
        report.note(Step::Pull, pulled)
    }

    /// Pulls a blob of an image that is there: from the repository that was named, or else from the first that the account may
    /// see.
    async fn pull_only(
        &self,
        client: &Client,
        connection: &mut Connection,
        login: &Login,
    ) -> anyhow::Result<Finding<()>> {
        let seen = if self.is_repository_named {
            Some(self.repository.clone())
        } else {
            login::first_repository(connection, login).await?
        };
        let repository = seen.with_context(|| {
            format!(
                "{} sees no repository that it may pull from\nhint: name one with --repository; on the registry's machine, `boathouse user show '{}'` tells what the account may do",
                login.shown_account(),
                login.account
            )
        })?;
        let asked = connection.send(login::ping()?, 0).await?;
        let credentials = self.credentials.as_ref();
        let server = &self.network.server;
        let login = login::log_in(client, server, connection, asked, credentials, &repository);
        let login = login.await?.value;
        let mut transfer = Transfer {
            connection,
            login: &login,
            repository: &repository,
            is_scratch_repository: false,
            clock: self.network.clock.as_ref(),
        };
        transfer.pull_from_image().await
    }
}
