//! Whether a bucket will do, asked before anything is served from it: one line and a hint for what is wrong.
//!
//! By LIST, PUT, GET and DELETE, never by HEAD, whose answers name no cause. Must not know who prints it. Invariant: it leaves
//! nothing in the bucket but the object of a check that was cut short, below `boathouse/start-check/`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_async::time::TimeSource as _;
use bytes::Bytes;

use super::attempts::{Failed, Patience, SMALL};
use super::requests::{Body, Bucket, DELETE_LIFETIME};
use super::settings::Settings;
use super::trouble::{Kind, Trouble};
use crate::clock::Clock;
use crate::layout::OWN_DIRECTORY;
use crate::store::{Condition, StoreError, Version};

/// How long ago the DELETE ended that the bucket must refuse.
const EXPIRED_SINCE: Duration = Duration::from_secs(30);

/// A difference of the clocks that is told: Amazon refuses requests from 15 minutes on.
const SKEW_TOLD_SECS: u64 = 300;

/// What is wrong with a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// What happened, in one line.
    pub line: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}\nhint: {}", self.line, self.hint)
    }
}

impl std::error::Error for Complaint {}

/// Tries all that a registry needs of the bucket of `settings`. With `is_readonly`, only what reading needs. A difference of
/// the clocks is no complaint, since requests are dated by the bucket's: it is the answer, in seconds that the bucket is ahead.
pub async fn check(
    settings: &Settings,
    is_readonly: bool,
    clock: Arc<dyn Clock>,
) -> Result<Option<i64>, Complaint> {
    let bucket = Bucket::new(settings.clone(), clock);
    let bucket = bucket.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Complaint {
            line: cause.unwrap_or_else(|| error.to_string()),
            hint: "`ca_file` must be a PEM file with the certificate of the authority".to_owned(),
        }
    })?;
    let check = Check {
        bucket: bucket.with_patience(Patience::Check),
    };
    check.can_list().await?;
    if is_readonly {
        check.can_read("docker/").await?;
    } else {
        check.can_write().await?;
    }
    let ahead_secs = bucket.shared.bucket_clock.ahead_secs();
    Ok((ahead_secs.unsigned_abs() >= SKEW_TOLD_SECS).then_some(ahead_secs))
}

struct Check {
    bucket: Bucket,
}

impl Check {
    async fn can_list(&self) -> Result<(), Complaint> {
        let bucket = &self.bucket;
        let act = || async {
            let request = bucket.sdk.list_objects_v2().bucket(bucket.name());
            request.prefix(bucket.full("")).max_keys(1).send().await?;
            Ok(())
        };
        let listed = bucket.attempts.call(SMALL, act).await;
        listed.map_err(|failed| self.complaint("listed", &failed.trouble))
    }

    /// Absence is an answer, too.
    async fn can_read(&self, key: &str) -> Result<Option<Bytes>, Complaint> {
        match self.bucket.try_get(key, None, None).await {
            Ok(got) => {
                let bytes = got.body.collect().await;
                Ok(bytes
                    .ok()
                    .map(aws_sdk_s3::primitives::AggregatedBytes::into_bytes))
            }
            Err(Failed { trouble, .. }) if trouble.kind == Kind::Absent => Ok(None),
            Err(failed) => Err(self.complaint("read", &failed.trouble)),
        }
    }

    async fn can_write(&self) -> Result<(), Complaint> {
        let key = format!("{OWN_DIRECTORY}/start-check/{}", name());
        let bytes = Bytes::from(key.clone());
        let put = |condition: Condition| {
            let body = Body::bytes(bytes.clone());
            let key = &key;
            async move { self.bucket.try_put(key, &body, &condition).await }
        };
        let first = put(Condition::Absent).await;
        first.map_err(|failed| self.complaint("written", &failed.trouble))?;
        let result = self.judge(&key, &bytes, put).await;
        // Also after a complaint.
        let removed = self.bucket.delete(&key).await;
        result?;
        match removed {
            Ok(()) if self.can_read(&key).await?.is_none() => Ok(()),
            Ok(()) => Err(self.strange("an object is still there after it was deleted")),
            Err(error) => Err(self.store_complaint("deleted from", &error)),
        }
    }

    /// Of an object that is there.
    async fn judge<F>(
        &self,
        key: &str,
        bytes: &Bytes,
        put: impl Fn(Condition) -> F,
    ) -> Result<(), Complaint>
    where
        F: Future<Output = Result<Version, Failed>>,
    {
        // Of another content, as some servers judge the form of an ETag.
        let other = Version("\"d41d8cd98f00b204e9800998ecf8427e\"".to_owned());
        for condition in [Condition::Absent, Condition::Match(other)] {
            match put(condition).await {
                Err(Failed { trouble, .. }) if trouble.kind == Kind::ConditionFailed => {}
                Err(failed) => return Err(self.complaint("written", &failed.trouble)),
                Ok(_) => {
                    return Err(Complaint {
                        line: format!("the {} ignores conditions of writes", self.described()),
                        hint: "two writers would overwrite each other: use a server that honours If-None-Match and If-Match (Amazon's, MinIO since 2024, versitygw since 1.8)".to_owned(),
                    });
                }
            }
        }
        if self.can_read(key).await?.as_ref() != Some(bytes) {
            return Err(self.strange("an object that was just written reads as another"));
        }
        self.refuses_what_has_expired(key).await
    }

    async fn refuses_what_has_expired(&self, key: &str) -> Result<(), Complaint> {
        let bucket = &self.bucket;
        let act = || async {
            let began = bucket.shared.bucket_clock.now() - DELETE_LIFETIME - EXPIRED_SINCE;
            let lifetime = aws_sdk_s3::presigning::PresigningConfig::builder()
                .start_time(began)
                .expires_in(DELETE_LIFETIME)
                .build();
            let lifetime = lifetime.map_err(|error| Trouble::unusable(error.to_string()))?;
            let request = bucket.sdk.delete_object().bucket(bucket.name());
            let signed = request.key(bucket.full(key)).presigned(lifetime).await?;
            match bucket.send_delete(&signed).await {
                // Refused, by whatever name.
                Err(trouble) if matches!(trouble.status, Some(400..=499)) => Ok(()),
                Err(trouble) => Err(trouble),
                Ok(()) => Err(Trouble::unusable("it was carried out")),
            }
        };
        match bucket.attempts.call(SMALL, act).await {
            Ok(()) => Ok(()),
            Err(failed) if failed.trouble.kind == Kind::Passing => {
                Err(self.complaint("deleted from", &failed.trouble))
            }
            Err(_) => Err(Complaint {
                line: format!("the {} carries out a DELETE that has expired", self.described()),
                hint: "a DELETE that is delayed on its way could remove what was written since: use another server".to_owned(),
            }),
        }
    }

    fn described(&self) -> String {
        self.bucket.settings().described()
    }

    fn strange(&self, what: &str) -> Complaint {
        Complaint {
            line: format!("the {}: {what}", self.described()),
            hint: "data would be lost there: use another server, without a cache before it"
                .to_owned(),
        }
    }

    /// The bucket cannot be `done` (read, listed, …).
    fn complaint(&self, done: &str, trouble: &Trouble) -> Complaint {
        let line = format!("the {} cannot be {done}: {trouble}", self.described());
        let settings = self.bucket.settings();
        let is_plain = (settings.endpoint.as_deref()).is_some_and(|url| url.starts_with("http://"));
        let hint = match (trouble.hint(), trouble.status) {
            (Some(hint), _) => hint,
            (None, None) => "start its server, or correct `regionendpoint`",
            (None, Some(400)) if is_plain && trouble.code.is_none() => {
                "if its server speaks TLS, write https:// in `regionendpoint`"
            }
            (None, Some(500..=599)) => "look at its server's log",
            (None, Some(_)) if trouble.code.is_none() => {
                "correct `regionendpoint`: it must be the address of the S3 API, not of a console or another web server"
            }
            (None, Some(_)) => "look at its server's log",
        };
        Complaint {
            line,
            hint: hint.to_owned(),
        }
    }

    fn store_complaint(&self, done: &str, error: &StoreError) -> Complaint {
        let source = std::error::Error::source(error);
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        let trouble = io
            .and_then(std::io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref());
        match trouble {
            Some(trouble) => self.complaint(done, trouble),
            None => self.complaint(done, &Trouble::silence()),
        }
    }
}

/// Used once.
fn name() -> String {
    let mut random = [0; 16];
    // Without randomness the name of a check that was cut short may be met again: its write is then refused, and said to be.
    let _ = getrandom::fill(&mut random);
    data_encoding::HEXLOWER.encode(&random)
}
