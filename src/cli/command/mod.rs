//! The commands: one file or directory for each, under its own name.
//!
//! Each has its `Arguments`, and `run`, which returns the exit code. A new command is a new file and three lines here.

mod acl;
mod backup;
mod check;
mod completions;
mod config;
mod copy;
mod delete;
mod doctor;
mod du;
mod hand_back;
mod list;
mod man;
mod move_data;
mod new_ca;
mod push_sample;
mod rebuild;
mod reload;
mod restore;
mod restore_tag;
mod serve;
mod show;
mod status;
mod token_key;
mod trust;
mod up;
mod user;
mod version;
mod welcome;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Set everything up if this is the first run, then serve
    Up(up::Arguments),
    /// Serve by config files that are there already
    Serve(serve::Arguments),
    /// Check config files and print what is in force, or look through the data
    Check(check::Arguments),
    /// Print the configuration in force, several files as one, or the files of the old programs
    Config(config::Arguments),
    /// Replace the certificate authority; every client must then trust the new one
    NewCa(new_ca::Arguments),
    /// Make a tiny image and push it, and print how to pull it
    PushSample(push_sample::Arguments),
    /// Print how clients trust this registry, log in and push, and what it is called
    Welcome(welcome::Arguments),
    /// Print or install what clients on this machine need to trust a registry
    Trust(trust::Arguments),
    /// Find out, on a client, what keeps it from a registry: name, port, certificate, clock, login, push, pull
    Doctor(doctor::Arguments),
    /// Print a script that completes this program's command lines
    Completions(completions::Arguments),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(man::Arguments),
    /// Print how much is stored, and how the index is
    Status(status::Arguments),
    /// Print how much storage each repository or tag uses, and what is free once collected if it is deleted
    Du(du::Arguments),
    /// List the repositories, or the tags of one: digest, platforms, size, when they were pushed
    List(list::Arguments),
    /// Print what one image is made of, and what its tag pointed to before
    Show(show::Arguments),
    /// Delete an image or a whole repository
    Delete(delete::Arguments),
    /// Copy an image within the registry
    Copy(copy::Arguments),
    /// Point a tag at an image that it pointed at before, or list those
    RestoreTag(restore_tag::Arguments),
    /// Fill the index anew from the store; the registry serves meanwhile
    Rebuild(rebuild::Arguments),
    /// Copy the whole installation to another directory, while it is served
    Backup(backup::Arguments),
    /// Restore an installation from its backup
    Restore(restore::Arguments),
    /// Copy all data to another place, a directory or a bucket, while they are served
    Move(move_data::Arguments),
    /// Have the running server read users, rules and certificates again, and report mistakes
    Reload(reload::Arguments),
    /// Write what an old registry needs before it serves the data again
    HandBack(hand_back::Arguments),
    /// Make, change, end and list accounts
    User(user::Arguments),
    /// Ask the access rules
    Acl(acl::Arguments),
    /// Make or replace the key that signs tokens, and its certificate
    TokenKey(token_key::Arguments),
    /// Print the version, the commit and the date of the build
    Version(version::Arguments),
}

impl Command {
    /// Runs the command that was named.
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Up(arguments) => up::run(arguments),
            Self::Serve(arguments) => serve::run(arguments),
            Self::Check(arguments) => check::run(arguments),
            Self::Config(arguments) => config::run(arguments),
            Self::NewCa(arguments) => new_ca::run(arguments),
            Self::PushSample(arguments) => push_sample::run(arguments),
            Self::Welcome(arguments) => welcome::run(arguments),
            Self::Trust(arguments) => trust::run(arguments),
            Self::Doctor(arguments) => doctor::run(arguments),
            Self::Completions(arguments) => completions::run(arguments),
            Self::Man(arguments) => man::run(arguments),
            Self::Status(arguments) => status::run(arguments),
            Self::Du(arguments) => du::run(arguments),
            Self::List(arguments) => list::run(arguments),
            Self::Show(arguments) => show::run(arguments),
            Self::Delete(arguments) => delete::run(arguments),
            Self::Copy(arguments) => copy::run(arguments),
            Self::RestoreTag(arguments) => restore_tag::run(arguments),
            Self::Rebuild(arguments) => rebuild::run(arguments),
            Self::Backup(arguments) => backup::run(arguments),
            Self::Restore(arguments) => restore::run(arguments),
            Self::Move(arguments) => move_data::run(arguments),
            Self::Reload(arguments) => reload::run(arguments),
            Self::HandBack(arguments) => hand_back::run(arguments),
            Self::User(arguments) => user::run(arguments),
            Self::Acl(arguments) => acl::run(arguments),
            Self::TokenKey(arguments) => token_key::run(arguments),
            Self::Version(arguments) => version::run(arguments),
        }
    }
}
