//! Requests: any method, path and query is a route or an error, and a route's names are safe in a path.

#![no_main]

use boathouse::server::{RequestPath, Route};
use libfuzzer_sys::fuzz_target;

// As in a request line: a method, a space, a path, perhaps `?` and a query.
fuzz_target!(|text: &str| {
    let Some((method, target)) = text.split_once(' ') else {
        return;
    };
    let Ok(method) = http::Method::from_bytes(method.as_bytes()) else {
        return;
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = RequestPath::decode(path);
    if let Ok(route) = Route::parse(&method, &path, query) {
        assert!(!route.label().is_empty());
        let access = format!("{:?}", route.access());
        assert!(!access.contains(".."), "{access}");
    }
});
