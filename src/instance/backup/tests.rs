//! What a backup says of changes that come between its steps.

use super::*;
use crate::config;

/// What a backup says, and holds.
struct Made {
    damaged: Vec<String>,
    /// What its links lead to.
    linked: BTreeSet<Digest>,
    /// The blobs whose bytes it has.
    blobs: BTreeSet<Digest>,
}

/// Writes a blob, and its link in `team/scratch`, into the data at `root`.
fn put(root: &Path, content: &str) -> Digest {
    let name: RepositoryName = "team/scratch".parse().unwrap();
    let digest = Digest::of(Algorithm::Sha256, content.as_bytes());
    let link = digest.to_string();
    for (place, content) in [
        (Place::BlobData(digest), content),
        (Place::LayerLink(&name, digest), link.as_str()),
    ] {
        let path = root.join(place.key().as_str());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    digest
}

/// The files below `directory`.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// A backup of a repository with one blob that no other repository has, where `meanwhile` happens between the reading of its
/// links and the copying of its blob.
fn back_up_while(meanwhile: fn(&Path)) -> Made {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    put(&root, "bytes");
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
    let mut linked = BTreeSet::new();
    let mut blobs = BTreeSet::new();
    let data = elsewhere.path().join("data");
    for file in files_below(&data) {
        let key = file.strip_prefix(&data).unwrap().to_str().unwrap();
        match OwnedPlace::parse(key) {
            Some(OwnedPlace::BlobData(digest)) => {
                blobs.insert(digest);
            }
            Some(OwnedPlace::LayerLink(..)) => {
                linked.extend(digest_in(&fs::read(&file).unwrap()));
            }
            _ => {}
        }
    }
    Made {
        damaged: made.unwrap().record.damaged,
        linked,
        blobs,
    }
}

/// The links of one moment decide what is copied. Read again after the bytes, they would lead to what is not in the backup.
#[test]
fn a_link_of_the_backup_leads_to_bytes_of_the_backup_whatever_is_pushed_or_deleted_meanwhile() {
    let pushed = back_up_while(|root| {
        put(root, "pushed meanwhile");
    });
    let first = BTreeSet::from([Digest::of(Algorithm::Sha256, b"bytes")]);
    assert_eq!(pushed.blobs, first);
    assert_eq!(
        pushed.linked, first,
        "a link of the backup leads to bytes that it does not hold"
    );
    let deleted = back_up_while(|root| {
        fs::remove_dir_all(root.join("docker/registry/v2/repositories/team/scratch")).unwrap();
        fs::remove_dir_all(root.join("docker/registry/v2/blobs")).unwrap();
    });
    assert_eq!(deleted.blobs, BTreeSet::new());
    assert_eq!(
        deleted.linked,
        BTreeSet::new(),
        "it was deleted with its bytes"
    );
    // Where only the bytes are lost, the link stays, and the damage is named.
    let lost = back_up_while(|root| {
        fs::remove_dir_all(root.join("docker/registry/v2/blobs")).unwrap();
    });
    assert_eq!((lost.linked, lost.damaged.len()), (first, 1));
}

#[test]
fn bytes_that_were_deleted_with_their_repository_are_no_damage() {
    let damage = |meanwhile: fn(&Path)| back_up_while(meanwhile).damaged;
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
