//! The first run: makes what is missing, in an order in which it may end at any point and be run again.
//!
//! The config is written last, by rename: as long as it is absent, this is the first run, and what an earlier attempt made
//! (keys, authority, users) is kept. Invariant: the admin's password is out before its hash is kept, so there is never an
//! admin whose password was never shown. It never goes to a log.

use std::any::Any;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::Context;

use super::port;
use crate::cli::command::welcome::ShownPassword;
use crate::cli::password::Password;
use crate::config::TemplateBucket;
use crate::durable_file;
use crate::host_port::HostPort;
use crate::instance::keys::write_private;
use crate::instance::places::Places;

/// The first account.
pub(in crate::cli::command) const ADMIN: &str = "admin";

/// What the command line and the environment ask of a first run.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) address: Option<HostPort>,
    /// The port of a socket that the service manager has bound for this program.
    pub(super) passed_port: Option<u16>,
    pub(super) hosts: Vec<String>,
    /// `--s3` and `--bucket`
    pub(super) bucket: Option<TemplateBucket>,
    /// `BOATHOUSE_ADMIN_PASSWORD`
    pub(super) password: Option<Password>,
    /// Whether a person watches stderr.
    pub(super) is_terminal: bool,
}

/// What the config is written from.
#[derive(Debug)]
pub(super) struct FirstConfig<'a> {
    pub(super) places: &'a Places,
    pub(super) address: &'a HostPort,
    pub(super) hosts: &'a [String],
    /// Where the data are to be, if not in a directory.
    pub(super) bucket: Option<&'a TemplateBucket>,
}

/// What other layers make, and what a test must decide.
pub(super) trait Workshop {
    /// Fills a buffer with random bytes.
    fn random(&self, buffer: &mut [u8]) -> anyhow::Result<()>;
    /// Whether an address can be listened on, and at which port: port 0 is any that is free.
    fn bind(&self, address: &HostPort) -> io::Result<u16>;
    /// Locks the data until the result is dropped.
    fn lock(&self, first: &FirstConfig<'_>) -> anyhow::Result<Box<dyn Any>>;
    /// Makes `token.crt` and `token.key` in `keys_directory` unless they are there.
    fn make_token_key(&self, keys_directory: &Path) -> anyhow::Result<()>;
    /// Makes the authority and the leaf unless they are there.
    fn make_certificates(&self, first: &FirstConfig<'_>) -> anyhow::Result<()>;
    /// Writes the file of users with one admin of this password hash.
    fn write_users(&self, path: &Path, hash: &str) -> anyhow::Result<()>;
    /// The text of `boathouse.yml`.
    fn config_text(&self, first: &FirstConfig<'_>) -> String;
    /// Tells the person at the terminal something.
    fn tell(&self, line: &str);
}

/// Completes the first run. Nothing happens if the config exists. Returns what to show of the password that this run has made.
pub(super) fn complete(
    places: &Places,
    request: &Request,
    workshop: &dyn Workshop,
) -> anyhow::Result<Option<ShownPassword>> {
    if places.config.exists() {
        if request.address.is_some() {
            let config = places.config.display();
            workshop.tell(&format!(
                "note: --addr counts on the first run only; the address is now `http.addr` in {config}"
            ));
        }
        return Ok(None);
    }
    // Nothing is written before all that was asked for is found to be possible.
    let address = match (&request.address, request.passed_port) {
        // It is bound already.
        (None, Some(port)) => HostPort::every_address(port),
        (asked, _) => port::choose(asked.as_ref(), &|address| workshop.bind(address))?,
    };
    let first = FirstConfig {
        places,
        address: &address,
        hosts: &request.hosts,
        bucket: request.bucket.as_ref(),
    };
    // Two first runs at once would each make an authority; only one of them gets past the lock.
    let _alone = workshop.lock(&first)?;
    if places.config.exists() {
        return Ok(None);
    }
    make_directories(&first)?;
    workshop.make_token_key(&places.keys_directory)?;
    workshop.make_certificates(&first)?;
    let password = if places.users.exists() {
        let users = places.users.display();
        workshop.tell(&format!("note: {users} exists already and is kept"));
        None
    } else {
        make_admin(places, request, workshop)?
    };
    write_private(&places.config, &workshop.config_text(&first))?;
    let config = places.config.display();
    workshop.tell(&format!("note: wrote the configuration to {config}"));
    Ok(password)
}

/// Makes the first account. Its password is printed, or kept for the user who runs this. Returns what the welcome shows of it.
pub(super) fn make_admin(
    places: &Places,
    request: &Request,
    workshop: &dyn Workshop,
) -> anyhow::Result<Option<ShownPassword>> {
    let password = match &request.password {
        Some(given) => given.clone(),
        None => Password::random(|buffer| workshop.random(buffer))?,
    };
    let hash = password.hash()?;
    let shown = if request.password.is_some() {
        workshop.tell(&format!(
            "note: the password of `{ADMIN}` is the one in BOATHOUSE_ADMIN_PASSWORD"
        ));
        Some(ShownPassword::Given)
    } else if request.is_terminal {
        let password = password.expose();
        // Now, and once more in the welcome: a start that fails in between must not leave an account without a password.
        workshop.tell(&format!("The password of `{ADMIN}` is {password}"));
        Some(ShownPassword::Made(password.to_owned()))
    } else {
        let path = &places.admin_password;
        write_private(path, &format!("{}\n", password.expose()))?;
        workshop.tell(&format!(
            "note: the password of `{ADMIN}` is in {}; remove the file once you have it",
            path.display()
        ));
        None
    };
    workshop.write_users(&places.users, &hash)?;
    Ok(shown)
}

fn make_directories(first: &FirstConfig<'_>) -> anyhow::Result<()> {
    let places = first.places;
    let make = |path: &Path, mode| {
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("cannot make the directory {}", path.display()))
    };
    make(places.config.parent().unwrap_or(Path::new("/")), 0o755)?;
    durable_file::make_private_directory_if_ours(&places.state_directory)
        .with_context(|| format!("cannot make {}", places.state_directory.display()))?;
    make(&places.keys_directory, 0o700)?;
    match first.bucket {
        // As the store makes it: for its owner and group.
        None => make(&places.data, 0o750),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use anyhow::bail;

    use super::*;
    use crate::instance::places::Surroundings;

    /// Writes stand-ins, and stops at the step with the number `fails_at`.
    #[derive(Default)]
    struct TestWorkshop {
        steps: Cell<usize>,
        fails_at: Option<usize>,
        told: RefCell<Vec<String>>,
        /// What another process did before it let go of the lock.
        on_lock: Option<Box<dyn Fn()>>,
    }

    impl TestWorkshop {
        fn step(&self) -> anyhow::Result<()> {
            self.steps.set(self.steps.get() + 1);
            if self.fails_at == Some(self.steps.get()) {
                bail!("the machine lost power");
            }
            Ok(())
        }

        /// Stands for a step that may end before or after its file is there, and keeps a file that is there.
        fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
            self.step()?;
            if !path.exists() {
                fs::write(path, text)?;
            }
            self.step()
        }
    }

    impl Workshop for TestWorkshop {
        fn random(&self, buffer: &mut [u8]) -> anyhow::Result<()> {
            buffer.fill(u8::try_from(self.steps.get())?);
            Ok(())
        }
        fn bind(&self, address: &HostPort) -> io::Result<u16> {
            match address.port() {
                443 => Err(io::ErrorKind::PermissionDenied.into()),
                port => Ok(port),
            }
        }
        fn lock(&self, _: &FirstConfig<'_>) -> anyhow::Result<Box<dyn Any>> {
            self.on_lock.iter().for_each(|act| act());
            Ok(Box::new(()))
        }
        fn make_token_key(&self, keys_directory: &Path) -> anyhow::Result<()> {
            self.write(&keys_directory.join("token.key"), "token")
        }
        fn make_certificates(&self, first: &FirstConfig<'_>) -> anyhow::Result<()> {
            self.write(&first.places.ca_certificate, "authority")
        }
        fn write_users(&self, path: &Path, hash: &str) -> anyhow::Result<()> {
            assert!(!path.exists());
            self.write(path, hash)
        }
        fn config_text(&self, first: &FirstConfig<'_>) -> String {
            format!("{} {:?}", first.address, first.hosts)
        }
        fn tell(&self, line: &str) {
            self.told.borrow_mut().push(line.to_owned());
        }
    }

    fn places_below(directory: &Path) -> Places {
        let surroundings = Surroundings {
            is_macos: false,
            user_id: 7,
            environment: &|_| None,
        };
        Places::choose(Some(directory), &surroundings).unwrap()
    }

    #[test]
    fn a_run_that_ended_at_any_step_is_completed_by_the_next() {
        for fails_at in 1..=6 {
            let directory = tempfile::tempdir().unwrap();
            let places = places_below(directory.path());
            let request = Request::default();
            let broken = TestWorkshop {
                fails_at: Some(fails_at),
                ..TestWorkshop::default()
            };
            complete(&places, &request, &broken).unwrap_err();
            assert!(!places.config.exists(), "the config comes last");

            complete(&places, &request, &TestWorkshop::default()).unwrap();
            assert_eq!(fs::read_to_string(&places.config).unwrap(), ":5443 []");
            // Whichever run made the admin: the password that can be read is the one whose hash is kept.
            let password = fs::read_to_string(&places.admin_password).unwrap();
            let hash = fs::read_to_string(&places.users).unwrap();
            assert!(
                bcrypt::verify(password.trim(), &hash).unwrap(),
                "step {fails_at}"
            );
        }
    }

    #[test]
    fn secrets_are_for_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let places = places_below(directory.path());
        complete(&places, &Request::default(), &TestWorkshop::default()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&places.keys_directory), 0o700);
        assert_eq!(mode(&places.data) & 0o007, 0);
        assert_eq!(mode(&places.config), 0o600);
        assert_eq!(mode(&places.admin_password), 0o600);
    }

    #[test]
    fn a_password_is_shown_to_a_terminal_and_a_given_one_to_nobody() {
        for (is_terminal, password) in [
            (true, None),
            (
                false,
                Some(Password::chosen(ADMIN, "s3cret-of-ann".to_owned()).unwrap()),
            ),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let places = places_below(directory.path());
            let workshop = TestWorkshop::default();
            let request = Request {
                is_terminal,
                password: password.clone(),
                ..Request::default()
            };
            let shown = complete(&places, &request, &workshop).unwrap();
            assert!(!places.admin_password.exists());
            let told = workshop.told.borrow().join("\n");
            match shown {
                Some(ShownPassword::Made(shown)) => {
                    assert!(password.is_none() && told.contains(&shown), "{told}");
                }
                shown => assert_eq!(
                    (shown, password.is_some()),
                    (Some(ShownPassword::Given), true)
                ),
            }
            assert!(!told.contains("s3cret-of-ann"));
        }
    }

    #[test]
    fn later_runs_change_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let places = places_below(directory.path());
        fs::write(&places.config, "mine").unwrap();
        let workshop = TestWorkshop::default();
        let request = Request {
            address: Some(HostPort::every_address(5_443)),
            ..Request::default()
        };
        complete(&places, &request, &workshop).unwrap();
        assert_eq!(fs::read_to_string(&places.config).unwrap(), "mine");
        assert!(!places.keys_directory.exists());
        assert!(workshop.told.borrow()[0].contains("first run only"));
    }

    #[test]
    fn of_two_first_runs_at_once_the_later_one_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let places = places_below(directory.path());
        let config = places.config.clone();
        let workshop = TestWorkshop {
            on_lock: Some(Box::new(move || fs::write(&config, "mine").unwrap())),
            ..TestWorkshop::default()
        };
        complete(&places, &Request::default(), &workshop).unwrap();
        assert_eq!(fs::read_to_string(&places.config).unwrap(), "mine");
        assert!(!places.keys_directory.exists());
    }
}
