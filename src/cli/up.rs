//! `boathouse up`: the first run if it is one, then serving, with a welcome.

use std::env;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, anyhow};

use super::UpArguments;
use super::assemble::{self, Start};
use super::auth_settings;
use super::first_run::{self, ADMIN, FirstConfig, Request, Workshop};
use super::password;
use super::places::{Places, Surroundings};
use super::port::{self, ListenAddress};
use crate::auth::{RuleText, User};
use crate::clock::SystemClock;
use crate::config::{Template, UsersFile};
use crate::tls::{self, Tls};

/// Sets the first admin's password.
const PASSWORD_VARIABLE: &str = "BOATHOUSE_ADMIN_PASSWORD";

pub(super) fn run(arguments: &UpArguments) -> anyhow::Result<ExitCode> {
    let places = Places::choose(arguments.dir.as_deref(), &Surroundings::here())?;
    let password = match env::var(PASSWORD_VARIABLE) {
        Ok(password) => Some(password),
        Err(env::VarError::NotPresent) => None,
        Err(error @ env::VarError::NotUnicode(_)) => {
            // The error would show the value.
            drop(error);
            return Err(anyhow!("{PASSWORD_VARIABLE} is not UTF-8"));
        }
    };
    let request = Request {
        address: arguments.addr.clone(),
        hosts: arguments.host.clone(),
        password,
        is_terminal: io::stderr().is_terminal(),
    };
    // Two first runs at once would each make an authority; only one of them gets past the lock.
    let alone = if places.config.exists() {
        None
    } else {
        Some(assemble::lock_data(&places.data)?)
    };
    first_run::complete(&places, &request, &RealWorkshop)?;
    drop(alone);
    assemble::serve(&Start {
        config_files: vec![places.config],
        makes_new_authority: arguments.new_ca,
        greets: true,
        log_format: arguments.log.format,
    })
}

/// The first run on a real machine.
struct RealWorkshop;

impl Workshop for RealWorkshop {
    fn random(&self, buffer: &mut [u8]) -> anyhow::Result<()> {
        password::random_bytes(buffer)
    }

    fn bind(&self, address: &ListenAddress) -> io::Result<()> {
        port::try_bind(address)
    }

    fn make_token_key(&self, keys_directory: &Path) -> anyhow::Result<()> {
        auth_settings::own_token_key(keys_directory, &SystemClock::new()).map(drop)
    }

    fn make_certificates(&self, first: &FirstConfig<'_>) -> anyhow::Result<()> {
        let settings = tls::Settings::Automatic {
            ca_certificate: first.places.ca_certificate.clone(),
            keys_directory: first.places.keys_directory.clone(),
            hosts: first.hosts.to_vec(),
        };
        Tls::open(&settings, Arc::new(SystemClock::new())).context("cannot make certificates")?;
        Ok(())
    }

    fn write_users(&self, path: &Path, hash: &str) -> anyhow::Result<()> {
        let admin = User {
            password_hash: Some(hash.to_owned()),
            ..User::default()
        };
        let rule = RuleText {
            account: Some(ADMIN.to_owned()),
            actions: vec!["*".to_owned()],
            comment: Some("The first admin may do everything.".to_owned()),
            ..RuleText::default()
        };
        UsersFile::update(path, |file| {
            file.users.insert(ADMIN.to_owned(), admin);
            file.acl.push(rule);
            Ok(())
        })
    }

    fn config_text(&self, first: &FirstConfig<'_>) -> String {
        let places = first.places;
        let template = Template {
            address: first.address.to_string(),
            hosts: first.hosts.to_vec(),
            root_directory: places.data.clone(),
            ca_certificate: places.ca_certificate.clone(),
            keys_directory: places.keys_directory.clone(),
            users_file: places.users.clone(),
            state_directory: places.state_directory.clone(),
        };
        template.render()
    }

    fn tell(&self, line: &str) {
        eprintln!("{line}");
    }
}
