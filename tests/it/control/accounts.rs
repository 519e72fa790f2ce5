//! Changes of accounts, and the running server: each is in force when the command ends, whatever else is out of order.

use crate::lab::Lab;

#[tokio::test]
async fn a_change_is_in_force_whatever_else_is_broken() {
    // Two config files, of which commands are told the first only, so that the second can break what just the server reads.
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
         users_file: DIR/users.yml\nusers: {}\nacl: []\n",
    );
    lab.write("more.yml", "log: {level: info}\n");
    let mut serve = lab.command(&["serve"]);
    let server = lab
        .serve_by(serve.arg("--config").arg(lab.path("more.yml")))
        .await;
    let user =
        |arguments: &[&str], input: &str| lab.run_with(&[&["user"], arguments].concat(), input);
    let add = ["add", "ann", "--push", "team/**", "--password-stdin"];
    let added = user(&add, "a-long-password\n");
    let said = format!(
        "in force from the next request on, in every server that reads {}",
        lab.place("users.yml")
    );
    assert!(added.talk.contains(&said), "{}", added.talk);
    assert_eq!(added.fine(), "", "a password that was given is not shown");
    let token = server.token("ann", "a-long-password").await.unwrap();
    assert_eq!(server.look(&token).await, 404, "let in, and nothing there");

    // What only the server reads is broken: it could not reload, and need not.
    lab.write("more.yml", "log: {level: loud}\n");
    user(&["revoke", "ann"], "").fine();
    assert_eq!(
        server.look(&token).await,
        401,
        "a token outlived its revocation"
    );
    let token = server.token("ann", "a-long-password").await.unwrap();
    assert_eq!(server.look(&token).await, 404);

    // What the command reads itself is broken: nothing is changed.
    let [before, users] = ["boathouse.yml", "users.yml"].map(|name| lab.read(name));
    lab.write("boathouse.yml", "http: [\n");
    let said = user(&["remove", "ann"], "").failed();
    assert!(said.contains("boathouse.yml:"), "{said}");
    assert_eq!(lab.read("users.yml"), users);
    assert_eq!(server.look(&token).await, 404);

    // The file of accounts is broken by hand: the server keeps what it has read, and commands refuse it.
    lab.write("boathouse.yml", before);
    lab.write("users.yml", "users: {bob: [\n");
    assert_eq!(server.look(&token).await, 404);
    let ready = server.get("/readyz").send().await;
    assert_eq!(ready.status, 200);
    let ready = String::from_utf8(ready.body.to_vec()).unwrap();
    assert!(
        ready.contains("degraded: the file of accounts has a mistake"),
        "{ready}"
    );
    let said = user(&["remove", "ann"], "").failed();
    assert!(said.contains("users.yml:"), "{said}");

    // The file has gone: `status` says so too.
    std::fs::remove_file(lab.path("users.yml")).unwrap();
    assert_eq!(server.look(&token).await, 404);
    let trouble = "the file of accounts is missing, and what was read last is in force";
    assert_eq!(lab.status()["degraded"], serde_json::json!([trouble]));
    lab.write("users.yml", users);
    user(&["remove", "ann"], "").fine();
    assert_eq!(
        server.look(&token).await,
        401,
        "a token outlived its account"
    );
    let log = server.log();
    let told = log.matches("the accounts that were read before stay in force");
    assert_eq!(told.count(), 2, "once for each trouble: {log}");
}

#[tokio::test]
async fn a_users_file_that_has_gone_is_not_begun_anew() {
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
         users_file: DIR/users.yml\nusers: {}\nacl: []\n",
    );
    let add = |name: &str| {
        let line = ["user", "add", name, "--push", "team/**", "--password-stdin"];
        lab.run_with(&line, "a-long-password\n")
    };
    // Where there has never been one, it is made.
    add("ann").fine();
    let server = lab.serve().await;
    let token = server.token("ann", "a-long-password").await.unwrap();
    let users = lab.read("users.yml");
    std::fs::remove_file(lab.path("users.yml")).unwrap();

    let said = add("bob").failed();
    assert!(
        said.contains("is missing, and this installation had it"),
        "{said}"
    );
    assert!(!lab.path("users.yml").exists());
    assert_eq!(server.look(&token).await, 404, "ann's account was ended");
    lab.write("users.yml", users);
    add("bob").fine();
}
