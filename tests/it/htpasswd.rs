//! `auth.htpasswd`: the users of distribution's other file, in a running registry.

use std::collections::BTreeMap;
use std::fs;

use boathouse::auth::Secret;
use boathouse::config;
use http::StatusCode;

use crate::lab::Lab;
use crate::support::{Options, TestRegistry};

/// A hash of the least cost, as `htpasswd -B` writes it.
fn entry(name: &str, password: &str) -> String {
    let hash = bcrypt::hash(password, 4).unwrap();
    format!("{name}:{}\n", hash.replacen("$2b$", "$2y$", 1))
}

/// A directory with a config that names `DIR/htpasswd`, which holds `entries`.
fn configured(more: &str, entries: &str) -> Lab {
    let lab = Lab::configured(&format!(
        "http: {{addr: '127.0.0.1:0'}}\nstorage: {{filesystem: {{rootdirectory: DIR/data}}}}\n\
         auth:\n  htpasswd:\n    realm: the lab\n    path: DIR/htpasswd\n{more}"
    ));
    lab.write("htpasswd", entries);
    lab
}

fn start(lab: &Lab) -> TestRegistry {
    let files = [lab.path("boathouse.yml")];
    let loaded = config::load(&files, &BTreeMap::new()).unwrap_or_else(|errors| panic!("{errors}"));
    TestRegistry::start(Options {
        auth: loaded.config.auth_settings(Secret([7; 32]), None),
        ..Options::default()
    })
}

async fn status(registry: &TestRegistry, path: &str, login: Option<(&str, &str)>) -> u16 {
    let call = registry.get(path);
    let call = match login {
        Some((name, password)) => call.basic(name, password),
        None => call,
    };
    call.send().await.status.as_u16()
}

#[tokio::test]
async fn without_rules_whoever_is_in_the_file_may_do_everything() {
    let comment = "# the lab\n\n";
    let lab = configured("", &format!("{comment}{}", entry("ann", "right")));
    let registry = start(&lab);
    let answer = registry.get("/v2/").send().await;
    let answer = answer.expect(StatusCode::UNAUTHORIZED);
    assert_eq!(answer.header("www-authenticate"), "Basic realm=\"the lab\"");
    assert_eq!(status(&registry, "/v2/", Some(("ann", "wrong"))).await, 401);
    assert_eq!(status(&registry, "/v2/", Some(("eve", "right"))).await, 401);
    assert_eq!(status(&registry, "/v2/_catalog", None).await, 401);
    assert_eq!(status(&registry, "/token", None).await, 404, "no issuer");
    let login = Some(("ann", "right"));
    assert_eq!(status(&registry, "/v2/", login).await, 200);
    assert_eq!(status(&registry, "/v2/_catalog", login).await, 200);
    let begin = registry.post("/v2/team/app/blobs/uploads/");
    begin
        .basic("ann", "right")
        .send()
        .await
        .expect(StatusCode::ACCEPTED);
    let delete = registry.delete("/v2/team/app/manifests/v1");
    let answer = delete.basic("ann", "right").send().await;
    answer.expect(StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn with_rules_the_rules_govern() {
    let rules = "acl:\n- match: {account: ann, name: 'team/*'}\n  actions: [pull]\n";
    let entries = entry("ann", "right") + &entry("bob", "right");
    let lab = configured(rules, &entries);
    let registry = start(&lab);
    let tags = "/v2/team/app/tags/list";
    assert_eq!(status(&registry, tags, Some(("ann", "right"))).await, 404);
    assert_eq!(status(&registry, tags, Some(("bob", "right"))).await, 403);
    assert_eq!(status(&registry, "/v2/", Some(("bob", "right"))).await, 200);
    let begin = registry.post("/v2/team/app/blobs/uploads/");
    begin
        .basic("ann", "right")
        .send()
        .await
        .expect_error(403, "DENIED");
}

#[tokio::test]
async fn the_file_is_read_again_when_it_changes() {
    let lab = configured("", &entry("ann", "one"));
    let file = lab.path("htpasswd");
    let registry = start(&lab);
    let (one, two) = (Some(("ann", "one")), Some(("ann", "two")));
    assert_eq!(status(&registry, "/v2/", one).await, 200);
    // Of the same length, written in place: size and inode stay.
    fs::write(&file, entry("ann", "two")).unwrap();
    assert_eq!(status(&registry, "/v2/", one).await, 401);
    assert_eq!(status(&registry, "/v2/", two).await, 200);
    // Put in its place by a rename.
    let new = lab.path("new");
    fs::write(&new, entry("bob", "one")).unwrap();
    fs::rename(&new, &file).unwrap();
    assert_eq!(status(&registry, "/v2/", two).await, 401);
    assert_eq!(status(&registry, "/v2/", Some(("bob", "one"))).await, 200);
    // A file that is no such file changes nothing, and one that has gone lets nobody in.
    fs::write(&file, "half an ent").unwrap();
    assert_eq!(status(&registry, "/v2/", Some(("bob", "one"))).await, 200);
    fs::remove_file(&file).unwrap();
    assert_eq!(status(&registry, "/v2/", Some(("bob", "one"))).await, 401);
    fs::write(&file, entry("bob", "one")).unwrap();
    assert_eq!(status(&registry, "/v2/", Some(("bob", "one"))).await, 200);
}

/// Whether `check` succeeds, and what it prints.
fn check(lab: &Lab) -> (bool, String) {
    let ran = lab.run(&["check", "--verbose"]);
    (ran.code == Some(0), ran.out + &ran.talk)
}

/// A read that fails for lack of descriptors, say, must be tried again, although nothing about the file changes any more.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_read_that_failed_once_keeps_no_removed_user() {
    use crate::client::{Raw, basic, request};
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
         auth: {htpasswd: {realm: lab, path: DIR/htpasswd}}\n",
    );
    lab.write("htpasswd", entry("ann", "right"));
    let server = lab.serve().await;
    let authorization = format!("authorization: {}", basic("ann", "right"));
    let ask = request("GET /v2/", &[&authorization], b"");
    let mut connection = Raw::to(server.address()).await;
    assert_eq!(connection.ask(&ask, false).await.status, 200);

    let before = server.limit_descriptors(Some(3));
    lab.write("htpasswd", entry("bob", "right"));
    let unread = connection.ask(&ask, false).await.status;
    assert_eq!(unread, 200, "the file could be read");
    server.limit_descriptors(before);
    let status = connection.ask(&ask, false).await.status;
    assert_eq!(status, 401, "a removed user may log in for ever");
}

#[tokio::test]
async fn entries_that_let_nobody_in_are_told_with_their_lines() {
    let entries = [
        entry("ann", "right").as_str(),
        "md5:$apr1$abcdefgh$0123456789abcdefghijkl\n",
        "plain:\n",
        ":$2y$04$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2\n",
    ]
    .concat();
    let lab = configured("", &entries);
    let (is_fine, shown) = check(&lab);
    assert!(is_fine, "{shown}");
    for line in [
        "htpasswd:2: not a bcrypt",
        "htpasswd:3: not a bcrypt",
        "htpasswd:4: an entry without",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(shown.contains("auth.htpasswd: 3 users"), "{shown}");
    assert!(!shown.contains("apr1") && !shown.contains("$2y"), "{shown}");
    let registry = start(&lab);
    for login in [("md5", "x"), ("plain", ""), ("", "x")] {
        assert_eq!(
            status(&registry, "/v2/", Some(login)).await,
            401,
            "{login:?}"
        );
    }

    for (bad, told) in [
        ("ann", "htpasswd:1: not an entry"),
        (
            "ann:$2y$17$abcdefghijklmnopqrstuu5nTzPGVsNTFuMqkPVtDFQi7HyyPrHx2",
            "htpasswd:1: bcrypt cost 17 exceeds the maximum 16",
        ),
    ] {
        let (is_fine, shown) = check(&configured("", bad));
        assert!(!is_fine && shown.contains(told), "{shown}");
    }
}

#[test]
fn distribution_s_variables_choose_it() {
    let lab = configured("", &entry("ann", "right"));
    let text = "storage: {filesystem: {rootdirectory: DIR/data}}\n";
    lab.configure("boathouse.yml", text);
    let htpasswd = lab.place("htpasswd");
    let variables = [
        ("REGISTRY_AUTH", "htpasswd"),
        ("REGISTRY_AUTH_HTPASSWD_REALM", "lab"),
        ("REGISTRY_AUTH_HTPASSWD_PATH", htpasswd.as_str()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loaded = config::load(&[lab.path("boathouse.yml")], &BTreeMap::from(variables)).unwrap();
    assert!(loaded.config.auth.required);
    assert!(loaded.config.auth.users().contains_key("ann"));
}
