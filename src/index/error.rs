//! What can go wrong with an index, by what a caller can decide.
//!
//! Must not know sled: its errors are sorted into these kinds where they arise. Invariant: the text says what and where,
//! the hint what to do.

use std::io;
use std::path::PathBuf;

use super::engine::Tree;

/// Why the index does not do it.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// Another instance has it open.
    #[error("another instance is using the index {}", path.display())]
    InUse {
        /// The index.
        path: PathBuf,
    },
    /// Too little room to open it safely, or none left to write to.
    #[error("too little free space for the index {}: it needs 64 MiB", path.display())]
    Full {
        /// The index.
        path: PathBuf,
    },
    /// The machine refuses.
    #[error("cannot {doing}")]
    Io {
        /// `open the index …`
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is recorded cannot be trusted; it is set aside and filled again.
    #[error("the index is damaged: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// Out of order for now (or closed): the store has the answer.
    #[error("the index is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl IndexError {
    /// A key or value of `tree` is not one that this version writes.
    pub(super) fn unreadable(tree: Tree) -> Self {
        Self::Damaged {
            what: format!("{} holds something that cannot be read", tree.name()),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InUse { .. } => Some("stop the other instance first"),
            Self::Full { .. } => Some(
                "make room on the volume (64 MiB at least); the index itself may be removed, it is filled again from the store",
            ),
            Self::Io { .. } => {
                Some("the user that runs Boathouse must be able to read and write the index")
            }
            Self::Damaged { .. } | Self::Unavailable { .. } => None,
        }
    }
}
