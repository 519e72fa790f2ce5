//! `storage`, `state_directory`, `relative_paths`, `validation`, `compatibility`: where the data are, and what the operations may do with them.
//!
//! Must not know how data are stored. Invariant: data are served only from a directory that the config names.

use std::path::PathBuf;

use super::key::{
    Family, Fate, FilePath, FirstRunValue, Flag, InTemplate, Key, OFF, Unread, Words, distribution,
    keys, ours,
};
use super::limits;
use super::reader::Reader;
use super::relative::RelativePaths;
use crate::registry::{self, FallbackTags, References};
use crate::store;

keys! {
    table KEYS;

    /// Where relative paths start: in the directory of the file that holds them, or in the working directory.
    ///
    /// With `config_directory`, the directory can be moved or copied as a whole. Without the key, a path means the one of the
    /// two places that exists. Where both exist it is refused; where neither does it is the working directory, as in
    /// distribution, with a note. Paths in `REGISTRY_…` variables start in the working directory.
    RELATIVE_PATHS: Words<RelativePaths> = ours("relative_paths").words(RelativePaths::Unclear, PLACES).in_template(InTemplate::Value("config_directory"));

    /// The directory of the images, in the layout of Docker's registry.
    ///
    /// The directory is the default only where `storage.filesystem` is present without it.
    ROOT_DIRECTORY: FilePath = distribution("storage.filesystem.rootdirectory").path(ROOT_DIRECTORY_DEFAULT).in_template(InTemplate::FirstRun(FirstRunValue::RootDirectory));

    /// Whether clients may delete, as far as the rules allow it.
    DELETES: Flag = distribution("storage.delete.enabled").flag(false).in_template(InTemplate::Value("true"));

    /// Whether the registry only serves pulls.
    READONLY: Flag = distribution("storage.maintenance.readonly.enabled").flag(false).commented();

    /// The directory of the index, the control socket and, by default, of keys that are made here.
    ///
    /// The index can be rebuilt from the store.
    STATE_DIRECTORY: FilePath = ours("state_directory").path("`boathouse` in the root directory").in_template(InTemplate::FirstRun(FirstRunValue::StateDirectory));

    /// `strict`: everything that an image refers to must be in its repository. `any`: it need not be.
    REFERENCES: Words<References> = ours("validation.manifests.references").words(References::Strict, REFERENCE_WORDS).in_template(InTemplate::Default);

    /// Whether a tag `sha256-<hex>` lists what refers to an image (signatures, SBOMs), for going back to Docker's registry.
    ///
    /// Clients that see the referrers API here write no such tag, and a registry without that API shows none of what they
    /// attach and deletes it when it collects. By default the tags are kept where the data were taken over from such a
    /// registry (`boathouse/taken-over` in the root directory exists). `boathouse hand-back` writes all that are missing.
    FALLBACK_TAGS: Words<FallbackTags> = ours("compatibility.referrers_fallback_tags").words(FallbackTags::WhereTakenOver, FALLBACK_TAGS_WORDS);
}

/// distribution's default.
const ROOT_DIRECTORY_DEFAULT: &str = "/var/lib/registry";

const PLACES: &[(&str, RelativePaths)] = &[
    ("config_directory", RelativePaths::ConfigDirectory),
    ("working_directory", RelativePaths::WorkingDirectory),
];

const REFERENCE_WORDS: &[(&str, References)] =
    &[("strict", References::Strict), ("any", References::Any)];

const FALLBACK_TAGS_WORDS: &[(&str, FallbackTags)] = &[
    ("where_taken_over", FallbackTags::WhereTakenOver),
    ("true", FallbackTags::Kept),
    ("false", FallbackTags::Off),
];

const OWN_INDEX: &str = "not needed: the index here needs no cache";

const UNREAD: &[Key<Unread>] = &[
    distribution("storage.filesystem.maxthreads")
        .harmless("not needed: reads and writes are bounded here by limits.connections"),
    distribution("storage.maintenance.uploadpurging")
        .harmless("abandoned uploads are not purged yet"),
    distribution("storage.redirect.disable").harmless("a directory never redirects"),
    distribution("storage.cache").harmless(OWN_INDEX),
    distribution("storage.tag").harmless(OWN_INDEX),
    distribution("redis").harmless(OWN_INDEX),
    distribution("storage.s3")
        .not_yet(&[])
        .hint("use storage.filesystem"),
    distribution("storage.s3aws")
        .not_yet(&[])
        .hint("use storage.filesystem"),
    distribution("storage.azure").not_yet(&[]),
    distribution("storage.gcs").not_yet(&[]),
    distribution("storage.inmemory").not_yet(&[]),
    distribution("storage.swift").not_yet(&[]),
    distribution("storage.oss").not_yet(&[]),
    distribution("validation.enabled").not_yet(&["true", "yes", "on"]),
    distribution("validation.disabled").not_yet(OFF),
    distribution("validation.manifests.urls").not_yet(&[]),
    distribution("validation.manifests.indexes").not_yet(&[]),
    distribution("compatibility.schema1.enabled").not_yet(OFF),
    distribution("compatibility.schema1.trustkey").harmless("only schema 1 images use it"),
    distribution("compatibility.schema1.signingkeyfile").harmless("only schema 1 images use it"),
    ours("retention").not_yet(&[]),
];

pub(super) const FAMILY: Family = Family {
    heading: "Data and paths",
    intro: "",
    keys: KEYS,
    unread: UNREAD,
};

/// Before any path is read.
pub(super) fn relative_paths(reader: &mut Reader<'_>) {
    reader.relative_paths = reader.get(&RELATIVE_PATHS);
}

/// Where the data are, and the directory for everything of ours beside them.
pub(super) fn storage(reader: &mut Reader<'_>) -> (store::Settings, PathBuf) {
    let is_driver = |name: &str| {
        let path = format!("storage.{name}");
        let mut refused = UNREAD
            .iter()
            .filter(|key| key.row.fate == Fate::NotYet(&[]));
        name == "filesystem" || refused.any(|key| key.path == path)
    };
    let drivers = reader
        .node("storage")
        .map_or(&[][..], |node| node.entries());
    // A driver that is not supported was refused already.
    if !drivers.iter().any(|entry| is_driver(&entry.key)) {
        reader.refuse(
            "storage",
            "no storage is configured",
            "add `storage: {filesystem: {rootdirectory: DIRECTORY}}`, or give the registry's own file as another `--config`",
        );
    }
    let root_directory = reader.path(&ROOT_DIRECTORY, PathBuf::from(ROOT_DIRECTORY_DEFAULT));
    // Beside `docker/`, which belongs to the layout that the old registry reads.
    let state = reader.path(&STATE_DIRECTORY, root_directory.join("boathouse"));
    (store::Settings::Filesystem { root_directory }, state)
}

/// The operations.
pub(super) fn registry(reader: &mut Reader<'_>) -> registry::Settings {
    registry::Settings {
        deletes_enabled: reader.get(&DELETES),
        readonly: reader.get(&READONLY),
        references: reader.get(&REFERENCES),
        fallback_tags: reader.get(&FALLBACK_TAGS),
        // Only the store's directory shows it; it is looked at at start.
        case_insensitive: false,
        limits: limits::registry(reader),
    }
}
