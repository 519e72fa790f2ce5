//! Where test registries keep their data: a directory, or a bucket in the test target `bucket`.
//!
//! Outlives the registries on it, so a test restarts one by starting another on the same data. What another program does to
//! the data, a test does through [`Data`], so it runs on all of them. A test that needs a directory says so by
//! `on_a_directory!`.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boathouse::clock::Clock;
use boathouse::store::ObjectStore;
use boathouse::store::bucket_like::{BucketLike, Change};
use boathouse::store::filesystem::{self, FilesystemStore};
use tempfile::TempDir;

use crate::data_in_s3::DataInS3;

/// Chooses the order in which a bucket carries out what has none. Set, tests of the target `bucket` run on a bucket that is
/// random and has no network.
const SEED: &str = "BOATHOUSE_BUCKET_SEED";

/// See the module.
pub(crate) struct Data {
    directory: TempDir,
    bucket: Option<Bucket>,
    state: TempDir,
}

enum Bucket {
    /// In memory, in random order, without a network.
    Random(BucketLike),
    /// Behind S3.
    S3(Box<DataInS3>),
}

impl Data {
    /// Empty.
    pub(crate) fn new() -> Arc<Self> {
        Self::within(&std::env::temp_dir())
    }

    /// An empty bucket in any case. `seed` chooses the order of what has none, and which requests find it busy.
    pub(crate) fn in_bucket(seed: u64) -> Arc<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        Self::of(directory, Some(Bucket::Random(BucketLike::new(seed))))
    }

    /// An empty bucket behind S3 in any case.
    pub(crate) fn in_s3(s3: DataInS3) -> Arc<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        Self::of(directory, Some(Bucket::S3(Box::new(s3))))
    }

    fn random(&self) -> &BucketLike {
        match &self.bucket {
            Some(Bucket::Random(bucket)) => bucket,
            Some(Bucket::S3(_)) | None => panic!("this test needs `Data::in_bucket`"),
        }
    }

    /// The bucket behind S3, for tests that are about it.
    pub(crate) fn s3(&self) -> &DataInS3 {
        match &self.bucket {
            Some(Bucket::S3(s3)) => s3,
            Some(Bucket::Random(_)) | None => panic!("this test needs `Data::in_s3`"),
        }
    }

    /// Every change of the bucket in its order, since this was first called.
    pub(crate) fn journal(&self) -> Vec<Change> {
        self.random().journal()
    }

    /// From now on one request to the bucket in `one_in` (0 for none) is refused, or its answer is lost.
    pub(crate) fn be_busy(&self, one_in: u64) {
        self.random().be_busy(one_in);
    }

    /// Empty; the directory, if there is one, is made within `parent`.
    pub(crate) fn within(parent: &Path) -> Arc<Self> {
        let directory = tempfile::tempdir_in(parent).expect("a directory");
        if !crate::KEEPS_DATA_IN_A_BUCKET {
            return Self::of(directory, None);
        }
        let bucket = match std::env::var_os(SEED) {
            Some(_) => Bucket::Random(BucketLike::new(seed())),
            None => Bucket::S3(Box::new(DataInS3::new())),
        };
        Self::of(directory, Some(bucket))
    }

    fn of(directory: TempDir, bucket: Option<Bucket>) -> Arc<Self> {
        let state = tempfile::tempdir().expect("a directory");
        Arc::new(Self {
            directory,
            bucket,
            state,
        })
    }

    /// Where an instance keeps its lock, its secret and its control socket. They are not among [`Data::files`].
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// The store over it, as a process opens it.
    pub(crate) fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn ObjectStore> {
        match &self.bucket {
            Some(Bucket::Random(bucket)) => Arc::new(bucket.clone()),
            Some(Bucket::S3(s3)) => s3.open(clock),
            None => {
                let settings = filesystem::Settings::at(self.directory.path());
                Arc::new(FilesystemStore::open(settings, clock).expect("a store"))
            }
        }
    }

    /// The directory, for tests which run on a directory only.
    #[track_caller]
    pub(crate) fn path(&self) -> &Path {
        assert!(self.bucket.is_none(), "this test needs a directory");
        self.directory.path()
    }

    /// All keys with their content, and what upload sessions have received.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        match &self.bucket {
            Some(Bucket::Random(bucket)) => bucket.everything(),
            Some(Bucket::S3(s3)) => s3.everything(),
            None => tree(self.directory.path()),
        }
    }

    /// Those of [`Data::files`] that the old registry would see.
    pub(crate) fn shared_files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files();
        files.retain(|key, _| key.starts_with("docker/"));
        files
    }

    pub(crate) fn read(&self, key: &str) -> Option<Vec<u8>> {
        match &self.bucket {
            Some(Bucket::Random(bucket)) => bucket.content(key),
            Some(Bucket::S3(s3)) => s3.content(key),
            None => fs::read(self.file(key)).ok(),
        }
    }

    /// Writes a key as another program does.
    pub(crate) fn write(&self, key: &str, content: impl AsRef<[u8]>) {
        match &self.bucket {
            Some(Bucket::Random(bucket)) => bucket.put_by_another_program(key, content.as_ref()),
            Some(Bucket::S3(s3)) => s3.put(key, content.as_ref()),
            None => {
                let path = self.file(key);
                fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                fs::write(path, content).expect("written");
            }
        }
    }

    /// Removes a key as another program does: its directory stays where there is one. Returns whether it was there.
    pub(crate) fn remove(&self, key: &str) -> bool {
        match &self.bucket {
            Some(Bucket::Random(bucket)) => bucket.remove_by_another_program(|other| other == key),
            Some(Bucket::S3(s3)) => s3.remove(|other| other == key),
            None => fs::remove_file(self.file(key)).is_ok(),
        }
    }

    /// Removes all keys below a prefix, which ends in `/`, and its directory where there is one. Returns whether
    /// there was any.
    pub(crate) fn remove_below(&self, prefix: &str) -> bool {
        let is_below = |key: &str| key.starts_with(prefix);
        match &self.bucket {
            Some(Bucket::Random(bucket)) => bucket.remove_by_another_program(is_below),
            Some(Bucket::S3(s3)) => s3.remove(is_below),
            None => fs::remove_dir_all(self.file(prefix)).is_ok(),
        }
    }

    /// Whether there is a key below a prefix, or its directory where there may be one.
    pub(crate) fn is_there(&self, prefix: &str) -> bool {
        match &self.bucket {
            Some(_) => self.files().keys().any(|key| key.starts_with(prefix)),
            None => self.file(prefix).exists(),
        }
    }

    /// Makes an empty directory where there are directories; in a bucket, a prefix without a key is nothing.
    pub(crate) fn make_directory(&self, prefix: &str) {
        if self.bucket.is_none() {
            fs::create_dir_all(self.file(prefix)).expect("a directory");
        }
    }

    fn file(&self, key: &str) -> PathBuf {
        self.directory.path().join(key)
    }
}

/// All files below a directory with their content, for comparing what an operation left.
pub(crate) fn tree(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut unread = vec![directory.to_owned()];
    while let Some(path) = unread.pop() {
        for entry in fs::read_dir(&path).expect("a directory") {
            let entry = entry.expect("an entry").path();
            if entry.is_dir() {
                unread.push(entry);
            } else {
                let name = entry
                    .strip_prefix(directory)
                    .expect("below")
                    .to_string_lossy()
                    .into_owned();
                files.insert(name, fs::read(&entry).expect("readable"));
            }
        }
    }
    files
}

/// Another one for each test, and the same in each run with the same `BOATHOUSE_BUCKET_SEED`.
fn seed() -> u64 {
    let mut hasher = DefaultHasher::new();
    std::thread::current().name().hash(&mut hasher);
    std::env::var(SEED).ok().hash(&mut hasher);
    hasher.finish()
}
