//! Tests of `route`.

use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A registry that takes all that there is.
const ALL: Takes = Takes {
    writes: true,
    deletes: true,
};

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn digest() -> Digest {
    format!("sha256:{HEX}").parse().unwrap()
}

fn parse(method: &str, uri: &str) -> Result<Route, RouteError> {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    Route::parse(&method.parse().unwrap(), &RequestPath::decode(path), query)
}

/// One request for each endpoint, and what it must need. The match below makes a new endpoint fail to compile here.
fn endpoints() -> Vec<(&'static str, String, Access)> {
    let id = UploadId::from_parts(1, 2);
    let (pull, push, delete) = (
        Access::Pull(name("a/b")),
        Access::Push(name("a/b")),
        Access::Delete(name("a/b")),
    );
    let session = |usage| Access::Session(name("a/b"), usage);
    vec![
        ("OPTIONS", "/v2/a/b/manifests/v1".into(), Access::Public),
        ("GET", "/healthz".into(), Access::Public),
        ("GET", "/".into(), Access::Public),
        ("GET", "/readyz".into(), Access::Public),
        ("GET", "/metrics".into(), Access::Metrics),
        ("GET", "/ca.crt".into(), Access::Public),
        ("GET", "/v2".into(), Access::Public),
        ("GET", "/token?service=x".into(), Access::Public),
        ("POST", "/auth".into(), Access::Public),
        ("POST", "/auth/token".into(), Access::Public),
        ("GET", "/v2/".into(), Access::Any),
        ("GET", "/v2/_catalog?n=1&last=a".into(), Access::Catalog),
        ("GET", "/v2/a/b/tags/list".into(), pull.clone()),
        (
            "GET",
            format!("/v2/a/b/referrers/sha256:{HEX}"),
            pull.clone(),
        ),
        ("HEAD", format!("/v2/a/b/blobs/sha256:{HEX}"), pull.clone()),
        ("GET", "/v2/a/b/manifests/v1".into(), pull.clone()),
        ("GET", "/v2/a/b/manifests/.v1".into(), pull),
        ("POST", "/v2/a/b/blobs/uploads/".into(), push.clone()),
        ("PUT", "/v2/a/b/manifests/v1".into(), push),
        (
            "PATCH",
            format!("/v2/a/b/blobs/uploads/{id}"),
            session(SessionUse::Write),
        ),
        (
            "PUT",
            format!("/v2/a/b/blobs/uploads/{id}?digest=sha256:{HEX}"),
            session(SessionUse::Write),
        ),
        (
            "DELETE",
            format!("/v2/a/b/blobs/uploads/{id}"),
            session(SessionUse::Write),
        ),
        (
            "GET",
            format!("/v2/a/b/blobs/uploads/{id}"),
            session(SessionUse::Status),
        ),
        (
            "DELETE",
            format!("/v2/a/b/blobs/sha256:{HEX}"),
            delete.clone(),
        ),
        ("DELETE", "/v2/a/b/manifests/v1".into(), delete.clone()),
        ("DELETE", "/v2/a/b/_boathouse/repository".into(), delete),
    ]
}

#[test]
fn every_endpoint_needs_what_the_table_says() {
    let mut seen = std::collections::BTreeSet::new();
    for (method, uri, access) in endpoints() {
        let route = parse(method, &uri).unwrap_or_else(|error| panic!("{method} {uri}: {error}"));
        assert_eq!(route.access(), access, "{method} {uri}");
        seen.insert(route.label());
    }
    // Every variant has a label of its own, and this list is checked by the compiler: see `all_labels`.
    assert_eq!(seen, all_labels().into_iter().collect());
}

/// The labels of all variants. A new variant breaks the match, and then the table above lacks its row.
fn all_labels() -> Vec<&'static str> {
    let (n, d, id) = (name("a"), digest(), UploadId::from_parts(0, 0));
    let reference = Reference::Digest(d);
    let first = Route::Options;
    let mut labels = vec![first.label()];
    let mut current = first;
    loop {
        current = match current {
            Route::Options => Route::Health,
            Route::Health => Route::Ready,
            Route::Ready => Route::Metrics,
            Route::Metrics => Route::AuthorityCertificate,
            Route::AuthorityCertificate => Route::Token,
            Route::Token => Route::BaseRedirect,
            Route::BaseRedirect => Route::Base,
            Route::Base => Route::Catalog(PageRequest::default()),
            Route::Catalog(_) => Route::Tags(n.clone(), PageRequest::default()),
            Route::Tags(..) => Route::Referrers(n.clone(), d, None, PageRequest::default()),
            Route::Referrers(..) => Route::BlobRead(n.clone(), d),
            Route::BlobRead(..) => Route::BlobDelete(n.clone(), d),
            Route::BlobDelete(..) => Route::UploadBegin(n.clone(), UploadStart::Session(None)),
            Route::UploadBegin(..) => Route::UploadAppend(n.clone(), id),
            Route::UploadAppend(..) => Route::UploadFinish(n.clone(), id, d),
            Route::UploadFinish(..) => Route::UploadStatus(n.clone(), id),
            Route::UploadStatus(..) => Route::UploadCancel(n.clone(), id),
            Route::UploadCancel(..) => Route::ManifestRead(n.clone(), reference.clone()),
            Route::ManifestRead(..) => Route::ManifestNowhere(n.clone()),
            Route::ManifestNowhere(_) => {
                Route::ManifestPut(n.clone(), reference.clone(), Vec::new())
            }
            Route::ManifestPut(..) => Route::ManifestDelete(n.clone(), reference.clone()),
            Route::ManifestDelete(..) => Route::RepositoryDelete(n.clone(), Spares::Nothing),
            Route::RepositoryDelete(..) => return labels,
        };
        labels.push(current.label());
    }
}

#[test]
fn names_may_contain_the_words_of_the_api() {
    let uri = "/v2/tags/list/manifests/blobs/uploads/tags/list";
    assert_eq!(
        parse("GET", uri),
        Ok(Route::Tags(
            name("tags/list/manifests/blobs/uploads"),
            PageRequest::default()
        ))
    );
    let uri = format!("/v2/blobs/uploads/blobs/sha256:{HEX}");
    assert_eq!(
        parse("GET", &uri),
        Ok(Route::BlobRead(name("blobs/uploads"), digest()))
    );
}

#[test]
fn what_is_wrong_is_told() {
    let id = UploadId::from_parts(1, 2);
    let long = "a".repeat(256);
    let cases = [
        ("GET", "/v3/".to_owned(), RouteError::NotFound),
        ("GET", "//v2/".into(), RouteError::NotFound),
        ("GET", "/v2/a/b".into(), RouteError::NotFound),
        ("GET", "/v2/a/tags/list/".into(), RouteError::NotFound),
        (
            "GET",
            "/v2//tags/list".into(),
            RouteError::Name(NameError::Malformed),
        ),
        ("GET", "/v2/tags/list".into(), RouteError::NotFound),
        ("POST", "/v2/".into(), RouteError::Method),
        (
            "PUT",
            format!("/v2/a/blobs/sha256:{HEX}"),
            RouteError::Method,
        ),
        (
            "GET",
            "/v2/A/tags/list".into(),
            RouteError::Name(NameError::Malformed),
        ),
        (
            "GET",
            "/v2/a/../b/tags/list".into(),
            RouteError::Name(NameError::Malformed),
        ),
        (
            "GET",
            "/v2/a/%2e%2e/tags/list".into(),
            RouteError::Name(NameError::Malformed),
        ),
        (
            "GET",
            "/v2/a%252fb/tags/list".into(),
            RouteError::Name(NameError::Malformed),
        ),
        (
            "GET",
            "/v2/a%ff/tags/list".into(),
            RouteError::Name(NameError::Malformed),
        ),
        (
            "GET",
            "/v2/a%00/tags/list".into(),
            RouteError::Name(NameError::Malformed),
        ),
        (
            "GET",
            "/v2/a%2f..%2fb/tags/list".into(),
            RouteError::Name(NameError::Malformed),
        ),
        (
            "GET",
            format!("/v2/{long}/tags/list"),
            RouteError::Name(NameError::TooLong),
        ),
        (
            "GET",
            "/v2/a/blobs/sha256:zz".into(),
            RouteError::Digest(DigestError::Malformed),
        ),
        (
            "PUT",
            "/v2/a/manifests/sha256:bad".into(),
            RouteError::Digest(DigestError::Malformed),
        ),
        (
            "DELETE",
            "/v2/a/manifests/.a".into(),
            RouteError::Tag(TagError),
        ),
        (
            "PUT",
            format!("/v2/a/blobs/uploads/{id}"),
            RouteError::Digest(DigestError::Malformed),
        ),
        ("PATCH", "/v2/a/blobs/uploads/..".into(), RouteError::Upload),
        ("GET", "/v2/_catalog?n=-1".into(), RouteError::PageCount),
        ("GET", "/v2/a/tags/list?n=x".into(), RouteError::PageCount),
        (
            "POST",
            "/v2/a/blobs/uploads/?mount=zz".into(),
            RouteError::Digest(DigestError::Malformed),
        ),
    ];
    for (method, uri, error) in cases {
        assert_eq!(parse(method, &uri), Err(error), "{method} {uri}");
    }
}

#[test]
fn an_escaped_slash_is_a_slash_and_nothing_is_decoded_twice() {
    let tags = Ok(Route::Tags(name("a/b"), PageRequest::default()));
    for path in [
        "/v2/a%2Fb/tags/list",
        "/v2/a%2fb/tags%2Flist",
        "/v2%2f%61/b/tags/%6cist",
    ] {
        assert_eq!(parse("GET", path), tags, "{path}");
    }
    let twice = parse("GET", "/v2/a%252Fb/tags/list");
    assert_eq!(twice, Err(RouteError::Name(NameError::Malformed)));
}

#[test]
fn a_prefix_is_taken_off_after_decoding() {
    let below = |raw: &str| RequestPath::decode(raw).below("/reg/").as_str().to_owned();
    assert_eq!(below("/reg/v2/a"), "/v2/a");
    assert_eq!(below("/reg%2Fv2/a"), "/v2/a");
    assert_eq!(below("/region/v2/"), "/region/v2/");
    assert_eq!(below("/healthz"), "/healthz");
}

#[test]
fn a_manifest_is_read_nowhere_under_what_is_no_reference() {
    let long = "a".repeat(129);
    for reference in [
        ".INVALID_MANIFEST_NAME",
        "-a",
        "",
        "a+b",
        "a%20b",
        "%2E%2E",
        "%00",
        "%ff",
        "%252F",
        &long,
        "sha256:abc",
        "sha256:",
        "md5:00",
        ":",
        "a:b",
    ] {
        for method in ["GET", "HEAD"] {
            let route = parse(method, &format!("/v2/a/manifests/{reference}"));
            let nowhere = Ok(Route::ManifestNowhere(name("a")));
            assert_eq!(route, nowhere, "{method} {reference:?}");
        }
        for method in ["PUT", "DELETE"] {
            let route = parse(method, &format!("/v2/a/manifests/{reference}"));
            let is_refused = matches!(route, Err(RouteError::Tag(_) | RouteError::Digest(_)));
            assert!(is_refused, "{method} {reference:?}: {route:?}");
        }
    }
}

#[test]
fn an_empty_page_or_filter_is_absent() {
    let first_page = Ok(Route::Catalog(PageRequest::default()));
    assert_eq!(parse("GET", "/v2/_catalog?n=&last="), first_page);
    let uri = format!("/v2/a/blobs/uploads/?mount=sha256:{HEX}&from=");
    let mount = UploadStart::Mount(digest(), None);
    assert_eq!(
        parse("POST", &uri),
        Ok(Route::UploadBegin(name("a"), mount))
    );
    // A digest that is named must be one.
    let uri = "/v2/a/blobs/uploads/?mount=";
    assert_eq!(
        parse("POST", uri),
        Err(RouteError::Digest(DigestError::Malformed))
    );
}

#[test]
fn every_method_that_a_path_lists_is_taken_there_and_no_other() {
    let id = UploadId::from_parts(1, 2);
    let paths = [
        "/".to_owned(),
        "/readyz".into(),
        "/metrics".into(),
        "/ca.crt".into(),
        "/token".into(),
        "/v2".into(),
        "/v2/".into(),
        "/v2/_catalog".into(),
        "/v2/a/tags/list".into(),
        format!("/v2/a/referrers/sha256:{HEX}"),
        format!("/v2/a/blobs/sha256:{HEX}"),
        "/v2/a/manifests/v1".into(),
        "/v2/a/blobs/uploads/".into(),
        format!("/v2/a/blobs/uploads/{id}"),
        "/nowhere".into(),
    ];
    for path in paths {
        let methods = RequestPath::decode(&path).methods(ALL);
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "BREW"] {
            let is_listed = methods.split(", ").any(|listed| listed == method);
            let route = parse(method, &format!("{path}?digest=sha256:{HEX}"));
            assert_eq!(route.is_ok(), is_listed, "{method} {path}: {route:?}");
        }
        assert_eq!(parse("OPTIONS", &path), Ok(Route::Options), "{path}");
    }
    // The names in a path may be anything.
    let odd = RequestPath::decode("/v2/A/..%2f/manifests/.x");
    assert_eq!(odd.methods(ALL), "GET, HEAD, PUT, DELETE");
    // And what the registry does not take, no path has.
    let methods = |path: &str, writes, deletes| {
        let path = RequestPath::decode(path);
        path.methods(Takes { writes, deletes })
    };
    let session = format!("/v2/a/blobs/uploads/{id}");
    assert_eq!(methods("/v2/a/manifests/v1", true, false), "GET, HEAD, PUT");
    assert_eq!(methods("/v2/a/manifests/v1", false, true), "GET, HEAD");
    assert_eq!(
        methods(&session, true, false),
        "GET, HEAD, PATCH, PUT, DELETE"
    );
    assert_eq!(methods(&session, false, false), "GET, HEAD");
    assert_eq!(methods("/token", false, false), "GET, HEAD, POST");
    assert_eq!(
        methods("*", true, true),
        "GET, HEAD, POST, PUT, PATCH, DELETE"
    );
}

#[test]
fn an_escaped_colon_is_a_colon() {
    assert_eq!(
        parse("GET", &format!("/v2/a/blobs/sha256%3A{HEX}")),
        Ok(Route::BlobRead(name("a"), digest()))
    );
}

#[test]
fn an_upload_begins_in_three_ways() {
    let start = |query: String| match parse("POST", &format!("/v2/a/blobs/uploads/{query}")) {
        Ok(Route::UploadBegin(_, start)) => start,
        other => panic!("{other:?}"),
    };
    assert_eq!(start(String::new()), UploadStart::Session(None));
    assert_eq!(
        start("?digest-algorithm=sha512".into()),
        UploadStart::Session(Some(Algorithm::Sha512))
    );
    assert_eq!(
        start(format!("?digest=sha256:{HEX}")),
        UploadStart::Whole(digest())
    );
    assert_eq!(
        start(format!("?mount=sha256:{HEX}")),
        UploadStart::Mount(digest(), None)
    );
    assert_eq!(
        start(format!("?mount=sha256:{HEX}&from=c/d")),
        UploadStart::Mount(digest(), Some(name("c/d")))
    );
    assert_eq!(
        start(format!("?mount=sha256:{HEX}&from=NOT")),
        UploadStart::Session(None)
    );
}

proptest! {
    #[test]
    fn any_text_is_a_route_or_an_error(method in "GET|HEAD|PUT|POST|PATCH|DELETE|OPTIONS|X", path: String, query: String) {
        for path in [path.clone(), format!("/v2/{path}")] {
            let path = RequestPath::decode(&path);
            let _ = path.methods(ALL);
            let _ = Route::parse(&method.parse().unwrap(), &path, &query);
        }
    }
}
