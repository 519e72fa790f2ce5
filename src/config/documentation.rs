//! `docs/configuration.md`, made from the table of keys.
//!
//! Must not know any key. Invariant: what the page says of a key is what its row says; a test compares the page with this.

use std::fmt::Write as _;

use super::key::{Declared, Family, Fate, Files, OFF, Row, Source, TakesEffect};
use super::keys::FAMILIES;

const HEAD: &str = "\
# Configuration

This page is made from the table of keys in the program. Do not edit it: change the key's row in `src/config`, then run
`CONFIGURATION_RENEW=yes cargo test --test it the_configuration_page`.

`boathouse serve` takes the files of a registry (distribution's `config.yml`) and of docker_auth (`auth_config.yml`) as they are,
and a few keys of its own. `boathouse up` writes `boathouse.yml`, which holds the keys that are changed most often.
`boathouse check --verbose` shows every value in force and where it was decided.

- **Several files**: `--config` may be repeated, and a file may hold several documents. Maps merge; a value or a list that is
  given twice is an error that names both places.
- **Variables**: `REGISTRY_…` variables override keys of distribution, as they do there: `REGISTRY_HTTP_ADDR` is `http.addr`.
  A variable that matches no key is a warning.
- **Unknown keys** are errors. So are keys that are not supported yet, where leaving them out could change what clients see;
  keys that make no difference here are accepted with a note.
- **After a change**: keys with \"SIGHUP\" are read again at SIGHUP; so are certificates, at the same paths. A file that holds
  `users`, `acl`, `ext_auth`, `ext_authz` or `ldap_auth` needs no signal: within 3 s of a change the same happens by itself. Keys
  with \"restart\" need one; the log names those that were changed. The users file and the htpasswd file are looked at all the
  time, so a change of them needs nothing.
- **Defaults** are those of Boathouse; where distribution has another one, the text says so.
- **Numbers** are decimal digits without a unit. **Durations** are written as in Go: `30s`, `1m30s`.
";

/// The text of `docs/configuration.md`.
pub fn documentation() -> String {
    let mut page = HEAD.to_owned();
    for family in FAMILIES {
        // Writing to a String cannot fail.
        let _ = write_family(&mut page, family);
    }
    page
}

fn write_family(page: &mut String, family: &Family) -> std::fmt::Result {
    writeln!(page, "\n## {}", family.heading)?;
    if !family.intro.is_empty() {
        writeln!(page, "\n{}", family.intro)?;
    }
    if !family.keys.is_empty() {
        writeln!(
            page,
            "\n| Key | Value | Default | From | After a change | Meaning |\n|---|---|---|---|---|---|"
        )?;
        for key in family.keys {
            write_key(page, *key)?;
        }
    }
    let rows = || family.unread.iter().map(|key| &key.row);
    let harmless: Vec<String> = rows().filter_map(no_effect).collect();
    if !harmless.is_empty() {
        writeln!(
            page,
            "\nAccepted without effect:\n\n{}",
            harmless.join("\n")
        )?;
    }
    let later: Vec<String> = rows().filter_map(not_yet).collect();
    if !later.is_empty() {
        writeln!(page, "\nNot supported yet:\n\n{}", later.join("\n"))?;
    }
    let never: Vec<String> = rows().filter_map(refused).collect();
    if !never.is_empty() {
        writeln!(page, "\nNot supported:\n\n{}", never.join("\n"))?;
    }
    Ok(())
}

fn write_key(page: &mut String, key: &dyn Declared) -> std::fmt::Result {
    let row = key.row();
    let default = key.default();
    let default = match default.as_str() {
        "" => "–".to_owned(),
        "\"\"" => "none".to_owned(),
        in_words if in_words.contains('`') => default,
        _ => format!("`{default}`"),
    };
    let mut meaning = row.paragraphs().join(" ");
    if row.files == Files::UsersFile {
        meaning.push_str(" In the users file only.");
    }
    let after_a_change = match (row.takes_effect, row.files) {
        (TakesEffect::AtRestart, _) => "restart",
        (TakesEffect::AtReload, Files::Config) => "SIGHUP",
        (TakesEffect::AtReload, Files::Both) => "SIGHUP; in the users file nothing",
        (TakesEffect::AtReload, Files::UsersFile) => "nothing",
    };
    writeln!(
        page,
        "| `{}` | {} | {default} | {} | {after_a_change} | {meaning} |",
        row.shown_path(),
        key.expected(),
        source(row),
    )
}

fn no_effect(row: &Row) -> Option<String> {
    match row.fate {
        Fate::Harmless(why) => Some(format!("- {}: {why}", named(row))),
        Fate::Built | Fate::NotYet(_) | Fate::Refused(..) => None,
    }
}

fn not_yet(row: &Row) -> Option<String> {
    match row.fate {
        Fate::NotYet(unless) => Some(format!(
            "- {}{}: {}",
            named(row),
            exceptions(unless),
            row.hint
        )),
        Fate::Built | Fate::Harmless(_) | Fate::Refused(..) => None,
    }
}

fn refused(row: &Row) -> Option<String> {
    match row.fate {
        Fate::Refused(unless, why) => Some(format!(
            "- {}{}: {why}. Instead: {}",
            named(row),
            exceptions(unless),
            row.hint
        )),
        Fate::Built | Fate::Harmless(_) | Fate::NotYet(_) => None,
    }
}

fn named(row: &Row) -> String {
    format!("`{}` ({})", row.shown_path(), source(row))
}

/// Which values are taken all the same.
fn exceptions(unless: &[&str]) -> String {
    let values: Vec<String> = match unless {
        [] => return String::new(),
        OFF => vec!["off".to_owned()],
        unless => unless
            .iter()
            .map(|value| format!("`{}`", written(value)))
            .collect(),
    };
    format!(", unless it is {}", values.join(" or "))
}

/// An empty text is written in quotes.
fn written(value: &str) -> &str {
    if value.is_empty() { "\"\"" } else { value }
}

fn source(row: &Row) -> &'static str {
    match row.source {
        Source::Distribution => "distribution",
        Source::DockerAuth => "docker_auth",
        Source::Boathouse => "Boathouse",
    }
}
