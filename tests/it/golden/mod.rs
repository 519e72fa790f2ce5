//! What the program must print; see `compare`.

use std::fs;
use std::path::{Path, PathBuf};

mod compare;

pub(crate) use compare::golden;

/// All files with Rust below a directory, as one text.
fn sources(directory: &Path) -> String {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let text = |path: PathBuf| {
        if path.is_dir() {
            return sources(&path);
        }
        let is_rust = path.extension().is_some_and(|end| end == "rs");
        if is_rust {
            fs::read_to_string(path).unwrap()
        } else {
            String::new()
        }
    };
    paths.into_iter().map(text).collect()
}

#[test]
fn every_text_here_is_compared_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = sources(&root.join("tests/it")) + &sources(&root.join("src"));
    for entry in fs::read_dir(root.join("tests/it/golden")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_compared = ["mod.rs", "compare.rs"].contains(&&*name)
            || sources.contains(&format!("\"{name}\""))
            || sources.contains(&format!("golden/{name}\""));
        assert!(is_compared, "no test compares {name}");
    }
}
