//! What a request is called: in every log line about it, and in the answer's `X-Request-Id`.
//!
//! Must not know who may name a request (`origin` does). Invariant: a name is short and of harmless characters, wherever it
//! comes from, so that it can stand in any log and header.

use std::fmt;

/// `X-Request-Id`, read and written.
pub(super) const HEADER: &str = "x-request-id";

/// A UUID has 36; some proxies put a prefix before it.
const LENGTH_MAX: usize = 64;

/// One request's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(String);

impl RequestId {
    /// The name that a proxy gave; `None` if it could not stand everywhere as it is.
    pub(super) fn given(text: &str) -> Option<Self> {
        let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_harmless);
        is_name.then(|| Self(text.to_owned()))
    }

    /// A name for a request that brings none: random, since a number would tell everybody how much is asked here.
    pub(super) fn random() -> Self {
        let mut random = [0; 8];
        // Without randomness, requests have one name: no reason not to serve them.
        let _ = getrandom::fill(&mut random);
        Self(format!("{:016x}", u64::from_be_bytes(random)))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_differ_and_would_be_taken_from_a_proxy() {
        let (first, second) = (RequestId::random(), RequestId::random());
        assert_ne!(first, second);
        assert_eq!(RequestId::given(first.as_str()), Some(first));
    }

    #[test]
    fn what_could_break_out_of_a_log_is_no_name() {
        let long = "a".repeat(LENGTH_MAX + 1);
        for bad in ["", "a b", "a\nb", "a\"b", "a,b", "é", long.as_str()] {
            assert_eq!(RequestId::given(bad), None, "{bad:?}");
        }
        let uuid = "7f0c9d58-6c3f-4d5e-9a41-1c2d3e4f5a6b";
        assert_eq!(RequestId::given(uuid).unwrap().to_string(), uuid);
    }
}
