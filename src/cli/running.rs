//! Provisional.
use super::installation::Installation;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Reloaded,
    NotRunning,
}

#[expect(clippy::unnecessary_wraps, reason = "provisional")]
pub(super) fn reload(_installation: &Installation) -> anyhow::Result<Told> {
    Ok(Told::NotRunning)
}
