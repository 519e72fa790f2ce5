//! What the certificates of a server say, and who vouches for them.
//!
//! Must not know how they were fetched. Invariant: a chain counts as trusted only when the same library that makes the
//! connection says so, for the name that was asked for, at the time of the clock that was passed in.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority_scope::Scope;
use crate::clock::Clock;
use crate::host_port::HostPort;

/// What the common names of authorities begin with that Boathouse makes.
pub(crate) const OWN_AUTHORITY: &str = "Boathouse CA";

const BEGIN_OF_BLOCK: &str = "-----BEGIN CERTIFICATE-----";
const END_OF_BLOCK: &str = "-----END CERTIFICATE-----";

/// The certificate of an authority, as people compare and copy it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    /// Its block, with a line break at the end.
    pub(crate) pem: String,
    pub(crate) scope: Scope,
}

/// What a server's own certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) names: Vec<String>,
    pub(crate) begins: OffsetDateTime,
    pub(crate) ends: OffsetDateTime,
    /// Who signed it, as a distinguished name.
    pub(crate) issuer: String,
    /// Signed by its own key.
    pub(crate) is_self_signed: bool,
    /// It may sign others.
    pub(crate) is_authority: bool,
    /// Of X.509; clients take 3.
    pub(crate) version: u32,
}

impl Authority {
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new([]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self::parse_all(certificate.pem().as_bytes())
            .unwrap()
            .remove(0)
    }

    /// Reads a PEM file of certificates that may sign others; there is at least one.
    pub(crate) fn parse_all(pem: &[u8]) -> anyhow::Result<Vec<Self>> {
        let text = std::str::from_utf8(pem).context("it is not a PEM file")?;
        let authorities = pem_blocks(text).into_iter().map(Self::parse);
        let authorities = authorities.collect::<anyhow::Result<Vec<_>>>()?;
        if authorities.is_empty() {
            bail!("it holds no certificate");
        }
        Ok(authorities)
    }

    /// Reads one block.
    fn parse(pem: String) -> anyhow::Result<Self> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes());
        let certificate = certificate.context("it is not a PEM file")?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).context("its certificate is damaged")?;
        if !parsed.is_ca() {
            bail!("its certificate is not that of an authority");
        }
        let scope = Scope::of(&parsed);
        Ok(Self {
            certificate,
            pem,
            scope,
        })
    }

    /// SHA-256, `AB:CD:…`, as `up` prints it.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.certificate)
    }

    /// A store of these authorities.
    pub(crate) fn roots(authorities: &[Self]) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(authority.certificate.clone())
                .context("the authority's certificate cannot be used")?;
        }
        Ok(roots)
    }

    /// A PEM file of these authorities.
    pub(crate) fn bundle(authorities: &[Self]) -> String {
        authorities.iter().map(|one| one.pem.as_str()).collect()
    }
}

impl Leaf {
    pub(crate) fn parse(certificate: &CertificateDer<'_>) -> anyhow::Result<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .context("the server's certificate is damaged")?;
        Ok(Self {
            names: names_in(certificate),
            begins: parsed.validity().not_before.to_datetime(),
            ends: parsed.validity().not_after.to_datetime(),
            issuer: parsed.issuer().to_string(),
            is_self_signed: parsed.subject() == parsed.issuer(),
            is_authority: parsed.is_ca(),
            version: parsed.version().0.saturating_add(1),
        })
    }

    /// Whether an authority that Boathouse made has signed it, by the authority's name.
    fn is_of_boathouse(&self) -> bool {
        self.issuer.contains(OWN_AUTHORITY)
    }

    /// Why a registry that shows this certificate has no authority that `boathouse trust` could install, and what to do instead.
    pub(crate) fn without_own_authority(&self) -> String {
        let issuer = &self.issuer;
        if self.is_self_signed {
            "its certificate is self-signed\nhint: docker, podman and skopeo accept it as `ca.crt` in their `certs.d/HOST:PORT`; clients built on rustls do not: with `tls: auto`, the registry makes an authority instead".to_owned()
        } else {
            format!(
                "its certificate is from {issuer}\nhint: a public authority needs no trust; a private one is installed as its operator says; `boathouse doctor` shows whether this machine trusts it"
            )
        }
    }
}

/// The blocks of certificates in a PEM file, each with a line break at its end. What stands between them is a comment.
pub(crate) fn pem_blocks(text: &str) -> Vec<String> {
    let parts = text.split_inclusive(END_OF_BLOCK);
    let blocks = parts.filter_map(|part| part.get(part.find(BEGIN_OF_BLOCK)?..));
    blocks.map(|block| format!("{block}\n")).collect()
}

/// Whether `roots` vouch for a chain (the server's own certificate first) under the name `host`.
pub(crate) fn verify(
    chain: &[CertificateDer<'_>],
    roots: RootCertStore,
    host: &str,
    clock: &dyn Clock,
) -> Result<(), rustls::Error> {
    let unknown = || rustls::Error::from(rustls::CertificateError::UnknownIssuer);
    let (leaf, others) = chain.split_first().ok_or_else(unknown)?;
    if roots.is_empty() {
        return Err(unknown());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = Arc::new(roots);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let name = ServerName::try_from(host)
        .map_err(|_| rustls::Error::from(rustls::CertificateError::NotValidForName))?;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(clock.unix_secs()));
    match verifier.verify_server_cert(leaf, others, &name, &[], now) {
        Err(_) if is_trusted_itself(leaf, &roots, &name, clock) => Ok(()),
        result => result.map(drop),
    }
}

/// Whether `leaf` is itself among what is trusted, good for this name now: a self-signed certificate as `openssl req -x509`
/// makes it. Go and OpenSSL accept it; webpki refuses one that may sign others in the place of a server's.
fn is_trusted_itself(
    leaf: &CertificateDer<'_>,
    roots: &RootCertStore,
    name: &ServerName<'_>,
    clock: &dyn Clock,
) -> bool {
    let mut own = RootCertStore::empty();
    let (Ok(()), Ok(parsed), Ok(said)) = (
        own.add(leaf.clone().into_owned()),
        ParsedCertificate::try_from(leaf),
        Leaf::parse(leaf),
    ) else {
        return false;
    };
    let now = OffsetDateTime::from(clock.now());
    let is_known = own.roots.iter().all(|own| roots.roots.contains(own));
    let is_in_time = said.begins <= now && now <= said.ends;
    said.is_self_signed && is_known && is_in_time && verify_server_name(&parsed, name).is_ok()
}

/// Why a chain is not trusted, and what to do about it.
pub(crate) fn complaint(
    error: &rustls::Error,
    chain: &[CertificateDer<'_>],
    registry: &HostPort,
    clock: &dyn Clock,
) -> anyhow::Error {
    use rustls::CertificateError as Certificate;
    let leaf = match chain.first().map(Leaf::parse) {
        Some(Ok(leaf)) => leaf,
        Some(Err(error)) => return error,
        None => return anyhow!("the server shows no certificate"),
    };
    let host = registry.host();
    if leaf.version != 3 {
        return anyhow!(
            "the certificate is of X.509 version {}, which clients of today refuse\nhint: on the registry's machine, make it again with extensions (`openssl x509 -req … -extfile FILE`, FILE holding `subjectAltName=DNS:{host}`), or use `tls: auto`",
            leaf.version
        );
    }
    let rustls::Error::InvalidCertificate(reason) = error else {
        return anyhow!("the certificate cannot be checked: {error}");
    };
    match reason {
        // As webpki reports one that may sign others, too.
        Certificate::UnknownIssuer | Certificate::Other(_) if leaf.is_self_signed => anyhow!(
            "the certificate is self-signed and not trusted here\nhint: copy it to {} for docker (podman, skopeo: ~/.config/containers/certs.d/{registry}/); these and other Go or OpenSSL clients then accept it{}",
            Path::new("/etc/docker/certs.d")
                .join(registry.to_string())
                .join("ca.crt")
                .display(),
            if leaf.is_authority {
                ", and clients built on rustls never do: use `tls: auto`, or a certificate that an authority has signed"
            } else {
                ""
            }
        ),
        Certificate::UnknownIssuer | Certificate::BadSignature if leaf.is_of_boathouse() => {
            anyhow!(
                "the certificate is from an authority that is not trusted\nhint: `boathouse trust --remote {registry} --install`"
            )
        }
        Certificate::UnknownIssuer | Certificate::BadSignature => anyhow!(
            "the certificate is from {}, which is not trusted\nhint: install the certificate of that authority as its operator says; if it is a public one, the server may not send its whole chain",
            leaf.issuer
        ),
        // webpki has no name of its own for this.
        Certificate::Other(_) if leaf.is_authority => anyhow!(
            "the certificate may sign others, so clients built on rustls do not accept it as a server's; docker, podman and skopeo may\nhint: use `tls: auto`, or a certificate with `basicConstraints=CA:FALSE`"
        ),
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => anyhow!(
            "the certificate is not for {host}, but for {}\nhint: call the registry by one of these names, or add `{host}` to `tls.hosts` in its config",
            leaf.names.join(", ")
        ),
        Certificate::Expired | Certificate::ExpiredContext { .. } => anyhow!(
            "the certificate ended at {}, and this machine's clock says {}\nhint: set the clock if it is wrong; else renew the certificate of the registry (a running Boathouse renews its own)",
            shown_time(leaf.ends),
            shown_time(clock.now().into())
        ),
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => anyhow!(
            "the certificate begins at {}, and this machine's clock says {}\nhint: set the clock, here or on the registry's machine",
            shown_time(leaf.begins),
            shown_time(clock.now().into())
        ),
        other => anyhow!(
            "the certificate is not good for {host}: {other}\nhint: on the registry's machine, `boathouse up --host {host}` or `tls.hosts` adds a name"
        ),
    }
}

/// To the second, in UTC.
pub(crate) fn shown_time(time: OffsetDateTime) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let time = time.to_offset(time::UtcOffset::UTC);
    time.format(format).unwrap_or_else(|_| time.to_string())
}

/// The names and addresses that a certificate (DER) is for: those that a client of a registry looks at.
pub(crate) fn names_in(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let shown = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address_of(bytes).map(|address| address.to_string()),
        _ => None,
    };
    names.iter().filter_map(shown).collect()
}

/// SHA-256 of a certificate, `AB:CD:…`, as people compare it.
pub(crate) fn fingerprint(certificate: &[u8]) -> String {
    let digest = Sha256::digest(certificate);
    let bytes: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}

/// An address and a mask, as RFC 5280 §4.2.1.10 writes a network.
pub(crate) fn network_of(bytes: &[u8]) -> Option<IpNet> {
    let (address, mask) = bytes.split_at_checked(bytes.len() / 2)?;
    IpNet::with_netmask(address_of(address)?, address_of(mask)?).ok()
}

/// An address as certificates write it: four or sixteen bytes.
fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Our clock, as rustls asks for one.
pub(crate) struct Time(pub(crate) Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = self.0.unix_secs();
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            secs,
        )))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Time")
    }
}

/// Takes what [`verify`] takes.
pub(crate) struct Vouched {
    pub(crate) roots: RootCertStore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signatures: AnyCertificate,
}

impl fmt::Debug for Vouched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Vouched")
    }
}

impl ServerCertVerifier for Vouched {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        let roots = self.roots.clone();
        verify(&chain, roots, &server_name.to_str(), self.clock.as_ref())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signatures
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}

/// Takes any certificate whose key the server has, for a look at who is there.
#[derive(Debug)]
pub(crate) struct AnyCertificate(pub(crate) Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;
    use crate::clock::ManualClock;

    /// 2027-01-15
    const NOW: u64 = 1_800_000_000;

    fn time(unix_secs: u64) -> OffsetDateTime {
        OffsetDateTime::from(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(unix_secs))
    }

    fn issuer() -> CertifiedIssuer<'static, KeyPair> {
        issuer_called("Boathouse CA on lab")
    }

    fn issuer_called(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut parameters = CertificateParams::new([]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let kind = rcgen::DnType::CommonName;
        parameters.distinguished_name.push(kind, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
    }

    /// A leaf for `lab.local` and 10.0.0.5, good for an hour before and after `NOW`.
    fn leaf(issuer: &CertifiedIssuer<'_, KeyPair>) -> CertificateDer<'static> {
        let names = ["lab.local".to_owned(), "10.0.0.5".to_owned()];
        let mut parameters = CertificateParams::new(names).unwrap();
        (parameters.not_before, parameters.not_after) = (time(NOW - 3_600), time(NOW + 3_600));
        let key = KeyPair::generate().unwrap();
        parameters.signed_by(&key, issuer).unwrap().der().clone()
    }

    /// What is said of the leaf under this name, at this time; nothing if it is trusted.
    fn said(host: &str, unix_secs: u64, is_known: bool) -> Option<String> {
        let issuer = issuer();
        let chain = [leaf(&issuer)];
        let known = if is_known { issuer } else { self::issuer() };
        let authorities = Authority::parse_all(known.pem().as_bytes()).unwrap();
        let clock = ManualClock::at_unix_secs(unix_secs);
        let registry = format!("{host}:5443").parse().unwrap();
        let verified = verify(
            &chain,
            Authority::roots(&authorities).unwrap(),
            host,
            &clock,
        );
        let error = verified.err()?;
        Some(complaint(&error, &chain, &registry, &clock).to_string())
    }

    #[test]
    fn a_complaint_says_what_is_wrong_and_what_to_do() {
        assert_eq!(said("lab.local", NOW, true), None);
        assert_eq!(said("10.0.0.5", NOW, true), None);
        let unknown = said("lab.local", NOW, false).unwrap();
        assert!(unknown.ends_with("hint: `boathouse trust --remote lab.local:5443 --install`"));
        // Nobody could install the authority of somebody else by that.
        let foreign = issuer_called("Lab Root");
        let error = rustls::Error::from(rustls::CertificateError::UnknownIssuer);
        let registry = "lab.local:5443".parse().unwrap();
        let clock = ManualClock::at_unix_secs(NOW);
        let foreign = complaint(&error, &[leaf(&foreign)], &registry, &clock).to_string();
        assert!(
            foreign.starts_with("the certificate is from CN=Lab Root, which is not trusted\n")
                && !foreign.contains("--remote"),
            "{foreign}"
        );
        let name = said("other.local", NOW, true).unwrap();
        assert!(
            name.starts_with(
                "the certificate is not for other.local, but for lab.local, 10.0.0.5\nhint: "
            ),
            "{name}"
        );
        let late = said("lab.local", NOW + 7_200, true).unwrap();
        assert!(
            late.starts_with("the certificate ended at 2027-01-15 09:00:00 UTC, and this machine's clock says 2027-01-15 10:00:00 UTC\nhint: "),
            "{late}"
        );
        let early = said("lab.local", NOW - 7_200, true).unwrap();
        assert!(
            early.starts_with("the certificate begins at 2027-01-15 07:00:00 UTC"),
            "{early}"
        );
    }

    #[test]
    fn a_file_of_authorities_holds_nothing_else() {
        let issuer = issuer();
        let one = Authority::parse_all(issuer.pem().as_bytes()).unwrap();
        assert_eq!(one[0].fingerprint().len(), 32 * 3 - 1);
        let two = format!("# the old one\n{}\n{}", issuer.pem(), self::issuer().pem());
        let two = Authority::parse_all(two.as_bytes()).unwrap();
        assert!(two.len() == 2 && two[0] == one[0] && two[1] != one[0]);
        assert_eq!(
            Authority::parse_all(Authority::bundle(&two).as_bytes()).unwrap(),
            two
        );
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(["lab.local".to_owned()]).unwrap();
        let leaf = parameters.signed_by(&key, &issuer).unwrap().pem();
        let with_leaf = issuer.pem() + &leaf;
        for bad in ["", "no PEM", &leaf, &with_leaf] {
            assert!(Authority::parse_all(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// What `openssl req -x509` makes: self-signed, and allowed to sign others.
    #[test]
    fn a_self_signed_certificate_that_is_trusted_itself_is_good_for_its_name_and_time_only() {
        let mut parameters = CertificateParams::new(["lab.local".to_owned()]).unwrap();
        (parameters.not_before, parameters.not_after) = (time(NOW - 3_600), time(NOW + 3_600));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let chain = [own.der().clone()];
        let verified = |host: &str, unix_secs, roots: RootCertStore| {
            let clock = ManualClock::at_unix_secs(unix_secs);
            let verified = verify(&chain, roots, host, &clock);
            let registry = format!("{host}:5443").parse().unwrap();
            verified.map_err(|error| complaint(&error, &chain, &registry, &clock).to_string())
        };
        let roots = || {
            let own = Authority::parse_all(own.pem().as_bytes()).unwrap();
            Authority::roots(&own).unwrap()
        };
        assert_eq!(verified("lab.local", NOW, roots()), Ok(()));
        assert!(verified("other.local", NOW, roots()).is_err());
        assert!(verified("lab.local", NOW + 7_200, roots()).is_err());
        let others = Authority::parse_all(issuer().pem().as_bytes()).unwrap();
        for unknown in [RootCertStore::empty(), Authority::roots(&others).unwrap()] {
            let said = verified("lab.local", NOW, unknown).unwrap_err();
            assert!(
                said.starts_with("the certificate is self-signed and not trusted here\nhint: copy it to /etc/docker/certs.d/lab.local:5443/ca.crt")
                    && said.contains("rustls"),
                "{said}"
            );
        }
    }

    #[test]
    fn without_anybody_to_vouch_nothing_is_trusted() {
        let issuer = issuer();
        let clock = ManualClock::at_unix_secs(NOW);
        let nobody = RootCertStore::empty();
        assert!(verify(&[leaf(&issuer)], nobody.clone(), "lab.local", &clock).is_err());
        assert!(verify(&[], nobody, "lab.local", &clock).is_err());
    }
}
