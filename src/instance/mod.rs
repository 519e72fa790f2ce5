//! One running thing: from a config to an open registry, its keys, its reload.
//!
//! Must not know arguments, nor who starts it. Invariant: the data are locked before anything in the store is changed.

pub(crate) mod keys;
pub(crate) mod missing_parts;
pub(crate) mod places;
pub(crate) mod reload;
pub(crate) mod signals;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use data_encoding::HEXLOWER;

use self::keys::derived_secret;
use crate::clock::Clock;
use crate::config::Config;
use crate::index::{self, Index};
use crate::layout::OWN_DIRECTORY;
use crate::registry::Registry;
use crate::store::filesystem::{self, FilesystemStore};
use crate::store::state_directory::{StateDirectory, StateDirectoryError};
use crate::{durable_file, platform};

/// Makes this the only instance on the data: the lock lies beside them, wherever the rest of the state is.
pub(crate) fn lock_data(root_directory: &Path) -> anyhow::Result<StateDirectory> {
    // What is wrong there is told by who opens the lock.
    let _ = filesystem::make_root(root_directory);
    locked(StateDirectory::open(root_directory.join(OWN_DIRECTORY)))
}

/// [`lock_data`]; where the data may only be read, and that is all the config wants, the lock and the secret lie with the
/// rest of the state.
pub(crate) fn lock_data_of(config: &Config) -> anyhow::Result<StateDirectory> {
    let own = config.root_directory.join(OWN_DIRECTORY);
    if config.registry.readonly && config.state_directory != own {
        let _ = filesystem::make_root(&config.root_directory);
        match StateDirectory::open(&own) {
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
    lock_data(&config.root_directory)
}

fn locked(opened: Result<StateDirectory, StateDirectoryError>) -> anyhow::Result<StateDirectory> {
    opened.map_err(|error| {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}"));
        let context = format!("cannot use the data{}", hint.unwrap_or_default());
        anyhow::Error::new(error).context(context)
    })
}

/// `http.secret`, or the one that lies with the data.
pub(crate) fn server_secret(config: &Config, state: &StateDirectory) -> Vec<u8> {
    match &config.secret {
        Some(secret) => secret.expose().as_bytes().to_vec(),
        None => state.secret().to_vec(),
    }
}

/// The operations over the configured store, with its index.
pub(crate) fn open_registry(
    config: &Config,
    state: &StateDirectory,
    secret: &[u8],
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Registry> {
    let root = &config.root_directory;
    let place = filesystem::Settings {
        root: root.clone(),
        boot_id: platform::boot_id(),
        is_readonly: config.registry.readonly,
    };
    let store = FilesystemStore::open(place, clock.clone())?;
    let mut settings = config.registry.clone();
    // Where nothing is written no name can be taken for another, and the probe would be a write.
    if !settings.readonly {
        settings.case_insensitive = filesystem::is_case_insensitive(root)
            .with_context(|| format!("cannot write in {}", root.display()))?;
    }
    let secret = derived_secret(secret, "upload sessions")?;
    let index = index::Settings {
        directory: config.state_directory.join("index"),
        // The secret lies with the data: an index of other data is recognised, and data may move.
        store_id: HEXLOWER.encode(&derived_secret(state.secret(), "index")?),
    };
    durable_file::make_private_directory_if_ours(&config.state_directory)
        .with_context(|| format!("cannot make {}", config.state_directory.display()))?;
    Ok(Registry::new(
        Arc::new(store),
        // Beside the start: lists come from the store until it is open, and a full disk, on which it cannot be opened, stops
        // neither pulls nor the deletes that make room.
        Arc::new(Index::open_beside(&index, Arc::clone(clock))?),
        settings,
        &secret,
        clock.clone(),
    ))
}
