//! Records for `boathouse version` which source the program is built from.
//!
//! Invariant: nothing here reads the machine's clock, so the same source makes the same program.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What can change the program; a change of any of them runs this script again.
const SOURCES: [&str; 4] = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!(
        "cargo::rustc-env=BOATHOUSE_TARGET={}",
        std::env::var("TARGET").unwrap_or_default()
    );
    if let Some(commit) = commit_of_repository().or_else(commit_of_crate) {
        println!("cargo::rustc-env=BOATHOUSE_COMMIT={}", commit.id);
        println!(
            "cargo::rustc-env=BOATHOUSE_COMMIT_MODIFIED={}",
            commit.modified
        );
        println!(
            "cargo::rustc-env=BOATHOUSE_COMMIT_UNIX_SECS={}",
            commit.unix_secs
        );
    }
}

struct Commit {
    id: String,
    /// Whether the sources differ from it.
    modified: bool,
    /// Its date; empty where it is not known.
    unix_secs: String,
}

/// The commit that is checked out, if this directory is the top of a repository: a copy of the source inside another
/// repository does not get that one's commit.
fn commit_of_repository() -> Option<Commit> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::var_os("CARGO_MANIFEST_DIR")?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(here).ok()? {
        return None;
    }
    // Gets a line with each commit, checkout and rebase.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    let changes = git(&[&["status", "--porcelain", "--"][..], &SOURCES[..]].concat())?;
    let head = git(&["log", "-1", "--format=%H %ct"])?;
    let (id, unix_secs) = head.split_once(' ')?;
    Some(Commit {
        id: id.to_owned(),
        modified: !changes.is_empty(),
        unix_secs: unix_secs.to_owned(),
    })
}

/// The commit that `cargo package` noted in the crate.
fn commit_of_crate() -> Option<Commit> {
    let note = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = note.split_once("\"sha1\"")?;
    let id = rest.split('"').nth(1)?;
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| Commit {
        id: id.to_owned(),
        modified: note.contains("\"dirty\": true"),
        unix_secs: String::new(),
    })
}

/// What git prints, without the end of its line; `None` if git is missing or fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
