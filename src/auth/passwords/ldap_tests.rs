//! A directory of four accounts that answers as RFC 4511 says, and what is made of its answers.

use std::fs;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::clock::{ManualClock, SystemClock};

const BIND: u8 = 0x60;
const SEARCH: u8 = 0x63;
const EQUALITY: u8 = 0xa3;

/// What was asked of a directory: an operation, and its bytes.
type Asked = Arc<Mutex<Vec<(u8, Vec<u8>)>>>;

/// Tag, length and content; `content` is shorter than 64 KiB.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82], &length[..], content].concat()
}

fn text(content: &str) -> Vec<u8> {
    element(0x04, content.as_bytes())
}

fn result(code: u8) -> Vec<u8> {
    [&[0x0a, 1, code][..], &text(""), &text("")].concat()
}

fn entry(account: &str) -> Vec<u8> {
    let values = [
        text("CN=Builders,ou=groups"),
        text("cn=Red\\, Blue+l=x,ou=groups"),
    ]
    .concat();
    let groups = element(0x30, &[text("memberof"), element(0x31, &values)].concat());
    let name = text(&format!("uid={account},ou=people"));
    [name, element(0x30, &groups)].concat()
}

fn holds(message: &[u8], part: &[u8]) -> bool {
    message.windows(part.len()).any(|window| window == part)
}

/// The id, the operation and its content.
async fn request(stream: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    let mut rest = usize::from(head[1]);
    if head[1] > 0x80 {
        let mut long = vec![0; usize::from(head[1] & 0x7f)];
        stream.read_exact(&mut long).await.ok()?;
        rest = long
            .iter()
            .fold(0, |sum, &byte| sum * 256 + usize::from(byte));
    }
    let mut message = vec![0; rest];
    stream.read_exact(&mut message).await.ok()?;
    Some((message[2], message[3], message[4..].to_vec()))
}

async fn answer(mut stream: TcpStream, asked: Asked) {
    while let Some((id, operation, content)) = request(&mut stream).await {
        asked.lock().unwrap().push((operation, content.clone()));
        let answers = match operation {
            BIND if holds(&content, b"locked") => vec![(0x61, result(53))],
            BIND if holds(&content, b"right") || holds(&content, b"service-password") => {
                vec![(0x61, result(0))]
            }
            BIND => vec![(0x61, result(49))],
            SEARCH if holds(&content, b"silent") => continue,
            SEARCH if holds(&content, b"nowhere") => vec![(0x65, result(32))],
            SEARCH if holds(&content, b"twice") => vec![
                (0x64, entry("twice")),
                (0x64, entry("again")),
                (0x65, result(4)),
            ],
            SEARCH if holds(&content, b"alice") || holds(&content, b"locked") => {
                let account = if holds(&content, b"alice") {
                    "alice"
                } else {
                    "locked"
                };
                vec![(0x64, entry(account)), (0x65, result(0))]
            }
            SEARCH => vec![(0x65, result(0))],
            _ => return,
        };
        for (tag, content) in answers {
            let message = [&[2, 1, id][..], &element(tag, &content)].concat();
            stream.write_all(&element(0x30, &message)).await.unwrap();
        }
    }
}

struct Lab {
    directory: Directory,
    asked: Asked,
    files: tempfile::TempDir,
}

impl Lab {
    async fn new(change: impl FnOnce(&mut LdapSettings)) -> Self {
        Self::with_clock(Arc::new(SystemClock::new()), change).await
    }

    async fn with_clock(clock: Arc<dyn Clock>, change: impl FnOnce(&mut LdapSettings)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Asked::default();
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&seen)));
            }
        });
        let files = tempfile::tempdir().unwrap();
        let password = files.path().join("password");
        fs::write(&password, "service-password\n").unwrap();
        let label = |parse_cn| LdapLabel {
            attribute: "memberOf".to_owned(),
            parse_cn,
            lower_case: parse_cn,
        };
        let mut settings = LdapSettings {
            address: Some(address.parse().unwrap()),
            tls: LdapTls::None,
            insecure_tls_skip_verify: false,
            ca_certificate: None,
            base: "ou=people".to_owned(),
            filter: "(&(uid=${account})(objectClass=person))".to_owned(),
            bind_dn: "cn=service".to_owned(),
            bind_password_file: Some(password),
            initial_bind_as_user: false,
            labels: BTreeMap::from([
                ("groups".to_owned(), label(true)),
                ("names".to_owned(), label(false)),
            ]),
        };
        change(&mut settings);
        Self {
            directory: Directory::new(settings, clock),
            asked,
            files,
        }
    }

    async fn check(&self, account: &str, password: &str) -> Checked {
        self.directory.check(account, password.as_bytes()).await
    }

    fn asked(&self) -> Vec<(u8, Vec<u8>)> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let is_shown = |(operation, _): &(u8, Vec<u8>)| [BIND, SEARCH].contains(operation);
        asked.into_iter().filter(is_shown).collect()
    }
}

fn trouble(checked: Checked) -> String {
    match checked {
        Checked::Unavailable(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_account_is_searched_for_and_its_entry_must_take_the_password() {
    let lab = Lab::new(|_| {}).await;
    let Checked::Right(Some(labels)) = lab.check("alice", "right").await else {
        panic!("not let in");
    };
    let asked = lab.asked();
    let operations: Vec<u8> = asked.iter().map(|(operation, _)| *operation).collect();
    assert_eq!(operations, [BIND, SEARCH, BIND]);
    assert!(holds(&asked[0].1, b"cn=service") && holds(&asked[0].1, b"service-password"));
    assert!(holds(&asked[2].1, b"uid=alice,ou=people") && holds(&asked[2].1, b"right"));
    assert_eq!(labels["groups"], ["builders", "red, blue"]);
    assert_eq!(
        labels["names"],
        ["CN=Builders,ou=groups", "cn=Red\\, Blue+l=x,ou=groups"]
    );
    assert_eq!(lab.check("alice", "other").await, Checked::Wrong);
    assert_eq!(lab.check("ghost", "right").await, Checked::Unknown);
}

#[tokio::test]
async fn an_empty_password_is_never_sent() {
    let lab = Lab::new(|_| {}).await;
    for (account, password) in [("alice", ""), ("", "right"), ("", ""), ("alice", "\0right")] {
        let checked = lab.check(account, password).await;
        assert_eq!(checked, Checked::Unknown, "an empty password was sent");
    }
    assert_eq!(
        lab.directory.check("alice", b"\xff").await,
        Checked::Unknown
    );
    assert_eq!(lab.asked(), []);
    fs::write(lab.files.path().join("password"), " \n").unwrap();
    let reason = trouble(lab.check("alice", "right").await);
    assert!(reason.ends_with("password is empty"), "{reason}");
    assert_eq!(lab.asked(), []);
}

#[tokio::test]
async fn a_name_is_never_part_of_a_filter() {
    let lab = Lab::new(|_| {}).await;
    for account in ["al*ce", "alice)(uid=*", "a\\2a", "*", "(", "a\0b"] {
        assert!(matches!(
            lab.check(account, "right").await,
            Checked::Unknown | Checked::Right(_)
        ));
        let asked = lab.asked();
        let wanted = element_short(
            EQUALITY,
            &[
                element_short(4, b"uid"),
                element_short(4, account.as_bytes()),
            ]
            .concat(),
        );
        assert!(
            holds(&asked[1].1, &wanted),
            "a client's text became part of the filter: {account:?}"
        );
    }
}

/// As the client writes it: the shortest length.
fn element_short(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()][..], content].concat()
}

#[tokio::test]
async fn what_goes_wrong_is_named_without_the_account() {
    let lab = Lab::new(|_| {}).await;
    for (account, expected) in [
        ("twice", "the filter finds several entries for one account"),
        (
            "nowhere",
            "the search failed: the directory answers with result code 32",
        ),
        (
            "locked",
            "the bind failed: the directory answers with result code 53",
        ),
    ] {
        let reason = trouble(lab.check(account, "right").await);
        assert_eq!(reason, format!("ldap_auth: {expected}"));
    }
    fs::write(lab.files.path().join("password"), "other").unwrap();
    let reason = trouble(lab.check("alice", "right").await);
    assert!(reason.contains("refuses bind_dn"), "{reason}");
    fs::remove_file(lab.files.path().join("password")).unwrap();
    let reason = trouble(lab.check("alice", "right").await);
    assert!(reason.contains("cannot read"), "{reason}");
    let nowhere = Lab::new(|settings| settings.address = "127.0.0.1:1".parse().ok()).await;
    let reason = trouble(nowhere.check("alice", "right").await);
    assert!(
        reason.starts_with("ldap_auth: cannot connect to 127.0.0.1:1: "),
        "{reason}"
    );
    let unset = Lab::new(|settings| settings.address = None).await;
    assert!(trouble(unset.check("alice", "right").await).contains("addr is not set"));
}

#[tokio::test]
async fn a_directory_that_does_not_answer_is_given_up() {
    let clock = ManualClock::at_unix_secs(1_795_500_000);
    let lab = Lab::with_clock(Arc::new(clock.clone()), |_| {}).await;
    let lab = Arc::new(lab);
    let waiting = tokio::spawn({
        let lab = Arc::clone(&lab);
        async move { lab.check("silent", "right").await }
    });
    while lab.asked.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    clock.advance(TIME_MAX);
    let reason = trouble(waiting.await.unwrap());
    assert_eq!(reason, "ldap_auth: no answer within 10 s");
}

#[tokio::test]
async fn a_search_as_the_account_itself_needs_no_password_of_ours() {
    let lab = Lab::new(|settings| {
        settings.initial_bind_as_user = true;
        settings.bind_dn = "uid=${account},ou=people".to_owned();
        settings.bind_password_file = None;
    })
    .await;
    assert!(matches!(
        lab.check("alice", "right").await,
        Checked::Right(_)
    ));
    assert_eq!(lab.check("alice", "other").await, Checked::Wrong);
    lab.asked();
    lab.check("x,ou=admins", "right").await;
    let asked = lab.asked();
    assert!(
        holds(&asked[0].1, b"uid=x\\2cou\\3dadmins,ou=people")
            || holds(&asked[0].1, b"uid=x\\,ou=admins,ou=people"),
        "{:?}",
        String::from_utf8_lossy(&asked[0].1)
    );
}

#[test]
fn the_common_name_of_an_entry_is_its_first() {
    for (name, expected) in [
        ("CN=Builders,OU=Groups", Some("Builders")),
        ("ou=x, cn = Builders ,o=lab", Some("Builders")),
        ("uid=a+cn=b,o=lab", Some("b")),
        ("cn=a\\,b\\2bc\\ ,o=lab", Some("a,b+c ")),
        ("cn=\"a,b\";o=lab", Some("a,b")),
        ("cn=L\\c3\\bctt,o=lab", Some("Lütt")),
        ("cn=broken\\", None),
        ("ou=people,o=lab", None),
        ("plain text", None),
        ("", None),
    ] {
        assert_eq!(common_name(name).as_deref(), expected, "{name}");
    }
}

#[test]
fn a_filter_is_read_before_it_is_needed() {
    let mut settings = LdapSettings {
        address: None,
        tls: LdapTls::None,
        insecure_tls_skip_verify: false,
        ca_certificate: None,
        base: String::new(),
        filter: String::new(),
        bind_dn: String::new(),
        bind_password_file: None,
        initial_bind_as_user: false,
        labels: BTreeMap::new(),
    };
    for (filter, is_valid) in [
        ("(uid=${account})", true),
        ("(&(uid=${account})(objectClass=person))", true),
        ("(&(uid=${account})", false),
        ("", false),
    ] {
        filter.clone_into(&mut settings.filter);
        assert_eq!(settings.is_filter_valid(), is_valid, "{filter}");
    }
}
