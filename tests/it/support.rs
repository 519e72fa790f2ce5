//! A registry in this process, on a free port and empty data.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use boathouse::auth::{self, Auth, Authentication, Secret, User};
use boathouse::auth::{Rule, RuleText};
use boathouse::clock::{Clock, ManualClock};
use boathouse::config::{self, Config, TokenListener};
use boathouse::health::Check;
use boathouse::index::Index;
use boathouse::instance::{Expected, Instance, Parts, Plan};
use boathouse::oci::{Algorithm, Digest};
use boathouse::registry::{self, Registry};
use boathouse::server::{self, BoundAddress, Listener};
use boathouse::store::ObjectStore;
use boathouse::tls;
use futures_util::FutureExt as _;
use http::Method;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
pub(crate) use crate::client::{Answer, Call};
use crate::data::Data;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The secret of the issuer of [`with_users`].
pub(crate) const SECRET: [u8; 32] = [7; 32];

/// What a test decides about its registry.
pub(crate) struct Options {
    pub(crate) auth: auth::Settings,
    pub(crate) registry: registry::Settings,
    pub(crate) server: server::Settings,
    pub(crate) tls: tls::Settings,
    /// What lists come from; a new one in memory if not given.
    pub(crate) index: Option<Arc<Index>>,
    /// Whether the background tasks run; otherwise the test does their work when it chooses.
    pub(crate) runs_tasks: bool,
    /// Where it listens besides.
    pub(crate) more_listeners: Vec<Listener>,
    /// `docker_auth`'s own listener, if there is one.
    pub(crate) token_listener: Option<TokenListener>,
    /// `health`
    pub(crate) health: Vec<Check>,
    /// Whether there is a debug listener.
    pub(crate) has_debug_listener: bool,
    /// The path of the metrics there.
    pub(crate) metrics_path: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auth: auth::Settings {
                authentication: Authentication::Open,
                ..auth::Settings::default()
            },
            registry: registry::Settings::for_tests(),
            server: server::Settings::for_tests(),
            tls: tls::Settings::None,
            index: None,
            runs_tasks: true,
            more_listeners: Vec::new(),
            token_listener: None,
            health: Vec::new(),
            has_debug_listener: false,
            metrics_path: None,
        }
    }
}

/// `docker_auth`'s own listener on a free port: plain HTTP, no prefix.
pub(crate) fn token_listener() -> TokenListener {
    TokenListener {
        server: server::Settings {
            prefix: String::new(),
            ..server::Settings::for_tests()
        },
        tls: tls::Settings::None,
    }
}

/// An account with the password `<name>-secret`, and what it may do.
pub(crate) fn with_users(options: &mut Options, users: &[&str], rules: &[(&str, &str, &[&str])]) {
    let auth = &mut options.auth;
    auth.authentication = Authentication::Required;
    auth.secret = Secret(SECRET);
    // The least cost that bcrypt knows: these tests are not about the cost.
    for name in users {
        let password_hash =
            (!name.is_empty()).then(|| bcrypt::hash(format!("{name}-secret"), 4).unwrap());
        auth.accounts.users.insert(
            (*name).to_owned(),
            User {
                password_hash,
                ..User::default()
            },
        );
    }
    for (account, name, actions) in rules {
        let text = RuleText {
            account: Some((*account).to_owned()),
            name: Some((*name).to_owned()),
            actions: actions.iter().map(|action| (*action).to_owned()).collect(),
            ..RuleText::default()
        };
        auth.accounts.acl.push(Rule::parse(text).expect("a rule"));
    }
    let pair =
        boathouse::auth::make_token_key(&ManualClock::at_unix_secs(1_800_000_000)).expect("a key");
    auth.token.signing = Some(pair);
}

/// A running registry; ends when dropped.
pub(crate) struct TestRegistry {
    pub(crate) address: SocketAddr,
    /// Of `docker_auth`'s own listener.
    pub(crate) token_address: Option<BoundAddress>,
    /// Of the debug listener.
    pub(crate) debug_address: Option<SocketAddr>,
    pub(crate) clock: ManualClock,
    pub(crate) registry: Arc<Registry>,
    pub(crate) auth: Arc<Auth>,
    pub(crate) data: Arc<Data>,
    ending: CancellationToken,
    stopped: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

impl TestRegistry {
    /// Open to everybody, on empty data.
    pub(crate) fn open() -> Self {
        Self::start(Options::default())
    }

    pub(crate) fn start(options: Options) -> Self {
        Self::start_in(Data::new(), options)
    }

    /// On data that may hold something already.
    pub(crate) fn start_in(data: Arc<Data>, options: Options) -> Self {
        let clock = ManualClock::at_unix_secs(1_800_000_000);
        let store = data.open(Arc::new(clock.clone()));
        Self::start_on(store, data, clock, options)
    }

    /// Over a store that a test has opened, on `data` or beside them.
    pub(crate) fn start_on(
        store: Arc<dyn ObjectStore>,
        data: Arc<Data>,
        clock: ManualClock,
        options: Options,
    ) -> Self {
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let index = options.index;
        let index = index.unwrap_or_else(|| Arc::new(Index::in_memory(Arc::clone(&shared))));
        let config = Config {
            server: options.server,
            tls: options.tls,
            registry: options.registry,
            token_listener: options.token_listener,
            health: options.health,
            metrics_path: options.metrics_path,
            debug_address: options
                .has_debug_listener
                .then(|| SocketAddr::from(([127, 0, 0, 1], 0)).into()),
            ..config_of(data.state())
        };
        let plan = Plan {
            config,
            clock: shared,
            source: None,
            expected: Expected::None,
            makes_new_authority: false,
            parts: Parts {
                store: Some(store),
                index: Some(index),
                auth: Some(options.auth),
                ..Parts::default()
            },
        };
        // Only a bucket is waited for.
        let opened = Instance::open(plan).now_or_never();
        let instance = opened.and_then(Result::ok).expect("an instance");
        let instance = instance.bind(options.more_listeners).expect("a free port");
        let address = instance.address().expect("an address");
        let address = address.tcp().expect("a TCP address");
        let token_address = instance.token_address();
        let debug_address = instance.debug_address();
        let debug_address = debug_address.and_then(|address| address.tcp());
        let (registry, auth) = (Arc::clone(instance.registry()), Arc::clone(&instance.auth));
        let ending = CancellationToken::new();
        let ended = ending.clone().cancelled_owned();
        let stopped = Some(if options.runs_tasks {
            tokio::spawn(instance.run(ended))
        } else {
            tokio::spawn(instance.run_without_tasks(ended))
        });
        Self {
            address,
            token_address,
            debug_address,
            clock,
            registry,
            auth,
            data,
            ending,
            stopped,
        }
    }

    /// Ends it and waits until it has.
    pub(crate) async fn stop(mut self) -> Arc<Data> {
        self.ending.cancel();
        if let Some(stopped) = self.stopped.take() {
            stopped.await.expect("ends without a panic");
        }
        Arc::clone(&self.data)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn head(&self, path: &str) -> Call {
        self.call(Method::HEAD, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    pub(crate) fn patch(&self, path: &str) -> Call {
        self.call(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        Call::to(self.address, method, path)
    }

    /// Pushes a blob in one request.
    pub(crate) async fn push_blob(&self, name: &str, content: &[u8]) -> Digest {
        Client::plain(self.address).push_blob(name, content).await
    }

    /// Pushes an image of one layer under a tag; returns its bytes and digest.
    pub(crate) async fn push_image(&self, name: &str, tag: &str, layer: &[u8]) -> (String, Digest) {
        let client = Client::plain(self.address);
        client.push_image(name, Some(tag), layer, "").await
    }
}

/// What an empty config says of an instance in `directory`.
fn config_of(directory: &Path) -> Config {
    let file = directory.join("config.yml");
    let directory = directory.display();
    let text = format!("storage: {{filesystem: {{rootdirectory: '{directory}'}}}}\n");
    std::fs::write(&file, text).expect("written");
    let loaded = config::load(&[file], &BTreeMap::new());
    loaded.expect("a config").config
}

/// A manifest of the config `{}` and one layer, with `more` fields (each led by a comma).
pub(crate) fn image_manifest(layer: &[u8], more: &str) -> String {
    let config = Digest::of(Algorithm::Sha256, b"{}");
    let digest = Digest::of(Algorithm::Sha256, layer);
    let size = layer.len();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}]{more}}}"#
    )
}
