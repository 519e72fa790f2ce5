//! Refresh tokens at the token endpoint: who gets one, and what it opens for how long.

use std::time::Duration;

use super::tests::{Lab, basic_header, hash_of, name};
use super::*;

const DAY: Duration = Duration::from_hours(24);
const OFFLINE: &str = "service=boathouse&offline_token=true&client_id=docker&account=alice";

fn lab() -> Lab {
    Lab::with(|settings| settings.token.refresh_tokens = true)
}

/// What `docker login` gets.
async fn log_in(lab: &Lab) -> String {
    let answer = lab.token(OFFLINE, Some("alice:right")).await;
    let token = answer.expect("a token").refresh_token;
    token.expect("a refresh token")
}

/// What docker posts later.
async fn refresh(lab: &Lab, token: &str, more: &str) -> Result<TokenAnswer, TokenRefusal> {
    let form = format!(
        "grant_type=refresh_token&service=boathouse&client_id=docker&scope=repository:team/app:pull&\
         refresh_token={token}{more}"
    );
    lab.ask("", Some(&form), None).await
}

fn is_unauthorized(result: &Result<TokenAnswer, TokenRefusal>) -> bool {
    matches!(result, Err(TokenRefusal::Unauthorized { .. }))
}

#[tokio::test]
async fn a_refresh_token_opens_what_the_password_opens() {
    let lab = lab();
    let kept = log_in(&lab).await;
    let answer = refresh(&lab, &kept, "").await.expect("a token");
    assert_eq!(answer.refresh_token, None, "none was asked for");
    let bearer = format!("Bearer {}", answer.token);
    assert_eq!(
        lab.may(&bearer, Access::Pull(name("team/app"))).await,
        Ok(())
    );
    // One that is asked for again is the same: the password is needed at its end.
    let again = refresh(&lab, &kept, "&access_type=offline").await;
    assert_eq!(again.expect("a token").refresh_token, Some(kept));
}

#[tokio::test]
async fn it_is_given_only_when_asked_for_and_switched_on_and_never_to_nobody() {
    let lab = lab();
    let plain = lab.token("service=boathouse", Some("alice:right")).await;
    assert_eq!(plain.expect("a token").refresh_token, None);
    let nobody = lab
        .token("service=boathouse&offline_token=true", None)
        .await;
    assert_eq!(nobody.expect("a token").refresh_token, None);
    let kept = log_in(&lab).await;
    let off = Lab::new();
    let answer = off.token(OFFLINE, Some("alice:right")).await;
    assert_eq!(answer.expect("a token").refresh_token, None);
    assert!(is_unauthorized(&refresh(&off, &kept, "").await));
    let form =
        "grant_type=password&access_type=offline&service=boathouse&username=alice&password=right";
    let posted = lab.ask("", Some(form), None).await.expect("a token");
    assert!(posted.refresh_token.is_some());
}

#[tokio::test]
async fn it_ends_after_90_days_and_with_every_change_of_its_account() {
    let lab = lab();
    let kept = log_in(&lab).await;
    lab.clock.advance(89 * DAY + Duration::from_secs(86_399));
    assert!(refresh(&lab, &kept, "").await.is_ok());
    lab.clock.advance(Duration::from_secs(1));
    assert!(is_unauthorized(&refresh(&lab, &kept, "").await));

    let changes: [fn(&mut Accounts); 4] = [
        |accounts| {
            let user = accounts.users.entry("alice".to_owned()).or_default();
            user.password_hash = Some(hash_of("right"));
        },
        |accounts| {
            accounts.revoked.insert("alice".to_owned(), 1_795_500_000);
        },
        |accounts| {
            accounts.users.remove("alice");
        },
        |accounts| {
            let user = accounts.users.entry("alice".to_owned()).or_default();
            user.expires_unix_secs = Some(1_795_500_000);
        },
    ];
    for change in changes {
        let mut lab = self::lab();
        let kept = log_in(&lab).await;
        assert!(refresh(&lab, &kept, "").await.is_ok());
        lab.reload(change);
        let outcome = refresh(&lab, &kept, "").await;
        assert!(
            is_unauthorized(&outcome),
            "a refresh token outlived its account's generation"
        );
    }
}

#[tokio::test]
async fn it_is_for_its_service_and_account_and_no_access_token() {
    let lab = lab();
    let kept = log_in(&lab).await;
    let other = format!("grant_type=refresh_token&service=other&refresh_token={kept}");
    assert!(is_unauthorized(&lab.ask("", Some(&other), None).await));
    assert!(is_unauthorized(&refresh(&lab, &kept, "&account=bob").await));
    assert!(refresh(&lab, &kept, "&account=alice").await.is_ok());
    // Neither kind stands for the other.
    let bearer = format!("Bearer {kept}");
    assert!(lab.may(&bearer, Access::Any).await.is_err());
    let access = lab.token("service=boathouse", Some("alice:right")).await;
    let access = access.expect("a token").token;
    assert!(is_unauthorized(&refresh(&lab, &access, "").await));
}

#[tokio::test]
async fn what_was_meant_as_credentials_is_never_anonymous() {
    for lab in [lab(), Lab::new()] {
        for form in [
            "grant_type=refresh_token&service=boathouse",
            "grant_type=refresh_token&service=boathouse&refresh_token=",
            "grant_type=refresh_token&service=boathouse&refresh_token=x.y.z",
            "service=boathouse&refresh_token=x.y.z",
        ] {
            let outcome = lab.ask("", Some(form), None).await;
            assert!(is_unauthorized(&outcome), "{form}");
        }
        // Two ways at once: neither is chosen.
        let form = "grant_type=refresh_token&service=boathouse&refresh_token=x.y.z";
        let both = lab.ask("", Some(form), Some("alice:right")).await;
        assert!(matches!(both, Err(TokenRefusal::Malformed(_))));
    }
    // A token in the query is none.
    let lab = lab();
    let kept = log_in(&lab).await;
    let query = format!("grant_type=refresh_token&service=boathouse&refresh_token={kept}");
    let answer = lab.token(&query, None).await.expect("an anonymous token");
    let bearer = format!("Bearer {}", answer.token);
    let caller = lab.auth.caller(&[&bearer], &lab.origin).await;
    assert_eq!(caller.expect("a caller").account(), "");
    assert_ne!(basic_header("alice:right"), bearer);
}
