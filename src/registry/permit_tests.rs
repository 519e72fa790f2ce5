//! Who is removed while a request waits for its locks writes nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::auth::{self, Access, Accounts, Auth, Origin, Rule, RuleText, User};
use crate::clock::ManualClock;
use crate::layout::OwnedPlace;
use crate::oci::{Algorithm, Digest, Reference};
use crate::store::Step;
use crate::store::memory::MemoryStore;

fn accounts() -> Accounts {
    let rule = RuleText {
        actions: vec!["*".to_owned()],
        ..RuleText::default()
    };
    Accounts {
        users: [("ann".to_owned(), User::default())].into(),
        acl: vec![Rule::parse(rule).expect("a rule")],
        ..Accounts::default()
    }
}

#[tokio::test]
async fn who_is_removed_while_it_waits_for_a_lock_is_refused() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(1_000));
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
    let index = Arc::new(Index::in_memory(Arc::clone(&clock)));
    let registry = Registry::new(
        store,
        index,
        Settings::for_tests(),
        b"s",
        Arc::clone(&clock),
    );
    let auth_settings = auth::Settings {
        accounts: accounts(),
        ..auth::Settings::default()
    };
    let auth = Auth::new(auth_settings, clock).expect("settings");
    let origin = Origin {
        client: [127, 0, 0, 1].into(),
        is_https: false,
        host: String::new(),
    };
    let caller = auth.caller(&["Basic YW5uOng="], &origin).await;
    let caller = caller.expect("ann");
    let (app, other) = ("ann/app".parse().unwrap(), "ann/other".parse().unwrap());
    let (push, delete) = (Access::Push(other), Access::Delete(app));
    let (Access::Push(other), Access::Delete(app)) = (&push, &delete) else {
        unreachable!("made above")
    };
    let digest = Digest::of(Algorithm::Sha256, b"blob");
    let link = OwnedPlace::LayerLink(app.clone(), digest);
    let data = Step::put(
        OwnedPlace::BlobData(digest).key(),
        Bytes::from_static(b"blob"),
    );
    let steps = vec![data, super::core::put_link(&link, &digest)];
    registry.core.store.apply(steps).await.expect("stored");
    let manifest = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let reference = Reference::Digest(Digest::of(Algorithm::Sha256, manifest));
    let about = ActingRequest {
        id: "1",
        account: "ann",
        peer: ([127, 0, 0, 1], 50_000).into(),
        host: "",
        method: "PUT",
        user_agent: "",
    };
    let may_push = || Actor::request(about, auth.permit(&caller, &push, &origin));
    let may_delete = || Actor::request(about, auth.permit(&caller, &delete, &origin));
    let put = registry.manifests.put(
        app,
        &reference,
        &[],
        None,
        Bytes::from_static(manifest),
        may_push(),
    );
    put.await.expect("a manifest");

    let Reference::Digest(of_manifest) = &reference else {
        unreachable!("made above")
    };
    let (locks, task) = (&registry.core.locks, || Actor::task("a test"));
    let blob_held = locks.hold(task(), app).changing().await.expect("free");
    let blob_held = blob_held.removing(&digest).await.expect("free");
    let manifest_held = locks.hold(task(), app).changing().await.expect("free");
    let manifest_held = manifest_held.removing(of_manifest).await.expect("free");
    let (blobs, manifests) = (&registry.blobs, &registry.manifests);
    let mut mount = Box::pin(blobs.mount(other, &digest, Some(app), may_push()));
    let mut blob = Box::pin(blobs.delete(app, &digest, may_delete()));
    let mut manifest = Box::pin(manifests.delete(app, &reference, may_delete()));
    assert!(futures_util::poll!(mount.as_mut()).is_pending());
    assert!(futures_util::poll!(blob.as_mut()).is_pending());
    assert!(futures_util::poll!(manifest.as_mut()).is_pending());
    auth.reload(Accounts {
        users: [].into(),
        ..accounts()
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
    assert!(
        registry.blobs.get(app, &digest).await.is_ok(),
        "still there"
    );
    assert!(
        registry.blobs.get(other, &digest).await.is_err(),
        "not linked"
    );
}
