//! How the files of the registry stand to each other, and the two things that only few of them may do.
//!
//! Reads the sources as `layers` does, tests left out.

use std::collections::{BTreeMap, BTreeSet};

use crate::layers::{group_members, sources, without_comments};

/// The files of the registry without their tests, by their path below `registry`: `""` for the front.
fn files() -> BTreeMap<String, String> {
    let product = |(path, text): (String, String)| {
        let name = path.strip_prefix("registry/")?.strip_suffix(".rs")?;
        let name = name
            .strip_suffix("mod")
            .unwrap_or(name)
            .trim_end_matches('/');
        let is_test = name.ends_with("tests") || name == "open_mode";
        let text = text.split("#[cfg(test)]\nmod tests {").next()?;
        (!is_test).then(|| (name.to_owned(), without_comments(text)))
    };
    let files: BTreeMap<String, String> = sources().into_iter().filter_map(product).collect();
    assert!(
        files.len() > 15,
        "the scan found only {} files",
        files.len()
    );
    files
}

/// Which other files each file names.
fn named(files: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for (file, text) in files {
        let paths = paths(text).into_iter();
        let named = paths.filter_map(|path| resolve(files, file, &path));
        let others: BTreeSet<String> = named.filter(|named| named != file).collect();
        all.insert(file.as_str(), others);
    }
    all
}

/// Every path that begins in the registry, groups taken apart.
fn paths(text: &str) -> Vec<String> {
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let mut found = Vec::new();
    for start in ["super::", "self::", "crate::registry::"] {
        for (at, _) in text.match_indices(start) {
            // `super::super::` is found where it begins, and `pub(in crate::registry)` is no path.
            if text[..at].ends_with("::") {
                continue;
            }
            let length = text[at..].find(|letter| !is_path(letter));
            let path = &text[at..at + length.unwrap_or(text.len() - at)];
            let rest = &text[at + path.len()..];
            if rest.starts_with('{') {
                for member in group_members(rest) {
                    let member = &rest[member..];
                    let length = member.find(|letter| !is_path(letter));
                    found.push(format!(
                        "{path}{}",
                        &member[..length.unwrap_or(member.len())]
                    ));
                }
            } else {
                found.push(path.to_owned());
            }
        }
    }
    found
}

/// The file that `path` leads to, seen from `file`: the last module in it that is one.
fn resolve(files: &BTreeMap<String, String>, file: &str, path: &str) -> Option<String> {
    let mut at: Vec<&str> = file.split('/').filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.peek() {
        match *part {
            "crate" => at.clear(),
            "registry" | "self" => {}
            "super" => {
                at.pop();
            }
            _ => break,
        }
        parts.next();
    }
    for part in parts {
        let below = [&at[..], &[part]].concat();
        if !files.contains_key(&below.join("/")) {
            break;
        }
        at = below;
    }
    let found = at.join("/");
    files.contains_key(&found).then_some(found)
}

/// Files that stand in a circle, or lead into one.
fn circles<'a>(named: &BTreeMap<&'a str, BTreeSet<String>>) -> Vec<&'a str> {
    let mut left: Vec<&str> = named.keys().copied().collect();
    loop {
        let before = left.len();
        let others = left.clone();
        left.retain(|file| others.iter().any(|other| named[file].contains(*other)));
        if left.len() == before {
            return left;
        }
    }
}

#[test]
fn no_files_of_the_registry_know_each_other_in_a_circle() {
    let files = files();
    let named = named(&files);
    assert_eq!(circles(&named), [""; 0], "{named:#?}");
    // The scan sees what there is to see.
    assert!(named["index_sync/reading"].contains("core"));
    assert!(named["locks"].contains("index_sync/gate"));
    let mut planted = files.clone();
    let core = planted.get_mut("core").expect("the core");
    core.push_str("use super::{error::RegistryError,\n    blobs::Blobs};\n");
    let named = self::named(&planted);
    assert!(
        circles(&named).contains(&"blobs"),
        "a planted circle was not found"
    );
}

#[test]
fn a_room_knows_no_other_room() {
    const ROOMS: [&str; 7] = [
        "repositories",
        "uploads",
        "blobs",
        "manifests",
        "listings",
        "index_sync",
        "readiness",
    ];
    for (file, named) in named(&files()) {
        let of_room = ROOMS.contains(&file);
        let others: Vec<&String> = named
            .iter()
            .filter(|named| ROOMS.contains(&named.as_str()))
            .collect();
        assert!(!of_room || others.is_empty(), "{file} knows {others:?}");
    }
}

fn files_with(text: &str) -> Vec<String> {
    let files = files().into_iter();
    let with = files.filter(|(_, source)| source.contains(text));
    with.map(|(file, _)| file).collect()
}

#[test]
fn nothing_but_a_commit_changes_the_store() {
    // A copy is written to another store, which is not served meanwhile.
    assert_eq!(files_with(".apply("), ["commit", "moving"]);
    assert_eq!(files_with("upload.finish("), ["commit", "moving"]);
}

/// A task that is an actor of its own could hold locks beside those of an operation. Handing back runs where nothing is served.
#[test]
fn only_the_loops_of_tasks_are_actors_of_their_own() {
    assert_eq!(
        files_with("Actor::task("),
        // The front: a backup keeps a repository quiet, and changes nothing.
        [
            "",
            "blobs",
            "handing_back",
            "index_sync",
            "index_sync/reading"
        ]
    );
}
