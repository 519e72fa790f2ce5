//! Where a bucket is and who may use it: the one in this process, or a real one that the environment names.

use super::{ACCESS_KEY, BUCKET, REGION, S3Server, SECRET_KEY};

/// Names a real bucket: `http://KEY:SECRET@HOST:PORT/BUCKET`. All that is put there by tests lies below prefixes of their own.
pub(crate) const VARIABLE: &str = "BOATHOUSE_TEST_S3";

/// The region of the real one: what MinIO and versitygw have if they are told nothing.
const REAL_REGION: &str = "us-east-1";

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `http://HOST:PORT`
    pub(crate) url: String,
    pub(crate) region: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) bucket: String,
}

impl Endpoint {
    /// The one in this process.
    pub(crate) fn of(server: &S3Server) -> Self {
        Self {
            url: format!("http://{}", server.address()),
            region: REGION.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            bucket: BUCKET.to_owned(),
        }
    }

    /// The real one, if the environment names one.
    pub(crate) fn given() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        let parse = || {
            let (scheme, rest) = text.split_once("://")?;
            let (keys, place) = rest.rsplit_once('@')?;
            let (access_key, secret_key) = keys.split_once(':')?;
            let (host, bucket) = place.split_once('/')?;
            Some(Self {
                url: format!("{scheme}://{host}"),
                region: REAL_REGION.to_owned(),
                access_key: access_key.to_owned(),
                secret_key: secret_key.to_owned(),
                bucket: bucket.to_owned(),
            })
        };
        let form = "http://KEY:SECRET@HOST:PORT/BUCKET";
        Some(parse().unwrap_or_else(|| panic!("{VARIABLE} must be {form}")))
    }
}
