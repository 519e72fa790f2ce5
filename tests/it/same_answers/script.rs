//! The requests, in their order: each may build upon those before it.

use boathouse::oci::{Algorithm, Digest};
use http::Method;

use crate::client::{Client, whole};
use crate::support::{Answer, OCI_MANIFEST, image_manifest};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Who asks, and what came of it so far.
struct Script<'a> {
    client: &'a Client,
    answers: Vec<(&'static str, Option<Answer>)>,
    /// The last location.
    location: String,
}

impl Script<'_> {
    /// `@` at the start of a path stands for the last location.
    async fn ask(&mut self, name: &'static str, line: &str, headers: &[(&str, &str)], body: &[u8]) {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let path = match path.strip_prefix('@') {
            Some(query) if self.location.contains('?') => {
                format!("{}{}", self.location, query.replacen('?', "&", 1))
            }
            Some(query) => format!("{}{query}", self.location),
            None => path.to_owned(),
        };
        let method: Method = method.parse().expect("a method");
        let body = whole(body.to_vec());
        let sent = self.client.send(method, &path, headers, body).await;
        let answer = sent.ok();
        let headers = answer.as_ref().map(|answer| &answer.headers);
        if let Some(location) = headers.and_then(|headers| headers.get("location")) {
            let location = location.to_str().expect("text");
            let local = location.find("/v2/").map_or(location, |at| &location[at..]);
            local.clone_into(&mut self.location);
        }
        self.answers.push((name, answer));
    }
}

/// Asks everything; gives the answers, where whole ones came, with the names of their exchanges.
#[expect(
    clippy::too_many_lines,
    reason = "a script, read from its first line to its last"
)]
pub(super) async fn run(client: &Client) -> Vec<(&'static str, Option<Answer>)> {
    let mut script = Script {
        client,
        answers: Vec::new(),
        location: String::new(),
    };
    let s = &mut script;
    let digest = |content: &[u8]| Digest::of(Algorithm::Sha256, content);
    let oci = [("content-type", OCI_MANIFEST)];
    let accept = [("accept", OCI_MANIFEST)];
    let layer = b"layer".as_slice();
    let layer_digest = digest(layer);
    let other = digest(b"something else");
    let manifest = image_manifest(layer, "");
    let manifest_digest = digest(manifest.as_bytes());

    s.ask("base", "GET /v2/", &[], b"").await;
    s.ask("base without slash", "GET /v2", &[], b"").await;
    s.ask("base, POST", "POST /v2/", &[], b"").await;
    s.ask("no such path", "GET /v2/a/nothing", &[], b"").await;
    s.ask("empty catalog", "GET /v2/_catalog", &[], b"").await;
    s.ask("tags of no repository", "GET /v2/a/tags/list", &[], b"")
        .await;
    s.ask(
        "manifest of no repository",
        "GET /v2/a/manifests/v1",
        &accept,
        b"",
    )
    .await;
    s.ask(
        "blob of no repository",
        &format!("GET /v2/a/blobs/{other}"),
        &[],
        b"",
    )
    .await;
    s.ask(
        "tags of no repository, slash encoded",
        "GET /v2/team%2Fapp/tags/list",
        &[],
        b"",
    )
    .await;
    s.ask("bad name", "GET /v2/A/tags/list", &[], b"").await;
    s.ask(
        "slash encoded twice",
        "GET /v2/team%252Fapp/tags/list",
        &[],
        b"",
    )
    .await;
    s.ask("bad digest", "GET /v2/a/blobs/sha256:x", &[], b"")
        .await;
    s.ask("bad tag", "GET /v2/a/manifests/-v1", &accept, b"")
        .await;

    s.ask("upload begun", "POST /v2/a/blobs/uploads/", &[], b"")
        .await;
    s.ask("upload's status, empty", "GET @", &[], b"").await;
    s.ask("chunk streamed", "PATCH @", &[], b"la").await;
    s.ask("upload's status", "GET @", &[], b"").await;
    s.ask(
        "chunk in order",
        "PATCH @",
        &[("content-range", "2-3")],
        b"ye",
    )
    .await;
    s.ask("finished without digest", "PUT @", &[], b"r").await;
    s.ask(
        "finished with a bad digest",
        "PUT @?digest=sha256:x",
        &[],
        b"",
    )
    .await;
    s.ask(
        "finished",
        &format!("PUT @?digest={layer_digest}"),
        &[],
        b"r",
    )
    .await;
    s.ask("blob at its location", "GET @", &[], b"").await;

    s.ask("another upload", "POST /v2/a/blobs/uploads/", &[], b"")
        .await;
    s.ask(
        "chunk out of order",
        "PATCH @",
        &[("content-range", "5-6")],
        b"ye",
    )
    .await;
    s.ask(
        "upload for a wrong digest",
        "POST /v2/a/blobs/uploads/",
        &[],
        b"",
    )
    .await;
    s.ask(
        "wrong digest",
        &format!("PUT @?digest={other}"),
        &[],
        b"not that",
    )
    .await;
    s.ask(
        "upload to be cancelled",
        "POST /v2/a/blobs/uploads/",
        &[],
        b"",
    )
    .await;
    s.ask("cancelled", "DELETE @", &[], b"").await;
    s.ask("status of the cancelled", "GET @", &[], b"").await;
    s.ask(
        "unknown upload",
        "GET /v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000",
        &[],
        b"",
    )
    .await;
    let config = digest(b"{}");
    s.ask("config begun", "POST /v2/a/blobs/uploads/", &[], b"")
        .await;
    s.ask(
        "config finished",
        &format!("PUT @?digest={config}"),
        &[],
        b"{}",
    )
    .await;
    s.ask(
        "whole blob in POST",
        &format!("POST /v2/a/blobs/uploads/?digest={}", digest(b"[]")),
        &[],
        b"[]",
    )
    .await;
    s.ask(
        "mounted",
        &format!("POST /v2/b/blobs/uploads/?mount={layer_digest}&from=a"),
        &[],
        b"",
    )
    .await;
    s.ask(
        "mount of nothing",
        &format!("POST /v2/b/blobs/uploads/?mount={other}&from=a"),
        &[],
        b"",
    )
    .await;

    let blob = format!("/v2/a/blobs/{layer_digest}");
    s.ask("blob", &format!("GET {blob}"), &[], b"").await;
    s.ask("blob, HEAD", &format!("HEAD {blob}"), &[], b"").await;
    s.ask(
        "blob, range",
        &format!("GET {blob}"),
        &[("range", "bytes=1-3")],
        b"",
    )
    .await;
    s.ask(
        "blob, end of it",
        &format!("GET {blob}"),
        &[("range", "bytes=-2")],
        b"",
    )
    .await;
    s.ask(
        "blob, bad range",
        &format!("GET {blob}"),
        &[("range", "bytes=9-")],
        b"",
    )
    .await;
    s.ask(
        "blob, two ranges",
        &format!("GET {blob}"),
        &[("range", "bytes=0-0,3-4")],
        b"",
    )
    .await;
    s.ask(
        "blob, ranges that touch",
        &format!("GET {blob}"),
        &[("range", "bytes=1-2,3-3")],
        b"",
    )
    .await;
    s.ask(
        "blob, no range of several",
        &format!("GET {blob}"),
        &[("range", "bytes=9-9,12-")],
        b"",
    )
    .await;
    let tag = format!("\"{layer_digest}\"");
    s.ask(
        "blob, unchanged",
        &format!("GET {blob}"),
        &[("if-none-match", &tag)],
        b"",
    )
    .await;
    s.ask("blob, POST", &format!("POST {blob}"), &[], b"").await;
    s.ask(
        "blob, unknown",
        &format!("GET /v2/a/blobs/{other}"),
        &[],
        b"",
    )
    .await;
    s.ask(
        "blob, unknown, HEAD",
        &format!("HEAD /v2/a/blobs/{other}"),
        &[],
        b"",
    )
    .await;

    s.ask(
        "manifest without its blobs",
        "PUT /v2/c/manifests/v1",
        &oci,
        manifest.as_bytes(),
    )
    .await;
    s.ask(
        "manifest",
        "PUT /v2/a/manifests/v1",
        &oci,
        manifest.as_bytes(),
    )
    .await;
    s.ask(
        "manifest by digest",
        &format!("PUT /v2/a/manifests/{manifest_digest}"),
        &oci,
        manifest.as_bytes(),
    )
    .await;
    s.ask(
        "manifest under a wrong digest",
        &format!("PUT /v2/a/manifests/{other}"),
        &oci,
        manifest.as_bytes(),
    )
    .await;
    s.ask(
        "manifest of another type",
        "PUT /v2/a/manifests/v2",
        &[("content-type", DOCKER_MANIFEST)],
        manifest.as_bytes(),
    )
    .await;
    s.ask(
        "manifest of no type",
        "PUT /v2/a/manifests/v2",
        &[],
        manifest.as_bytes(),
    )
    .await;
    s.ask(
        "manifest that is none",
        "PUT /v2/a/manifests/v2",
        &oci,
        b"{",
    )
    .await;
    s.ask(
        "manifest under a bad tag",
        "PUT /v2/a/manifests/-v1",
        &oci,
        manifest.as_bytes(),
    )
    .await;
    s.ask("manifest pulled", "GET /v2/a/manifests/v1", &accept, b"")
        .await;
    s.ask(
        "manifest pulled by digest",
        &format!("GET /v2/a/manifests/{manifest_digest}"),
        &accept,
        b"",
    )
    .await;
    s.ask("manifest, HEAD", "HEAD /v2/a/manifests/v1", &accept, b"")
        .await;
    s.ask(
        "manifest, accepting all",
        "GET /v2/a/manifests/v1",
        &[("accept", "*/*")],
        b"",
    )
    .await;
    s.ask(
        "manifest, accepting nothing",
        "GET /v2/a/manifests/v1",
        &[],
        b"",
    )
    .await;
    s.ask(
        "manifest, accepting another",
        "GET /v2/a/manifests/v1",
        &[("accept", DOCKER_MANIFEST)],
        b"",
    )
    .await;
    let list = format!("{DOCKER_MANIFEST}, {OCI_MANIFEST};q=0.5");
    s.ask(
        "manifest, accepting a list",
        "GET /v2/a/manifests/v1",
        &[("accept", &list)],
        b"",
    )
    .await;
    let tag = format!("\"{manifest_digest}\"");
    s.ask(
        "manifest, unchanged",
        "GET /v2/a/manifests/v1",
        &[accept[0], ("if-none-match", &tag)],
        b"",
    )
    .await;
    s.ask(
        "manifest, unknown tag",
        "GET /v2/a/manifests/nothing",
        &accept,
        b"",
    )
    .await;
    s.ask(
        "manifest, unknown digest",
        &format!("GET /v2/a/manifests/{other}"),
        &accept,
        b"",
    )
    .await;
    s.ask(
        "manifest, unknown, HEAD",
        "HEAD /v2/a/manifests/nothing",
        &accept,
        b"",
    )
    .await;
    s.ask("blob, OPTIONS", &format!("OPTIONS {blob}"), &[], b"")
        .await;
    s.ask("manifest, POST", "POST /v2/a/manifests/v1", &[], b"")
        .await;

    s.ask(
        "manifest with a subject",
        "PUT /v2/a/manifests/about",
        &oci,
        about(&manifest, &manifest_digest).as_bytes(),
    )
    .await;
    s.ask(
        "second tag",
        "PUT /v2/a/manifests/v2",
        &oci,
        manifest.as_bytes(),
    )
    .await;
    s.ask("tags", "GET /v2/a/tags/list", &[], b"").await;
    s.ask("tags, a page", "GET /v2/a/tags/list?n=2", &[], b"")
        .await;
    s.ask(
        "tags, the rest",
        "GET /v2/a/tags/list?n=2&last=v1",
        &[],
        b"",
    )
    .await;
    s.ask("tags, no number", "GET /v2/a/tags/list?n=x", &[], b"")
        .await;
    s.ask("catalog", "GET /v2/_catalog", &[], b"").await;
    s.ask("catalog, a page", "GET /v2/_catalog?n=1", &[], b"")
        .await;
    s.ask("catalog, the rest", "GET /v2/_catalog?n=1&last=a", &[], b"")
        .await;
    s.ask("catalog, empty page", "GET /v2/_catalog?n=&last=", &[], b"")
        .await;
    s.ask("catalog, nothing", "GET /v2/_catalog?n=0", &[], b"")
        .await;
    s.ask("catalog, no number", "GET /v2/_catalog?n=x", &[], b"")
        .await;
    s.ask(
        "referrers",
        &format!("GET /v2/a/referrers/{manifest_digest}"),
        &[],
        b"",
    )
    .await;

    s.ask("tag deleted", "DELETE /v2/a/manifests/v2", &[], b"")
        .await;
    s.ask(
        "unknown tag deleted",
        "DELETE /v2/a/manifests/nothing",
        &[],
        b"",
    )
    .await;
    s.ask(
        "manifest deleted",
        &format!("DELETE /v2/a/manifests/{manifest_digest}"),
        &[],
        b"",
    )
    .await;
    s.ask(
        "manifest deleted again",
        &format!("DELETE /v2/a/manifests/{manifest_digest}"),
        &[],
        b"",
    )
    .await;
    s.ask(
        "manifest after its end",
        "GET /v2/a/manifests/v1",
        &accept,
        b"",
    )
    .await;
    s.ask("tags after it", "GET /v2/a/tags/list", &[], b"")
        .await;
    s.ask("blob deleted", &format!("DELETE {blob}"), &[], b"")
        .await;
    s.ask("blob deleted again", &format!("DELETE {blob}"), &[], b"")
        .await;
    s.ask("blob after its end", &format!("GET {blob}"), &[], b"")
        .await;
    s.ask(
        "blob elsewhere still",
        &format!("GET /v2/b/blobs/{layer_digest}"),
        &[],
        b"",
    )
    .await;
    s.ask("HEAD of the base", "HEAD /v2/", &[], b"").await;
    script.answers
}

/// A manifest about another one.
fn about(manifest: &str, digest: &Digest) -> String {
    let mut about: serde_json::Value = serde_json::from_str(manifest).expect("JSON");
    about["subject"] = serde_json::json!({
        "mediaType": OCI_MANIFEST,
        "digest": digest.to_string(),
        "size": manifest.len(),
    });
    about.to_string()
}
