//! Reading objects: whole, in ranges, many at once; and going on where an answer breaks off.
//!
//! Must not know what the objects are. Invariant: the bytes of one [`Content`] are those of one version of the object, in order
//! and without a gap, or end in an error.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::requests::{Bucket, Got};
use super::trouble::Trouble;
use crate::layout::Key;
use crate::oci::range::ByteRange;
use crate::store::{ByteStream, Content, Gathered, Meta, Small, StoreError, Version, if_there};

/// How many objects one call looks at or reads at the same time: a page of 100 tags then takes four round trips.
const AT_ONCE: usize = 32;

/// An answer that brings nothing for so long is given up, and asked for again from there: well before a client that waits for
/// its next bytes gives up after 30 s.
const STALL: Duration = Duration::from_secs(10);

/// How often an answer is asked for again without having brought a byte. Each time takes up to the time of a request, so a
/// bucket may be away for about a minute in the middle of a pull.
const RESUMES_MAX: u32 = 3;

impl Bucket {
    pub(super) async fn read(
        &self,
        key: &str,
        range: Option<ByteRange>,
    ) -> Result<Content, StoreError> {
        // Servers take a suffix of no bytes for no range.
        let got = match range {
            Some(ByteRange::Last(0)) => None,
            range => self.get(key, range, None).await?,
        };
        let Some(got) = got else {
            return Ok(Content::out_of_range(self.head(key).await?));
        };
        let size_bytes = got.meta.size_bytes;
        let wanted = match range {
            None => Some(0..size_bytes),
            Some(range) => range.within(size_bytes),
        };
        let Some(wanted) = wanted else {
            return Ok(Content::out_of_range(got.meta));
        };
        if got.range != wanted {
            return Err(self.broken(key, "the bucket has sent other bytes than those asked for"));
        }
        Ok(self.content(key, got))
    }

    /// What a link holds, and the data that it is expected to lead to, in one round trip. Without the link the data are dropped.
    pub(super) async fn read_linked(
        &self,
        link: &str,
        size_max_bytes: u64,
        data: &str,
        range: Option<ByteRange>,
    ) -> Result<(Small, Option<Content>), StoreError> {
        let (link, data) = futures_util::join!(
            self.read_small(link, size_max_bytes),
            self.read(data, range)
        );
        let link = link?;
        if !matches!(link, Small::Whole(..)) {
            return Ok((link, None));
        }
        Ok((link, if_there(data)?))
    }

    pub(super) async fn head_linked(
        &self,
        link: &str,
        size_max_bytes: u64,
        data: &str,
    ) -> Result<(Small, Option<Meta>), StoreError> {
        let (link, data) =
            futures_util::join!(self.read_small(link, size_max_bytes), self.head(data));
        let link = link?;
        if !matches!(link, Small::Whole(..)) {
            return Ok((link, None));
        }
        Ok((link, if_there(data)?))
    }

    pub(super) async fn head_each(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, StoreError> {
        let head = |key: Key| async move { if_there(self.head(key.as_str()).await) };
        let heads = stream::iter(keys.to_vec()).map(head).buffered(AT_ONCE);
        heads.try_collect().await
    }

    /// The answers begin at the same time; their bodies are read one after the other, so no more is held than the seam allows.
    pub(super) async fn read_each(
        &self,
        keys: &[Key],
        size_max_bytes: u64,
    ) -> Result<Vec<Small>, StoreError> {
        let open = |key: Key| async move { (self.begin_small(key.as_str(), size_max_bytes)).await };
        let contents = stream::iter(keys.to_vec()).map(open).buffered(AT_ONCE);
        let mut contents = std::pin::pin!(contents);
        let mut gathered = Gathered::default();
        while let Some(content) = contents.next().await {
            gathered.push(content?.whole().await?);
            if gathered.is_full() {
                break;
            }
        }
        Ok(gathered.items)
    }

    async fn read_small(&self, key: &str, size_max_bytes: u64) -> Result<Small, StoreError> {
        self.begin_small(key, size_max_bytes).await?.whole().await
    }

    async fn begin_small(&self, key: &str, size_max_bytes: u64) -> Result<Begun, StoreError> {
        match self.read(key, None).await {
            Ok(Content { meta, .. }) if meta.size_bytes > size_max_bytes => {
                Ok(Begun::Known(Small::TooLarge(meta)))
            }
            Ok(content) => Ok(Begun::Content(content)),
            Err(StoreError::NotFound) => Ok(Begun::Known(Small::Absent)),
            Err(error) => Err(error),
        }
    }

    fn content(&self, key: &str, got: Got) -> Content {
        let reading = Reading {
            bucket: self.clone(),
            key: key.to_owned(),
            version: got.meta.version.clone(),
            at: got.range.start,
            end: got.range.end,
            body: got.body,
            resumes: 0,
        };
        Content {
            meta: got.meta,
            range: Some(got.range),
            bytes: reading.into_stream(),
        }
    }

    fn broken(&self, key: &str, text: &str) -> StoreError {
        StoreError::Io {
            doing: format!("read {key} in the {}", self.settings().described()),
            source: std::io::Error::other(Trouble::strange(text)),
        }
    }
}

/// A small content that is being read.
enum Begun {
    Known(Small),
    Content(Content),
}

impl Begun {
    async fn whole(self) -> Result<Small, StoreError> {
        match self {
            Self::Known(small) => Ok(small),
            Self::Content(Content { meta, bytes, .. }) => {
                let bytes: BytesMut = bytes.try_collect().await?;
                Ok(Small::Whole(meta, bytes.freeze()))
            }
        }
    }
}

/// An answer that is being read.
struct Reading {
    bucket: Bucket,
    key: String,
    version: Version,
    /// The position of the next byte.
    at: u64,
    end: u64,
    body: aws_sdk_s3::primitives::ByteStream,
    /// How often it was asked for again since the last byte.
    resumes: u32,
}

impl Reading {
    fn into_stream(self) -> ByteStream {
        let next = |mut reading: Self| async move {
            match reading.next().await {
                Ok(None) => Ok(None),
                Ok(Some(bytes)) => Ok(Some((bytes, reading))),
                Err(error) => Err(error),
            }
        };
        stream::try_unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        while self.at < self.end {
            let stalled = self.bucket.attempts.clock.sleep(STALL);
            let piece = tokio::select! {
                piece = self.body.next() => piece,
                () = stalled => None,
            };
            if let Some(Ok(mut piece)) = piece {
                let left = self.end - self.at;
                piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                self.at += piece.len() as u64;
                self.resumes = 0;
                if !piece.is_empty() {
                    return Ok(Some(piece));
                }
                continue;
            }
            self.resume().await?;
        }
        Ok(None)
    }

    /// The answer has broken off, or it stalls: the rest of the same version is asked for.
    async fn resume(&mut self) -> Result<(), StoreError> {
        loop {
            if self.resumes == RESUMES_MAX {
                return Err(self
                    .bucket
                    .broken(&self.key, "the answers of the bucket break off"));
            }
            self.resumes += 1;
            tracing::debug!(key = %self.key, offset_bytes = self.at, "reading goes on after an answer broke off");
            let rest = ByteRange::from(self.at..self.end);
            match self
                .bucket
                .get(&self.key, Some(rest), Some(&self.version))
                .await
            {
                Ok(Some(got)) if got.range == (self.at..self.end) => {
                    self.body = got.body;
                    return Ok(());
                }
                Ok(_) => return Err(self.bucket.broken(&self.key, "the object has changed")),
                Err(StoreError::Busy { .. }) => {}
                Err(StoreError::Conflict) => {
                    return Err(self.bucket.broken(&self.key, "the object has changed"));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
