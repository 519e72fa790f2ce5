//! The command lines of `boathouse user`.
//!
//! Must not know what becomes of them.

use clap::{Args, Subcommand};

use crate::auth::{Grant, Level};
use crate::cli::moment::Expiry;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Add an account; without --password-stdin its password is generated and printed
    ///
    /// A PATTERN is the name of a repository, in which `*` stands for a part without `/` and `**` for anything. The empty
    /// NAME is for callers without credentials, who may be given --pull only.
    Add(AddArguments),
    /// Give an account more rights; what it has already stays
    ///
    /// A PATTERN is the name of a repository, in which `*` stands for a part without `/` and `**` for anything.
    Grant(GrantArguments),
    /// Take rights away from an account
    ///
    /// --pull PATTERN leaves no access at all to what the pattern matches, --push leaves pulling, --delete leaves pushing and
    /// pulling. A denial counts until the same PATTERN is granted.
    Deny(DenyArguments),
    /// Change the password of an account, which ends its tokens
    Passwd(PasswdArguments),
    /// Remove an account and the rules that are for it alone, which ends its tokens
    Remove {
        /// The account
        name: String,
    },
    /// End all tokens of an account; its password still works, unless --password changes it too
    Revoke(RevokeArguments),
    /// Show one account: its rights, its expiry, where it is defined
    Show {
        /// The account; '' is callers without credentials
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show all accounts and what was granted to them
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct AddArguments {
    /// The account
    pub(super) name: String,
    /// Take the password from standard input instead of generating one
    #[arg(long)]
    pub(super) password_stdin: bool,
    #[command(flatten)]
    pub(super) rights: Rights,
    /// When it expires: 90d, 12h, 8w, or a moment like 2027-01-31T18:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(super) expires: Option<Expiry>,
    /// Make a new users file where this installation has lost its own: all accounts, rules and revocations in it are gone
    #[arg(long)]
    pub(super) recreate_missing: bool,
}

#[derive(Debug, Args)]
pub(super) struct Rights {
    /// What it may pull (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pub(super) pull: Vec<String>,
    /// What it may push and pull (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pub(super) push: Vec<String>,
    /// What it may delete, push and pull (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pub(super) delete: Vec<String>,
    /// It may do everything
    #[arg(long, conflicts_with_all = ["pull", "push", "delete"])]
    pub(super) admin: bool,
}

impl Rights {
    /// What gives more comes first.
    pub(super) fn grants(&self) -> Vec<Grant> {
        let all = self.admin.then_some(Grant::Everything);
        let levels = [
            (Level::Delete, &self.delete),
            (Level::Push, &self.push),
            (Level::Pull, &self.pull),
        ];
        let grants = levels.into_iter().flat_map(|(level, patterns)| {
            let patterns = patterns.iter().cloned();
            patterns.map(move |pattern| Grant::On(level, pattern))
        });
        all.into_iter().chain(grants).collect()
    }
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("granted").required(true).multiple(true).args(["pull", "push", "delete", "admin"]))]
pub(super) struct GrantArguments {
    /// The account; it may be defined in the configuration too
    pub(super) name: String,
    #[command(flatten)]
    pub(super) rights: Rights,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("denied").required(true).multiple(true).args(["pull", "push", "delete", "admin"]))]
pub(super) struct DenyArguments {
    /// The account; it may be defined in the configuration too
    pub(super) name: String,
    /// What it may not use at all any more (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pub(super) pull: Vec<String>,
    /// What it may only pull (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pub(super) push: Vec<String>,
    /// What it may only push and pull (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    pub(super) delete: Vec<String>,
    /// It may not do everything any more; what else was granted stays
    #[arg(long)]
    pub(super) admin: bool,
}

impl DenyArguments {
    pub(super) fn denials(&self) -> Vec<Grant> {
        let rights = Rights {
            pull: self.pull.clone(),
            push: self.push.clone(),
            delete: self.delete.clone(),
            admin: self.admin,
        };
        rights.grants()
    }
}

#[derive(Debug, Args)]
pub(super) struct PasswdArguments {
    /// The account
    pub(super) name: String,
    /// Take the password from standard input instead of generating one
    #[arg(long)]
    pub(super) password_stdin: bool,
    /// Also change when it expires: 90d, 12h, 8w, or a moment like 2027-01-31T18:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "hash")]
    pub(super) expires: Option<Expiry>,
    /// Change nothing: print the line with the password's hash for `users:` of a config file (below a generated password)
    #[arg(long)]
    pub(super) hash: bool,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    /// The account; it may be defined in the configuration too
    pub(super) name: String,
    /// Change the password too: generate one and print it
    #[arg(long)]
    pub(super) password: bool,
    /// Change the password too: take it from standard input
    #[arg(long, conflicts_with = "password")]
    pub(super) password_stdin: bool,
}
