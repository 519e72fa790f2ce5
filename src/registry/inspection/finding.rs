//! What an inspection can find, and what each finding means: here, to the registry 2.8, and to distribution 3.1.
//!
//! Source: seen with docker-registry 2.8.2 and distribution 3.1.2 over such trees (docs/storage-layout.md "Handing back").
//! Must not know how anything is found. Invariant: every kind of finding has a row in [`Kind::meaning`].

use serde::Serialize;

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// The key or prefix in the store where it is.
    pub place: String,
    /// More about it; may be empty.
    pub detail: String,
}

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A link that is empty, or not a digest.
    BadLink(LinkTo),
    /// A link that ends in a newline or has other white space.
    SpacedLink(LinkTo),
    /// A link to bytes that are not there.
    MissingData(LinkTo),
    /// Bytes that are not what their digest says.
    DamagedData,
    /// A tag of a manifest that the repository does not have.
    DanglingTag,
    /// Something in a directory of tags that is not a tag.
    StrayInTags,
    /// A `link` or `data` that is not in its place, and that collectors read.
    StrayRead,
    /// Anything else that is not part of the layout.
    Stray,
    /// An image manifest of Docker's first schema.
    Schema1,
    /// A manifest of a type that no registry of this layout knows, or no manifest at all.
    UnknownType,
    /// An OCI artifact manifest, which only this registry takes.
    Artifact,
    /// A manifest that is longer than registries read.
    TooLong,
    /// A repository without `_layers`.
    NoLayers,
    /// A file or directory that this user may not read.
    Unreadable,
    /// An upload session of another registry.
    ForeignUpload,
    /// An upload session of this registry.
    OpenUpload,
    /// A manifest names something whose bytes are nowhere.
    MissingReference,
    /// A manifest names something that the repository does not link, although its bytes are stored.
    ReferenceElsewhere,
    /// Manifests that refer to another one, which its fallback tag does not list.
    UnlistedReferrers,
    /// Untagged manifests that refer to another one, and that its fallback tag lists.
    ListedReferrers,
    /// Untagged manifests that an index lists.
    UntaggedChildren,
    /// OCI indexes that clients ask for by themselves: not the lists of referrers.
    OciIndexes,
    /// A file or directory that the old registry's user may not read.
    ClosedToUser,
    /// Directories in which the old registry's user may not write.
    UnwritableToUser,
    /// An account that only the users file has.
    OwnAccount,
    /// An account that the old program's file has with another password, other labels or another end.
    ChangedAccount,
    /// An account that only the old program's file has.
    RemovedAccount,
    /// Rules that differ from those of the old program's file.
    ChangedRules,
    /// The old program's files cannot be read.
    NoOldFiles,
    /// A key of the configuration that only this program knows.
    OwnKey,
}

/// What a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkTo {
    /// A blob of the repository.
    Blob,
    /// A manifest of the repository.
    Manifest,
    /// What a tag points at.
    Tag,
}

/// What a finding means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// What it is, in a few words.
    pub what: &'static str,
    /// What can be done about it.
    pub hint: &'static str,
    /// Whether it is damage, whichever registry serves the data.
    #[serde(skip)]
    pub is_damage: bool,
    /// Whether it is only to be known: nothing is lost if nothing is done about it.
    #[serde(skip)]
    pub is_note: bool,
    /// What docker-registry 2.8 makes of it; empty if it does not matter there.
    pub docker_registry_2_8: &'static str,
    /// What distribution 3.1 makes of it; empty if it does not matter there.
    pub distribution_3_1: &'static str,
}

impl Meaning {
    const fn damage(
        what: &'static str,
        docker_registry_2_8: &'static str,
        distribution_3_1: &'static str,
        hint: &'static str,
    ) -> Self {
        Self {
            what,
            hint,
            is_damage: true,
            is_note: false,
            docker_registry_2_8,
            distribution_3_1,
        }
    }

    const fn obstacle(
        what: &'static str,
        docker_registry_2_8: &'static str,
        distribution_3_1: &'static str,
        hint: &'static str,
    ) -> Self {
        Self {
            is_damage: false,
            ..Self::damage(what, docker_registry_2_8, distribution_3_1, hint)
        }
    }

    const fn note(
        what: &'static str,
        docker_registry_2_8: &'static str,
        distribution_3_1: &'static str,
        hint: &'static str,
    ) -> Self {
        Self {
            is_note: true,
            ..Self::obstacle(what, docker_registry_2_8, distribution_3_1, hint)
        }
    }

    /// Whether going back to either of the two is hindered.
    pub fn is_obstacle(&self) -> bool {
        !self.docker_registry_2_8.is_empty() || !self.distribution_3_1.is_empty()
    }
}

const PUSH_AGAIN: &str = "push it again";
const HAND_BACK: &str = "`boathouse hand-back` writes it";
const HAND_BACK_REWRITES: &str = "`boathouse hand-back` rewrites it";
const EXPORT_ACCOUNTS: &str =
    "`boathouse config export --for docker_auth` prints a file with the accounts and rules of now";
const GC_ABORTS: &str = "500; garbage-collect aborts";
const GC_M_ABORTS: &str = "500 by this tag; garbage-collect -m aborts";

impl Kind {
    /// What it means.
    #[expect(clippy::too_many_lines, reason = "one table, a row for each kind")]
    pub fn meaning(self) -> Meaning {
        match self {
            Self::BadLink(LinkTo::Blob) => Meaning::damage(
                "the link of a blob is empty or not a digest",
                "500 for the blob",
                "500 for the blob; garbage-collect aborts",
                "push the image again, or remove the link's directory",
            ),
            Self::BadLink(LinkTo::Manifest) => Meaning::damage(
                "the link of a manifest is empty or not a digest",
                GC_ABORTS,
                GC_ABORTS,
                "push the image again, or remove the link's directory",
            ),
            Self::BadLink(LinkTo::Tag) => Meaning::damage(
                "the link of a tag is empty or not a digest",
                GC_M_ABORTS,
                GC_M_ABORTS,
                "push the tag again, or remove its directory",
            ),
            Self::SpacedLink(LinkTo::Blob) => Meaning::damage(
                "the link of a blob has white space; read all the same here",
                "500 for the blob",
                "500 for the blob; garbage-collect aborts",
                HAND_BACK_REWRITES,
            ),
            Self::SpacedLink(LinkTo::Manifest) => Meaning::damage(
                "the link of a manifest has white space; read all the same here",
                GC_ABORTS,
                GC_ABORTS,
                HAND_BACK_REWRITES,
            ),
            Self::SpacedLink(LinkTo::Tag) => Meaning::damage(
                "the link of a tag has white space; read all the same here",
                GC_M_ABORTS,
                GC_M_ABORTS,
                HAND_BACK_REWRITES,
            ),
            Self::MissingData(LinkTo::Blob) => Meaning::damage(
                "the bytes of a blob are missing",
                "404 for the blob",
                "404 for the blob",
                PUSH_AGAIN,
            ),
            Self::MissingData(LinkTo::Manifest | LinkTo::Tag) => Meaning::damage(
                "the bytes of a manifest are missing",
                "404; garbage-collect deletes its layers",
                "404; garbage-collect deletes its layers",
                PUSH_AGAIN,
            ),
            Self::DamagedData => Meaning::damage(
                "the bytes are not what their digest says",
                "served as they are",
                "served as they are",
                PUSH_AGAIN,
            ),
            Self::DanglingTag => Meaning::damage(
                "the tag points at a manifest that the repository does not have",
                "404 by this tag",
                "404 by this tag",
                "push the tag again, or delete it",
            ),
            Self::StrayInTags => Meaning::damage(
                "not a tag, in a directory of tags",
                "listed as a tag; garbage-collect -m aborts",
                "listed as a tag; garbage-collect -m aborts",
                "move it away",
            ),
            Self::StrayRead => Meaning::damage(
                "has the name of a part of the layout and is in the wrong place",
                "garbage-collect aborts",
                "garbage-collect aborts",
                "move it away",
            ),
            Self::Stray => Meaning::damage(
                "not a part of the layout; ignored",
                "",
                "",
                "move it away if nothing else needs it there",
            ),
            Self::Schema1 => Meaning::damage(
                "an image of Docker's schema 1, which most clients no longer pull",
                "",
                GC_ABORTS,
                "build or push it anew with a current client, then delete it",
            ),
            Self::UnknownType => Meaning::damage(
                "not a manifest of a type that registries know",
                GC_ABORTS,
                GC_ABORTS,
                "delete it before going back",
            ),
            Self::Artifact => Meaning::obstacle(
                "an OCI artifact manifest, which only Boathouse takes",
                GC_ABORTS,
                GC_ABORTS,
                "delete it before going back, or attach the artifact anew with a current client",
            ),
            Self::TooLong => Meaning::damage(
                "a manifest of more than 4 MiB",
                GC_ABORTS,
                GC_ABORTS,
                "delete it before going back",
            ),
            Self::NoLayers => Meaning::damage(
                "a repository without `_layers`",
                "not in the catalog; garbage-collect deletes its images",
                "garbage-collect aborts",
                HAND_BACK,
            ),
            Self::Unreadable => Meaning::damage(
                "cannot be read by this user",
                "",
                "",
                "run this as the user of the registry, or let that user read it",
            ),
            Self::ForeignUpload => Meaning::damage(
                "an unfinished upload of another registry; no client can go on with it here",
                "",
                "",
                "remove it once that registry no longer runs",
            ),
            Self::OpenUpload => Meaning::note(
                "an unfinished upload; its client must begin again after going back",
                "the upload is lost",
                "the upload is lost",
                "go back when no push is under way",
            ),
            Self::MissingReference => Meaning::damage(
                "names something whose bytes are nowhere",
                "404 for what it names",
                "404 for what it names",
                "push the image again",
            ),
            Self::ReferenceElsewhere => Meaning::damage(
                "names something that this repository does not link, although its bytes are stored",
                "404 for what it names",
                "404 for what it names",
                "push the image again; nothing links it by itself, since whoever knows a digest could then read it",
            ),
            Self::UnlistedReferrers => Meaning::obstacle(
                "what refers to a manifest is not listed by its fallback tag",
                "not found by clients; garbage-collect -m deletes it",
                "not found by clients; garbage-collect -m deletes it",
                HAND_BACK,
            ),
            Self::ListedReferrers => Meaning::note(
                "untagged manifests that refer to others",
                "garbage-collect -m deletes them",
                "",
                "do not run garbage-collect -m with 2.8",
            ),
            Self::UntaggedChildren => Meaning::note(
                "untagged manifests that an index lists",
                "garbage-collect -m deletes them",
                "",
                "do not run garbage-collect -m with 2.8",
            ),
            Self::OciIndexes => Meaning::note(
                "OCI indexes",
                "404 for clients that do not accept the type",
                "",
                "current clients accept it",
            ),
            Self::ClosedToUser => Meaning::obstacle(
                "the old registry's user may not read it",
                "not served",
                "not served",
                "`boathouse hand-back` opens what belongs to its own user; for the rest: chown -R",
            ),
            Self::UnwritableToUser => Meaning::obstacle(
                "directories in which the old registry's user may not write",
                "pushes and deletes fail",
                "pushes and deletes fail",
                "chown -R to that user",
            ),
            Self::OwnAccount => Meaning::obstacle(
                "an account of the users file",
                "unknown to docker_auth",
                "unknown to docker_auth",
                EXPORT_ACCOUNTS,
            ),
            Self::ChangedAccount => Meaning::obstacle(
                "an account whose password, labels or end have changed since",
                "docker_auth has the old ones",
                "docker_auth has the old ones",
                EXPORT_ACCOUNTS,
            ),
            Self::RemovedAccount => Meaning::obstacle(
                "an account that was removed since",
                "can log in again",
                "can log in again",
                EXPORT_ACCOUNTS,
            ),
            Self::ChangedRules => Meaning::obstacle(
                "rules that have changed since",
                "the old rules decide",
                "the old rules decide",
                EXPORT_ACCOUNTS,
            ),
            Self::NoOldFiles => Meaning::obstacle(
                "the files from which this configuration was made cannot be read",
                "cannot start",
                "cannot start",
                "restore them; or `boathouse config export` prints new ones, for distribution and for docker_auth",
            ),
            Self::OwnKey => Meaning::obstacle(
                "a key of the configuration that only Boathouse knows",
                "refused or ignored",
                "refused or ignored",
                "`boathouse config export --for distribution` prints a configuration without it",
            ),
        }
    }
}
