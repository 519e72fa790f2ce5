//! A caller who is removed, or loses a right, while a request waits for its locks writes nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::core::put_link;
use super::locks::Mode;
use super::*;
use crate::auth::{self, Access, Accounts, Auth, Caller, Origin, Rule, RuleText, User};
use crate::clock::ManualClock;
use crate::layout::Place;
use crate::oci::{Algorithm, Digest, Reference, RepositoryName};
use crate::store::Step;
use crate::store::bucket_like::BucketLike;

/// A registry with the account `ann`, who may do everything.
struct Lab {
    registry: Registry,
    auth: Auth,
    caller: Caller,
    origin: Origin,
}

/// `ann`, who may do everything in repositories of `name`.
fn accounts(name: &str) -> Accounts {
    let rule = RuleText {
        name: Some(name.to_owned()),
        actions: vec!["*".to_owned()],
        ..RuleText::default()
    };
    Accounts {
        users: [("ann".to_owned(), User::default())].into(),
        acl: vec![Rule::parse(rule).expect("a rule")],
        ..Accounts::default()
    }
}

impl Lab {
    async fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(1_000));
        let store = Arc::new(BucketLike::new(1));
        let index = Arc::new(Index::in_memory(Arc::clone(&clock)));
        let settings = Settings::for_tests();
        let registry = Registry::new(store, index, settings, b"s", Arc::clone(&clock));
        let auth_settings = auth::Settings {
            accounts: accounts("ann/*"),
            ..auth::Settings::default()
        };
        let auth = Auth::new(auth_settings, clock).expect("settings");
        let origin = Origin {
            client: [127, 0, 0, 1].into(),
            is_https: false,
            host: String::new(),
        };
        let caller = auth.caller(&["Basic YW5uOng="], &origin).await;
        Self {
            caller: caller.expect("ann"),
            registry,
            auth,
            origin,
        }
    }

    fn actor<'a>(&'a self, access: &'a Access) -> Actor<'a> {
        let about = ActingRequest {
            id: "1",
            account: "ann",
            peer: ([127, 0, 0, 1], 50_000).into(),
            host: "",
            method: "PUT",
            user_agent: "",
        };
        let permit = self.auth.permit(&self.caller, access, &self.origin);
        Actor::request(about, permit)
    }

    async fn store_blob(&self, name: &RepositoryName, content: &'static [u8]) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, content);
        let data = Step::put(Place::BlobData(digest).key(), Bytes::from_static(content));
        let link = put_link(&Place::LayerLink(name, digest), &digest);
        let stored = self.registry.core.store.apply(vec![data, link]);
        stored.await.expect("stored");
        digest
    }
}

#[tokio::test]
async fn who_is_removed_while_it_waits_for_a_lock_is_refused() {
    let lab = Lab::new().await;
    let (registry, app) = (&lab.registry, "ann/app".parse().unwrap());
    let other: RepositoryName = "ann/other".parse().unwrap();
    let (push, delete) = (Access::Push(other.clone()), Access::Delete(app));
    let Access::Delete(app) = &delete else {
        unreachable!("made above")
    };
    let digest = lab.store_blob(app, b"blob").await;
    let manifest = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let of_manifest = Digest::of(Algorithm::Sha256, manifest);
    let reference = Reference::Digest(of_manifest);
    let (blobs, manifests) = (&registry.blobs, &registry.manifests);
    let bytes = Bytes::from_static(manifest);
    let put = manifests.put(app, &reference, &[], None, bytes, lab.actor(&push));
    put.await.expect("a manifest");

    let (locks, task) = (&registry.core.locks, || Actor::task("a test"));
    let blob_held = locks.hold(task(), app).changing().await.expect("free");
    let blob_held = blob_held.removing(&digest).await.expect("free");
    let manifest_held = locks.hold(task(), app).changing().await.expect("free");
    let manifest_held = manifest_held.removing(&of_manifest).await.expect("free");
    let mut mount = Box::pin(blobs.mount(&other, &digest, Some(app), lab.actor(&push)));
    let mut blob = Box::pin(blobs.delete(app, &digest, lab.actor(&delete)));
    let mut manifest = Box::pin(manifests.delete(app, &reference, lab.actor(&delete)));
    assert!(futures_util::poll!(mount.as_mut()).is_pending());
    assert!(futures_util::poll!(blob.as_mut()).is_pending());
    assert!(futures_util::poll!(manifest.as_mut()).is_pending());
    lab.auth.reload(Accounts {
        users: [].into(),
        ..accounts("ann/*")
    });
    drop((blob_held, manifest_held));
    let refused = |outcome: Result<(), RegistryError>| {
        assert!(
            matches!(outcome, Err(RegistryError::Refused(_))),
            "who was removed while it waited was let on: {outcome:?}"
        );
    };
    let (mount, blob, manifest) = tokio::join!(mount, blob, manifest);
    refused(mount.map(drop));
    refused(blob);
    refused(manifest);
    assert!(blobs.get(app, &digest).await.is_ok(), "still there");
    assert!(blobs.get(&other, &digest).await.is_err(), "not linked");
}

#[tokio::test]
async fn a_blob_is_not_linked_from_a_repository_that_may_no_longer_be_pulled_from() {
    let lab = Lab::new().await;
    let (app, other): (RepositoryName, _) = ("ann/app".parse().unwrap(), "ann/other");
    let push = Access::Push(other.parse().unwrap());
    let other: RepositoryName = other.parse().unwrap();
    let digest = lab.store_blob(&app, b"blob").await;
    let blob = format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":4}}"#);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{blob},"layers":[{blob}]}}"#
    );
    let held = lab.registry.core.locks.hold(Actor::task("a test"), &other);
    let held = held.tags(Mode::Exclusive).await.expect("free");
    let reference = Reference::Tag("v1".parse().unwrap());
    let (manifests, bytes) = (&lab.registry.manifests, manifest.into());
    let mut put = Box::pin(manifests.put(&other, &reference, &[], None, bytes, lab.actor(&push)));
    while lab.registry.core.locks.longest_wait().is_none() {
        assert!(futures_util::poll!(put.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    lab.auth.reload(accounts("ann/other"));
    drop(held);
    let outcome = put.await.map(drop);
    assert!(
        matches!(&outcome, Err(RegistryError::ReferencesUnknown { named, .. }) if *named == [digest]),
        "a blob that may no longer be pulled was linked: {outcome:?}"
    );
}
