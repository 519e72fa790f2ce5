//! Manifests: any bytes are read or refused, within a bounded stack.

#![no_main]

use boathouse::oci::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let media_type = Manifest::media_type_of(bytes);
    if let Ok(manifest) = Manifest::parse(bytes, Some(&media_type)) {
        assert!(manifest.children().is_empty() || manifest.blobs().next().is_none());
    }
});
