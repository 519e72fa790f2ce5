//! Token scopes: `repository:team/app:pull,push`.
//!
//! Source: distribution's scope grammar `type[(class)]:name:action[,action]`, parsed as leniently as in `docker_auth`. Must
//! not know what a type grants. Invariant: printing a [`Scope`] and parsing it again gives the same one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A request for actions on one resource, or a grant of them; also the form in a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// `repository`, `registry`, or any other word; only these two grant anything here.
    #[serde(rename = "type")]
    pub resource_type: String,
    /// Any text with at most one colon (of a port).
    pub name: String,
    /// In byte order when parsed; may be empty in a token (nothing granted).
    pub actions: Vec<String>,
}

impl Scope {
    /// Whether this scope contains `action`, by name or by `*`.
    pub fn allows(&self, action: &str) -> bool {
        self.actions
            .iter()
            .any(|held| held == "*" || held == action)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}:{}:{}",
            self.resource_type,
            self.name,
            self.actions.join(",")
        )
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let (head, rest) = text.split_once(':').ok_or(ScopeError::Parts)?;
        let (name, actions) = rest.rsplit_once(':').ok_or(ScopeError::Parts)?;
        if name.matches(':').count() > 1 {
            return Err(ScopeError::Parts);
        }
        let mut actions: Vec<String> = actions.split(',').map(str::to_owned).collect();
        actions.sort_unstable();
        Ok(Self {
            resource_type: first_word(head).ok_or(ScopeError::Type)?.to_owned(),
            name: name.to_owned(),
            actions,
        })
    }
}

/// The first run of `[a-z0-9]`: drops a `(class)` after the type, and anything else around it, as `docker_auth` does.
fn first_word(text: &str) -> Option<&str> {
    let is_word = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
    text.split(|character| !is_word(character))
        .find(|run| !run.is_empty())
}

/// Why a text is not a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Not three parts, or four with a port in the name.
    #[error("a scope is type:name:actions")]
    Parts,
    /// No `[a-z0-9]` in the type.
    #[error("the type of a scope is a word of lower-case letters and digits")]
    Type,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_clients_send() {
        let read = |text: &str| text.parse::<Scope>().map(|scope| scope.to_string());
        for (text, expected) in [
            (
                "repository:team/app:push,pull",
                "repository:team/app:pull,push",
            ),
            ("repository(plugin):a:pull", "repository:a:pull"),
            ("repository:host:5000/a:pull", "repository:host:5000/a:pull"),
            ("registry:catalog:*", "registry:catalog:*"),
            ("re-po:a:pull", "re:a:pull"),
            ("(plugin):a:pull", "plugin:a:pull"),
            ("repository::", "repository::"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, error) in [
            ("", ScopeError::Parts),
            ("repository", ScopeError::Parts),
            ("repository:a", ScopeError::Parts),
            ("repository:a:b:c:pull", ScopeError::Parts),
            ("REPOSITORY:a:pull", ScopeError::Type),
            (":a:pull", ScopeError::Type),
        ] {
            assert_eq!(read(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_star_holds_every_action() {
        let scope: Scope = "repository:a:*".parse().expect("a scope");
        assert!(scope.allows("delete"));
        let scope: Scope = "repository:a:pull".parse().expect("a scope");
        assert!(scope.allows("pull") && !scope.allows("push") && !scope.allows("*"));
    }

    proptest! {
        #[test]
        fn printing_and_reading_are_inverse(text in "[a-zA-Z()]{0,6}(:[a-z/,*:]{0,6}){0,3}") {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
            }
        }
    }
}
