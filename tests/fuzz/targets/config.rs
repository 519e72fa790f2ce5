//! Configuration: any text is read or refused, and every refusal says what is wrong.

#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use boathouse::config;
use libfuzzer_sys::fuzz_target;

/// One for each process that fuzzes; in memory where the system has such a place.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
    place.join(format!("boathouse-fuzz-{}.yml", std::process::id()))
});

fuzz_target!(|text: &str| {
    std::fs::write(&*FILE, text).expect("a file");
    // Without looking at certificates: what a text names must not be opened.
    if let Err(errors) = config::load_again(std::slice::from_ref(&*FILE), &BTreeMap::new()) {
        assert!(!errors.to_string().is_empty());
    }
});
