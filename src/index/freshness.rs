//! How far the entries of each repository can be relied on.
//!
//! One table, told what happens by named transitions; the only place that decides whether a list may come from the index
//! and whether a stamp may be written. Must not know queues, databases or stores. Invariants: a repository of which
//! something was lost, or whose change failed, is not listed from the index until a reading that began afterwards has been
//! written down; a repository is not stamped while it is being changed; nothing that was found out about one database
//! counts for another.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::oci::RepositoryName;

/// How many repositories may be in doubt one by one, and how many may wait for a stamp: more than that change within a
/// second only in a storm. Beyond the first, all are in doubt; beyond the second, some are merely read again after a restart.
const IN_DOUBT_MAX: usize = 65_536;

/// What is known of all repositories.
pub struct Freshness {
    table: Mutex<Table>,
    /// Another number: another database, of which nothing is known. Changes with the table locked.
    era: AtomicU64,
    /// [`IN_DOUBT_MAX`], but in tests.
    in_doubt_max: AtomicUsize,
}

#[derive(Default)]
struct Table {
    /// Those that are not [`Standing::Unknown`], or are being changed.
    entries: HashMap<RepositoryName, Entry>,
    /// How many entries are in doubt and not being read.
    in_doubt: usize,
    /// How many entries have lost something, those that are being read included.
    lost: usize,
    /// Every repository is in doubt, whatever its entry says.
    is_all_in_doubt: bool,
    to_read: BTreeSet<RepositoryName>,
    to_stamp: BTreeSet<RepositoryName>,
    /// Those whose stamp in the database must go.
    to_void: BTreeSet<RepositoryName>,
    is_every_stamp_void: bool,
    catalog: Catalog,
    /// The database was set aside, or is new, and its owner has not asked since.
    is_replaced: bool,
    last_reading: u64,
    /// One more whenever all that was known is forgotten: what was begun before tells nothing any more.
    upheavals: u64,
}

#[derive(Default)]
struct Entry {
    standing: Standing,
    /// Changes under way.
    changes: u32,
}

/// What the entries of a repository are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Standing {
    /// Not compared with the store since the database was opened.
    #[default]
    Unknown,
    /// Those of the store, but for what is in the queue.
    Fresh,
    /// As fresh, but a link to a manifest led nowhere. What that manifest is about is not known, and its bytes may come at any
    /// time through another repository: referrers come from the store, and there is no stamp.
    Dangling,
    /// Not those of the store, or not known after a change that failed: it must be read again.
    Doubtful,
    /// Something was lost on its way into the database: it must be read again, and its stamp must go first.
    Lost,
    /// Being read again, in the reading with this number; it was this before.
    Reading { number: u64, before: Doubt },
}

/// What is left of a doubt when a reading is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    Doubtful,
    Lost,
}

/// Whether the list of all repositories is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Catalog {
    #[default]
    Unread,
    /// The last reading of everything had to leave something out.
    GivenUp,
    Complete,
}

/// What has been found when a repository was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// No such repository.
    Nothing,
    /// Everything that its links lead to.
    Whole,
    /// A link to a manifest that leads nowhere.
    Dangling,
}

/// A comparison that has begun. It counts only if what was known then has not been forgotten since.
#[derive(Debug, Clone, Copy)]
pub struct Comparing {
    upheavals: u64,
}

/// What waits to be done.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Repositories to read again.
    pub read: BTreeSet<RepositoryName>,
    /// Repositories to stamp once they are quiet.
    pub stamp: BTreeSet<RepositoryName>,
    /// Every repository must be compared.
    pub is_everything: bool,
}

/// Stamps that must go from the database.
#[derive(Debug, Default)]
pub(super) struct Void {
    pub(super) names: BTreeSet<RepositoryName>,
    pub(super) is_every: bool,
}

impl Void {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.is_every
    }
}

impl Default for Freshness {
    fn default() -> Self {
        Self::with_bound(IN_DOUBT_MAX)
    }
}

/// What may be done.
impl Freshness {
    fn with_bound(in_doubt_max: usize) -> Self {
        Self {
            table: Mutex::default(),
            era: AtomicU64::new(0),
            in_doubt_max: AtomicUsize::new(in_doubt_max),
        }
    }

    #[cfg(test)]
    pub(crate) fn set_in_doubt_max(&self, in_doubt_max: usize) {
        self.in_doubt_max.store(in_doubt_max, Ordering::Relaxed);
    }

    fn in_doubt_max(&self) -> usize {
        self.in_doubt_max.load(Ordering::Relaxed)
    }

    /// Whether lists of the repository may come from the index.
    pub fn may_list(&self, name: &RepositoryName) -> bool {
        matches!(
            self.lock().standing(name),
            Standing::Fresh | Standing::Dangling
        )
    }

    /// Whether lists of its referrers may.
    pub fn may_list_referrers(&self, name: &RepositoryName) -> bool {
        self.lock().standing(name) == Standing::Fresh
    }

    /// Whether the list of all repositories may. What was lost may have been the news of a repository.
    pub fn may_list_all(&self) -> bool {
        let table = self.lock();
        table.catalog == Catalog::Complete && table.lost == 0 && !table.is_all_in_doubt
    }

    /// Whether the repository may be stamped now.
    pub fn may_stamp(&self, name: &RepositoryName) -> bool {
        let table = self.lock();
        let changes = table.entries.get(name).map_or(0, |entry| entry.changes);
        table.standing(name) == Standing::Fresh && changes == 0
    }

    /// Whether the repository is waiting to be read again, or being read.
    pub fn is_in_doubt(&self, name: &RepositoryName) -> bool {
        matches!(
            self.lock().standing(name),
            Standing::Doubtful | Standing::Lost | Standing::Reading { .. }
        )
    }

    /// Whether a link to a manifest led nowhere when the repository was read.
    pub fn is_dangling(&self, name: &RepositoryName) -> bool {
        self.lock().standing(name) == Standing::Dangling
    }

    /// Whether the last reading of everything has left something out: the next one comes only with a cause.
    pub fn has_given_up(&self) -> bool {
        self.lock().catalog == Catalog::GivenUp
    }

    /// How many repositories have lost something.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost as u64
    }

    /// Which database this is about: another number after each replacement.
    pub fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each transition leaves a table that only knows less if it is cut short.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens to a repository.
impl Freshness {
    /// A change begins, right before the store is touched.
    pub fn change_begun(&self, name: &RepositoryName) {
        self.lock().entry(name).changes += 1;
    }

    /// A change has ended, and the index has been told of all of it: the stamp is out of date.
    pub fn change_made(&self, name: &RepositoryName) {
        let mut table = self.lock();
        table.change_ended(name);
        table.stamp_later(name, self.in_doubt_max());
    }

    /// A change has ended, and it is not known what it has left. The caller has the index forget the stamp.
    pub fn change_failed(&self, name: &RepositoryName) {
        let mut table = self.lock();
        table.change_ended(name);
        table.doubt(name, Standing::Doubtful, self.in_doubt_max());
    }

    /// Something was lost on its way into the database.
    pub(super) fn lost_something(&self, name: &RepositoryName) {
        let mut table = self.lock();
        if table.to_void.len() < self.in_doubt_max() {
            table.to_void.insert(name.clone());
        } else {
            table.is_every_stamp_void = true;
        }
        table.doubt(name, Standing::Lost, self.in_doubt_max());
    }

    /// A comparison with the store begins; `None` if it could not tell anything, because the repository must be read.
    pub fn begin_comparing(&self, name: &RepositoryName) -> Option<Comparing> {
        let table = self.lock();
        let is_open = matches!(
            table.standing(name),
            Standing::Unknown | Standing::Fresh | Standing::Dangling
        );
        let upheavals = table.upheavals;
        is_open.then_some(Comparing { upheavals })
    }

    /// The stamp in the database was the store's. Returns whether lists may come from the index now.
    pub fn compared_equal(&self, name: &RepositoryName, comparing: Comparing) -> bool {
        let mut table = self.lock();
        if table.standing(name) == Standing::Unknown && comparing.upheavals == table.upheavals {
            table.set(name, Standing::Fresh);
        }
        matches!(table.standing(name), Standing::Fresh | Standing::Dangling)
    }

    /// The stamp in the database was not the store's, or a list was asked for while the repository must be read.
    pub fn read_soon(&self, name: &RepositoryName) {
        let mut table = self.lock();
        match table.standing(name) {
            Standing::Unknown | Standing::Doubtful | Standing::Lost => {
                table.doubt(name, Standing::Doubtful, self.in_doubt_max());
            }
            // It was read since, or is being read.
            Standing::Fresh | Standing::Dangling | Standing::Reading { .. } => {}
        }
    }

    /// A reading begins, before the first look at the store. Returns its number.
    pub(super) fn begin_reading(&self, name: &RepositoryName) -> u64 {
        let mut table = self.lock();
        table.last_reading += 1;
        let number = table.last_reading;
        let before = match table.entry(name).standing {
            Standing::Unknown | Standing::Fresh | Standing::Dangling => Doubt::None,
            Standing::Doubtful => Doubt::Doubtful,
            Standing::Lost => Doubt::Lost,
            Standing::Reading { before, .. } => before,
        };
        table.to_read.remove(name);
        table.set(name, Standing::Reading { number, before });
        number
    }

    /// Whether nothing has happened since that a reading could have missed.
    pub(super) fn is_reading(&self, name: &RepositoryName, number: u64) -> bool {
        self.lock().is_reading(name, number)
    }

    /// What the reading has found is in the database.
    pub(super) fn end_reading(&self, name: &RepositoryName, number: u64, found: Found) {
        let mut table = self.lock();
        if !table.is_reading(name, number) {
            return;
        }
        match found {
            Found::Nothing => table.set(name, Standing::Unknown),
            // What was swept while it was read has changed its times.
            Found::Whole => {
                table.set(name, Standing::Fresh);
                table.stamp_later(name, self.in_doubt_max());
            }
            Found::Dangling => table.set(name, Standing::Dangling),
        }
    }

    /// The reading came to nothing. The repository is as doubtful as before; it is read again when somebody asks.
    pub(super) fn give_up_reading(&self, name: &RepositoryName, number: u64) {
        let mut table = self.lock();
        let entry = table.entry(name).standing;
        if let Standing::Reading { number: at, before } = entry
            && at == number
        {
            table.set(name, before.standing());
            table.bound(self.in_doubt_max());
        }
        table.tidy(name);
    }

    /// The repository may be stamped once it is quiet, but not yet.
    pub fn stamp_later(&self, name: &RepositoryName) {
        self.lock().stamp_later(name, self.in_doubt_max());
    }
}

/// What happens to all of them.
impl Freshness {
    /// Another database takes the place of the one that was known.
    pub(super) fn replaced(&self) {
        let mut table = self.lock();
        self.era.fetch_add(1, Ordering::Release);
        table.is_replaced = true;
        table.catalog = Catalog::Unread;
        table.upheavals += 1;
        // What is lost, or in doubt, is so in the new one as well.
        table.forget_known();
        table.bound(self.in_doubt_max());
    }

    /// A registry begins to use the index: what was compared before may have changed since.
    pub fn registry_opened(&self) {
        let mut table = self.lock();
        table.is_replaced = false;
        table.catalog = Catalog::Unread;
        table.upheavals += 1;
        table.forget_known();
        table.bound(self.in_doubt_max());
    }

    /// Whether the database was replaced since this was last asked, or since everything was last read.
    pub fn take_replaced(&self) -> bool {
        std::mem::take(&mut self.lock().is_replaced)
    }

    /// The reading of everything begins.
    pub fn begin_reading_everything(&self) -> Comparing {
        let mut table = self.lock();
        table.is_replaced = false;
        Comparing {
            upheavals: table.upheavals,
        }
    }

    /// Every repository of the store has been compared or read; unless `is_whole`, some had to be left out.
    pub fn end_reading_everything(&self, begun: Comparing, is_whole: bool) {
        let mut table = self.lock();
        if begun.upheavals == table.upheavals {
            table.catalog = if is_whole {
                Catalog::Complete
            } else {
                Catalog::GivenUp
            };
        }
    }

    /// Whether so many repositories are in doubt that any may be one of them. The index must settle before they are taken
    /// up, so that no void stamp is compared.
    pub fn is_all_in_doubt(&self) -> bool {
        self.lock().is_all_in_doubt
    }

    /// Takes what waits to be done.
    pub fn take_waiting(&self) -> Waiting {
        let mut table = self.lock();
        let mut is_everything = false;
        if table.is_all_in_doubt && table.to_void.is_empty() && !table.is_every_stamp_void {
            table.is_all_in_doubt = false;
            table.catalog = Catalog::Unread;
            is_everything = true;
        }
        Waiting {
            read: std::mem::take(&mut table.to_read),
            stamp: std::mem::take(&mut table.to_stamp),
            is_everything,
        }
    }

    /// The stamps that must go before anything else is written. They are void until [`Freshness::voided`].
    pub(super) fn void(&self) -> Void {
        let table = self.lock();
        Void {
            names: table.to_void.clone(),
            is_every: table.is_every_stamp_void,
        }
    }

    /// Those stamps are gone from the database. None has been written since: a repository that lost something has none.
    pub(super) fn voided(&self, void: &Void) {
        let mut table = self.lock();
        table.to_void.retain(|name| !void.names.contains(name));
        table.is_every_stamp_void &= !void.is_every;
    }
}

impl Table {
    fn standing(&self, name: &RepositoryName) -> Standing {
        let standing = self.entries.get(name).map(|entry| entry.standing);
        match standing.unwrap_or_default() {
            reading @ Standing::Reading { .. } => reading,
            _ if self.is_all_in_doubt => Standing::Doubtful,
            standing => standing,
        }
    }

    fn entry(&mut self, name: &RepositoryName) -> &mut Entry {
        self.entries.entry(name.clone()).or_default()
    }

    /// The only way to another standing: the counts follow.
    fn set(&mut self, name: &RepositoryName, standing: Standing) {
        let entry = self.entry(name);
        let before = std::mem::replace(&mut entry.standing, standing);
        for (standing, comes) in [(before, false), (standing, true)] {
            let lost = usize::from(standing.is_lost());
            let is_waiting = matches!(standing, Standing::Doubtful | Standing::Lost);
            let in_doubt = usize::from(is_waiting);
            if comes {
                self.lost += lost;
                self.in_doubt += in_doubt;
            } else {
                self.lost -= lost;
                self.in_doubt -= in_doubt;
            }
        }
        self.tidy(name);
    }

    /// Removes an entry that says nothing.
    fn tidy(&mut self, name: &RepositoryName) {
        let says_nothing =
            |entry: &Entry| entry.changes == 0 && entry.standing == Standing::Unknown;
        if self.entries.get(name).is_some_and(says_nothing) {
            self.entries.remove(name);
        }
    }

    fn change_ended(&mut self, name: &RepositoryName) {
        let entry = self.entry(name);
        entry.changes = entry.changes.saturating_sub(1);
        self.tidy(name);
    }

    fn is_reading(&self, name: &RepositoryName, number: u64) -> bool {
        matches!(self.standing(name), Standing::Reading { number: at, .. } if at == number)
    }

    /// Puts a repository in doubt, and among those to be read.
    fn doubt(&mut self, name: &RepositoryName, doubt: Standing, most: usize) {
        let is_lost = self.entry(name).standing.is_lost();
        self.set(name, if is_lost { Standing::Lost } else { doubt });
        self.to_read.insert(name.clone());
        self.bound(most);
    }

    /// Puts all in doubt where too many are.
    fn bound(&mut self, most: usize) {
        if self.in_doubt <= most {
            return;
        }
        self.is_all_in_doubt = true;
        self.upheavals += 1;
        self.to_read.clear();
        for entry in self.entries.values_mut() {
            entry.standing = Standing::Unknown;
        }
        self.entries.retain(|_, entry| entry.changes > 0);
        (self.in_doubt, self.lost) = (0, 0);
    }

    fn stamp_later(&mut self, name: &RepositoryName, most: usize) {
        if self.to_stamp.len() < most {
            self.to_stamp.insert(name.clone());
        }
    }

    /// Leaves only doubts.
    fn forget_known(&mut self) {
        let names: Vec<RepositoryName> = self.entries.keys().cloned().collect();
        for name in names {
            let standing = match self.entry(&name).standing {
                Standing::Unknown | Standing::Fresh | Standing::Dangling => Standing::Unknown,
                Standing::Reading { before, .. } => before.standing(),
                doubt @ (Standing::Doubtful | Standing::Lost) => doubt,
            };
            self.set(&name, standing);
        }
    }
}

impl Standing {
    /// Whether something is missing in the database that a reading must bring back.
    fn is_lost(self) -> bool {
        match self {
            Self::Lost => true,
            Self::Reading { before, .. } => before == Doubt::Lost,
            Self::Unknown | Self::Fresh | Self::Dangling | Self::Doubtful => false,
        }
    }
}

impl Doubt {
    fn standing(self) -> Standing {
        match self {
            Self::None => Standing::Unknown,
            Self::Doubtful => Standing::Doubtful,
            Self::Lost => Standing::Lost,
        }
    }
}

#[cfg(test)]
#[path = "freshness_tests.rs"]
mod tests;
