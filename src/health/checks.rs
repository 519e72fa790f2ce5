//! One look at what a check is about.
//!
//! Must not know when checks are made. Invariant: each look ends, by an answer or by its limit.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::LOCATION;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use rustls::RootCertStore;
use tokio::net::TcpStream;

use super::Target;
use crate::client::http::{self as client, Client, Server, Trust};
use crate::clock::Clock;
use crate::host_port::HostPort;
use crate::registry::{Registry, Trouble};
use crate::telemetry::chain;

/// As Go's client follows them.
const REDIRECTS_MAX: usize = 10;

/// An error says why the check fails.
pub(super) async fn look(
    target: &Target,
    registry: &Registry,
    clock: &Arc<dyn Clock>,
) -> Result<(), String> {
    let limit = |secs: u64| clock.sleep(Duration::from_secs(secs));
    match target {
        Target::Store => store(registry).await,
        Target::NoFile(path) => match fs::metadata(path) {
            Ok(_) => Err("file exists".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.to_string()),
        },
        Target::Http {
            uri,
            headers,
            status,
            timeout_secs,
        } => {
            let found = tokio::select! {
                found = head(uri, headers, clock) => found?,
                () = limit(*timeout_secs) => return Err(format!("{uri}: no answer within {timeout_secs} s")),
            };
            if found.as_u16() == *status {
                Ok(())
            } else {
                Err(format!("{uri}: unexpected status {}", found.as_u16()))
            }
        }
        Target::Tcp {
            address,
            timeout_secs,
        } => {
            let connected = tokio::select! {
                connected = TcpStream::connect((address.host(), address.port())) => connected,
                () = limit(*timeout_secs) => return Err(format!("{address}: no connection within {timeout_secs} s")),
            };
            match connected {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{address}: no connection: {error}")),
            }
        }
    }
}

async fn store(registry: &Registry) -> Result<(), String> {
    let readiness = registry.health.readiness().await;
    let is_about_store =
        |trouble: &&Trouble| matches!(trouble, Trouble::Unreadable | Trouble::Silent(_));
    match readiness.still.iter().find(is_about_store) {
        Some(trouble) => Err(trouble.to_string()),
        None => Ok(()),
    }
}

/// The status of the last answer, after all redirects.
async fn head(
    uri: &Uri,
    headers: &HeaderMap,
    clock: &Arc<dyn Clock>,
) -> Result<StatusCode, String> {
    let mut uri = uri.clone();
    for _ in 0..=REDIRECTS_MAX {
        let failed = |error: &dyn std::error::Error| format!("{uri}: {}", chain(error));
        let (server, path) = parts(&uri).ok_or_else(|| format!("{uri}: not a URL"))?;
        let trust = Trust::Authorities(authorities(server.is_tls));
        let client = Client::new(trust, Arc::clone(clock)).map_err(|error| failed(&error))?;
        let mut request = Request::new(client::empty());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = path.into();
        request.headers_mut().clone_from(headers);
        let connection = client.connect(&server).await;
        let mut connection = connection.map_err(|error| failed(&error))?;
        let answer = connection.send(request, 0).await;
        let answer = answer.map_err(|error| failed(&error))?;
        let status = answer.status();
        let location = answer
            .headers()
            .get(LOCATION)
            .filter(|_| status.is_redirection() && status != StatusCode::NOT_MODIFIED);
        let Some(location) = location else {
            return Ok(status);
        };
        uri = location
            .to_str()
            .ok()
            .and_then(|location| resolved(location, &uri))
            .ok_or_else(|| format!("{uri}: redirected to what is not a URL"))?;
    }
    Err(format!("{uri}: more than {REDIRECTS_MAX} redirects"))
}

/// Those that this machine trusts.
fn authorities(is_tls: bool) -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    if is_tls {
        let found = rustls_native_certs::load_native_certs();
        authorities.add_parsable_certificates(found.certs);
    }
    authorities
}

fn parts(uri: &Uri) -> Option<(Server, PathAndQuery)> {
    let is_tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let address = HostPort::new(host, port).ok()?;
    let path = uri.path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    Some((Server { address, is_tls }, path))
}

/// A `Location`: a whole URL, or a path at the same server.
fn resolved(location: &str, base: &Uri) -> Option<Uri> {
    let uri: Uri = location.parse().ok()?;
    if uri.scheme().is_some() {
        return Some(uri);
    }
    let scheme: &Scheme = base.scheme()?;
    let authority: &Authority = base.authority()?;
    let path = uri.path_and_query().filter(|_| location.starts_with('/'))?;
    Uri::builder()
        .scheme(scheme.clone())
        .authority(authority.clone())
        .path_and_query(path.clone())
        .build()
        .ok()
}
