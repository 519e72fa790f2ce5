//! What is between a client and the registry: its name, its port, its certificate, its clock.
//!
//! Must not know accounts or images. Invariant: nothing secret is sent on any of these connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http::Request;
use http::header::{DATE, SERVER};
use rustls::RootCertStore;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::report::Finding;
use crate::cli::command::trust::machine::Machine;
use crate::cli::command::trust::stores::{self, Store};
use crate::client::certificates::{self, Leaf};
use crate::client::http::{self as client, Answer, Client, ClientError, Connection, Server, Trust};
use crate::clock::Clock;
use crate::host_port::HostPort;
use crate::server::API_VERSION;

/// What macOS's `AirPlay` receiver listens on; registries are often given the first.
const AIRPLAY_PORTS: [u16; 2] = [5_000, 7_000];

/// Clocks may differ by as much as a token's times may (docs/security.md).
const SKEW_SECS_MAX: u64 = 60;

/// How many names of a certificate are shown: more are not read.
const NAMES_SHOWN_MAX: usize = 8;

/// Where the registry is, and the machine that asks.
pub(super) struct Network {
    pub(super) server: Server,
    pub(super) machine: Machine,
    pub(super) clock: Arc<dyn Clock>,
}

impl Network {
    fn registry(&self) -> &HostPort {
        &self.server.address
    }

    fn unsafe_client(&self) -> anyhow::Result<Client> {
        Ok(Client::new(Trust::Nobody, Arc::clone(&self.clock))?)
    }

    /// The addresses that the name leads to.
    pub(super) async fn name(&self) -> anyhow::Result<Finding<Vec<SocketAddr>>> {
        let host = self.registry().host();
        let resolved = self.unsafe_client()?.resolve(self.registry()).await;
        let addresses = resolved.with_context(|| {
            format!("{host} has no address here, whatever the registry's certificate and its `tls.hosts` say\nhint: enter the name into the DNS, or into /etc/hosts of each client; or use a name that `boathouse welcome` prints")
        })?;
        let shown: Vec<String> = addresses
            .iter()
            .map(|address| address.ip().to_string())
            .collect();
        let found = if host.parse::<std::net::IpAddr>().is_ok() {
            format!("{host} is an address")
        } else {
            format!("{host} is {}", shown.join(", "))
        };
        Ok(Finding::new(found, addresses))
    }

    /// The first of the addresses that answers.
    pub(super) async fn port(
        &self,
        addresses: &[SocketAddr],
    ) -> anyhow::Result<Finding<SocketAddr>> {
        let client = self.unsafe_client()?;
        let (mut answering, mut failures) = (Vec::new(), Vec::new());
        for address in addresses {
            match client.reach(*address).await {
                Ok(_) => answering.push(*address),
                Err(error) => failures.push((address, error)),
            }
        }
        let Some(address) = answering.first().copied() else {
            let failure = failures.pop().map(|(_, error)| error.into());
            return Err(failure.unwrap_or_else(|| anyhow!("the name has no address")));
        };
        if AIRPLAY_PORTS.contains(&address.port()) && self.is_airplay(&client, address).await {
            return Err(airplay(address));
        }
        let mut finding = Finding::new(format!("{address} answers"), address);
        if let Some((silent, error)) = failures.first() {
            let reason = format!("{:#}", anyhow!("{error}"));
            let reason = reason.lines().next().unwrap_or_default();
            finding.hint = Some(format!(
                "{silent} does not ({reason}), and clients that try it first lose time"
            ));
        }
        Ok(finding)
    }

    /// Whether `AirPlay` answers, which says so of itself over plain HTTP.
    async fn is_airplay(&self, client: &Client, address: SocketAddr) -> bool {
        let answer = self.ask_plainly(client, address, "/").await;
        answer.is_ok_and(|answer| {
            let server = answer.headers().get(SERVER);
            server.is_some_and(|name| name.as_bytes().starts_with(b"AirTunes"))
        })
    }

    /// Whether a registry answers over plain HTTP. Every registry sends this header.
    async fn is_plain_registry(&self, client: &Client, address: SocketAddr) -> bool {
        let answer = self.ask_plainly(client, address, "/v2/").await;
        answer.is_ok_and(|answer| answer.headers().contains_key(API_VERSION))
    }

    async fn ask_plainly(
        &self,
        client: &Client,
        address: SocketAddr,
        path: &str,
    ) -> Result<Answer, ClientError> {
        let plain = Server {
            is_tls: false,
            ..self.server.clone()
        };
        let stream = client.reach(address).await?;
        let mut connection = client.speak(&plain, stream).await?;
        connection.send(get(path), 0).await
    }

    /// Who vouches for the certificate; gives on all authorities of this machine's clients.
    pub(super) async fn tls(&self, address: SocketAddr) -> anyhow::Result<Finding<RootCertStore>> {
        if !self.server.is_tls {
            let found = "not used: passwords and images are sent unencrypted";
            let mut all = RootCertStore::empty();
            // The token endpoint may speak https all the same.
            for store in Store::ALL {
                let roots = store.roots(&self.machine, &self.registry().to_string());
                all.extend(roots.roots.iter().cloned());
            }
            return Ok(Finding::new(found, all));
        }
        let chain = self.chain(address).await?;
        let registry = self.registry();
        let leaf = Leaf::parse(chain.first().context("the server shows no certificate")?)?;
        let (mut trusting, mut others, mut complaints) = (Vec::new(), Vec::new(), Vec::new());
        let mut all = RootCertStore::empty();
        for store in Store::ALL {
            let roots = store.roots(&self.machine, &registry.to_string());
            all.extend(roots.roots.iter().cloned());
            match certificates::verify(&chain, roots, registry.host(), self.clock.as_ref()) {
                Ok(()) => trusting.push(store),
                Err(error) => {
                    others.push(store);
                    complaints.push(error);
                }
            }
        }
        if trusting.is_empty() {
            let is_unknown = |error: &&rustls::Error| {
                matches!(
                    error,
                    rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
                )
            };
            // A store that knows the authority and still refuses says more than one that does not know it.
            let telling = complaints.iter().find(|error| !is_unknown(error));
            let error = telling.or(complaints.first());
            let error = error.context("the certificate is not trusted")?;
            return Err(certificates::complaint(
                error,
                &chain,
                registry,
                self.clock.as_ref(),
            ));
        }
        let by_whom = if others.is_empty() {
            labels(&trusting)
        } else {
            format!("{}, not by {}", labels(&trusting), labels(&others))
        };
        let (names, end) = (
            shown_names(&leaf.names),
            certificates::shown_time(leaf.ends),
        );
        let by_itself = if leaf.is_self_signed && leaf.is_authority {
            "; it is self-signed: docker, podman, skopeo and other Go or OpenSSL clients accept it, clients built on rustls do not"
        } else {
            ""
        };
        let found = format!("trusted by {by_whom}; for {names}; until {end}{by_itself}");
        let mut finding = Finding::new(found, all);
        let left_out = stores::left_out(&self.machine, &registry.to_string(), &trusting);
        if !left_out.is_empty() {
            let clients: Vec<&str> = left_out.iter().map(|client| client.label()).collect();
            finding.hint = Some(format!(
                "not trusted by all on this machine ({}): `boathouse trust --remote {registry} --install`",
                clients.join(", ")
            ));
        }
        Ok(finding)
    }

    async fn chain(
        &self,
        address: SocketAddr,
    ) -> anyhow::Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
        let client = self.unsafe_client()?;
        let stream = client.reach(address).await?;
        match client.speak(&self.server, stream).await {
            Ok(connection) => Ok(connection.certificates),
            Err(ClientError::NotTls { .. }) if self.is_airplay(&client, address).await => {
                Err(airplay(address))
            }
            Err(ClientError::NotTls { .. }) if self.is_plain_registry(&client, address).await => {
                let registry = self.registry();
                bail!(
                    "a registry answers at {registry}, over plain http only\nhint: behind a proxy that has the certificate, examine the address that clients use: `boathouse doctor HOST`; without one, `boathouse doctor {registry} --plain-http`, and each client must be configured for an insecure registry"
                )
            }
            Err(ClientError::NotTls { .. }) => bail!(
                "{} does not speak https, and no registry answers there over plain http\nhint: is this the right port? `boathouse up` prints it",
                self.registry()
            ),
            Err(error) => Err(error.into()),
        }
    }

    /// The answer to `GET /v2/` without credentials, and how far the clocks are apart.
    pub(super) async fn clock(
        &self,
        connection: &mut Connection,
    ) -> anyhow::Result<Finding<Answer>> {
        let before = self.clock.now();
        let answer = connection.send(get("/v2/"), 0).await?;
        let waited = self.clock.now().duration_since(before).unwrap_or_default();
        let date = answer
            .headers()
            .get(DATE)
            .and_then(|date| date.to_str().ok());
        let Some(theirs) = date.and_then(parse_date) else {
            let found = "the registry sends no `Date` header";
            return Ok(Finding::new(found, answer));
        };
        let ours = OffsetDateTime::from(before + waited / 2);
        let skew = (ours - theirs).whole_seconds();
        if skew.unsigned_abs() > SKEW_SECS_MAX {
            let side = if skew > 0 { "ahead of" } else { "behind" };
            bail!(
                "this machine's clock is {} {side} the registry's\nhint: set the clock that is wrong (NTP); certificates and tokens are valid for a limited time",
                shown_duration(Duration::from_secs(skew.unsigned_abs()))
            );
        }
        let found = format!("within {} s of the registry's", skew.unsigned_abs().max(1));
        Ok(Finding::new(found, answer))
    }
}

fn get(path: &str) -> Request<client::Body> {
    let mut request = Request::new(client::empty());
    if let Ok(path) = path.parse() {
        *request.uri_mut() = path;
    }
    request
}

fn airplay(address: SocketAddr) -> anyhow::Error {
    anyhow!(
        "AirPlay answers on {address}, not a registry\nhint: macOS listens there for AirPlay: use another port (`boathouse up` takes 443, 5443 or 8443), or switch the AirPlay receiver off (System Settings, AirDrop & Handoff)"
    )
}

fn labels(stores: &[Store]) -> String {
    let labels: Vec<&str> = stores.iter().map(|store| store.label()).collect();
    labels.join(", ")
}

fn shown_names(names: &[String]) -> String {
    let shown: Vec<&str> = names
        .iter()
        .take(NAMES_SHOWN_MAX)
        .map(String::as_str)
        .collect();
    let more = names.len().saturating_sub(NAMES_SHOWN_MAX);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// `Date` as every HTTP server writes it today (RFC 9110 section 5.6.7).
fn parse_date(text: &str) -> Option<OffsetDateTime> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = PrimitiveDateTime::parse(text, format).ok()?;
    Some(date.assume_utc())
}

/// In the unit that says enough.
fn shown_duration(duration: Duration) -> String {
    match duration.as_secs() {
        secs @ 0..120 => format!("{secs} s"),
        secs @ 120..7_200 => format!("{} minutes", secs / 60),
        secs @ 7_200..172_800 => format!("{} hours", secs / 3_600),
        secs => format!("{} days", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::ManualClock;

    /// 2027-01-15 08:00:00 UTC
    const NOW: u64 = 1_800_000_000;

    /// The way to a server that answers every request with `head`.
    async fn network(head: &'static str, unix_secs: u64) -> (Network, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 4_096];
                    while stream
                        .read(&mut buffer)
                        .await
                        .is_ok_and(|length| length > 0)
                    {
                        let answer = format!("{head}Content-Length: 0\r\n\r\n");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let network = Network {
            server: Server {
                address: address.to_string().parse().unwrap(),
                is_tls: false,
            },
            machine: Machine::below(Some(std::path::Path::new("/nonexistent"))),
            clock: Arc::new(ManualClock::at_unix_secs(unix_secs)),
        };
        (network, address)
    }

    /// What is said of a clock that stands at `unix_secs` when the registry's stands at `NOW`.
    async fn said_of_clock(unix_secs: u64) -> Result<String, String> {
        let head = "HTTP/1.1 401 Unauthorized\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\n";
        let (network, _) = network(head, unix_secs).await;
        let client = network.unsafe_client().unwrap();
        let mut connection = client.connect(&network.server).await.unwrap();
        let finding = network.clock(&mut connection).await;
        finding
            .map(|finding| finding.found)
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn clocks_that_are_apart_are_told_with_the_side() {
        let near = said_of_clock(NOW + 60).await.unwrap();
        assert_eq!(near, "within 60 s of the registry's");
        let ahead = said_of_clock(NOW + 7_260).await.unwrap_err();
        assert!(
            ahead.starts_with("this machine's clock is 2 hours ahead of the registry's\nhint: "),
            "{ahead}"
        );
        let behind = said_of_clock(NOW - 61).await.unwrap_err();
        assert!(
            behind.starts_with("this machine's clock is 61 s behind the registry's"),
            "{behind}"
        );
    }

    #[tokio::test]
    async fn airplay_is_known_by_what_it_calls_itself() {
        for (head, is_airplay) in [
            (
                "HTTP/1.1 403 Forbidden\r\nServer: AirTunes/845.5.1\r\n",
                true,
            ),
            ("HTTP/1.1 403 Forbidden\r\nServer: nginx\r\n", false),
            ("RTSP/1.0 400 Bad Request\r\n", false),
        ] {
            let (network, address) = network(head, NOW).await;
            let client = network.unsafe_client().unwrap();
            let found = network.is_airplay(&client, address).await;
            assert_eq!(found, is_airplay, "{head}");
        }
    }

    #[test]
    fn a_date_is_read_as_servers_write_it() {
        let date = parse_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date.unix_timestamp(), 784_111_777);
        assert_eq!(parse_date("yesterday"), None);
    }

    #[test]
    fn durations_are_told_in_one_unit() {
        let shown = |secs| shown_duration(Duration::from_secs(secs));
        assert_eq!(shown(61), "61 s");
        assert_eq!(shown(3_599), "59 minutes");
        assert_eq!(shown(90_000), "25 hours");
        assert_eq!(shown(40_000_000), "462 days");
    }
}
