//! What every engine does: one suite over the seam, and a comparison with the model.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::IndexError;
use super::engine::RealDisk;
use super::engine::{Engine, MemoryEngine, Op, SCAN_MAX, Tree, VALUE_BYTES_MAX};
use super::sled_engine::SledEngine;

fn sled(directory: &Path) -> SledEngine {
    SledEngine::open(&directory.join("index"), Arc::new(RealDisk)).unwrap()
}

#[test]
fn memory_conforms() {
    check_all(&MemoryEngine::default());
}

#[test]
fn sled_conforms() {
    let directory = tempfile::tempdir().unwrap();
    check_all(&sled(directory.path()));
}

#[test]
fn sled_keeps_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let first = sled(directory.path());
    first.commit(vec![put(Tree::Tags, "a", "1")]).unwrap();
    drop(first);
    let second = sled(directory.path());
    assert_eq!(second.get(Tree::Tags, b"a").unwrap().unwrap(), b"1");
}

fn check_all(engine: &dyn Engine) {
    reading(engine);
    scanning(engine);
    atomicity(engine);
}

fn put(tree: Tree, key: &str, value: &str) -> Op {
    Op {
        tree,
        key: key.into(),
        value: Some(value.into()),
    }
}

fn delete(tree: Tree, key: &str) -> Op {
    let (key, value) = (key.into(), None);
    Op { tree, key, value }
}

fn keys(engine: &dyn Engine, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map(str::as_bytes);
    let pairs = engine.scan(Tree::Tags, prefix.as_bytes(), after, limit);
    let pairs = pairs.unwrap().into_iter();
    pairs
        .map(|(key, _)| String::from_utf8(key).unwrap())
        .collect()
}

fn reading(engine: &dyn Engine) {
    assert_eq!(engine.get(Tree::Edges, b"a").unwrap(), None);
    let ops = vec![put(Tree::Edges, "a", "1"), put(Tree::Sizes, "a", "2")];
    engine.commit(ops).unwrap();
    assert_eq!(engine.get(Tree::Edges, b"a").unwrap().unwrap(), b"1");
    assert_eq!(engine.get(Tree::Sizes, b"a").unwrap().unwrap(), b"2");
    // The last word on a key counts.
    let ops = vec![put(Tree::Edges, "a", "3"), delete(Tree::Edges, "a")];
    engine.commit(ops).unwrap();
    assert_eq!(engine.get(Tree::Edges, b"a").unwrap(), None);
    assert_eq!(engine.get(Tree::Sizes, b"a").unwrap().unwrap(), b"2");
    engine.commit(vec![delete(Tree::Edges, "never")]).unwrap();
    engine.commit(Vec::new()).unwrap();
}

fn scanning(engine: &dyn Engine) {
    let names = ["a", "a-", "a/", "a/b", "a\u{ff}", "b"];
    let ops = names.iter().rev().map(|name| put(Tree::Tags, name, "x"));
    engine.commit(ops.collect()).unwrap();
    assert_eq!(keys(engine, "", None, SCAN_MAX), names);
    assert_eq!(keys(engine, "a", None, 3), names[..3]);
    assert_eq!(keys(engine, "a", Some("a-"), 9), names[2..5]);
    assert_eq!(keys(engine, "a", Some("a/a"), 1), ["a/b"]);
    // Whatever `after` is, nothing outside the prefix.
    assert_eq!(keys(engine, "a/", Some("0"), 9), ["a/", "a/b"]);
    assert!(keys(engine, "a/", Some("z"), 9).is_empty());
    assert!(keys(engine, "c", None, 9).is_empty());
    let many = (0..=SCAN_MAX).map(|number| put(Tree::Tags, &format!("m{number}"), ""));
    engine.commit(many.collect()).unwrap();
    assert_eq!(keys(engine, "m", None, usize::MAX).len(), SCAN_MAX);
}

fn atomicity(engine: &dyn Engine) {
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    let ops = vec![put(Tree::Layers, "a", "1"), put(Tree::Holders, "a", &long)];
    let error = engine.commit(ops).unwrap_err();
    assert!(matches!(error, IndexError::Unavailable { .. }));
    assert_eq!(engine.get(Tree::Layers, b"a").unwrap(), None);
    // That was refused, not a failure.
    engine.health().unwrap();
}

fn any_op() -> impl Strategy<Value = Op> {
    let tree = (0..Tree::ALL.len()).prop_map(|at| Tree::ALL[at]);
    let key = "[ab/]{0,4}".prop_map(String::into_bytes);
    let value = proptest::option::of("[a-z]{0,8}".prop_map(String::into_bytes));
    (tree, key, value).prop_map(|(tree, key, value)| Op { tree, key, value })
}

proptest! {
    // Each case opens a database: few, but long ones.
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn sled_does_as_the_model(commits in proptest::collection::vec(proptest::collection::vec(any_op(), 0..40), 1..12), prefix in "[ab/]{0,2}", after in proptest::option::of("[ab/]{0,3}"), limit in 0..9_usize) {
        let directory = tempfile::tempdir().unwrap();
        let (sled, model) = (sled(directory.path()), MemoryEngine::default());
        for ops in commits {
            sled.commit(ops.clone()).unwrap();
            model.commit(ops).unwrap();
        }
        for tree in Tree::ALL {
            let scan = |engine: &dyn Engine, limit| engine
                .scan(tree, prefix.as_bytes(), after.as_deref().map(str::as_bytes), limit)
                .unwrap();
            prop_assert_eq!(scan(&sled, limit), scan(&model, limit));
            prop_assert_eq!(scan(&sled, SCAN_MAX), scan(&model, SCAN_MAX));
        }
    }
}
