//! The place of notifications to other programs. Empty until there are some.
