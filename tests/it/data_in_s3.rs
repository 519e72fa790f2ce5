//! Data behind S3: in this process, or in the real bucket that `BOATHOUSE_TEST_S3` names.
//!
//! What tests do to the data behind the registry's back, they do here without the store that is tested.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use boathouse::clock::{Clock, Sleep, SystemClock};
use boathouse::store::s3::requests::{Body, Bucket, From};
use boathouse::store::s3::{self, Credentials};
use boathouse::store::{self, Condition, Depth, ObjectStore};
use bytes::Bytes;
use tempfile::TempDir;

use crate::data::tree;
use crate::s3_server::{Endpoint, S3Server};

/// Where the clocks of tests begin ([`crate::support`]): the bucket's agrees, so that no request is refused for its date.
const TESTS_BEGIN_UNIX_SECS: i64 = 1_800_000_000;

/// See the module.
pub(crate) struct DataInS3 {
    /// The one in this process, unless the bucket is a real one.
    server: Option<S3Server>,
    settings: s3::Settings,
    spool: TempDir,
    /// How many times faster the store's clock runs than others.
    hurry: u32,
}

impl DataInS3 {
    /// Empty.
    pub(crate) fn new() -> Self {
        match Endpoint::given() {
            None => Self::in_this_process(),
            Some(endpoint) => Self::of(None, endpoint, unused_prefix()),
        }
    }

    /// Empty, in this process.
    pub(crate) fn in_this_process() -> Self {
        let server = S3Server::start();
        let now = SystemClock::new().unix_secs();
        server.set_clock_ahead(TESTS_BEGIN_UNIX_SECS - i64::try_from(now).expect("seconds"));
        let endpoint = Endpoint::of(&server);
        Self::of(Some(server), endpoint, String::new())
    }

    fn of(server: Option<S3Server>, endpoint: Endpoint, root_directory: String) -> Self {
        let spool = tempfile::tempdir().expect("a directory");
        let credentials = Credentials::Keys {
            access_key: endpoint.access_key,
            secret_key: endpoint.secret_key,
            session_token: None,
        };
        let url = Some(endpoint.url);
        let (region, bucket) = (endpoint.region, endpoint.bucket);
        let settings = s3::Settings {
            root_directory,
            ..s3::Settings::of(url, region, bucket, credentials, spool.path())
        };
        Self {
            server,
            settings,
            spool,
            hurry: 1,
        }
    }

    /// With a store for whose limits and pauses time passes so many times faster.
    #[must_use]
    pub(crate) fn in_a_hurry(mut self, hurry: u32) -> Self {
        self.hurry = hurry;
        self
    }

    /// The server in this process.
    pub(crate) fn server(&self) -> &S3Server {
        self.server.as_ref().expect("a bucket in this process")
    }

    pub(crate) fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn ObjectStore> {
        let clock = DatedByTheTest {
            dates: clock,
            real: SystemClock::new(),
            hurry: self.hurry,
        };
        let settings = store::Settings::Bucket(Box::new(self.settings.clone()));
        settings.open(false, Arc::new(clock)).expect("a store")
    }

    /// All keys with their content, and the files of the spool as if they were keys.
    pub(crate) fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let objects = match &self.server {
            Some(server) => {
                let objects = server.objects().into_iter();
                objects.map(|(key, bytes)| (key, bytes.to_vec())).collect()
            }
            None => self.ask(async |bucket| {
                let mut objects = BTreeMap::new();
                for key in keys(bucket).await {
                    if let Some(content) = content(bucket, &key).await {
                        objects.insert(key, content);
                    }
                }
                objects
            }),
        };
        let spooled = tree(self.spool.path()).into_iter();
        objects.into_iter().chain(spooled).collect()
    }

    pub(crate) fn content(&self, key: &str) -> Option<Vec<u8>> {
        match &self.server {
            Some(server) => server.content(key).map(|bytes| bytes.to_vec()),
            None => self.ask(async |bucket| content(bucket, key).await),
        }
    }

    pub(crate) fn put(&self, key: &str, content: &[u8]) {
        let bytes = Bytes::copy_from_slice(content);
        match &self.server {
            Some(server) => server.put(key, bytes),
            None => self.ask(async |bucket| {
                let body = Body::bytes(bytes.clone());
                let put = bucket.put(key, &body, &Condition::Any).await;
                put.expect("written");
            }),
        }
    }

    /// Removes keys, and files of the spool. Returns whether there were any.
    pub(crate) fn remove(&self, is_removed: impl Fn(&str) -> bool + Sync) -> bool {
        let from_bucket = match &self.server {
            Some(server) => server.remove(&is_removed),
            None => self.ask(async |bucket| {
                let mut removed = keys(bucket).await;
                removed.retain(|key| is_removed(key));
                for key in &removed {
                    bucket.delete(key).await.expect("removed");
                }
                !removed.is_empty()
            }),
        };
        let mut from_spool = tree(self.spool.path());
        from_spool.retain(|name, _| is_removed(name));
        for name in from_spool.keys() {
            let file = self.spool.path().join(name);
            fs::remove_file(&file).expect("removed");
            // A directory without files is no session.
            let _ = file.parent().map(fs::remove_dir);
        }
        from_bucket || !from_spool.is_empty()
    }

    /// Asks a real bucket, in a thread of its own: the caller may be in a runtime.
    fn ask<T: Send>(&self, question: impl AsyncFn(&Bucket) -> T + Sync) -> T {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let clock = Arc::new(SystemClock::new());
                    let bucket = Bucket::new(self.settings.clone(), clock);
                    question(&bucket.expect("a bucket")).await
                })
            });
            asked.join().expect("an answer")
        })
    }
}

impl Drop for DataInS3 {
    fn drop(&mut self) {
        // A real bucket is left as it was found.
        if self.server.is_none() && !std::thread::panicking() {
            self.remove(|_| true);
        }
    }
}

async fn keys(bucket: &Bucket) -> Vec<String> {
    let (mut keys, mut from) = (Vec::new(), Some(From::Start));
    while let Some(next) = from {
        let page = bucket.list("", Depth::All, &next).await.expect("a list");
        keys.extend(page.items.into_iter().map(|listed| listed.key));
        from = page.next;
    }
    keys
}

async fn content(bucket: &Bucket, key: &str) -> Option<Vec<u8>> {
    match bucket.get(key, None, None).await {
        Ok(got) => {
            let body = got.expect("the whole of it").body.collect().await;
            Some(body.expect("the whole of it").to_vec())
        }
        Err(store::StoreError::NotFound) => None,
        Err(error) => panic!("{error}"),
    }
}

/// In a bucket that other tests use as well, and that was used yesterday.
fn unused_prefix() -> String {
    static USED: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), USED.fetch_add(1, Ordering::Relaxed));
    let second = SystemClock::new().unix_secs();
    format!("tests/{second}-{process}-{number}")
}

/// The clock of a store whose bucket is real: the test says which day it is, and pauses and limits pass by themselves.
struct DatedByTheTest {
    dates: Arc<dyn Clock>,
    real: SystemClock,
    hurry: u32,
}

impl Clock for DatedByTheTest {
    fn now(&self) -> SystemTime {
        self.dates.now()
    }

    fn elapsed(&self) -> Duration {
        self.real.elapsed() * self.hurry
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.real.sleep(duration / self.hurry)
    }
}
