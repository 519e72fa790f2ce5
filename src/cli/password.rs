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

/// The fewest characters of a password that a person chooses. With the slowing of failed logins, a guesser has about 15,000
/// attempts a day for each address.
const CHOSEN_LENGTH_MIN: usize = 10;

/// Passwords of ten characters or more that every guesser tries first, without the digits and signs that people put behind them.
const COMMON: &[&str] = &[
    "password",
    "passwort",
    "motdepasse",
    "contrasena",
    "administrator",
    "adminadmin",
    "boathouse",
    "changeme",
    "changeit",
    "default",
    "docker",
    "dockerhub",
    "iloveyou",
    "letmein",
    "letmeinnow",
    "mypassword",
    "newpassword",
    "passpass",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "qwerty",
    "qwertyuiop",
    "qwertzuiop",
    "qwerty123qwerty",
    "1q2w3e4r5t",
    "1qaz2wsx3edc",
    "q1w2e3r4t5",
    "asdfghjkl",
    "registry",
    "secretsecret",
    "secret",
    "superman",
    "supersecret",
    "test",
    "testtest",
    "testpassword",
    "welcome",
    "abcdefghij",
    "trustno",
    "football",
    "baseball",
    "sunshine",
    "princess",
];

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

    /// One that a person chose for this account.
    pub(super) fn chosen(account: &str, text: String) -> anyhow::Result<Self> {
        if text.is_empty() {
            bail!("the password is empty");
        }
        if text.len() > LENGTH_BYTES_MAX {
            bail!("the password is longer than the {LENGTH_BYTES_MAX} bytes that bcrypt reads");
        }
        if text.chars().any(char::is_control) {
            bail!("the password contains a control character, which no client can send");
        }
        if let Some(weakness) = weakness(account, &text) {
            bail!(
                "the password is too easy to guess: {weakness}\nhint: choose another one, or have one generated: it is as easy to paste"
            );
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

/// Why a chosen password is easy to guess.
fn weakness(account: &str, text: &str) -> Option<String> {
    let length = text.chars().count();
    if length < CHOSEN_LENGTH_MIN {
        return Some(format!(
            "it has {length} characters, and at least {CHOSEN_LENGTH_MIN} are needed"
        ));
    }
    let lower = text.to_lowercase();
    let stem = lower.trim_end_matches(|last: char| !last.is_alphabetic());
    let is_account = |text: &str| !account.is_empty() && text == account.to_lowercase();
    let is_common = |text: &str| COMMON.contains(&text);
    let mut characters = lower.chars();
    let first = characters.next();
    if is_account(&lower) || is_account(stem) {
        Some("it is the account's name".to_owned())
    } else if is_common(&lower) || is_common(stem) {
        Some("it is a common one".to_owned())
    } else if is_run(&lower) || characters.all(|character| Some(character) == first) {
        Some("it is one character after the other".to_owned())
    } else {
        None
    }
}

/// Whether it is digits that count up or down.
fn is_run(text: &str) -> bool {
    const RUNS: [&str; 2] = ["012345678901234567890", "098765432109876543210"];
    RUNS.iter().any(|run| run.contains(text))
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
            assert!(Password::chosen("ann", bad).is_err());
        }
        let password = Password::chosen("ann", "correct horse".into()).unwrap();
        assert_eq!(format!("{password:?}"), "Password(…)");
        assert!(bcrypt::verify("correct horse", &password.hash().unwrap()).unwrap());
    }

    #[test]
    fn what_every_guesser_tries_first_is_refused() {
        for (text, said) in [
            ("ninechars", "9 characters"),
            ("ééééééééé", "9 characters"),
            ("Password123!", "common"),
            ("qwertyuiop", "common"),
            ("changeme2027", "common"),
            ("administrator", "common"),
            ("Ann.Robot@Lab", "the account's name"),
            ("ann.robot@lab1", "the account's name"),
            ("1234567890", "one character after the other"),
            ("9876543210", "one character after the other"),
            ("aaaaaaaaaaaa", "one character after the other"),
        ] {
            let error = Password::chosen("ann.robot@lab", text.to_owned());
            let error = format!("{:#}", error.unwrap_err());
            assert!(
                error.contains(said) && error.contains("\nhint: "),
                "{error}"
            );
            assert!(!error.contains(text), "{error}");
        }
        for good in [
            "correct horse",
            "a-long-password",
            "8249306157",
            "ann.robot@lab and more",
        ] {
            assert!(
                Password::chosen("ann.robot@lab", good.to_owned()).is_ok(),
                "{good}"
            );
        }
    }
}
