//! Files that decide who root's registry trusts, and that another user of the machine could change.
//!
//! Must not change anything. Invariant: root neither reads nor makes keys, an authority or users where somebody else can replace
//! them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::config::Config;
use crate::durable_file;
use crate::instance::keys;
use crate::{platform, tls};

/// In such a directory, only the owner of a file can remove or rename it.
const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// What a configuration names of these.
pub(in crate::cli::command) fn of_config(config: &Config) -> Vec<PathBuf> {
    let keys = keys::keys_directory(config);
    // Those of additional authorities too, and the names that `up --host` was given.
    let entries = fs::read_dir(&keys).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.push(keys);
    if let tls::Settings::Automatic { ca_certificate, .. } = &config.tls {
        paths.push(ca_certificate.clone());
    }
    paths.extend(config.auth.users_file.clone());
    paths
}

/// Refuses paths that another user may change, where this is root.
pub(in crate::cli::command) fn refuse_as_root(paths: &[PathBuf]) -> anyhow::Result<()> {
    if platform::effective_user_id() == 0 {
        refuse(paths, 0)
    } else {
        Ok(())
    }
}

fn refuse(paths: &[PathBuf], user_id: u32) -> anyhow::Result<()> {
    for path in paths {
        for looked_at in [path.as_path(), durable_file::directory_of(path)] {
            let metadata = match fs::metadata(looked_at) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => {
                    metadata.with_context(|| format!("cannot look at {}", looked_at.display()))?
                }
            };
            refuse_one(path, looked_at, &metadata, user_id)?;
        }
    }
    Ok(())
}

fn refuse_one(
    path: &Path,
    looked_at: &Path,
    metadata: &fs::Metadata,
    user_id: u32,
) -> anyhow::Result<()> {
    let (path, place) = (path.display(), looked_at.display());
    let owner = metadata.uid();
    if owner != user_id {
        bail!(
            "{place} belongs to the user with id {owner}, who could replace {path}; root does not use it\n\
             hint: run this as that user (`sudo -u '#{owner}' boathouse up …`), or give the directory to root: chown -R root: {}",
            durable_file::directory_of(looked_at).display()
        );
    }
    let mode = metadata.mode();
    let may_others_write = mode & OTHERS_WRITE != 0 && mode & STICKY == 0;
    let may_group_write = mode & GROUP_WRITES != 0 && metadata.gid() != 0;
    if may_others_write || may_group_write {
        bail!(
            "other users may write in {place} and could replace {path}; root does not use it\nhint: chmod go-w {place}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_another_user_could_replace_is_refused_with_a_hint() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("ca.key");
        fs::write(&key, "").unwrap();
        let own = platform::effective_user_id();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let refused = |user_id| {
            let result = refuse(std::slice::from_ref(&key), user_id);
            result.err().map(|error| error.to_string())
        };
        assert_eq!(refused(own), None);
        let said = refused(own.wrapping_add(1)).unwrap();
        assert!(said.contains("ca.key belongs to the user with id") && said.contains("\nhint: "));
        for (path, mode) in [(key.as_path(), 0o606), (directory.path(), 0o703)] {
            set(path, mode);
            let said = refused(own).unwrap();
            assert!(
                said.contains(&format!("write in {} ", path.display())),
                "{said}"
            );
            set(path, 0o700);
        }
        // What is not there yet is judged by its directory.
        fs::remove_file(&key).unwrap();
        assert_eq!(refused(own), None);
        set(directory.path(), 0o703);
        assert!(refused(own).is_some());
    }
}
