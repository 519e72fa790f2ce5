//! SIGHUP: users, rules and certificates are read again.
//!
//! Invariants: a mistake in the files changes nothing; users and rules come first, and a certificate that cannot be read
//! keeps no revocation from taking effect; what cannot change while the program runs is named, not ignored; keys that sign
//! tokens are neither read nor made; of two reloads at once the later one's files are in force afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};

use crate::auth::Auth;
use crate::config::{self, AuthConfig, ConfigErrors, InForce, Loaded, ServingMark};
use crate::tls::Tls;

/// Keys that a reload takes up.
const RELOADED: [&str; 4] = ["users", "acl", "users_file", "revoked"];

/// All that a reload needs.
pub(crate) struct Reload {
    pub(crate) config_files: Vec<PathBuf>,
    pub(crate) environment: BTreeMap<String, String>,
    /// As the program was started.
    pub(crate) in_force: Vec<InForce>,
    /// Whether what is in force came from a `users_file` too.
    pub(crate) had_users_file: AtomicBool,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) auth: Arc<Auth>,
    /// Where this server listens for commands, and the mark that says so beside the users file.
    pub(crate) control_socket: PathBuf,
    pub(crate) mark: Mutex<Option<ServingMark>>,
    /// Held from the reading of the files until they are in force.
    pub(crate) one_at_a_time: Mutex<()>,
}

impl Reload {
    /// Reads the files again. An error says what stays as it was.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        self.run_with(|| {
            let loaded = config::load_again(&self.config_files, &self.environment)?;
            if self.renew_mark(&loaded.config.auth) {
                // What was changed before the mark was there is read too.
                return config::load_again(&self.config_files, &self.environment);
            }
            Ok(loaded)
        })
    }

    /// The mark by which commands find this server.
    pub(crate) fn mark_id(&self) -> Option<String> {
        let mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        mark.as_ref().map(|mark| mark.id().to_owned())
    }

    /// The users file may be another one now, or the same behind another link. Tells whether there is a new mark.
    fn renew_mark(&self, auth: &AuthConfig) -> bool {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = match (&auth.users_file, mark.as_ref()) {
            (Some(file), Some(mark)) => mark.is_beside(file),
            (None, _) => true,
            (Some(_), None) => false,
        };
        if !is_there {
            *mark = leave_mark(auth, &self.control_socket);
        }
        !is_there && mark.is_some()
    }

    fn run_with(&self, load: impl FnOnce() -> Result<Loaded, ConfigErrors>) -> anyhow::Result<()> {
        // Otherwise a slow reload could put what it read back over what a faster one read after it: a revocation that its
        // command has called done would be gone.
        let _alone = self
            .one_at_a_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let loaded = load().context("nothing was changed")?;
        self.refuse_a_users_file_that_has_gone(&loaded.config.auth)
            .context("nothing was changed")?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        self.auth.reload(loaded.config.auth.accounts());
        self.had_users_file
            .store(loaded.config.auth.has_users_file, Ordering::Relaxed);
        for key in changed(&self.in_force, &loaded.in_force) {
            tracing::warn!(key, "was changed; this needs a restart");
        }
        if let Some(tls) = &self.tls {
            tls.reload().context(
                "users and rules were read again, but the certificates stay as they were",
            )?;
        }
        if self.auth.is_open() && loaded.config.auth.required {
            bail!(
                "users and rules were read again, but this server was started open to everybody, and stays so until it is restarted"
            );
        }
        Ok(())
    }

    /// Without its file, who was revoked there would be let in again, and its rules would be forgotten.
    fn refuse_a_users_file_that_has_gone(&self, now: &AuthConfig) -> anyhow::Result<()> {
        match &now.users_file {
            Some(path) if !now.has_users_file && self.had_users_file.load(Ordering::Relaxed) => {
                bail!(
                    "{} has gone; restore it, or remove `users_file` from the configuration",
                    path.display()
                )
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Leaves the mark by which commands find this server, if it reads a users file.
pub(crate) fn leave_mark(auth: &AuthConfig, control_socket: &Path) -> Option<ServingMark> {
    let file = auth.users_file.as_deref()?;
    match ServingMark::leave(file, control_socket) {
        Ok(mark) => Some(mark),
        Err(error) => {
            tracing::warn!(
                %error,
                users_file = %file.display(),
                "cannot write beside the users file, so commands that change accounts may not find this server; hint: let \
                 Boathouse's user write in that directory, or send SIGHUP after each change"
            );
            None
        }
    }
}

/// The keys that have another value now and that a reload does not take up.
fn changed<'a>(before: &'a [InForce], now: &'a [InForce]) -> Vec<&'a str> {
    let stays = |key: &InForce| {
        before
            .iter()
            .any(|old| old.key == key.key && old.value == key.value)
    };
    let is_reloaded = |key: &InForce| {
        let top = key.key.split('.').next().unwrap_or_default();
        RELOADED.contains(&top)
    };
    let changed = now.iter().filter(|key| !stays(key) && !is_reloaded(key));
    changed.map(|key| key.key.as_str()).collect()
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

    #[test]
    fn only_what_needs_a_restart_is_named() {
        let key = |key: &str, value: &str| InForce {
            key: key.into(),
            value: value.into(),
            place: None,
        };
        let before = [
            key("http.addr", ":443"),
            key("users", "1"),
            key("log.level", "info"),
        ];
        let now = [
            key("http.addr", ":80"),
            key("users", "2"),
            key("log.level", "info"),
        ];
        assert_eq!(changed(&before, &now), ["http.addr"]);
    }

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
            let reload = Reload {
                config_files: files,
                environment: BTreeMap::new(),
                in_force: loaded.in_force,
                had_users_file: AtomicBool::new(loaded.config.auth.has_users_file),
                tls: tls.map(Arc::new),
                auth: Arc::new(Auth::new(settings, clock).unwrap()),
                control_socket: directory.path().join("control.sock"),
                mark: Mutex::default(),
                one_at_a_time: Mutex::default(),
            };
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

        fn load(&self) -> Result<Loaded, ConfigErrors> {
            config::load_again(&self.reload.config_files, &self.reload.environment)
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
            assert!(error.contains("users.yml has gone"), "{error}");
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
        assert!(error.contains("started open to everybody"), "{error}");
    }

    #[tokio::test]
    async fn a_slow_reload_undoes_no_later_one() {
        let lab = Arc::new(Lab::start(CONFIG));
        let (has_read, reading) = mpsc::channel();
        let (goes_on, waiting) = mpsc::channel::<()>();
        let slow = std::thread::spawn({
            let lab = Arc::clone(&lab);
            move || {
                lab.reload.run_with(|| {
                    let loaded = lab.load();
                    has_read.send(()).unwrap();
                    waiting.recv().unwrap();
                    loaded
                })
            }
        });
        reading.recv().unwrap();
        lab.write("users.yml", "users: {amy: {}}\n");
        let (has_ended, ending) = mpsc::channel();
        let later = std::thread::spawn({
            let lab = Arc::clone(&lab);
            move || {
                let result = lab.reload.run_with(|| lab.load());
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
