//! The operations on objects: the one type through which every request to the bucket goes.
//!
//! Keys are those of the seam; the root directory of the settings is added and removed here. Must not know what is stored under
//! them, nor which of them belong together. Invariants: each operation ends in time ([`Patience`]); each DELETE expires
//! ([`Bucket::delete`]); a condition that may have been met by this very call is [`Written::Refused`] with `may_be_own`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials as SdkCredentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, StalledStreamProtectionConfig, retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_sdk_s3::types::{ChecksumMode, ServerSideEncryption, StorageClass};
use aws_smithy_async::time::TimeSource as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};

use super::attempts::{Attempts, Failed, Patience, SMALL, sending};
use super::connector::{BucketClock, Connector};
use super::credentials::Surroundings;
use super::settings::{Credentials, Encryption, Settings};
use super::trouble::{Kind, Trouble};
use crate::clock::Clock;
use crate::heartbeat::Heartbeat;
use crate::oci::range::ByteRange;
use crate::store::{Condition, Depth, Meta, StoreError, Version};

/// How long a DELETE is good for. One that is delayed on its way must not remove what was written since: whoever waits longer
/// than this after a DELETE knows that it will not come any more.
pub const DELETE_LIFETIME: Duration = Duration::from_secs(30);

/// For how long a bucket counts as full after a write found no room. Then the next write shows whether it still is.
const FULL_FOR: Duration = Duration::from_secs(30);

/// The longest name in a path of the usual file systems.
const SEGMENT_BYTES_MAX: usize = 255;

/// How much of an answer is read to find the code of an error: S3's have some hundred bytes.
const ERROR_ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A bucket, below the root directory of its settings. Clones share connections and limits.
#[derive(Clone)]
pub struct Bucket {
    pub(super) sdk: Client,
    pub(super) attempts: Attempts,
    pub(super) shared: Arc<Shared>,
}

/// What the clones of a [`Bucket`] share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    /// The root directory with a slash at its end, or nothing.
    root: String,
    pub(super) connector: Connector,
    pub(super) bucket_clock: BucketClock,
    /// See [`Bucket::is_full`].
    full_until_millis: AtomicU64,
}

/// An object as it is read.
pub struct Got {
    /// About the whole object.
    pub meta: Meta,
    /// Which bytes `body` has.
    pub range: Range<u64>,
    /// The bytes. It breaks off where the connection does.
    pub body: ByteStream,
}

/// What a request sends; made again for each attempt.
#[derive(Clone)]
pub struct Body {
    make: Arc<dyn Fn() -> SdkBody + Send + Sync>,
    size_bytes: u64,
    checksum: Option<Checksum>,
}

/// What the bucket compares a body with before it keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Of an object that is sent whole.
    Sha256([u8; 32]),
    /// Of a part.
    Crc32(u32),
}

/// What became of a write with a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It happened.
    Done(Version),
    /// The condition did not hold.
    Refused {
        /// The answer to an earlier attempt of the same call was lost, so what is there may be what this call has written: a
        /// look at the content decides.
        may_be_own: bool,
    },
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In byte order of their keys.
    pub items: Vec<Listed>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<From>,
}

/// An object in a listing, or, with a key that ends in `/`, all those below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// Its length; 0 for a group.
    pub size_bytes: u64,
    /// Its version; `None` for a group.
    pub version: Option<Version>,
}

/// Where a page of a listing begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// At the first key.
    Start,
    /// Behind this key. Servers differ on whether one that ends in `/` skips what is below it; `<group>0` does on all.
    After(String),
    /// Where another page ended.
    Token(String),
}

impl Bucket {
    /// Prepares the bucket of `settings`; sends nothing. Fails if the authorities' certificates cannot be read.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let bucket_clock = BucketClock::new(Arc::clone(&clock));
        let connector = Connector::new(&settings, bucket_clock.clone());
        let connector =
            connector.map_err(|error| StoreError::from_io("prepare the connection", error))?;
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(connector.clone())
            .time_source(bucket_clock.clone())
            // Attempts, their limits and the clock are our own: see `attempts` and `connector`.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .disable_clock_skew_correction(true)
            // The default adds a trailer to each body, and a second pass over its bytes.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .region(Region::new(settings.region.clone()))
            .force_path_style(settings.is_path_style);
        let config = match &settings.endpoint {
            Some(endpoint) => config.endpoint_url(endpoint),
            None => config,
        };
        let config = match &settings.credentials {
            Credentials::Keys {
                access_key,
                secret_key,
                session_token,
            } => config.credentials_provider(SdkCredentials::new(
                access_key,
                secret_key,
                session_token.clone(),
                None,
                "boathouse",
            )),
            Credentials::Surroundings => {
                config.credentials_provider(Surroundings::new(connector.clone(), &settings.region))
            }
        };
        let root = match settings.root_directory.as_str() {
            "" => String::new(),
            directory => format!("{directory}/"),
        };
        Ok(Self {
            sdk: Client::from_conf(config.build()),
            attempts: Attempts::new(clock, settings.requests_at_once),
            shared: Arc::new(Shared {
                settings,
                root,
                connector,
                bucket_clock,
                full_until_millis: AtomicU64::new(0),
            }),
        })
    }

    /// The same bucket, whose calls take as long as this.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        let mut other = self.clone();
        other.attempts.patience = patience;
        other
    }

    /// The settings that it was made of.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Whether calls make progress.
    pub fn heartbeat(&self) -> &Arc<Heartbeat> {
        &self.attempts.heartbeat
    }

    /// The bytes of an object, or those of `range`; only those of version `version`, if one is given
    /// ([`StoreError::Conflict`] otherwise). `None` in place of the bytes if the object has none of that range. The answer has
    /// begun when this returns; its body comes as it is read, and is not limited in time.
    pub async fn get(
        &self,
        key: &str,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Option<Got>, StoreError> {
        if is_too_long(key) {
            return Err(StoreError::NotFound);
        }
        match self.try_get(key, range, version).await {
            Ok(value) => Ok(Some(value)),
            Err(failed) if failed.trouble.kind == Kind::OutOfRange => Ok(None),
            Err(failed) => Err(self.failed(failed, "read", key)),
        }
    }

    /// What is known of an object. Absence is confirmed by a GET: the answer to a HEAD has no body, so a wrong bucket, a wrong
    /// account or a proxy looks the same as an object that is not there.
    pub async fn head(&self, key: &str) -> Result<Meta, StoreError> {
        if is_too_long(key) {
            return Err(StoreError::NotFound);
        }
        let name = self.full(key);
        let act = || async {
            let request = self.sdk.head_object().bucket(self.name()).key(&name);
            let answer = match request.send().await.map_err(Trouble::from) {
                Ok(answer) => answer,
                Err(trouble) if trouble.is_mute() => return Ok(None),
                Err(trouble) => return Err(trouble),
            };
            let size_bytes = length(answer.content_length())?;
            let written = answer.last_modified().copied();
            meta(size_bytes, answer.e_tag(), written).map(Some)
        };
        let called = self.attempts.call(SMALL, act).await;
        match called.map_err(|failed| self.failed(failed, "look at", key))? {
            Some(meta) => Ok(meta),
            None => self.head_by_get(key).await,
        }
    }

    /// [`Bucket::head`] by a GET of the first byte.
    pub async fn head_by_get(&self, key: &str) -> Result<Meta, StoreError> {
        let first = ByteRange::Between { first: 0, last: 0 };
        if let Some(got) = self.get(key, Some(first), None).await? {
            return Ok(got.meta);
        }
        // An empty object has no first byte.
        match self.get(key, None, None).await? {
            Some(got) => Ok(got.meta),
            None => Err(StoreError::NotFound),
        }
    }

    /// The SHA-256 of an object, where the bucket knows it: where it was written whole, with that checksum. `None` also where
    /// there is no object.
    pub async fn sha256(&self, key: &str) -> Result<Option<[u8; 32]>, StoreError> {
        let name = self.full(key);
        let act = || async {
            let request = self.sdk.head_object().bucket(self.name()).key(&name);
            let request = request.checksum_mode(ChecksumMode::Enabled);
            match request.send().await.map_err(Trouble::from) {
                Ok(answer) => Ok(answer.checksum_sha256().map(str::to_owned)),
                // The answer to a HEAD has no code. Not to know it is always right.
                Err(trouble) if trouble.is_mute() => Ok(None),
                Err(trouble) => Err(trouble),
            }
        };
        let sum = self.attempts.call(SMALL, act).await;
        let sum = sum.map_err(|failed| self.failed(failed, "look at", key))?;
        let sum = sum.and_then(|sum| STANDARD.decode(sum).ok());
        Ok(sum.and_then(|sum| sum.try_into().ok()))
    }

    /// Writes an object whole, if `condition` holds.
    pub async fn put(
        &self,
        key: &str,
        body: &Body,
        condition: &Condition,
    ) -> Result<Written, StoreError> {
        match self.try_put(key, body, condition).await {
            Ok(value) => Ok(Written::Done(value)),
            Err(failed) => self.refused(failed, condition, "write", key),
        }
    }

    pub(super) async fn try_put(
        &self,
        key: &str,
        body: &Body,
        condition: &Condition,
    ) -> Result<Version, Failed> {
        let name = self.full(key);
        let act = || async {
            let mut request = self.sdk.put_object().bucket(self.name()).key(&name);
            match condition {
                Condition::Any => {}
                Condition::Absent => request = request.if_none_match("*"),
                Condition::Match(version) => request = request.if_match(&version.0),
            }
            match body.checksum {
                None => {}
                Some(Checksum::Sha256(sha256)) => {
                    request = request.checksum_sha256(STANDARD.encode(sha256));
                }
                Some(Checksum::Crc32(crc32)) => {
                    request = request.checksum_crc32(STANDARD.encode(crc32.to_be_bytes()));
                }
            }
            let (encryption, key_id) = self.encryption();
            let request = request
                .set_server_side_encryption(encryption)
                .set_ssekms_key_id(key_id)
                .set_storage_class(self.storage_class())
                .content_length(signed(body.size_bytes))
                .body(body.stream());
            let answer = request.send().await?;
            version(answer.e_tag())
        };
        self.attempts.call(sending(body.size_bytes), act).await
    }

    /// Removes an object; nothing happens if it is absent. The request expires after [`DELETE_LIFETIME`] by the bucket's own
    /// clock: each attempt is a presigned one, signed anew.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let name = self.full(key);
        let act = || async {
            if !self.shared.bucket_clock.is_known() {
                self.ask_the_time().await?;
            }
            let request = self.sdk.delete_object().bucket(self.name()).key(&name);
            let signed = request.presigned(self.lifetime(DELETE_LIFETIME)?).await?;
            self.send_delete(&signed).await
        };
        match self.attempts.call(SMALL, act).await {
            Ok(()) => Ok(()),
            Err(failed) if failed.trouble.kind == Kind::Absent => Ok(()),
            Err(failed) => Err(self.failed(failed, "remove", key)),
        }
    }

    /// Carries out a presigned DELETE.
    pub(super) async fn send_delete(
        &self,
        signed: &aws_sdk_s3::presigning::PresignedRequest,
    ) -> Result<(), Trouble> {
        let request = signed.make_http_1x_request(SdkBody::empty());
        let answer = self.shared.connector.send(request).await;
        let answer = answer.map_err(|error| Trouble::of_connector(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let body = Limited::new(answer.into_body(), ERROR_ANSWER_BYTES_MAX);
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let body = body.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let code = text
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"));
        let code = code.map(|(code, _)| code);
        // It has expired on its way, or the clock has jumped: the next attempt has another date.
        if status.as_u16() == 403 && code == Some("AccessDenied") && text.contains("expired") {
            return Err(Trouble::answered(403, Some("RequestTimeTooSkewed")));
        }
        Err(Trouble::answered(status.as_u16(), code))
    }

    /// The time from now on that a presigned request is good for, by the bucket's clock.
    pub(super) fn lifetime(&self, lifetime: Duration) -> Result<PresigningConfig, Trouble> {
        let config = PresigningConfig::builder()
            .start_time(self.shared.bucket_clock.now())
            .expires_in(lifetime)
            .build();
        config.map_err(|error| Trouble::unusable(error.to_string()))
    }

    /// Any answer names the time at the bucket, also a refusal.
    async fn ask_the_time(&self) -> Result<(), Trouble> {
        let request = self.sdk.list_objects_v2().bucket(self.name()).max_keys(1);
        let answer = request.send().await;
        if self.shared.bucket_clock.is_known() {
            return Ok(());
        }
        answer?;
        Err(Trouble::strange("an answer without a date"))
    }

    /// A URL by which anybody can GET the object for `lifetime`.
    pub async fn link(&self, key: &str, lifetime: Duration) -> Result<String, StoreError> {
        let request = self
            .sdk
            .get_object()
            .bucket(self.name())
            .key(self.full(key));
        let signed = async {
            let signed = request.presigned(self.lifetime(lifetime)?).await?;
            Ok::<_, Trouble>(signed.uri().to_owned())
        };
        let failed = |trouble| Failed {
            trouble,
            is_repeated: false,
        };
        (signed.await).map_err(|trouble| self.failed(failed(trouble), "make a link to", key))
    }

    /// A page of the keys below `prefix`, in byte order; with [`Depth::One`], what lies deeper shows as groups.
    pub async fn list(&self, prefix: &str, depth: Depth, from: &From) -> Result<Page, StoreError> {
        let (below, after) = (
            self.full(prefix),
            match from {
                From::After(key) => Some(self.full(key)),
                From::Start | From::Token(_) => None,
            },
        );
        let act = || async {
            let mut request = self
                .sdk
                .list_objects_v2()
                .bucket(self.name())
                .prefix(&below);
            if depth == Depth::One {
                request = request.delimiter("/");
            }
            match from {
                From::Start | From::After(_) => request = request.set_start_after(after.clone()),
                From::Token(token) => request = request.continuation_token(token),
            }
            Ok(request.send().await?)
        };
        let called = self.attempts.call(SMALL, act).await;
        let answer = called.map_err(|failed| self.failed(failed, "list", prefix))?;
        let objects = answer.contents().iter().filter_map(|object| {
            Some(Listed {
                key: self.relative(object.key()?)?,
                size_bytes: object.size().and_then(|size| u64::try_from(size).ok())?,
                version: object.e_tag().map(|tag| Version(tag.to_owned())),
            })
        });
        let groups = answer.common_prefixes().iter().filter_map(|group| {
            Some(Listed {
                key: self.relative(group.prefix()?)?,
                size_bytes: 0,
                version: None,
            })
        });
        let mut items: Vec<Listed> = objects.chain(groups).collect();
        items.sort_by(|one, other| one.key.cmp(&other.key));
        let next = answer.next_continuation_token().map(str::to_owned);
        let next = next.filter(|_| answer.is_truncated() == Some(true));
        Ok(Page {
            items,
            next: next.map(From::Token),
        })
    }

    pub(super) async fn try_get(
        &self,
        key: &str,
        range: Option<ByteRange>,
        version: Option<&Version>,
    ) -> Result<Got, Failed> {
        let name = self.full(key);
        let act = || async {
            let request = self.sdk.get_object().bucket(self.name()).key(&name);
            let request = request.set_range(range.map(header_of_range));
            let request = request.set_if_match(version.map(|version| version.0.clone()));
            let answer = request.send().await?;
            let sent_bytes = length(answer.content_length())?;
            let (range, size_bytes) = match answer.content_range() {
                // MinIO, asked for the last bytes of an empty object.
                Some("bytes 0--1/0") => {
                    return Err(Trouble::answered(416, Some("InvalidRange")));
                }
                Some(text) => content_range(text)
                    .ok_or_else(|| Trouble::strange("an answer with a strange Content-Range"))?,
                None => (0..sent_bytes, sent_bytes),
            };
            Ok(Got {
                meta: meta(size_bytes, answer.e_tag(), answer.last_modified().copied())?,
                range,
                body: answer.body,
            })
        };
        self.attempts.call(SMALL, act).await
    }

    pub(super) fn name(&self) -> &str {
        &self.shared.settings.bucket
    }

    /// The key as the bucket knows it.
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}{key}", self.shared.root)
    }

    /// The key as the seam knows it; `None` for one outside the root directory.
    pub(super) fn relative(&self, key: &str) -> Option<String> {
        key.strip_prefix(&self.shared.root).map(str::to_owned)
    }

    pub(super) fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.shared.settings.encryption {
            None => (None, None),
            Some(Encryption::Own) => (Some(ServerSideEncryption::Aes256), None),
            Some(Encryption::KeyService(id)) => {
                (Some(ServerSideEncryption::AwsKms), Some(id.clone()))
            }
        }
    }

    pub(super) fn storage_class(&self) -> Option<StorageClass> {
        let class = self.shared.settings.storage_class.as_deref();
        class.map(StorageClass::from)
    }

    /// Whether a write has lately found no room.
    pub(super) fn is_full(&self) -> bool {
        let until = self.shared.full_until_millis.load(Ordering::Relaxed);
        until > 0 && elapsed_millis(&*self.attempts.clock) < until
    }

    /// The error of the seam for a call that failed.
    pub(super) fn failed(&self, failed: Failed, verb: &str, key: &str) -> StoreError {
        if failed.trouble.kind == Kind::Full {
            let until = elapsed_millis(&*self.attempts.clock) + millis(FULL_FOR);
            self.shared
                .full_until_millis
                .store(until, Ordering::Relaxed);
        }
        let bucket = self.shared.settings.described();
        failed.into_store_error(|| format!("{verb} {key} in {bucket}"))
    }

    /// A write that failed, or that its condition refused.
    pub(super) fn refused(
        &self,
        failed: Failed,
        condition: &Condition,
        verb: &str,
        key: &str,
    ) -> Result<Written, StoreError> {
        let is_refused = match failed.trouble.kind {
            Kind::ConditionFailed => true,
            // The object to be replaced is not there; or the upload was completed, and its answer was lost.
            Kind::Absent => matches!(condition, Condition::Match(_)) || failed.is_repeated,
            _ => false,
        };
        if is_refused {
            return Ok(Written::Refused {
                may_be_own: failed.is_repeated,
            });
        }
        Err(self.failed(failed, verb, key))
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Bucket({})", self.shared.settings.described())
    }
}

impl Body {
    /// Bytes in memory.
    pub fn bytes(bytes: Bytes) -> Self {
        let size_bytes = bytes.len() as u64;
        Self::streamed(size_bytes, move || SdkBody::from(bytes.clone()))
    }

    /// `make` gives a body of exactly `size_bytes` each time: one that ends early makes the bucket wait.
    pub fn streamed(size_bytes: u64, make: impl Fn() -> SdkBody + Send + Sync + 'static) -> Self {
        Self {
            make: Arc::new(make),
            size_bytes,
            checksum: None,
        }
    }

    /// The bucket refuses the body unless it has this checksum.
    #[must_use]
    pub fn with_checksum(mut self, checksum: Checksum) -> Self {
        self.checksum = Some(checksum);
        self
    }

    /// Its length.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn checksum(&self) -> Option<Checksum> {
        self.checksum
    }

    pub(super) fn stream(&self) -> ByteStream {
        ByteStream::new((self.make)())
    }
}

/// No directory holds such a key, and servers that keep objects in one each have an error of their own for it.
fn is_too_long(key: &str) -> bool {
    key.split('/')
        .any(|segment| segment.len() > SEGMENT_BYTES_MAX)
}

/// A `Range` header. Servers read its numbers as signed ones.
fn header_of_range(range: ByteRange) -> String {
    let most = i64::MAX.unsigned_abs();
    match range {
        ByteRange::From(first) => format!("bytes={}-", first.min(most)),
        ByteRange::Between { first, last } => {
            format!("bytes={}-{}", first.min(most), last.min(most))
        }
        ByteRange::Last(count) => format!("bytes=-{}", count.min(most)),
    }
}

/// `bytes FIRST-LAST/SIZE`
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then(|| (first..last + 1, size))
}

fn length(length: Option<i64>) -> Result<u64, Trouble> {
    let length = length.and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| Trouble::strange("an answer without a length"))
}

pub(super) fn version(tag: Option<&str>) -> Result<Version, Trouble> {
    let tag = tag.filter(|tag| !tag.is_empty());
    let tag = tag.ok_or_else(|| Trouble::strange("an answer without an ETag"))?;
    Ok(Version(tag.to_owned()))
}

fn meta(
    size_bytes: u64,
    tag: Option<&str>,
    written: Option<aws_sdk_s3::primitives::DateTime>,
) -> Result<Meta, Trouble> {
    Ok(Meta {
        size_bytes,
        version: version(tag)?,
        written: written.and_then(|written| SystemTime::try_from(written).ok()),
    })
}

fn elapsed_millis(clock: &dyn Clock) -> u64 {
    millis(clock.elapsed())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Lengths of objects are far below the limit.
pub(super) fn signed(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}
