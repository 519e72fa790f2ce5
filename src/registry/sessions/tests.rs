//! One request at a time, whoever comes meanwhile, and how sessions end.

use super::*;
use crate::clock::ManualClock;
use crate::layout::upload_directory;
use crate::oci::Algorithm;
use crate::store::ObjectStore as _;
use crate::store::memory::MemoryStore;

fn owner(account: &str) -> Owner {
    Owner {
        account: account.into(),
        generation: "g".into(),
    }
}

fn sessions(clock: &ManualClock) -> Sessions {
    Sessions::new(b"secret", 2, Arc::new(clock.clone()))
}

#[test]
fn a_session_is_its_owners_in_its_repository_only() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let name: RepositoryName = "a/b".parse().unwrap();
    let id = sessions.issue(&name, &owner("ann")).unwrap();
    assert!(sessions.is_genuine(id, &name, &owner("ann")));
    assert!(!sessions.is_genuine(id, &"a/c".parse().unwrap(), &owner("ann")));
    assert!(!sessions.is_genuine(id, &name, &owner("bob")));
    let revoked = Owner {
        generation: "h".into(),
        ..owner("ann")
    };
    assert!(!sessions.is_genuine(id, &name, &revoked));
    let other = Sessions::new(b"other", 2, Arc::new(clock.clone()));
    assert!(!other.is_genuine(id, &name, &owner("ann")));
}

#[tokio::test]
async fn one_at_a_time_while_bytes_come() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let id = UploadId::from_parts(1, 2);
    let (entered, _) = sessions.enter(id).await.ok().unwrap();
    entered.tell(Progress::Receiving { offset_bytes: 7 });
    assert_eq!(sessions.progress(id).await, Some(7));
    let asks = async { sessions.enter(id).await.err() };
    let goes_on = async {
        tokio::task::yield_now().await;
        entered.tell(Progress::Receiving { offset_bytes: 8 });
        tokio::task::yield_now().await;
        clock.advance(OVERLAP);
    };
    let (answer, ()) = tokio::join!(asks, goes_on);
    assert_eq!(answer, Some(UploadBusy { offset_bytes: 8 }));
    drop(entered);
    assert!(sessions.enter(id).await.is_ok());
    assert_eq!(sessions.progress(id).await, None);
}

#[tokio::test]
async fn what_a_broken_request_has_left_is_waited_for() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let id = UploadId::from_parts(1, 2);
    let (entered, _) = sessions.enter(id).await.ok().unwrap();
    entered.tell(Progress::Receiving { offset_bytes: 7 });
    let ends = async {
        for offset_bytes in 8..20 {
            tokio::task::yield_now().await;
            entered.tell(Progress::Receiving { offset_bytes });
        }
        drop(entered);
    };
    let (entered, ()) = tokio::join!(sessions.enter(id), ends);
    assert!(entered.is_ok());
}

#[tokio::test]
async fn who_waited_while_the_client_was_told_more_is_overtaken() {
    for (is_told, is_overtaken) in [(true, true), (false, false)] {
        let clock = ManualClock::at_unix_secs(0);
        let sessions = sessions(&clock);
        let id = UploadId::from_parts(1, 2);
        let store = MemoryStore::new(Arc::new(clock.clone()));
        let directory = upload_directory(&"a".parse().unwrap(), id);
        let upload = store.open_upload(&directory, None, None, None);
        let mut kept = Kept::told(upload.await.unwrap());
        let (entered, _) = sessions.enter(id).await.ok().unwrap();
        entered.tell(Progress::Receiving { offset_bytes: 0 });
        let receives = async {
            tokio::task::yield_now().await;
            kept.upload.append("12345".into()).await.unwrap();
            if is_told {
                kept = Kept::told(kept.upload);
            }
            entered.leave(kept);
        };
        let (late, ()) = tokio::join!(sessions.enter(id), receives);
        let (late, kept) = late.ok().unwrap();
        assert_eq!(late.is_overtaken(&kept.unwrap()), is_overtaken);
    }
}

#[tokio::test]
async fn a_silent_client_is_taken_over_from() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let id = UploadId::from_parts(1, 2);
    let (entered, _) = sessions.enter(id).await.ok().unwrap();
    entered.tell(Progress::Receiving { offset_bytes: 7 });
    let gives_way = async {
        entered.taken_over().await;
        drop(entered);
    };
    let time_passes = async {
        for _ in 0..OVERLAP.as_secs() {
            tokio::task::yield_now().await;
            clock.advance(Duration::from_secs(1));
        }
    };
    let (entered, (), ()) = tokio::join!(sessions.enter(id), gives_way, time_passes);
    assert!(entered.is_ok());
}

#[tokio::test]
async fn what_is_not_known_yet_or_being_finished_is_waited_for() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let id = UploadId::from_parts(1, 2);
    let (entered, _) = sessions.enter(id).await.ok().unwrap();
    let finds_out_and_finishes = async {
        tokio::task::yield_now().await;
        entered.tell(Progress::Finishing { offset_bytes: 9 });
        tokio::task::yield_now().await;
        drop(entered);
    };
    let both = async { tokio::join!(sessions.progress(id), sessions.enter(id)) };
    let ((offset_bytes, entered), ()) = tokio::join!(both, finds_out_and_finishes);
    assert_eq!(offset_bytes, Some(9));
    assert!(entered.is_ok());
}

#[test]
fn an_end_is_remembered_for_an_hour() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let id = UploadId::from_parts(1, 2);
    let ended = Ended::Finished(Digest::of(Algorithm::Sha256, b""));
    sessions.remember(id, ended.clone());
    clock.advance(Duration::from_secs(3_599));
    assert_eq!(sessions.ended(id), Some(ended));
    clock.advance(Duration::from_secs(1));
    assert_eq!(sessions.ended(id), None);
}

#[test]
fn the_oldest_end_is_forgotten_when_there_are_too_many() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    for number in 0..=REMEMBERED_MAX as u64 {
        sessions.remember(UploadId::from_parts(number, 0), Ended::Cancelled);
    }
    assert_eq!(sessions.ended(UploadId::from_parts(0, 0)), None);
    assert_eq!(
        sessions.ended(UploadId::from_parts(1, 0)),
        Some(Ended::Cancelled)
    );
}
