//! Fallback tags of referrers (`compatibility.referrers_fallback_tags`): `sha256-<hex>` lists what the API lists.

use boathouse::oci::{Algorithm, Digest};
use boathouse::registry::FallbackTags;
use futures_util::future::join_all;
use http::StatusCode;
use serde_json::{Value, json};

use crate::client::Client;
use crate::support::{OCI_INDEX, OCI_MANIFEST, Options, TestRegistry, image_manifest};

const LAYER: &[u8] = b"layer";

struct Lab {
    registry: TestRegistry,
    client: Client,
    subject: Digest,
    subject_size: usize,
}

fn digest(content: &str) -> Digest {
    Digest::of(Algorithm::Sha256, content.as_bytes())
}

fn tag_of(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Lab {
    /// With an image `a:v1` that things can refer to.
    async fn new(fallback_tags: FallbackTags) -> Self {
        let mut options = Options::default();
        options.registry.fallback_tags = fallback_tags;
        let registry = TestRegistry::start(options);
        let (image, subject) = registry.push_image("a", "v1", LAYER).await;
        Self {
            client: Client::plain(registry.address),
            registry,
            subject,
            subject_size: image.len(),
        }
    }

    async fn keeping() -> Self {
        Self::new(FallbackTags::Kept).await
    }

    fn referrer(&self, number: usize) -> String {
        let (subject, size) = (&self.subject, self.subject_size);
        image_manifest(
            LAYER,
            &format!(
                r#","artifactType":"sig","annotations":{{"number":"{number}"}},"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":{size}}}"#
            ),
        )
    }

    async fn push(&self, number: usize) -> Digest {
        let referrer = self.referrer(number);
        self.put(&digest(&referrer).to_string(), OCI_MANIFEST, &referrer)
            .await;
        digest(&referrer)
    }

    async fn put(&self, reference: &str, media_type: &str, content: &str) {
        let path = format!("/v2/a/manifests/{reference}");
        let put = self.registry.put(&path).header("content-type", media_type);
        let answer = put.body(content.as_bytes()).send().await;
        answer.expect(StatusCode::CREATED);
    }

    async fn delete(&self, digest: &Digest) {
        let path = format!("/v2/a/manifests/{digest}");
        let answer = self.registry.delete(&path).send().await;
        answer.expect(StatusCode::ACCEPTED);
    }

    /// What the tag lists; `None` if it is not there.
    async fn listed(&self) -> Option<Vec<Value>> {
        let path = format!("/v2/a/manifests/{}", tag_of(&self.subject));
        let answer = self.client.get(&path).await.expect("an answer");
        if answer.status == StatusCode::NOT_FOUND {
            return None;
        }
        let answer = answer.expect(StatusCode::OK);
        assert_eq!(answer.header("content-type"), OCI_INDEX);
        Some(answer.json()["manifests"].as_array().unwrap().clone())
    }

    /// What the API lists.
    async fn referrers(&self) -> Vec<Value> {
        let path = format!("/v2/a/referrers/{}", self.subject);
        let answer = self.registry.get(&path).send().await;
        let answer = answer.expect(StatusCode::OK).json();
        answer["manifests"].as_array().unwrap().clone()
    }

    async fn listed_digests(&self) -> Vec<String> {
        let listed = self.listed().await.unwrap_or_default();
        let digest = |entry: &Value| entry["digest"].as_str().unwrap().to_owned();
        let mut digests: Vec<String> = listed.iter().map(digest).collect();
        digests.sort_unstable();
        digests
    }

    fn revisions(&self) -> usize {
        let files = self.registry.data.shared_files();
        let keys = files.keys();
        let is_revision = |key: &&String| key.contains("/a/_manifests/revisions/");
        keys.filter(is_revision).count()
    }
}

fn sorted(digests: &[Digest]) -> Vec<String> {
    let mut texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
    texts.sort_unstable();
    texts
}

#[tokio::test]
async fn the_tag_lists_what_the_api_lists() {
    let lab = Lab::keeping().await;
    assert_eq!(lab.listed().await, None);
    lab.push(1).await;
    assert_eq!(lab.listed().await.unwrap(), lab.referrers().await);
    let entry = &lab.referrers().await[0];
    assert_eq!(entry["artifactType"], "sig");
    assert_eq!(entry["annotations"], json!({"number": "1"}));
    lab.push(2).await;
    // The same again changes nothing.
    lab.push(2).await;
    let mut listed = lab.listed().await.unwrap();
    listed.sort_by_key(|entry| entry["digest"].as_str().unwrap().to_owned());
    assert_eq!(listed, lab.referrers().await);
    // The image, two referrers, and one index: those that were replaced are gone.
    assert_eq!(lab.revisions(), 4);
}

#[tokio::test]
async fn referrers_that_are_put_at_once_are_all_listed() {
    let lab = Lab::keeping().await;
    let pushed = join_all((0..12).map(|number| lab.push(number))).await;
    assert_eq!(
        lab.listed_digests().await,
        sorted(&pushed),
        "the fallback tag has lost a referrer"
    );
    assert_eq!(lab.revisions(), 1 + 12 + 1);
}

#[tokio::test]
async fn a_deleted_referrer_is_no_longer_listed_and_the_last_takes_the_tag_with_it() {
    let lab = Lab::keeping().await;
    let (first, second) = (lab.push(1).await, lab.push(2).await);
    lab.delete(&first).await;
    assert_eq!(lab.listed_digests().await, sorted(&[second]));
    lab.delete(&second).await;
    assert_eq!(lab.listed().await, None);
    assert_eq!(lab.revisions(), 1, "the image alone");
    let tags = lab.registry.get("/v2/a/tags/list").send().await;
    assert_eq!(tags.names("tags"), ["v1"]);
}

#[tokio::test]
async fn referrers_of_a_deleted_image_stay_listed() {
    let lab = Lab::keeping().await;
    let referrer = lab.push(1).await;
    lab.delete(&lab.subject).await;
    assert_eq!(lab.listed_digests().await, sorted(&[referrer]));
    // And one may come first.
    let later = lab.push(2).await;
    assert_eq!(lab.listed_digests().await, sorted(&[referrer, later]));
}

#[tokio::test]
async fn what_a_client_has_listed_stays_and_what_is_gone_goes() {
    let lab = Lab::keeping().await;
    let old = image_manifest(
        LAYER,
        r#","annotations":{"is":"about it, without a subject"}"#,
    );
    lab.put(&digest(&old).to_string(), OCI_MANIFEST, &old).await;
    let gone = image_manifest(LAYER, r#","annotations":{"is":"deleted later"}"#);
    lab.put(&digest(&gone).to_string(), OCI_MANIFEST, &gone)
        .await;
    let entry = |content: &str| {
        json!({
            "mediaType": OCI_MANIFEST, "digest": digest(content).to_string(), "size": content.len(),
            "platform": {"architecture": "arm64", "os": "linux"}, "annotations": {"by": "a client"},
        })
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry(&old), entry(&gone)],
    });
    let index = index.to_string();
    lab.put(&tag_of(&lab.subject), OCI_INDEX, &index).await;
    lab.delete(&digest(&gone)).await;
    let referrer = lab.push(1).await;
    let listed = lab.listed().await.unwrap();
    assert_eq!(listed[0], entry(&old), "with all that the client wrote");
    assert_eq!(listed[1]["digest"], referrer.to_string());
    assert_eq!(listed.len(), 2);
    // The client's own index is not ours to remove.
    let own = format!("/v2/a/manifests/{}", digest(&index));
    let own = lab.client.get(&own).await.expect("an answer");
    own.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_tag_of_that_name_that_is_something_else_is_left_alone() {
    let lab = Lab::keeping().await;
    let image = image_manifest(LAYER, r#","annotations":{"is":"no list"}"#);
    lab.put(&tag_of(&lab.subject), OCI_MANIFEST, &image).await;
    let referrer = lab.push(1).await;
    let path = format!("/v2/a/manifests/{}", tag_of(&lab.subject));
    let answer = lab.client.get(&path).await.expect("an answer");
    assert_eq!(answer.body, image.as_bytes());
    assert_eq!(lab.referrers().await.len(), 1);
    lab.delete(&referrer).await;
    let answer = lab.client.get(&path).await.expect("an answer");
    assert_eq!(answer.body, image.as_bytes());
}

#[tokio::test]
async fn a_client_that_pushes_a_referrer_under_the_tag_itself_has_its_way() {
    let lab = Lab::keeping().await;
    let referrer = lab.referrer(1);
    lab.put(&tag_of(&lab.subject), OCI_MANIFEST, &referrer)
        .await;
    let path = format!("/v2/a/manifests/{}", tag_of(&lab.subject));
    let answer = lab.client.get(&path).await.expect("an answer");
    assert_eq!(answer.body, referrer.as_bytes());
}

#[tokio::test]
async fn a_list_that_has_another_tag_too_is_kept_when_it_is_replaced() {
    let lab = Lab::keeping().await;
    lab.push(1).await;
    let path = format!("/v2/a/manifests/{}", tag_of(&lab.subject));
    let first = lab.client.get(&path).await.expect("an answer");
    let text = String::from_utf8(first.body.to_vec()).unwrap();
    lab.put("kept", OCI_INDEX, &text).await;
    lab.push(2).await;
    let kept = lab.client.get("/v2/a/manifests/kept").await;
    assert_eq!(kept.expect("an answer").expect(StatusCode::OK).body, text);
    assert_eq!(lab.listed().await.unwrap().len(), 2);
}

#[tokio::test]
async fn without_the_key_clients_are_left_to_it() {
    let lab = Lab::new(FallbackTags::Off).await;
    let referrer = lab.push(1).await;
    assert_eq!(lab.listed().await, None);
    lab.delete(&referrer).await;
    assert_eq!(lab.revisions(), 1);
}

#[tokio::test]
async fn a_subject_by_sha512_has_its_digits_cut() {
    let lab = Lab::keeping().await;
    let image = image_manifest(LAYER, r#","annotations":{"by":"sha512"}"#);
    let subject = Digest::of(Algorithm::Sha512, image.as_bytes());
    lab.put(&subject.to_string(), OCI_MANIFEST, &image).await;
    let size = image.len();
    let about = format!(
        r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":{size}}}"#
    );
    let referrer = image_manifest(LAYER, &about);
    lab.put(&digest(&referrer).to_string(), OCI_MANIFEST, &referrer)
        .await;
    let path = format!("/v2/a/manifests/sha512-{}", &subject.hex()[..64]);
    let answer = lab.client.get(&path).await.expect("an answer");
    let listed = answer.expect(StatusCode::OK).digests();
    assert_eq!(listed, [digest(&referrer).to_string()]);
}
