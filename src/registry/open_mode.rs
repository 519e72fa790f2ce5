//! A caller of open mode, for tests that are not about who is calling.

use std::sync::Arc;

use super::{ActingRequest, Actor};
use crate::auth::{Access, Auth, Authentication, Caller, Origin, Settings};
use crate::clock::ManualClock;

pub(super) struct OpenMode {
    auth: Auth,
    caller: Caller,
    origin: Origin,
    access: Access,
}

impl OpenMode {
    pub(super) async fn new() -> Self {
        let settings = Settings {
            authentication: Authentication::Open,
            ..Settings::default()
        };
        let clock = Arc::new(ManualClock::at_unix_secs(0));
        let auth = Auth::new(settings, clock).expect("open mode needs nothing");
        let origin = Origin {
            client: [127, 0, 0, 1].into(),
            is_https: false,
            host: String::new(),
        };
        let caller = auth.caller(&[], &origin).await;
        Self {
            caller: caller.expect("open mode refuses nobody"),
            auth,
            origin,
            access: Access::Any,
        }
    }

    /// Who may do everything.
    pub(super) fn actor(&self) -> Actor<'_> {
        let about = ActingRequest {
            id: "1",
            account: "",
            peer: ([127, 0, 0, 1], 50_000).into(),
            host: "",
            method: "PUT",
            user_agent: "",
        };
        let permit = self.auth.permit(&self.caller, &self.access, &self.origin);
        Actor::request(about, permit)
    }
}
