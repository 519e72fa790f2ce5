//! Where a service, root or a user keeps configuration and state, if nothing names the place.
//!
//! Must not read the process's environment: it is handed in. Invariant: the places are absolute; a relative path in a variable
//! counts as unset, as the XDG specification asks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::platform;

/// For what is configured, and for what grows; `None` for a user without a home directory.
pub fn usual_places(
    is_macos: bool,
    user_id: u32,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Option<(PathBuf, PathBuf)> {
    let directory = |variable: &str| {
        let path = environment(variable).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    if is_macos {
        let library = match user_id {
            0 => PathBuf::from("/Library"),
            _ => directory("HOME")?.join("Library"),
        };
        let support = library.join("Application Support/Boathouse");
        return Some((support.clone(), support));
    }
    if user_id == 0 {
        return Some(("/etc/boathouse".into(), "/var/lib/boathouse".into()));
    }
    let below_home = |name: &str| Some(directory("HOME")?.join(name));
    let config = directory("XDG_CONFIG_HOME").or_else(|| below_home(".config"))?;
    let data = directory("XDG_DATA_HOME").or_else(|| below_home(".local/share"))?;
    Some((config.join("boathouse"), data.join("boathouse")))
}

/// The first of the directories that systemd has made for a service and names in `variable` (systemd.exec(5)), with colons between
/// them.
pub fn service_directory(
    environment: &BTreeMap<String, String>,
    variable: &str,
) -> Option<PathBuf> {
    let directory = PathBuf::from(environment.get(variable)?.split(':').next()?);
    directory.is_absolute().then_some(directory)
}

/// Where the state is: of a service, or else of this process's user.
pub(super) fn state_directory(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    service_directory(environment, "STATE_DIRECTORY").or_else(|| {
        let variable = |name: &str| environment.get(name).map(OsString::from);
        let places = usual_places(platform::IS_MACOS, platform::effective_user_id(), &variable);
        places.map(|(_, state)| state)
    })
}
