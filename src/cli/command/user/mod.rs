//! `boathouse user`: accounts, made and ended without an editor.
//!
//! Must not know servers: they follow the file of users. Invariants: only that file is written; a generated password is on
//! stdout, alone, and nowhere else; a command that succeeds has made a change that is in force from the next request on.

mod arguments;
mod changes;
mod list;
mod rights;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use self::arguments::{Action, AddArguments, PasswdArguments, RevokeArguments};
use self::changes::{Addition, ChangeError};
use crate::auth::{
    Accounts, Fields, Grant, Level, MistakeKind, Question, Rule, RuleText, administrators, decide,
    mistakes,
};
use crate::cli::installation::{Installation, Where, config_files};
use crate::cli::moment::{self, Expiry};
use crate::cli::password::{self, Password};
use crate::cli::talk::{self, Talk};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, AuthConfig, Loaded, UsersFile};
use crate::instance::missing_parts;
use crate::store::user_access::give_to_owner_of_data;

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

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let now_unix_secs = SystemClock::new().unix_secs();
    let (mut out, mut talk) = (io::stdout().lock(), Talk);
    let shown = match &arguments.action {
        Action::List { json } => Some((None, *json)),
        Action::Show { name, json } => Some((Some(name), *json)),
        _ => None,
    };
    if let Some((name, as_json)) = shown {
        // Accounts are listed for an issuer of tokens without a registry too.
        let files = config_files(&arguments.place)?;
        let auth = config::load_accounts_again(&files, &crate::cli::environment())?.config;
        if auth.is_foreign_only {
            talk::line(
                "note: no accounts: another server issues the tokens that these files accept",
            );
        }
        warn_of_missing_users(&auth);
        let written = match name {
            None => list::write(&auth, now_unix_secs, as_json, &mut out),
            Some(name) => {
                let account = show::Shown::find(&auth, name, now_unix_secs)
                    .ok_or_else(|| ChangeError::NotThere(name.clone()))?;
                account.write(as_json, &mut out)
            }
        };
        talk::written(written)?;
        return Ok(ExitCode::SUCCESS);
    }
    let is_terminal = io::stdout().is_terminal();
    let mut input = io::stdin().lock();
    if let Action::Passwd(passwd) = &arguments.action
        && passwd.hash
    {
        // For any installation, so none is looked for.
        print_hash(passwd, &mut input, &mut out, &mut talk)?;
        return Ok(ExitCode::SUCCESS);
    }
    let installation = Installation::find_without_accounts(&arguments.place)?;
    Command {
        loaded: &installation.loaded,
        config_file: installation.config_files.first().map(AsRef::as_ref),
        now_unix_secs,
        input: &mut input,
        out: &mut out,
        talk: &mut talk,
        is_terminal,
        recreates_missing: false,
    }
    .run(&arguments.action)?;
    Ok(ExitCode::SUCCESS)
}

/// Without the file of users, fewer accounts are shown than a running server knows.
pub(super) fn warn_of_missing_users(auth: &AuthConfig) {
    if let Some(warning) = missing_parts::users_file_warning(auth) {
        talk::line(format_args!("warning: {warning}"));
    }
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
    /// Whether a users file that this installation has lost is made again.
    recreates_missing: bool,
}

impl Command<'_> {
    fn run(&mut self, action: &Action) -> anyhow::Result<()> {
        match action {
            Action::Add(arguments) => self.add(arguments),
            Action::Grant(arguments) => self.grant(&arguments.name, &arguments.rights.grants()),
            Action::Deny(arguments) => self.deny(&arguments.name, &arguments.denials()),
            Action::Passwd(arguments) => self.passwd(arguments),
            Action::Remove { name } => {
                self.change(Some(name), None, |file| changes::remove(file, name))?;
                self.finish(
                    &format!("{} is removed, with its rights", called(name)),
                    None,
                )
            }
            Action::Revoke(arguments) => self.revoke(arguments),
            // Shown before there is anything to change.
            Action::List { .. } | Action::Show { .. } => Ok(()),
        }
    }

    fn add(&mut self, arguments: &AddArguments) -> anyhow::Result<()> {
        let name = &arguments.name;
        let grants = arguments.rights.grants();
        let ends = self.end(arguments.expires)?;
        let password = match name.as_str() {
            "" if !arguments.password_stdin => None,
            _ => Some(self.password(name, arguments.password_stdin)?),
        };
        let hash = password.as_ref().map(Password::hash).transpose()?;
        let addition = Addition::new(name, hash, ends, &grants)?;
        self.recreates_missing = arguments.recreate_missing;
        let (rules, file) = self.change(Some(name), None, |file| addition.apply(file))?;
        let ends = ends.map(|ends| format!(" and expires at {}", moment::shown(ends)));
        let said = format!("{} is added{}", called(name), ends.unwrap_or_default());
        let shown = password.filter(|_| !arguments.password_stdin);
        let outcome = self.finish(&said, shown.as_ref());
        self.write_rights(name, &file)?;
        self.warn_of_new_rules(name, &grants, &rules, &file)?;
        outcome
    }

    fn grant(&mut self, name: &str, grants: &[Grant]) -> anyhow::Result<()> {
        let is_elsewhere = self.is_elsewhere(name);
        let (rules, file) = self.change(None, None, |file| {
            check_is_there(file, name, is_elsewhere)?;
            changes::grant(file, name, grants)
        })?;
        if rules.is_empty() {
            writeln!(self.talk, "{} has these rights already", called(name))?;
        } else {
            self.finish(&format!("the rights of {} are changed", called(name)), None)?;
        }
        self.write_rights(name, &file)?;
        self.warn_of_new_rules(name, grants, &rules, &file)
    }

    fn deny(&mut self, name: &str, denials: &[Grant]) -> anyhow::Result<()> {
        let is_elsewhere = self.is_elsewhere(name);
        let (is_changed, file) = self.change(None, None, |file| {
            check_is_there(file, name, is_elsewhere)?;
            let is_changed = changes::deny(file, name, denials)?;
            let given = denials
                .iter()
                .find_map(|denied| self.given(name, denied, file));
            match given {
                Some((place, repository)) => Err(ChangeError::GivenElsewhere {
                    name: name.to_owned(),
                    place,
                    repository,
                }),
                None => Ok(is_changed),
            }
        })?;
        if is_changed {
            self.finish(&format!("the rights of {} are changed", called(name)), None)?;
        } else {
            writeln!(self.talk, "{} does not have these rights", called(name))?;
        }
        self.write_rights(name, &file)
    }

    fn passwd(&mut self, arguments: &PasswdArguments) -> anyhow::Result<()> {
        let name = &arguments.name;
        let ends = self.end(arguments.expires)?;
        let password = self.password(name, arguments.password_stdin)?;
        let hash = password.hash()?;
        let (ends, _) = self.change(Some(name), ends, |file| {
            changes::set_password(file, name, hash, ends)
        })?;
        if let Some(ended) = ends.filter(|&ends| ends <= self.now_unix_secs) {
            writeln!(
                self.talk,
                "warning: the account has expired at {}, and cannot log in; --expires changes that",
                moment::shown(ended)
            )?;
        }
        let shown = Some(password).filter(|_| !arguments.password_stdin);
        self.finish(
            &format!("the password of {} is changed", called(name)),
            shown.as_ref(),
        )
    }

    fn revoke(&mut self, arguments: &RevokeArguments) -> anyhow::Result<()> {
        let name = &arguments.name;
        let (is_elsewhere, now) = (self.is_elsewhere(name), self.now_unix_secs);
        if arguments.password || arguments.password_stdin {
            let password = self.password(name, arguments.password_stdin)?;
            let hash = password.hash()?;
            self.change(Some(name), None, |file| {
                changes::set_password(file, name, hash, None)?;
                changes::revoke(file, name, false, now)
            })?;
            let shown = Some(password).filter(|_| arguments.password);
            return self.finish(
                &format!(
                    "the tokens of {0} are revoked, and its password is changed",
                    called(name)
                ),
                shown.as_ref(),
            );
        }
        self.change(None, None, |file| {
            let is_elsewhere = is_elsewhere && !file.users.contains_key(name);
            changes::revoke(file, name, is_elsewhere, now)
        })?;
        self.finish(&format!("the tokens of {} are revoked", called(name)), None)?;
        let auth = &self.loaded.config.auth;
        let hint = if name.is_empty() {
            return Ok(());
        } else if let Some(place) = auth.places.get(name) {
            format!("to change it too, write another hash at {place}")
        } else if is_elsewhere {
            "to change it too, use the external authenticator that knows it".to_owned()
        } else {
            format!("`boathouse user revoke {name} --password` changes it too")
        };
        writeln!(
            self.talk,
            "note: the password of {} still works; {hint}",
            called(name)
        )?;
        Ok(())
    }

    /// Whether the account is defined in the configuration, which no command changes, or may be known to an external
    /// authenticator.
    fn is_elsewhere(&self, name: &str) -> bool {
        let auth = &self.loaded.config.auth;
        auth.places.contains_key(name) || auth.accounts.external.knows_accounts()
    }

    fn end(&self, expires: Option<Expiry>) -> anyhow::Result<Option<u64>> {
        let end = expires.map(|expires| expires.unix_secs(self.now_unix_secs));
        end.transpose()
    }

    fn password(&mut self, name: &str, from_input: bool) -> anyhow::Result<Password> {
        if from_input {
            read_password(name, self.input, self.talk)
        } else {
            Password::random(password::random_bytes)
        }
    }

    /// Changes the file; `name` must not be an account of the configuration. `ends` is when the account will expire. Also
    /// returns what the file is now.
    fn change<T>(
        &self,
        name: Option<&String>,
        ends: Option<u64>,
        change: impl FnOnce(&mut UsersFile) -> Result<T, ChangeError>,
    ) -> anyhow::Result<(T, UsersFile)> {
        let file = self.users_file()?;
        let auth = &self.loaded.config.auth;
        if let Some((name, place)) = name.and_then(|name| auth.places.get_key_value(name)) {
            let (name, place) = (name.clone(), place.to_string());
            return Err(ChangeError::InConfig { name, place }.into());
        }
        if !self.recreates_missing {
            missing_parts::refuse_new_users_file(&self.loaded.config, file)?;
        }
        let is_new = !file.exists();
        let updated = UsersFile::update(file, |content| {
            let before = content.clone();
            let result = change(content)?;
            for moment in std::iter::once(self.now_unix_secs).chain(ends) {
                self.check_administrator_is_left(&before, content, moment)?;
            }
            Ok::<_, ChangeError>(result)
        })?;
        if is_new {
            let root = self.loaded.config.owned_directory();
            give_to_owner_of_data(root, &[file, &UsersFile::lock_path(file)])
                .with_context(|| format!("cannot give {} to the server's user", file.display()))?;
        }
        Ok(updated)
    }

    /// Without one, nobody could give rights back but by an editor.
    fn check_administrator_is_left(
        &self,
        before: &UsersFile,
        after: &UsersFile,
        moment_unix_secs: u64,
    ) -> Result<(), ChangeError> {
        let auth = &self.loaded.config.auth;
        let first = |file: &UsersFile| {
            let Accounts { users, acl, .. } = auth.accounts_with(file);
            let administrators = administrators(&users, &acl, moment_unix_secs);
            administrators.first().map(|&name| name.to_owned())
        };
        match (first(after), first(before)) {
            (None, Some(name)) => Err(ChangeError::LastAdministrator { name }),
            _ => Ok(()),
        }
    }

    /// The place of the rule that gives the account what was denied, and a repository that it gives it on.
    fn given(&self, name: &str, denied: &Grant, file: &UsersFile) -> Option<(String, String)> {
        let Grant::On(level, _) = denied else {
            return None;
        };
        let action = level.actions().last()?;
        let accounts = self.loaded.config.auth.accounts_with(file);
        denied.sample_names().into_iter().find_map(|repository| {
            let rule = self.decisive(&accounts, name, &repository)?;
            let is_given = !rule.grant(&[(*action).to_owned()]).is_empty();
            is_given.then(|| (rule.text().place.clone(), repository))
        })
    }

    /// The rule that decides about an account and a repository, for a client on this machine.
    fn decisive<'a>(
        &self,
        accounts: &'a Accounts,
        name: &str,
        repository: &str,
    ) -> Option<&'a Rule> {
        let no_labels = BTreeMap::new();
        let user = accounts.users.get(name);
        let question = Question {
            fields: Fields {
                account: name,
                resource_type: "repository",
                name: repository,
                service: &self.loaded.config.auth.service,
            },
            client: Ipv4Addr::LOCALHOST.into(),
            labels: user.map_or(&no_labels, |user| &user.labels),
        };
        decide(&accounts.acl, &question)
    }

    fn users_file(&self) -> anyhow::Result<&Path> {
        let auth = &self.loaded.config.auth;
        if let Some(htpasswd) = auth.htpasswd() {
            let path = htpasswd.display();
            bail!(
                "the accounts are those of {path} (auth.htpasswd), which `boathouse user` does not change\nhint: `htpasswd -B -C 10 {path} NAME`; it takes effect at once"
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

    /// What the account may do now, in words.
    fn write_rights(&mut self, name: &str, file: &UsersFile) -> anyhow::Result<()> {
        let accounts = self.loaded.config.auth.accounts_with(file);
        let rules: Vec<RuleText> = accounts
            .acl
            .iter()
            .map(|rule| rule.text().clone())
            .collect();
        let who = match name {
            "" => "anonymous callers",
            name => name,
        };
        let rights = rights::in_words(&rules, name);
        if rights.is_empty() {
            writeln!(
                self.talk,
                "{who}: no rights by name; `boathouse user grant` gives some"
            )?;
        }
        for (_, right) in rights {
            writeln!(self.talk, "{who} {right}")?;
        }
        Ok(())
    }

    /// What is probably not meant in the rules that were just written, and what another rule keeps from taking effect.
    fn warn_of_new_rules(
        &mut self,
        name: &str,
        grants: &[Grant],
        rules: &[RuleText],
        file: &UsersFile,
    ) -> anyhow::Result<()> {
        let accounts = self.loaded.config.auth.accounts_with(file);
        let has_others = accounts.external.knows_accounts();
        let is_new = |text: &RuleText| rules.contains(&text.without_place());
        let mut is_warned = false;
        for mistake in mistakes(&accounts.acl, &accounts.users, has_others, is_new) {
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
                | MistakeKind::EmptyValue { .. } => {
                    is_warned = true;
                    writeln!(self.talk, "warning: {mistake}")?;
                }
            }
        }
        if name.is_empty() {
            self.warn_of_accounts_with_less(grants, &accounts)?;
        }
        if is_warned {
            return Ok(());
        }
        for grant in grants {
            let asked: Vec<String> = match grant {
                Grant::Everything => Level::Delete.actions(),
                Grant::On(level, _) => level.actions(),
            }
            .iter()
            .map(|&action| action.to_owned())
            .collect();
            for repository in grant.sample_names() {
                let rule = self.decisive(&accounts, name, &repository);
                if let Some(rule) = rule
                    && rule.grant(&asked) != asked
                {
                    writeln!(
                        self.talk,
                        "warning: the rule at {} comes first: it decides about `{repository}`, for example",
                        rule.text().place
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Rules for callers without credentials are not for accounts that are logged in.
    fn warn_of_accounts_with_less(
        &mut self,
        grants: &[Grant],
        accounts: &Accounts,
    ) -> anyhow::Result<()> {
        for grant in grants {
            let Grant::On(_, pattern) = grant else {
                continue;
            };
            let may_pull = |account: &str, repository: &str| {
                let rule = self.decisive(accounts, account, repository);
                rule.is_some_and(|rule| !rule.grant(&["pull".to_owned()]).is_empty())
            };
            let names = accounts.users.keys().filter(|account| !account.is_empty());
            let lacking: Vec<&String> = names
                .filter(|account| {
                    let samples = grant.sample_names();
                    samples
                        .iter()
                        .any(|repository| !may_pull(account, repository))
                })
                .collect();
            let Some(first) = lacking.first() else {
                continue;
            };
            let others = match lacking.len() - 1 {
                0 => String::new(),
                others => format!(" and {others} more"),
            };
            writeln!(
                self.talk,
                "warning: this is for callers without a login only: once logged in, `{first}`{others} may not pull all of {pattern}; \
                 `boathouse user grant {first} --pull '{pattern}'` allows it"
            )?;
        }
        Ok(())
    }
}

/// An account that is in no list may be known to an external authenticator.
fn check_is_there(file: &UsersFile, name: &str, is_elsewhere: bool) -> Result<(), ChangeError> {
    if is_elsewhere || file.users.contains_key(name) {
        Ok(())
    } else {
        Err(ChangeError::NotThere(name.to_owned()))
    }
}

/// The password on standard input, for this account.
fn read_password(
    name: &str,
    input: &mut dyn Read,
    talk: &mut dyn Write,
) -> anyhow::Result<Password> {
    let mut text = String::new();
    input
        .take(PASSWORD_INPUT_BYTES_MAX)
        .read_to_string(&mut text)
        .context("cannot read a password from standard input")?;
    // What `echo` and an editor put behind it.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let password = Password::chosen(name, text.to_owned())
        .context("the password on standard input cannot be used")?;
    if text.contains(':') {
        writeln!(
            talk,
            "warning: Tart cannot use a password with `:` in it from a docker config"
        )?;
    }
    Ok(password)
}

/// `user passwd --hash`: the entry of `users:` in a config file, below the password where one was generated.
fn print_hash(
    arguments: &PasswdArguments,
    input: &mut dyn Read,
    out: &mut dyn Write,
    talk: &mut dyn Write,
) -> anyhow::Result<()> {
    let name = &arguments.name;
    let password = if arguments.password_stdin {
        read_password(name, input, talk)?
    } else {
        let password = Password::random(password::random_bytes)?;
        writeln!(out, "{}", password.expose())?;
        password
    };
    let entry = UsersFile::entry(name, &password.hash()?);
    let written = write!(out, "{entry}").and_then(|()| out.flush());
    talk::written(written)?;
    writeln!(
        talk,
        "nothing was changed; this line is for `users:` in a config file"
    )?;
    Ok(())
}

/// How messages name an account.
fn called(name: &str) -> String {
    if name.is_empty() {
        "the account of anonymous callers".to_owned()
    } else {
        format!("`{name}`")
    }
}
