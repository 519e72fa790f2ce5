//! What is asked for.
//!
//! Must not know how it is done.

use std::path::PathBuf;

use crate::curves::Curve;
use crate::rows::Group;
use crate::servers::Server;

/// See `tests/bench/run`.
pub(crate) struct Options {
    pub(crate) servers: Vec<Server>,
    pub(crate) directory: PathBuf,
    pub(crate) rounds: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) is_quick: bool,
    /// Ours beside itself with authentication.
    pub(crate) auth: bool,
    pub(crate) curve: Option<Curve>,
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// `None` where no server is named.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self {
            servers: Vec::new(),
            directory: std::env::temp_dir(),
            rounds: 5,
            groups: Group::ALL.to_vec(),
            is_quick: false,
            auth: false,
            curve: None,
            json: None,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match &*argument {
                "--server" => options.servers.push(value()?.parse()?),
                "--directory" => options.directory = value()?.into(),
                "--rounds" => {
                    let text = value()?;
                    options.rounds = text.parse().map_err(|_| format!("{text} is no number"))?;
                }
                "--groups" => {
                    let text = value()?;
                    options.groups = text.split(',').map(group).collect::<Result<_, _>>()?;
                }
                "--quick" => options.is_quick = true,
                "--auth" => options.auth = true,
                "--curve" => {
                    let text = value()?;
                    let curve = Curve::ALL.into_iter().find(|curve| curve.name() == text);
                    options.curve = Some(curve.ok_or(format!("no curve {text}"))?);
                }
                "--json" => options.json = Some(value()?.into()),
                // What cargo adds by itself.
                "--bench" | "--test" => {}
                other => return Err(format!("no option {other}")),
            }
        }
        if options.is_quick {
            options.rounds = 1;
        }
        Ok(Some(options).filter(|options| !options.servers.is_empty()))
    }

    /// Each with whether it asks who somebody is.
    pub(crate) fn servers_under_measurement(&self) -> Vec<(Server, bool)> {
        let mut servers: Vec<_> = self
            .servers
            .iter()
            .map(|server| (server.clone(), false))
            .collect();
        if self.auth {
            servers.retain(|(server, _)| server.is_ours);
            for (mut server, _) in servers.clone() {
                server.name += ", auth";
                servers.push((server, true));
            }
            for (server, auth) in &mut servers {
                server.is_ours = *auth;
            }
        }
        servers
    }
}

fn group(text: &str) -> Result<Group, String> {
    let group = Group::ALL.into_iter().find(|group| group.name() == text);
    group.ok_or_else(|| format!("no group {text}"))
}
