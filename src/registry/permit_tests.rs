//! Who is removed while a request waits for its locks writes nothing.

use std::sync::Arc;

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
    let settings = Settings {
        deletes_enabled: true,
        readonly: false,
        references: References::Strict,
        case_insensitive: false,
        limits: Limits {
            manifest_size_bytes: 1 << 20,
            whole_bodies_bytes: 64 * 1024 * 1024,
            mount_probes: 10,
            list_page: 10,
            catalog_page: 10,
            open_uploads: 10,
            grace_period_secs: 86_400,
        },
    };
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock)));
    let index = Arc::new(Index::in_memory(Arc::clone(&clock)));
    let registry = Registry::new(store, index, settings, b"s", Arc::clone(&clock));
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
    let steps = vec![data, super::links::put_link(&link, &digest)];
    registry.store.apply(steps).await.expect("stored");
    let manifest = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let reference = Reference::Digest(Digest::of(Algorithm::Sha256, manifest));
    let may_push = auth.permit(&caller, &push, &origin);
    let may_delete = auth.permit(&caller, &delete, &origin);
    let put = registry.put_manifest(
        app,
        &reference,
        &[],
        None,
        Bytes::from_static(manifest),
        &may_push,
    );
    put.await.expect("a manifest");

    let Reference::Digest(of_manifest) = &reference else {
        unreachable!("made above")
    };
    let held = registry.digest_locks.exclusive([&digest, of_manifest]);
    let held = held.await.expect("the locks");
    let mut mount = Box::pin(registry.mount_blob(other, &digest, Some(app), &may_push));
    let mut blob = Box::pin(registry.delete_blob(app, &digest, &may_delete));
    let mut manifest = Box::pin(registry.delete_manifest(app, &reference, &may_delete));
    assert!(futures_util::poll!(mount.as_mut()).is_pending());
    assert!(futures_util::poll!(blob.as_mut()).is_pending());
    assert!(futures_util::poll!(manifest.as_mut()).is_pending());
    auth.reload(Accounts {
        users: [].into(),
        ..accounts()
    });
    drop(held);
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
    assert!(registry.blob(app, &digest).await.is_ok(), "still there");
    assert!(registry.blob(other, &digest).await.is_err(), "not linked");
}
