//! One request at a time, whoever comes meanwhile, and how sessions end.

use super::*;
use crate::clock::ManualClock;
use crate::layout::upload_directory;
use crate::oci::Algorithm;
use crate::store::ObjectStore as _;
use crate::store::bucket_like::BucketLike;

fn owner(account: &str) -> Owner {
    Owner {
        account: account.into(),
        generation: "g".into(),
        client: [127, 0, 0, 1].into(),
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
        let store = BucketLike::new(1);
        let directory = upload_directory(&"a".parse().unwrap(), id);
        let upload = store.open_upload(&directory, None);
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

/// A session of `owner` that is open and idle.
async fn idle(sessions: &Sessions, number: u64, owner: &Owner) -> UploadId {
    let id = UploadId::from_parts(number, 0);
    sessions.admit(id, owner).unwrap();
    let (entered, _) = sessions.enter(id).await.ok().unwrap();
    let store = BucketLike::new(1);
    let directory = upload_directory(&"a".parse().unwrap(), id);
    let upload = store.open_upload(&directory, None);
    entered.leave(Kept::told(upload.await.unwrap()));
    id
}

async fn is_open(sessions: &Sessions, id: UploadId) -> bool {
    let (entered, kept) = sessions.enter(id).await.ok().unwrap();
    let Some(kept) = kept else {
        return false;
    };
    entered.leave(kept);
    true
}

#[tokio::test]
async fn a_newcomer_is_kept_open_and_the_oldest_of_whoever_has_most_is_closed() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let bobs = idle(&sessions, 1, &owner("bob")).await;
    let mut anns = Vec::new();
    for number in 2..10 {
        clock.advance(Duration::from_secs(1));
        anns.push(idle(&sessions, number, &owner("ann")).await);
    }
    assert!(is_open(&sessions, bobs).await, "bob lost his one session");
    let (last, before) = anns.split_last().unwrap();
    assert!(
        is_open(&sessions, *last).await,
        "a newcomer lost its session"
    );
    for id in before {
        assert!(!is_open(&sessions, *id).await);
    }
}

#[tokio::test]
async fn what_was_idle_for_too_long_is_closed_and_what_was_used_is_not() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let old = idle(&sessions, 1, &owner("ann")).await;
    clock.advance(Duration::from_secs(200));
    let used = idle(&sessions, 2, &owner("ann")).await;
    sessions.close_old();
    assert!(is_open(&sessions, old).await, "closed too soon");
    clock.advance(Duration::from_secs(200));
    assert!(is_open(&sessions, used).await);
    clock.advance(Duration::from_secs(100));
    sessions.close_old();
    assert!(!is_open(&sessions, old).await, "open for ever");
    assert!(is_open(&sessions, used).await);
}

#[test]
fn who_has_begun_too_many_sessions_is_refused_and_nobody_else() {
    let clock = ManualClock::at_unix_secs(0);
    let sessions = sessions(&clock);
    let at = |address: &str| Owner {
        account: String::new(),
        generation: String::new(),
        client: address.parse().unwrap(),
    };
    let id = |number| UploadId::from_parts(number, 0);
    for flooder in [owner("ann"), at("192.0.2.1"), at("2001:db8::1")] {
        let mut begun = 0;
        while sessions.admit(id(begun), &flooder).is_ok() {
            begun += 1;
            assert!(begun < 13_000, "no limit");
        }
        for other in [owner("bob"), at("192.0.2.2"), at("2001:db8:0:1::1")] {
            sessions.admit(id(20_000), &other).unwrap();
            sessions.forget(id(20_000));
        }
        // One that has ended makes room for one.
        sessions.remember(id(0), Ended::Cancelled);
        sessions.admit(id(begun), &flooder).unwrap();
        assert!(sessions.admit(id(begun + 1), &flooder).is_err());
        // And those that nobody has used for long do not count.
        clock.advance(Duration::from_hours(1));
        sessions.admit(id(begun + 1), &flooder).unwrap();
        for number in 0..begun + 2 {
            sessions.forget(id(number));
        }
    }
    let neighbour = at("2001:db8::ffff");
    let mut begun = 0;
    while sessions.admit(id(begun), &neighbour).is_ok() {
        begun += 1;
    }
    assert!(
        sessions.admit(id(begun), &at("2001:db8::1")).is_err(),
        "another address of the same network has a share of its own"
    );
}
