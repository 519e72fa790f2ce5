//! Changes of accounts, and the running server: it goes by them at once, or the command says that it does not.

use crate::lab::Lab;

#[tokio::test]
async fn a_change_counts_at_once_or_the_command_fails() {
    // Two config files, of which commands are told the first only, so that the second can break what just the server reads.
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
         users_file: DIR/users.yml\nusers: {}\nacl: []\n",
    );
    lab.write("more.yml", "log: {level: info}\n");
    let mut serve = lab.command(&["serve"]);
    let mut server = lab
        .serve_by(serve.arg("--config").arg(lab.path("more.yml")))
        .await;
    server.takes_commands(&lab.socket()).await;
    let user =
        |arguments: &[&str], input: &str| lab.run_with(&[&["user"], arguments].concat(), input);
    let add = ["add", "ann", "--push", "team/**", "--password-stdin"];
    let added = user(&add, "a-long-password\n");
    assert!(
        added.talk.contains("the running server goes by it now"),
        "{}",
        added.talk
    );
    assert_eq!(added.fine(), "", "a password that was given is not shown");
    let token = server.token("ann", "a-long-password").await.unwrap();
    assert_eq!(server.look(&token).await, 404, "let in, and nothing there");

    user(&["revoke", "ann"], "").fine();
    assert_eq!(
        server.look(&token).await,
        401,
        "a token outlived its revocation"
    );
    let token = server.token("ann", "a-long-password").await.unwrap();
    assert_eq!(server.look(&token).await, 404);

    // What only the server reads is broken: the file of users is written, and the server does not know.
    lab.write("more.yml", "log: {level: loud}\n");
    let said = user(&["revoke", "ann"], "").failed();
    for told in [
        "RUNNING SERVER MAY STILL GO BY WHAT WAS BEFORE",
        "nothing was changed",
        "more.yml:1",
        "hint: ",
    ] {
        assert!(said.contains(told), "{told}\n{said}");
    }
    assert_eq!(server.look(&token).await, 404);

    // What the command reads itself is broken: nothing is changed.
    let [before, users] = ["boathouse.yml", "users.yml"].map(|name| lab.read(name));
    lab.write("boathouse.yml", "http: [\n");
    let said = user(&["remove", "ann"], "").failed();
    assert!(said.contains("boathouse.yml:"), "{said}");
    assert_eq!(lab.read("users.yml"), users);

    // Mended, the next command brings everything.
    lab.write("boathouse.yml", before);
    lab.write("more.yml", "log: {level: info}\n");
    let mended = user(&["add", "bob", "--password-stdin"], "another-password\n");
    mended.fine();
    assert_eq!(
        server.look(&token).await,
        401,
        "the revocation that was told late"
    );
}
