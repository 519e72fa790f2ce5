//! Where everything lies: below one directory, or in the platform's places.
//!
//! Must not write to the disk. Invariant: every path is absolute, so that the config means the same from wherever it is read.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{Access, access};

use crate::config::{Config, service_directory, usual_places};
use crate::oci::{Algorithm, Digest};
use crate::platform;
use crate::store::user_access;

/// A socket's path must fit into `sockaddr_un`: 104 bytes on macOS, 108 on Linux.
const SOCKET_PATH_BYTES_MAX: usize = 100;

/// The files and directories of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) config: PathBuf,
    pub(crate) ca_certificate: PathBuf,
    pub(crate) keys_directory: PathBuf,
    pub(crate) users: PathBuf,
    /// The first admin's password, when there was no terminal to show it on.
    pub(crate) admin_password: PathBuf,
    pub(crate) data: PathBuf,
    /// Lock, secret and index.
    pub(crate) state_directory: PathBuf,
}

/// Where our own files are that belong to no installation.
pub(crate) fn own_directory(surroundings: &Surroundings<'_>) -> anyhow::Result<PathBuf> {
    let directories = surroundings.directories();
    let (config, _) =
        directories.context("there is no home directory to keep anything in\nhint: set HOME")?;
    Ok(config)
}

/// What the platform's places depend on.
pub(crate) struct Surroundings<'a> {
    pub(crate) is_macos: bool,
    pub(crate) user_id: u32,
    pub(crate) environment: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Places {
    /// All below `directory`, or where the platform wants them.
    pub(crate) fn choose(
        directory: Option<&Path>,
        surroundings: &Surroundings<'_>,
    ) -> anyhow::Result<Self> {
        match directory {
            Some(directory) => {
                let directory = absolute(directory)
                    .with_context(|| format!("cannot use {}", directory.display()))?;
                Ok(Self::new(&directory, &directory))
            }
            None => match surroundings.directories() {
                Some((config, state)) => Ok(Self::new(&config, &state)),
                None => bail!(
                    "there is no home directory to keep anything in\nhint: name a directory with --dir, or set HOME"
                ),
            },
        }
    }

    fn new(config: &Path, state: &Path) -> Self {
        Self {
            config: config.join("boathouse.yml"),
            ca_certificate: config.join("ca.crt"),
            keys_directory: config.join("keys"),
            users: config.join("users.yml"),
            admin_password: config.join("admin-password"),
            data: state.join("data"),
            state_directory: state.to_owned(),
        }
    }
}

impl Surroundings<'static> {
    /// This process's.
    pub(crate) fn here() -> Self {
        Self {
            is_macos: platform::IS_MACOS,
            user_id: platform::effective_user_id(),
            environment: &|name| env::var_os(name),
        }
    }
}

impl Surroundings<'_> {
    /// Where an instance with this state directory listens for commands. It is found from the configuration alone, by the
    /// server and by commands: with the state, or, where that path is too long for a socket, in the directory for sockets
    /// under a name made from it.
    fn control_socket(&self, state_directory: &Path) -> PathBuf {
        let directory = absolute(state_directory).unwrap_or_else(|_| state_directory.to_owned());
        let beside_state = directory.join("control.sock");
        let is_short = beside_state.as_os_str().len() <= SOCKET_PATH_BYTES_MAX;
        let runtime = self.runtime_directory().filter(|_| !is_short);
        let Some(runtime) = runtime else {
            return beside_state;
        };
        let path = beside_state.as_os_str().as_encoded_bytes();
        let digest = Digest::of(Algorithm::Sha256, path);
        runtime.join(format!("boathouse-{:.16}.sock", digest.hex()))
    }

    /// A variable that names a directory. A relative path counts as unset, as the XDG specification asks.
    fn directory(&self, variable: &str) -> Option<PathBuf> {
        let path = (self.environment)(variable).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    }

    /// For what is configured, and for what grows.
    fn directories(&self) -> Option<(PathBuf, PathBuf)> {
        usual_places(self.is_macos, self.user_id, self.environment)
    }

    /// For sockets.
    fn runtime_directory(&self) -> Option<PathBuf> {
        match (self.is_macos, self.user_id) {
            (true, 0) => Some("/var/run".into()),
            (false, 0) => Some("/run".into()),
            (true, _) => self.directory("TMPDIR"),
            (false, _) => self.directory("XDG_RUNTIME_DIR"),
        }
    }
}

/// The socket for the group of a service, in the directory that systemd's `RuntimeDirectory=` makes.
const GROUP_SOCKET: &str = "control.sock";

/// Where the instance listens for questions of its group, if its service manager gives it a directory for that.
pub(crate) fn group_socket(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    Some(service_directory(environment, "RUNTIME_DIRECTORY")?.join(GROUP_SOCKET))
}

/// The same of root's installation, as a command finds it.
pub(crate) fn group_socket_of_root() -> PathBuf {
    Path::new("/run/boathouse").join(GROUP_SOCKET)
}

/// Where the instance with this configuration listens for commands.
pub(crate) fn control_socket(config: &Config) -> PathBuf {
    Surroundings::here().control_socket(&config.state_directory)
}

/// Refuses data that belong to another user than `user_id`: that user's server could not open the files that are made there.
pub(crate) fn refuse_data_of_another(root: &Path, user_id: u32) -> anyhow::Result<()> {
    let owner = match user_access::owner_id(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        owner => owner.with_context(|| format!("cannot look at {}", root.display()))?,
    };
    if owner == user_id {
        return Ok(());
    }
    bail!(
        "{} belongs to the user with id {owner}, who could not open files that another user makes there; nothing was changed\n\
         hint: run this as that user: `sudo -u '#{owner}' boathouse …`, or `User=` of the service",
        root.display()
    )
}

/// The same where this process is root. Other users may share data by their group. What root cannot write to, it cannot spoil.
pub(crate) fn refuse_data_of_another_as_root(root: &Path) -> anyhow::Result<()> {
    if platform::effective_user_id() == 0 && access(root, Access::WRITE_OK).is_ok() {
        return refuse_data_of_another(root, 0);
    }
    Ok(())
}

/// `path` as it is meant from here, without `.` in it.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path).map(|path| path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        directory: Option<&str>,
        is_macos: bool,
        user_id: u32,
        variables: &[(&str, &str)],
    ) -> Option<Places> {
        let environment = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let surroundings = Surroundings {
            is_macos,
            user_id,
            environment: &environment,
        };
        Places::choose(directory.map(Path::new), &surroundings).ok()
    }

    #[test]
    fn with_a_directory_everything_lies_below_it() {
        let places = chosen(Some("/srv/./lab/"), false, 0, &[]).unwrap();
        assert_eq!(places.config, Path::new("/srv/lab/boathouse.yml"));
        assert_eq!(places.keys_directory, Path::new("/srv/lab/keys"));
        assert_eq!(places.data, Path::new("/srv/lab/data"));
        assert!(
            chosen(Some("lab"), false, 7, &[])
                .unwrap()
                .data
                .is_absolute()
        );
    }

    #[test]
    fn data_of_another_user_are_refused_with_the_line_that_helps() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("data");
        let own = platform::effective_user_id();
        // What is not there yet has no owner.
        refuse_data_of_another(&root, own.wrapping_add(1)).unwrap();
        std::fs::create_dir_all(root.join("docker")).unwrap();
        refuse_data_of_another(&root, own).unwrap();
        refuse_data_of_another_as_root(&root).unwrap();
        let refused = refuse_data_of_another(&root, own.wrapping_add(1)).unwrap_err();
        let said = refused.to_string();
        let expected = format!("belongs to the user with id {own}");
        assert!(
            said.contains(&expected) && said.contains("hint: run this as that user"),
            "{said}"
        );
    }

    #[test]
    fn root_has_the_system_s_places() {
        let places = chosen(None, false, 0, &[("HOME", "/root")]).unwrap();
        assert_eq!(places.users, Path::new("/etc/boathouse/users.yml"));
        assert_eq!(places.data, Path::new("/var/lib/boathouse/data"));
    }

    #[test]
    fn a_user_has_the_places_of_xdg() {
        let plain = chosen(
            None,
            false,
            7,
            &[("HOME", "/home/a"), ("XDG_DATA_HOME", "relative")],
        )
        .unwrap();
        assert_eq!(
            plain.config,
            Path::new("/home/a/.config/boathouse/boathouse.yml")
        );
        assert_eq!(
            plain.state_directory,
            Path::new("/home/a/.local/share/boathouse")
        );
        let variables = [("XDG_CONFIG_HOME", "/c"), ("XDG_DATA_HOME", "/d")];
        let moved = chosen(None, false, 7, &variables).unwrap();
        assert_eq!(moved.ca_certificate, Path::new("/c/boathouse/ca.crt"));
        assert_eq!(moved.data, Path::new("/d/boathouse/data"));
        assert_eq!(chosen(None, false, 7, &[]), None);
    }

    #[test]
    fn on_macos_it_is_application_support() {
        let places = chosen(None, true, 501, &[("HOME", "/Users/a")]).unwrap();
        let support = Path::new("/Users/a/Library/Application Support/Boathouse");
        assert_eq!(places.config, support.join("boathouse.yml"));
        assert_eq!(places.data, support.join("data"));
    }

    #[test]
    fn a_socket_lies_with_the_state_unless_its_path_is_too_long() {
        let environment = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/r".into());
        let surroundings = Surroundings {
            is_macos: false,
            user_id: 7,
            environment: &environment,
        };
        let beside = surroundings.control_socket(Path::new("/srv/lab"));
        assert_eq!(beside, Path::new("/srv/lab/control.sock"));
        let long = |letter: &str| PathBuf::from(format!("/{}", letter.repeat(100)));
        let moved = surroundings.control_socket(&long("a"));
        assert_eq!(moved.parent(), Some(Path::new("/r")));
        assert_eq!(moved, surroundings.control_socket(&long("a")));
        assert_ne!(moved, surroundings.control_socket(&long("b")));
    }
}
