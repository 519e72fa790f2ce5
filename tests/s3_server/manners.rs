//! What real servers do differently, as switches.
//!
//! Measured on MinIO (its last source release) and versitygw 1.8; for AWS, its documentation.

use http::StatusCode;

use super::request::Kind;

/// How the server behaves where real ones differ.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a difference by itself, and none excludes another"
)]
#[derive(Debug, Clone)]
pub(crate) struct Manners {
    /// Whether `PutObject` and `CompleteMultipartUpload` honour conditions. All real ones here do; others overwrite.
    pub(crate) conditional_writes: bool,
    /// Whether `CopyObject` honours conditions, or overwrites.
    pub(crate) conditional_copies: bool,
    /// Whether `DeleteObject` honours `If-Match`, or deletes.
    pub(crate) conditional_deletes: bool,
    /// One conditional write in so many (0 for none) is answered 409 `ConditionalRequestConflict`.
    pub(crate) conflict_one_in: u64,
    /// Whether `ListMultipartUploads` knows prefixes and pages; otherwise a prefix finds only the key that equals it.
    pub(crate) uploads_by_prefix: bool,
    /// The most parts that can be completed; beyond, 500.
    pub(crate) parts_max: usize,
    /// Whether completing an upload a second time answers as the first time did.
    pub(crate) completes_again: bool,
    /// Whether a request for another region is refused.
    pub(crate) checks_region: bool,
    /// The answer to an unknown access key.
    pub(crate) unknown_key: (StatusCode, &'static str),
    /// The code for bytes that do not have the checksum they were sent with.
    pub(crate) wrong_checksum: &'static str,
    /// Whether a list by groups leaves out the group `x/a/` after `start-after=x/a/`.
    pub(crate) start_after_skips_group: bool,
    /// What happens to keys below another key.
    pub(crate) keys_below_keys: KeysBelowKeys,
    /// Whether the last bytes of an empty object are answered 206 with `bytes 0--1/0`, or 416.
    pub(crate) serves_the_end_of_nothing: bool,
    /// What the account may not do.
    pub(crate) denied: Vec<Kind>,
    /// Every request is answered 404 by a page of HTML, as a web server that is not an S3 server does.
    pub(crate) is_a_web_server: bool,
}

/// What happens to `a/b` where there is `a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeysBelowKeys {
    /// They are two keys.
    Allowed,
    /// The second is refused with 409.
    Refused,
    /// It is stored, and no list shows it.
    Hidden,
}

impl Manners {
    pub(crate) fn aws() -> Self {
        Self {
            conditional_writes: true,
            conditional_copies: true,
            conditional_deletes: true,
            conflict_one_in: 0,
            uploads_by_prefix: true,
            parts_max: 10_000,
            completes_again: false,
            checks_region: true,
            unknown_key: (StatusCode::FORBIDDEN, "InvalidAccessKeyId"),
            wrong_checksum: "BadDigest",
            start_after_skips_group: false,
            keys_below_keys: KeysBelowKeys::Allowed,
            serves_the_end_of_nothing: false,
            denied: Vec::new(),
            is_a_web_server: false,
        }
    }

    pub(crate) fn minio() -> Self {
        Self {
            conditional_copies: false,
            conditional_deletes: false,
            uploads_by_prefix: false,
            checks_region: false,
            wrong_checksum: "XAmzContentChecksumMismatch",
            start_after_skips_group: true,
            keys_below_keys: KeysBelowKeys::Hidden,
            serves_the_end_of_nothing: true,
            ..Self::aws()
        }
    }

    pub(crate) fn versitygw() -> Self {
        Self {
            conditional_copies: false,
            parts_max: 400,
            completes_again: true,
            unknown_key: (StatusCode::NOT_FOUND, "XAdminUserNotFound"),
            start_after_skips_group: true,
            keys_below_keys: KeysBelowKeys::Refused,
            ..Self::aws()
        }
    }
}
