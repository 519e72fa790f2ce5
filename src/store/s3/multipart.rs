//! Uploads in parts: the operations of [`Bucket`] that make one object of many bodies, or of parts of another object.
//!
//! Must not know what is uploaded. Invariant: what an upload in parts becomes shows whole or not at all.

use std::ops::Range;
use std::time::SystemTime;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::attempts::{COMPLETION, SMALL, copying, sending};
use super::requests::{Body, Bucket, Checksum, Written, signed, version};
use super::trouble::{Kind, Trouble};
use crate::store::{Condition, StoreError, Version};

/// The least length of a part that is not the last one.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;

/// The greatest length of a part, also of one that is copied.
pub const PART_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// The greatest number of a part; the first is 1.
pub const PARTS_MAX: u16 = 10_000;

/// What a copy names its source by: all but what a path may hold is encoded.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// An upload in parts that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multipart {
    /// The key of the object that it becomes.
    pub key: String,
    /// Its name at the bucket.
    pub id: String,
}

/// A part that the bucket has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// From 1 to [`PARTS_MAX`].
    pub number: u16,
    /// What the bucket calls its content.
    pub version: Version,
    /// Its length.
    pub size_bytes: u64,
}

/// An upload in parts that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// Which one.
    pub multipart: Multipart,
    /// When it was begun, by the bucket's clock.
    pub began: Option<SystemTime>,
}

impl Bucket {
    /// Begins an upload in parts.
    pub async fn begin_multipart(&self, key: &str) -> Result<Multipart, StoreError> {
        let name = self.full(key);
        let act = || async {
            let request = self
                .sdk
                .create_multipart_upload()
                .bucket(self.name())
                .key(&name);
            let (encryption, key_id) = self.encryption();
            let request = request
                .set_server_side_encryption(encryption)
                .set_ssekms_key_id(key_id)
                .set_storage_class(self.storage_class());
            let answer = request.send().await?;
            let id = answer.upload_id().map(str::to_owned);
            id.ok_or_else(|| Trouble::strange("an upload in parts without a name"))
        };
        let called = self.attempts.call(SMALL, act).await;
        let id = called.map_err(|failed| self.failed(failed, "begin to write", key))?;
        Ok(Multipart {
            key: key.to_owned(),
            id,
        })
    }

    /// Sends a part; one of the same number is replaced. [`StoreError::NotFound`] if the upload is not there any more.
    pub async fn put_part(
        &self,
        multipart: &Multipart,
        number: u16,
        body: &Body,
    ) -> Result<Part, StoreError> {
        let name = self.full(&multipart.key);
        let act = || async {
            let mut request = self.sdk.upload_part().bucket(self.name()).key(&name);
            match body.checksum() {
                None => {}
                Some(Checksum::Sha256(sha256)) => {
                    request = request.checksum_sha256(STANDARD.encode(sha256));
                }
                Some(Checksum::Crc32(crc32)) => {
                    request = request.checksum_crc32(STANDARD.encode(crc32.to_be_bytes()));
                }
            }
            let request = request
                .upload_id(&multipart.id)
                .part_number(number.into())
                .content_length(signed(body.size_bytes()))
                .body(body.stream());
            let answer = request.send().await?;
            version(answer.e_tag())
        };
        let called = self.attempts.call(sending(body.size_bytes()), act).await;
        let called = called.map_err(|failed| self.failed(failed, "write a part of", &name))?;
        Ok(Part {
            number,
            version: called,
            size_bytes: body.size_bytes(),
        })
    }

    /// Makes a part of `range` of the object `source`, without its bytes coming here. [`StoreError::NotFound`] if the source or
    /// the upload is not there.
    pub async fn copy_part(
        &self,
        multipart: &Multipart,
        number: u16,
        source: &str,
        range: Range<u64>,
    ) -> Result<Part, StoreError> {
        let name = self.full(&multipart.key);
        let source = format!("{}/{}", self.name(), self.full(source));
        let source = utf8_percent_encode(&source, IN_PATH).to_string();
        let size_bytes = range.end.saturating_sub(range.start);
        let last = range.end.saturating_sub(1);
        let act = || async {
            let request = self.sdk.upload_part_copy().bucket(self.name()).key(&name);
            let request = request
                .upload_id(&multipart.id)
                .part_number(number.into())
                .copy_source(&source)
                .copy_source_range(format!("bytes={}-{last}", range.start));
            let answer = request.send().await?;
            version(answer.copy_part_result().and_then(|result| result.e_tag()))
        };
        let called = self.attempts.call(copying(size_bytes), act).await;
        let called = called.map_err(|failed| self.failed(failed, "copy a part of", &name))?;
        Ok(Part {
            number,
            version: called,
            size_bytes,
        })
    }

    /// Makes the object of `parts` (in the order of their numbers; at least one), if `condition` holds. After
    /// [`Written::Refused`] the upload is still there, unless it was this call that completed it.
    pub async fn complete_multipart(
        &self,
        multipart: &Multipart,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Written, StoreError> {
        let name = self.full(&multipart.key);
        let list = parts.iter().map(|part| {
            let listed = CompletedPart::builder().part_number(part.number.into());
            listed.e_tag(&part.version.0).build()
        });
        let list = CompletedMultipartUpload::builder()
            .set_parts(Some(list.collect()))
            .build();
        let act = || async {
            let request = self
                .sdk
                .complete_multipart_upload()
                .bucket(self.name())
                .key(&name);
            let mut request = request
                .upload_id(&multipart.id)
                .multipart_upload(list.clone());
            match condition {
                Condition::Any => {}
                Condition::Absent => request = request.if_none_match("*"),
                Condition::Match(version) => request = request.if_match(&version.0),
            }
            let answer = request.send().await?;
            version(answer.e_tag())
        };
        match self.attempts.call(COMPLETION, act).await {
            Ok(value) => Ok(Written::Done(value)),
            Err(failed) => self.refused(failed, condition, "complete", &multipart.key),
        }
    }

    /// Forgets an upload and its parts; nothing happens if it is not there.
    pub async fn abort_multipart(&self, multipart: &Multipart) -> Result<(), StoreError> {
        let name = self.full(&multipart.key);
        let act = || async {
            let request = self
                .sdk
                .abort_multipart_upload()
                .bucket(self.name())
                .key(&name);
            request.upload_id(&multipart.id).send().await?;
            Ok(())
        };
        match self.attempts.call(SMALL, act).await {
            Ok(()) => Ok(()),
            Err(failed) if failed.trouble.kind == Kind::Absent => Ok(()),
            Err(failed) => Err(self.failed(failed, "give up", &multipart.key)),
        }
    }

    /// The parts that the bucket has, by number; [`StoreError::NotFound`] if the upload is not there.
    pub async fn list_parts(&self, multipart: &Multipart) -> Result<Vec<Part>, StoreError> {
        let name = self.full(&multipart.key);
        let (mut parts, mut after) = (Vec::new(), None);
        loop {
            let act = || async {
                let request = self.sdk.list_parts().bucket(self.name()).key(&name);
                let request = request.upload_id(&multipart.id);
                Ok(request.set_part_number_marker(after.clone()).send().await?)
            };
            let called = self.attempts.call(SMALL, act).await;
            let answer =
                called.map_err(|failed| self.failed(failed, "list the parts of", &name))?;
            parts.extend(answer.parts().iter().filter_map(|part| {
                Some(Part {
                    number: u16::try_from(part.part_number()?).ok()?,
                    version: version(part.e_tag()).ok()?,
                    size_bytes: u64::try_from(part.size()?).ok()?,
                })
            }));
            let next = answer.next_part_number_marker().map(str::to_owned);
            if answer.is_truncated() != Some(true) || next.is_none() || next == after {
                return Ok(parts);
            }
            after = next;
        }
    }

    /// All uploads in parts that are under way below the root directory. Asked without a prefix: MinIO answers one with nothing,
    /// and names none but the first page.
    pub async fn list_multiparts(&self) -> Result<Vec<Begun>, StoreError> {
        let (mut found, mut after) = (Vec::new(), (None, None));
        loop {
            let act = || async {
                let request = self.sdk.list_multipart_uploads().bucket(self.name());
                let request = request.set_key_marker(after.0.clone());
                Ok(request.set_upload_id_marker(after.1.clone()).send().await?)
            };
            let called = self.attempts.call(SMALL, act).await;
            let answer =
                called.map_err(|failed| self.failed(failed, "list uploads in parts", ""))?;
            found.extend(answer.uploads().iter().filter_map(|upload| {
                Some(Begun {
                    multipart: Multipart {
                        key: self.relative(upload.key()?)?,
                        id: upload.upload_id()?.to_owned(),
                    },
                    began: (upload.initiated().copied())
                        .and_then(|began| SystemTime::try_from(began).ok()),
                })
            }));
            let next = (
                answer.next_key_marker().map(str::to_owned),
                answer.next_upload_id_marker().map(str::to_owned),
            );
            if answer.is_truncated() != Some(true) || next.0.is_none() || next == after {
                return Ok(found);
            }
            after = next;
        }
    }
}
