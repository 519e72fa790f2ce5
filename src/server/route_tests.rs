//! Tests of `route`.

use proptest::prelude::*;

use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn digest() -> Digest {
    format!("sha256:{HEX}").parse().unwrap()
}

fn parse(method: &str, uri: &str) -> Result<Route, RouteError> {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    Route::parse(&method.parse().unwrap(), path, query)
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
        ("GET", "/healthz".into(), Access::Public),
        ("GET", "/".into(), Access::Public),
        ("GET", "/readyz".into(), Access::Public),
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
        ("GET", "/v2/a/b/manifests/v1".into(), pull),
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
        ("DELETE", "/v2/a/b/manifests/v1".into(), delete),
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
    let reference = Reference::Digest(d.clone());
    let first = Route::Health;
    let mut labels = vec![first.label()];
    let mut current = first;
    loop {
        current = match current {
            Route::Health => Route::Ready,
            Route::Ready => Route::AuthorityCertificate,
            Route::AuthorityCertificate => Route::Token,
            Route::Token => Route::BaseRedirect,
            Route::BaseRedirect => Route::Base,
            Route::Base => Route::Catalog(PageRequest::default()),
            Route::Catalog(_) => Route::Tags(n.clone(), PageRequest::default()),
            Route::Tags(..) => Route::Referrers(n.clone(), d.clone(), None),
            Route::Referrers(..) => Route::BlobRead(n.clone(), d.clone()),
            Route::BlobRead(..) => Route::BlobDelete(n.clone(), d.clone()),
            Route::BlobDelete(..) => Route::UploadBegin(n.clone(), UploadStart::Session(None)),
            Route::UploadBegin(..) => Route::UploadAppend(n.clone(), id),
            Route::UploadAppend(..) => Route::UploadFinish(n.clone(), id, d.clone()),
            Route::UploadFinish(..) => Route::UploadStatus(n.clone(), id),
            Route::UploadStatus(..) => Route::UploadCancel(n.clone(), id),
            Route::UploadCancel(..) => Route::ManifestRead(n.clone(), reference.clone()),
            Route::ManifestRead(..) => Route::ManifestPut(n.clone(), reference.clone(), Vec::new()),
            Route::ManifestPut(..) => Route::ManifestDelete(n.clone(), reference.clone()),
            Route::ManifestDelete(..) => return labels,
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
        ("POST", "/v2/".into(), RouteError::Method("GET, HEAD")),
        (
            "PUT",
            format!("/v2/a/blobs/sha256:{HEX}"),
            RouteError::Method("GET, HEAD, DELETE"),
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
            "/v2/a%2fb/tags/list".into(),
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
            "GET",
            "/v2/a/manifests/sha256:bad".into(),
            RouteError::Digest(DigestError::Malformed),
        ),
        (
            "GET",
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
    fn any_text_is_a_route_or_an_error(method in "GET|HEAD|PUT|POST|PATCH|DELETE|X", path: String, query: String) {
        let _ = Route::parse(&method.parse().unwrap(), &path, &query);
        let _ = Route::parse(&method.parse().unwrap(), &format!("/v2/{path}"), &query);
    }
}
