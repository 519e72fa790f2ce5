//! A file of accounts that a running server follows: `users_file` or `auth.htpasswd`.
//!
//! Every request that judges an account looks at the metadata of the file: one `stat`, about 1 µs. If they are those of the
//! last read, what was read then holds. Otherwise the request waits until the file has been read again, on a blocking
//! thread. One read serves all requests that came before it began.
//!
//! Must not know who is judged. Invariants:
//!
//! - **A request is judged by what was on the disk when it began, or by something later.** A command that has replaced the
//!   file needs no way to reach the server.
//! - **No change goes unseen.** A file that was replaced by rename has another inode; one that was written in place has
//!   another size or time. Two changes within one tick of the file system's clock may look alike (an inode is used again, a
//!   size stays the same), so a stamp counts only once it has stayed the same for [`SETTLING`]. Until then each look reads
//!   the bytes, and parses them if they differ.
//! - **A file that cannot be read, or is wrong, changes nothing.** What was read last stays in force, and the log and
//!   `/readyz` say so. A read that failed is tried again at the next look; a wrong content is not parsed again. Only a
//!   missing `auth.htpasswd` lets nobody in, as in distribution.
//! - **No older state comes back.** Reads happen one at a time, each begins after the one before was published, and only
//!   what is on the disk is published. An account that was refused by what the file said is let in again only by a later
//!   content of the file. What this cannot hold is a content that no look has seen: if a command removes an account, and
//!   somebody then damages the file by hand before the next look, the removal holds only once the file is mended. Commands
//!   cannot cause this: what they write is read back first.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::Mutex;

use super::error::{ConfigError, ConfigErrors, Place};
use super::file_content::{Content, Look, SETTLING};
use super::users_file::text;
use super::{htpasswd, users_file};
use crate::auth::{AccountSource, Accounts};
use crate::clock::Clock;

/// How a file is to be read.
#[derive(Debug, Clone)]
pub(super) enum Format {
    /// `users_file`.
    Users {
        /// The accounts of the configuration, which must not be in the file too, with their places.
        places: BTreeMap<String, Place>,
        /// Whether external authenticators know further accounts.
        has_others: bool,
    },
    /// `auth.htpasswd`
    Htpasswd,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) accounts: Accounts,
    /// What is allowed and probably not meant.
    pub(super) warnings: Vec<String>,
    /// Entries that were left out, and that keep a server from starting.
    pub(super) left_out: Vec<ConfigError>,
}

impl Format {
    fn parse(&self, bytes: &[u8], path: &Path) -> Result<Parsed, ConfigErrors> {
        let place = Place::file(path);
        let text = text(bytes, &place)?;
        match self {
            Self::Users { places, has_others } => {
                users_file::parse_accounts(text, &place, places, *has_others)
            }
            Self::Htpasswd => Ok(htpasswd::parse(text, &place)?),
        }
    }
}

/// The file, and what was read of it last.
#[derive(Clone)]
pub struct AccountFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    format: Format,
    clock: Arc<dyn Clock>,
    known: ArcSwap<Known>,
    /// How many reads have begun.
    begun: AtomicU64,
    reader: Arc<Mutex<Reader>>,
}

/// What requests are judged by until a look shows that the file has changed.
#[derive(Clone)]
struct Known {
    accounts: Arc<Accounts>,
    /// What a look finds while the file is as it was read; `None` if the next look must read it again.
    settled: Option<Look>,
    /// The number of the read.
    read: u64,
    /// Whether the file has ever been there.
    was_there: bool,
    trouble: Option<Trouble>,
}

/// What only a read needs. There is one at a time.
struct Reader {
    /// What was found last.
    content: Content,
    /// Since when the content has had its look.
    since: Duration,
    /// Why it is not in force.
    verdict: Option<Trouble>,
    /// The error of the last read, which the log was told.
    failure: Option<String>,
}

/// Why the accounts in force may not be those of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    UsersFileMissing,
    HtpasswdMissing,
    Unreadable,
    Wrong,
}

impl Trouble {
    /// For `/readyz`, which needs no login.
    fn shown(self) -> &'static str {
        match self {
            Self::UsersFileMissing => {
                "the file of accounts is missing, and what was read last is in force"
            }
            Self::HtpasswdMissing => "the file of accounts is missing, and nobody can log in",
            Self::Unreadable => {
                "the file of accounts cannot be read, and what was read last is in force"
            }
            Self::Wrong => "the file of accounts has a mistake, and what was read last is in force",
        }
    }
}

impl AccountFile {
    /// Reads the file for a start, with what there is to say about it. A `users_file` need not exist yet.
    pub(super) fn open(
        path: &Path,
        format: Format,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Parsed), ConfigErrors> {
        let since = clock.elapsed();
        let content = Content::read(path)?;
        let parsed = match (&content.bytes, &format) {
            (Some(bytes), _) => format.parse(bytes, path)?,
            (None, Format::Users { .. }) => Parsed::default(),
            (None, Format::Htpasswd) => {
                let error = ConfigError::new(Some(&Place::file(path)), "", "no such file");
                return Err(error
                    .hint("make it with `htpasswd -B -C 10 -c FILE NAME`")
                    .into());
            }
        };
        let known = Known {
            accounts: Arc::new(parsed.accounts.clone()),
            settled: (content.look == Look::Missing).then_some(Look::Missing),
            read: 0,
            was_there: content.bytes.is_some(),
            trouble: None,
        };
        let reader = Reader {
            content,
            since,
            verdict: None,
            failure: None,
        };
        let file = Self(Arc::new(Inner {
            path: path.to_owned(),
            format,
            clock,
            known: ArcSwap::from_pointee(known),
            begun: AtomicU64::new(0),
            reader: Arc::new(Mutex::new(reader)),
        }));
        Ok((file, parsed))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether the file has ever been there.
    pub fn was_there(&self) -> bool {
        self.0.known.load().was_there
    }
}

/// Shows no account.
impl fmt::Debug for AccountFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "AccountFile({})", self.0.path.display())
    }
}

#[async_trait]
impl AccountSource for AccountFile {
    async fn now(&self) -> Arc<Accounts> {
        let settled = self.0.known.load().settled;
        let is_settled = settled.is_some() && Look::at(&self.0.path).ok() == settled;
        if !is_settled {
            self.0.read_since_now().await;
        }
        self.known()
    }

    fn known(&self) -> Arc<Accounts> {
        Arc::clone(&self.0.known.load().accounts)
    }

    fn trouble(&self) -> Option<&'static str> {
        self.0.known.load().trouble.map(Trouble::shown)
    }
}

impl Inner {
    /// Returns once a read that began after this call has been published.
    async fn read_since_now(self: &Arc<Self>) {
        let begun = self.begun.load(Ordering::SeqCst);
        let mut reader = Arc::clone(&self.reader).lock_owned().await;
        if self.known.load().read > begun {
            return;
        }
        let file = Arc::clone(self);
        // The lock goes along: the read ends before the next begins, also if this request is dropped.
        let read = tokio::task::spawn_blocking(move || file.read_again(&mut reader));
        if let Err(error) = read.await {
            tracing::error!(%error, path = %self.path.display(), "reading the file of accounts was interrupted");
        }
    }

    fn read_again(&self, reader: &mut Reader) {
        let read = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let began = self.clock.elapsed();
        let mut known = Known {
            read,
            ..Known::clone(&self.known.load())
        };
        match Content::read(&self.path) {
            Ok(content) => {
                if reader.content.look != content.look {
                    reader.since = began;
                }
                if reader.content.bytes != content.bytes {
                    reader.verdict = self.take(&content, &mut known);
                }
                let is_old = began.saturating_sub(reader.since) >= SETTLING;
                let is_settled = content.look == Look::Missing || (content.is_steady && is_old);
                known.settled = is_settled.then_some(content.look);
                known.trouble = reader.verdict;
                reader.content = content;
                reader.failure = None;
            }
            Err(error) => {
                known.settled = None;
                known.trouble = Some(Trouble::Unreadable);
                let failure = Some(error.to_string());
                if reader.failure != failure {
                    tracing::error!(%error, "the accounts that were read before stay in force");
                    reader.failure = failure;
                }
            }
        }
        self.known.store(Arc::new(known));
    }

    /// Puts a new content in force, or says why it is not.
    fn take(&self, content: &Content, known: &mut Known) -> Option<Trouble> {
        let path = self.path.display();
        let Some(bytes) = &content.bytes else {
            if matches!(self.format, Format::Htpasswd) {
                known.accounts = Arc::default();
                tracing::error!(%path, "the file of accounts is missing: nobody can log in until it is restored");
                return Some(Trouble::HtpasswdMissing);
            }
            tracing::error!(%path, "the file of accounts is missing: the accounts that were read before stay in force; restore it, or remove `users_file` from the configuration and restart");
            return Some(Trouble::UsersFileMissing);
        };
        known.was_there = true;
        match self.format.parse(bytes, &self.path) {
            Ok(parsed) => {
                for warning in &parsed.warnings {
                    tracing::warn!("{warning}");
                }
                for error in &parsed.left_out {
                    tracing::warn!("{error}");
                }
                tracing::info!(%path, users = parsed.accounts.users.len(), rules = parsed.accounts.acl.len(), "accounts were read again");
                known.accounts = Arc::new(parsed.accounts);
                None
            }
            Err(errors) => {
                tracing::error!(error = %errors, "the accounts that were read before stay in force");
                Some(Trouble::Wrong)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use futures_util::future::join_all;

    use super::*;
    use crate::clock::ManualClock;

    const USERS: Format = Format::Users {
        places: BTreeMap::new(),
        has_others: false,
    };

    struct Lab {
        directory: tempfile::TempDir,
        clock: ManualClock,
    }

    impl Lab {
        fn new() -> Self {
            Self {
                directory: tempfile::tempdir().unwrap(),
                clock: ManualClock::at_unix_secs(1_800_000_000),
            }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("accounts")
        }

        fn open(&self, format: Format, content: &str) -> AccountFile {
            fs::write(self.path(), content).unwrap();
            let opened = AccountFile::open(&self.path(), format, Arc::new(self.clock.clone()));
            opened.unwrap_or_else(|errors| panic!("{errors}")).0
        }

        fn users_file(&self, content: &str) -> AccountFile {
            self.open(USERS, content)
        }

        /// As a command replaces it.
        fn replace(&self, content: &str) {
            crate::durable_file::replace(&self.path(), content.as_bytes(), 0o600).unwrap();
        }

        /// Looks until the file is no longer read, on the clock of this lab.
        async fn settle(&self, file: &AccountFile) {
            file.now().await;
            self.clock.advance(SETTLING);
            file.now().await;
        }
    }

    async fn names(file: &AccountFile) -> Vec<String> {
        file.now().await.users.keys().cloned().collect()
    }

    fn reads(file: &AccountFile) -> u64 {
        file.0.begun.load(Ordering::SeqCst)
    }

    const ANN: &str = "users: {ann: {password: $2y$x}}\n";
    const BOB: &str = "users: {bob: {password: $2y$x}}\n";

    #[tokio::test]
    async fn an_unchanged_file_costs_a_look_and_a_change_one_read_for_all_that_wait() {
        let lab = Lab::new();
        let file = lab.users_file(ANN);
        lab.settle(&file).await;
        let before = reads(&file);
        for _ in 0..10 {
            assert_eq!(names(&file).await, ["ann"]);
        }
        assert_eq!(reads(&file), before, "an unchanged file was read");

        lab.replace(BOB);
        let seen = join_all((0..100).map(|_| names(&file))).await;
        assert!(seen.iter().all(|names| *names == ["bob"]), "{seen:?}");
        // Those that came when the first read had begun share a second one.
        assert!(reads(&file) <= before + 2, "each request reads for itself");
    }

    #[tokio::test]
    async fn a_stamp_counts_only_when_it_is_older_than_a_tick() {
        let lab = Lab::new();
        let file = lab.users_file(ANN);
        let parsed = file.now().await;
        // A second change within the tick may look like the first.
        let before = reads(&file);
        lab.clock.advance(SETTLING / 2);
        assert!(
            Arc::ptr_eq(&parsed, &file.now().await),
            "the same bytes were parsed again"
        );
        assert_eq!(reads(&file), before + 1, "a young stamp was trusted");
        lab.settle(&file).await;
        let before = reads(&file);
        names(&file).await;
        assert_eq!(reads(&file), before);
        // The stamp of a change is young again.
        lab.replace(BOB);
        assert_eq!(names(&file).await, ["bob"]);
        lab.replace(ANN);
        assert_eq!(names(&file).await, ["ann"]);
        assert_eq!(reads(&file), before + 2);
    }

    #[tokio::test]
    async fn what_cannot_be_taken_leaves_the_accounts_as_they_were() {
        let lab = Lab::new();
        let file = lab.users_file(ANN);
        for (content, trouble) in [
            ("users: {bob: ", Trouble::Wrong),
            ("users: {bob: {pasword: x}}\n", Trouble::Wrong),
            ("acl: [{match: {name: /(/}, actions: []}]\n", Trouble::Wrong),
        ] {
            lab.replace(content);
            assert_eq!(names(&file).await, ["ann"], "{content}");
            assert_eq!(file.trouble(), Some(trouble.shown()), "{content}");
        }
        fs::remove_file(lab.path()).unwrap();
        assert_eq!(names(&file).await, ["ann"]);
        assert_eq!(file.trouble(), Some(Trouble::UsersFileMissing.shown()));
        fs::create_dir(lab.path()).unwrap();
        assert_eq!(names(&file).await, ["ann"]);
        assert_eq!(file.trouble(), Some(Trouble::Unreadable.shown()));
        fs::remove_dir(lab.path()).unwrap();
        lab.replace(BOB);
        assert_eq!(names(&file).await, ["bob"]);
        assert_eq!(file.trouble(), None);
    }

    #[tokio::test]
    async fn a_users_file_may_come_later_and_is_missed_from_then_on() {
        let lab = Lab::new();
        let opened = AccountFile::open(&lab.path(), USERS, Arc::new(lab.clock.clone()));
        let file = opened.unwrap_or_else(|errors| panic!("{errors}")).0;
        assert!(names(&file).await.is_empty() && !file.was_there());
        assert_eq!((file.trouble(), reads(&file)), (None, 0));
        lab.replace(ANN);
        assert_eq!(names(&file).await, ["ann"]);
        fs::remove_file(lab.path()).unwrap();
        assert_eq!(names(&file).await, ["ann"]);
        assert!(file.was_there());
    }

    /// A link that leads nowhere for a moment, and then to the same file again: nothing about that file has changed.
    #[tokio::test]
    async fn an_htpasswd_that_comes_back_unchanged_is_taken_again() {
        let lab = Lab::new();
        let [target, aside] = ["target", "aside"].map(|name| lab.directory.path().join(name));
        symlink(&target, lab.path()).unwrap();
        let file = lab.open(Format::Htpasswd, "ann:x\n");
        lab.settle(&file).await;
        fs::rename(&target, &aside).unwrap();
        assert!(
            names(&file).await.is_empty(),
            "a missing file lets nobody in"
        );
        assert_eq!(file.trouble(), Some(Trouble::HtpasswdMissing.shown()));
        fs::rename(&aside, &target).unwrap();
        assert_eq!(names(&file).await, ["ann"]);
        assert_eq!(file.trouble(), None);
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_leaves_its_read_to_the_others() {
        let lab = Lab::new();
        let file = lab.users_file(ANN);
        lab.settle(&file).await;
        lab.replace(BOB);
        let mut dropped = Box::pin(file.now());
        let _ = futures_util::poll!(dropped.as_mut());
        drop(dropped);
        assert_eq!(names(&file).await, ["bob"]);
    }
}
