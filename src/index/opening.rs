//! How an index is opened, and healed where it must be.
//!
//! Must not know what is recorded. Invariant: a database that is handed out is this store's, of this layout, and not older
//! than what was last known of it; what fails that is set aside, what the machine refuses is not.

use std::path::Path;
use std::sync::Arc;

use super::IndexError;
use super::engine::Engine;
use super::home::{Home, State};
use super::ledger::{Books, Ledger, SCHEMA};
use super::memory_engine::MemoryEngine;
use super::sled_engine::SledEngine;
use crate::clock::Clock;

/// Room without which no opening is tried: sled writes a snapshot (7 MB at 1.3 million keys) and a segment at least, and one
/// that is cut short by a full disk is a trap for the next opening.
const ROOM_BYTES_MIN: u64 = 64 << 20;

/// So many openings in a row that came to no end (abort, hang, out of memory) show that the next will not either.
const UNFINISHED_OPENINGS_MAX: u64 = 2;

/// A database that may be used.
pub(super) struct Opened {
    pub(super) ledger: Ledger,
    /// It was not closed in order, so it must be checked.
    pub(super) is_unclean: bool,
    /// How often a database was set aside on the way.
    pub(super) quarantines: u64,
}

/// Where databases come from.
pub(super) trait Source: Send {
    /// Opens what is there, or an empty one. The database that was open before must have been dropped.
    fn open(&mut self) -> Result<Opened, IndexError>;

    /// Sets aside what is there; the next opening begins with an empty one.
    fn set_aside(&mut self, why: &str) -> Result<(), IndexError>;

    /// The database with these books was closed in order.
    fn closed(&mut self, books: &Books) -> Result<(), IndexError>;
}

/// The index of a store on disk.
pub(super) struct Files {
    home: Home,
    store_id: String,
    clock: Arc<dyn Clock>,
}

impl Files {
    pub(super) fn new(home: Home, store_id: &str, clock: Arc<dyn Clock>) -> Self {
        Self {
            home,
            store_id: store_id.to_owned(),
            clock,
        }
    }

    /// The steps that a mark left behind would tell of.
    fn open_marked(&mut self) -> Result<Opened, IndexError> {
        if self.home.room_bytes()? < ROOM_BYTES_MIN {
            let path = self.home.directory.clone();
            return Err(IndexError::Full { path });
        }
        self.home.remove_torn_snapshots()?;
        match self.open_once() {
            Err(IndexError::Damaged { what }) => {
                self.set_aside(&what)?;
                let opened = self.open_once()?;
                Ok(Opened {
                    quarantines: 1,
                    ..opened
                })
            }
            opened => opened,
        }
    }

    fn open_once(&self) -> Result<Opened, IndexError> {
        let is_new = self.home.is_empty();
        let state = self.home.state();
        let engine = SledEngine::open(&self.home.directory, Arc::clone(&self.home.disk))?;
        let found = Ledger::read_books(&engine)?;
        let (books, is_unclean) = if is_new {
            // An index that was removed while all was in order is simply filled again.
            let mut books = Books::new(&self.store_id, false);
            books.generation = state.map_or(0, |state| state.generation);
            (books, false)
        } else {
            let books = self.check(found, state.as_ref())?;
            (books, state.is_none_or(|state| state.closed_at.is_none()))
        };
        let ledger = Ledger::new(Box::new(engine), books);
        // The database first: after a power cut in between it is one ahead, which `check` knows.
        ledger.amend(|books| books.generation += 1)?;
        self.home.set_state(&State {
            generation: ledger.books().generation,
            closed_at: None,
        })?;
        Ok(Opened {
            ledger,
            is_unclean,
            quarantines: 0,
        })
    }

    /// Compares what the database says of itself with what is known of it.
    fn check(&self, found: Option<Books>, state: Option<&State>) -> Result<Books, IndexError> {
        let damaged = |what: &str| IndexError::Damaged {
            what: what.to_owned(),
        };
        let books = found.ok_or_else(|| damaged("it is empty, or none of ours"))?;
        if books.schema != SCHEMA {
            return Err(damaged("it was written by another version"));
        }
        if books.store_id != self.store_id {
            return Err(damaged("it belongs to another store"));
        }
        let state = state.ok_or_else(|| damaged("what is known of it (index.state) is missing"))?;
        let is_expected = match state.closed_at {
            Some(sequence) => books.generation == state.generation && books.sequence == sequence,
            None => books.generation == state.generation,
        };
        let is_ahead = books.generation == state.generation + 1;
        if is_expected || is_ahead {
            Ok(books)
        } else {
            Err(damaged("it is not the one that was last in use"))
        }
    }
}

impl Source for Files {
    fn open(&mut self) -> Result<Opened, IndexError> {
        let unfinished = self.home.unfinished_openings();
        let mut quarantines = 0;
        if unfinished >= UNFINISHED_OPENINGS_MAX {
            self.set_aside("the last two starts ended while opening it")?;
            quarantines = 1;
        }
        let number = if quarantines > 0 { 1 } else { unfinished + 1 };
        self.home.mark_opening(number)?;
        let opened = self.open_marked();
        // It came to an end, good or bad.
        self.home.unmark_opening()?;
        let opened = opened?;
        Ok(Opened {
            quarantines: quarantines + opened.quarantines,
            ..opened
        })
    }

    fn set_aside(&mut self, why: &str) -> Result<(), IndexError> {
        let bad = self.home.set_aside(self.clock.unix_secs())?;
        let shown = |path: &Path| path.display().to_string();
        tracing::warn!(
            index = shown(&self.home.directory),
            set_aside = bad.as_deref().map(shown),
            "the index is not used any more ({why}); it was set aside and is filled again from the store. Nothing is lost: \
             images stay where they are, lists are slower until then. What was set aside may be removed."
        );
        Ok(())
    }

    fn closed(&mut self, books: &Books) -> Result<(), IndexError> {
        self.home.sync_database()?;
        self.home.set_state(&State {
            generation: books.generation,
            closed_at: Some(books.sequence),
        })
    }
}

/// An index that lives in memory.
pub(super) struct Memory;

impl Source for Memory {
    fn open(&mut self) -> Result<Opened, IndexError> {
        let engine: Box<dyn Engine> = Box::new(MemoryEngine::default());
        Ok(Opened {
            ledger: Ledger::new(engine, Books::new("memory", true)),
            is_unclean: false,
            quarantines: 0,
        })
    }

    fn set_aside(&mut self, _: &str) -> Result<(), IndexError> {
        Ok(())
    }

    fn closed(&mut self, _: &Books) -> Result<(), IndexError> {
        Ok(())
    }
}
