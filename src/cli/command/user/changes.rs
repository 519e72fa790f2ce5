//! What the commands change in the file of users.
//!
//! Must not know where the file is, nor who is told. Invariants: an account and what was granted to it go together, so that
//! a later account of the same name inherits nothing; whatever ends tokens gives the account a generation that it never had.

use super::rights;
use crate::auth::{Grant, GrantError, Level, RuleText, User, exactly};
use crate::config::{UsersFile, UsersFileError};

/// The longest name: clients put names into headers.
const NAME_BYTES_MAX: usize = 128;

/// A new account.
#[derive(Debug)]
pub(super) struct Addition {
    name: String,
    password_hash: Option<String>,
    expires_unix_secs: Option<u64>,
    grants: Vec<Grant>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error(
        "the account `{0}` exists already\nhint: `boathouse user passwd` changes its password, `boathouse user grant` its rights"
    )]
    AlreadyThere(String),
    #[error("there is no account `{0}`\nhint: `boathouse user list` shows all accounts")]
    NotThere(String),
    #[error(
        "`{name}` is defined at {place}, and commands change the users file only\nhint: change it there; a running server loads the change within seconds (`boathouse user passwd {name} --hash` prints a password's hash)"
    )]
    InConfig { name: String, place: String },
    #[error(
        "anonymous callers have no password and no expiry, and may only pull\nhint: give them --pull PATTERN only"
    )]
    AnonymousBeyondPull,
    #[error(
        "`{0}` cannot be the name of an account\nhint: use up to 128 letters, digits and `. _ - @ +`, beginning with a letter or digit"
    )]
    BadName(String),
    #[error(
        "`{name}` is denied {denied}, so a grant of {wanted} would have no effect\nhint: `boathouse user grant {name} … '{denied}'` takes the denial back"
    )]
    Denied {
        name: String,
        wanted: String,
        denied: String,
    },
    #[error(
        "{pattern} and {granted}, which `{name}` was granted, overlap: rules cannot say exactly what is left\nhint: name a part of {granted}, or deny everything there with `--pull '{pattern}'`"
    )]
    Overlap {
        name: String,
        pattern: String,
        granted: String,
    },
    #[error(
        "`{name}` is the last administrator: the only account that may log in and do everything; nothing was changed\nhint: make another one first: `boathouse user add NAME --admin` or `boathouse user grant NAME --admin`"
    )]
    LastAdministrator { name: String },
    #[error(
        "the rule at {place} still gives `{name}` this right; nothing was changed\nhint: change that rule; `boathouse acl explain '{name}' {repository}` shows which rule decides"
    )]
    GivenElsewhere {
        name: String,
        place: String,
        repository: String,
    },
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    File(#[from] UsersFileError),
}

impl Addition {
    /// An account with a password, and what it may do. Without a name it is that of anonymous callers.
    pub(super) fn new(
        name: &str,
        password_hash: Option<String>,
        expires_unix_secs: Option<u64>,
        grants: &[Grant],
    ) -> Result<Self, ChangeError> {
        let is_beyond_pull =
            password_hash.is_some() || expires_unix_secs.is_some() || !grants.iter().all(is_pull);
        if name.is_empty() && is_beyond_pull {
            return Err(ChangeError::AnonymousBeyondPull);
        }
        if !name.is_empty() && !is_name(name) {
            return Err(ChangeError::BadName(name.to_owned()));
        }
        Ok(Self {
            name: name.to_owned(),
            password_hash,
            expires_unix_secs,
            grants: grants.to_vec(),
        })
    }

    /// Puts it into the file; the rules that were written.
    pub(super) fn apply(self, file: &mut UsersFile) -> Result<Vec<RuleText>, ChangeError> {
        if file.users.contains_key(&self.name) {
            return Err(ChangeError::AlreadyThere(self.name));
        }
        // Left behind by hand; a revocation of the account that was is none of this one's, whose password hash is new.
        file.revoked.remove(&self.name);
        let user = User {
            password_hash: self.password_hash,
            expires_unix_secs: self.expires_unix_secs,
            ..User::default()
        };
        file.users.insert(self.name.clone(), user);
        grant(file, &self.name, &self.grants)
    }
}

/// Gives rights to an account that exists; the rules that were written.
pub(super) fn grant(
    file: &mut UsersFile,
    name: &str,
    grants: &[Grant],
) -> Result<Vec<RuleText>, ChangeError> {
    if name.is_empty() && !grants.iter().all(is_pull) {
        return Err(ChangeError::AnonymousBeyondPull);
    }
    let mut rules = Vec::new();
    for each in grants {
        rules.extend(rights::grant(file, name, each)?);
    }
    Ok(rules)
}

/// Takes rights away from an account that exists. Returns whether anything was changed.
pub(super) fn deny(
    file: &mut UsersFile,
    name: &str,
    denials: &[Grant],
) -> Result<bool, ChangeError> {
    let mut is_changed = false;
    for each in denials {
        is_changed |= rights::deny(file, name, each)?;
    }
    Ok(is_changed)
}

/// Whether anonymous callers may be given it.
fn is_pull(grant: &Grant) -> bool {
    matches!(grant, Grant::On(Level::Pull, _))
}

fn is_name(name: &str) -> bool {
    let may_stand =
        |character: char| character.is_ascii_alphanumeric() || "._-@+".contains(character);
    name.len() <= NAME_BYTES_MAX
        && name.chars().all(may_stand)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

pub(super) fn find<'a>(file: &'a mut UsersFile, name: &str) -> Result<&'a mut User, ChangeError> {
    let user = file.users.get_mut(name);
    user.ok_or_else(|| ChangeError::NotThere(name.to_owned()))
}

/// Gives another password, and another end if there is one; the end that then holds.
pub(super) fn set_password(
    file: &mut UsersFile,
    name: &str,
    password_hash: String,
    expires_unix_secs: Option<u64>,
) -> Result<Option<u64>, ChangeError> {
    if name.is_empty() {
        return Err(ChangeError::AnonymousBeyondPull);
    }
    let user = find(file, name)?;
    user.password_hash = Some(password_hash);
    user.expires_unix_secs = expires_unix_secs.or(user.expires_unix_secs);
    Ok(user.expires_unix_secs)
}

/// Removes the account with the rules that are for it alone.
pub(super) fn remove(file: &mut UsersFile, name: &str) -> Result<(), ChangeError> {
    find(file, name)?;
    file.users.remove(name);
    file.revoked.remove(name);
    let pattern = exactly(name);
    file.acl
        .retain(|rule| rule.account.as_deref() != Some(pattern.as_str()));
    Ok(())
}

/// Ends the account's tokens. `is_elsewhere`: it is in the configuration, which no command changes, or an external
/// authenticator knows it.
pub(super) fn revoke(
    file: &mut UsersFile,
    name: &str,
    is_elsewhere: bool,
    now_unix_secs: u64,
) -> Result<(), ChangeError> {
    let since = if is_elsewhere {
        file.revoked.entry(name.to_owned()).or_default()
    } else {
        find(file, name)?.valid_after_unix_secs.get_or_insert(0)
    };
    // Twice within a second, or after the clock was set back: tokens given out between the two must end all the same.
    *since = now_unix_secs.max(since.saturating_add(1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(pattern: &str) -> Grant {
        Grant::On(Level::Pull, pattern.to_owned())
    }

    fn added(name: &str, grants: &[Grant]) -> UsersFile {
        let mut file = UsersFile::default();
        let addition = Addition::new(name, Some("$2y$x".to_owned()), Some(9), grants);
        addition.unwrap().apply(&mut file).unwrap();
        file
    }

    #[test]
    fn what_gives_more_comes_first() {
        let push = Grant::On(Level::Push, "team/app".to_owned());
        let file = added("ann", &[pull("team/*"), push.clone(), pull("team/*")]);
        let grants: Vec<_> = file
            .acl
            .iter()
            .map(|rule| Grant::of_rule(rule, "ann"))
            .collect();
        assert_eq!(grants, [Some(push), Some(pull("team/*"))]);
        assert_eq!(file.users["ann"].expires_unix_secs, Some(9));
    }

    #[test]
    fn a_name_is_taken_once_and_must_be_one_that_clients_can_send() {
        let mut file = added("ann", &[]);
        let again = Addition::new("ann", None, None, &[]).unwrap();
        assert!(matches!(
            again.apply(&mut file),
            Err(ChangeError::AlreadyThere(_))
        ));
        for bad in ["a:b", "a b", "-a", "/a/", "é", "a\n", &"a".repeat(129)] {
            let error = Addition::new(bad, None, None, &[]).unwrap_err();
            assert!(matches!(error, ChangeError::BadName(_)), "{bad}");
        }
        for good in ["a", "ann@lab.example", "ci-1_x.y+z", "9"] {
            assert!(Addition::new(good, None, None, &[]).is_ok(), "{good}");
        }
    }

    #[test]
    fn anonymous_callers_may_be_given_pulls_only() {
        let mut file = UsersFile::default();
        let addition = Addition::new("", None, None, &[pull("public/**")]);
        assert_eq!(addition.unwrap().apply(&mut file).unwrap().len(), 1);
        assert_eq!(file.users[""].password_hash, None);
        let hash = || Some("x".to_owned());
        for (hash, end, grants) in [
            (hash(), None, vec![]),
            (None, Some(9), vec![]),
            (None, None, vec![Grant::Everything]),
            (None, None, vec![Grant::On(Level::Push, "a".to_owned())]),
        ] {
            let error = Addition::new("", hash, end, &grants).unwrap_err();
            assert!(matches!(error, ChangeError::AnonymousBeyondPull));
        }
        assert!(set_password(&mut file, "", "x".to_owned(), None).is_err());
    }

    #[test]
    fn an_account_takes_its_rules_along() {
        let mut file = added("ann", &[pull("team/*"), pull("base/*")]);
        let bob = Addition::new("bob", None, None, &[pull("team/*")]);
        bob.unwrap().apply(&mut file).unwrap();
        file.acl.push(RuleText {
            account: Some("a*".to_owned()),
            ..RuleText::default()
        });
        file.revoked.insert("ann".to_owned(), 5);
        remove(&mut file, "ann").unwrap();
        assert!(matches!(
            remove(&mut file, "ann"),
            Err(ChangeError::NotThere(_))
        ));
        let left: Vec<_> = file
            .acl
            .iter()
            .map(|rule| rule.account.as_deref())
            .collect();
        assert_eq!(left, [Some("bob"), Some("a*")]);
        assert!(file.revoked.is_empty() && file.users.contains_key("bob"));
    }

    #[test]
    fn another_password_keeps_the_end_unless_there_is_another() {
        let mut file = added("ci", &[]);
        set_password(&mut file, "ci", "new".to_owned(), None).unwrap();
        assert_eq!(file.users["ci"].password_hash.as_deref(), Some("new"));
        assert_eq!(file.users["ci"].expires_unix_secs, Some(9));
        set_password(&mut file, "ci", "new".to_owned(), Some(20)).unwrap();
        assert_eq!(file.users["ci"].expires_unix_secs, Some(20));
        assert!(set_password(&mut file, "eve", "x".to_owned(), None).is_err());
    }

    #[test]
    fn every_revocation_is_later_than_the_one_before() {
        let mut file = added("ann", &[]);
        for expected in [100, 101, 102] {
            revoke(&mut file, "ann", false, 100).unwrap();
            assert_eq!(file.users["ann"].valid_after_unix_secs, Some(expected));
            revoke(&mut file, "amy", true, 100).unwrap();
            assert_eq!(file.revoked["amy"], expected);
        }
        revoke(&mut file, "ann", false, 500).unwrap();
        assert_eq!(file.users["ann"].valid_after_unix_secs, Some(500));
        assert!(revoke(&mut file, "eve", false, 100).is_err());
    }
}
