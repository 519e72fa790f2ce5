//! Request ids: in every log line about a request, and in the header `X-Request-Id` of its answer.
//!
//! Must not know which peers may choose an id (`origin` does). Invariant: an id is short and has safe characters only, so
//! that it can be written to any log and header.

use std::fmt;

/// `X-Request-Id`, in requests and answers.
pub(super) const HEADER: &str = "x-request-id";

/// A UUID has 36 characters; some proxies add a prefix.
const LENGTH_MAX: usize = 64;

/// The id of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestId(String);

impl RequestId {
    /// The id from a proxy; `None` if it is not safe.
    pub(super) fn given(text: &str) -> Option<Self> {
        let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_harmless);
        is_name.then(|| Self(text.to_owned()))
    }

    /// A random id. A counter would reveal the number of requests.
    pub(super) fn random() -> Self {
        let mut random = [0; 8];
        // Without random numbers all requests have the same id: they are served anyway.
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
    fn random_ids_differ_and_are_valid_ids_of_a_proxy() {
        let (first, second) = (RequestId::random(), RequestId::random());
        assert_ne!(first, second);
        assert_eq!(RequestId::given(first.as_str()), Some(first));
    }

    #[test]
    fn ids_with_unsafe_characters_are_ignored() {
        let long = "a".repeat(LENGTH_MAX + 1);
        for bad in ["", "a b", "a\nb", "a\"b", "a,b", "é", long.as_str()] {
            assert_eq!(RequestId::given(bad), None, "{bad:?}");
        }
        let uuid = "7f0c9d58-6c3f-4d5e-9a41-1c2d3e4f5a6b";
        assert_eq!(RequestId::given(uuid).unwrap().to_string(), uuid);
    }
}
