//! The lists that are measured, of any registry.

use tokio::time::Instant;

use super::requests::{Outcome, Requests};
use super::server::Server;
use super::table::Figure;
use super::tree::{REFERRERS, SIGNED, TAGGED, Tree};
use crate::support::Answer;

/// A page that is asked for, and one that is not.
const PAGES: [(Option<usize>, &str); 2] = [(Some(100), "n=100"), (None, "default size")];
const DEFAULT_PAGE: usize = 1_000;
/// What docker-registry 2.8.2 gives of the catalog where no number is asked for.
const OTHER_DEFAULT_CATALOG_PAGE: usize = 100;

/// What a registry has of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    Whole,
    /// docker-registry 2.8 ignores `n` and `last` of tags, lists them as the directory has them, and knows no referrers.
    WithoutTagPagesAndReferrers,
}

/// Whether names must come sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    OfBytes,
    Any,
}

/// Rows of what, and its figure; the same rows for every registry.
pub(super) async fn measure(server: &Server, tree: &Tree, api: Api) -> Vec<(String, Figure)> {
    let mut requests = Requests::to(server);
    let nothing = list_figure(requests.repeat("/v2/", |_| {}).await);
    let mut rows = vec![("`GET /v2/`, for comparison".to_owned(), nothing)];
    for (n, page) in PAGES {
        let count = n.unwrap_or(match api {
            Api::Whole => DEFAULT_PAGE,
            Api::WithoutTagPagesAndReferrers => OTHER_DEFAULT_CATALOG_PAGE,
        });
        let query = n.map(|n| format!("?n={n}")).unwrap_or_default();
        let check = is_front(&tree.repositories, count, "repositories");
        let outcome = requests
            .repeat(&format!("/v2/_catalog{query}"), check)
            .await;
        rows.push((format!("first catalog page, {page}"), list_figure(outcome)));
    }
    rows.push((
        "whole catalog, in pages".to_owned(),
        whole(
            &mut requests,
            "/v2/_catalog",
            "repositories",
            Order::OfBytes,
            &tree.repositories,
        )
        .await,
    ));
    let tags_path = format!("/v2/{TAGGED}/tags/list");
    for (n, page) in PAGES {
        let query = n.map(|n| format!("?n={n}")).unwrap_or_default();
        let path = format!("{tags_path}{query}");
        let figure = match api {
            Api::Whole => {
                let check = is_front(&tree.tags, n.unwrap_or(DEFAULT_PAGE), "tags");
                list_figure(requests.repeat(&path, check).await)
            }
            Api::WithoutTagPagesAndReferrers => {
                let check = |answer: &Answer| {
                    let mut tags = answer.names("tags");
                    tags.sort_unstable();
                    assert!(tags == tree.tags, "{path}: other tags than were written");
                    assert_eq!(answer.next_page(), None, "{path} has pages");
                };
                with_all_tags(requests.repeat(&path, check).await, tree)
            }
        };
        rows.push((format!("first tag page, {page}"), figure));
    }
    for (n, page) in PAGES {
        let figure = match api {
            Api::Whole => last_tags(&mut requests, tree, n).await,
            Api::WithoutTagPagesAndReferrers => Figure::words("not possible: it has no pages"),
        };
        rows.push((format!("last tag page, {page}"), figure));
    }
    let tag_order = match api {
        Api::Whole => Order::OfBytes,
        Api::WithoutTagPagesAndReferrers => Order::Any,
    };
    rows.push((
        "all tags".to_owned(),
        whole(&mut requests, &tags_path, "tags", tag_order, &tree.tags).await,
    ));
    rows.push((
        format!("{REFERRERS} referrers of a subject"),
        referrers(&mut requests, tree, api).await,
    ));
    rows
}

/// Looks at the lists after a start, so that an index which lost something is not praised for its speed.
pub(super) async fn check(server: &Server, tree: &Tree) {
    let mut requests = Requests::to(server);
    whole(
        &mut requests,
        "/v2/_catalog",
        "repositories",
        Order::OfBytes,
        &tree.repositories,
    )
    .await;
    last_tags(&mut requests, tree, None).await;
    referrers(&mut requests, tree, Api::Whole).await;
}

async fn last_tags(requests: &mut Requests, tree: &Tree, n: Option<usize>) -> Figure {
    // Where there is only one page, it is the last as well.
    let first = tree.tags.len().saturating_sub(n.unwrap_or(DEFAULT_PAGE));
    let mut query = n.map(|n| format!("n={n}&")).unwrap_or_default();
    if let Some(before) = first.checked_sub(1) {
        query = format!("{query}last={}", tree.tags[before]);
    }
    let path = format!("/v2/{TAGGED}/tags/list?{query}");
    let check = |answer: &Answer| {
        assert!(
            answer.names("tags") == tree.tags[first..],
            "{path}: not the last tags"
        );
        assert_eq!(answer.next_page(), None, "{path} is the last page");
    };
    list_figure(requests.repeat(&path, check).await)
}

async fn referrers(requests: &mut Requests, tree: &Tree, api: Api) -> Figure {
    let path = format!("/v2/{SIGNED}/referrers/{}", tree.subject);
    let check = |answer: &Answer| {
        let digests = answer.digests();
        let is_known = |digest| tree.referrers.contains(digest);
        assert!(
            digests.len() == REFERRERS && digests.iter().all(is_known) && is_ascending(&digests),
            "{path}: not the referrers that were written"
        );
    };
    let outcome = requests.repeat(&path, check).await;
    match (api, outcome) {
        (Api::WithoutTagPagesAndReferrers, Outcome::Refused(status)) if status == 404 => {
            Figure::words("not possible: it does not know them (404)")
        }
        (Api::WithoutTagPagesAndReferrers, other) => panic!("it knows referrers: {other:?}"),
        (Api::Whole, outcome) => list_figure(outcome),
    }
}

fn is_ascending(digests: &[String]) -> bool {
    digests.is_sorted_by(|one, other| one < other)
}

/// Follows a list to its end.
async fn whole(
    requests: &mut Requests,
    path: &str,
    field: &str,
    order: Order,
    expected: &[String],
) -> Figure {
    let began = Instant::now();
    let Some(mut names) = requests.all(path, field).await else {
        return list_figure(Outcome::TookTooLong);
    };
    let took = began.elapsed();
    if order == Order::Any {
        names.sort_unstable();
    }
    assert!(
        names == expected,
        "{path}: {} names, others than were written",
        names.len()
    );
    Figure::Took(took)
}

/// The first `count` of `all`, and a way to the others if there are any.
fn is_front<'a>(all: &'a [String], count: usize, field: &'a str) -> impl Fn(&Answer) + 'a {
    let expected = &all[..count.min(all.len())];
    move |answer| {
        assert!(
            answer.names(field) == expected,
            "other {field} than were written"
        );
        let has_more = expected.len() < all.len();
        assert_eq!(
            answer.next_page().is_some(),
            has_more,
            "{:?}",
            answer.headers
        );
    }
}

fn list_figure(outcome: Outcome) -> Figure {
    match outcome {
        Outcome::Took(latency) => Figure::Repeated(latency),
        Outcome::Refused(status) => panic!("a list was refused: {status}"),
        Outcome::TookTooLong => Figure::too_long(),
    }
}

fn with_all_tags(outcome: Outcome, tree: &Tree) -> Figure {
    match list_figure(outcome) {
        Figure::Repeated(latency) => {
            Figure::RepeatedWith(latency, format!("always all {}", tree.tags.len()))
        }
        other => other,
    }
}
