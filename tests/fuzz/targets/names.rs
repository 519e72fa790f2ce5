//! Digests, names, references, scopes, ranges, keys: whatever parses prints as it was.

#![no_main]

use std::ops::Range;

use boathouse::layout::{OwnedPlace, UploadId};
use boathouse::oci::range::{Requested, Selected, Sent};
use boathouse::oci::{Digest, Reference, RepositoryName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(name) = text.parse::<RepositoryName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
    if let Ok(id) = text.parse::<UploadId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Some(place) = OwnedPlace::parse(text) {
        assert_eq!(place.key().as_str(), text);
    }
    let _ = text.parse::<boathouse::oci::scope::Scope>();
    let _ = Sent::parse(text);
    let is_within = |range: &Range<u64>| range.start < range.end && range.end <= 1_000;
    match Requested::parse(Some(text)).within(1_000) {
        Selected::Part(range) => assert!(is_within(&range)),
        Selected::Parts(ranges) => assert!(ranges.iter().all(is_within)),
        Selected::Whole | Selected::Unsatisfiable => {}
    }
});
