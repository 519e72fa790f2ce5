//! `docker_auth`'s own file, alone, opened and served as the program does.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use boathouse::clock::SystemClock;
use boathouse::config;
use boathouse::instance::{Expected, Instance, Parts, Plan};
use boathouse::server::BoundAddress;
use futures_util::FutureExt as _;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use super::Answer;

/// A directory with the files that the configurations name.
pub(super) struct Directory(TempDir);

impl Directory {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("cache")).expect("a folder");
        for (name, pem) in pairs() {
            fs::write(directory.path().join(name), pem).expect("written");
        }
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Our own keys: those of the records were thrown away.
fn pairs() -> &'static [(String, String)] {
    static PAIRS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let kinds = [
            ("token", &rcgen::PKCS_ECDSA_P256_SHA256),
            ("other", &rcgen::PKCS_ECDSA_P256_SHA256),
            ("rsa", &rcgen::PKCS_RSA_SHA256),
            ("p384", &rcgen::PKCS_ECDSA_P384_SHA384),
            ("p521", &rcgen::PKCS_ECDSA_P521_SHA512),
            ("ed25519", &rcgen::PKCS_ED25519),
        ];
        let made = kinds.iter().flat_map(|(name, algorithm)| {
            let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
            let certificate = rcgen::CertificateParams::new([(*name).to_owned()])
                .and_then(|parameters| parameters.self_signed(&key))
                .expect("a certificate");
            [
                (format!("{name}.crt"), certificate.pem()),
                (format!("{name}.key"), key.serialize_pem()),
            ]
        });
        let p224 = [("p224.crt", P224_CERTIFICATE), ("p224.key", P224_KEY)];
        let p224 = p224.map(|(name, pem)| (name.to_owned(), pem.to_owned()));
        made.chain(p224).collect()
    })
}

/// A listener of `docker_auth`'s; ends when dropped.
pub(super) struct Served {
    /// `None`: the configuration asks for no such listener.
    place: Option<BoundAddress>,
    ending: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

impl Served {
    /// Serves the configuration, or says why it is refused.
    pub(super) fn start(directory: &Directory, text: &str) -> Result<Self, String> {
        let socket = directory.path().join("auth.sock");
        // On a free port, where the record has the one of its day.
        let text = text.replace(":5001\"", ":0\"");
        let text = text.replace("127.0.0.1:5001", "127.0.0.1:0");
        let text = text.replace("auth.sock", &socket.display().to_string());
        let files = ["auth_config.yml", "registry.yml"].map(|name| directory.path().join(name));
        // The case that brings the registry's keys along must not meet them twice.
        let storage = if text.contains("\nstorage:") {
            String::new()
        } else {
            format!(
                "storage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
                directory.path().join("data").display()
            )
        };
        fs::write(&files[0], text).expect("written");
        // Thousands of logins fail here in a few seconds.
        fs::write(&files[1], storage + "limits: {failed_logins: 0}\n").expect("written");
        // Programs that decide are looked for there.
        let path = std::env::var("PATH").map(|path| ("PATH".to_owned(), path));
        let environment: BTreeMap<String, String> = path.into_iter().collect();
        let loaded = config::load(&files, &environment);
        let loaded = loaded.map_err(|errors| {
            let errors = errors.into_iter().map(ToString::to_string);
            errors.collect::<Vec<_>>().join("\n")
        })?;
        let plan = Plan {
            config: loaded.config,
            clock: Arc::new(SystemClock::new()),
            source: None,
            expected: Expected::None,
            makes_new_authority: false,
            parts: Parts::default(),
        };
        // Only a bucket is waited for.
        let opened = Instance::open(plan).now_or_never();
        let opened = opened.ok_or("it waits")?;
        let instance = opened.and_then(|instance| instance.bind(Vec::new()));
        let instance = instance.map_err(|error| format!("{error:#}"))?;
        let place = instance.token_address();
        let ending = CancellationToken::new();
        tokio::spawn(instance.run(ending.clone().cancelled_owned()));
        Ok(Self { place, ending })
    }

    /// Sends the bytes of one request, and reads the answer to the end of the connection.
    pub(super) async fn exchange(&self, method: &str, request: &[u8]) -> Answer {
        let place = self.place.as_ref().expect("a listener");
        let received = match place {
            BoundAddress::Tcp(address) => {
                let stream = TcpStream::connect(address).await;
                received(stream.expect("a connection"), request).await
            }
            BoundAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                received(stream.expect("a connection"), request).await
            }
        };
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(&received).expect("HTTP");
        let httparse::Status::Complete(end) = parsed else {
            panic!("half an answer: {:?}", String::from_utf8_lossy(&received));
        };
        let header = |name: &str| {
            let mut headers = head.headers.iter();
            let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
            Some(String::from_utf8_lossy(header.value).into_owned())
        };
        assert_eq!(header("transfer-encoding"), None);
        let body = if method == "HEAD" {
            &[]
        } else {
            &received[end..]
        };
        Answer::received(head.code.expect("a status").into(), header, body)
    }
}

async fn received(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Vec<u8> {
    let mut received = Vec::new();
    stream.write_all(request).await.expect("sent");
    let read = stream.read_to_end(&mut received).await;
    read.expect("an answer");
    received
}
/// A curve that no tool here makes; thrown away, used nowhere else.
const P224_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MHgCAQAwEAYHKoZIzj0CAQYFK4EEACEEYTBfAgEBBBwGt/HrzBYJOKEvzHGykxcG
gAx0i4OZZ2ghqz/joTwDOgAEN1QM1bMZrdR44s3vKIUp2ciyRo76Vju0lSmvsck7
wX9/tX6B0D4AKGSaD7jDyhHKwjG2qA2rotY=
-----END PRIVATE KEY-----
";
const P224_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBYjCCARCgAwIBAgIUVPZRD8vcHE0kpV/PFhl2Dun/X7QwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEcDIyNDAgFw0yNjExMjMyMjQ4MzJaGA8yMTI2MTAzMDIyNDgz
MlowDzENMAsGA1UEAwwEcDIyNDBOMBAGByqGSM49AgEGBSuBBAAhAzoABDdUDNWz
Ga3UeOLN7yiFKdnIskaO+lY7tJUpr7HJO8F/f7V+gdA+AChkmg+4w8oRysIxtqgN
q6LWo1MwUTAdBgNVHQ4EFgQUnp7vUc6uIk3PBjpsg0DnohlVIbYwHwYDVR0jBBgw
FoAUnp7vUc6uIk3PBjpsg0DnohlVIbYwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjO
PQQDAgNAADA9AhxY7BaV6eExOb234uBjNcOCcK4ZawFshczdufo7Ah0A1sYFbHc3
TqlFqTAkoxkop6r0Zq4n1xL0UHXsLw==
-----END CERTIFICATE-----
";
