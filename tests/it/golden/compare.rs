//! Texts that the program must print, whole: one file each in `tests/it/golden`.
//!
//! `BOATHOUSE_GOLDEN_RENEW=yes cargo test` writes what is printed now in place of comparing. Read what that changed before
//! it is committed. The unit tests of the library include this file too.

use std::fs;
use std::path::Path;

/// Sees that `found` is the text in `tests/it/golden/NAME`.
#[track_caller]
pub(crate) fn golden(name: &str, found: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    let path = directory.join(name);
    if std::env::var_os("BOATHOUSE_GOLDEN_RENEW").is_some() {
        return fs::write(path, found).expect("written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "this is not {}:\n{found}\nhint: if it should be, BOATHOUSE_GOLDEN_RENEW=yes cargo test writes it there\n\
         expected:\n{expected}",
        path.display()
    );
}
