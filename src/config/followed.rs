//! The configuration files that hold users or rules, which a running program follows as `docker_auth` follows its file.
//!
//! They are looked at once in a while, and not at each request as `users_file` is: `docker_auth` too takes up a change a moment
//! later, and a pull costs no further system call. Must not know how a change is taken up. Invariants: a file that is being
//! written is not taken; a change is reported once, also if it cannot be taken up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::external::{AUTHENTICATORS, EXT_AUTHZ};
use super::file_content::{Content, Look, SETTLING};
use super::node::Node;
use crate::oci::{Algorithm, Digest};

/// The files, as they were read.
#[derive(Debug, Clone, Default)]
pub struct FollowedFiles(Vec<Followed>);

#[derive(Debug, Clone)]
struct Followed {
    path: PathBuf,
    /// Of the content that was taken up, or reported; `None` if the file was missing or unreadable.
    taken: Option<Digest>,
    /// Of the content that was found last.
    found: Option<Digest>,
    /// What the metadata said then; `None` before the first look, and if the file is unreadable.
    look: Option<Look>,
    /// Since when they say so.
    since: Duration,
    /// Whether the content is as it was found for as long as the metadata say the same.
    is_settled: bool,
}

/// How a file is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Unchanged,
    /// Changed, and perhaps still being written.
    Changing,
    Changed,
}

impl FollowedFiles {
    /// Adds a file that was read, if a document in it has a section of users or rules. Only ordinary files are followed: what a
    /// pipe held cannot be read again.
    pub(super) fn add(&mut self, path: &Path, text: &str, documents: &[Node]) {
        let sections = ["users", "acl", EXT_AUTHZ].into_iter();
        let mut sections = sections.chain(AUTHENTICATORS.iter().copied());
        let holds = |section: &str| {
            let mut entries = documents.iter().flat_map(Node::entries);
            entries.any(|entry| entry.key == section)
        };
        let is_ordinary = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
        if is_ordinary && sections.any(holds) {
            let digest = Some(Digest::of(Algorithm::Sha256, text.as_bytes()));
            self.0.push(Followed {
                path: path.to_owned(),
                taken: digest,
                found: digest,
                look: None,
                since: Duration::ZERO,
                is_settled: false,
            });
        }
    }

    /// Whether there is anything to follow.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every file is certainly as it was found; one look at the metadata of each.
    pub fn are_settled(&self) -> bool {
        let mut files = self.0.iter();
        files.all(|file| file.is_settled && Look::at(&file.path).ok() == file.look)
    }

    /// Reads the files: whether a content other than the one that was taken up has stood in one of them for long enough, and
    /// none of the others is changing. `now` is [`crate::clock::Clock::elapsed`]. True once for each content; blocks.
    pub fn have_changed(&mut self, now: Duration) -> bool {
        let standings: Vec<_> = self.0.iter_mut().map(|file| file.look(now)).collect();
        let have_changed =
            standings.contains(&Standing::Changed) && !standings.contains(&Standing::Changing);
        if have_changed {
            for file in &mut self.0 {
                file.taken = file.found;
            }
        }
        have_changed
    }

    /// Goes on with the files as they were `read` again. One that has lost its sections is still followed: they may come back.
    pub fn take_up(&mut self, mut read: Self) {
        let is_read = |path: &Path| read.0.iter().any(|file| file.path == path);
        self.0.retain(|file| !is_read(&file.path));
        self.0.append(&mut read.0);
    }
}

impl Followed {
    fn look(&mut self, now: Duration) -> Standing {
        let content = Content::read(&self.path).ok();
        let look = content.as_ref().map(|content| content.look);
        let is_steady = content.as_ref().is_none_or(|content| content.is_steady);
        let bytes = content.and_then(|content| content.bytes);
        if self.look != look {
            self.look = look;
            self.since = now;
        }
        let is_old = is_steady && now.saturating_sub(self.since) >= SETTLING;
        self.is_settled = is_old && look.is_some();
        self.found = bytes.map(|bytes| Digest::of(Algorithm::Sha256, &bytes));
        match (self.found == self.taken, is_old) {
            (true, _) => Standing::Unchanged,
            (false, false) => Standing::Changing,
            (false, true) => Standing::Changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::error::Place;
    use crate::config::yaml;

    const ANN: &str = "users: {ann: {}}\n";
    const BOB: &str = "users: {bob: {}}\n";

    struct Lab {
        directory: tempfile::TempDir,
        files: FollowedFiles,
        now: Duration,
    }

    impl Lab {
        fn new(texts: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let mut files = FollowedFiles::default();
            for (number, text) in texts.iter().enumerate() {
                let path = directory.path().join(format!("{number}.yml"));
                fs::write(&path, text).unwrap();
                let documents = yaml::documents(text, &Place::file(&path)).unwrap();
                files.add(&path, text, &documents);
            }
            let now = Duration::from_secs(1_000);
            let mut lab = Self {
                directory,
                files,
                now,
            };
            assert!(!lab.looked() && !lab.looked_later());
            lab
        }

        fn write(&self, number: usize, text: &str) {
            fs::write(self.directory.path().join(format!("{number}.yml")), text).unwrap();
        }

        fn looked(&mut self) -> bool {
            self.files.have_changed(self.now)
        }

        fn looked_later(&mut self) -> bool {
            self.now += SETTLING;
            self.looked()
        }
    }

    #[test]
    fn a_change_is_reported_once_and_only_when_it_has_stood_for_a_while() {
        let mut lab = Lab::new(&[ANN]);
        assert!(lab.files.are_settled());
        lab.write(0, BOB);
        assert!(!lab.files.are_settled());
        assert!(!lab.looked(), "a file that is being written was taken");
        assert!(lab.looked_later());
        assert!(!lab.looked_later() && lab.files.are_settled());
        // Written again as it is, and missing.
        lab.write(0, BOB);
        assert!(!lab.looked() && !lab.looked_later());
        fs::remove_file(lab.directory.path().join("0.yml")).unwrap();
        assert!(!lab.looked() && lab.looked_later() && !lab.looked_later());
        lab.write(0, BOB);
        assert!(!lab.looked() && lab.looked_later() && !lab.looked_later());
    }

    #[test]
    fn a_change_of_several_files_is_not_taken_by_half() {
        let mut lab = Lab::new(&[ANN, "acl: []\n", "http: {}\n"]);
        lab.write(0, BOB);
        assert!(!lab.looked());
        lab.now += SETTLING;
        lab.write(1, "acl: [{match: {}, actions: []}]\n");
        assert!(!lab.looked(), "half of a change was taken");
        assert!(lab.looked_later());
        // It holds neither users nor rules.
        lab.write(2, "http: {addr: ':1'}\n");
        assert!(!lab.looked() && !lab.looked_later());
    }

    #[test]
    fn a_file_that_lost_its_sections_is_followed_on() {
        let mut lab = Lab::new(&[ANN]);
        lab.write(0, "log: {level: info}\n");
        assert!(!lab.looked() && lab.looked_later());
        lab.files.take_up(FollowedFiles::default());
        lab.write(0, ANN);
        assert!(!lab.looked() && lab.looked_later());
    }
}
