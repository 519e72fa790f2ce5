//! What holds for callers, whatever the pieces do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::oci::RepositoryName;

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
                ..Accounts::default()
            },
            token: TokenSettings {
                signing: Some(make_token_key(&clock).expect("a key")),
                ..TokenSettings::default()
            },
            ..Settings::default()
        };
        change(&mut settings);
        let auth = Auth::new(settings.clone(), Arc::new(clock.clone())).expect("settings");
        auth.listens(vec![Listening {
            port: 5443,
            is_https: true,
            names: Box::new(|| vec!["lab.local".to_owned()]),
        }]);
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

    pub(super) async fn alice(&self) -> String {
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
        settings.token.external_host = Some("https://registry.example".parse().unwrap());
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
    let denied = lab.may(&right, Access::Push(name("other/app"))).await;
    let Err(Refusal::Denied(details)) = denied else {
        panic!("{denied:?}");
    };
    let needed = "repository:other/app:pull,push";
    assert_eq!(details.needed.as_deref(), Some(needed));
    assert!(details.decided_by.is_some());
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
    assert!(tokens::keys::SigningKey::from_pem(&pem).is_ok());
    let other = make_token_key(&lab.clock).expect("a key");
    let mixed = SigningKeyPem {
        key_pem: other.key_pem,
        ..pem
    };
    assert_eq!(
        tokens::keys::SigningKey::from_pem(&mixed).err(),
        Some(SetupError::KeyMismatch)
    );
}
