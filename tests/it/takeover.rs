//! The program on data that another registry has written: it serves at once, and remembers that it has taken them over.

use std::fs;

use boathouse::oci::{Algorithm, Digest};
use http::StatusCode;

use crate::client::Client;
use crate::lab::Lab;
use crate::program::Program;
use crate::support::{OCI_MANIFEST, image_manifest};

/// Enough that the index is not full when the first requests are answered.
const REPOSITORIES: usize = 400;

const LAYER: &[u8] = b"layer";

/// Writes the data as the old registry does: an image `many/N:v1` in each repository.
fn write_old_data(lab: &Lab, repositories: usize) -> String {
    let image = image_manifest(LAYER, "");
    let digest = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
    let blobs = [b"{}", LAYER, image.as_bytes()];
    for bytes in blobs {
        let hex = digest(bytes).hex();
        let place = format!(
            "data/docker/registry/v2/blobs/sha256/{}/{hex}/data",
            &hex[..2]
        );
        lab.write(&place, bytes);
    }
    let revision = digest(image.as_bytes());
    for number in 0..repositories {
        let name = format!("data/docker/registry/v2/repositories/many/{number}");
        for layer in [digest(b"{}"), digest(LAYER)] {
            let place = format!("{name}/_layers/sha256/{}/link", layer.hex());
            lab.write(&place, layer.to_string());
        }
        let hex = revision.hex();
        for place in [
            format!("revisions/sha256/{hex}"),
            "tags/v1/current".to_owned(),
            format!("tags/v1/index/sha256/{hex}"),
        ] {
            let place = format!("{name}/_manifests/{place}/link");
            lab.write(&place, revision.to_string());
        }
    }
    image
}

/// Attaches something to the image of `many/0`, and gives the status of its fallback tag.
async fn attach(server: &Program, image: &str, number: usize) -> StatusCode {
    let subject = Digest::of(Algorithm::Sha256, image.as_bytes());
    let size = image.len();
    let about = format!(
        r#","annotations":{{"number":"{number}"}},"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":{size}}}"#
    );
    let client = Client::plain(server.address());
    client.push_image("many/0", None, LAYER, &about).await;
    let path = format!("/v2/many/0/manifests/sha256-{}", subject.hex());
    client.get(&path).await.expect("an answer").status
}

#[tokio::test]
async fn the_data_of_the_old_registry_are_served_at_once_while_the_index_is_filled() {
    let lab = Lab::open();
    let image = write_old_data(&lab, REPOSITORIES);
    let mut server = Program::start(&lab.path("log"), &mut lab.command(&["serve"]));
    server.listens().await;
    let mut answered_while_filling = 0;
    for number in (0..REPOSITORIES).rev() {
        let manifest = server.get(&format!("/v2/many/{number}/manifests/v1"));
        let manifest = manifest.send().await.expect(StatusCode::OK);
        assert_eq!(manifest.body, image.as_bytes());
        let tags = server.get(&format!("/v2/many/{number}/tags/list"));
        assert_eq!(tags.send().await.names("tags"), ["v1"]);
        if server.log().contains("the index is up to the store") {
            break;
        }
        answered_while_filling += 1;
    }
    assert!(answered_while_filling > 0, "the index was full at once");
    server
        .says("taking over the data of another registry")
        .await;
    let line = server.says("filling the index from the store").await;
    assert!(
        line.contains(&format!("repositories={REPOSITORIES}")) && line.contains("serves meanwhile"),
        "{line}"
    );
    server.says("the index is up to the store").await;
}

#[tokio::test]
async fn fallback_tags_are_kept_from_the_first_start_on_old_data() {
    let lab = Lab::open();
    let image = write_old_data(&lab, 1);
    let server = lab.serve().await;
    assert_eq!(attach(&server, &image, 1).await, StatusCode::OK);
    let record = lab.read("data/boathouse/taken-over");
    server.end();
    // What was pushed here since changes nothing about that.
    let server = lab.serve().await;
    assert_eq!(attach(&server, &image, 2).await, StatusCode::OK);
    assert_eq!(lab.read("data/boathouse/taken-over"), record);
}

#[tokio::test]
async fn fallback_tags_are_left_to_clients_on_own_data_and_where_the_key_says_so() {
    let lab = Lab::open();
    let server = lab.serve().await;
    let client = Client::plain(server.address());
    let (image, _) = client.push_image("many/0", Some("v1"), LAYER, "").await;
    server.end();
    let server = lab.serve().await;
    assert_eq!(attach(&server, &image, 1).await, StatusCode::NOT_FOUND);
    assert!(!lab.path("data/boathouse/taken-over").exists());
    server.end();

    let configured = |words: &str| {
        let lab = Lab::configured(&format!(
            "http: {{addr: 'ADDRESS'}}\nstorage: {{filesystem: {{rootdirectory: DIR/data}}}}\n\
             compatibility: {{referrers_fallback_tags: {words}}}\n"
        ));
        let image = write_old_data(&lab, 1);
        (lab, image)
    };
    let (lab, image) = configured("false");
    let server = lab.serve().await;
    assert_eq!(attach(&server, &image, 1).await, StatusCode::NOT_FOUND);
    assert!(lab.path("data/boathouse/taken-over").exists());
    let (lab, image) = configured("true");
    // As an installation that is ours already.
    fs::create_dir_all(lab.path("data/boathouse/tmp")).unwrap();
    let server = lab.serve().await;
    assert!(!lab.path("data/boathouse/taken-over").exists());
    assert_eq!(attach(&server, &image, 1).await, StatusCode::OK);
}
