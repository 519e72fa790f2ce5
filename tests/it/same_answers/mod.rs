//! The same requests to the real docker-registry and to ours: every difference that a client could see has its reason in
//! `docs/compatibility.md`.
//!
//! The table there is what is expected: a difference that is not in it fails, and so does a line whose difference is gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::crash::process::{Executable, Process};
use crate::support::Answer;

mod script;

/// What of an answer clients read.
const HEADERS: [&str; 16] = [
    "accept-ranges",
    "allow",
    "cache-control",
    "content-length",
    "content-range",
    "content-type",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "etag",
    "link",
    "location",
    "oci-subject",
    "range",
    "retry-after",
    "www-authenticate",
];

/// A line of the table: the exchange, what of it, what the old registry says, what ours says.
type Difference = (String, String, String, String);

/// What an answer says, by name.
type Said = BTreeMap<String, String>;

fn said(answer: Option<&Answer>) -> Said {
    let mut said = Said::new();
    let Some(answer) = answer else {
        said.insert("status".to_owned(), "no whole answer".to_owned());
        return said;
    };
    said.insert("status".to_owned(), answer.status.as_str().to_owned());
    for name in HEADERS {
        // How long a text for people is, and which one, is nobody's business.
        let is_of_errors = name == "content-length" && answer.status.as_u16() >= 400;
        if let Some(value) = answer.headers.get(name)
            && !is_of_errors
        {
            let value = value.to_str().expect("text");
            let mut methods: Vec<&str> = value.split(", ").collect();
            methods.sort_unstable();
            let value = if name == "allow" {
                methods.join(", ")
            } else {
                without_ids(value)
            };
            said.insert(name.to_owned(), value);
        }
    }
    if let Ok(body) = serde_json::from_slice::<serde_json::Value>(&answer.body) {
        if let Some(code) = body["errors"][0]["code"].as_str() {
            said.insert("code".to_owned(), code.to_owned());
        } else if body.get("schemaVersion").is_none() {
            said.insert("body".to_owned(), body.to_string());
            // Theirs ends in a line end.
            said.remove("content-length");
        }
    }
    said
}

/// Names of servers and sessions, and the state that the old registry puts into a location, differ by nature.
fn without_ids(value: &str) -> String {
    let value = match value.find("/v2/") {
        Some(at) if value.starts_with("http") => &value[at..],
        _ => value,
    };
    let value = value.split("?_state=").next().unwrap_or(value);
    let is_id = |part: &str| part.len() == 36 && part.matches('-').count() == 4;
    let parts = value.split('/');
    let parts = parts.map(|part| if is_id(part) { "<id>" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

async fn all_said(executable: &Executable) -> Vec<(&'static str, Said)> {
    let lab = tempfile::tempdir().expect("a directory");
    let process = Process::start(executable, lab.path()).await;
    let answers = script::run(&process.client()).await;
    process.kill();
    let answers = answers.into_iter();
    answers
        .map(|(name, answer)| (name, said(answer.as_ref())))
        .collect()
}

/// The table's lines: `` | `exchange` | `what` | `theirs` | `ours` | why | ``
fn expected() -> BTreeSet<Difference> {
    let text = include_str!("../../../docs/compatibility.md");
    let cells = |line: &str| -> Option<Difference> {
        let mut cells = line
            .split(" | ")
            .map(|cell| cell.trim_matches(['|', ' ', '`']).to_owned());
        let difference = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
        let why = cells.next()?;
        assert!(!why.is_empty(), "no reason: {line}");
        Some(difference)
    };
    let lines = text.lines().filter(|line| line.starts_with("| `"));
    lines.filter_map(cells).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the real docker-registry"]
async fn the_old_registry_and_ours_answer_alike() {
    let theirs = std::env::var_os("BOATHOUSE_DOCKER_REGISTRY").expect("docker-registry");
    let theirs = all_said(&Executable::docker_registry(theirs.into())).await;
    let ours = all_said(&Executable::boathouse()).await;
    assert_eq!(theirs.len(), ours.len());
    let mut found = BTreeSet::new();
    let absent = "–".to_owned();
    for ((name, theirs), (_, ours)) in theirs.iter().zip(&ours) {
        let what: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for what in what {
            let (theirs, ours) = (theirs.get(what), ours.get(what));
            if theirs != ours {
                let theirs = theirs.unwrap_or(&absent).clone();
                let ours = ours.unwrap_or(&absent).clone();
                found.insert(((*name).to_owned(), what.clone(), theirs, ours));
            }
        }
    }
    let expected = expected();
    // Where the status differs for a reason, all else does for the same.
    let is_of_another_status = |name: &str| {
        let status = found
            .iter()
            .find(|found| found.0 == name && found.1 == "status");
        status.is_some_and(|status| is_told(&expected, status))
    };
    let new: Vec<_> = found
        .iter()
        .filter(|found| !is_told(&expected, found) && !is_of_another_status(&found.0))
        .collect();
    for (name, what, theirs, ours) in &new {
        eprintln!("| `{name}` | `{what}` | `{theirs}` | `{ours}` | |");
    }
    let gone = |told: &&Difference| !found.iter().any(|found| covers(told, found));
    let gone: Vec<_> = expected.iter().filter(gone).collect();
    eprintln!("{} exchanges, {} differences", ours.len(), found.len());
    assert!(
        new.is_empty(),
        "differences without a reason in docs/compatibility.md: see above"
    );
    assert!(gone.is_empty(), "no longer so: {gone:#?}");
}

fn is_told(expected: &BTreeSet<Difference>, found: &Difference) -> bool {
    expected.iter().any(|told| covers(told, found))
}

/// Whether the line tells of the difference; `*` stands for any.
fn covers(told: &Difference, found: &Difference) -> bool {
    let pairs = [
        (&told.0, &found.0),
        (&told.1, &found.1),
        (&told.2, &found.2),
        (&told.3, &found.3),
    ];
    pairs
        .into_iter()
        .all(|(told, found)| told == "*" || told == found)
}
