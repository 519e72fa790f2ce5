//! `storage`, `state_directory`, `relative_paths`, `validation`, `compatibility`: where the data are, and what the operations may do with them.
//!
//! Must not know how data are stored. Invariant: data are served only from a directory or a bucket that the config names.

use std::path::PathBuf;

use serde::Deserialize;

use super::key::{
    Family, Fate, FilePath, FirstRunValue, Flag, InTemplate, Key, OFF, Seconds, Special, Texts,
    Unread, Words, distribution, keys, ours,
};
use super::reader::Reader;
use super::relative::RelativePaths;
use super::{bucket, from_node, limits};
use crate::auth::go_regex;
use crate::oci::Platform;
use crate::registry::{self, Children, FallbackTags, LayerUrls, References, UploadPurging};
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
    /// It must exist: `serve` makes none, since its disk may not be mounted. The directory is the default only where
    /// `storage.filesystem` is present without it.
    ROOT_DIRECTORY: FilePath = distribution("storage.filesystem.rootdirectory").path(ROOT_DIRECTORY_DEFAULT).in_template(InTemplate::FirstRun(FirstRunValue::RootDirectory));

    /// Whether clients may delete, as far as the rules allow it.
    DELETES: Flag = distribution("storage.delete.enabled").flag(false).in_template(InTemplate::Value("true"));

    /// Whether the registry only serves pulls.
    READONLY: Flag = distribution("storage.maintenance.readonly.enabled").flag(false).commented();

    /// Whether uploads that nobody ends are removed.
    ///
    /// Read, and kept for collection, which is not built yet: until then such uploads stay.
    PURGES_UPLOADS: Flag = distribution("storage.maintenance.uploadpurging.enabled").flag(PURGING.enabled);

    /// How long ago such an upload began.
    PURGE_AGE: Seconds = distribution("storage.maintenance.uploadpurging.age").seconds(PURGING.age_secs, PURGE_SECS_MAX);

    /// How often they are looked for.
    PURGE_INTERVAL: Seconds = distribution("storage.maintenance.uploadpurging.interval").seconds(PURGING.interval_secs, PURGE_SECS_MAX);

    /// Whether they are only logged.
    PURGE_DRY_RUN: Flag = distribution("storage.maintenance.uploadpurging.dryrun").flag(PURGING.dry_run);

    /// The directory of the index, the control socket and, by default, of keys that are made here.
    ///
    /// The index can be rebuilt from the store. With a bucket it also holds the lock and the uploads that the bucket does not have
    /// yet; without this key it is then the service's (`StateDirectory=` of systemd) or the user's (`~/.local/share/boathouse`;
    /// of root `/var/lib/boathouse`; on macOS `Library/Application Support/Boathouse`).
    STATE_DIRECTORY: FilePath = ours("state_directory").path("`boathouse` in the root directory; see there for a bucket").in_template(InTemplate::FirstRun(FirstRunValue::StateDirectory));

    /// `strict`: everything that an image refers to must be in its repository. `any`: it need not be.
    REFERENCES: Words<References> = ours("validation.manifests.references").words(References::Strict, REFERENCE_WORDS).in_template(InTemplate::Default);

    /// Whether a tag `sha256-<hex>` lists what refers to an image (signatures, SBOMs), for going back to Docker's registry.
    ///
    /// Clients that see the referrers API here write no such tag, and a registry without that API shows none of what they
    /// attach and deletes it when it collects. By default the tags are kept where the data were taken over from such a
    /// registry (`boathouse/taken-over` in the root directory exists). `boathouse hand-back` writes all that are missing.
    FALLBACK_TAGS: Words<FallbackTags> = ours("compatibility.referrers_fallback_tags").words(FallbackTags::WhereTakenOver, FALLBACK_TAGS_WORDS);

    /// Expressions (RE2) for URLs of layers that are not in the registry: one of them must match.
    ///
    /// Where `validation.manifests.urls` is not given, a layer may be at any URL; distribution then takes no such layer. Where it
    /// is given without expressions, none is taken. A URL must be http or https, without a fragment.
    URLS_ALLOW: Texts = distribution("validation.manifests.urls.allow").texts();

    /// Expressions for such URLs that are refused.
    URLS_DENY: Texts = distribution("validation.manifests.urls.deny").texts();

    /// Which images of an index must exist: `all`, `none`, or those for the platforms in a `list`.
    ///
    /// With `references: any` none must. Blobs of images must exist in any case, as in distribution.
    PLATFORMS: Words<Platforms> = distribution("validation.manifests.indexes.platforms").words(Platforms::All, PLATFORM_WORDS);

    /// The architecture of a platform in the list: `amd64`. Each item has this and the next key.
    PLATFORM_ARCHITECTURE: Special = distribution("validation.manifests.indexes.platformlist.[].architecture").special("text", "");

    /// Its operating system: `linux`.
    PLATFORM_OS: Special = distribution("validation.manifests.indexes.platformlist.[].os").special("text", "");

    /// Whether `validation.manifests.urls` and `validation.manifests.indexes` have no effect, and no image of an index must exist.
    VALIDATION_DISABLED: Flag = distribution("validation.disabled").flag(false);

    /// An old key: `true` has precedence over `validation.disabled`; `false` means nothing.
    VALIDATION_ENABLED: Flag = distribution("validation.enabled").flag(false);
}

/// distribution's default.
const ROOT_DIRECTORY_DEFAULT: &str = "/var/lib/registry";

const PURGING: UploadPurging = UploadPurging::DEFAULT;

/// A year; longer is never.
const PURGE_SECS_MAX: u64 = 366 * 86_400;

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

/// `validation.manifests.indexes.platforms`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Platforms {
    All,
    None,
    List,
}

const PLATFORM_WORDS: &[(&str, Platforms)] = &[
    ("all", Platforms::All),
    ("none", Platforms::None),
    ("list", Platforms::List),
];

/// An item of `validation.manifests.indexes.platformlist`.
#[derive(Deserialize)]
struct PlatformEntry {
    architecture: String,
    os: String,
}

const OWN_INDEX: &str = "not needed: the index here needs no cache";

/// Why a storage driver of distribution is refused, and what to do.
const NO_DRIVER: &str = "copy the data (`rclone copy`) into a directory for storage.filesystem.rootdirectory, or into a bucket for storage.s3";

const DRIVERS: &str = "data are kept in a directory or in a bucket of S3's protocol";

const UNREAD: &[Key<Unread>] = &[
    distribution("storage.filesystem.maxthreads")
        .harmless("not needed: limits.connections bounds reads and writes"),
    distribution("storage.cache").harmless(OWN_INDEX),
    distribution("storage.tag").harmless(OWN_INDEX),
    distribution("redis").harmless(OWN_INDEX),
    distribution("storage.azure")
        .refused(&[], DRIVERS)
        .hint(NO_DRIVER),
    distribution("storage.gcs")
        .refused(&[], DRIVERS)
        .hint(NO_DRIVER),
    distribution("storage.swift")
        .refused(&[], DRIVERS)
        .hint(NO_DRIVER),
    distribution("storage.oss")
        .refused(&[], DRIVERS)
        .hint(NO_DRIVER),
    distribution("storage.inmemory")
        .refused(&[], "it loses all images at each stop")
        .hint("use storage.filesystem with a directory on a tmpfs"),
    distribution("compatibility.schema1.enabled")
        .refused(
            OFF,
            "images of schema 1 (before 2016) cannot be pushed; stored ones are still served",
        )
        .hint("remove it"),
    distribution("compatibility.schema1.signingkeyfile")
        .harmless("not needed: schema 1 images are not converted here"),
    ours("retention").not_yet(OFF),
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
        let is_refused = |key: &Key<Unread>| match key.row.fate {
            Fate::NotYet(unless) | Fate::Refused(unless, _) => unless.is_empty(),
            Fate::Built | Fate::Harmless(_) => false,
        };
        let mut refused = UNREAD.iter().filter(|key| is_refused(key));
        matches!(name, "filesystem" | "s3") || refused.any(|key| key.path == path)
    };
    let drivers = reader
        .node("storage")
        .map_or(&[][..], |node| node.entries());
    // A driver that is not supported was refused already.
    if !drivers.iter().any(|entry| is_driver(&entry.key)) {
        reader.refuse(
            "storage",
            "no storage is configured",
            "add `storage: {filesystem: {rootdirectory: DIRECTORY}}` or `storage: {s3: {…}}`, or give the registry's own file as another `--config`",
        );
    }
    let is_given = |name: &str| drivers.iter().any(|entry| entry.key == name);
    if is_given("s3") {
        if is_given("filesystem") {
            reader.refuse(
                bucket::SECTION,
                "the data cannot be in a bucket and in a directory (storage.filesystem)",
                "remove one of the two; `boathouse move` copies from one to the other",
            );
        }
        let state = state_directory_of_bucket(reader);
        let bucket = bucket::bucket(reader, &state);
        return (store::Settings::Bucket(Box::new(bucket)), state);
    }
    if let Some(node) = reader.node("storage.redirect") {
        let note = "storage.redirect has no effect: not needed: a directory never redirects";
        reader.notes.push(format!("{}: {note}", node.place));
    }
    let root_directory = reader.path(&ROOT_DIRECTORY, PathBuf::from(ROOT_DIRECTORY_DEFAULT));
    // Beside `docker/`, which belongs to the layout that the old registry reads.
    let state = reader.path(&STATE_DIRECTORY, root_directory.join("boathouse"));
    (store::Settings::Filesystem { root_directory }, state)
}

/// Where the state is of data in a bucket, beside which nothing of this machine can be.
fn state_directory_of_bucket(reader: &mut Reader<'_>) -> PathBuf {
    let usual = reader.usual_state_directory.take();
    if usual.is_none() && reader.node(STATE_DIRECTORY.path).is_none() {
        reader.refuse(
            STATE_DIRECTORY.path,
            "missing: the index and uploads need a directory on this machine",
            "add `state_directory: DIRECTORY`",
        );
    }
    reader.path(&STATE_DIRECTORY, usual.unwrap_or_default())
}

/// The operations.
pub(super) fn registry(reader: &mut Reader<'_>) -> registry::Settings {
    let validation = validation(reader);
    registry::Settings {
        deletes_enabled: reader.get(&DELETES),
        readonly: reader.get(&READONLY),
        upload_purging: upload_purging(reader),
        references: reader.get(&REFERENCES),
        fallback_tags: reader.get(&FALLBACK_TAGS),
        layer_urls: validation.layer_urls,
        children: validation.children,
        // Only the store's directory shows it; it is looked at at start.
        case_insensitive: false,
        limits: limits::registry(reader),
    }
}

/// What distribution validates in manifests.
struct Validation {
    layer_urls: Option<LayerUrls>,
    children: Children,
}

fn validation(reader: &mut Reader<'_>) -> Validation {
    let (enabled, disabled) = (
        reader.get(&VALIDATION_ENABLED),
        reader.get(&VALIDATION_DISABLED),
    );
    let validation = Validation {
        layer_urls: layer_urls(reader),
        children: children(reader),
    };
    if enabled || !disabled {
        return validation;
    }
    Validation {
        layer_urls: None,
        children: Children::None,
    }
}

/// `None` where the key is absent: images with layers elsewhere could always be pushed here.
fn layer_urls(reader: &mut Reader<'_>) -> Option<LayerUrls> {
    let mut compiled = |key: &Key<Texts>| {
        let mut expressions = Vec::new();
        for text in reader.get(key) {
            match go_regex(&text) {
                Ok(expression) => expressions.push(expression),
                Err(_) => reader.refuse(
                    key.path,
                    "not regular expressions as Go reads them",
                    "written like `[\"^https://go\\\\.microsoft\\\\.com/\"]`",
                ),
            }
        }
        expressions
    };
    let (allow, deny) = (compiled(&URLS_ALLOW), compiled(&URLS_DENY));
    reader
        .is_given("validation.manifests.urls")
        .then_some(LayerUrls { allow, deny })
}

fn children(reader: &mut Reader<'_>) -> Children {
    let platforms = reader.get(&PLATFORMS);
    let key = "validation.manifests.indexes.platformlist";
    let entries: Vec<PlatformEntry> = match reader.node(key) {
        None => Vec::new(),
        Some(node) => from_node::read(node, key).unwrap_or_else(|error| {
            reader.errors.push(error);
            Vec::new()
        }),
    };
    let list: Vec<Platform> = entries
        .into_iter()
        .map(|entry| Platform {
            architecture: entry.architecture,
            os: entry.os,
        })
        .collect();
    if platforms != Platforms::List && !list.is_empty() {
        reader.warn(key, "has no effect unless `platforms` is `list`");
    }
    match platforms {
        // distribution takes an empty list for all.
        Platforms::List if !list.is_empty() => Children::Of(list),
        Platforms::All | Platforms::List => Children::All,
        Platforms::None => Children::None,
    }
}

/// Only read: a note says so where it is written.
fn upload_purging(reader: &mut Reader<'_>) -> UploadPurging {
    let key = "storage.maintenance.uploadpurging";
    let purging = UploadPurging {
        enabled: reader.get(&PURGES_UPLOADS),
        age_secs: reader.get(&PURGE_AGE),
        interval_secs: reader.get(&PURGE_INTERVAL),
        dry_run: reader.get(&PURGE_DRY_RUN),
    };
    if let Some(node) = reader.node(key)
        && purging.enabled
    {
        reader.notes.push(format!(
            "{}: {key}: kept for collection, which is not built yet: until then abandoned uploads stay",
            node.place
        ));
    }
    purging
}
