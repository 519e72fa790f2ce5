//! What is wrong with the data of an installation, and what would be lost if another registry served them.
//!
//! Must not know what the data mean (`registry::inspection`). Invariants: nothing is written; a running server is neither asked
//! nor disturbed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;

use super::installation::Installation;
use super::progress::Meter;
use crate::auth::User;
use crate::clock::{Clock, SystemClock};
use crate::config::{self, AuthConfig, OldFile, UsersFile, own_keys};
use crate::index::Index;
use crate::instance::missing_parts;
use crate::registry::{self, Finding, Kind, Meaning, Registry};
use crate::store;
use crate::store::user_access::{self, UserIds};

/// Files that are named one by one; of more, the number is told.
const CLOSED_NAMED_MAX: usize = 20;

/// What was found.
#[derive(Serialize)]
pub(super) struct Findings {
    /// Repositories looked through.
    repositories: u64,
    /// What to do something about.
    #[serde(rename = "findings")]
    problems: Vec<Line>,
    /// What is only to be known.
    notes: Vec<Line>,
}

/// A finding as it is printed.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    meaning: Meaning,
    #[serde(rename = "where")]
    place: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Damage, whichever registry serves the data.
    Damage,
    /// What an old registry would not serve, or delete.
    Obstacles,
    /// Both.
    Everything,
}

impl Wanted {
    fn includes(self, meaning: &Meaning) -> bool {
        match self {
            Self::Damage => meaning.is_damage,
            Self::Obstacles => meaning.is_obstacle(),
            Self::Everything => true,
        }
    }
}

impl Findings {
    /// Looks through the data of `installation`. `as_user` names the old registry's user, by default the owner of the data.
    pub(super) fn look(
        installation: &Installation,
        wanted: Wanted,
        as_user: Option<&str>,
        meter: &Meter,
    ) -> anyhow::Result<Self> {
        let config = &installation.loaded.config;
        missing_parts::refuse_missing_root(config)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let store = config.storage.open(true, Arc::clone(&clock))?;
        let settings = registry::Settings {
            readonly: true,
            ..config.registry.clone()
        };
        // Nothing is kept: another process may have the real one open.
        let index = Arc::new(Index::in_memory(Arc::clone(&clock)));
        let registry = Registry::new(store, index, settings, b"", clock);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let mut findings = Vec::new();
        let mut found = |finding: Finding| findings.push(finding);
        let tell = |progress| meter.tell(progress);
        let repositories = runtime.block_on(registry.inspection.run(&tell, &mut found));
        runtime.shutdown_background();
        meter.end();
        if wanted != Wanted::Damage {
            findings.extend(closed_to_user(installation, as_user)?);
            findings.extend(of_configuration(installation)?);
        }
        let lines = findings.into_iter().filter_map(|finding| {
            let meaning = finding.kind.meaning();
            wanted.includes(&meaning).then_some(Line {
                meaning,
                place: finding.place,
                detail: finding.detail,
            })
        });
        let (notes, problems) = lines.partition(|line| line.meaning.is_note);
        Ok(Self {
            repositories,
            problems,
            notes,
        })
    }

    /// Whether there is nothing to do; there may be notes.
    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// One line for each, the notes last, and a summary. With `wanted` beyond damage, each begins with the registries that it
    /// matters to.
    pub(super) fn text(&self, wanted: Wanted) -> String {
        let mut text = String::new();
        for Line {
            meaning,
            place,
            detail,
        } in self.problems.iter().chain(&self.notes)
        {
            if meaning.is_note {
                text.push_str("note: ");
            }
            let (old, new) = (meaning.docker_registry_2_8, meaning.distribution_3_1);
            if wanted != Wanted::Damage {
                let column = |effect: &str, name| if effect.is_empty() { " - " } else { name };
                let _ = write!(text, "{} {}  ", column(old, "2.8"), column(new, "3.1"));
            }
            let _ = write!(text, "{place}: {}", meaning.what);
            if !detail.is_empty() {
                let _ = write!(text, " ({detail})");
            }
            if wanted != Wanted::Damage {
                if old == new && !old.is_empty() {
                    let _ = write!(text, "; 2.8 and 3.1: {old}");
                } else {
                    for (name, effect) in [("2.8", old), ("3.1", new)] {
                        if !effect.is_empty() {
                            let _ = write!(text, "; {name}: {effect}");
                        }
                    }
                }
            }
            // Writing into a String cannot fail.
            let _ = writeln!(text, "; hint: {}", meaning.hint);
        }
        let _ = write!(
            text,
            "{} repositories looked through: {} findings",
            self.repositories,
            self.problems.len()
        );
        if !self.notes.is_empty() {
            let _ = write!(text, ", {} notes", self.notes.len());
        }
        text.push('\n');
        text
    }
}

/// The files that the old registry must be able to read, and the user that it runs as. `None`: the data are in a bucket, where
/// nothing has an owner.
pub(super) fn old_user<'a>(
    installation: &'a Installation,
    name: Option<&str>,
) -> anyhow::Result<Option<(&'a Path, UserIds)>> {
    let root = match &installation.loaded.config.storage {
        store::Settings::Filesystem { root_directory } => root_directory,
        store::Settings::Bucket(_) if name.is_none() => return Ok(None),
        store::Settings::Bucket(_) => bail!(
            "--as-user is about the owner of files, and the data are in a bucket\nhint: leave it out"
        ),
    };
    let Some(name) = name else {
        let owner = UserIds::owner_of(root)
            .with_context(|| format!("cannot look at {}", root.display()))?;
        return Ok(Some((root, owner)));
    };
    let user = UserIds::find(name)
        .context("cannot read the users of this machine")?
        .ok_or_else(|| {
            anyhow!("there is no user {name}\nhint: name the user by its number: --as-user UID:GID")
        })?;
    Ok(Some((root, user)))
}

/// What the old registry's user may not do with the files.
fn closed_to_user(
    installation: &Installation,
    as_user: Option<&str>,
) -> anyhow::Result<Vec<Finding>> {
    let Some((root, user)) = old_user(installation, as_user)? else {
        return Ok(Vec::new());
    };
    let denied = user_access::denied(root, &user)
        .with_context(|| format!("cannot look at {}", root.display()))?;
    let mut findings = Vec::new();
    let mut tell = |kind, place: String, detail: String| {
        findings.push(Finding {
            kind,
            place,
            detail,
        });
    };
    for path in denied.closed.iter().take(CLOSED_NAMED_MAX) {
        tell(
            Kind::ClosedToUser,
            path.display().to_string(),
            String::new(),
        );
    }
    let more = denied.closed.len().saturating_sub(CLOSED_NAMED_MAX);
    if more > 0 {
        let detail = format!("{more} more");
        tell(Kind::ClosedToUser, root.display().to_string(), detail);
    }
    if let Some(first) = denied.unwritable.first() {
        let detail = format!("the first of {}", denied.unwritable.len());
        tell(Kind::UnwritableToUser, first.display().to_string(), detail);
    }
    Ok(findings)
}

/// What the old programs do not know of accounts, rules and other keys.
fn of_configuration(installation: &Installation) -> anyhow::Result<Vec<Finding>> {
    let loaded = &installation.loaded;
    let mut old_files = Vec::new();
    for file in &installation.config_files {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let named = OldFile::named_in(&text).into_iter();
        old_files.extend(named.map(|file| file.path));
    }
    if !old_files.is_empty() {
        // The old programs start by these again.
        return Ok(since_taken_over(&loaded.config.auth, &old_files));
    }
    let mut findings = Vec::new();
    if let Some(path) = &loaded.config.auth.users_file {
        let file = UsersFile::read_if_there(path).map_err(|errors| anyhow!("{errors}"))?;
        let names = file.into_iter().flat_map(|file| file.users.into_keys());
        findings.extend(names.map(|name| Finding {
            kind: Kind::OwnAccount,
            place: path.display().to_string(),
            detail: name,
        }));
    }
    for key in own_keys(&loaded.in_force) {
        let place = key.place.as_ref().map(ToString::to_string);
        findings.push(Finding {
            kind: Kind::OwnKey,
            place: place.unwrap_or_default(),
            detail: key.key.clone(),
        });
    }
    Ok(findings)
}

/// How accounts and rules differ from those of the old programs' files.
fn since_taken_over(auth: &AuthConfig, old_files: &[PathBuf]) -> Vec<Finding> {
    let place = |path: &Path| path.display().to_string();
    let old = match config::load_again(old_files, &super::environment()) {
        Ok(loaded) => loaded.config.auth,
        Err(errors) => {
            let first = errors.iter().next();
            let places: Vec<String> = old_files.iter().map(|path| place(path)).collect();
            return vec![Finding {
                kind: Kind::NoOldFiles,
                place: places.join(", "),
                detail: first.map_or_else(String::new, |error| error.message.clone()),
            }];
        }
    };
    let Some(users_file) = &auth.users_file else {
        return Vec::new();
    };
    let (before, now) = (old.users(), auth.users());
    // docker_auth knows nothing of when tokens become void.
    let known = |user: &User| {
        let end = user.expires_unix_secs;
        (user.password_hash.clone(), user.labels.clone(), end)
    };
    let kept = now
        .iter()
        .filter_map(|(name, user)| match before.get(name) {
            None => Some((Kind::OwnAccount, name)),
            Some(old) => (known(old) != known(user)).then_some((Kind::ChangedAccount, name)),
        });
    let removed = before.keys().filter(|name| !now.contains_key(*name));
    let removed = removed.map(|name| (Kind::RemovedAccount, name));
    let mut findings: Vec<Finding> = kept
        .chain(removed)
        .map(|(kind, name)| Finding {
            kind,
            place: place(users_file),
            detail: name.clone(),
        })
        .collect();
    let rules = |auth: &AuthConfig| {
        let rules = auth.rules();
        let texts = rules.iter().map(|rule| rule.text().without_place());
        texts.collect::<Vec<_>>()
    };
    let (before, now) = (rules(&old), rules(auth));
    if before != now {
        findings.push(Finding {
            kind: Kind::ChangedRules,
            place: place(users_file),
            detail: format!("{} before, {} now", before.len(), now.len()),
        });
    }
    findings
}
