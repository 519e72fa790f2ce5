//! Which files of the data another user of this machine may not read, and in which directories that user may not write.
//!
//! The data may go back to a registry that runs as another user. Must not know what the files mean. Invariant: modes are
//! changed only of what belongs to this process's user, and only so far that the other user may read.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use crate::layout::{OWN_DIRECTORY, blobs_directory, repositories_directory};
use crate::platform;

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const ENTER: u32 = 0o1;

/// A user, and the groups of that user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIds {
    user: u32,
    groups: Vec<u32>,
}

/// What a user may not do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denied {
    /// What may not be read, or entered. What lies below a directory that may not be entered is not looked at.
    pub closed: Vec<PathBuf>,
    /// Directories in which the user may not write.
    pub unwritable: Vec<PathBuf>,
}

impl UserIds {
    /// The user that `text` names: `NAME` as in `/etc/passwd`, `UID`, or `UID:GID`.
    pub fn find(text: &str) -> io::Result<Option<Self>> {
        if let Some((user, group)) = text.split_once(':')
            && let (Ok(user), Ok(group)) = (user.parse(), group.parse())
        {
            return Ok(Some(Self {
                user,
                groups: vec![group],
            }));
        }
        let users = read_if_there(Path::new("/etc/passwd"))?;
        let groups = read_if_there(Path::new("/etc/group"))?;
        Ok(Self::among(text, &users, &groups))
    }

    /// The same by the text of `/etc/passwd` and `/etc/group`.
    fn among(text: &str, users: &str, groups: &str) -> Option<Self> {
        let user = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, id, group) = (fields.next()?, fields.nth(1)?, fields.next()?);
            (name == text || id == text)
                .then(|| Some((name, id.parse().ok()?, group.parse().ok()?)))?
        });
        let Some((name, user, group)) = user else {
            // A user of a container or of another machine.
            let user = text.parse().ok()?;
            let groups = Vec::new();
            return Some(Self { user, groups });
        };
        let others = groups.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (id, members) = (fields.nth(2)?, fields.next()?);
            let is_member = members.split(',').any(|member| member == name);
            is_member.then(|| id.parse().ok())?
        });
        let groups = std::iter::once(group).chain(others).collect();
        Some(Self { user, groups })
    }

    /// The owner of the old registry's part of the data.
    pub fn owner_of(root: &Path) -> io::Result<Self> {
        let docker = fs::metadata(root.join("docker")).or_else(|_| fs::metadata(root))?;
        Ok(Self {
            user: docker.uid(),
            groups: vec![docker.gid()],
        })
    }

    /// Whether the user may do all that `wanted` says.
    fn may(&self, metadata: &Metadata, wanted: u32) -> bool {
        self.user == 0 || (metadata.mode() >> self.class_shift(metadata)) & wanted == wanted
    }

    /// By how many bits the permissions of this user are shifted in a mode.
    fn class_shift(&self, metadata: &Metadata) -> u32 {
        if metadata.uid() == self.user {
            6
        } else if self.groups.contains(&metadata.gid()) {
            3
        } else {
            0
        }
    }
}

/// The id of the user to whom the data below `root` belong: the directory that holds them may be a mount point of root's.
pub fn owner_id(root: &Path) -> io::Result<u32> {
    owner(root).map(|metadata| metadata.uid())
}

fn owner(root: &Path) -> io::Result<Metadata> {
    let parts = ["docker", OWN_DIRECTORY].map(|name| root.join(name));
    let found = parts.iter().find_map(|part| fs::metadata(part).ok());
    found.map_or_else(|| fs::metadata(root), Ok)
}

/// Gives files that root has made to the user to whom the data below `root` belong, whose server must be able to open them. Does
/// nothing for another user than root, and where there are no data.
pub fn give_to_owner_of_data(root: &Path, files: &[&Path]) -> io::Result<()> {
    if platform::effective_user_id() != 0 {
        return Ok(());
    }
    let owner = match owner(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        owner => owner?,
    };
    for file in files {
        lchown(file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// What `user` may not do with the data below `root`; blocks. What vanishes meanwhile, and what this process may not look into,
/// is left out.
pub fn denied(root: &Path, user: &UserIds) -> io::Result<Denied> {
    let mut denied = Denied::default();
    let root = root.canonicalize()?;
    for above in root.ancestors().skip(1) {
        if !user.may(&fs::metadata(above)?, ENTER) {
            denied.closed.push(above.to_owned());
        }
    }
    look(&root, user, false, &mut denied);
    let parts = [repositories_directory(), blobs_directory()];
    for part in &parts {
        let mut path = root.clone();
        for name in part.as_str().trim_end_matches('/').split('/') {
            path.push(name);
            if !denied.closed.contains(&path) && path.exists() {
                // Those above are shared, and looked at twice.
                denied.unwritable.retain(|other| *other != path);
                look(&path, user, false, &mut denied);
            }
        }
        // An administrator's link is followed here, and none below.
        let Ok(part) = path.canonicalize() else {
            continue;
        };
        if !denied.closed.contains(&path) {
            walk(&part, user, &mut denied);
        }
    }
    Ok(denied)
}

/// Looks at everything below a directory.
fn walk(directory: &Path, user: &UserIds, denied: &mut Denied) {
    let mut unread = vec![directory.to_owned()];
    while let Some(directory) = unread.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if look(&path, user, true, denied) {
                unread.push(path);
            }
        }
    }
}

/// Looks at one file or directory. Returns whether it is a directory that the user may enter.
fn look(path: &Path, user: &UserIds, is_below: bool, denied: &mut Denied) -> bool {
    let metadata = if is_below {
        fs::symlink_metadata(path)
    } else {
        fs::metadata(path)
    };
    let Ok(metadata) = metadata else {
        return false;
    };
    if metadata.is_symlink() {
        return false;
    }
    let wanted = if metadata.is_dir() {
        READ | ENTER
    } else {
        READ
    };
    if !user.may(&metadata, wanted) {
        denied.closed.push(path.to_owned());
        return false;
    }
    if metadata.is_dir() && !user.may(&metadata, WRITE) {
        denied.unwritable.push(path.to_owned());
    }
    metadata.is_dir()
}

/// Lets `user` read what is closed below `root`, as far as it belongs to the user of this process; durable on return. Returns how
/// many files and directories were opened.
pub fn open_up(root: &Path, user: &UserIds) -> io::Result<u64> {
    let root = root.canonicalize()?;
    let mut opened = 0;
    loop {
        let before = opened;
        for path in denied(&root, user)?.closed {
            let metadata = fs::metadata(&path)?;
            let is_ours = metadata.uid() == platform::effective_user_id();
            if !is_ours || !path.starts_with(&root) {
                continue;
            }
            let wanted = if metadata.is_dir() {
                READ | ENTER
            } else {
                READ
            };
            let mode = metadata.mode() | (wanted << user.class_shift(&metadata));
            fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))?;
            File::open(&path)?.sync_all()?;
            opened += 1;
        }
        // More shows where a directory was opened.
        if opened == before {
            return Ok(opened);
        }
    }
}

fn read_if_there(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\nregistry:x:105:110::/var/lib/registry:/bin/false\n";
    const GROUPS: &str = "registry:x:110:\nimages:x:500:ann,registry\nother:x:501:ann\n";

    #[test]
    fn a_user_is_found_by_name_or_number() {
        let registry = UserIds {
            user: 105,
            groups: vec![110, 500],
        };
        for text in ["registry", "105"] {
            let found = UserIds::among(text, USERS, GROUPS);
            assert_eq!(found.as_ref(), Some(&registry), "{text}");
        }
        assert_eq!(UserIds::among("nobody-here", USERS, GROUPS), None);
        let foreign = UserIds::find("4711:12").unwrap();
        let expected = UserIds {
            user: 4711,
            groups: vec![12],
        };
        assert_eq!(foreign, Some(expected));
    }

    #[test]
    fn what_is_closed_is_found_and_opened_without_opening_more() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("data");
        let blobs = root.join(blobs_directory().as_str());
        let mode =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        fs::create_dir_all(blobs.join("sha256")).unwrap();
        fs::create_dir_all(root.join("boathouse")).unwrap();
        fs::write(blobs.join("sha256/data"), "x").unwrap();
        mode(&blobs.join("sha256/data"), 0o600);
        mode(&blobs.join("sha256"), 0o700);
        mode(&root.join("boathouse"), 0o700);
        // Whatever the mask of this process is at this moment.
        for open in blobs.ancestors().take_while(|open| *open != root) {
            mode(open, 0o755);
        }
        mode(&root, 0o750);
        mode(directory.path(), 0o755);
        let stranger = UserIds {
            user: 4711,
            groups: Vec::new(),
        };
        let found = denied(&root, &stranger).unwrap();
        let root = root.canonicalize().unwrap();
        let blobs = root.join(blobs_directory().as_str().trim_end_matches('/'));
        assert_eq!(found.closed, [root.clone(), blobs.join("sha256")]);
        // The root, the directory, and the file in it, which shows only then.
        assert_eq!(open_up(&root, &stranger).unwrap(), 3);
        let found = denied(&root, &stranger).unwrap();
        assert_eq!(found.closed, Vec::<PathBuf>::new());
        assert!(found.unwritable.contains(&blobs.join("sha256")));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&blobs.join("sha256/data")), 0o604);
        assert_eq!(mode(&root.join("boathouse")), 0o700);
        let owner = UserIds::owner_of(&root).unwrap();
        assert_eq!(denied(&root, &owner).unwrap(), Denied::default());
        assert_eq!(owner_id(&root).unwrap(), platform::effective_user_id());
        assert!(owner_id(&root.join("nothing")).is_err());
    }
}
