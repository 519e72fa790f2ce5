//! Accounts and rights that programs decide about.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::tests::{Lab, basic_header, challenge, name, rule};
use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};

/// As those of the recorded answers of `docker_auth`; each run leaves a line in `runs`.
const ACCOUNTS: &str = r#"read -r account password
echo "$account" >> RUNS
case "$account" in
    ext) exit 0 ;;
    red) echo '{"labels": {"team": ["red", "blue"]}}' ;;
    huge) printf '{"labels": {"team": ["%05000d"]}}' 1 ;;
    no) exit 1 ;;
    broken) exit 7 ;;
    killed) kill -9 $$ ;;
    junk) echo not-json ;;
    blank) echo ;;
    hangs) exec sleep 1000 ;;
    *) test "$password" = let-me-in && exit 0; exit 2 ;;
esac"#;

/// Grants what begins with `ok`, and fails with what begins with `err`.
const RIGHTS: &str = r#"IFS= read -r question
echo "$question" >> RUNS
case "$question" in
    *'"Name":"ok'*) exit 0 ;;
    *'"Name":"catalog'*) exit 0 ;;
    *'"Name":"err'*) exit 3 ;;
    *) exit 1 ;;
esac"#;

struct Programs {
    lab: Lab,
    directory: tempfile::TempDir,
}

impl Programs {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runs = directory.path().join("runs");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let lab = Lab::with(|settings| {
            settings.accounts.external = External::new(
                Some(shell("ext_auth", ACCOUNTS, &runs, &clock)),
                None,
                Some(shell("ext_authz", RIGHTS, &runs, &clock)),
                &clock,
            );
            settings.limits.failed_logins_per_minute = 0;
            change(settings);
        });
        Self { lab, directory }
    }

    /// What the programs have left since the last look.
    fn runs(&self) -> String {
        let path = self.directory.path().join("runs");
        let runs = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        runs
    }

    async fn token(&self, scope: &str, basic: &str) -> Result<String, TokenRefusal> {
        let query = format!("service=boathouse&scope={scope}");
        let basic = Some(basic).filter(|basic| !basic.is_empty());
        let answer = self.lab.token(&query, basic).await?;
        assert_eq!(answer.refresh_token, None);
        Ok(format!("Bearer {}", answer.token))
    }
}

fn shell(key: &'static str, script: &str, runs: &Path, clock: &Arc<dyn Clock>) -> Program {
    let script = script.replace("RUNS", &runs.display().to_string());
    let arguments = vec!["-c".to_owned(), script];
    Program::new(key, "/bin/sh".into(), arguments, Arc::clone(clock))
}

fn claims(bearer: &str) -> Value {
    let payload = bearer.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

fn actions(bearer: &str) -> Value {
    claims(bearer)["access"][0]["actions"].clone()
}

#[tokio::test]
async fn the_exit_status_of_a_program_decides_about_an_account() {
    let programs = Programs::new(|_| {});
    for login in ["ext:any", "ext:", "red:any", "ghost:let-me-in"] {
        let token = programs.token("repository:public/x:pull", login).await;
        assert_eq!(actions(&token.expect(login)), json!(["pull"]), "{login}");
    }
    for login in ["no:let-me-in", "ghost:other", "alice:let-me-in", "alice:"] {
        let refused = programs.token("repository:public/x:pull", login).await;
        let is_wrong = matches!(refused, Err(TokenRefusal::Unauthorized { .. }));
        assert!(is_wrong, "{login}: {refused:?}");
    }
    for (login, expected) in [
        (
            "broken:x",
            "ext_auth: the program ended with status 7, which is an error",
        ),
        ("killed:x", "ext_auth: a signal ended the program"),
        (
            "junk:x",
            "ext_auth: what the program wrote is not JSON like",
        ),
        (
            "blank:x",
            "ext_auth: what the program wrote is not JSON like",
        ),
        (
            "huge:x",
            "ext_auth: the labels of an account take 5013 bytes",
        ),
    ] {
        let refused = programs.token("repository:public/x:pull", login).await;
        let Err(TokenRefusal::Unavailable(reason)) = refused else {
            panic!("{login}: {refused:?}");
        };
        assert!(reason.starts_with(expected), "{login}: {reason}");
        let basic = programs.lab.may(&basic_header(login), Access::Any).await;
        assert_eq!(basic, Err(Refusal::Unavailable(reason)), "{login}");
    }
    // The list comes first, and decides alone about its accounts: the program was not asked about them.
    assert!(!programs.runs().contains("alice"));
}

#[tokio::test]
async fn a_password_of_several_words_makes_no_other_name() {
    let programs = Programs::new(|_| {});
    for account in ["ext admin", "ext\nadmin", "ext\tadmin", " ext", "ext\0"] {
        let refused = programs.token("", &format!("{account}:any")).await;
        let is_wrong = matches!(refused, Err(TokenRefusal::Unauthorized { .. }));
        assert!(is_wrong, "a name took words of the password: {account:?}");
    }
    assert_eq!(programs.runs(), "");
}

#[tokio::test]
async fn labels_of_a_program_are_in_the_token_and_rules_read_them() {
    let programs = Programs::new(|settings| {
        let mut text = RuleText {
            name: Some("${labels:team}/*".to_owned()),
            actions: vec!["*".to_owned()],
            ..RuleText::default()
        };
        text.labels.insert("team".to_owned(), "*".to_owned());
        let labelled = Rule::parse(text).unwrap();
        settings.accounts.acl.insert(0, labelled);
    });
    let token = programs
        .token("repository:blue/x:pull,push", "red:any")
        .await;
    let token = token.unwrap();
    assert_eq!(actions(&token), json!(["pull", "push"]));
    assert_eq!(
        claims(&token)["bh"]["labels"],
        json!({"team": ["red", "blue"]})
    );
    let lab = &programs.lab;
    assert_eq!(lab.may(&token, Access::Push(name("blue/x"))).await, Ok(()));
    let header = basic_header("red:any");
    assert_eq!(lab.may(&header, Access::Push(name("red/x"))).await, Ok(()));
    let token = programs
        .token("repository:blue/x:pull", "ext:any")
        .await
        .unwrap();
    assert_eq!(actions(&token), json!([]));
    assert_eq!(claims(&token)["bh"]["labels"], json!({}));
    // Labels of an account in a list are never in a token.
    let token = programs.token("", "alice:right").await.unwrap();
    assert_eq!(claims(&token)["bh"].get("labels"), None);
}

#[tokio::test]
async fn a_token_of_an_external_account_ends_with_what_let_it_in() {
    let pull = || Access::Pull(name("public/x"));
    let changes: [fn(&mut Accounts); 3] = [
        |accounts| accounts.external = External::default(),
        |accounts| {
            accounts.revoked.insert("ext".to_owned(), 1);
        },
        // An account `{}` of that name: its generation must be another.
        |accounts| {
            accounts.users.insert("ext".to_owned(), User::default());
        },
    ];
    for change in changes {
        let mut programs = Programs::new(|_| {});
        let token = programs.token("repository:public/x:pull", "ext:any").await;
        let token = token.unwrap();
        assert_eq!(programs.lab.may(&token, pull()).await, Ok(()));
        let unchanged = |_: &mut Accounts| {};
        programs.lab.reload(unchanged);
        assert_eq!(programs.lab.may(&token, pull()).await, Ok(()));
        programs.lab.reload(change);
        assert!(
            programs.lab.may(&token, pull()).await.is_err(),
            "a token outlived what let its account in"
        );
    }
}

#[tokio::test]
async fn tokens_of_external_accounts_live_no_longer_than_they_say() {
    let programs = Programs::new(|settings| settings.token.refresh_tokens = true);
    let session = || Access::Session(name("team/app"), SessionUse::Write);
    let query = "service=boathouse&offline_token=true&scope=repository:team/app:pull,push";
    let mine = programs
        .lab
        .token(query, Some("alice:right"))
        .await
        .unwrap();
    let theirs = programs.lab.token(query, Some("ext:any")).await.unwrap();
    assert!(mine.refresh_token.is_some());
    assert_eq!(theirs.refresh_token, None);
    let [mine, theirs] = [mine, theirs].map(|answer| format!("Bearer {}", answer.token));
    assert_eq!(programs.lab.may(&theirs, session()).await, Ok(()));
    let lifetime = Duration::from_secs(TokenSettings::LIFETIME_SECS + 61);
    programs.lab.clock.advance(lifetime);
    assert_eq!(programs.lab.may(&mine, session()).await, Ok(()));
    let refused = challenge(programs.lab.may(&theirs, session()).await);
    assert!(
        refused.contains("invalid_token"),
        "an upload went on with a token that nobody could revoke: {refused}"
    );
}

#[tokio::test]
async fn a_password_with_each_request_asks_once_a_minute_and_a_token_request_always() {
    let mut programs = Programs::new(|_| {});
    let pull = || Access::Pull(name("public/x"));
    let header = basic_header("ext:any");
    for _ in 0..100 {
        assert_eq!(programs.lab.may(&header, pull()).await, Ok(()));
    }
    assert_eq!(programs.runs(), "ext\n");
    for _ in 0..2 {
        programs.token("", "ext:any").await.unwrap();
        assert_eq!(
            programs.runs(),
            "ext\n",
            "a token was given for a login of before"
        );
    }
    programs.lab.clock.advance(Duration::from_secs(59));
    assert_eq!(programs.lab.may(&header, pull()).await, Ok(()));
    assert_eq!(programs.runs(), "");
    programs.lab.clock.advance(Duration::from_secs(1));
    assert_eq!(programs.lab.may(&header, pull()).await, Ok(()));
    assert_eq!(programs.runs(), "ext\n");
    // Others may be asked from now on.
    programs.lab.reload(|_| {});
    assert_eq!(programs.lab.may(&header, pull()).await, Ok(()));
    assert_eq!(programs.runs(), "ext\n");
}

#[tokio::test]
async fn a_password_holds_no_longer_than_a_token_would() {
    let programs = Programs::new(|settings| settings.token.lifetime_secs = 5);
    let header = basic_header("ext:any");
    for expected in ["ext\n", ""] {
        assert_eq!(programs.lab.may(&header, Access::Any).await, Ok(()));
        assert_eq!(programs.runs(), expected);
    }
    programs.lab.clock.advance(Duration::from_secs(5));
    assert_eq!(programs.lab.may(&header, Access::Any).await, Ok(()));
    assert_eq!(programs.runs(), "ext\n");
}

#[tokio::test]
async fn requests_for_tokens_that_came_before_a_question_share_its_answer() {
    let programs = Programs::new(|_| {});
    let tokens = (0..20).map(|_| programs.token("", "ext:any"));
    for token in futures_util::future::join_all(tokens).await {
        token.unwrap();
    }
    // The first one was asked for itself, the others came before the second question.
    let runs = programs.runs().lines().count();
    assert!(runs <= 2, "{runs} programs were started");
}

#[tokio::test]
async fn a_program_that_hangs_holds_up_no_account_of_a_list() {
    let clock = ManualClock::at_unix_secs(1_795_500_000);
    let directory = tempfile::tempdir().unwrap();
    let runs = directory.path().join("runs");
    let mut lab = Lab::new();
    let clock_of_programs: Arc<dyn Clock> = Arc::new(clock.clone());
    let ext_auth = shell("ext_auth", ACCOUNTS, &runs, &clock_of_programs);
    let external = External::new(Some(ext_auth), None, None, &clock_of_programs);
    lab.reload(|accounts| accounts.external = external);
    let lab = Arc::new(lab);
    let hanging: Vec<_> = (0..30)
        .map(|number| {
            let lab = Arc::clone(&lab);
            let login = format!("hangs:{number}");
            tokio::spawn(async move { lab.token("service=boathouse", Some(&login)).await })
        })
        .collect();
    let started = || {
        fs::read_to_string(&runs)
            .unwrap_or_default()
            .lines()
            .count()
    };
    while started() < 8 {
        tokio::task::yield_now().await;
    }
    let header = basic_header("alice:right");
    assert_eq!(lab.may(&header, Access::Any).await, Ok(()));
    assert_eq!(started(), 8, "more programs at a time than the limit");
    for hanging in hanging {
        while !hanging.is_finished() {
            clock.advance(Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let refused = hanging.await.unwrap();
        assert!(
            matches!(refused, Err(TokenRefusal::Unavailable(_))),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_program_decides_about_rights_that_no_rule_decides() {
    let programs = Programs::new(|settings| {
        settings.accounts.acl.insert(0, rule("*", "ok-denied", &[]));
    });
    for (repository, expected) in [
        ("ok", json!(["pull", "push"])),
        ("okay/x", json!(["pull", "push"])),
        ("no", json!([])),
        ("ok-denied", json!([])),
        ("public/x", json!(["pull"])),
    ] {
        for login in ["alice:right", ""] {
            let scope = format!("repository:{repository}:pull,push");
            let token = programs.token(&scope, login).await.unwrap();
            assert_eq!(actions(&token), expected, "{repository} {login}");
        }
    }
    let question = r#"{"Account":"alice","Type":"repository","Name":"ok","Service":"boathouse","IP":"192.0.2.1","Actions":["pull","push"],"Labels":null}"#;
    let runs = programs.runs();
    assert!(runs.lines().any(|line| line == question), "{runs}");
    assert!(
        !runs.contains("denied") && !runs.contains("public"),
        "{runs}"
    );
    let refused = programs.token("repository:err:pull", "alice:right").await;
    let reason = "ext_authz: the program ended with status 3, which is an error";
    assert_eq!(refused, Err(TokenRefusal::Unavailable(reason.to_owned())));
}

#[tokio::test]
async fn what_a_program_granted_holds_in_its_token_alone() {
    let mut programs = Programs::new(|_| {});
    let push = || Access::Push(name("ok"));
    let scope = "repository:ok:pull,push&scope=repository:public/x:pull";
    let token = programs.token(scope, "alice:right").await.unwrap();
    let lab = &programs.lab;
    assert_eq!(lab.may(&token, push()).await, Ok(()));
    assert!(lab.may(&token, Access::Push(name("okay"))).await.is_err());
    assert!(lab.may(&token, Access::Delete(name("ok"))).await.is_err());
    // A password carries nothing of it: the client is sent for a token, not away.
    let header = basic_header("alice:right");
    let asked = challenge(lab.may(&header, push()).await);
    assert!(asked.starts_with("Bearer ") && asked.contains("repository:ok:pull,push"));
    let denied = lab.may(&header, Access::Push(name("public/x"))).await;
    assert!(matches!(denied, Err(Refusal::Denied(_))));
    // What a rule had granted is not the program's.
    programs.lab.reload(|accounts| accounts.acl.clear());
    let lab = &programs.lab;
    assert!(
        lab.may(&token, Access::Pull(name("public/x")))
            .await
            .is_err(),
        "a token outlived the rule that granted it"
    );
    assert_eq!(lab.may(&token, push()).await, Ok(()));
    // A rule comes before what the program said.
    programs
        .lab
        .reload(|accounts| accounts.acl.push(rule("*", "ok", &["pull"])));
    assert!(programs.lab.may(&token, push()).await.is_err());
    programs.lab.reload(|accounts| {
        accounts.acl.clear();
        accounts.external = External::default();
    });
    assert!(programs.lab.may(&token, push()).await.is_err());
}

#[tokio::test]
async fn what_a_program_granted_ends_with_its_token() {
    let programs = Programs::new(|_| {});
    let token = programs
        .token("repository:ok:pull,push", "alice:right")
        .await;
    let token = token.unwrap();
    let session = || Access::Session(name("ok"), SessionUse::Write);
    assert_eq!(programs.lab.may(&token, session()).await, Ok(()));
    let lifetime = Duration::from_secs(TokenSettings::LIFETIME_SECS + 61);
    programs.lab.clock.advance(lifetime);
    assert!(programs.lab.may(&token, session()).await.is_err());
}

#[tokio::test]
async fn a_caller_sees_what_its_token_has_from_the_program() {
    let programs = Programs::new(|_| {});
    for (scope, pulls, lists) in [
        ("repository:ok:pull", true, true),
        ("repository:okay:pull", false, false),
        ("registry:catalog:*", false, true),
    ] {
        let token = programs.token(scope, "alice:right").await.unwrap();
        let (auth, origin) = (&programs.lab.auth, &programs.lab.origin);
        let caller = auth.caller(&[&token], origin).await.unwrap();
        let view = auth.viewer(&caller, origin);
        assert_eq!(view.may_pull(&name("ok")), pulls, "{scope}");
        assert_eq!(view.may_list(&name("ok")), lists, "{scope}");
        assert!(view.may_pull(&name("public/x")), "{scope}");
    }
}

#[tokio::test]
async fn explanations_name_what_they_cannot_decide() {
    let programs = Programs::new(|_| {});
    let explain = |account, repository: &str| {
        let access = Access::Pull(name(repository));
        programs
            .lab
            .auth
            .explain(account, &access, &programs.lab.origin)
    };
    let known = explain("alice", "ok");
    assert_eq!(known.standing, Standing::Known);
    assert!(known.is_left_to_program && !known.is_allowed);
    let external = explain("ghost", "public/x");
    assert_eq!(external.standing, Standing::External);
    assert!(!external.is_left_to_program && external.is_allowed);
    assert_eq!(programs.runs(), "");
    let users = BTreeMap::new();
    let rules = [rule("ghost", "team/app", &["pull"])];
    assert_eq!(mistakes(&rules, &users, true, |_| true), []);
    assert_eq!(mistakes(&rules, &users, false, |_| true).len(), 1);
}
