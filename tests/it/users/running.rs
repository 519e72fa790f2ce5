//! Changes of accounts are in force in a running server when the command has ended.

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

    // A right that is taken ends in tokens too, and one that is given counts with the next token.
    let token = server.token("ann", &second).await.unwrap();
    user(&["deny", "ann", "--pull", "team/**"]);
    assert_eq!(
        server.look(&token).await,
        401,
        "a right outlived its denial"
    );
    user(&["grant", "ann", "--pull", "team/**"]);
    assert_eq!(server.look(&token).await, 404);

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
