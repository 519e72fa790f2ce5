//! `storage.s3`: a bucket as distribution's driver names its parts, and a few keys of ours.
//!
//! `storage.s3aws` is another name of the section in distribution, and `endpoint` one of `regionendpoint` in people's files:
//! both are renamed before anything is read ([`rename`]). Source: the s3 driver of distribution (2.8.3, 3.1.2). Must not know
//! how a bucket is used. Invariants: a key of the driver that would change what clients or other programs can see is honoured
//! or refused; no secret is in a message.

use std::path::{Path, PathBuf};

use super::error::ConfigErrors;
use super::key::{
    Family, FirstRunValue, Flag, InTemplate, Key, Number, OFF, OptionalPath, OptionalSecret,
    OptionalText, Text, Unread, distribution, keys, ours,
};
use super::node::Node;
use super::reader::{Reader, Secret};
use super::users_file::read_text;
use crate::host_port::BaseUrl;
use crate::store::s3::{Credentials, Encryption, Settings};

keys! {
    table KEYS;

    /// The bucket. It must exist: `serve` makes none.
    BUCKET: OptionalText = distribution("storage.s3.bucket").optional_text().in_template(InTemplate::FirstRun(FirstRunValue::Bucket));

    /// Where the bucket is, other than at Amazon: `http://minio.example.com:9000`.
    ///
    /// `endpoint` is another name of this key. Without a scheme, `storage.s3.secure` decides. A path is not possible.
    ENDPOINT: OptionalText = distribution("storage.s3.regionendpoint").optional_text().in_template(InTemplate::FirstRun(FirstRunValue::BucketEndpoint));

    /// The region. Most servers other than Amazon's accept `us-east-1`.
    REGION: Text = distribution("storage.s3.region").text(REGION_DEFAULT).in_template(InTemplate::FirstRun(FirstRunValue::BucketRegion));

    /// The name of the account in the bucket's server.
    ///
    /// Without keys here, those of the environment (`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`), of a profile (`~/.aws`), or
    /// of the instance are used, in this order.
    ACCESS_KEY: OptionalSecret = distribution("storage.s3.accesskey").optional_secret();

    /// Its secret.
    SECRET_KEY: OptionalSecret = distribution("storage.s3.secretkey").optional_secret();

    /// A file that holds `accesskey`.
    ACCESS_KEY_FILE: OptionalPath = ours("storage.s3.accesskey_file").optional_path().in_template(InTemplate::FirstRun(FirstRunValue::AccessKeyFile));

    /// A file that holds `secretkey`.
    SECRET_KEY_FILE: OptionalPath = ours("storage.s3.secretkey_file").optional_path().in_template(InTemplate::FirstRun(FirstRunValue::SecretKeyFile));

    /// The token of credentials that were lent, with `accesskey` and `secretkey`.
    SESSION_TOKEN: OptionalSecret = distribution("storage.s3.sessiontoken").optional_secret();

    /// A prefix of all keys, with which several registries can share a bucket.
    ROOT_DIRECTORY: Text = distribution("storage.s3.rootdirectory").text("");

    /// Whether an endpoint without a scheme is reached by https.
    SECURE: Flag = distribution("storage.s3.secure").flag(true);

    /// Whether any certificate of the endpoint is accepted. `ca_file` is the safe way.
    SKIP_VERIFY: Flag = distribution("storage.s3.skipverify").flag(false);

    /// The certificates (PEM) of the authorities that may have signed the endpoint's certificate; by default, those of the system.
    CA_FILE: OptionalPath = ours("storage.s3.ca_file").optional_path();

    /// Whether the bucket is named in the path (`HOST/BUCKET/KEY`), not in the host (`BUCKET.HOST/KEY`).
    ///
    /// The default is `true` with `regionendpoint` and `false` without it.
    PATH_STYLE: Flag = distribution("storage.s3.forcepathstyle").flag(true);

    /// Whether the bucket is asked to encrypt what it stores (`AES256`).
    ENCRYPT: Flag = distribution("storage.s3.encrypt").flag(false);

    /// With `encrypt`: the key of its key management service (`aws:kms`).
    KEY_ID: OptionalText = distribution("storage.s3.keyid").optional_text();

    /// The class of what is stored; `NONE` names none.
    ///
    /// A class from which objects must be restored before they can be read is refused.
    STORAGE_CLASS: Text = distribution("storage.s3.storageclass").text(NO_CLASS);

    /// The length of the first parts of a large upload, in bytes. Later parts grow.
    PART_SIZE_BYTES: Number<u64> = distribution("storage.s3.chunksize").number(Settings::PART_SIZE_BYTES, PART_SIZE_MIN_BYTES..=PART_SIZE_MAX_BYTES, "bytes");

    /// How much of uploads may be on this machine's disk at once, in bytes.
    ///
    /// They are in `spool` in `state_directory` until the bucket has them. Clients that push wait where there is no room.
    SPOOL_BYTES: Number<u64> = ours("storage.s3.spool_bytes").number(Settings::SPOOL_BYTES, SPOOL_MIN_BYTES..=SPOOL_MAX_BYTES, "bytes");

    /// How many requests to the bucket may be on their way at once.
    ///
    /// Those that send bytes to clients that pull do not count.
    REQUESTS_AT_ONCE: Number<usize> = ours("storage.s3.requests_at_once").number(Settings::REQUESTS_AT_ONCE, 4..=10_000, "");

    /// With a bucket: `false` sends clients that pull to the bucket.
    ///
    /// Distribution does so unless this is `true`; here the key must be written, since the clients of a lab often neither reach
    /// its bucket nor trust its certificate.
    NO_REDIRECT: Flag = distribution("storage.redirect.disable").flag(true);
}

/// Amazon's first, which other servers accept.
const REGION_DEFAULT: &str = "us-east-1";

/// Distribution's word for no storage class.
const NO_CLASS: &str = "NONE";

/// Classes whose objects can be read at once. (Others are archives.)
const CLASSES: [&str; 8] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "OUTPOSTS",
    "GLACIER_IR",
    "EXPRESS_ONEZONE",
];

/// S3 takes no shorter part, but the last.
const PART_SIZE_MIN_BYTES: u64 = 5 * 1024 * 1024;

/// S3 takes no longer part.
const PART_SIZE_MAX_BYTES: u64 = 5 * 1024 * 1024 * 1024;

/// Room for one upload that is not sent in parts.
const SPOOL_MIN_BYTES: u64 = 128 * 1024 * 1024;

/// 1 PiB: no limit but the disk's.
const SPOOL_MAX_BYTES: u64 = 1 << 50;

const OWN_COPIES: &str = "not needed: how a large upload is put together is decided by its size";

const NAME_THE_ENDPOINT: &str = "name that endpoint in storage.s3.regionendpoint";

const UNREAD: &[Key<Unread>] = &[
    distribution("storage.s3.multipartcopychunksize").harmless(OWN_COPIES),
    distribution("storage.s3.multipartcopymaxconcurrency").harmless(OWN_COPIES),
    distribution("storage.s3.multipartcopythresholdsize").harmless(OWN_COPIES),
    distribution("storage.s3.useragent")
        .harmless("not needed: the bucket's server is told the SDK's name"),
    distribution("storage.s3.loglevel").harmless("not needed: log.level is for the bucket as well"),
    distribution("storage.s3.v4auth")
        .refused(
            &["true", "True", "TRUE", "yes", "on", ""],
            "requests are signed by version 4; version 2 is not safe any more",
        )
        .hint("remove it; a server that only knows version 2 cannot be used"),
    distribution("storage.s3.objectacl")
        .refused(
            &["private", ""],
            "images are for accounts of the registry, not for readers of the bucket",
        )
        .hint("remove it, and set the access to the bucket by its policy"),
    distribution("storage.s3.accelerate")
        .refused(
            OFF,
            "Amazon's transfer acceleration has endpoints of its own",
        )
        .hint(NAME_THE_ENDPOINT),
    distribution("storage.s3.usedualstack")
        .refused(OFF, "Amazon's dual-stack endpoints have names of their own")
        .hint(NAME_THE_ENDPOINT),
    distribution("storage.s3.usefipsendpoint")
        .refused(OFF, "Amazon's FIPS endpoints have names of their own")
        .hint(NAME_THE_ENDPOINT),
    distribution("storage.s3.redirectendpoint")
        .refused(
            OFF,
            "clients are sent to the endpoint that this server uses",
        )
        .hint("remove it; with storage.redirect.disable: true clients need not reach the bucket"),
];

pub(super) const FAMILY: Family = Family {
    heading: "Data in a bucket",
    intro: "`storage.s3` instead of `storage.filesystem` keeps the data in a bucket of S3, MinIO or another server of its \
            protocol. `storage.s3aws` is another name of the section. `REGISTRY_STORAGE_S3_…` variables reach \
            distribution's keys. [operations.md](operations.md) says what the bucket and its account need.",
    keys: KEYS,
    unread: UNREAD,
};

/// The section, and where it is.
pub(super) const SECTION: &str = "storage.s3";

/// The other name of the section in distribution.
const OTHER_SECTION: &str = "s3aws";

/// The other name of `regionendpoint`.
const OTHER_ENDPOINT: &str = "endpoint";

/// Gives keys that have two names the one that is read.
pub(super) fn rename(storage: &mut Node, errors: &mut ConfigErrors) {
    storage.rename_key(OTHER_SECTION, "s3", "storage", errors);
    if let Some(section) = storage.top_mut("s3") {
        section.rename_key(OTHER_ENDPOINT, "regionendpoint", SECTION, errors);
    }
}

/// The same for the path of a key, as a variable names it.
pub(super) fn renamed_path(path: &str) -> String {
    let mut parts: Vec<&str> = path.split('.').collect();
    if let ["storage", section, ..] = parts.as_mut_slice()
        && *section == OTHER_SECTION
    {
        *section = "s3";
    }
    if let ["storage", "s3", key] = parts.as_mut_slice()
        && *key == OTHER_ENDPOINT
    {
        *key = "regionendpoint";
    }
    parts.join(".")
}

/// What the section says. `state_directory` holds the spool.
pub(super) fn bucket(reader: &mut Reader<'_>, state_directory: &Path) -> Settings {
    let bucket = reader.get(&BUCKET);
    if bucket.is_none() {
        reader.refuse(
            BUCKET.path,
            "missing: which bucket holds the data",
            "add `bucket: NAME`",
        );
    }
    let endpoint = endpoint(reader);
    let region = reader.get(&REGION);
    let credentials = credentials(reader);
    let is_path_style = reader.get(&PATH_STYLE);
    let mut settings = Settings::of(
        endpoint,
        region,
        bucket.unwrap_or_default(),
        credentials,
        state_directory.join("spool"),
    );
    if reader.is_given(PATH_STYLE.path) {
        settings.is_path_style = is_path_style;
    }
    settings.root_directory = root_directory(reader);
    settings.ca_file = reader.get(&CA_FILE);
    settings.skips_verification = reader.get(&SKIP_VERIFY);
    settings.encryption = encryption(reader);
    settings.storage_class = storage_class(reader);
    settings.part_size_bytes = reader.get(&PART_SIZE_BYTES);
    settings.spool_bytes = reader.get(&SPOOL_BYTES);
    settings.requests_at_once = reader.get(&REQUESTS_AT_ONCE);
    settings.redirects_pulls = !reader.get(&NO_REDIRECT);
    if settings.skips_verification {
        reader.warn(
            SKIP_VERIFY.path,
            "whoever can answer for the endpoint gets the images and can change them; `ca_file` is the safe way",
        );
    }
    if let (Some(_), true) = (&settings.ca_file, settings.skips_verification) {
        reader.warn(CA_FILE.path, "has no effect with skipverify");
    }
    settings
}

/// With its scheme, and without a slash at its end.
fn endpoint(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.get(&ENDPOINT);
    let scheme = if reader.get(&SECURE) { "https" } else { "http" };
    let text = text?;
    let text = text.trim_end_matches('/');
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("{scheme}://{text}")
    };
    if url.parse::<BaseUrl>().is_err() {
        reader.refuse(
            ENDPOINT.path,
            "must be a URL without a path",
            "written like `http://minio.example.com:9000`; a folder in the bucket is `rootdirectory`",
        );
    }
    Some(url)
}

fn credentials(reader: &mut Reader<'_>) -> Credentials {
    let access_key = key_or_file(reader, &ACCESS_KEY, &ACCESS_KEY_FILE);
    let secret_key = key_or_file(reader, &SECRET_KEY, &SECRET_KEY_FILE);
    let session_token = reader.get(&SESSION_TOKEN);
    match (access_key, secret_key) {
        (Some(access_key), Some(secret_key)) => Credentials::Keys {
            access_key,
            secret_key,
            session_token: session_token.map(|token| token.expose().to_owned()),
        },
        (None, None) => {
            if session_token.is_some() {
                reader.warn(
                    SESSION_TOKEN.path,
                    "has no effect without accesskey and secretkey",
                );
            }
            Credentials::Surroundings
        }
        (has_access_key, _) => {
            let (given, missing) = match has_access_key {
                Some(_) => (ACCESS_KEY.path, "secretkey"),
                None => (SECRET_KEY.path, "accesskey"),
            };
            reader.refuse(
                given,
                &format!("is given without {missing}"),
                "give both, or neither for those of the environment, a profile or the instance",
            );
            Credentials::Surroundings
        }
    }
}

/// The secret at `key`, or in the file that `file` names.
fn key_or_file(
    reader: &mut Reader<'_>,
    key: &Key<OptionalSecret>,
    file: &Key<OptionalPath>,
) -> Option<String> {
    let given = reader.get(key);
    let given = given.as_ref().map(Secret::expose).map(str::to_owned);
    let path: Option<PathBuf> = reader.get(file);
    let Some(path) = path else { return given };
    if given.is_some() {
        reader.refuse(
            file.path,
            &format!("is given beside `{}`", key.path),
            "remove one of them",
        );
        return given;
    }
    match read_text(&path) {
        Ok(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Ok(_) => {
            let hint = "the file holds the key alone, on one line";
            reader.refuse(file.path, &format!("{} is empty", path.display()), hint);
            None
        }
        Err(error) => {
            reader.errors.push(error);
            None
        }
    }
}

/// Without slashes at its ends: a key never begins with one, nor has two in a row.
fn root_directory(reader: &mut Reader<'_>) -> String {
    let text = reader.get(&ROOT_DIRECTORY);
    let trimmed = text.trim_matches('/');
    let is_usable = |part: &str| !matches!(part, "" | "." | "..");
    if !trimmed.is_empty() && !trimmed.split('/').all(is_usable) {
        reader.refuse(
            ROOT_DIRECTORY.path,
            "must be names with `/` between them",
            "written like `registry` or `lab/registry`",
        );
    }
    trimmed.to_owned()
}

fn encryption(reader: &mut Reader<'_>) -> Option<Encryption> {
    let encrypt = reader.get(&ENCRYPT);
    let key_id = reader.get(&KEY_ID);
    if !encrypt {
        if key_id.is_some() {
            reader.warn(KEY_ID.path, "has no effect without `encrypt: true`");
        }
        return None;
    }
    Some(key_id.map_or(Encryption::Own, Encryption::KeyService))
}

fn storage_class(reader: &mut Reader<'_>) -> Option<String> {
    // As in distribution, in any case.
    let class = reader.get(&STORAGE_CLASS).to_ascii_uppercase();
    if class.is_empty() || class == NO_CLASS {
        return None;
    }
    if !CLASSES.contains(&class.as_str()) {
        reader.refuse(
            STORAGE_CLASS.path,
            &format!("must be {NO_CLASS} or one of {}", CLASSES.join(", ")),
            "remove it for the default of the bucket",
        );
    }
    Some(class)
}
