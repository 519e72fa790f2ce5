//! What passwords cost, and what wrong ones do.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::tests::{Lab, basic_header, hash_of};
use super::*;

#[tokio::test]
async fn right_credentials_cost_one_bcrypt_and_a_token_one_signature_check() {
    let lab = Lab::new();
    let token = lab.alice().await;
    for _ in 0..5 {
        lab.alice().await;
        assert_eq!(lab.may(&token, Access::Any).await, Ok(()));
    }
    assert_eq!(lab.auth.compared_logins(), 1);
    assert_eq!(lab.auth.verifier.checks.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_same_login_sent_many_times_at_once_costs_one_bcrypt() {
    let lab = Lab::new();
    // As Geranos begins a push: eight workers, each asking for a token of its own.
    futures_util::future::join_all((0..8).map(|_| lab.alice())).await;
    assert_eq!(lab.auth.compared_logins(), 1);
    let wrong = (0..8).map(|_| lab.token("", Some("alice:wrong")));
    let outcomes = futures_util::future::join_all(wrong).await;
    let refused = |outcome: &_| matches!(outcome, Err(TokenRefusal::Unauthorized { .. }));
    assert!(outcomes.iter().all(refused), "{outcomes:?}");
    assert_eq!(lab.auth.compared_logins(), 2);
}

/// bcrypt takes a password for endless repetitions of itself with a NUL behind it.
#[tokio::test]
async fn a_password_with_a_nul_is_wrong() {
    let lab = Lab::new();
    for password in ["right\0right", "right\0", "right\0right\0right"] {
        let credentials = format!("alice:{password}");
        let outcome = lab.token("", Some(&credentials)).await;
        assert!(outcome.is_err(), "{password:?} passes for `right`");
        let header = basic_header(&credentials);
        assert!(lab.may(&header, Access::Any).await.is_err());
    }
    assert!(lab.token("", Some("alice:right")).await.is_ok());
}

#[tokio::test]
async fn a_password_that_changes_while_it_is_compared_opens_nothing() {
    // So dear that the comparison does not end within the poll that begins it.
    let mut lab = Lab::with(|settings| {
        let alice = settings.accounts.users.get_mut("alice").expect("alice");
        alice.password_hash = Some(bcrypt::hash("right", 12).expect("a hash"));
    });
    lab.settings.accounts.users.insert(
        "alice".to_owned(),
        User {
            password_hash: Some(hash_of("another")),
            ..User::default()
        },
    );
    let login = basic_header("alice:right");
    let authorization = [login.as_str()];
    let request = TokenRequest {
        query: "service=boathouse",
        form: None,
        authorization: &authorization,
        origin: &lab.origin,
    };
    // Polled once, each waits for its comparison.
    let mut token = Box::pin(lab.auth.token(&request));
    let mut caller = Box::pin(lab.auth.caller(&authorization, &lab.origin));
    assert!(futures_util::poll!(token.as_mut()).is_pending());
    assert!(futures_util::poll!(caller.as_mut()).is_pending());
    lab.auth.reload(lab.settings.accounts.clone());
    assert!(matches!(
        token.await,
        Err(TokenRefusal::Unauthorized { .. })
    ));
    let caller = caller.await.expect("a caller");
    let judged = lab.auth.authorise(&caller, &Access::Any, &lab.origin);
    assert!(matches!(judged, Err(Refusal::Unauthorized { .. })));
}

#[tokio::test]
async fn an_unknown_account_costs_what_a_wrong_password_costs() {
    let lab = Lab::new();
    for credentials in ["alice:wrong", "nobody:wrong"] {
        let before = lab.auth.compared_logins();
        assert!(lab.token("", Some(credentials)).await.is_err());
        // The same again, as a client does that repeats its POST as GET, is neither compared nor counted.
        assert!(lab.token("", Some(credentials)).await.is_err());
        let runs = lab.auth.compared_logins() - before;
        assert_eq!(runs, 1, "{credentials}");
    }
}

#[tokio::test]
async fn every_wrong_password_costs_what_the_dearest_account_costs() {
    let mut lab = Lab::new();
    lab.reload(|accounts| {
        for (name, cost) in [("middle", 6), ("dear", 8)] {
            let user = accounts.users.entry(name.to_owned()).or_default();
            user.password_hash = Some(bcrypt::hash("right", cost).expect("a hash"));
        }
        let broken = accounts.users.entry("broken".to_owned()).or_default();
        broken.password_hash = Some("no hash".to_owned());
    });
    for account in ["alice", "middle", "dear", "broken", "nobody"] {
        let before = lab.auth.bcrypt_work.load(Ordering::Relaxed);
        let credentials = format!("{account}:wrong");
        assert!(lab.token("", Some(&credentials)).await.is_err());
        let work = lab.auth.bcrypt_work.load(Ordering::Relaxed) - before;
        assert_eq!(work, 1 << 8, "{account}");
    }
}

#[tokio::test]
async fn failed_logins_are_slowed_and_known_good_ones_are_not() {
    let lab = Lab::new();
    lab.alice().await;
    for number in 0..10 {
        let outcome = lab.token("", Some(&format!("alice:wrong-{number}"))).await;
        assert!(matches!(outcome, Err(TokenRefusal::Unauthorized { .. })));
    }
    let outcome = lab.token("", Some("alice:wrong-again")).await;
    let Err(TokenRefusal::TooManyFailures {
        retry_after_secs,
        details,
    }) = outcome
    else {
        panic!("not slowed");
    };
    assert_eq!(retry_after_secs, 1);
    assert_eq!(details.claimed_account.as_deref(), Some("alice"));
    lab.alice().await;
}

#[tokio::test]
async fn guesses_sent_at_once_are_slowed_like_guesses_sent_one_by_one() {
    let mut lab = Lab::new();
    // So that the queue is not what stops them.
    lab.settings.limits.bcrypt_waiting_per_client_max = 1_000;
    let auth = Auth::new(lab.settings.clone(), Arc::new(lab.clock.clone()));
    lab.auth = auth.expect("settings");
    let guesses: Vec<String> = (0..300).map(|n| format!("alice:wrong-{n}")).collect();
    let all = guesses.iter().map(|guess| lab.token("", Some(guess)));
    let outcomes = futures_util::future::join_all(all).await;
    let later = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(TokenRefusal::TooManyFailures { .. })));
    let runs = lab.auth.compared_logins();
    // Ten, and what was under way beside the tenth.
    assert!((10..=11).contains(&runs), "{runs} were compared");
    assert_eq!(later.count(), 300 - runs);
}

#[tokio::test]
async fn one_address_cannot_fill_the_queue_of_logins() {
    let lab = Lab::new();
    let guesses: Vec<String> = (0..700).map(|n| format!("user-{n}:wrong")).collect();
    let all = guesses.iter().map(|guess| lab.token("", Some(guess)));
    let outcomes = futures_util::future::join_all(all).await;
    let turned_away = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(TokenRefusal::TooManyFailures { .. })));
    // The limit of failures of one address alone would turn away 600.
    assert!(turned_away.count() >= 660);
}

#[tokio::test]
async fn a_first_login_is_not_behind_the_guesses_of_another_address() {
    let lab = Lab::new();
    let flood = (0..32).map(|n| {
        let guess = format!("user-{n}:wrong");
        let lab = &lab;
        async move {
            let _ = lab.token("", Some(&guess)).await;
            lab.auth.compared_logins()
        }
    });
    let elsewhere = Origin {
        client: "192.0.2.200".parse().unwrap(),
        ..lab.origin.clone()
    };
    let login = async {
        // After all of them.
        tokio::task::yield_now().await;
        let header = basic_header("alice:right");
        let caller = lab.auth.caller(&[&header], &elsewhere).await;
        assert_eq!(caller.expect("a caller").account(), "alice");
        lab.auth.compared_logins()
    };
    let (of_flood, compared) = tokio::join!(futures_util::future::join_all(flood), login);
    // All 32 were there before it. How many are compared beside it while its own takes its time is the machine's affair.
    assert!(
        compared <= 16,
        "{compared} logins were begun before its own had ended"
    );
    assert!(of_flood.into_iter().max() >= Some(30));
}
