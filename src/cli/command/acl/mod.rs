//! `boathouse acl explain`: which rule decides, and why.
//!
//! Must not decide anything: the verdict comes from the code that answers requests. Invariant: the explanation is of the
//! files as they are now.

mod json;
mod text;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::user::warn_of_missing_users;
use crate::auth::{Access, Auth, Explanation, Origin, Secret};
use crate::cli::installation::{self, Where};
use crate::cli::talk;
use crate::clock::SystemClock;
use crate::config::{self, AuthConfig};
use crate::oci::RepositoryName;

/// `boathouse acl`. Exit code 0 if all that was asked about is allowed, 1 if not.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print what an account may do with a repository, and which rule of which file decides
    ///
    /// The exit code is 0 if every action that was asked about is allowed, and 1 if not.
    Explain(ExplainArguments),
}

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// The account; '' is callers without credentials
    pub(super) account: String,
    /// The repository, as in team/app
    pub(super) name: RepositoryName,
    /// Ask about this action only [default: all three]
    #[arg(value_enum)]
    action: Option<Wish>,
    /// The client's address, for rules with `ip`
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(super) ip: IpAddr,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wish {
    Pull,
    Push,
    Delete,
}

impl Wish {
    const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    fn access(self, name: RepositoryName) -> Access {
        match self {
            Self::Pull => Access::Pull(name),
            Self::Push => Access::Push(name),
            Self::Delete => Access::Delete(name),
        }
    }

    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::Pull => "pull from",
            Self::Push => "push to",
            Self::Delete => "delete from",
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Rules are explained for an issuer of tokens without a registry too.
    let files = installation::config_files(&arguments.place)?;
    let loaded = config::load_accounts_again(&files, &crate::cli::environment())?;
    warn_of_missing_users(&loaded.config);
    let Action::Explain(arguments) = &arguments.action;
    let report = Report::new(&loaded.config, arguments)?;
    let mut out = io::stdout().lock();
    let written = if arguments.json {
        report.write_json(&mut out)
    } else {
        report.write(&mut out)
    };
    talk::written(written)?;
    Ok(if report.is_all_allowed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What there is to say.
pub(super) struct Report<'a> {
    pub(super) arguments: &'a ExplainArguments,
    /// One per wish; the rule that decides is the same for all, since rules are not chosen by what is asked for.
    pub(super) verdicts: Vec<(Wish, Explanation)>,
    /// Tokens are another server's: no rule of ours is asked.
    pub(super) is_foreign: bool,
}

impl<'a> Report<'a> {
    fn new(config: &AuthConfig, arguments: &'a ExplainArguments) -> anyhow::Result<Self> {
        // No keys are needed, and none are made: no token is issued or read here.
        let settings = config.settings(Secret::default(), None);
        let auth = Auth::new(settings, Arc::new(SystemClock::new()))?;
        let origin = Origin {
            client: arguments.ip,
            is_https: true,
            host: "localhost".to_owned(),
        };
        let wishes = arguments
            .action
            .map_or(Wish::ALL.to_vec(), |wish| vec![wish]);
        let explain = |wish: Wish| {
            let access = wish.access(arguments.name.clone());
            (wish, auth.explain(&arguments.account, &access, &origin))
        };
        Ok(Self {
            arguments,
            verdicts: wishes.into_iter().map(explain).collect(),
            is_foreign: config.is_foreign_only,
        })
    }

    /// Whether every action that was asked about is allowed. One that is left to a program is not known to be.
    fn is_all_allowed(&self) -> bool {
        let mut explanations = self.verdicts.iter().map(|(_, explanation)| explanation);
        explanations.all(|explanation| explanation.is_allowed)
    }

    /// The part that is the same for all wishes.
    pub(super) fn explanation(&self) -> Option<&Explanation> {
        self.verdicts.first().map(|(_, explanation)| explanation)
    }
}
