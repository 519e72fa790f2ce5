//! How the bytes of an upload become a blob: the three ways to its key.
//!
//! Must not know how segments are sent. Invariants: a blob's key is written only here, by a caller that knows that all bytes have
//! the digest; what shows there is whole.

use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::attempts::Patience;
use super::journal::{Fact, Target};
use super::multipart::{Multipart, Part};
use super::requests::{Bucket, Checksum, Written};
use super::shipper::{PARTS_AT_ONCE, Shipper};
use crate::layout::Place;
use crate::oci::Digest;
use crate::store::{Condition, StoreError};

/// How many parts of one upload the bucket copies at once: more are not faster (`docs/storage-layout.md`).
const COPIES_AT_ONCE: usize = 4;

/// The least length of a copied part: a round trip for each costs little then.
const COPY_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// How many parts an object is copied in: some servers cannot complete a thousand.
const COPIES_MAX: u64 = 400;

/// Up to here, the time of a request suffices for a copy on a slow bucket.
const COPY_BYTES_QUICK: u64 = 128 * 1024 * 1024;

/// Up to here, the time of a request suffices to put an object together from its parts.
const COMPLETION_BYTES_QUICK: u64 = 4 * 1024 * 1024 * 1024;

impl Shipper {
    /// Makes one object of what was sent to the session's key, and gives its length.
    pub(super) async fn join(self: &Arc<Self>) -> Result<u64, StoreError> {
        self.freeze().await?;
        let (target, parts, is_joined) = {
            let state = self.lock();
            let target = state.target.clone();
            (target, state.sent(), state.is_joined)
        };
        let size_bytes = parts.iter().map(|part| part.size_bytes).sum();
        let Some((multipart, Target::Session)) = target else {
            return Err(self.lost("its parts are at another key").await);
        };
        if is_joined || parts.is_empty() {
            return Ok(size_bytes);
        }
        let bucket = self.for_completion(size_bytes);
        let completed = bucket
            .complete_multipart(&multipart, &parts, &Condition::Any)
            .await;
        match completed {
            Ok(_) => {}
            // Before a crash, perhaps.
            Err(StoreError::NotFound) => {
                let key = &multipart.key;
                if self.size_of(key).await? != Some(size_bytes) {
                    return Err(self.lost("its parts are gone").await);
                }
            }
            Err(error) => return Err(error),
        }
        self.note(Fact::Joined)?;
        Ok(size_bytes)
    }

    /// Makes the blob of all bytes. All were cut, are `size_bytes`, and have this digest.
    pub(super) async fn store(
        self: &Arc<Self>,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<(), StoreError> {
        if self.lock().target.is_none() {
            self.aim_at(digest);
            self.all_sent().await?;
        }
        let target = self.lock().target.clone();
        match target {
            Some((multipart, Target::Blob(aim))) if aim == *digest => {
                self.all_sent().await?;
                let parts = self.lock().sent();
                self.complete(digest, &multipart, &parts, size_bytes).await
            }
            Some((_, Target::Session)) => self.copy(digest, size_bytes).await,
            Some(_) => Err(self.lost("another digest was named for it before").await),
            None => Err(self.lost("nothing was sent of it").await),
        }
    }

    /// Makes the blob of all bytes in one request: those that were cut, and those of the last file, which begins at `start_bytes`.
    pub(super) async fn put_whole(
        &self,
        digest: &Digest,
        start_bytes: u64,
        size_bytes: u64,
        sha256: [u8; 32],
    ) -> Result<(), StoreError> {
        let key = blob_key(digest);
        let files = {
            let state = self.lock();
            let cuts = state.segments.iter();
            let cuts = cuts.map(|cut| (cut.segment.start_bytes, cut.segment.length_bytes));
            let files = cuts.chain([(start_bytes, size_bytes - start_bytes)]);
            files
                .map(|(start, length)| (self.session.segment(start), length))
                .collect()
        };
        let body = self.body_of(files).await?;
        let body = body.with_checksum(Checksum::Sha256(sha256));
        if let Written::Refused { .. } = self.bucket.put(&key, &body, &Condition::Absent).await?
            && self.bucket.sha256(&key).await? != Some(sha256)
        {
            // The bytes there cannot be shown to be the same. A blob that is damaged must be mended by a push, as in a directory.
            self.bucket.put(&key, &body, &Condition::Any).await?;
        }
        self.found_or_stored(digest)
    }

    /// Makes the blob of parts at its key.
    async fn complete(
        &self,
        digest: &Digest,
        multipart: &Multipart,
        parts: &[Part],
        size_bytes: u64,
    ) -> Result<(), StoreError> {
        let parts_bytes: u64 = parts.iter().map(|part| part.size_bytes).sum();
        if parts_bytes != size_bytes {
            return Err(self.lost("its parts are not all of it").await);
        }
        let bucket = self.for_completion(size_bytes);
        let absent = Condition::Absent;
        let mut completed = bucket.complete_multipart(multipart, parts, &absent).await;
        if let Ok(Written::Refused { .. }) = completed {
            // As above; it costs no more than giving up the upload would.
            let any = Condition::Any;
            completed = bucket.complete_multipart(multipart, parts, &any).await;
        }
        match completed {
            Ok(_) => {
                let mut state = self.lock();
                state.begun.retain(|(begun, _)| begun != multipart);
                drop(state);
                self.found_or_stored(digest)
            }
            // An earlier attempt has completed it, and its answer was lost: in this call, or before a crash.
            Err(StoreError::NotFound) => match self.size_of(&multipart.key).await? {
                Some(found_bytes) if found_bytes == size_bytes => self.found_or_stored(digest),
                _ => Err(self.lost("its parts are gone").await),
            },
            Err(error) => Err(error),
        }
    }

    /// The bytes are at the blob's key. This is the place to look whether the blob is condemned, and to revive it, before
    /// anything links it.
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the look at condemned keys needs both"
    )]
    fn found_or_stored(&self, _digest: &Digest) -> Result<(), StoreError> {
        Ok(())
    }

    /// Lets the bucket copy what was sent to the session's key, and sends the rest behind it.
    async fn copy(self: &Arc<Self>, digest: &Digest, size_bytes: u64) -> Result<(), StoreError> {
        self.freeze().await?;
        if self.lock().sent().is_empty() {
            // Begun, and no part came so far: this one part can be copied as well as all of them.
            self.lock().is_frozen = false;
            self.all_sent().await?;
        }
        let joined_bytes = self.join().await?;
        let multipart = self.bucket.begin_multipart(&blob_key(digest)).await?;
        self.note(Fact::Begun(multipart.clone(), Target::Copy))?;
        let ranges = ranges_of(joined_bytes);
        let first_number = u16::try_from(ranges.len() + 1).unwrap_or(u16::MAX);
        let (multipart, source) = (&multipart, &self.session_key);
        let copies = ranges.into_iter().zip(1..).map(|(range, number)| {
            let bucket = match range.end - range.start {
                ..=COPY_BYTES_QUICK => self.bucket.clone(),
                _ => self.bucket.with_patience(Patience::Background),
            };
            async move { bucket.copy_part(multipart, number, source, range).await }
        });
        let copies: Vec<_> = copies.collect();
        let copies = stream::iter(copies).buffer_unordered(COPIES_AT_ONCE);
        let rest = self.lock().unsent();
        let rest = rest.into_iter().zip(first_number..);
        let rest: Vec<_> = rest
            .map(|(segment, number)| async move {
                let body = self.body(&segment).await?;
                self.bucket.put_part(multipart, number, &body).await
            })
            .collect();
        let rest = stream::iter(rest).buffer_unordered(PARTS_AT_ONCE);
        let (copies, rest): (Vec<Part>, Vec<Part>) =
            tokio::try_join!(copies.try_collect(), rest.try_collect())?;
        let mut parts = [copies, rest].concat();
        parts.sort_by_key(|part| part.number);
        self.complete(digest, multipart, &parts, size_bytes).await
    }

    async fn size_of(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.bucket.head(key).await {
            Ok(meta) => Ok(Some(meta.size_bytes)),
            Err(StoreError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn for_completion(&self, size_bytes: u64) -> Bucket {
        match size_bytes {
            ..=COMPLETION_BYTES_QUICK => self.bucket.clone(),
            _ => self.bucket.with_patience(Patience::Background),
        }
    }
}

pub(super) fn blob_key(digest: &Digest) -> String {
    Place::BlobData(*digest).key().to_string()
}

/// What an object is copied in: parts of about the same length.
fn ranges_of(size_bytes: u64) -> Vec<Range<u64>> {
    let count = size_bytes.div_ceil(COPY_BYTES_MIN).clamp(1, COPIES_MAX);
    let at = |number: u64| {
        let position = u128::from(size_bytes) * u128::from(number) / u128::from(count);
        // No more than `size_bytes`.
        u64::try_from(position).unwrap_or(size_bytes)
    };
    (0..count)
        .map(|number| at(number)..at(number + 1))
        .collect()
}
