//! Passwords: random or given, and the hash that is kept of one.
//!
//! Invariant: a random password has no character that a person mistakes for another, and none that a client cannot carry.

use std::fmt;

use anyhow::{Context, anyhow, bail};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// No `0O1lI`, which people confuse, and no `:`, which Tart cannot take from a docker config.
const ALPHABET: &[u8] = b"23456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ";

/// 24 of 57 characters are 139 bits, which cannot be guessed, whatever the hash costs.
const LENGTH: usize = 24;

/// bcrypt reads no more than this.
const LENGTH_BYTES_MAX: usize = 72;

/// The cost of one check doubles with each step. 10 (Go's default, which `docker_auth`'s users have) takes 0.05–0.2 s: a random
/// password needs no more, and a chosen one is behind the slowing of failed logins. A push of a thousand segments pays it
/// once, the first request after a start waits for it.
const BCRYPT_COST: u32 = 10;

/// Random bytes of the system.
pub(super) fn random_bytes(buffer: &mut [u8]) -> anyhow::Result<()> {
    SystemRandom::new()
        .fill(buffer)
        .map_err(|_| anyhow!("the system has no random numbers"))
}

/// A password in clear; shows nothing of itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Password(String);

impl Password {
    /// A random one; `fill` fills a buffer with random bytes.
    pub(super) fn random(
        mut fill: impl FnMut(&mut [u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut password = String::with_capacity(LENGTH);
        let mut bytes = [0; 64];
        while password.len() < LENGTH {
            fill(&mut bytes)?;
            // The low six bits choose among 64; a number past the alphabet is thrown away, so that all are equally likely.
            let chosen = bytes
                .iter()
                .filter_map(|byte| ALPHABET.get(usize::from(byte & 63)));
            let missing = LENGTH - password.len();
            password.extend(chosen.take(missing).map(|byte| char::from(*byte)));
        }
        Ok(Self(password))
    }

    /// One that a person chose.
    pub(super) fn given(text: String) -> anyhow::Result<Self> {
        if text.is_empty() {
            bail!("the password is empty");
        }
        if text.len() > LENGTH_BYTES_MAX {
            bail!("the password is longer than the {LENGTH_BYTES_MAX} bytes that bcrypt reads");
        }
        if text.chars().any(char::is_control) {
            bail!("the password holds a control character, which no client can send");
        }
        Ok(Self(text))
    }

    /// The text, for the one place that shows it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept in `users.yml`.
    pub(super) fn hash(&self) -> anyhow::Result<String> {
        bcrypt::hash(&self.0, BCRYPT_COST).context("cannot hash the password")
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_password_keeps_to_its_alphabet_and_uses_all_of_it() {
        let mut next = 0_u8;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let password = Password::random(|buffer| {
                for byte in buffer {
                    *byte = next;
                    next = next.wrapping_add(7);
                }
                next = next.wrapping_add(1);
                Ok(())
            })
            .unwrap();
            assert_eq!(password.expose().len(), LENGTH);
            seen.extend(password.expose().bytes());
        }
        let alphabet = ALPHABET.iter().copied().collect();
        assert_eq!(seen, alphabet);
        assert!(ALPHABET.len() == 57 && !ALPHABET.iter().any(|byte| b":0O1lI".contains(byte)));
    }

    #[test]
    fn what_cannot_be_a_password_is_refused() {
        for bad in [
            String::new(),
            "a\nb".into(),
            "a\0a".into(),
            "a\u{7f}".into(),
            "a\u{85}".into(),
            "é".repeat(37),
        ] {
            assert!(Password::given(bad).is_err());
        }
        let password = Password::given("correct horse".into()).unwrap();
        assert_eq!(format!("{password:?}"), "Password(…)");
        assert!(bcrypt::verify("correct horse", &password.hash().unwrap()).unwrap());
    }
}
