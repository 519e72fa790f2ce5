//! The authority of a registry on another machine: fetched, and proved to be the one that the registry's certificate is from.
//!
//! Must not ask the user. Invariant: a certificate that was fetched over an unverified connection is only a claim; the caller
//! must compare its fingerprint.

use std::sync::Arc;

use anyhow::{Context, bail};
use http::{Request, StatusCode};
use rustls::CertificateError;

use crate::client::certificates::{self, Authority};
use crate::client::http::{self as client, Client, Server, Trust};
use crate::clock::Clock;

/// Asks `server` for the certificate of its authority.
pub(super) async fn fetch(server: &Server, clock: &Arc<dyn Clock>) -> anyhow::Result<Authority> {
    let client = Client::new(Trust::Nobody, Arc::clone(clock))?;
    let mut connection = client.connect(server).await?;
    let request = Request::get("/ca.crt").body(client::empty())?;
    let answer = connection.send(request, 0).await?;
    let status = answer.status();
    let body = connection.read(answer).await?;
    let registry = &server.address;
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => bail!(
            "{registry} has no authority of its own to trust\nhint: its certificate is from somebody else: ask whoever runs it whose certificate this machine should trust, if `boathouse doctor {registry}` says that it does not"
        ),
        status => bail!("{registry} answers {status} to the question for its authority"),
    }
    Authority::parse(&body)
        .with_context(|| format!("what {registry} gives out is no authority's certificate"))
}

/// Whether the certificate that `server` shows is from `authority`, for the name by which it was called.
pub(super) async fn prove(
    server: &Server,
    authority: &Authority,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<()> {
    let client = Client::new(Trust::Nobody, Arc::clone(clock))?;
    let chain = client.connect(server).await?.certificates;
    let registry = &server.address;
    let verified =
        certificates::verify(&chain, authority.roots()?, registry.host(), clock.as_ref());
    match verified {
        Ok(()) => Ok(()),
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => bail!(
            "the certificate that {registry} shows is not from the authority that it gives out\nhint: does something else answer in its place? nothing was changed here"
        ),
        Err(error) => Err(certificates::complaint(
            &error,
            &chain,
            registry,
            clock.as_ref(),
        )),
    }
}
