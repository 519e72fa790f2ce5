//! Tests of the control socket and its requests.

use super::*;
use crate::clock::ManualClock;

#[tokio::test]
async fn a_socket_that_was_removed_is_made_again_and_that_of_another_server_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at_unix_secs(1_800_000_000));
    let connects = || std::os::unix::net::UnixStream::connect(&path).is_ok();
    let mut socket = ControlSocket::bind(&path, Clients::Owner, Arc::clone(&clock)).unwrap();
    let first = file_at(&path);
    socket.make_again_if_missing();
    assert_eq!(file_at(&path), first, "it was there");
    std::fs::remove_file(&path).unwrap();
    assert!(!connects());
    socket.make_again_if_missing();
    assert!(connects(), "a removed socket was not made again");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Another server has taken the place.
    std::fs::remove_file(&path).unwrap();
    let other = ControlSocket::bind(&path, Clients::Owner, clock).unwrap();
    socket.make_again_if_missing();
    drop(socket);
    assert!(connects(), "the socket of another server was removed");
    drop(other);
    assert!(!path.exists());
}

#[test]
fn a_request_is_understood_as_a_whole_or_not_at_all() {
    let usage = Request::Usage {
        repository: Some("a/b".to_owned()),
        tag: None,
    };
    let image: ImageName = "a/b:v1".parse().unwrap();
    for request in [
        Request::List {
            repository: Some("a/b".parse().unwrap()),
        },
        Request::Delete {
            image: image.clone(),
            is_trial: true,
        },
        Request::Copy {
            from: image.clone(),
            to: image.clone(),
        },
        Request::RestoreTag {
            image: image.clone(),
            digest: Digest::of(crate::oci::Algorithm::Sha256, b""),
        },
        Request::Show { image },
        Request::Reload,
        Request::Status,
        Request::Rebuild,
        Request::Compare,
        usage,
        Request::Hold {
            repository: "a/b".to_owned(),
        },
    ] {
        let mut line = serde_json::to_value(&request).unwrap();
        let read = serde_json::from_value::<Request>(line.clone());
        assert_eq!(read.unwrap(), request);
        line["more"] = 1.into();
        assert!(serde_json::from_value::<Request>(line.clone()).is_err());
        line.as_object_mut().unwrap().remove("more");
        line["details"]["more"] = 1.into();
        assert!(
            serde_json::from_value::<Request>(line.clone()).is_err(),
            "{line}"
        );
    }
}
