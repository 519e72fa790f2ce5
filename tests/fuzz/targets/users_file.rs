//! YAML: any text is read or refused, and what was read is written so that it reads back the same.

#![no_main]

use boathouse::config::{Place, UsersFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let place = Place::file(std::path::Path::new("users.yml"));
    if let Ok(file) = UsersFile::parse(text, &place) {
        let again = UsersFile::parse(&file.render(), &place).expect("our own text");
        assert_eq!(again.render(), file.render());
    }
});
