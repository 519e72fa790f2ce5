//! Every key that Boathouse knows, and the questions that are asked of the table.
//!
//! Each section declares its own keys (`key` says how); here are those that no section reads. Must not know what the keys do.
//! Invariant: a key that could open a door when it is ignored is never `Harmless`.

use super::error::Place;
use super::key::{
    Family, Fate, Files, Key, OFF, Row, Source, TakesEffect, Unread, distribution, ours,
};
use super::reader::{InForce, Value};
use super::{
    bucket, certificates, external, health, http, limits, logs, storage, token_listener, tokens,
};

/// All keys, in the order of the documentation and of the file that `up` writes.
pub(super) const FAMILIES: &[Family] = &[
    storage::FAMILY,
    bucket::FAMILY,
    http::FAMILY,
    certificates::FAMILY,
    tokens::ACCOUNTS,
    external::FAMILY,
    tokens::TOKENS,
    token_listener::FAMILY,
    logs::FAMILY,
    limits::FAMILY,
    health::FAMILY,
    OTHERS,
];

const UNREAD: &[Key<Unread>] = &[
    distribution("middleware")
        .refused(
            OFF,
            "layers are sent by this process, never by a CDN or through rewritten links",
        )
        .hint("remove it, or put the cache in front of Boathouse"),
    distribution("notifications.events").harmless("only notifications.endpoints uses it"),
    distribution("notifications.endpoints")
        .not_yet(OFF)
        .hint("remove it: no webhooks are sent until they are built"),
    distribution("proxy")
        .not_yet(OFF)
        .hint("keep a registry of its own as the pull-through cache until mirrors are built"),
    distribution("policy.repository.classes")
        .refused(
            OFF,
            "rules decide about repositories, not about the kind of what is in them",
        )
        .hint("remove it, and restrict who may push with `acl`"),
    ours("mirrors").not_yet(OFF),
    ours("trust").not_yet(OFF),
];

const OTHERS: Family = Family {
    heading: "Other keys",
    intro: "",
    keys: &[],
    unread: UNREAD,
};

/// Whose keys are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A configuration file.
    Config,
    /// The `REGISTRY_…` variables.
    Environment,
    /// A `users_file`.
    UsersFile,
}

impl Scope {
    fn rows(self) -> impl Iterator<Item = &'static Row> {
        let rows = FAMILIES.iter().flat_map(|family| {
            let read = family.keys.iter().map(|key| key.row());
            read.chain(family.unread.iter().map(|key| &key.row))
        });
        rows.filter(move |row| match self {
            Self::Config => row.files != Files::UsersFile,
            Self::Environment => row.source == Source::Distribution,
            Self::UsersFile => row.files != Files::Config,
        })
    }
}

/// What the table says about a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    /// The path is a row, or is below one whose fate covers all below it.
    Key(&'static Row),
    /// Rows begin with this path; `list` if they go on with items of a list.
    Prefix {
        /// Whether a list is expected here rather than a map.
        list: bool,
    },
    /// No row.
    Unknown,
}

/// Looks a path up; a row that also has rows below it is a `Key`.
pub(super) fn look_up(scope: Scope, path: &[&str]) -> Known {
    let mut prefix = None;
    for row in scope.rows() {
        let mut wanted = row.path.split('.');
        let mut given = path.iter().copied();
        loop {
            match (wanted.next(), given.next()) {
                (None, None) => return Known::Key(row),
                (None, Some(_)) if row.fate != Fate::Built => return Known::Key(row),
                (Some(next), None) => {
                    prefix = Some(next == "[]");
                    break;
                }
                (Some(row), Some(key)) if row == key || (row == "*" && key != "[]") => {}
                (None | Some(_), Some(_)) => break,
            }
        }
    }
    prefix.map_or(Known::Unknown, |list| Known::Prefix { list })
}

/// Whether rows are below this path.
pub(super) fn has_children(scope: Scope, path: &str) -> bool {
    let path = format!("{path}.");
    scope.rows().any(|row| row.path.starts_with(&path))
}

/// The keys whose value differs between `before` and `now`, and that only a restart takes up. A key that only one of the two
/// asked for counts if it was written there.
pub fn needs_restart<'a>(before: &'a [InForce], now: &'a [InForce]) -> Vec<&'a str> {
    fn of<'a>(keys: &'a [InForce], name: &str) -> Option<&'a InForce> {
        keys.iter().find(|key| key.key == name)
    }
    let differs = |key: &InForce| match (of(before, &key.key), of(now, &key.key)) {
        (Some(before), Some(now)) => before.value != now.value,
        (Some(one), None) | (None, Some(one)) => one.place.is_some(),
        (None, None) => false,
    };
    let gone = before.iter().filter(|key| of(now, &key.key).is_none());
    // What a summary tells of is read again, or changes by itself.
    let is_fixed =
        |key: &InForce| !matches!(key.value, Value::Summary(_)) && !is_taken_up_by_reload(&key.key);
    let changed = now.iter().chain(gone);
    let changed = changed.filter(|key| differs(key) && is_fixed(key));
    changed.map(|key| key.key.as_str()).collect()
}

/// Keys that only this program knows, in files that other programs read: files that have other keys too.
pub fn own_keys(in_force: &[InForce]) -> impl Iterator<Item = &InForce> {
    let is_own = |key: &InForce| {
        let path: Vec<&str> = key.key.split('.').collect();
        match look_up(Scope::Config, &path) {
            Known::Key(row) => row.source == Source::Boathouse,
            Known::Prefix { .. } | Known::Unknown => false,
        }
    };
    let others = in_force.iter().filter(move |key| !is_own(key));
    let others: Vec<&Place> = others.filter_map(|key| key.place.as_ref()).collect();
    in_force.iter().filter(move |key| {
        let place = key.place.as_ref();
        let is_read_by_others =
            place.is_some_and(|place| others.iter().any(|other| other.is_in(place)));
        is_own(key) && is_read_by_others
    })
}

/// Whether a running server takes up a change of this key at a reload.
fn is_taken_up_by_reload(path: &str) -> bool {
    let path: Vec<&str> = path.split('.').collect();
    match look_up(Scope::Config, &path) {
        Known::Key(row) => row.takes_effect == TakesEffect::AtReload,
        Known::Prefix { .. } | Known::Unknown => false,
    }
}

/// The known key that was probably meant: a sibling spelt alike, else the same name elsewhere.
pub(super) fn nearest(scope: Scope, path: &[&str]) -> Option<String> {
    let (key, parents) = path.split_last()?;
    let key = key.to_lowercase();
    // Two slips, or one for a short word; more would suggest nonsense.
    let distance_max = if key.len() < 4 { 1 } else { 2 };
    let sibling = scope
        .rows()
        .filter_map(|row| {
            let mut segments = row.path.split('.');
            let below = parents.iter().all(|parent| {
                segments
                    .next()
                    .is_some_and(|row| row == "*" || row == *parent)
            });
            segments
                .next()
                .filter(|next| below && !["*", "[]"].contains(next))
        })
        .map(|name| (distance(&key, name), name))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, name)| super::node::join(&parents.join("."), name));
    sibling.or_else(|| {
        let elsewhere = scope
            .rows()
            .find(|row| row.path.rsplit('.').next() == Some(&key));
        elsewhere.map(|row| row.path.to_owned())
    })
}

/// How many slips lead from one word to the other; a word that was cut short (`rootdir`) is one.
fn distance(key: &str, name: &str) -> usize {
    if key.len() >= ABBREVIATION_LENGTH_MIN && name.starts_with(key) {
        return 1;
    }
    strsim::levenshtein(key, name)
}

/// Shorter beginnings are those of many words.
const ABBREVIATION_LENGTH_MIN: usize = 4;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_nearest_key_is_a_sibling_or_the_same_name_elsewhere() {
        let nearest = |path: &[&str]| nearest(Scope::Config, path);
        for (path, expected) in [
            (&["http", "adr"][..], Some("http.addr")),
            (&["ACL"], Some("acl")),
            (&["rootdirectory"], Some("storage.filesystem.rootdirectory")),
            (
                &["storage", "filesystem", "rootdir"],
                Some("storage.filesystem.rootdirectory"),
            ),
            (&["zzzzzzzz"], None),
            (
                &["acl", "[]", "match", "acount"],
                Some("acl.[].match.account"),
            ),
        ] {
            assert_eq!(nearest(path).as_deref(), expected, "{path:?}");
        }
    }

    #[test]
    fn no_key_is_in_the_table_twice() {
        let mut rows: Vec<&str> = Scope::Config.rows().map(|row| row.path).collect();
        rows.sort_unstable();
        let before = rows.len();
        rows.dedup();
        assert_eq!(rows.len(), before);
    }

    /// A key that no section reads would be accepted, and do nothing.
    #[test]
    fn every_key_is_read_by_a_section() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.yml");
        let mut read = BTreeSet::new();
        for text in [
            "storage: filesystem\nloglevel: info\ntls: auto\nserver: {addr: ':0'}\nusers: {}\nacl: []\n",
            "storage: filesystem\nauth: {token: {issuer: lab}}\nusers: {}\nacl: []\n",
            "storage: filesystem\nauth: {htpasswd: {realm: lab, path: /dev/null}}\n",
            "storage: {s3: {bucket: images}}\nstate_directory: /srv\n",
        ] {
            std::fs::write(&file, text).unwrap();
            let loaded = crate::config::load(std::slice::from_ref(&file), &BTreeMap::new());
            read.extend(loaded.unwrap().in_force.into_iter().map(|key| key.key));
        }
        let keys = FAMILIES.iter().flat_map(|family| family.keys);
        for path in keys.map(|key| key.row().path) {
            let has_any_name = path.contains(['*', '[']);
            assert!(has_any_name || read.contains(path), "{path}");
        }
    }

    #[test]
    fn every_key_is_documented() {
        for row in FAMILIES
            .iter()
            .flat_map(|family| family.keys)
            .map(|key| key.row())
        {
            assert!(!row.doc.trim().is_empty(), "{}", row.path);
        }
    }
}
