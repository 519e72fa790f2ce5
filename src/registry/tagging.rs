//! Pointing a tag at a manifest that the repository has: going back to what it pointed at before.
//!
//! Must not know HTTP. Invariant: a tag is moved only to a manifest that is there, and stays there until it has moved.

use super::commit::Commit;
use super::error::RegistryError;
use super::event::{Actor, Event};
use super::locks::Mode;
use super::manifests::Manifests;
use super::phases::Phases;
use crate::layout::Place;
use crate::oci::{Digest, Reference, RepositoryName, Tag};

impl Manifests {
    /// Points `tag`, which need not exist, at the manifest `digest` of the repository.
    pub async fn restore_tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
        actor: Actor<'_>,
    ) -> Result<(), RegistryError> {
        self.core.check_writable()?;
        let held = self.core.locks.hold(actor, name);
        let held = held.tags(Mode::Exclusive).await?;
        self.check_tag_case(name, std::slice::from_ref(tag)).await?;
        let held = held.changing().await?;
        let mut held = held.sharing([digest]).await?;
        let link = Place::RevisionLink(name, *digest);
        if self.core.linked_data(&link).await?.is_none() {
            let reference = Reference::Digest(*digest);
            return Err(RegistryError::ManifestUnknown(reference));
        }
        let mut phases = Phases::new(name);
        phases.point(tag, digest);
        let commit = Commit {
            steps: phases.into_steps(),
            events: vec![Event::TagMoved {
                tag: tag.clone(),
                digest: *digest,
            }],
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await
    }
}
