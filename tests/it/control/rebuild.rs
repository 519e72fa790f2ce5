//! `rebuild`: beside a server that serves on, twice at once, interrupted, and as a comparison.

use std::fs;
use std::path::Path;
use std::time::Duration;

use boathouse::oci::Digest;
use http::StatusCode;
use serde_json::Value;

use super::images::next;
use crate::lab::Lab;
use crate::program::Program;

/// Enough for a filling that can be met half done.
const MANY: usize = 2_000;

const REBUILD: &str = "{\"request\":\"rebuild\"}\n";

/// Moves a tag as another program may: in place, so that no directory's time tells.
fn move_tag(link: &Path, to: &Digest) {
    let times = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let directory = link.parent().unwrap();
    let before = times(directory);
    fs::write(link, to.to_string()).unwrap();
    assert_eq!(times(directory), before);
}

async fn names(server: &Program) -> Vec<Value> {
    let answer = server.get("/v2/_catalog?n=1000").send().await;
    let answer = answer.expect(StatusCode::OK).json();
    answer["repositories"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_difference_is_found_named_and_mended() {
    let lab = Lab::open();
    let server = lab.serve().await;
    let images = server.push_everything().await;
    // What was pushed just now cannot be stamped yet, and would be read again at the next start.
    tokio::time::sleep(Duration::from_millis(300)).await;
    lab.json(&["rebuild"]);
    assert_eq!(lab.differences(), 0);

    let link = lab.repository("a/_manifests/tags/v2/current/link");
    let [before, after] = [&images.own.digest, &images.untagged.digest];
    move_tag(&link, after);
    let said = lab.run(&["rebuild", "--check"]).failed();
    for told in [
        format!("a: only in the store: tag v2 -> {after}\n"),
        format!("a: only in the index: tag v2 -> {before}\n"),
        "3 repositories and ".to_owned(),
        ": 2 differences\n".to_owned(),
    ] {
        assert!(said.contains(&told), "{told}\n{said}");
    }
    assert_eq!(lab.differences(), 2, "to look changes nothing");

    // Without a server too: the stamp agrees, so no start mends it.
    server.end();
    assert_eq!(lab.differences(), 2);
    let filled = lab.json(&["rebuild"]);
    assert_eq!(filled["repositories"], 3);
    // 6 tags, 9 manifests, and 7, 2 and 2 blob links.
    assert_eq!(filled["links"], 6 + 9 + 11);
    assert_eq!(lab.differences(), 0);

    let _server = lab.serve().await;
    assert_eq!(lab.differences(), 0);
    move_tag(&link, before);
    assert_eq!(lab.differences(), 2);
    let text = lab.run(&["rebuild"]).fine();
    assert!(
        text.starts_with("the index was filled anew: 3 repositories, 26 links in "),
        "{text}"
    );
    assert_eq!(lab.differences(), 0);
}

#[tokio::test]
async fn the_server_serves_while_its_index_is_filled() {
    const SOME: usize = 300;
    let lab = Lab::open();
    lab.plant(SOME);
    let server = lab.serve().await;
    server.push("a", Some("v1"), b"layer", "").await;
    let before = names(&server).await;
    assert_eq!(before.len(), SOME + 1);
    let mut answer = lab.ask(REBUILD);
    let filling = std::thread::spawn(move || {
        let mut lines = Vec::new();
        lines.extend(std::iter::from_fn(|| next(&mut answer)));
        lines
    });
    let mut pushed = 0;
    while !filling.is_finished() {
        assert_eq!(names(&server).await, before);
        pushed += 1;
        let tag = format!("t{pushed}");
        server.push("a", Some(&tag), b"layer", "").await;
        let tags = server.get("/v2/a/tags/list?n=1000").send().await;
        let tags = tags.expect(StatusCode::OK).json();
        let tags = tags["tags"].as_array().unwrap();
        assert!(
            tags.len() == pushed + 1 && tags.contains(&tag.into()),
            "{tags:?}"
        );
    }
    let lines = filling.join().unwrap();
    let (last, progress) = lines.split_last().unwrap();
    assert_eq!(last["answer"], "filled", "{last}");
    assert_eq!(last["repositories"], SOME + 1);
    assert!(progress.iter().all(|line| line["answer"] == "progress"));
    assert_eq!(names(&server).await, before);
    assert_eq!(lab.differences(), 0);
}

#[tokio::test]
async fn two_fillings_at_once_both_end() {
    let lab = Lab::open();
    lab.plant(200);
    let _server = lab.serve().await;
    let filled = std::thread::scope(|scope| {
        let one = scope.spawn(|| lab.json(&["rebuild"]));
        let two = scope.spawn(|| lab.json(&["rebuild"]));
        [one.join().unwrap(), two.join().unwrap()]
    });
    for filled in filled {
        assert_eq!(filled["repositories"], 200, "{filled}");
    }
    assert_eq!(lab.differences(), 0);
}

/// Begins a filling, and returns when more than half of it is done.
fn half_way(lab: &Lab) -> impl Sized + use<> {
    let mut answer = lab.ask(REBUILD);
    loop {
        let line = next(&mut answer).unwrap();
        assert_eq!(
            line["answer"], "progress",
            "it ended before it was half done"
        );
        if line["done"].as_u64().unwrap() > MANY as u64 / 2 {
            return answer;
        }
    }
}

#[tokio::test]
async fn a_filling_that_was_killed_goes_on_at_the_next_start() {
    let lab = Lab::open();
    lab.plant(MANY);
    let mut server = lab.serve().await;
    let _answer = half_way(&lab);
    server.kill();

    let mut server = lab.serve().await;
    let told = server.says("the index is up to the store").await;
    let field = |name: &str| -> usize {
        let (_, rest) = told.split_once(&format!(" {name}=")).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(field("repositories"), MANY);
    let reread = field("reread");
    assert!(
        0 < reread && reread < MANY,
        "what was done before the kill was done again: {told}"
    );
    assert_eq!(lab.differences(), 0);
}

#[tokio::test]
async fn a_filling_goes_on_when_its_client_goes_away() {
    let lab = Lab::open();
    lab.plant(MANY);
    let mut server = lab.serve().await;
    let answer = half_way(&lab);
    drop(answer);
    let told = "the index is up to the store";
    for _ in 0..4_000 {
        if server.log().matches(told).count() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.says(told).await;
    assert_eq!(server.log().matches(told).count(), 2, "{}", server.log());
    // The keeper of the index may begin another look in between.
    for _ in 0..400 {
        let status = lab.status();
        if status["lists_from_index"] == true {
            assert_eq!(status["repositories"], MANY);
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("lists do not come from the index:\n{}", server.log());
}
