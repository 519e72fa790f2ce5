//! `boathouse token-key make`, and what is said of a pair that is missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::golden::golden;
use crate::lab::Lab;
use crate::program::{MISCONFIGURED, Ran, command, ran};

const REGISTRY: &str = "version: 0.1\n\
    storage: {filesystem: {rootdirectory: DIR/data}}\n\
    http: {addr: 'ADDRESS'}\n\
    auth:\n  token:\n    realm: https://lab.example/auth\n    service: lab\n    issuer: Lab tokens\n    \
    rootcertbundle: DIR/certs/token.crt\n";
const AUTH: &str = "token:\n  issuer: Lab tokens\n  expiration: 900\n  \
    certificate: DIR/certs/token.crt\n  key: DIR/certs/token.key\n\
    users: {'': {}}\nacl: []\n";

fn lab() -> Lab {
    let lab = Lab::empty();
    lab.configure("my registry.yml", REGISTRY);
    lab.configure("auth.yml", AUTH);
    lab
}

impl Lab {
    fn on_both(&self, line: &[&str]) -> Ran {
        let mut command = command(line, &[]);
        for file in ["my registry.yml", "auth.yml"] {
            command.arg("--config").arg(self.path(file));
        }
        Ran::of(&mut command, "")
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }
}

#[test]
fn a_missing_pair_is_one_error_with_the_command_that_makes_it() {
    let lab = lab();
    for (command, code) in [("check", 1), ("serve", MISCONFIGURED)] {
        let said = lab.shown(&lab.on_both(&[command]).failed_with(code));
        golden("token-pair-missing.txt", &said);
    }
    // The hint, as it is pasted.
    let said = lab.on_both(&["check"]).talk;
    let (_, hint) = said.split_once("make them: boathouse ").unwrap();
    let arguments = format!("exec \"$0\" {}", hint.trim());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &arguments, env!("CARGO_BIN_EXE_boathouse")]);
    let made = Ran::of(&mut shell, "");
    assert_eq!(made.code, Some(0), "{}", made.talk);
    golden("token-key-made.txt", &lab.shown(&made.talk));
    lab.on_both(&["check"]).fine();
}

#[test]
fn what_was_made_is_a_pair_for_registries() {
    let lab = lab();
    lab.on_both(&["token-key", "make"]).fine();
    assert_eq!(lab.mode("certs/token.crt"), 0o644);
    assert_eq!(lab.mode("certs/token.key"), 0o600);
    let text = lab.read("certs/token.crt");
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=Lab tokens");
    assert_eq!(certificate.subject(), certificate.issuer());
    assert!(!certificate.is_ca());
    let years = certificate.validity().not_after.timestamp()
        - certificate.validity().not_before.timestamp();
    assert_eq!(years / (365 * 86_400), 20);
}

#[test]
fn no_file_is_ever_replaced_and_half_a_pair_has_its_own_words() {
    let lab = lab();
    let make = |lab: &Lab| lab.shown(&lab.on_both(&["token-key", "make"]).failed());
    lab.on_both(&["token-key", "make"]).fine();
    let (certificate, key) = (lab.read("certs/token.crt"), lab.read("certs/token.key"));
    let mut said = make(&lab);
    for (missing, there, text) in [
        ("token.key", "token.crt", &certificate),
        ("token.crt", "token.key", &key),
    ] {
        fs::remove_file(lab.path(format!("certs/{missing}"))).unwrap();
        said.push_str(&["\n# ", missing, " is missing\n"].concat());
        said += &make(&lab);
        said += &lab.shown(&lab.on_both(&["check"]).failed());
        assert_eq!(&lab.read(&format!("certs/{there}")), text);
        assert!(!lab.path(format!("certs/{missing}")).exists());
        lab.write("certs/token.crt", &certificate);
        lab.write("certs/token.key", &key);
    }
    golden("token-pair-halves.txt", &said);
}

#[test]
fn a_certificate_that_only_the_registry_names_is_the_token_server_s() {
    let lab = lab();
    let path = lab.place("my registry.yml");
    let said = lab.shown(&ran(&["check", "--config", &path], &[], "").failed());
    golden("token-certificate-missing.txt", &said);
    let said = ran(&["token-key", "make", "--config", &path], &[], "").failed();
    assert!(said.contains("names no files for the key"), "{said}");
}

#[test]
fn docker_auth_s_file_alone_names_them_as_well() {
    let lab = Lab::empty();
    lab.configure(
        "auth.yml",
        &("server: {addr: 'ADDRESS'}\n".to_owned() + AUTH),
    );
    let path = lab.place("auth.yml");
    let said = ran(&["check", "--config", &path], &[], "").failed();
    assert!(
        said.contains("make them: boathouse token-key make --config "),
        "{said}"
    );
    ran(&["token-key", "make", "--config", &path], &[], "").fine();
    ran(&["check", "--config", &path], &[], "").fine();
}

#[test]
fn paths_can_be_given_and_an_error_leaves_nothing() {
    let lab = Lab::empty();
    let (certificate, key) = (lab.place("a/token.crt"), lab.place("b/token.key"));
    let line = [
        "token-key",
        "make",
        "--certificate",
        &certificate,
        "--key",
        &key,
    ];
    // The directory of the certificate cannot be made.
    lab.write("a", "a file");
    ran(&line, &[], "").failed();
    assert!(!lab.path("b/token.key").exists());
    fs::remove_file(lab.path("a")).unwrap();
    ran(&[&line[..], &["--issuer", "Mine"]].concat(), &[], "").fine();
    assert!(lab.path("a/token.crt").exists() && lab.path("b/token.key").exists());
    for refused in [
        &["token-key", "make", "--key", &key][..],
        &[
            "token-key",
            "make",
            "--certificate",
            &key,
            "--key",
            &key,
            "--config",
            "x",
        ],
    ] {
        assert_eq!(ran(refused, &[], "").code, Some(2));
    }
}

/// A new key while tokens of the old one go on: they end with their account, or with the old certificate.
#[tokio::test]
async fn a_key_is_rotated_and_tokens_of_the_old_one_go_on() {
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\nusers_file: DIR/users.yml\nusers: {}\nacl: []\n",
    );
    let add = [
        "user",
        "add",
        "ann",
        "--push",
        "team/**",
        "--password-stdin",
    ];
    lab.run_with(&add, "a-long-password").fine();
    let said = lab.run(&["token-key", "rotate"]).failed();
    assert!(said.contains("hint: `boathouse token-key make`"), "{said}");
    let server = lab.serve().await;
    let old = server.token("ann", "a-long-password").await.unwrap();
    server.end();
    let key = lab.read("data/boathouse/keys/token.key");
    let said = lab.run(&["token-key", "rotate"]);
    assert!(said.talk.contains("4 h after the restart"), "{}", said.talk);
    assert_ne!(lab.read("data/boathouse/keys/token.key"), key);
    assert_eq!(lab.mode("data/boathouse/keys/token.key"), 0o600);

    let server = lab.serve().await;
    assert_eq!(server.look(&old).await, 404, "let in, and nothing there");
    let new = server.token("ann", "a-long-password").await.unwrap();
    assert_eq!(server.look(&new).await, 404);
    let header = |token: &str| token.split('.').next().unwrap().to_owned();
    assert_ne!(header(&old), header(&new), "another key signs now");
    lab.run(&["user", "revoke", "ann"]).fine();
    assert_eq!(
        server.look(&old).await,
        401,
        "a token of the old key outlived its revocation"
    );
    server.end();

    let server = lab.serve().await;
    let old = server.token("ann", "a-long-password").await.unwrap();
    server.end();
    // Twice: what was kept before stays.
    lab.run(&["token-key", "rotate"]).fine();
    let kept = lab.read("data/boathouse/keys/token.previous.crt");
    assert_eq!(kept.matches("BEGIN CERTIFICATE").count(), 2);
    fs::remove_file(lab.path("data/boathouse/keys/token.previous.crt")).unwrap();
    let server = lab.serve().await;
    assert_eq!(
        server.look(&old).await,
        401,
        "its certificate was taken away"
    );
}
