//! Requests: any method, path and query is a route or an error, and a route's names are safe in a path.

#![no_main]

use boathouse::server::Route;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &str, &str)| {
    let (method, path, query) = input;
    let methods = [http::Method::GET, http::Method::PUT, http::Method::POST, http::Method::PATCH, http::Method::DELETE];
    let method = &methods[usize::from(method) % methods.len()];
    for path in [path.to_owned(), format!("/v2/{path}")] {
        if let Ok(route) = Route::parse(method, &path, query) {
            let access = format!("{:?}", route.access());
            assert!(!access.contains(".."), "{access}");
        }
    }
});
