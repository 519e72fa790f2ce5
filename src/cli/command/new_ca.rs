//! `boathouse new-ca`: replaces the certificate authorities by a new one for all names, without serving.
//!
//! Must not know how certificates are made. Invariant: it does nothing while a server uses the data, which would go on showing
//! certificates that cannot be renewed any more.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};

use super::up::foreign_files;
use crate::cli::installation::{Installation, Where};
use crate::cli::talk;
use crate::client::certificates::Authority;
use crate::clock::{Clock, SystemClock};
use crate::instance;
use crate::tls::{self, Tls};

/// `boathouse new-ca`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let installation = Installation::find(&arguments.place)?;
    let config = &installation.loaded.config;
    let tls::Settings::Automatic { ca_certificate, .. } = &config.tls else {
        bail!(
            "this registry has no authority of its own\nhint: `tls: auto` in its config makes one"
        );
    };
    foreign_files::refuse_as_root(&foreign_files::of_config(config))?;
    let _alone = instance::lock_used_data(config).context("nothing was changed")?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    Tls::set_authority_aside(&config.tls, clock.as_ref())?;
    Tls::open(&config.tls, clock).context("cannot make certificates")?;
    let pem = std::fs::read(ca_certificate)
        .with_context(|| format!("cannot read {}", ca_certificate.display()))?;
    talk::line(format_args!(
        "made a new certificate authority in {}; the old one is beside it, as .old-SECONDS. Its fingerprint is",
        ca_certificate.display()
    ));
    for authority in Authority::parse_all(&pem)? {
        talk::print(&format!("{}\n", authority.fingerprint()))?;
    }
    talk::line(
        "Start the server, then on each client: boathouse trust --remote HOST:PORT --install",
    );
    Ok(ExitCode::SUCCESS)
}
