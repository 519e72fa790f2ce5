//! A large tree in distribution's layout, written file by file: pushing it would take hours.
//!
//! Every link is one that a registry confirms: the link and what it leads to are both there. Layer links share a few
//! thousand small blobs; each manifest is its own, as it is where people push.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use boathouse::layout::OwnedPlace;
use boathouse::oci::{Algorithm, Digest, RepositoryName, Tag};
use serde_json::{Value, json};

use crate::support::OCI_MANIFEST;

/// The repository with many tags.
pub(super) const TAGGED: &str = "many-tags";
/// The repository with a subject that many manifests are about.
pub(super) const SIGNED: &str = "many-referrers";
pub(super) const REFERRERS: usize = 1_000;

/// Distinct blobs that layer links lead to.
const BLOBS: usize = 4_096;
/// Images in each ordinary repository, each with a tag, a config and layers.
const IMAGES: usize = 8;
const LAYERS_PER_IMAGE: usize = 8;
/// What the many tags point at.
const TAGGED_REVISIONS_MAX: usize = 1_000;
/// Tags that one thread writes before it looks for other work.
const TAGS_PER_PIECE: usize = 2_000;

/// How large it is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) repositories: usize,
    /// Of the one repository with many.
    pub(super) tags: usize,
    /// Links that a reader must follow: of layers and revisions, and what tags point at. Each tag's second link, which says
    /// what it has once pointed at, comes on top.
    pub(super) links: usize,
}

/// What was written.
pub(super) struct Tree {
    /// All names, in byte order.
    pub(super) repositories: Vec<String>,
    /// The tags of [`TAGGED`], in byte order.
    pub(super) tags: Vec<String>,
    /// The subject in [`SIGNED`].
    pub(super) subject: Digest,
    /// The digests of the manifests about it, as text.
    pub(super) referrers: BTreeSet<String>,
    pub(super) counts: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) layer_links: usize,
    pub(super) revision_links: usize,
    pub(super) tag_links: usize,
    pub(super) data_files: usize,
}

impl Counts {
    pub(super) fn links(&self) -> usize {
        self.layer_links + self.revision_links + self.tag_links
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} links ({} of layers, {} of revisions, {} of tags) and {} data files",
            self.links(),
            self.layer_links,
            self.revision_links,
            self.tag_links,
            self.data_files
        )
    }
}

/// How many links of which kind go where.
struct Plan {
    size: Size,
    tagged_revisions: usize,
    ordinary: usize,
    /// Layer links of each ordinary repository; the first `with_one_more` have one more.
    layers: usize,
    with_one_more: usize,
}

/// Something that a thread does on its own.
enum Piece {
    Blobs,
    Ordinary(usize),
    Tagged,
    Tags(Range<usize>),
    Signed,
}

impl Plan {
    fn of(size: Size) -> Self {
        let tagged_revisions = size.tags.min(TAGGED_REVISIONS_MAX);
        let ordinary = size.repositories.saturating_sub(2);
        // A config and a layer for each revision there; in the other, two blobs that all its manifests share.
        let special = size.tags + 3 * tagged_revisions + (REFERRERS + 1) + 2;
        let rest = size.links.saturating_sub(special);
        assert!(
            size.tags > 0
                && ordinary > 0
                && (2 * IMAGES + 1..2 * IMAGES + BLOBS).contains(&(rest / ordinary)),
            "{size:?}: besides {special} links of two special repositories, there must be {} to {} for each other one",
            2 * IMAGES + 1,
            2 * IMAGES + BLOBS - 1,
        );
        Self {
            size,
            tagged_revisions,
            ordinary,
            layers: rest / ordinary - 2 * IMAGES,
            with_one_more: rest % ordinary,
        }
    }

    fn layers_of(&self, repository: usize) -> usize {
        self.layers + usize::from(repository < self.with_one_more)
    }

    fn counts(&self) -> Counts {
        let images = self.ordinary * IMAGES;
        let manifests = images + self.tagged_revisions + REFERRERS + 1;
        Counts {
            layer_links: self.ordinary * self.layers
                + self.with_one_more
                + 2 * self.tagged_revisions
                + 2,
            revision_links: manifests,
            tag_links: images + self.size.tags,
            data_files: BLOBS + manifests,
        }
    }

    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = vec![Piece::Blobs, Piece::Signed, Piece::Tagged];
        let tags = (0..self.size.tags).step_by(TAGS_PER_PIECE);
        pieces.extend(
            tags.map(|first| Piece::Tags(first..(first + TAGS_PER_PIECE).min(self.size.tags))),
        );
        pieces.extend((0..self.ordinary).map(Piece::Ordinary));
        pieces
    }
}

/// Writes the tree below `root`, on all cores.
pub(super) fn write(root: &Path, size: Size) -> Tree {
    let plan = Plan::of(size);
    let counts = plan.counts();
    assert_eq!(counts.links(), size.links, "{counts:?}");
    let pieces = plan.pieces();
    let next = AtomicUsize::new(0);
    let writer = Writer {
        root: root.to_owned(),
        blobs: (0..BLOBS).map(|number| digest(&blob(number))).collect(),
        plan,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    writer.write(piece);
                }
            });
        }
    });
    let plan = &writer.plan;
    let mut repositories: Vec<String> = (0..plan.ordinary).map(ordinary_name).collect();
    repositories.extend([TAGGED.to_owned(), SIGNED.to_owned()]);
    repositories.sort_unstable();
    let subject = digest(&writer.subject());
    Tree {
        repositories,
        tags: (0..size.tags).map(tag_name).collect(),
        referrers: (0..REFERRERS)
            .map(|number| digest(&writer.referrer(&subject, number)).to_string())
            .collect(),
        subject,
        counts,
    }
}

struct Writer {
    root: PathBuf,
    blobs: Vec<Digest>,
    plan: Plan,
}

impl Writer {
    fn write(&self, piece: &Piece) {
        match piece {
            Piece::Blobs => {
                for (number, digest) in self.blobs.iter().enumerate() {
                    self.put(&OwnedPlace::BlobData(*digest), &blob(number));
                }
            }
            Piece::Ordinary(number) => self.write_ordinary(*number),
            Piece::Tagged => self.write_tagged(),
            Piece::Tags(range) => {
                let name = name(TAGGED);
                for number in range.clone() {
                    let revision = self.tagged_manifest(number % self.plan.tagged_revisions);
                    self.link_tag(&name, &tag_name(number), &digest(&revision));
                }
            }
            Piece::Signed => self.write_signed(),
        }
    }

    fn write_ordinary(&self, number: usize) {
        let name = name(&ordinary_name(number));
        // Others begin elsewhere, so that no blob is in every repository.
        let first = number * 61;
        let layers: Vec<&Digest> = (0..self.plan.layers_of(number))
            .map(|layer| self.blob(first + layer))
            .collect();
        for layer in &layers {
            self.link_layer(&name, layer);
        }
        for image in 0..IMAGES {
            let blobs = (0..=LAYERS_PER_IMAGE)
                .map(|blob| layers[(image * (LAYERS_PER_IMAGE + 1) + blob) % layers.len()]);
            let manifest = manifest(blobs, None, &format!("{number}/{image}"));
            let digest = self.put_manifest(&name, &manifest);
            self.link_tag(&name, &format!("1.{image}"), &digest);
        }
    }

    fn write_tagged(&self) {
        let name = name(TAGGED);
        for revision in 0..self.plan.tagged_revisions {
            for blob in [2 * revision, 2 * revision + 1] {
                self.link_layer(&name, self.blob(blob));
            }
            self.put_manifest(&name, &self.tagged_manifest(revision));
        }
    }

    fn write_signed(&self) {
        let name = name(SIGNED);
        for blob in [0, 1] {
            self.link_layer(&name, self.blob(blob));
        }
        let subject = self.put_manifest(&name, &self.subject());
        for number in 0..REFERRERS {
            self.put_manifest(&name, &self.referrer(&subject, number));
        }
    }

    fn blob(&self, number: usize) -> &Digest {
        &self.blobs[number % BLOBS]
    }

    fn tagged_manifest(&self, revision: usize) -> Vec<u8> {
        let blobs = [self.blob(2 * revision), self.blob(2 * revision + 1)];
        manifest(blobs.into_iter(), None, &format!("tagged/{revision}"))
    }

    fn subject(&self) -> Vec<u8> {
        manifest([self.blob(0), self.blob(1)].into_iter(), None, "subject")
    }

    fn referrer(&self, subject: &Digest, number: usize) -> Vec<u8> {
        let blobs = [self.blob(0), self.blob(1)].into_iter();
        manifest(blobs, Some(subject), &format!("referrer/{number}"))
    }

    fn put_manifest(&self, name: &RepositoryName, manifest: &[u8]) -> Digest {
        let digest = digest(manifest);
        self.put(&OwnedPlace::BlobData(digest), manifest);
        let link = OwnedPlace::RevisionLink(name.clone(), digest);
        self.put(&link, digest.to_string().as_bytes());
        digest
    }

    fn link_layer(&self, name: &RepositoryName, digest: &Digest) {
        let link = OwnedPlace::LayerLink(name.clone(), *digest);
        self.put(&link, digest.to_string().as_bytes());
    }

    fn link_tag(&self, name: &RepositoryName, tag: &str, digest: &Digest) {
        let tag: Tag = tag.parse().expect("a tag");
        let links = [
            OwnedPlace::TagIndex(name.clone(), tag.clone(), *digest),
            OwnedPlace::TagCurrent(name.clone(), tag),
        ];
        for link in links {
            self.put(&link, digest.to_string().as_bytes());
        }
    }

    fn put(&self, place: &OwnedPlace, bytes: &[u8]) {
        let path = self.root.join(place.key().as_str());
        let parent = path.parent().expect("below the root");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, bytes))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

/// A manifest; `text` makes it another one.
fn manifest<'a>(
    mut blobs: impl Iterator<Item = &'a Digest>,
    subject: Option<&Digest>,
    text: &str,
) -> Vec<u8> {
    let descriptor = |media_type: &str, digest: &Digest| {
        json!({
            "mediaType": media_type,
            "digest": digest.to_string(),
            "size": BLOB_BYTES,
        })
    };
    let config = blobs.next().expect("a config");
    let layers: Vec<Value> = blobs
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer))
        .collect();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers,
        "annotations": { "org.opencontainers.image.version": text },
    });
    if let Some(subject) = subject {
        manifest["artifactType"] = json!("application/vnd.example.signature");
        manifest["subject"] = descriptor(OCI_MANIFEST, subject);
    }
    serde_json::to_vec(&manifest).expect("JSON")
}

const BLOB_BYTES: usize = 32;

fn blob(number: usize) -> Vec<u8> {
    format!("{number:BLOB_BYTES$}").into_bytes()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn name(text: &str) -> RepositoryName {
    text.parse().expect("a name")
}

/// In a hundred namespaces, so that the tree has more than one level.
fn ordinary_name(number: usize) -> String {
    format!("team-{:02}/app-{number:06}", number % 100)
}

fn tag_name(number: usize) -> String {
    format!("build-{number:07}")
}
