//! SIGHUP, `boathouse reload`, or a changed file that holds users or rules: users, rules and certificates are read again.
//!
//! Invariants: a mistake in the files changes nothing; users and rules come first, and a certificate that cannot be read
//! keeps no revocation from taking effect; what cannot change while the program runs is named, not ignored; keys that sign
//! tokens are neither read nor made; a warning is not repeated while its cause stays; of two reloads at once the later one's
//! files are in force afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};

use super::service_manager::ServiceManager;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{self, AccountFile, AuthConfig, ConfigErrors, FollowedFiles, InForce, Loaded};
use crate::heartbeat::Heartbeat;
use crate::server::control;
use crate::tls::Tls;

/// Between two looks at the configuration files. A change is in force after this time and that for which a file must stay the
/// same, 3 s in all.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Of the usual mistakes in rules, how many are logged at a time: generated rules make the same one thousands of times.
const MISTAKES_LOGGED_MAX: usize = 20;

/// What is probably not meant in a configuration, as far as it was logged.
#[derive(Debug, Default)]
pub struct Warnings(BTreeSet<String>);

impl Warnings {
    /// Logs the warnings and the usual mistakes in rules that were not there the last time.
    pub(crate) fn log(&mut self, warnings: &[String], auth: &AuthConfig) {
        let mistakes = auth.mistakes();
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        let is_new = |text: &&String| !self.0.contains(*text);
        for warning in warnings.iter().filter(is_new) {
            tracing::warn!("{warning}");
        }
        let new: Vec<&String> = mistakes.iter().filter(is_new).collect();
        for mistake in new.iter().take(MISTAKES_LOGGED_MAX) {
            tracing::warn!("{mistake}");
        }
        let more = new.len().saturating_sub(MISTAKES_LOGGED_MAX);
        if more > 0 {
            tracing::warn!(
                more,
                "more rules are probably not meant as they are; hint: `boathouse check` shows all"
            );
        }
        self.0 = warnings.iter().cloned().chain(mistakes).collect();
    }
}

/// Where a running instance's configuration came from.
#[derive(Debug, Default)]
pub struct ConfigSource {
    /// The files, in their order.
    pub files: Vec<PathBuf>,
    /// The variables that override keys.
    pub environment: BTreeMap<String, String>,
    /// Every key in force, as the program was started.
    pub in_force: Vec<InForce>,
    /// What was logged about it.
    pub warnings: Warnings,
    /// The files that hold users or rules, as the program read them.
    pub followed: FollowedFiles,
}

/// All that a reload needs.
pub(crate) struct Reload {
    /// `None` if there are no files to read.
    source: Option<ConfigSource>,
    /// The certificates of all listeners.
    certificates: Vec<Arc<Tls>>,
    auth: Arc<Auth>,
    /// The file of accounts that is followed. Locked from the reading of the files until they are in force.
    followed: Mutex<Option<AccountFile>>,
    /// The configuration files that are followed.
    followed_files: Mutex<FollowedFiles>,
    /// What was logged about the configuration.
    warnings: Mutex<Warnings>,
}

impl Reload {
    pub(super) fn new(
        mut source: Option<ConfigSource>,
        config: &AuthConfig,
        auth: Arc<Auth>,
        certificates: Vec<Arc<Tls>>,
    ) -> Self {
        let warnings = source
            .as_mut()
            .map(|source| mem::take(&mut source.warnings));
        let followed_files = source
            .as_mut()
            .map(|source| mem::take(&mut source.followed));
        Self {
            followed_files: Mutex::new(followed_files.unwrap_or_default()),
            warnings: Mutex::new(warnings.unwrap_or_default()),
            source,
            certificates,
            auth,
            followed: Mutex::new(config.account_file.clone()),
        }
    }

    /// [`Reload::run`] in a thread of its own: it reads and parses files, for seconds if there are many accounts.
    pub(super) async fn run_aside(
        self: &Arc<Self>,
        manager: &ServiceManager,
    ) -> anyhow::Result<Vec<String>> {
        manager.reloading();
        let reload = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || reload.run());
        let result = done.await.context("the reload failed").flatten();
        manager.reloaded(&result);
        if result.is_ok() {
            tracing::info!("users, rules and certificates were read again");
        }
        result
    }

    /// The heartbeat of [`Reload::follow_files`].
    pub(super) fn following(clock: Arc<dyn Clock>) -> Arc<Heartbeat> {
        Heartbeat::new("following the configuration files", clock)
    }

    /// Whether a configuration file holds users or rules.
    pub(super) fn follows_files(&self) -> bool {
        !self.followed_files().is_empty()
    }

    /// Reloads whenever a configuration file that holds users or rules has changed, as `docker_auth` does; never returns. An error
    /// is logged once for each content.
    pub(super) async fn follow_files(
        self: Arc<Self>,
        heartbeat: Arc<Heartbeat>,
        clock: Arc<dyn Clock>,
        manager: &ServiceManager,
    ) {
        let _beating = heartbeat.begin();
        loop {
            heartbeat.rest_for(LOOK_PAUSE);
            clock.sleep(LOOK_PAUSE).await;
            heartbeat.beat();
            if self.followed_files().are_settled() {
                continue;
            }
            let (reload, now) = (Arc::clone(&self), clock.elapsed());
            let looked =
                tokio::task::spawn_blocking(move || reload.followed_files().have_changed(now));
            if matches!(looked.await, Ok(true))
                && let Err(error) = self.run_aside(manager).await
            {
                tracing::error!("a configuration file has changed: {error:#}");
            }
        }
    }

    fn followed_files(&self) -> MutexGuard<'_, FollowedFiles> {
        self.followed_files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What the control socket calls.
    pub(super) fn on_command(reload: &Arc<Self>, manager: &Arc<ServiceManager>) -> control::Reload {
        let (reload, manager) = (Arc::clone(reload), Arc::clone(manager));
        Box::new(move || {
            let (reload, manager) = (Arc::clone(&reload), Arc::clone(&manager));
            Box::pin(async move {
                let done = reload.run_aside(&manager).await;
                done.map_err(|error| format!("{error:#}"))
            })
        })
    }

    /// Reads the files again. Returns the changed keys that only a restart applies. An error says what stays as it was.
    fn run(&self) -> anyhow::Result<Vec<String>> {
        match &self.source {
            None => Ok(Vec::new()),
            Some(source) => self.run_with(source, || {
                config::load_accounts_again(&source.files, &source.environment)
            }),
        }
    }

    fn run_with(
        &self,
        source: &ConfigSource,
        load: impl FnOnce() -> Result<Loaded<AuthConfig>, ConfigErrors>,
    ) -> anyhow::Result<Vec<String>> {
        // Otherwise a slow reload could put what it read back over what a faster one read after it: an account that was
        // removed from the configuration would be back.
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = load().context("nothing was changed")?;
        refuse_a_missing_users_file(followed.as_ref(), &loaded.config)
            .context("nothing was changed")?;
        self.auth.reload(loaded.config.accounts.clone());
        followed.clone_from(&loaded.config.account_file);
        self.followed_files().take_up(loaded.followed);
        // Looking for mistakes takes a while with thousands of rules, and keeps no account from ending.
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.log(&loaded.warnings, &loaded.config);
        drop(warnings);
        let needs_restart = config::needs_restart(&source.in_force, &loaded.in_force);
        for key in &needs_restart {
            tracing::warn!(key, "config key changed; restart to apply it");
        }
        // One that cannot be read keeps no other from being read.
        let reloaded: Vec<_> = self.certificates.iter().map(|tls| tls.reload()).collect();
        for result in reloaded {
            result.context("users and rules were read again, but a certificate stays as it was")?;
        }
        if self.auth.is_open() && loaded.config.required {
            bail!(
                "users and rules were read again, but this server was started without authentication, and stays so until it is restarted"
            );
        }
        Ok(needs_restart.into_iter().map(str::to_owned).collect())
    }
}

/// Without the file its revocations and rules would be forgotten: tokens that were revoked would count again.
fn refuse_a_missing_users_file(
    followed: Option<&AccountFile>,
    now: &AuthConfig,
) -> anyhow::Result<()> {
    let had_one = followed.is_some_and(AccountFile::was_there);
    match (&now.users_file, &now.account_file) {
        (Some(path), Some(file)) if had_one && !file.was_there() => bail!(
            "{} is missing; restore it, or remove `users_file` from the configuration",
            path.display()
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::auth::{Access, Origin, Secret};
    use crate::clock::{Clock, SystemClock};

    /// A running program's files, and how its `bob` fares.
    struct Lab {
        directory: tempfile::TempDir,
        reload: Reload,
    }

    impl Lab {
        fn start(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("config.yml");
            let text = text.replace("DIR", directory.path().to_str().unwrap());
            fs::write(&file, text).unwrap();
            fs::write(
                directory.path().join("users.yml"),
                "users: {eve: {password: x}}\n",
            )
            .unwrap();
            let pair = rcgen::generate_simple_self_signed(["lab.local".to_owned()]).unwrap();
            fs::write(directory.path().join("tls.crt"), pair.cert.pem()).unwrap();
            fs::write(
                directory.path().join("tls.key"),
                pair.signing_key.serialize_pem(),
            )
            .unwrap();
            let files = vec![file];
            let loaded = config::load(&files, &BTreeMap::new()).unwrap();
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
            let settings = loaded.config.auth_settings(Secret([7; 32]), None);
            let tls = Tls::open(&loaded.config.tls, Arc::clone(&clock)).unwrap();
            let source = ConfigSource {
                files,
                in_force: loaded.in_force,
                ..ConfigSource::default()
            };
            let auth = Arc::new(Auth::new(settings, clock).unwrap());
            let reload = Reload::new(
                Some(source),
                &loaded.config.auth,
                auth,
                tls.map(Arc::new).into_iter().collect(),
            );
            Self { directory, reload }
        }

        /// Whether the account is there, has no password and may pull.
        async fn is_let_in(&self, account: &str) -> bool {
            let origin = Origin {
                client: [192, 0, 2, 1].into(),
                is_https: true,
                host: "lab".to_owned(),
            };
            let credentials = STANDARD.encode(format!("{account}:any"));
            let header = format!("Basic {credentials}");
            let auth = &self.reload.auth;
            let caller = auth.caller(&[&header], &origin).await.unwrap();
            let access = Access::Pull("team/app".parse().unwrap());
            auth.authorise(&caller, &access, &origin).is_ok()
        }

        fn source(&self) -> &ConfigSource {
            self.reload.source.as_ref().unwrap()
        }

        fn load(&self) -> Result<Loaded<AuthConfig>, ConfigErrors> {
            config::load_accounts_again(&self.source().files, &BTreeMap::new())
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.directory.path().join(name), text).unwrap();
        }
    }

    const CONFIG: &str = "storage: {filesystem: {rootdirectory: DIR}}\nusers_file: DIR/users.yml\nusers: {bob: {}}\nacl: [{match: {}, actions: ['*']}]\n";

    #[tokio::test]
    async fn a_users_file_that_has_gone_changes_nothing() {
        let lab = Lab::start(CONFIG);
        lab.write("users.yml", "users: {amy: {}}\n");
        lab.reload.run().unwrap();
        assert!(lab.is_let_in("amy").await);
        fs::remove_file(lab.directory.path().join("users.yml")).unwrap();
        for _ in 0..2 {
            let error = format!("{:#}", lab.reload.run().unwrap_err());
            assert!(error.starts_with("nothing was changed: "), "{error}");
            assert!(error.contains("users.yml is missing"), "{error}");
            assert!(lab.is_let_in("amy").await);
        }
        lab.write("users.yml", "users: {}\n");
        lab.reload.run().unwrap();
        assert!(!lab.is_let_in("amy").await && lab.is_let_in("bob").await);
    }

    #[tokio::test]
    async fn a_bad_certificate_keeps_no_account_from_ending() {
        let tls = "http: {tls: {certificate: DIR/tls.crt, key: DIR/tls.key}}\n";
        let lab = Lab::start(&format!("{CONFIG}{tls}"));
        lab.write("users.yml", "users: {amy: {}}\n");
        lab.reload.run().unwrap();
        assert!(lab.is_let_in("amy").await);
        lab.write("tls.crt", "half a file");
        lab.write("users.yml", "users: {}\n");
        let error = format!("{:#}", lab.reload.run().unwrap_err());
        assert!(error.starts_with("users and rules were read"), "{error}");
        assert!(!lab.is_let_in("amy").await);
    }

    #[tokio::test]
    async fn a_reload_makes_no_keys() {
        let lab = Lab::start(CONFIG);
        lab.reload.run().unwrap();
        assert!(!lab.directory.path().join("boathouse/keys").exists());
    }

    #[tokio::test]
    async fn a_server_that_was_started_open_says_that_it_still_is() {
        let lab = Lab::start("storage: {filesystem: {rootdirectory: DIR}}\n");
        lab.reload.run().unwrap();
        let text = CONFIG.replace("DIR", lab.directory.path().to_str().unwrap());
        lab.write("config.yml", &text);
        let error = lab.reload.run().unwrap_err().to_string();
        assert!(error.contains("started without authentication"), "{error}");
    }

    #[tokio::test]
    async fn a_slow_reload_undoes_no_later_one() {
        let lab = Arc::new(Lab::start(CONFIG));
        let (has_read, reading) = mpsc::channel();
        let (goes_on, waiting) = mpsc::channel::<()>();
        let slow = std::thread::spawn({
            let lab = Arc::clone(&lab);
            move || {
                lab.reload.run_with(lab.source(), || {
                    let loaded = lab.load();
                    has_read.send(()).unwrap();
                    waiting.recv().unwrap();
                    loaded
                })
            }
        });
        reading.recv().unwrap();
        let text = CONFIG.replace("DIR", lab.directory.path().to_str().unwrap());
        lab.write("config.yml", &text.replace("{bob: {}}", "{amy: {}}"));
        let (has_ended, ending) = mpsc::channel();
        let later = std::thread::spawn({
            let lab = Arc::clone(&lab);
            move || {
                let result = lab.reload.run_with(lab.source(), || lab.load());
                has_ended.send(()).unwrap();
                result
            }
        });
        // The later one waits for the slow one. If it does not, it is given the time to end first.
        let _ = ending.recv_timeout(Duration::from_secs(1));
        goes_on.send(()).unwrap();
        slow.join().unwrap().unwrap();
        later.join().unwrap().unwrap();
        assert!(
            lab.is_let_in("amy").await,
            "a slow reload undid a later one"
        );
    }
}
