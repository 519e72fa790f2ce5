//! What the configuration says about a bucket.
//!
//! Must not know the names of keys in a config file. Invariant: `Debug` shows no secret.

use std::fmt;
use std::path::PathBuf;

/// `storage.s3`: a bucket, how it is reached, and how much of this machine it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `regionendpoint`: `http://HOST[:PORT]` or `https://HOST[:PORT]`; `None` is Amazon's endpoint for the region.
    pub endpoint: Option<String>,
    /// `region`; most servers other than Amazon's accept `us-east-1`.
    pub region: String,
    /// `bucket`
    pub bucket: String,
    /// `rootdirectory` without slashes at its ends: all keys begin with it and a slash. Empty for the whole bucket.
    pub root_directory: String,
    /// Who signs the requests.
    pub credentials: Credentials,
    /// `forcepathstyle`: the bucket is in the path (`HOST/BUCKET/KEY`), not in the host name (`BUCKET.HOST/KEY`).
    pub is_path_style: bool,
    /// `ca_file`: a PEM file. Only certificates of these authorities are accepted; `None` trusts those of the system.
    pub ca_file: Option<PathBuf>,
    /// `skipverify`: any certificate is accepted.
    pub skips_verification: bool,
    /// `encrypt` and `keyid`
    pub encryption: Option<Encryption>,
    /// `storageclass`; `None` sends none.
    pub storage_class: Option<String>,
    /// `chunksize`: the length of the first parts of an upload in parts, at least 5 MiB.
    pub part_size_bytes: u64,
    /// Where uploads are kept until the bucket has them.
    pub spool_directory: PathBuf,
    /// `spool_bytes`: how much may be in the spool directory.
    pub spool_bytes: u64,
    /// How many requests may be on their way at once. The bodies of answers to clients do not count: each belongs to a
    /// connection of a client, and those have their own limit.
    pub requests_at_once: usize,
    /// `storage.redirect.disable: false`: clients that pull are sent to the bucket.
    pub redirects_pulls: bool,
}

impl Settings {
    /// The default of `spool_bytes`: 64 parallel pushes with two parts of 64 MiB each.
    pub const SPOOL_BYTES: u64 = 8 * 1024 * 1024 * 1024;

    /// The default of `chunksize`: a part of 16 MiB takes a bucket about as long as a round trip to a far one takes, and 1 GiB
    /// stays below the 400 parts that every server tried can complete.
    pub const PART_SIZE_BYTES: u64 = 16 * 1024 * 1024;

    /// The default of requests at once: enough to fill 10 Gbit/s at 30 MB/s for each connection.
    pub const REQUESTS_AT_ONCE: usize = 64;

    /// A bucket with the defaults of everything that has one.
    pub fn of(
        endpoint: Option<String>,
        region: impl Into<String>,
        bucket: impl Into<String>,
        credentials: Credentials,
        spool_directory: impl Into<PathBuf>,
    ) -> Self {
        Self {
            // Amazon's endpoints have the bucket in the name; others need a wildcard in DNS for that, which few labs have.
            is_path_style: endpoint.is_some(),
            endpoint,
            region: region.into(),
            bucket: bucket.into(),
            root_directory: String::new(),
            credentials,
            ca_file: None,
            skips_verification: false,
            encryption: None,
            storage_class: None,
            part_size_bytes: Self::PART_SIZE_BYTES,
            spool_directory: spool_directory.into(),
            spool_bytes: Self::SPOOL_BYTES,
            requests_at_once: Self::REQUESTS_AT_ONCE,
            redirects_pulls: false,
        }
    }

    /// The bucket as people write it, for messages: `bucket NAME at http://HOST`.
    pub fn described(&self) -> String {
        let Self {
            bucket,
            endpoint,
            region,
            ..
        } = self;
        match endpoint {
            Some(endpoint) => format!("bucket {bucket} at {endpoint}"),
            None => format!("bucket {bucket} in {region}"),
        }
    }
}

/// Who signs the requests to a bucket.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// `accesskey` and `secretkey`, or the contents of `accesskey_file` and `secretkey_file`.
    Keys {
        /// The name of the account.
        access_key: String,
        /// Its secret.
        secret_key: String,
        /// `sessiontoken`, for credentials that were lent.
        session_token: Option<String>,
    },
    /// Those of the environment, of a profile (`~/.aws`), or of the instance, in this order.
    Surroundings,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { .. } => out.write_str("Keys(set)"),
            Self::Surroundings => out.write_str("Surroundings"),
        }
    }
}

/// How the bucket encrypts what it stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// `encrypt: true`: with keys that the bucket manages itself.
    Own,
    /// `encrypt: true` and `keyid`: with this key of the key management service.
    KeyService(String),
}
