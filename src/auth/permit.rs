//! The right to carry out a request, asked for again when it counts.
//!
//! Must not know what the request does. Invariant: nobody keeps a right that the accounts and rules of now do not give.

use super::CallerView;
use super::access::{Access, Caller, Identity, Origin, Refusal};
use super::service::{Auth, SESSION_EXTENSION_SECS};
use super::verifier::Genuine;

/// The right to carry out one request. It is asked for again when the request's body has come and its locks are held:
/// accounts and rules change meanwhile, and a body can be held open for days.
pub struct Permit<'a> {
    viewer: CallerView<'a>,
    access: &'a Access,
}

impl<'a> Permit<'a> {
    /// What the same caller may see elsewhere.
    pub fn viewer(&self) -> &CallerView<'a> {
        &self.viewer
    }

    /// Whether the caller may do now what it was let in for. A token that has expired meanwhile is no reason to refuse: its
    /// request may have been long.
    pub fn confirm(&self) -> Result<(), Refusal> {
        let CallerView {
            auth,
            caller,
            origin,
        } = &self.viewer;
        auth.confirm(caller, self.access, origin)
    }
}

impl Auth {
    /// The right of `caller` to what it was let in for, to be confirmed before the store is touched.
    pub fn permit<'a>(
        &'a self,
        caller: &'a Caller,
        access: &'a Access,
        origin: &'a Origin,
    ) -> Permit<'a> {
        let viewer = self.viewer(caller, origin);
        Permit { viewer, access }
    }

    /// Whether `caller`, who was let in for `access` when the request came, may still do it. Who was removed, has another
    /// password or was revoked since is refused like a bad credential; a token may have expired since, but not for longer
    /// than its upload sessions go on.
    pub(super) fn confirm(
        &self,
        caller: &Caller,
        access: &Access,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let now = self.clock.unix_secs();
        let is_current =
            |account, generation: &String| self.generation_of(account).as_ref() == Some(generation);
        let is_over = |token: &Genuine| {
            now.saturating_sub(token.claims.exp) > SESSION_EXTENSION_SECS
                || now > token.vouched_until_unix_secs
        };
        let still_holds = match &caller.identity {
            Identity::Open | Identity::Nobody | Identity::Invalid { .. } => true,
            Identity::Basic {
                account,
                generation,
            } => is_current(account, generation),
            Identity::Ours { token, generation } => {
                is_current(&token.claims.sub, generation) && !is_over(token)
            }
            Identity::Foreign(token) => !is_over(token),
        };
        if still_holds {
            return self.authorise(caller, access, origin);
        }
        let is_token = !matches!(caller.identity, Identity::Basic { .. });
        let ended = Caller {
            identity: Identity::Invalid { is_token },
            expired_secs: 0,
        };
        self.authorise(&ended, access, origin)
    }
}
