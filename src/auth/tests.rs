//! What holds for callers, whatever the pieces do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::clock::ManualClock;

const NOW: u64 = 1_795_500_000;

/// A lab: alice may everything in `team/`, anonymous may pull from `public/`.
pub(super) struct Lab {
    pub(super) clock: ManualClock,
    pub(super) settings: Settings,
    pub(super) auth: Auth,
    pub(super) origin: Origin,
}

pub(super) fn hash_of(password: &str) -> String {
    bcrypt::hash(password, 4).expect("a hash")
}

pub(super) fn rule(account: &str, name: &str, actions: &[&str]) -> Rule {
    Rule::parse(RuleText {
        account: Some(account.to_owned()),
        name: Some(name.to_owned()),
        actions: actions.iter().map(|&action| action.to_owned()).collect(),
        ..RuleText::default()
    })
    .expect("a rule")
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With other settings.
    pub(super) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let clock = ManualClock::at_unix_secs(NOW);
        let alice = User {
            password_hash: Some(hash_of("right")),
            ..User::default()
        };
        let mut settings = Settings {
            accounts: Accounts {
                users: BTreeMap::from([
                    (String::new(), User::default()),
                    ("alice".to_owned(), alice),
                ]),
                acl: vec![
                    rule("/.+/", "team/*", &["*"]),
                    rule("*", "public/*", &["pull"]),
                ],
                revoked: BTreeMap::new(),
            },
            token: TokenSettings {
                signing: Some(make_token_key(&clock).expect("a key")),
                ..TokenSettings::default()
            },
            ..Settings::default()
        };
        change(&mut settings);
        let auth = Auth::new(settings.clone(), Arc::new(clock.clone())).expect("settings");
        auth.listens(Listening {
            port: 5443,
            is_https: true,
            names: Box::new(|| vec!["lab.local".to_owned()]),
        });
        let origin = Origin {
            client: "192.0.2.1".parse().expect("an address"),
            is_https: true,
            host: "lab.local:5443".to_owned(),
        };
        Self {
            clock,
            settings,
            auth,
            origin,
        }
    }

    pub(super) fn reload(&mut self, change: impl FnOnce(&mut Accounts)) {
        change(&mut self.settings.accounts);
        self.auth.reload(self.settings.accounts.clone());
    }

    pub(super) async fn token(
        &self,
        query: &str,
        basic: Option<&str>,
    ) -> Result<TokenAnswer, TokenRefusal> {
        self.ask(query, None, basic).await
    }

    pub(super) async fn ask(
        &self,
        query: &str,
        form: Option<&str>,
        basic: Option<&str>,
    ) -> Result<TokenAnswer, TokenRefusal> {
        let basic = basic.map(basic_header);
        let request = TokenRequest {
            query,
            form,
            authorization: &basic.as_deref().into_iter().collect::<Vec<_>>(),
            origin: &self.origin,
        };
        self.auth.token(&request).await
    }

    async fn alice(&self) -> String {
        let query = "service=boathouse&scope=repository:team/app:pull,push";
        let answer = self.token(query, Some("alice:right")).await;
        format!("Bearer {}", answer.expect("a token").token)
    }

    pub(super) async fn may(&self, header: &str, access: Access) -> Result<(), Refusal> {
        let caller = self.auth.caller(&[header], &self.origin).await?;
        self.auth.authorise(&caller, &access, &self.origin)
    }
}

pub(super) fn basic_header(credentials: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
    format!("Basic {encoded}")
}

pub(super) fn name(text: &str) -> RepositoryName {
    text.parse().expect("a name")
}

pub(super) fn challenge(result: Result<(), Refusal>) -> String {
    match result {
        Err(Refusal::Unauthorized { challenge, .. }) => challenge,
        other => panic!("not a challenge: {other:?}"),
    }
}

#[tokio::test]
async fn a_token_holds_what_it_says_within_what_the_rules_say() {
    let mut lab = Lab::new();
    let token = lab.alice().await;
    assert_eq!(lab.may(&token, Access::Any).await, Ok(()));
    assert_eq!(
        lab.may(&token, Access::Push(name("team/app"))).await,
        Ok(())
    );
    assert_eq!(lab.may(&token, Access::Catalog).await, Ok(()));
    let lacking = challenge(lab.may(&token, Access::Delete(name("team/app"))).await);
    assert_eq!(
        lacking,
        "Bearer realm=\"https://lab.local:5443/token\",service=\"boathouse\",\
         scope=\"repository:team/app:delete\",error=\"insufficient_scope\""
    );
    lab.reload(|accounts| accounts.acl.clear());
    assert!(
        lab.may(&token, Access::Pull(name("team/app")))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_service_that_a_token_was_asked_for_chooses_no_rules() {
    let of_service = |service: &str, actions: &[&str]| {
        Rule::parse(RuleText {
            service: Some(service.to_owned()),
            actions: actions.iter().map(|&action| action.to_owned()).collect(),
            ..RuleText::default()
        })
        .expect("a rule")
    };
    let app = || Access::Pull(name("team/app"));
    for service in ["", "lab.local:5443"] {
        let query = format!("service={service}&scope=repository:team/app:pull");
        let mut lab = Lab::new();
        // A door that is shut to this service only is shut here, however a token was asked for.
        lab.reload(|accounts| accounts.acl.insert(0, of_service("boathouse", &[])));
        let answer = lab.token(&query, Some("alice:right")).await;
        let token = format!("Bearer {}", answer.expect("a token").token);
        assert!(lab.may(&token, app()).await.is_err(), "{service:?}");
        let caller = lab.auth.caller(&[&token], &lab.origin).await;
        let caller = caller.expect("a caller");
        let viewer = lab.auth.viewer(&caller, &lab.origin);
        assert!(!viewer.may_pull(&name("team/app")));
        // What is granted for another service is not granted here, though the token says so.
        lab.reload(|accounts| accounts.acl = vec![of_service(service, &["*"])]);
        let answer = lab.token(&query, Some("alice:right")).await;
        let token = format!("Bearer {}", answer.expect("a token").token);
        assert!(lab.may(&token, app()).await.is_err(), "{service:?}");
    }
}

#[tokio::test]
async fn a_token_for_another_service_opens_nothing_whatever_host_says() {
    let mut lab = Lab::with(|settings| {
        settings.token.external_host = Some("https://registry.example".to_owned());
    });
    let judged = async |lab: &Lab, query: &str, access: Access| {
        let answer = lab.token(query, Some("alice:right")).await;
        let token = format!("Bearer {}", answer.expect("a token").token);
        lab.may(&token, access).await
    };
    let app = || Access::Push(name("team/app"));
    for (service, expected) in [
        ("boathouse", true),
        ("lab.local:5443", true),
        ("registry.example", true),
        ("127.0.0.1:5443", true),
        ("lab.local:5000", false),
        ("other.lab:5443", false),
        ("Boathouse", false),
        ("", false),
    ] {
        // Whatever a client, or a proxy before it, calls this registry.
        lab.origin.host = service.to_owned();
        let query = format!("service={service}&scope=repository:team/app:pull,push");
        let outcome = judged(&lab, &query, app()).await;
        assert_eq!(
            outcome.is_ok(),
            expected,
            "a token for another service was let in: {service:?}"
        );
        let ping = judged(&lab, &query, Access::Any).await;
        assert_eq!(ping.is_ok(), expected, "{service:?}");
    }
    // Without a service and without a scope a token says who is calling, which is all that `/v2/` asks.
    for query in ["", "service="] {
        assert_eq!(judged(&lab, query, Access::Any).await, Ok(()));
        for access in [Access::Catalog, app(), Access::Pull(name("public/x"))] {
            assert!(judged(&lab, query, access).await.is_err(), "{query:?}");
        }
    }
}

#[tokio::test]
async fn a_token_ends_with_the_password_it_was_given_for() {
    let mut lab = Lab::new();
    let token = lab.alice().await;
    lab.reload(|accounts| {
        accounts
            .users
            .entry("alice".to_owned())
            .or_default()
            .password_hash = Some(hash_of("new"));
    });
    let outcome = lab.may(&token, Access::Pull(name("team/app"))).await;
    assert!(outcome.is_err(), "a token outlived its password");
    assert!(challenge(outcome).ends_with("error=\"invalid_token\""));
}

#[tokio::test]
async fn a_token_ends_with_revocation_removal_and_expiry_of_its_account() {
    let changes: [fn(&mut Accounts); 3] = [
        |accounts| {
            accounts.revoked.insert("alice".to_owned(), NOW);
        },
        |accounts| {
            accounts.users.remove("alice");
        },
        |accounts| {
            let user = accounts.users.entry("alice".to_owned()).or_default();
            user.expires_unix_secs = Some(NOW);
        },
    ];
    for change in changes {
        let mut lab = Lab::new();
        let token = lab.alice().await;
        lab.reload(change);
        assert!(lab.may(&token, Access::Any).await.is_err());
    }
}

#[tokio::test]
async fn an_expired_token_goes_on_for_its_upload_sessions_only() {
    let lab = Lab::new();
    let token = lab.alice().await;
    let lifetime = lab.settings.token.lifetime_secs;
    lab.clock.advance(Duration::from_secs(lifetime + 60));
    assert_eq!(lab.may(&token, Access::Any).await, Ok(()), "leeway");
    lab.clock.advance(Duration::from_secs(1));
    let session = || Access::Session(name("team/app"), SessionUse::Write);
    let expired = challenge(lab.may(&token, Access::Push(name("team/app"))).await);
    assert!(expired.contains("scope=\"repository:team/app:pull,push\",error=\"invalid_token\""));
    assert_eq!(lab.may(&token, session()).await, Ok(()));
    let caller = lab
        .auth
        .caller(&[&token], &lab.origin)
        .await
        .expect("a caller");
    assert_eq!(caller.expired_secs(), 61);
    lab.clock.advance(Duration::from_secs(24 * 60 * 60 - 61));
    assert_eq!(lab.may(&token, session()).await, Ok(()));
    lab.clock.advance(Duration::from_secs(1));
    assert!(lab.may(&token, session()).await.is_err());
}

#[tokio::test]
async fn anonymous_callers_need_a_token_and_see_no_catalog() {
    let lab = Lab::new();
    let caller = lab.auth.caller(&[], &lab.origin).await.expect("a caller");
    let public = Access::Pull(name("public/app"));
    let asked = challenge(lab.auth.authorise(&caller, &Access::Any, &lab.origin));
    assert!(!asked.contains("scope=") && !asked.contains("error="));
    assert!(lab.auth.authorise(&caller, &public, &lab.origin).is_err());
    let answer = lab
        .token("service=boathouse&scope=repository:public/app:pull", None)
        .await
        .expect("a token");
    let token = format!("Bearer {}", answer.token);
    assert_eq!(lab.may(&token, public).await, Ok(()));
    assert!(challenge(lab.may(&token, Access::Catalog).await).contains("registry:catalog:*"));
}

#[tokio::test]
async fn basic_is_judged_by_the_rules() {
    let lab = Lab::new();
    let right = basic_header("alice:right");
    assert_eq!(
        lab.may(&right, Access::Delete(name("team/app"))).await,
        Ok(())
    );
    assert_eq!(
        lab.may(&right, Access::Push(name("other/app"))).await,
        Err(Refusal::Denied)
    );
    let wrong = basic_header("alice:wrong");
    assert!(!challenge(lab.may(&wrong, Access::Any).await).contains("error="));
    let caller = lab
        .auth
        .caller(&[&right], &lab.origin)
        .await
        .expect("a caller");
    let viewer = lab.auth.viewer(&caller, &lab.origin);
    assert!(viewer.may_pull(&name("team/x")) && !viewer.may_list(&name("other/x")));
    let twice = lab.auth.caller(&[&right, &right], &lab.origin).await;
    assert!(matches!(twice, Err(Refusal::Malformed(_))));
}

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
    let mut lab = Lab::new();
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
        let before = lab.auth.passwords.bcrypt_work.load(Ordering::Relaxed);
        let credentials = format!("{account}:wrong");
        assert!(lab.token("", Some(&credentials)).await.is_err());
        let work = lab.auth.passwords.bcrypt_work.load(Ordering::Relaxed) - before;
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
    assert_eq!(
        outcome,
        Err(TokenRefusal::TooManyFailures {
            retry_after_secs: 1
        })
    );
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

#[tokio::test]
async fn open_mode_and_foreign_tokens_only() {
    let lab = Lab::new();
    let clock = || Arc::new(lab.clock.clone());
    let mut settings = lab.settings.clone();
    settings.authentication = Authentication::Open;
    settings.token.signing = None;
    let open = Auth::new(settings, clock()).expect("settings");
    let caller = open
        .caller(&["Bearer junk"], &lab.origin)
        .await
        .expect("a caller");
    let access = Access::Delete(name("any/thing"));
    assert_eq!(open.authorise(&caller, &access, &lab.origin), Ok(()));
    let request = TokenRequest {
        query: "",
        form: None,
        authorization: &[],
        origin: &lab.origin,
    };
    assert!(open.token(&request).await.is_ok());

    // Another registry that trusts the lab's certificate: a token of the lab's speaks for itself there.
    let mut settings = lab.settings.clone();
    settings.accounts.users.clear();
    let signing = settings.token.signing.take().expect("a key");
    settings.token.trusted_certificates_pem = vec![signing.certificate_pem];
    let other = Auth::new(settings, clock()).expect("settings");
    assert_eq!(other.token(&request).await, Err(TokenRefusal::NoIssuer));
    let token = lab.alice().await;
    let caller = other
        .caller(&[&token], &lab.origin)
        .await
        .expect("a caller");
    let judged = |access| other.authorise(&caller, &access, &lab.origin);
    assert_eq!(judged(Access::Push(name("team/app"))), Ok(()));
    assert!(judged(Access::Catalog).is_err());
}

#[tokio::test]
async fn a_host_that_would_break_the_challenge_is_refused() {
    let mut lab = Lab::new();
    for host in ["", "a\"b", "a b", "a/b"] {
        host.clone_into(&mut lab.origin.host);
        let caller = lab.auth.caller(&[], &lab.origin).await.expect("a caller");
        let outcome = lab.auth.authorise(&caller, &Access::Any, &lab.origin);
        assert!(matches!(outcome, Err(Refusal::Malformed(_))), "{host}");
    }
}

#[test]
fn a_made_key_is_a_pair_with_full_coordinates() {
    let lab = Lab::new();
    let pem = make_token_key(&lab.clock).expect("a key");
    assert!(signing::SigningKey::from_pem(&pem).is_ok());
    let other = make_token_key(&lab.clock).expect("a key");
    let mixed = SigningKeyPem {
        key_pem: other.key_pem,
        ..pem
    };
    assert_eq!(
        signing::SigningKey::from_pem(&mixed).err(),
        Some(SetupError::KeyMismatch)
    );
}
