//! Where to listen: what `--addr` says, or the first port that is free.
//!
//! Invariant: the port that is written into the config could be bound a moment before.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use anyhow::{Context, bail};

use crate::host_port::HostPort;

/// The usual one first; then two that need no privilege. Not 5000: `AirPlay` has it on macOS.
const PORTS: [u16; 3] = [443, 5_443, 8_443];

/// `asked` if it can be bound, else the first of the usual ports on every address.
pub(super) fn choose(
    asked: Option<&HostPort>,
    bind: &dyn Fn(&HostPort) -> io::Result<u16>,
) -> anyhow::Result<HostPort> {
    if let Some(asked) = asked {
        let port = bind(asked).with_context(|| {
            format!("cannot listen on {asked}\nhint: choose another with `boathouse up --addr HOST:PORT`")
        })?;
        return Ok(asked.with_port(port));
    }
    let mut refused = Vec::new();
    for port in PORTS {
        let address = HostPort::every_address(port);
        let why = match bind(&address) {
            Ok(_) => return Ok(address),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => "in use".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "not allowed to this user".to_owned()
            }
            Err(error) => error.to_string(),
        };
        refused.push(format!("{port} ({why})"));
    }
    bail!(
        "none of the usual ports can be listened on: {}\nhint: choose another with `boathouse up --addr HOST:PORT`",
        refused.join(", ")
    )
}

/// Binds `address` and lets go of it. Returns its port, which the system chooses for port 0.
pub(super) fn try_bind(address: &HostPort) -> io::Result<u16> {
    if !address.host().is_empty() {
        return bound_port(TcpListener::bind((address.host(), address.port())));
    }
    match bound_port(TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port()))) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Ok(port) if address.port() == 0 => return Ok(port),
        // A machine without IPv6 listens on IPv4 alone.
        _ => {}
    }
    bound_port(TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())))
}

fn bound_port(listener: io::Result<TcpListener>) -> io::Result<u16> {
    Ok(listener?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_port_is_chosen() {
        let refused = |address: &HostPort| match address.port() {
            443 => Err(io::ErrorKind::PermissionDenied.into()),
            5_443 => Err(io::ErrorKind::AddrInUse.into()),
            port => Ok(port),
        };
        assert_eq!(choose(None, &refused).unwrap().to_string(), ":8443");
        assert_eq!(
            choose(None, &|address| Ok(address.port()))
                .unwrap()
                .to_string(),
            ":443"
        );
        let none = |address: &HostPort| match address.port() {
            443 => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Err(io::ErrorKind::AddrInUse.into()),
        };
        let said = choose(None, &none).unwrap_err().to_string();
        let expected = "none of the usual ports can be listened on: 443 (not allowed to this user), 5443 (in use), 8443 (in use)\nhint: ";
        assert!(said.starts_with(expected), "{said}");
        let asked: HostPort = "[::1]:5443".parse().unwrap();
        assert!(choose(Some(&asked), &refused).is_err());
        assert_eq!(
            choose(Some(&asked), &|address| Ok(address.port())).unwrap(),
            asked
        );
    }

    #[test]
    fn for_port_0_the_port_is_chosen_that_the_system_gives() {
        let any: HostPort = "127.0.0.1:0".parse().unwrap();
        let chosen = choose(Some(&any), &|_| Ok(4_321)).unwrap();
        assert_eq!(chosen.to_string(), "127.0.0.1:4321");
        assert_ne!(try_bind(&any).unwrap(), 0);
        assert_ne!(try_bind(&":0".parse().unwrap()).unwrap(), 0);
    }

    #[test]
    fn a_port_in_use_is_seen() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = held.local_addr().unwrap().into();
        assert!(try_bind(&address).is_err());
        drop(held);
        assert!(try_bind(&address).is_ok());
    }
}
