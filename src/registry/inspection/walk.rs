//! One inspection: reads names and contents, and passes findings on.
//!
//! Must not know what is looked for. Invariant: what cannot be read is reported as a finding, and ends nothing.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;

use super::finding::{Finding, Kind};
use crate::layout::{Key, Prefix};
use crate::registry::core::Core;
use crate::store::{Depth, Small};

/// Receives findings.
pub type Found<'a> = &'a mut (dyn FnMut(Finding) + Send);

/// The names directly below a prefix.
#[derive(Default)]
pub(super) struct Names {
    pub(super) directories: Vec<String>,
    pub(super) files: Vec<String>,
}

/// One inspection.
pub(super) struct Walk<'a> {
    pub(in crate::registry) core: &'a Core,
    found: Found<'a>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(core: &'a Core, found: Found<'a>) -> Self {
        Self { core, found }
    }

    pub(super) fn tell(&mut self, kind: Kind, place: impl Into<String>, detail: impl Into<String>) {
        (self.found)(Finding {
            kind,
            place: place.into(),
            detail: detail.into(),
        });
    }

    /// The names directly below `prefix`; those that came before it could no longer be read.
    pub(super) async fn names(&mut self, prefix: &Prefix) -> Names {
        let core = self.core;
        let mut entries = core.store.list(prefix, Depth::One);
        let mut names = Names::default();
        loop {
            match entries.try_next().await {
                Ok(None) => break,
                Err(error) => {
                    self.unreadable(prefix.as_str(), &error);
                    break;
                }
                Ok(Some(entry)) => {
                    let name = entry.key.strip_prefix(prefix.as_str());
                    let name = name.unwrap_or_default();
                    match name.strip_suffix('/') {
                        Some(directory) => names.directories.push(directory.to_owned()),
                        None => names.files.push(name.to_owned()),
                    }
                }
            }
        }
        names
    }

    /// What is at `keys`; what cannot be read is left out.
    pub(super) async fn read(&mut self, keys: &[Key], size_max_bytes: u64) -> BTreeMap<Key, Small> {
        let mut contents = BTreeMap::new();
        let core = self.core;
        let gather = |key: &Key, content| drop(contents.insert(key.clone(), content));
        if core.read_each(keys, size_max_bytes, gather).await.is_ok() {
            return contents;
        }
        // One of them cannot be read, and the others were not reached.
        for key in keys {
            if contents.contains_key(key) {
                continue;
            }
            let gather = |key: &Key, content| drop(contents.insert(key.clone(), content));
            let key = std::slice::from_ref(key);
            if let Err(error) = core.read_each(key, size_max_bytes, gather).await {
                self.unreadable(key.iter().map(Key::as_str).collect::<String>(), &error);
            }
        }
        contents
    }

    pub(super) fn unreadable(&mut self, place: impl Into<String>, error: &dyn std::error::Error) {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        self.tell(Kind::Unreadable, place, cause.to_string());
    }
}
