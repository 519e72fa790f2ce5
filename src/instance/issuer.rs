//! An issuer of tokens without a registry: `docker_auth`'s listener alone.
//!
//! Must not know arguments, nor print anything. Invariant: nothing is written to disk, but for the file of a Unix socket.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::keys::derived_secret;
use super::reload::{ConfigSource, Reload};
use super::service_manager::ServiceManager;
use super::signals::Hangups;
use super::{CANNOT_SERVE, bind_for_tokens};
use crate::auth::{Auth, Secret};
use crate::clock::Clock;
use crate::config::{IssuerConfig, Signing};
use crate::metrics::{self, Metrics};
use crate::registry::MemoryBudget;
use crate::server::{BoundAddress, PassedSockets, Server, Services, Site};

/// An issuer that is bound to its address.
pub(crate) struct TokenIssuer {
    server: Server,
    reload: Arc<Reload>,
    auth: Arc<Auth>,
    clock: Arc<dyn Clock>,
}

impl TokenIssuer {
    /// Binds the address.
    pub(crate) fn bind(
        config: &IssuerConfig,
        source: Option<ConfigSource>,
        clock: &Arc<dyn Clock>,
        mut passed: PassedSockets,
    ) -> anyhow::Result<Self> {
        let Signing::Files(signing) = &config.auth.signing else {
            bail!("no key signs tokens");
        };
        // A registry keeps a secret with its data. Here the key of the tokens is all that outlives a restart, and refresh
        // tokens must outlive it too.
        let secret = derived_secret(signing.key_pem.as_bytes(), "auth of an issuer")?;
        let mut settings = config.auth.settings(Secret(secret), None);
        // No registry has this secret: not another process, and not this one once it serves the registry's file too.
        settings.token.names_generation = false;
        let auth = Arc::new(Auth::new(settings, Arc::clone(clock))?);
        let listener = bind_for_tokens(&config.listener, clock, &mut passed)?;
        passed.refuse_more()?;
        let certificates = listener.tls.iter().cloned().collect();
        let services = Services {
            auth: Arc::clone(&auth),
            clock: Arc::clone(clock),
            memory: MemoryBudget::new(config.whole_bodies_bytes),
            health: None,
            // Counted, and shown nowhere: the files of docker_auth name no address for it.
            metrics: Arc::new(Metrics::new(metrics::Sources {
                registry: None,
                auth: Arc::clone(&auth),
                health: None,
                certificates: Vec::new(),
                clock: Arc::clone(clock),
            })),
        };
        let server = Server::listen(vec![(listener, Site::TokenIssuer)], &services);
        let reload = Reload::new(source, &config.auth, Arc::clone(&auth), certificates);
        Ok(Self {
            server: server.context(CANNOT_SERVE)?,
            reload: Arc::new(reload),
            auth,
            clock: Arc::clone(clock),
        })
    }

    /// The bound address.
    pub(crate) fn address(&self) -> Option<BoundAddress> {
        self.server.addresses().into_iter().next()
    }

    /// Serves until `shutdown` resolves, reloads on each SIGHUP and when a file with users or rules has changed, and reports to the
    /// service manager.
    pub(crate) async fn run(
        self,
        hangups: Hangups,
        manager: &ServiceManager,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let reload = self.reload;
        let follower = Reload::following(Arc::clone(&self.clock));
        let following =
            Arc::clone(&reload).follow_files(follower, Arc::clone(&self.clock), manager);
        let heartbeat = ServiceManager::heartbeat(Arc::clone(&self.clock));
        manager.ready();
        tokio::select! {
            () = following => {}
            () = self.server.run(shutdown) => {}
            () = hangups.call(|| reload.run_aside(manager)) => {}
            () = manager.report(None, &self.auth, &heartbeat, self.clock.as_ref()), if manager.is_there() => {}
        }
    }
}
