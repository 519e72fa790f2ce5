//! Accounts and rights that a program decides about, beside a running server.

use std::time::Duration;

use rustix::process::Signal;

use super::*;

/// `ghost` logs in, `broken` is an error, `team/app` is the program's to grant.
fn installation() -> Lab {
    Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\nusers_file: DIR/users.yml\nacl: []\n\
        ext_auth:\n  command: /bin/sh\n  args: [-c, 'read -r account password; test $account = ghost && exit 0; test $account = broken && exit 7; exit 2']\n\
        ext_authz: {command: /bin/sh, args: [-c, 'exit 0']}\n",
    )
}

#[tokio::test]
async fn an_account_of_a_program_is_revoked_and_a_reload_takes_another_program() {
    let lab = installation();
    let mut server = lab.serve().await;
    let token = server.token("ghost", "any").await.unwrap();
    assert_eq!(server.look(&token).await, 404, "let in, and nothing there");
    assert_eq!(server.token("eve", "any").await, Err(401));
    assert_eq!(server.token("broken", "a-secret-of-a-test").await, Err(500));
    server
        .says("ext_auth: the program ended with status 7")
        .await;

    done(&lab, &["user", "revoke", "ghost"]);
    assert_eq!(
        server.look(&token).await,
        401,
        "a token outlived its revocation"
    );
    let token = server.token("ghost", "any").await.unwrap();
    assert_eq!(server.look(&token).await, 404);

    let text = lab.read("boathouse.yml");
    lab.write("boathouse.yml", text.replace("= ghost", "= eve"));
    server.signal(Signal::HUP);
    // The command has caused a reload too, so the log does not tell when this one has ended.
    let mut refused = server.token("ghost", "any").await;
    for _ in 0..1_000 {
        if refused.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        refused = server.token("ghost", "any").await;
    }
    assert_eq!(refused, Err(401));
    // The same password that failed a moment ago would not be looked at again.
    assert!(server.token("eve", "other").await.is_ok());
}

#[test]
fn what_is_left_to_a_program_is_explained() {
    let lab = installation();
    let shown = explained(&lab, &["ghost", "team/app", "pull"], 1);
    for said in [
        "?    ghost may perhaps pull from team/app",
        "an external authenticator decides whether it may log in",
        "No rule matches, so `ext_authz` decides",
    ] {
        assert!(shown.contains(said), "{shown}");
    }
    let answer = explained(&lab, &["ghost", "team/app", "pull", "--json"], 1);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["standing"], "external");
    assert_eq!(
        answer["actions"],
        serde_json::json!([{"action": "pull", "needs": ["pull"], "allowed": false, "left_to_program": true}])
    );
    let Ran { code, talk, .. } = lab.run(&["check"]);
    assert_eq!(code, Some(0));
    for said in ["known to ext_auth only", "ext_authz decides what no rule"] {
        assert!(talk.contains(said), "{talk}");
    }
}
