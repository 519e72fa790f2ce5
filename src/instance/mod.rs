//! One running registry: opened from a plan, bound to its addresses, run until it is told to end.
//!
//! The server, commands that find no server, and the tests all open it here. Must not know arguments, nor print anything.
//! Invariants: the data are locked before anything in the store is changed; root changes nothing in data of another user; an
//! authority is set aside only when nothing else can keep the start from succeeding; each background task is supervised
//! (`tasks`).

pub(crate) mod backup;
mod bucket;
pub(crate) mod issuer;
pub(crate) mod keys;
pub(crate) mod missing_parts;
pub(crate) mod places;
pub(crate) mod reload;
pub(crate) mod service_manager;
pub(crate) mod signals;
mod tasks;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::future::Future;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use futures_util::FutureExt as _;

use self::missing_parts::Environment;
pub use self::missing_parts::Expected;
pub use self::reload::{ConfigSource, Warnings};

use self::keys::derived_secret;
use self::reload::Reload;
use self::service_manager::ServiceManager;
use self::signals::Hangups;
use self::tasks::Tasks;
use crate::auth::{self, Auth};
use crate::clock::Clock;
use crate::config::{Config, TokenListener};
use crate::durable_file;
use crate::health::HealthChecks;
use crate::heartbeat::Heartbeat;
use crate::index::{self, Index};
use crate::metrics::{self, Metrics};
use crate::registry::{self, FallbackTags, Registry};
use crate::server::control::{Clients, Control, ControlSocket};
use crate::server::status::Serving;
use crate::server::{self, BoundAddress, Listener, PassedSockets, Server, Services, Site};
use crate::store::filesystem;
use crate::store::lease::Lease;
use crate::store::state_directory::{StateDirectory, StateDirectoryError};
use crate::store::{self, ObjectStore};
use crate::tls::Tls;

/// Context of a failure to listen.
const CANNOT_SERVE: &str = "cannot serve\nhint: if the address is in use, end the other program (or the other installation with the same config), or change `http.addr`, `server.addr` or `http.debug.addr`";

/// What an instance is opened from.
pub struct Plan {
    /// What the files say.
    pub config: Config,
    /// All that is about time.
    pub clock: Arc<dyn Clock>,
    /// What a reload reads again; without it there is nothing to reload.
    pub source: Option<ConfigSource>,
    /// Which parts of the installation must exist.
    pub expected: Expected,
    /// Makes a new certificate authority, and sets the old one aside.
    pub makes_new_authority: bool,
    /// Parts that are handed in ready, as tests do.
    pub parts: Parts,
}

/// Parts that are used instead of those that the config names.
#[derive(Default)]
pub struct Parts {
    /// Instead of the configured storage.
    pub store: Option<Arc<dyn ObjectStore>>,
    /// Instead of the index in the state directory.
    pub index: Option<Arc<Index>>,
    /// Instead of what the config says about users, rules and tokens.
    pub auth: Option<auth::Settings>,
    /// Sockets of the service manager, for the addresses that the config names.
    pub sockets: PassedSockets,
}

/// The data, locked and open for operations. Nothing listens yet.
pub struct Instance {
    /// The operations.
    pub registry: Arc<Registry>,
    plan: Plan,
    secret: Vec<u8>,
    renews_authority: bool,
    tasks: Tasks,
    /// Of a bucket that may be written to.
    lease: Option<Arc<Lease>>,
    /// Holds the lock of the data.
    _state: StateDirectory,
}

/// The data, locked.
struct Data {
    state: StateDirectory,
    /// Where it had to be opened to be locked.
    store: Option<Arc<dyn ObjectStore>>,
    lease: Option<Arc<Lease>>,
}

/// An instance that is bound to its addresses.
pub struct BoundInstance {
    instance: Instance,
    /// Who calls, and what they may do.
    pub auth: Arc<Auth>,
    health: Arc<HealthChecks>,
    tls: Option<Arc<Tls>>,
    /// The certificates of each site.
    certificates: Vec<(&'static str, Arc<Tls>)>,
    server: Server,
    reload: Arc<Reload>,
    service_manager: Arc<ServiceManager>,
    /// Where the group of a service may ask.
    group_socket: Option<PathBuf>,
}

impl Plan {
    /// The variables of the process; none where a test has no source.
    fn environment(&self) -> Environment {
        let source = self.source.as_ref();
        source.map_or_else(Environment::new, |source| source.environment.clone())
    }
}

impl Instance {
    /// Locks the data, and opens the store and its index. Nothing runs yet. A bucket is locked by its lease, for which this may
    /// wait.
    pub async fn open(plan: Plan) -> anyhow::Result<Self> {
        let config = &plan.config;
        let environment = plan.environment();
        missing_parts::refuse(
            config,
            &environment,
            plan.expected,
            plan.makes_new_authority,
        )?;
        if plan.expected == Expected::Known
            && let Some(warning) = missing_parts::empty_root_warning(config)
        {
            tracing::warn!("{warning}");
        }
        places::refuse_data_of_another_as_root(config.owned_directory())?;
        let is_half_recreated =
            plan.expected == Expected::None && missing_parts::is_half_an_authority(config);
        let renews_authority = plan.makes_new_authority || is_half_recreated;
        let data = match &config.storage {
            store::Settings::Filesystem { root_directory } => Data {
                state: lock_data_of(config, root_directory, plan.clock.as_ref())?,
                store: None,
                lease: None,
            },
            // Boxed: what waits for the lease would make every future that opens an instance larger.
            store::Settings::Bucket(bucket) => Box::pin(bucket::open(&plan, bucket)).await?,
        };
        let secret = server_secret(config, &data.state);
        let registry = Arc::new(open_registry(&plan, &data, &secret)?);
        let tasks = Tasks::new(Arc::clone(&registry));
        if let Some(lease) = &data.lease {
            tasks.spawn_of(lease, lease.heartbeat(), |lease| lease.keep().boxed());
        }
        Ok(Self {
            tasks,
            registry,
            plan,
            secret,
            renews_authority,
            lease: data.lease,
            _state: data.state,
        })
    }

    /// Keeps the index up to the store from now on.
    pub fn keep_index(&self) {
        let heartbeat = self.registry.index_sync.heartbeat();
        self.tasks
            .spawn_of(&self.registry, heartbeat, |r| r.index_sync.run().boxed());
    }

    /// Binds the configured address, and `more` listeners.
    pub fn bind(mut self, more: Vec<Listener>) -> anyhow::Result<BoundInstance> {
        let mut passed = mem::take(&mut self.plan.parts.sockets);
        let Plan { config, clock, .. } = &self.plan;
        let auth = Arc::new(Auth::new(self.auth_settings()?, Arc::clone(clock))?);
        let mut listener =
            Listener::on(config.server.clone(), &mut passed).context(CANNOT_SERVE)?;
        let tokens = config.token_listener.as_ref();
        let tokens = tokens.map(|listener| bind_for_tokens(listener, clock, &mut passed));
        let tokens = tokens.transpose()?;
        let debug = config.debug_address.clone().map(|address| {
            let settings = server::Settings {
                address: address.into(),
                prefix: "/".to_owned(),
                ..config.server.clone()
            };
            Listener::on(settings, &mut passed)
        });
        let debug = debug.transpose().context(CANNOT_SERVE)?;
        passed.refuse_more()?;
        let (registry, checks) = (Arc::clone(&self.registry), config.health.clone());
        let health = Arc::new(HealthChecks::new(checks, registry, Arc::clone(clock)));
        if self.renews_authority {
            // Last of all that can fail: a start that comes to nothing must not cost the authority that clients trust.
            Tls::set_authority_aside(&config.tls, clock.as_ref())?;
        }
        let tls = Tls::open(&config.tls, Arc::clone(clock))?.map(Arc::new);
        listener.tls.clone_from(&tls);
        let of_tokens = tokens.as_ref().and_then(|each| each.tls.clone());
        let certificates: Vec<_> = [("registry", tls.clone()), ("token", of_tokens)]
            .into_iter()
            .filter_map(|(site, tls)| Some((site, tls?)))
            .collect();
        let of_debug = Site::Debug {
            metrics_path: config.metrics_path.clone(),
        };
        let of_registry = |listener| (listener, Site::Registry(Arc::clone(&self.registry)));
        let listeners = std::iter::once(of_registry(listener))
            .chain(tokens.map(|listener| (listener, Site::TokenIssuer)))
            .chain(debug.map(|listener| (listener, of_debug)))
            .chain(more.into_iter().map(of_registry))
            .collect();
        let services = Services {
            auth: Arc::clone(&auth),
            clock: Arc::clone(clock),
            memory: self.registry.memory().clone(),
            health: Some(Arc::clone(&health)),
            metrics: Arc::new(Metrics::new(metrics::Sources {
                registry: Some(Arc::clone(&self.registry)),
                auth: Arc::clone(&auth),
                health: Some(Arc::clone(&health)),
                certificates: certificates.clone(),
                clock: Arc::clone(clock),
            })),
        };
        let server = Server::listen(listeners, &services).context(CANNOT_SERVE)?;
        let environment = self.plan.environment();
        missing_parts::remember(config, &environment);
        let source = self.plan.source.take();
        let reloaded = certificates
            .iter()
            .map(|(_, tls)| Arc::clone(tls))
            .collect();
        let accounts = &self.plan.config.auth;
        let reload = Reload::new(source, accounts, Arc::clone(&auth), reloaded);
        Ok(BoundInstance {
            instance: self,
            auth,
            health,
            tls,
            certificates,
            server,
            reload: Arc::new(reload),
            group_socket: places::group_socket(&environment),
            service_manager: Arc::default(),
        })
    }

    fn auth_settings(&self) -> anyhow::Result<auth::Settings> {
        let Plan {
            config,
            clock,
            parts,
            ..
        } = &self.plan;
        if let Some(settings) = &parts.auth {
            return Ok(settings.clone());
        }
        let secret = derived_secret(&self.secret, "auth")?;
        keys::auth_settings(config, secret, clock.as_ref())
    }

    /// Stops the tasks, and closes the index, unless that was handed in.
    pub async fn close(self) {
        self.tasks.close().await;
        if self.plan.parts.index.is_none() {
            self.registry.index_sync.close().await;
        }
        if let Some(lease) = &self.lease {
            lease.release().await;
        }
    }
}

impl BoundInstance {
    /// The address of the registry.
    pub fn address(&self) -> Option<BoundAddress> {
        self.server.addresses().into_iter().next()
    }

    /// The address of `docker_auth`'s own listener, if there is one.
    pub fn token_address(&self) -> Option<BoundAddress> {
        self.config().token_listener.as_ref()?;
        self.server.addresses().into_iter().nth(1)
    }

    /// The address of the debug listener, if there is one.
    pub fn debug_address(&self) -> Option<BoundAddress> {
        self.config().debug_address.as_ref()?;
        let before = 1 + usize::from(self.config().token_listener.is_some());
        self.server.addresses().into_iter().nth(before)
    }

    /// What it was opened from.
    pub(crate) fn config(&self) -> &Config {
        &self.instance.plan.config
    }

    /// The operations.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.instance.registry
    }

    /// Reports to the service manager.
    pub(crate) fn report_to(&mut self, manager: Arc<ServiceManager>) {
        self.service_manager = manager;
    }

    /// Reloads on each SIGHUP from now on.
    pub(crate) fn reload_on(&self, hangups: Hangups) {
        let clock = Arc::clone(&self.instance.plan.clock);
        let heartbeat = Heartbeat::new("the reload on SIGHUP", clock);
        let (reload, manager) = (Arc::clone(&self.reload), Arc::clone(&self.service_manager));
        self.instance.tasks.spawn(heartbeat, async move {
            hangups.call(|| reload.run_aside(&manager)).await;
        });
    }

    /// Serves until `shutdown` resolves, with all background tasks, then closes everything.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        self.instance.keep_index();
        self.spawn_tasks();
        // Connections wait at the bound sockets until they are accepted.
        self.service_manager.ready();
        self.run_without_tasks(shutdown).await;
    }

    /// Only serves: a test does the work of the background tasks when it chooses.
    pub async fn run_without_tasks(self, shutdown: impl Future<Output = ()> + Send) {
        self.server.run(shutdown).await;
        self.instance.close().await;
    }

    /// Every background task but the one of the index, which commands need too.
    fn spawn_tasks(&self) {
        let tasks = &self.instance.tasks;
        let registry = &self.instance.registry;
        let Registry {
            uploads,
            blobs,
            health,
            ..
        } = registry.as_ref();
        tasks.spawn_of(registry, uploads.heartbeat(), |r| {
            r.uploads.close_idle().boxed()
        });
        let clock = Arc::clone(&self.instance.plan.clock);
        let maintenance = Heartbeat::new("the maintenance of the store", clock);
        tasks.spawn_of(registry, maintenance, |r| {
            r.uploads.maintain_store().boxed()
        });
        tasks.spawn_of(registry, blobs.heartbeat(), |r| {
            r.blobs.keep_tombstones().boxed()
        });
        tasks.spawn_of(registry, health.heartbeat(), |r| {
            r.health.keep_watch().boxed()
        });
        if !self.health.is_empty() {
            let heartbeat = self.health.heartbeat();
            tasks.spawn_of(&self.health, heartbeat, |health| health.run().boxed());
        }
        if let Some(tls) = &self.tls {
            tasks.spawn_of(tls, tls.heartbeat(), |tls| tls.keep_fresh().boxed());
        }
        if self.service_manager.is_there() {
            let clock = Arc::clone(&self.instance.plan.clock);
            let heartbeat = ServiceManager::heartbeat(Arc::clone(&clock));
            let (manager, registry) = (Arc::clone(&self.service_manager), Arc::clone(registry));
            let auth = Arc::clone(&self.auth);
            tasks.spawn(Arc::clone(&heartbeat), async move {
                let registry = Some(registry.as_ref());
                let report = manager.report(registry, &auth, &heartbeat, clock.as_ref());
                report.await;
            });
        }
        if self.reload.follows_files() {
            let clock = Arc::clone(&self.instance.plan.clock);
            let heartbeat = Reload::following(Arc::clone(&clock));
            let (manager, reload) = (Arc::clone(&self.service_manager), Arc::clone(&self.reload));
            tasks.spawn(Arc::clone(&heartbeat), async move {
                reload.follow_files(heartbeat, clock, &manager).await;
            });
        }
        let control = self.control();
        for mut socket in self.control_sockets() {
            let control = Arc::clone(&control);
            tasks.spawn(socket.heartbeat(), async move { socket.run(control).await });
        }
    }

    /// Where commands reach this instance. Without these, the registry serves all the same.
    fn control_sockets(&self) -> Vec<ControlSocket> {
        let Plan { config, clock, .. } = &self.instance.plan;
        let wanted = [(places::control_socket(config), Clients::Owner)];
        let wanted = wanted
            .into_iter()
            .chain(self.group_socket.clone().map(|path| (path, Clients::Group)));
        let bind = |(path, clients): (PathBuf, Clients)| {
            let socket = ControlSocket::bind(&path, clients, Arc::clone(clock));
            let socket = socket.inspect_err(|error| {
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "commands cannot reach this server here; `user`, `acl`, `check` and SIGHUP are not affected"
                );
            });
            socket.ok()
        };
        wanted.filter_map(bind).collect()
    }

    /// What carries out commands.
    fn control(&self) -> Arc<Control> {
        let Plan { clock, .. } = &self.instance.plan;
        let registry = Arc::clone(&self.instance.registry);
        let reload = Reload::on_command(&self.reload, &self.service_manager);
        let auth = Some(Arc::clone(&self.auth));
        let control = Control::new(registry, auth, reload, Arc::clone(clock));
        let address = self
            .address()
            .map_or_else(String::new, |address| address.to_string());
        let control = control.of_server(Serving {
            address,
            started_unix_secs: clock.unix_secs(),
            certificates: self.certificates.clone(),
        });
        Arc::new(control)
    }
}

/// `docker_auth`'s own listener, with its certificate.
fn bind_for_tokens(
    listener: &TokenListener,
    clock: &Arc<dyn Clock>,
    passed: &mut PassedSockets,
) -> anyhow::Result<Listener> {
    let mut bound = Listener::on(listener.server.clone(), passed).context(CANNOT_SERVE)?;
    bound.tls = Tls::open(&listener.tls, Arc::clone(clock))?.map(Arc::new);
    Ok(bound)
}

/// Makes this the only instance on the data: the lock lies beside them, wherever the rest of the state is. A first start on
/// the data of another registry is recorded there.
pub(crate) fn lock_data(
    root_directory: &Path,
    clock: &dyn Clock,
) -> anyhow::Result<StateDirectory> {
    // The lock reports what is wrong there.
    let _ = filesystem::make_root(root_directory);
    locked(StateDirectory::open_beside(root_directory, clock))
}

/// The same for data in a bucket, whose lease is taken later: makes this the only process with this state directory.
pub(crate) fn lock_state(state_directory: &Path) -> anyhow::Result<File> {
    locked(StateDirectory::lock(state_directory))
}

/// [`lock_data`]; where the data may only be read, and that is all the config wants, the lock and the secret lie with the
/// rest of the state.
fn lock_data_of(
    config: &Config,
    root_directory: &Path,
    clock: &dyn Clock,
) -> anyhow::Result<StateDirectory> {
    let own = config.own_directory();
    if config.registry.readonly && config.state_directory != own {
        let _ = filesystem::make_root(root_directory);
        match StateDirectory::open_beside(root_directory, clock) {
            Err(error) if error.is_unwritable() => {
                tracing::info!(
                    state = %config.state_directory.display(),
                    "the data can only be read; the lock lies in the state directory"
                );
                return locked(StateDirectory::open(&config.state_directory));
            }
            opened => return locked(opened),
        }
    }
    lock_data(root_directory, clock)
}

/// Keeps every other instance from starting on the data for as long as the result lives, and makes nothing there.
pub(crate) fn lock_used_data(config: &Config) -> anyhow::Result<Vec<File>> {
    let own = config.own_directory();
    // The state directory has the lock of data that may only be read.
    let elsewhere = Some(&config.state_directory).filter(|directory| **directory != own);
    let locks = std::iter::once(&own)
        .chain(elsewhere)
        .filter_map(|directory| {
            let lock = locked(StateDirectory::lock_if_used(directory));
            lock.transpose()
        });
    locks.collect()
}

fn locked<T>(opened: Result<T, StateDirectoryError>) -> anyhow::Result<T> {
    opened.map_err(|error| {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}"));
        let context = format!("cannot use the data{}", hint.unwrap_or_default());
        anyhow::Error::new(error).context(context)
    })
}

/// `http.secret`, or the one that lies with the data.
fn server_secret(config: &Config, state: &StateDirectory) -> Vec<u8> {
    match &config.secret {
        Some(secret) => secret.expose().as_bytes().to_vec(),
        None => state.secret().to_vec(),
    }
}

/// The operations over the store and its index.
fn open_registry(plan: &Plan, data: &Data, secret: &[u8]) -> anyhow::Result<Registry> {
    let Plan { config, clock, .. } = plan;
    let Data { state, store, .. } = data;
    let mut settings = config.registry.clone();
    if settings.fallback_tags == FallbackTags::WhereTakenOver {
        settings.fallback_tags = if state.is_taken_over() {
            FallbackTags::Kept
        } else {
            FallbackTags::Off
        };
    }
    let store = match plan.parts.store.as_ref().or(store.as_ref()) {
        Some(store) => Arc::clone(store),
        None => open_store(config, &mut settings, clock)?,
    };
    let index = match &plan.parts.index {
        Some(index) => Arc::clone(index),
        None => open_index(config, state, clock)?,
    };
    let secret = derived_secret(secret, "upload sessions")?;
    Ok(Registry::new(
        store,
        index,
        settings,
        &secret,
        Arc::clone(clock),
    ))
}

/// The configured store. What was found out about its volume goes into `settings`.
fn open_store(
    config: &Config,
    settings: &mut registry::Settings,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let store = config.storage.open(settings.readonly, Arc::clone(clock))?;
    // Where nothing is written no name can be taken for another, and the probe would be a write.
    if !settings.readonly {
        settings.case_insensitive = config
            .storage
            .is_case_insensitive()
            .with_context(|| format!("cannot write in {}", config.storage))?;
    }
    Ok(store)
}

/// The index in the state directory. It is opened in the background: until then lists come from the store, and a full disk, on
/// which it cannot be opened, stops neither pulls nor the deletes that make room.
fn open_index(
    config: &Config,
    state: &StateDirectory,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<Index>> {
    let settings = index::Settings {
        directory: config.state_directory.join("index"),
        // The secret is stored with the data: an index of other data is recognised, and data may be moved.
        store_id: HEXLOWER.encode(&derived_secret(state.secret(), "index")?),
    };
    durable_file::make_private_directory_if_ours(&config.state_directory)
        .with_context(|| format!("cannot make {}", config.state_directory.display()))?;
    Ok(Arc::new(Index::open_beside(&settings, Arc::clone(clock))?))
}
