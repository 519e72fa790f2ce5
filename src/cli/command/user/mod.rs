//! `boathouse user`: accounts, made and ended without an editor.
//!
//! Must not know servers: they follow the file of users. Invariants: only that file is written; a generated password is on
//! stdout, alone, and nowhere else; a command that succeeds has made a change that is in force from the next request on.

mod changes;
mod list;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use self::changes::{Addition, ChangeError};
use crate::auth::{Grant, MistakeKind};
use crate::cli::installation::{Installation, Where, config_files};
use crate::cli::moment::{self, Expiry};
use crate::cli::password::{self, Password};
use crate::cli::talk::{self, Talk};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Loaded, UsersFile};
use crate::instance::missing_parts;

/// Longer input is no password: bcrypt reads 72 bytes.
const PASSWORD_INPUT_BYTES_MAX: u64 = 4_096;

/// `boathouse user`
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an account; without --password-stdin its password is generated and printed
    ///
    /// A PATTERN is the name of a repository, in which `*` stands for a part without `/` and `**` for anything. The empty
    /// NAME is for callers without credentials, who may be given --pull only.
    Add(AddArguments),
    /// Give an account another password, which ends its tokens
    Passwd(PasswdArguments),
    /// Remove an account and the rules that are for it alone, which ends its tokens
    Remove {
        /// The account
        name: String,
    },
    /// End all tokens of an account; its password stays
    Revoke {
        /// The account; it may stand in the config too
        name: String,
    },
    /// Show the accounts and what was granted to them
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct AddArguments {
    /// The account
    name: String,
    /// Take the password from standard input instead of generating one
    #[arg(long)]
    password_stdin: bool,
    /// What it may pull (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pull: Vec<String>,
    /// What it may push and pull (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    push: Vec<String>,
    /// It may do everything
    #[arg(long, conflicts_with_all = ["pull", "push"])]
    admin: bool,
    /// When it ends by itself: 90d, 12h, 8w, or a moment like 2027-01-31T18:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<Expiry>,
}

#[derive(Debug, Args)]
struct PasswdArguments {
    /// The account
    name: String,
    /// Take the password from standard input instead of generating one
    #[arg(long)]
    password_stdin: bool,
    /// Also set when it ends: 90d, 12h, 8w, or a moment like 2027-01-31T18:00:00Z
    #[arg(long, value_name = "TIME")]
    expires: Option<Expiry>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let now_unix_secs = SystemClock::new().unix_secs();
    let (mut out, mut talk) = (io::stdout().lock(), Talk);
    if let Action::List { json } = arguments.action {
        // Accounts are listed for an issuer of tokens without a registry too.
        let files = config_files(&arguments.place)?;
        let auth = config::load_accounts_again(&files, &crate::cli::environment())?.config;
        if auth.is_foreign_only {
            talk::line(
                "note: no accounts: another server issues the tokens that these files accept",
            );
        }
        let written = list::write(&auth, now_unix_secs, json, &mut out);
        talk::written(written)?;
        return Ok(ExitCode::SUCCESS);
    }
    let is_terminal = io::stdout().is_terminal();
    let installation = Installation::find_for_a_change(&arguments.place)?;
    Command {
        loaded: &installation.loaded,
        config_file: installation.config_files.first().map(AsRef::as_ref),
        now_unix_secs,
        input: &mut io::stdin().lock(),
        out: &mut out,
        talk: &mut talk,
        is_terminal,
    }
    .run(&arguments.action)?;
    Ok(ExitCode::SUCCESS)
}

/// One change, and all that it touches.
struct Command<'a> {
    loaded: &'a Loaded,
    config_file: Option<&'a Path>,
    now_unix_secs: u64,
    input: &'a mut dyn Read,
    out: &'a mut dyn Write,
    talk: &'a mut dyn Write,
    is_terminal: bool,
}

impl Command<'_> {
    fn run(&mut self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::Add(arguments) => self.add(arguments),
            Action::Passwd(arguments) => self.passwd(arguments),
            Action::Remove { name } => {
                let (rules, _) = self.change(Some(name), |file| changes::remove(file, name))?;
                self.finish(
                    &format!("{} was removed, with {}", called(name), counted(rules)),
                    None,
                )
            }
            Action::Revoke { name } => {
                let auth = &self.loaded.config.auth;
                let is_in_config = auth.places.contains_key(name);
                let has_others = auth.accounts.external.knows_accounts();
                let now = self.now_unix_secs;
                self.change(None, |file| {
                    let is_elsewhere =
                        is_in_config || (has_others && !file.users.contains_key(name));
                    changes::revoke(file, name, is_elsewhere, now)
                })?;
                self.finish(
                    &format!("the tokens of {} were revoked", called(name)),
                    None,
                )
            }
            // Shown before there is anything to change.
            Action::List { .. } => Ok(()),
        }
    }

    fn add(&mut self, arguments: &AddArguments) -> anyhow::Result<()> {
        let name = &arguments.name;
        let pulls = arguments.pull.iter().cloned().map(Grant::Pull);
        let pushes = arguments.push.iter().cloned().map(Grant::Push);
        let mut grants: Vec<Grant> = pushes.chain(pulls).collect();
        if arguments.admin {
            grants.push(Grant::Everything);
        }
        let ends = self.end(arguments.expires)?;
        let password = match name.as_str() {
            "" if !arguments.password_stdin => None,
            _ => Some(self.password(arguments.password_stdin)?),
        };
        let hash = password.as_ref().map(Password::hash).transpose()?;
        let addition = Addition::new(name, hash, ends, &grants)?;
        let (rules, file) = self.change(Some(name), |file| addition.apply(file))?;
        let ends = ends.map(|ends| format!(" until {}", moment::shown(ends)));
        let said = format!(
            "{} was added with {}{}",
            called(name),
            counted(rules),
            ends.unwrap_or_default()
        );
        let shown = password.filter(|_| !arguments.password_stdin);
        let outcome = self.finish(&said, shown.as_ref());
        self.warn_of_new_rules(file, rules)?;
        outcome
    }

    fn passwd(&mut self, arguments: &PasswdArguments) -> anyhow::Result<()> {
        let name = &arguments.name;
        let ends = self.end(arguments.expires)?;
        let password = self.password(arguments.password_stdin)?;
        let hash = password.hash()?;
        let (ends, _) = self.change(Some(name), |file| {
            changes::set_password(file, name, hash, ends)
        })?;
        if let Some(ended) = ends.filter(|&ends| ends <= self.now_unix_secs) {
            writeln!(
                self.talk,
                "warning: the account has ended at {} and stays so; --expires gives it another end",
                moment::shown(ended)
            )?;
        }
        let shown = Some(password).filter(|_| !arguments.password_stdin);
        self.finish(
            &format!("{} has another password", called(name)),
            shown.as_ref(),
        )
    }

    fn end(&self, expires: Option<Expiry>) -> anyhow::Result<Option<u64>> {
        let end = expires.map(|expires| expires.unix_secs(self.now_unix_secs));
        end.transpose()
    }

    fn password(&mut self, from_input: bool) -> anyhow::Result<Password> {
        if !from_input {
            return Password::random(password::random_bytes);
        }
        let mut text = String::new();
        let mut input = (&mut *self.input).take(PASSWORD_INPUT_BYTES_MAX);
        input
            .read_to_string(&mut text)
            .context("cannot read a password from standard input")?;
        // What `echo` and an editor put behind it.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.contains(':') {
            writeln!(
                self.talk,
                "warning: Tart cannot use a password with `:` in it from a docker config"
            )?;
        }
        Password::given(text.to_owned()).context("standard input holds no usable password")
    }

    /// Changes the file; `name` must not be one of the configuration. Also returns what the file is now.
    fn change<T>(
        &self,
        name: Option<&String>,
        change: impl FnOnce(&mut UsersFile) -> Result<T, ChangeError>,
    ) -> anyhow::Result<(T, UsersFile)> {
        let file = self.users_file()?;
        if let Some((name, place)) =
            name.and_then(|name| self.loaded.config.auth.places.get_key_value(name))
        {
            let (name, place) = (name.clone(), place.to_string());
            return Err(ChangeError::InConfig { name, place }.into());
        }
        missing_parts::refuse_new_users_file(&self.loaded.config, file)?;
        Ok(UsersFile::update(file, change)?)
    }

    fn users_file(&self) -> anyhow::Result<&Path> {
        let auth = &self.loaded.config.auth;
        if let Some(htpasswd) = auth.htpasswd() {
            let path = htpasswd.display();
            bail!(
                "the accounts are those of {path} (auth.htpasswd), which no command here changes\nhint: `htpasswd -B -C 10 {path} NAME`; it takes effect at once"
            );
        }
        let Some(file) = auth.users_file.as_deref() else {
            let config = self.config_file.unwrap_or(Path::new("the configuration"));
            let config = config.display();
            bail!(
                "there is no `users_file`, and commands write accounts nowhere else\nhint: add `users_file: /full/path/users.yml` to {config}, and restart the server"
            );
        };
        if self
            .loaded
            .by_working_directory
            .iter()
            .any(|key| key == "users_file")
        {
            let file = file.display();
            bail!(
                "`users_file` is a relative path, here {file}, and another file to a server that was started in another directory; nothing was changed\nhint: write its full path into the configuration, and restart the server"
            );
        }
        Ok(file)
    }

    /// Shows a generated password, and says what is in force. The file is written by now, and a server looks at it for each
    /// request, so no server need be reached.
    fn finish(&mut self, said: &str, password: Option<&Password>) -> anyhow::Result<()> {
        let shown = password.map_or(Ok(()), |password| self.show(password));
        let file = self.users_file()?.to_owned();
        if UsersFile::is_read_by_an_older_server(&file)? {
            bail!(
                "{said}, and {} is written, but a server of an earlier version is running, which does not follow the file\n\
                 hint: send it SIGHUP, or restart it as this version",
                file.display()
            );
        }
        writeln!(
            self.talk,
            "{said}; in force from the next request on, in every server that reads {}",
            file.display()
        )?;
        shown.context("the password could not be printed, and it is lost\nhint: `boathouse user passwd` makes another")
    }

    /// stdout is data: a script gets the password and nothing else.
    fn show(&mut self, password: &Password) -> io::Result<()> {
        if self.is_terminal {
            writeln!(self.talk, "The password, which is not shown again:")?;
        }
        writeln!(self.out, "{}", password.expose())?;
        self.out.flush()
    }

    /// What is probably not meant in the rules that were just written: the last ones.
    fn warn_of_new_rules(&mut self, file: UsersFile, count: usize) -> anyhow::Result<()> {
        if count == 0 {
            return Ok(());
        }
        for mistake in self.loaded.config.auth.mistakes_in(file, count) {
            match &mistake.kind {
                // As it is written on the command line.
                MistakeKind::OneLevel {
                    pattern, missed, ..
                } => writeln!(
                    self.talk,
                    "note: `{pattern}` does not cover `{missed}`; `{}**` would",
                    pattern.trim_end_matches('*')
                )?,
                MistakeKind::Shadowed { .. }
                | MistakeKind::NoSuchAccount(_)
                | MistakeKind::PushWithoutPull
                | MistakeKind::StarAmongOthers
                | MistakeKind::UnknownAction(_)
                | MistakeKind::UnknownType(_)
                | MistakeKind::EmptyValue { .. } => writeln!(self.talk, "warning: {mistake}")?,
            }
        }
        Ok(())
    }
}

/// How messages name an account.
fn called(name: &str) -> String {
    if name.is_empty() {
        "the account of anonymous callers".to_owned()
    } else {
        format!("`{name}`")
    }
}

fn counted(rules: usize) -> String {
    match rules {
        0 => "no rules of its own".to_owned(),
        1 => "1 rule".to_owned(),
        _ => format!("{rules} rules"),
    }
}
