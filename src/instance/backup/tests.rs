//! What a backup says of changes that come between its steps.

use super::*;
use crate::config;

/// The data of a repository with one blob that no other repository has, and what a backup of it says if `meanwhile` happens
/// between the reading of its links and the copying of its blob.
fn damage(meanwhile: fn(&Path)) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    let name: RepositoryName = "team/scratch".parse().unwrap();
    let digest = Digest::of(Algorithm::Sha256, b"bytes");
    let link = digest.to_string();
    for (place, content) in [
        (Place::BlobData(digest), "bytes"),
        (Place::LayerLink(&name, digest), link.as_str()),
    ] {
        let path = root.join(place.key().as_str());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let file = directory.path().join("boathouse.yml");
    let text = format!(
        "storage: {{filesystem: {{rootdirectory: {}}}}}",
        root.display()
    );
    fs::write(&file, text).unwrap();
    let files = [file];
    let environment = std::collections::BTreeMap::new();
    let config = config::load(&files, &environment).unwrap().config;
    let elsewhere = tempfile::tempdir().unwrap();
    let made = back_up(&Job {
        config: &config,
        relocated: &config::relocated(&files, &environment).unwrap(),
        config_directory: directory.path(),
        destination: elsewhere.path(),
        reads_all: false,
        quietly: &|_, read| {
            read()?;
            meanwhile(&root);
            Ok(())
        },
        tell: &|_| {},
    });
    made.unwrap().record.damaged
}

#[test]
fn bytes_that_were_deleted_with_their_repository_are_no_damage() {
    assert_eq!(damage(|_| {}), [""; 0]);
    let lost = damage(|root| fs::remove_dir_all(root.join("docker/registry/v2/blobs")).unwrap());
    assert!(
        lost.len() == 1 && lost[0].contains("cannot be read"),
        "{lost:?}"
    );
    let deleted = damage(|root| {
        fs::remove_dir_all(root.join("docker/registry/v2/repositories/team/scratch")).unwrap();
        fs::remove_dir_all(root.join("docker/registry/v2/blobs")).unwrap();
    });
    assert_eq!(deleted, [""; 0]);
}
