//! A server that runs goes by a change at once, or the command says that it does not.

use super::*;

#[tokio::test]
async fn every_change_counts_in_the_running_server_when_the_command_ends() {
    let lab = installation();
    let server = lab.serve().await;
    let user = |arguments: &[&str]| {
        let arguments = [&["user"], arguments].concat();
        done(&lab, &arguments).trim_end().to_owned()
    };
    let first = user(&["add", "ann", "--push", "team/**"]);
    let token = server.token("ann", &first).await.unwrap();
    assert_eq!(server.look(&token).await, 404, "let in, and nothing there");

    let second = user(&["passwd", "ann"]);
    assert_eq!(
        server.look(&token).await,
        401,
        "a token outlived its password"
    );
    assert_eq!(server.token("ann", &first).await, Err(401));
    let token = server.token("ann", &second).await.unwrap();
    assert_eq!(server.look(&token).await, 404);

    for _ in 0..2 {
        let token = server.token("ann", &second).await.unwrap();
        assert_eq!(server.look(&token).await, 404);
        user(&["revoke", "ann"]);
        assert_eq!(
            server.look(&token).await,
            401,
            "a token outlived its revocation"
        );
    }

    let token = server.token("ann", &second).await.unwrap();
    user(&["remove", "ann"]);
    assert_eq!(
        server.look(&token).await,
        401,
        "a token outlived its account"
    );
    assert_eq!(server.token("ann", &second).await, Err(401));
    // Of the same name, and of nothing that was before.
    let third = user(&["add", "ann"]);
    assert_eq!(server.look(&token).await, 401);
    let token = server.token("ann", &third).await.unwrap();
    assert_eq!(
        server.look(&token).await,
        401,
        "rules outlived their account"
    );
}

#[tokio::test]
async fn accounts_of_the_config_are_revoked_too() {
    let lab = installation();
    let hash = bcrypt::hash("amys", 4).unwrap();
    let text = lab.read("boathouse.yml");
    let old = "$2y$04$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2";
    let text = text.replace(old, &hash).replace("[push]", "[pull]");
    lab.write("boathouse.yml", text);
    let server = lab.serve().await;
    let token = server.token("amy", "amys").await.unwrap();
    assert_eq!(server.look(&token).await, 404);
    done(&lab, &["user", "revoke", "amy"]);
    assert_eq!(server.look(&token).await, 401);
    let token = server.token("amy", "amys").await.unwrap();
    assert_eq!(server.look(&token).await, 404);
}

#[tokio::test]
async fn whether_a_server_was_told_is_said_and_shown_by_the_exit_code() {
    let lab = installation();
    let Ran { code, talk, .. } = boathouse(&lab, &["user", "add", "ann"]);
    assert!(
        code == Some(0) && talk.contains("no server is running"),
        "{talk}"
    );
    let server = lab.serve().await;
    let Ran { code, talk, .. } = boathouse(&lab, &["user", "add", "bob"]);
    assert!(
        code == Some(0) && talk.contains("the running server goes by it now"),
        "{talk}"
    );
    // One that cannot be reached is not taken for none.
    let socket = lab.socket();
    fs::rename(&socket, lab.path("elsewhere")).unwrap();
    let Ran {
        code,
        out: password,
        talk,
    } = boathouse(&lab, &["user", "add", "dora"]);
    assert!(
        code == Some(1) && talk.contains("THE RUNNING SERVER MAY STILL GO BY"),
        "{talk}"
    );
    assert!(
        talk.contains("does not listen at") && talk.contains("hint: "),
        "{talk}"
    );
    assert_eq!(
        password.len(),
        25,
        "the file has its hash, so somebody must know it"
    );
    fs::rename(lab.path("elsewhere"), &socket).unwrap();
    // Killed, it leaves its socket behind.
    drop(server);
    let Ran { code, talk, .. } = boathouse(&lab, &["user", "add", "carl"]);
    assert!(
        code == Some(0) && talk.contains("no server is running"),
        "{talk}"
    );
}

#[tokio::test]
async fn a_server_that_cannot_go_by_a_change_is_not_said_to() {
    let lab = installation();
    let guarded = lab.read("boathouse.yml");
    let (open, _) = guarded.split_once("users_file:").unwrap();
    lab.write("boathouse.yml", open);
    let _server = lab.serve().await;
    lab.write("boathouse.yml", &guarded);
    let Ran { code, talk, .. } = boathouse(&lab, &["user", "add", "ann"]);
    assert!(
        code == Some(1) && talk.contains("started open to everybody"),
        "{talk}"
    );
}
