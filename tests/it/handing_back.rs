//! `check --data`, `check --hand-back` and `hand-back`, on data with everything that can be wrong in them.
//!
//! What the golden texts say of the registries 2.8 and 3.1 was seen with docker-registry 2.8.2 and distribution 3.1.2 on such data.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Command;

use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;
use serde_json::Value;

use crate::client::Client;
use crate::data::tree;
use crate::golden::golden;
use crate::lab::Lab;
use crate::support::{OCI_INDEX, OCI_MANIFEST, image_manifest};

const V2: &str = "data/docker/registry/v2";
const LAYER: &[u8] = b"layer";

fn digest(bytes: impl AsRef<[u8]>) -> Digest {
    Digest::of(Algorithm::Sha256, bytes.as_ref())
}

fn path_of(digest: &Digest) -> String {
    format!("{}/{}", digest.algorithm(), digest.hex())
}

impl Lab {
    /// Data whose directories all may enter, whatever the umask of the tests.
    fn on_old_data() -> Self {
        let lab = Self::open();
        fs::create_dir_all(lab.path(V2)).unwrap();
        lab
    }

    fn data_of(digest: &Digest) -> String {
        let (algorithm, hex) = (digest.algorithm(), digest.hex());
        format!("{V2}/blobs/{algorithm}/{}/{hex}/data", &hex[..2])
    }

    fn write_blob(&self, bytes: impl AsRef<[u8]>) -> Digest {
        let digest = digest(&bytes);
        self.write(&Self::data_of(&digest), bytes);
        digest
    }

    fn write_link(&self, name: &str, place: &str, content: impl Into<String>) {
        let path = format!("{V2}/repositories/{name}/{place}/link");
        self.write(&path, content.into());
    }

    fn link_layer(&self, name: &str, digest: &Digest) {
        self.write_link(
            name,
            &format!("_layers/{}", path_of(digest)),
            digest.to_string(),
        );
    }

    fn link_manifest(&self, name: &str, tag: Option<&str>, bytes: &str) -> Digest {
        let digest = self.write_blob(bytes);
        let place = format!("_manifests/revisions/{}", path_of(&digest));
        self.write_link(name, &place, digest.to_string());
        if let Some(tag) = tag {
            let place = format!("_manifests/tags/{tag}/current");
            self.write_link(name, &place, digest.to_string());
        }
        digest
    }

    /// An image as the old registry stores it; `more` is added to its manifest.
    fn write_image(&self, name: &str, tag: Option<&str>, more: &str) -> (Digest, usize) {
        for bytes in [b"{}", LAYER] {
            let digest = self.write_blob(bytes);
            self.link_layer(name, &digest);
        }
        let manifest = image_manifest(LAYER, more);
        let digest = self.link_manifest(name, tag, &manifest);
        (digest, manifest.len())
    }

    fn write_referrer(&self, name: &str, number: usize, subject: (Digest, usize)) -> Digest {
        let (subject, size) = subject;
        let more = format!(
            r#","annotations":{{"number":"{number}"}},"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":{size}}}"#
        );
        self.write_image(name, None, &more).0
    }

    /// What a command prints, with its exit code.
    fn prints(&self, line: &[&str], code: i32) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(code), "{}{}", ran.out, ran.talk);
        self.shown(&ran.out)
    }
}

fn write_damage(lab: &Lab) {
    let (image, _) = lab.write_image("links", Some("good"), "");
    let hex = path_of(&image);
    for (tag, link) in [("empty", ""), ("cut", "sha256:12"), ("spaced", "\n")] {
        let content = if link == "\n" {
            format!("{image}\n")
        } else {
            link.to_owned()
        };
        lab.write_link("links", &format!("_manifests/tags/{tag}/current"), content);
    }
    let gone = digest("gone");
    let never = digest("never");
    lab.write_link(
        "links",
        "_manifests/tags/dangling/current",
        never.to_string(),
    );
    fs::create_dir_all(lab.repository("links/_manifests/tags/no-link")).unwrap();
    fs::create_dir_all(lab.repository("links/_manifests/tags/@eaDir")).unwrap();
    lab.write(
        &format!("{V2}/repositories/links/_manifests/tags/.DS_Store"),
        "",
    );
    lab.write_link(
        "links",
        &format!("_manifests/revisions/{}", path_of(&gone)),
        gone.to_string(),
    );
    lab.write_link("links", "_manifests/revisions/sha256/stray", "");
    lab.write_link(
        "links",
        &format!("_layers/{}", path_of(&gone)),
        gone.to_string(),
    );
    lab.write_link(
        "links",
        &format!("_layers/{}", path_of(&digest("empty"))),
        "",
    );
    lab.write_link(
        "spaced",
        &format!("_layers/{}", path_of(&digest(LAYER))),
        format!("{}\n", digest(LAYER)),
    );
    lab.write_link(
        "spaced",
        &format!("_manifests/revisions/{hex}"),
        format!("{image}\n"),
    );
    lab.link_layer("spaced", &digest("{}"));

    lab.write_image("blobs", Some("cut"), "");
    let long = image_manifest(b"a longer layer", "");
    lab.link_manifest("blobs", Some("short"), &long);
    lab.link_layer("blobs", &digest("a longer layer"));
    lab.write(&Lab::data_of(&digest("a longer layer")), "cut");
    let empty = image_manifest(b"emptied", "");
    lab.link_manifest("blobs", Some("empty"), &empty);
    lab.link_layer("blobs", &digest("emptied"));
    lab.write(&Lab::data_of(&digest("emptied")), "");
    let altered = lab.link_manifest("blobs", None, &image_manifest(LAYER, r#","x":1"#));
    lab.write(&Lab::data_of(&altered), image_manifest(LAYER, r#","x":2"#));
    lab.write(&format!("{V2}/blobs/sha256/xx/yy/data"), "");
    lab.write(&format!("{V2}/blobs/sha256/.DS_Store"), "");

    let (name, elsewhere) = ("references", image_manifest(b"nowhere", ""));
    lab.link_layer(name, &digest("{}"));
    lab.link_manifest(name, Some("missing"), &elsewhere);
    lab.link_manifest(name, Some("elsewhere"), &image_manifest(LAYER, r#","x":3"#));
    let child = digest("no child");
    lab.link_manifest(
        name,
        Some("index"),
        &format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{child}","size":8}}]}}"#),
    );

    write_types(lab);
}

fn write_types(lab: &Lab) {
    let name = "types";
    lab.write_image(name, Some("good"), "");
    lab.link_manifest(
        name,
        Some("schema1"),
        r#"{"schemaVersion":1,"name":"types","tag":"schema1","fsLayers":[],"history":[]}"#,
    );
    lab.link_manifest(
        name,
        Some("unknown"),
        r#"{"schemaVersion":2,"mediaType":"application/vnd.example+json"}"#,
    );
    lab.link_manifest(name, Some("text"), "no manifest");
    lab.link_manifest(
        name,
        Some("artifact"),
        r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#,
    );
    let padding = "x".repeat(4 * 1024 * 1024);
    lab.link_manifest(
        name,
        Some("long"),
        &image_manifest(LAYER, &format!(r#","annotations":{{"x":"{padding}"}}"#)),
    );

    lab.link_manifest("no-layers", Some("v1"), &image_manifest(LAYER, ""));
    lab.write(
        &format!("{V2}/repositories/Upper/_manifests/tags/v1/current/link"),
        "",
    );
    lab.write(&format!("{V2}/repositories/lost+found/file"), "");
    lab.write(
        &format!("{V2}/repositories/types/_uploads/0d9a1d5e-1b1c-4c1a-8c1a-0d9a1d5e1b1c/startedat"),
        "2026-01-01T00:00:00Z",
    );
    // What may not be looked into.
    lab.write_image("closed", Some("v1"), "");
    let tags = lab.repository("closed/_manifests/tags");
    fs::rename(&tags, lab.path("outside")).unwrap();
    symlink(lab.path("outside"), tags).unwrap();
}

/// Without what depends on where and by whom the tests run.
fn steady(text: &str) -> String {
    let is_of_machine = |line: &&str| line.contains("the old registry's user may not");
    let lines = text.lines().filter(|line| !is_of_machine(line));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn all_damage_is_named_and_nothing_is_changed() {
    let lab = Lab::on_old_data();
    write_damage(&lab);
    let before = tree(&lab.path("data"));
    let text = lab.prints(&["check", "--data"], 1);
    golden("check-data.txt", &text);
    assert_eq!(tree(&lab.path("data")), before);
    assert!(!lab.path("data/boathouse").exists());
    let ran = lab.run(&["check", "--data", "--json"]);
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert_eq!(text.lines().count(), findings.len() + 1);
    assert!(
        findings
            .iter()
            .all(|finding| finding["where"].is_string() && finding["what"].is_string())
    );
}

#[test]
fn what_the_old_registries_would_not_serve_is_named() {
    let lab = Lab::on_old_data();
    write_damage(&lab);
    let image = lab.write_image("attached", Some("v1"), "");
    lab.write_referrer("attached", 1, image);
    lab.write_image("attached", None, r#","is":"a child""#);
    let child = image_manifest(LAYER, r#","is":"a child""#);
    let (child, size) = (digest(&child), child.len());
    lab.link_manifest(
        "attached",
        Some("index"),
        &format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{child}","size":{size}}}]}}"#),
    );
    let ours = boathouse::layout::UploadId::from_parts(1, 2);
    lab.write(
        &format!("{V2}/repositories/attached/_uploads/{ours}/data"),
        "x",
    );
    let text = lab.prints(&["check", "--hand-back"], 1);
    golden("check-hand-back.txt", &steady(&text));
}

#[tokio::test]
async fn healthy_data_have_no_findings_beside_a_running_server_too() {
    let lab = Lab::open();
    let server = lab.serve().await;
    Client::plain(server.address())
        .push_image("a", Some("v1"), LAYER, "")
        .await;
    for line in [&["check", "--data"], &["check", "--hand-back"]] {
        let text = lab.prints(line, 0);
        assert_eq!(text, "1 repositories looked through: 0 findings\n");
    }
    let ran = lab.run(&["hand-back"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.talk.contains("another instance is running")
            && ran.talk.contains("hint: stop the other instance first\n"),
        "{}",
        ran.talk
    );
    server.end();
    let text = lab.prints(&["hand-back"], 0);
    assert!(text.ends_with("nothing is lost\n"), "{text}");
}

#[tokio::test]
async fn what_the_old_registry_needs_is_written_once() {
    let lab = Lab::on_old_data();
    let image = lab.write_image("attached", Some("v1"), "");
    let referrers = [1, 2].map(|number| lab.write_referrer("attached", number, image));
    lab.link_manifest(
        "no-layers",
        Some("v1"),
        &format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#),
    );
    let (spaced, _) = lab.write_image("spaced", Some("v1"), "");
    lab.write_link(
        "spaced",
        "_manifests/tags/v1/current",
        format!("{spaced}\n"),
    );
    let written = |json: &Value, name: &str| json["written"][name].as_u64().unwrap();
    let first = lab.json(&["hand-back"]);
    for (name, count) in [("fallback_tags", 1), ("layer_directories", 1), ("links", 1)] {
        assert_eq!(written(&first, name), count, "{name} of {first}");
    }
    let after = tree(&lab.path(V2));
    let second = lab.json(&["hand-back"]);
    for name in ["fallback_tags", "layer_directories", "links"] {
        assert_eq!(written(&second, name), 0, "{name} of {second}");
    }
    assert_eq!(tree(&lab.path(V2)), after);
    let link = lab.read(&format!(
        "{V2}/repositories/spaced/_manifests/tags/v1/current/link"
    ));
    assert_eq!(link, spaced.to_string());
    assert!(lab.repository("no-layers/_layers/sha256").exists());

    let server = lab.serve().await;
    let path = format!("/v2/attached/manifests/sha256-{}", image.0.hex());
    let listed = Client::plain(server.address())
        .get(&path)
        .await
        .expect("an answer");
    let mut listed = listed.expect(StatusCode::OK).digests();
    let mut expected = referrers.map(|digest| digest.to_string());
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected, "a referrer is lost on the way back");
    let text = lab.prints(&["check", "--data"], 0);
    assert!(text.ends_with(": 0 findings\n"), "{text}");
}

#[test]
fn what_another_user_may_not_read_is_named_and_opened() {
    let lab = Lab::on_old_data();
    let (image, _) = lab.write_image("a", Some("v1"), "");
    // A registry of another test in this process has tightened its umask.
    let mut open = Command::new("chmod");
    open.args(["-R", "u=rwX,go=rX"]).arg(lab.path(""));
    assert!(open.status().unwrap().success());
    let data = lab.path(Lab::data_of(&image));
    fs::set_permissions(&data, fs::Permissions::from_mode(0o600)).unwrap();
    let stranger = ["--as-user", "4711:4711"];
    let named = lab.shown(data.to_str().unwrap());
    let line = format!(
        "2.8 3.1  {named}: the old registry's user may not read it; 2.8 and 3.1: not served; "
    );
    let text = lab.prints(&[&["check", "--hand-back"][..], &stranger].concat(), 1);
    assert!(text.contains(&line), "{text}");
    let text = lab.prints(&[&["hand-back"][..], &stranger].concat(), 1);
    assert!(
        !text.contains(&line) && text.contains("may not write"),
        "{text}"
    );
    let mode = fs::metadata(&data).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o604);
    let text = lab.prints(&["check", "--hand-back", "--as-user", "0:0"], 0);
    assert!(text.ends_with(": 0 findings\n"), "{text}");
}

#[test]
fn accounts_and_keys_of_this_program_are_named() {
    let lab = Lab::configured(
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n\
         users_file: DIR/users.yml\nlimits: {list_page: 50}\n",
    );
    fs::create_dir_all(lab.path(V2)).unwrap();
    lab.run_with(
        &["user", "add", "ann", "--admin", "--password-stdin"],
        "a-password-for-tests\n",
    )
    .fine();
    let text = lab.prints(&["check", "--hand-back"], 1);
    for expected in [
        "DIR/users.yml: an account of the users file (ann); 2.8 and 3.1: unknown to docker_auth; ",
        "a key of the configuration that only Boathouse knows (limits.list_page); 2.8 and 3.1: ",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert_eq!(
        lab.prints(&["check", "--data"], 0),
        "0 repositories looked through: 0 findings\n"
    );
    // A file that holds nothing of the old programs stays behind with Boathouse.
    lab.configure(
        "boathouse.yml",
        "http: {addr: 'ADDRESS'}\nstorage: {filesystem: {rootdirectory: DIR/data}}\n",
    );
    lab.write("more.yml", "http: {trusted_proxies: [127.0.0.1]}\n");
    let line = ["check", "--hand-back", "--config", &lab.place("more.yml")];
    let text = lab.prints(&line, 0);
    assert_eq!(text, "0 repositories looked through: 0 findings\n");
}

/// An index, its children and attached manifests go back as they are: the exit code is for what to do something about.
#[test]
fn what_needs_nothing_done_is_a_note() {
    let lab = Lab::on_old_data();
    let image = lab.write_image("attached", Some("v1"), "");
    lab.write_referrer("attached", 1, image);
    let text = lab.prints(&["hand-back"], 0);
    let expected = "nothing is lost\n\
        note: 2.8  -   docker/registry/v2/repositories/attached/: untagged manifests that refer to others (1); \
        2.8: garbage-collect -m deletes them; hint: do not run garbage-collect -m with 2.8\n\
        1 repositories looked through: 0 findings, 1 notes\n";
    let (_, lost) = text.split_once('\n').unwrap();
    // The fallback tag that was written is an OCI index too; clients that read it accept the type.
    assert_eq!(lost, expected);
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    lab.link_manifest("attached", Some("index"), &index);
    let text = lab.prints(&["check", "--hand-back"], 0);
    assert!(text.contains("attached/: OCI indexes (1); "), "{text}");
    let json = lab.json(&["check", "--hand-back"]);
    let count = |name: &str| json[name].as_array().unwrap().len();
    assert_eq!((count("findings"), count("notes")), (0, 2), "{json}");
}

/// What is lost all the same is in the exit code of `hand-back`, as of `check`.
#[test]
fn a_loss_is_in_the_exit_code() {
    let lab = Lab::on_old_data();
    lab.write_image("a", Some("v1"), "");
    let unknown = r#"{"schemaVersion":2,"mediaType":"application/vnd.example+json"}"#;
    lab.link_manifest("a", Some("unknown"), unknown);
    let ran = lab.run(&["hand-back"]);
    let code = ran.code;
    assert_eq!(code, Some(1), "a loss is not in the exit code: {}", ran.out);
    assert!(
        ran.out
            .contains("not a manifest of a type that registries know")
            && !ran.out.contains("nothing is lost"),
        "{}",
        ran.out
    );
}
