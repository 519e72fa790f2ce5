//! `boathouse up --from FILE --from FILE`: the installation of a registry and its token server becomes ours.
//!
//! Must not know any key. Invariants: the old files, their keys and the data stay as they are; nothing is written before all
//! that was asked for is found to be possible, and after an error nothing new is left; no secret is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use super::{Arguments, foreign_files, port};
use crate::cli::talk;
use crate::config::{
    self, Config, NewCertificates, NewPlaces, OldFile, OldFiles, OldProgram, UsersFile,
    UsersFileError, shell_word,
};
use crate::durable_file;
use crate::instance::places::{Places, Surroundings, refuse_data_of_another_as_root};
use crate::instance::{self, missing_parts};
use crate::server::Address;
use crate::tls;

/// Which certificates the registry shows from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CertificateChoice {
    /// Those of an authority of its own
    Own,
    /// As before: those of http.tls, or none behind a proxy
    Keep,
}

/// Takes the installation over if this is the first run. Returns the new configuration, and whether this run made it.
pub(super) fn take_over(arguments: &Arguments) -> anyhow::Result<(PathBuf, bool)> {
    let old = full_paths(&arguments.from)?;
    let first = old.first().context("no file was named")?;
    let directory = match &arguments.dir {
        Some(directory) => directory.clone(),
        None => durable_file::directory_of(first).to_owned(),
    };
    let places = Places::choose(Some(&directory), &Surroundings::here())?;
    let old_files = old
        .iter()
        .map(|file| OldFile::read(file).with_context(|| format!("cannot read {}", file.display())));
    let old_files = old_files.collect::<anyhow::Result<Vec<_>>>()?;
    let environment = crate::cli::environment();
    if places.config.exists() {
        refuse_changed(&places.config, &old_files, &environment)?;
        return Ok((places.config, false));
    }
    let files = OldFiles::read(&old, &environment)?;
    missing_parts::refuse_missing_root(&files.loaded.config)?;
    refuse_data_of_another_as_root(files.loaded.config.owned_directory())?;
    // Until the files are written: an instance that uses the data would keep this one from serving by them.
    let locks = instance::lock_used_data(&files.loaded.config).context("nothing was changed")?;
    let certificates = Certificates::choose(arguments.tls, &files.loaded.config)?;
    let new_places = NewPlaces {
        users: &places.users,
        certificates: certificates.is_own.then_some(NewCertificates {
            hosts: &arguments.host,
            ca_certificate: &places.ca_certificate,
            keys_directory: &places.keys_directory,
        }),
    };
    let text = files.render(&head(&old_files), &new_places, &environment)?;
    let accounts = files.accounts();
    refuse_what_is_in_the_way(&files, &places)?;
    let made_users = write(&places, accounts.as_ref(), &text)?;
    drop(locks);
    if let Some(warning) = missing_parts::empty_root_warning(&files.loaded.config) {
        talk::line(format_args!("warning: {warning}"));
    }
    for line in report(
        &files,
        &places,
        &certificates,
        accounts.as_ref(),
        made_users,
    ) {
        talk::line(line);
    }
    Ok((places.config, true))
}

fn full_paths(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let full = files.iter().map(|file| {
        let path = std::path::absolute(file);
        path.with_context(|| format!("cannot use {}", file.display()))
    });
    full.collect()
}

fn head(old_files: &[OldFile]) -> String {
    let old_files: Vec<String> = old_files.iter().map(ToString::to_string).collect();
    let old_files = old_files.join("\n");
    format!(
        "# Boathouse, taken over from the files below, which it does not read any more.\n\
         # After a change: `boathouse check --config THIS_FILE`, then SIGHUP for certificates, or a restart.\n\
         # docs/configuration.md describes all keys; one that is not here has its default.\n\
         {old_files}\n"
    )
}

/// A configuration that exists already is served if it was made from these files and nothing in them has another meaning since.
/// Otherwise the differences are listed. They are not merged: accounts, passwords and keys may have been changed here on purpose.
fn refuse_changed(
    config: &Path,
    old_files: &[OldFile],
    environment: &BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
    let (made_from, shown) = (OldFile::named_in(&text), config.display());
    if made_from.is_empty() {
        bail!(
            "{shown} exists already, and was not made from these files; nothing was changed\n\
             hint: name another directory with --dir"
        );
    }
    let paths = |files: &[OldFile]| -> BTreeSet<PathBuf> {
        files.iter().map(|file| file.path.clone()).collect()
    };
    if paths(&made_from) != paths(old_files) {
        let made_from = paths(&made_from);
        let made_from: Vec<String> = made_from
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "{shown} exists already, and was made from other files: {}; nothing was changed\n\
             hint: name the same files, or another directory with --dir",
            made_from.join(", ")
        );
    }
    let changed = old_files.iter().filter(|file| !made_from.contains(file));
    let changed: Vec<PathBuf> = changed.map(|file| file.path.clone()).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let new = config::load_again(&[config.to_owned()], environment)?;
    let old: Vec<PathBuf> = old_files.iter().map(|file| file.path.clone()).collect();
    let differences = OldFiles::read(&old, environment)?.differences(&new, &changed);
    let changed: Vec<String> = changed
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let changed = changed.join(" and ");
    if differences.is_empty() {
        talk::line(format_args!(
            "note: {changed} changed since {shown} was made from it, but nothing that has an effect"
        ));
        return Ok(());
    }
    let users = new.config.auth.users_file.as_deref();
    let users = users.map(|users| format!(", users and rules in {}", users.display()));
    let directory = shell_word(&durable_file::directory_of(config).to_string_lossy());
    bail!(
        "{changed} changed since {shown} was made from it; nothing was changed. What differs now:\n  {}\n\
         hint: write what you want to bring over into {shown}{}; what was added there since stays\n\
         hint: `boathouse up --dir {directory}` starts with what is there, and does not read the old files",
        differences.join("\n  "),
        users.unwrap_or_default()
    )
}

/// Which certificates the registry shows, and why.
struct Certificates {
    is_own: bool,
    reason: String,
}

impl Certificates {
    /// What running clients speak decides: where something shows that they come through a proxy, which has the certificate,
    /// the registry goes on without one. Otherwise it gets its own.
    fn choose(asked: Option<CertificateChoice>, config: &Config) -> anyhow::Result<Self> {
        let has_files = config.tls != tls::Settings::None;
        let kept = |reason: &str| {
            Ok(Self {
                is_own: false,
                reason: format!("as before: {reason}"),
            })
        };
        match asked {
            Some(CertificateChoice::Own) if has_files => bail!(
                "http.tls names certificates, which exclude own ones; nothing was changed\n\
                 hint: remove `http.tls` from a copy of the old file, and take that over"
            ),
            Some(CertificateChoice::Own) => {
                return Ok(Self {
                    is_own: true,
                    reason: "of an authority of its own, as --tls own asks".to_owned(),
                });
            }
            Some(CertificateChoice::Keep) => return kept("--tls keep asks for it"),
            None => {}
        }
        let listener = config.token_listener.as_ref();
        let has_plain_listener = listener.is_some_and(|one| one.tls == tls::Settings::None);
        let realm = config.auth.realm.as_deref().unwrap_or_default();
        let proxy =
            "none of its own, so the proxy in front needs no change; `--tls own` makes some";
        if has_files {
            kept("those of http.tls")
        } else if let Some(host) = &config.external_host {
            kept(&format!("http.host is {host}: {proxy}"))
        } else if config.server.address.is_local() {
            kept(&format!("http.addr is of this machine alone: {proxy}"))
        } else if !config.server.trusted_proxies.is_empty() {
            kept(&format!("http.trusted_proxies is given: {proxy}"))
        } else if realm.starts_with("https://") && has_plain_listener {
            kept(&format!(
                "auth.token.realm is https and server.addr is not: {proxy}"
            ))
        } else {
            Ok(Self {
                is_own: true,
                reason: "of an authority of its own: clients that used http:// must now use https:// and trust it (below); `--tls keep` goes on with plain HTTP"
                    .to_owned(),
            })
        }
    }
}

/// Ports that are taken, files that are there, and places that root must not use.
fn refuse_what_is_in_the_way(files: &OldFiles, places: &Places) -> anyhow::Result<()> {
    foreign_files::refuse_as_root(&[places.config.clone(), places.users.clone()])?;
    let config = &files.loaded.config;
    let listener = config.token_listener.as_ref();
    let addresses = [
        Some(&config.server.address),
        listener.map(|one| &one.server.address),
    ];
    for address in addresses.into_iter().flatten() {
        if let Address::Tcp(address) = address {
            port::try_bind(address).with_context(|| {
                format!(
                    "cannot listen on {address}; nothing was changed\n\
                     hint: stop the old registry and its token server first"
                )
            })?;
        }
    }
    Ok(())
}

/// Writes both files, the configuration last. Returns whether the users were written: a run that ended half-way has left them.
fn write(places: &Places, accounts: Option<&UsersFile>, text: &str) -> anyhow::Result<bool> {
    let directory = durable_file::directory_of(&places.config);
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut made_users = false;
    if let Some(accounts) = accounts {
        made_users = write_users(&places.users, accounts)?;
    }
    let written = durable_file::create(&places.config, text.as_bytes(), durable_file::PRIVATE_FILE);
    if written.is_err() && made_users {
        // This run made it.
        let _ = fs::remove_file(&places.users);
    }
    written.with_context(|| format!("cannot write {}", places.config.display()))?;
    Ok(made_users)
}

fn write_users(path: &Path, accounts: &UsersFile) -> anyhow::Result<bool> {
    let there = UsersFile::read_if_there(path)?;
    match there {
        Some(there) if there.same_as(accounts) => Ok(false),
        Some(_) => bail!(
            "{} exists already, with other users or rules; nothing was changed\n\
             hint: name another directory with --dir, or move the file away",
            path.display()
        ),
        None => {
            UsersFile::update(path, |file| {
                *file = accounts.clone();
                Ok::<(), UsersFileError>(())
            })?;
            Ok(true)
        }
    }
}

/// What has changed, and how to go back.
fn report(
    files: &OldFiles,
    places: &Places,
    certificates: &Certificates,
    accounts: Option<&UsersFile>,
    made_users: bool,
) -> Vec<String> {
    let config = &files.loaded.config;
    let mut lines = vec![
        format!(
            "note: the configuration was written to {}; the old files are as they were",
            places.config.display()
        ),
        format!("  data          {}, in place", config.storage),
    ];
    match (accounts, config.auth.htpasswd()) {
        (Some(accounts), _) => {
            let (users, rules) = (accounts.users.len(), accounts.acl.len());
            let path = places.users.display();
            let verb = if made_users { "moved to" } else { "are in" };
            lines.push(format!(
                "  accounts      {users} users and {rules} rules {verb} {path}; `boathouse user` changes them"
            ));
        }
        (None, Some(htpasswd)) => {
            lines.push(format!(
                "  accounts      those of {}, as before",
                htpasswd.display()
            ));
        }
        (None, None) if config.auth.required => lines.push(
            "  accounts      none here: tokens come from the other server, as before".to_owned(),
        ),
        (None, None) => {
            lines
                .push("  accounts      none: every client may do everything, as before".to_owned());
        }
    }
    if let Some(pair) = &config.auth.token_pair {
        lines.push(format!(
            "  token key     {}, kept: tokens and registries that trust its certificate need no change",
            pair.key.display()
        ));
    }
    lines.push(format!("  certificates  {}", certificates.reason));
    for note in &files.left_out {
        lines.push(format!("  left out      {note}"));
    }
    let others = files.loaded.notes.iter();
    for note in others.filter(|note| !files.left_out.contains(note)) {
        lines.push(format!("  note          {note}"));
    }
    if !files.variables.is_empty() {
        let names = files.variables.join(", ");
        lines.push(format!(
            "  in force      over the file wherever they are set: {names}"
        ));
    }
    lines.push("To go back: stop Boathouse, then".to_owned());
    let config_word = shell_word(&places.config.to_string_lossy());
    lines.push(format!(
        "  boathouse check --hand-back --config {config_word}  # what would be lost"
    ));
    lines.push(format!("  boathouse hand-back --config {config_word}"));
    for (file, program) in &files.programs {
        let file = shell_word(&file.to_string_lossy());
        lines.push(match program {
            OldProgram::Distribution => {
                format!("  registry serve {file}  # Debian: docker-registry serve")
            }
            OldProgram::DockerAuth => format!("  docker_auth {file}"),
        });
    }
    if accounts.is_some() {
        lines.push(format!(
            "The old files know nothing of later changes of users and rules; `boathouse config export --for docker_auth --config {config_word}` prints one that does."
        ));
    }
    lines
}
