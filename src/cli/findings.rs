//! What is wrong with the data of an installation, and what keeps it from going back to another registry.
//!
//! Must not know what the data mean (`registry::inspection`). Invariants: nothing is written; a running server is not asked and
//! not disturbed.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;

use super::installation::Installation;
use super::progress::Meter;
use crate::clock::{Clock, SystemClock};
use crate::config::{UsersFile, own_keys};
use crate::index::Index;
use crate::registry::{self, Finding, Kind, Meaning, Registry};
use crate::store::user_access::{self, UserIds};

/// Files that are named one by one; of more, the number is told.
const CLOSED_NAMED_MAX: usize = 20;

/// What was found.
#[derive(Serialize)]
pub(super) struct Findings {
    /// Repositories looked through.
    repositories: u64,
    findings: Vec<Line>,
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
        let root = config.storage.root_directory();
        if !root.is_dir() {
            bail!(
                "there is no directory {}\nhint: look at `storage.filesystem.rootdirectory`",
                root.display()
            );
        }
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
        Ok(Self {
            repositories,
            findings: lines.collect(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// One line for each, and a summary. With `wanted` beyond damage, each begins with the registries that it matters to.
    pub(super) fn text(&self, wanted: Wanted) -> String {
        let mut text = String::new();
        for Line {
            meaning,
            place,
            detail,
        } in &self.findings
        {
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
        let _ = writeln!(
            text,
            "{} repositories looked through: {} findings",
            self.repositories,
            self.findings.len()
        );
        text
    }
}

/// The old registry's user.
pub(super) fn old_user(installation: &Installation, name: Option<&str>) -> anyhow::Result<UserIds> {
    let root = installation.loaded.config.storage.root_directory();
    let Some(name) = name else {
        return UserIds::owner_of(root)
            .with_context(|| format!("cannot look at {}", root.display()));
    };
    UserIds::find(name)
        .context("cannot read the users of this machine")?
        .ok_or_else(|| {
            anyhow!("there is no user {name}\nhint: name the user by its number: --as-user UID:GID")
        })
}

/// What the old registry's user may not do with the files.
fn closed_to_user(
    installation: &Installation,
    as_user: Option<&str>,
) -> anyhow::Result<Vec<Finding>> {
    let root = installation.loaded.config.storage.root_directory();
    let user = old_user(installation, as_user)?;
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

/// What only this program reads: accounts of the users file, keys of the configuration.
fn of_configuration(installation: &Installation) -> anyhow::Result<Vec<Finding>> {
    let loaded = &installation.loaded;
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
