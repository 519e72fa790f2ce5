//! What is asked for.
//!
//! Must not know how it is done.

use std::path::PathBuf;

use crate::servers::{Bucket, Server};

/// See `tests/bench/fleet/run`.
pub(crate) struct Options {
    pub(crate) servers: Vec<Server>,
    /// Where registries keep what is theirs, and their logs.
    pub(crate) directory: PathBuf,
    /// Where the bucket server keeps its buckets: a directory each.
    buckets: PathBuf,
    /// Empty where the data are in directories instead.
    endpoint: String,
    access_key: String,
    secret_key: String,
    /// Of one release.
    pub(crate) size_bytes: u64,
    /// Of the figures; none for the trial alone.
    pub(crate) rounds: u32,
    /// Instead of the releases, so many layers at once.
    pub(crate) crowd: Option<usize>,
    /// Layers are zeros but for their first bytes.
    pub(crate) is_zeros: bool,
}

impl Options {
    /// `None` where no server is named.
    pub(crate) fn parse(
        mut arguments: impl Iterator<Item = String>,
    ) -> Result<Option<Self>, String> {
        let mut options = Self {
            servers: Vec::new(),
            directory: std::env::temp_dir(),
            buckets: PathBuf::new(),
            endpoint: String::new(),
            access_key: String::new(),
            secret_key: String::new(),
            size_bytes: 4 * 1024 * 1024 * 1024,
            rounds: 1,
            crowd: None,
            is_zeros: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match &*argument {
                "--server" => options.servers.push(value()?.parse()?),
                "--directory" => options.directory = value()?.into(),
                "--buckets" => options.buckets = value()?.into(),
                "--endpoint" => options.endpoint = value()?,
                "--access-key" => options.access_key = value()?,
                "--secret-key" => options.secret_key = value()?,
                "--bytes" => options.size_bytes = number(&value()?)?,
                "--rounds" => {
                    let rounds = number(&value()?)?;
                    options.rounds = u32::try_from(rounds).map_err(|error| error.to_string())?;
                }
                "--crowd" => {
                    let count = number(&value()?)?;
                    options.crowd = usize::try_from(count).ok();
                }
                "--zeros" => options.is_zeros = true,
                // What cargo adds by itself.
                "--bench" | "--test" => {}
                other => return Err(format!("no option {other}")),
            }
        }
        Ok(Some(options).filter(|options| !options.servers.is_empty()))
    }

    /// Makes an empty bucket; it is removed with what is in it when the result is dropped.
    pub(crate) fn new_bucket(&self, name: &str) -> std::io::Result<Option<EmptyBucket>> {
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let directory = self.buckets.join(name);
        std::fs::create_dir(&directory)?;
        Ok(Some(EmptyBucket {
            bucket: Bucket {
                endpoint: self.endpoint.clone(),
                name: name.to_owned(),
                access_key: self.access_key.clone(),
                secret_key: self.secret_key.clone(),
            },
            directory,
        }))
    }
}

/// See [`Options::new_bucket`].
pub(crate) struct EmptyBucket {
    pub(crate) bucket: Bucket,
    directory: PathBuf,
}

impl Drop for EmptyBucket {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}
