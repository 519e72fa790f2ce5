//! Users that are kept elsewhere and change by themselves, and the scheme that asks for their passwords.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::tests::{Lab, basic_header, challenge, hash_of, name};
use super::*;

/// Users that a test changes.
#[derive(Debug, Default)]
struct Listed(ArcSwap<Accounts>);

impl Listed {
    fn set(&self, users: &[(&str, &str)]) {
        let user = |&(name, password): &(&str, &str)| {
            let user = User {
                password_hash: Some(hash_of(password)),
                ..User::default()
            };
            (name.to_owned(), user)
        };
        self.0.store(Arc::new(Accounts {
            users: users.iter().map(user).collect(),
            ..Accounts::default()
        }));
    }
}

#[async_trait]
impl AccountSource for Listed {
    async fn now(&self) -> Arc<Accounts> {
        self.known()
    }

    fn known(&self) -> Arc<Accounts> {
        self.0.load_full()
    }

    fn trouble(&self) -> Option<&'static str> {
        None
    }
}

#[tokio::test]
async fn users_that_are_kept_elsewhere_are_those_of_now() {
    let listed = Arc::new(Listed::default());
    listed.set(&[("carl", "one"), ("alice", "theirs")]);
    let shared = Arc::clone(&listed);
    let mut lab = Lab::with(move |settings| settings.accounts.live = Some(shared));
    let pull = || Access::Pull(name("public/x"));
    assert_eq!(lab.may(&basic_header("carl:one"), pull()).await, Ok(()));
    // Whoever is in both is the one of the configuration.
    assert_eq!(lab.may(&basic_header("alice:right"), pull()).await, Ok(()));
    assert!(
        lab.may(&basic_header("alice:theirs"), pull())
            .await
            .is_err()
    );
    let token = lab.token(
        "service=boathouse&scope=repository:public/x:pull",
        Some("carl:one"),
    );
    let token = format!("Bearer {}", token.await.expect("a token").token);
    assert_eq!(lab.may(&token, pull()).await, Ok(()));

    listed.set(&[("carl", "two")]);
    assert!(lab.may(&basic_header("carl:one"), pull()).await.is_err());
    assert!(lab.may(&token, pull()).await.is_err(), "its token ended");
    assert_eq!(lab.may(&basic_header("carl:two"), pull()).await, Ok(()));
    // A reload keeps them, and they keep what a reload brought.
    lab.reload(|accounts| accounts.acl.clear());
    assert!(
        lab.may(&basic_header("carl:two"), Access::Any)
            .await
            .is_ok()
    );
    assert!(lab.may(&basic_header("carl:two"), pull()).await.is_err());
    listed.set(&[("carl", "three")]);
    assert!(
        lab.may(&basic_header("carl:three"), Access::Any)
            .await
            .is_ok()
    );
    assert!(lab.may(&basic_header("carl:three"), pull()).await.is_err());
    listed.set(&[]);
    assert!(
        lab.may(&basic_header("carl:three"), Access::Any)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_basic_scheme_asks_for_the_password() {
    let lab = Lab::with(|settings| {
        settings.scheme = Scheme::Basic {
            realm: "the \"lab\"".to_owned(),
        };
    });
    let pull = Access::Pull(name("public/x"));
    let outcome = lab.may("Bearer x", pull).await;
    assert_eq!(challenge(outcome), "Basic realm=\"the \\\"lab\\\"\"");
}
