//! `WWW-Authenticate` values.
//!
//! Must not know why somebody is refused. Invariant: whatever a parameter holds, it cannot end its quotes or the header.

use super::access::{Access, Origin, Refusal};
use super::settings::TokenSettings;

/// Where the token endpoint is, below this registry's own address.
const TOKEN_PATH: &str = "/token";

/// `Bearer realm="…",service="…"[,scope="…"][,error="…"]`
pub(super) fn bearer(
    settings: &TokenSettings,
    origin: &Origin,
    access: &Access,
    error: Option<&str>,
) -> Result<String, Refusal> {
    let mut challenge = format!(
        "Bearer realm={},service={}",
        quoted(&realm(settings, origin)?),
        quoted(&settings.service)
    );
    if let Some((resource_type, name, actions)) = access.scope() {
        let scope = format!("{resource_type}:{name}:{}", actions.join(","));
        challenge.push_str(",scope=");
        challenge.push_str(&quoted(&scope));
    }
    if let Some(error) = error {
        challenge.push_str(",error=");
        challenge.push_str(&quoted(error));
    }
    Ok(challenge)
}

/// `Basic realm="…"`
pub(super) fn basic(realm: &str) -> String {
    format!("Basic realm={}", quoted(realm))
}

fn realm(settings: &TokenSettings, origin: &Origin) -> Result<String, Refusal> {
    if let Some(realm) = &settings.realm {
        return Ok(realm.clone());
    }
    if let Some(host) = &settings.external_host {
        return Ok(format!("{}{TOKEN_PATH}", host.trim_end_matches('/')));
    }
    let base = origin
        .base_url()
        .ok_or(Refusal::Malformed("the Host header is no host"))?;
    Ok(format!("{base}{TOKEN_PATH}"))
}

/// A quoted string; control characters, which no header may hold, become spaces.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => quoted.push(' '),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
