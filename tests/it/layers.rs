//! The one strict order of modules, and the few names that may stand in one place only.
//!
//! A line scanner is enough: rustfmt keeps paths on their lines, and whatever it may miss (a path put together by a macro)
//! does not occur here. Comments are left out, so that documentation may point anywhere.

use std::fs;
use std::path::{Path, PathBuf};

/// Left to right: a module names itself and modules to its right.
const ORDER: [&str; 20] = [
    "cli",
    "instance",
    "config",
    "server",
    "metrics",
    "tls",
    "health",
    "registry",
    "auth",
    "client",
    "index",
    "store",
    "layout",
    "oci",
    "telemetry",
    "heartbeat",
    "clock",
    "host_port",
    "durable_file",
    "platform",
];

/// What may be named in few places only: the text, where it is at home, and why.
const AT_HOME: [(&str, &[&str], &str); 6] = [
    (
        "hyper::",
        &["server/", "client/", "store/s3/connector.rs"],
        "only `server`, `client` and the connection to a bucket know the HTTP library",
    ),
    (
        "target_os",
        &["platform.rs"],
        "what differs between platforms has one file",
    ),
    (
        "sled::",
        &["index/sled_engine.rs"],
        "the index can change its database in one file",
    ),
    (
        "ldap3::",
        &["auth/passwords/ldap.rs"],
        "one file knows the LDAP library",
    ),
    (
        "prometheus_client::",
        &["metrics/exposition.rs"],
        "one file knows the library of the text format",
    ),
    (
        "tokio::process",
        &["auth/program.rs"],
        "one file starts programs while the server runs",
    ),
];

/// A file holds one subject whole; one that is longer than this holds two.
const MAX_LINES: usize = 700;

#[test]
fn modules_name_only_modules_to_their_right() {
    let files = sources();
    assert!(
        files.len() > ORDER.len(),
        "the scan found only {} files",
        files.len()
    );
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| complaints(path, text))
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_module_has_its_place_in_the_order() {
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    let mut declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let mut ordered = ORDER;
    declared.sort_unstable();
    ordered.sort_unstable();
    assert_eq!(declared, ordered);
}

#[test]
fn the_order_is_the_same_wherever_it_is_written() {
    let docs = src().join("../docs/architecture.md");
    for path in [src().join("lib.rs"), docs] {
        let text = fs::read_to_string(&path).unwrap().replace("//!", "");
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_written = words.join(" ").contains(&ORDER.join(" > "));
        assert!(is_written, "{} shows another order", path.display());
    }
}

#[test]
fn a_planted_upward_import_is_found() {
    let upward = |text: &str| complaints("store/file.rs", text);
    assert_eq!(
        upward("use crate::oci::Digest;\nuse crate::registry::Registry;\n"),
        ["store/file.rs:2: `store` names `registry`, which is not to its right"]
    );
    assert_eq!(
        upward("fn f() -> crate::auth::Caller { todo!() }\n").len(),
        1,
        "an inline path"
    );
    assert_eq!(
        upward("use crate::{layout::Key, server};\n").len(),
        1,
        "a group"
    );
    assert_eq!(
        upward("use crate::{\n    clock::Clock,\n    index::{Index, Edge},\n};\n").len(),
        1,
        "a group over lines"
    );
    assert_eq!(
        upward("use super::server::Server;\n").len(),
        1,
        "by way of the parent"
    );
    assert_eq!(
        upward("pub(in crate::store) fn f() {}\nuse crate::store::Key;\n"),
        [""; 0],
        "its own module"
    );
    assert_eq!(
        upward("//! see `crate::server`\nlet a = 1; // crate::cli\n"),
        [""; 0],
        "a comment"
    );
}

#[test]
fn planted_names_away_from_home_are_found() {
    for (text, homes, _) in AT_HOME {
        let line = format!("    {text} x\n");
        assert_eq!(complaints("auth/mod.rs", &line).len(), 1, "{text}");
        for home in homes {
            let at_home = if home.ends_with('/') {
                format!("{home}mod.rs")
            } else {
                (*home).to_owned()
            };
            assert_eq!(complaints(&at_home, &line), [""; 0], "{text} in {at_home}");
        }
    }
    assert_eq!(
        complaints("auth/mod.rs", "use hyper_util::rt::TokioIo;\n").len(),
        1,
        "the library's companion"
    );
    assert_eq!(
        complaints("auth/mod.rs", &"\n".repeat(MAX_LINES + 1)).len(),
        1,
        "a long file"
    );
}

/// What is wrong with one file, a line each; `path` is relative to `src`.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code = without_comments(text);
    if let Some(own) = place(module_of(path)) {
        for (line, named) in modules_named(&code) {
            if place(named).is_some_and(|named| named < own) {
                let own = module_of(path);
                found.push(format!(
                    "{path}:{line}: `{own}` names `{named}`, which is not to its right"
                ));
            }
        }
    }
    for (text, homes, why) in AT_HOME {
        let is_at_home = homes.iter().any(|home| path.starts_with(home));
        // `hyper::` stands for `hyper_util::` too.
        let companion = text.replace("::", "_util::");
        for (number, line) in code.lines().enumerate() {
            if (line.contains(text) || line.contains(&companion)) && !is_at_home {
                let homes = homes.join(", ");
                found.push(format!(
                    "{path}:{}: `{text}` belongs in {homes}: {why}",
                    number + 1
                ));
            }
        }
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{path}: {lines} lines, more than {MAX_LINES}"));
    }
    found
}

/// What the code names as `crate::NAME` or inside `crate::{…}`, with its lines; `super::` counts too, since in a module's
/// first file it is the crate.
fn modules_named(code: &str) -> Vec<(usize, &str)> {
    let mut named = Vec::new();
    for (at, path) in code
        .match_indices("crate::")
        .chain(code.match_indices("super::"))
    {
        let start = at + path.len();
        let rest = &code[start..];
        let starts = if rest.starts_with('{') {
            group_members(rest)
        } else {
            vec![0]
        };
        for member in starts {
            let at = start + member;
            named.push((
                code[..at].matches('\n').count() + 1,
                identifier(&code[at..]),
            ));
        }
    }
    named
}

/// Where the members of `{a, b::{c, d}, e}` begin, nested groups left out.
pub(crate) fn group_members(group: &str) -> Vec<usize> {
    let mut starts = Vec::new();
    let (mut depth, mut expected) = (0_usize, false);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => (depth, expected) = (depth + 1, depth == 0),
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => expected = true,
            _ if expected && !letter.is_whitespace() => {
                starts.push(at);
                expected = false;
            }
            _ => {}
        }
    }
    starts
}

fn identifier(text: &str) -> &str {
    let end = text
        .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The text with every `//` comment cut off, its lines kept.
pub(crate) fn without_comments(text: &str) -> String {
    let uncommented = |line: &str| match line.find("//") {
        // The `//` of an address inside a string is no comment.
        Some(at) if !line[..at].ends_with(':') => line[..at].to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

/// `store/file.rs` and `store.rs` belong to `store`.
fn module_of(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or(path);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn place(module: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == module)
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file: its path relative to `src`, and its text.
pub(crate) fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![src()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(src())
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}
