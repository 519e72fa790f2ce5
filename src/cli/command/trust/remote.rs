//! The authority of a registry on another machine: fetched, and proved to be the one that the registry's certificate is from.
//!
//! Must not ask the user. Invariant: a certificate that was fetched over an unverified connection is only a claim; the caller
//! must compare its fingerprint.

use std::sync::Arc;

use anyhow::{Context, bail};
use http::{Request, StatusCode};
use rustls::CertificateError;

use crate::client::certificates::{self, Authority, Leaf};
use crate::client::http::{self as client, Client, Server, Trust};
use crate::clock::Clock;

/// Asks `server` for the certificates of its authorities.
pub(super) async fn fetch(
    server: &Server,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Vec<Authority>> {
    let client = Client::new(Trust::Nobody, Arc::clone(clock))?;
    let mut connection = client.connect(server).await?;
    let request = Request::get("/ca.crt").body(client::empty())?;
    let answer = connection.send(request, 0).await?;
    let status = answer.status();
    let body = connection.read(answer).await?;
    let registry = &server.address;
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            let leaf = connection.certificates.first();
            let leaf = leaf.context("the server shows no certificate")?;
            let reason = Leaf::parse(leaf)?.without_own_authority();
            bail!("{registry} has no authority of its own to trust: {reason}")
        }
        status => bail!("{registry} answers {status} to GET /ca.crt"),
    }
    Authority::parse_all(&body).with_context(|| {
        format!("the answer of {registry} to GET /ca.crt is not the certificate of an authority")
    })
}

/// Whether the certificate that `server` shows is from one of these authorities, for the name by which it was called. Returns
/// the names and addresses in it.
pub(super) async fn prove(
    server: &Server,
    authorities: &[Authority],
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Vec<String>> {
    let client = Client::new(Trust::Nobody, Arc::clone(clock))?;
    let chain = client.connect(server).await?.certificates;
    let registry = &server.address;
    let roots = Authority::roots(authorities)?;
    let verified = certificates::verify(&chain, roots, registry.host(), clock.as_ref());
    match verified {
        Ok(()) => Ok(chain
            .first()
            .map(certificates::names_in)
            .unwrap_or_default()),
        Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => bail!(
            "the certificate that {registry} shows is not from the authority of its /ca.crt\nhint: nothing was changed; another server may answer in its place, or its other authority was not accepted"
        ),
        Err(error) => Err(certificates::complaint(
            &error,
            &chain,
            registry,
            clock.as_ref(),
        )),
    }
}
