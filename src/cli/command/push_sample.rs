//! `boathouse push-sample`: makes a tiny image and pushes it, so that a first push needs neither another program nor an image.
//!
//! Must not know how a login works. Invariant: the image is the same each time, so pushing it again changes nothing.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{Method, Request, StatusCode};
use rustls::RootCertStore;
use serde_json::json;

use super::doctor::credentials::{self, Credentials};
use super::doctor::{self, login};
use super::trust::clients::names_in_references;
use super::trust::machine::Machine;
use super::trust::stores::Store;
use super::up::first_run::ADMIN;
use crate::cli::installation::{Installation, Where};
use crate::cli::talk;
use crate::client::certificates::Authority;
use crate::client::http::{self as client, Answer, Client, ClientError, Connection, Server, Trust};
use crate::clock::{Clock, SystemClock};
use crate::host_port::HostPort;
use crate::oci::{Algorithm, Digest, RepositoryName, Tag};
use crate::tls;

/// The file in the image, and what it says.
const FILE: &str = "hello.txt";
const TEXT: &str = "`boathouse push-sample` made this image. It holds this file, and no program.\n";

/// Of a tar archive: headers and contents are padded to it, and two empty ones end the archive.
const TAR_BLOCK_BYTES: usize = 512;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `boathouse push-sample`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// The registry, as in the names of images [default: the one on this machine]
    #[arg(value_name = "HOST[:PORT]", value_parser = client::parse_registry)]
    registry: Option<HostPort>,
    #[command(flatten)]
    place: Where,
    /// The image's name in the registry
    #[arg(long, value_name = "NAME[:TAG]", default_value = "hello:1", value_parser = parse_image)]
    image: (RepositoryName, Tag),
    /// The account to log in with [default: what docker, podman or skopeo keep for this registry, else admin]
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from stdin [default: asked on the terminal]
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// The registry serves plain HTTP on purpose
    #[arg(long)]
    plain_http: bool,
    /// Use the trust of the disk below this directory instead of the running system's
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

fn parse_image(text: &str) -> Result<(RepositoryName, Tag), String> {
    let (name, tag) = text.split_once(':').unwrap_or((text, "1"));
    let name = name.parse::<RepositoryName>();
    let tag = tag.parse::<Tag>();
    Ok((
        name.map_err(|error| error.to_string())?,
        tag.map_err(|error| error.to_string())?,
    ))
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let machine = Machine::below(arguments.root.as_deref());
    let Registry {
        server,
        name: registry,
        other_names,
        own,
        password_file,
    } = match &arguments.registry {
        Some(address) => Registry {
            server: Server {
                address: address.clone(),
                is_tls: !arguments.plain_http,
            },
            name: address.to_string(),
            other_names: Vec::new(),
            own: Vec::new(),
            password_file: None,
        },
        None => here(arguments)?,
    };
    let mut roots = Authority::roots(&own)?;
    for store in Store::ALL {
        roots.extend(store.roots(&machine, &registry).roots);
    }
    let names = std::iter::once(&registry).chain(&other_names);
    let names: Vec<String> = names.flat_map(|name| names_in_references(name)).collect();
    let credentials = credentials(arguments, &names, &machine, password_file)?;
    let push = Push {
        server,
        roots,
        credentials,
        account: arguments.username.as_deref().unwrap_or(ADMIN),
        image: &arguments.image,
    };
    client::converse(push.run())??;
    let (repository, tag) = &arguments.image;
    let name = format!("{registry}/{repository}:{}", tag.as_str());
    talk::line(format_args!(
        "pushed {name}; every client that trusts the registry and is logged in pulls it with"
    ));
    let programs = ["docker", "podman"];
    let program = programs.iter().find(|name| machine.program(name).is_some());
    let pull = match program {
        Some(program) => format!("{program} pull {name}\n"),
        None if machine.program("skopeo").is_some() => {
            format!("skopeo copy docker://{name} oci:hello\n")
        }
        None => format!("docker pull {name}\n"),
    };
    talk::print(&pull)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the image goes.
struct Registry {
    server: Server,
    /// What its clients call it, as in the names of images.
    name: String,
    /// What else they may have logged in to.
    other_names: Vec<String>,
    own: Vec<Authority>,
    /// The file of its first password.
    password_file: Option<PathBuf>,
}

/// The registry on this machine.
fn here(arguments: &Arguments) -> anyhow::Result<Registry> {
    let mut server = doctor::here(&arguments.place, arguments.plain_http)?;
    let name = server.address.to_string();
    let installation = Installation::find(&arguments.place)?;
    let config = &installation.loaded.config;
    let listening = config.server.address.tcp();
    let is_local = listening.is_some_and(|one| one.is_every_address() || one.is_loopback());
    if is_local
        && config.external_host.is_none()
        && matches!(config.tls, tls::Settings::Automatic { .. })
    {
        // Its certificates always hold this name, and this machine always knows it, whatever clients call the registry.
        server.address = HostPort::new("localhost", server.address.port())?;
    }
    let authorities = match &config.tls {
        // What this machine serves needs no other trust.
        tls::Settings::Automatic { ca_certificate, .. } => {
            let pem = std::fs::read(ca_certificate)
                .with_context(|| format!("cannot read {}", ca_certificate.display()))?;
            Authority::parse_all(&pem)?
        }
        tls::Settings::None | tls::Settings::Files { .. } => Vec::new(),
    };
    let config = installation.config_files.first();
    let password = config.map(|file| file.with_file_name("admin-password"));
    let password = password.filter(|file| file.exists());
    // Its clients use the names of its certificate.
    let port = server.address.port();
    let certified = tls::names_in_files(&installation.loaded.config.tls);
    let other_names = certified.into_iter().flatten();
    let other_names = other_names.filter_map(|host| HostPort::new(&host, port).ok());
    Ok(Registry {
        server,
        name,
        other_names: other_names.map(|name| name.to_string()).collect(),
        own: authorities,
        password_file: password,
    })
}

/// The account and password that are known without asking.
fn credentials(
    arguments: &Arguments,
    names: &[String],
    machine: &Machine,
    password_file: Option<PathBuf>,
) -> anyhow::Result<Option<Credentials>> {
    if let Some(account) = arguments
        .username
        .as_ref()
        .filter(|_| arguments.password_stdin)
    {
        return Ok(Some(Credentials::from_stdin(account)?));
    }
    if arguments.username.is_some() {
        return Ok(None);
    }
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let files = credentials::usual_files(&variable);
    let files: Vec<PathBuf> = files.iter().map(|file| machine.path(file)).collect();
    if let Some(kept) = Credentials::kept(&files, names) {
        return Ok(Some(kept));
    }
    let file = password_file.map(|file| Credentials::from_file(ADMIN, &file));
    file.transpose()
}

/// What is pushed, and where.
struct Push<'a> {
    server: Server,
    roots: RootCertStore,
    credentials: Option<Credentials>,
    /// For whom a password is asked.
    account: &'a str,
    image: &'a (RepositoryName, Tag),
}

impl Push<'_> {
    async fn run(self) -> anyhow::Result<()> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let registry = &self.server.address;
        let (repository, tag) = self.image;
        let client = Client::new(Trust::Authorities(self.roots), clock)?;
        let connection = client.connect(&self.server).await;
        let mut connection = connection.map_err(|error| match error {
            ClientError::Tls { .. } => anyhow::Error::new(error).context(format!(
                "this machine does not trust the certificate of {registry}\nhint: boathouse trust --remote {registry} --install"
            )),
            error => error.into(),
        })?;
        let asked = connection
            .send(Request::get("/v2/").body(client::empty())?, 0)
            .await?;
        let credentials = match self.credentials {
            None if asked.status() == StatusCode::UNAUTHORIZED
                && std::io::stdin().is_terminal() =>
            {
                Some(Credentials::from_terminal(self.account)?)
            }
            known => known,
        };
        let login = login::log_in(
            &client,
            &self.server,
            &mut connection,
            asked,
            credentials.as_ref(),
            repository,
        );
        let authorization = login.await?.value.authorization;
        let mut pushing = Pushing {
            connection,
            authorization,
            repository,
        };
        let image = Image::sample();
        pushing.blob(image.layer).await?;
        pushing.blob(image.config).await?;
        pushing.manifest(image.manifest, tag).await
    }
}

/// A push under way.
struct Pushing<'a> {
    connection: Connection,
    authorization: Option<String>,
    repository: &'a RepositoryName,
}

impl Pushing<'_> {
    async fn blob(&mut self, blob: Bytes) -> anyhow::Result<()> {
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let begun = self.send(Method::POST, &path, None, Bytes::new()).await?;
        let location = begun.headers().get(LOCATION).cloned();
        self.expect(begun, StatusCode::ACCEPTED).await?;
        let location = location.as_ref().and_then(|text| text.to_str().ok());
        let location: Option<http::Uri> = location.and_then(|text| text.parse().ok());
        let location = location.context("the registry's answer has no Location to push to")?;
        // It may name the host again; the connection is there already.
        let path = location.path_and_query().map_or("/", |path| path.as_str());
        let separator = if path.contains('?') { '&' } else { '?' };
        let digest = Digest::of(Algorithm::Sha256, &blob);
        let path = format!("{path}{separator}digest={digest}");
        let put = self
            .send(Method::PUT, &path, Some("application/octet-stream"), blob)
            .await?;
        self.expect(put, StatusCode::CREATED).await
    }

    async fn manifest(&mut self, manifest: Bytes, tag: &Tag) -> anyhow::Result<()> {
        let path = format!("/v2/{}/manifests/{}", self.repository, tag.as_str());
        let put = self
            .send(Method::PUT, &path, Some(MANIFEST), manifest)
            .await?;
        self.expect(put, StatusCode::CREATED).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let size_bytes = body.len();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_LENGTH, size_bytes);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request = request.body(client::repeated(body, 1))?;
        Ok(self.connection.send(request, size_bytes as u64).await?)
    }

    async fn expect(&self, answer: Answer, expected: StatusCode) -> anyhow::Result<()> {
        let status = answer.status();
        let body = self.connection.read(answer).await.unwrap_or_default();
        if status == expected {
            return Ok(());
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            bail!(
                "this account may not push to {}\nhint: name an image where it may push: --image NAME:TAG",
                self.repository
            );
        }
        let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = parsed.pointer("/errors/0/message");
        let message = message.and_then(serde_json::Value::as_str);
        let message = message.map_or_else(String::new, |message| format!(": {message}"));
        bail!("the registry answers {status}{message}\nhint: its log says more")
    }
}

/// An image with one small file.
struct Image {
    layer: Bytes,
    config: Bytes,
    manifest: Bytes,
}

impl Image {
    fn sample() -> Self {
        let layer = archive(FILE, TEXT.as_bytes());
        let architecture = match std::env::consts::ARCH {
            "aarch64" => "arm64",
            // The names of the others are Go's as well, or nobody runs this program there.
            "x86_64" => "amd64",
            other => other,
        };
        let digest = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes).to_string();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "boathouse push-sample"}],
        });
        let config = config.to_string().into_bytes();
        let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": [descriptor(LAYER, &layer)],
        });
        Self {
            layer: layer.into(),
            config: config.into(),
            manifest: manifest.to_string().into_bytes().into(),
        }
    }
}

/// A tar archive (POSIX.1-1988, ustar) of one file that everybody may read, of 1970, owned by root.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}\0", content.len());
    let mut header = Vec::with_capacity(TAR_BLOCK_BYTES);
    for (field, width) in [
        (name, 100),
        ("0000644\0", 8),
        ("0000000\0", 8),
        ("0000000\0", 8),
        (&size, 12),
        ("00000000000\0", 12),
        // The checksum counts as spaces while it is computed.
        ("        ", 8),
        ("0", 1),
        ("", 100),
        ("ustar\x0000", 8),
    ] {
        let end = header.len() + width;
        header.extend_from_slice(field.as_bytes());
        header.resize(end, 0);
    }
    header.resize(TAR_BLOCK_BYTES, 0);
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    let checksum = format!("{sum:06o}\0 ");
    let place = CHECKSUM_AT..CHECKSUM_AT + checksum.len();
    header.splice(place, checksum.into_bytes());
    let mut archive = header;
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(TAR_BLOCK_BYTES), 0);
    archive.resize(archive.len() + 2 * TAR_BLOCK_BYTES, 0);
    archive
}

/// Where the checksum is in a header of tar.
const CHECKSUM_AT: usize = 148;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_sample_is_an_image_and_the_same_each_time() {
        let (one, other) = (Image::sample(), Image::sample());
        assert_eq!(one.manifest, other.manifest);
        let manifest: serde_json::Value = serde_json::from_slice(&one.manifest).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&one.config).unwrap();
        let layer = Digest::of(Algorithm::Sha256, &one.layer).to_string();
        assert_eq!(manifest["layers"][0]["digest"], layer);
        assert_eq!(config["rootfs"]["diff_ids"][0], layer);
        assert_eq!(manifest["layers"][0]["size"], one.layer.len());
    }

    #[test]
    fn the_layer_is_an_archive_that_tar_reads() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("layer.tar");
        std::fs::write(&file, &Image::sample().layer).unwrap();
        let output = Command::new("tar")
            .arg("-xOf")
            .arg(&file)
            .arg(FILE)
            .output();
        let output = output.unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), TEXT, "{file:?}");
        assert!(output.status.success());
    }

    #[test]
    fn an_image_has_a_name_and_perhaps_a_tag() {
        for (text, name, tag) in [("a/b:2", "a/b", "2"), ("hello", "hello", "1")] {
            let (found, found_tag) = parse_image(text).unwrap();
            assert_eq!(
                (found.to_string().as_str(), found_tag.as_str()),
                (name, tag)
            );
        }
        for bad in ["", "A:1", "a:", "a:b:c"] {
            assert!(parse_image(bad).is_err(), "{bad}");
        }
    }
}
