//! The socket itself: who may, and what becomes of rubbish.

use std::fs;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;

use super::images::next;
use crate::lab::Lab;

#[tokio::test]
async fn whatever_comes_through_the_socket_the_server_lives() {
    let lab = Lab::open();
    let _server = lab.serve().await;
    let mode = fs::metadata(lab.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may connect");

    // Silent for as long as the test runs.
    let _silent: Vec<_> = (0..3).map(|_| lab.ask("")).collect();
    for rubbish in [
        "rubbish\n",
        "\n",
        "{}\n",
        "{\"request\":\"explode\"}\n",
        "{\"request\":\"rebuild\",\"more\":1}\n",
        "{\"request\":\"status\"",
    ] {
        let mut answer = lab.ask(rubbish);
        answer.get_ref().shutdown(Shutdown::Write).unwrap();
        let said = next(&mut answer).unwrap();
        assert_eq!(said["answer"], "failed", "{rubbish}: {said}");
        assert!(said["hint"].is_string(), "{said}");
        assert_eq!(next(&mut answer), None, "{rubbish}");
    }
    for long in ["x".repeat(4_097), "x".repeat(1 << 20), " ".repeat(1 << 20)] {
        let mut answer = lab.ask("");
        // It need not be heard to its end.
        let _ = answer.get_mut().write_all(long.as_bytes());
        if let Some(said) = next(&mut answer) {
            assert_eq!(said["answer"], "failed", "{said}");
        }
        assert_eq!(next(&mut answer), None);
    }
    drop(lab.ask("{\"request\":\"status\"}\n"));
    assert_eq!(lab.status()["repositories"], 0);
}

#[tokio::test]
async fn what_lies_in_the_place_of_the_socket_hinders_nobody() {
    let lab = Lab::open();
    lab.serve().await.end();
    // A socket without a listener, and a file.
    drop(UnixListener::bind(lab.socket()).unwrap());
    assert_eq!(lab.status()["repositories"], 0);
    fs::remove_file(lab.socket()).unwrap();
    fs::write(lab.socket(), "").unwrap();
    assert_eq!(lab.status()["repositories"], 0);
    let _server = lab.serve().await;
    assert_eq!(lab.status()["repositories"], 0);
}

#[tokio::test]
async fn a_server_without_its_socket_is_not_worked_around() {
    let lab = Lab::open();
    let _server = lab.serve().await;
    fs::remove_file(lab.socket()).unwrap();
    let said = lab.run(&["status"]).failed();
    assert!(
        said.contains("cannot use the data") && said.contains("\nhint: "),
        "{said}"
    );
}

#[test]
fn without_data_nothing_is_made() {
    let lab = Lab::open();
    fs::remove_dir(lab.path("data")).unwrap();
    let said = lab.run(&["du"]).failed();
    assert!(
        said.contains("the directory of the images is missing"),
        "{said}"
    );
    assert!(!lab.path("data").exists());
}
