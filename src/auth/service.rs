//! Who is calling: passwords and tokens, against the users of now.
//!
//! Must not know HTTP, nor where users and rules come from, nor what a caller may do (`rights`). Invariant: a caller is an
//! account of now, or the bearer of a trusted token that speaks for itself.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::SetupError;
use super::access::{Caller, Identity, Origin, Refusal};
use super::keyed_hash::KeyedHash;
use super::passwords::{Passwords, Verdict};
use super::rules::Rule;
use super::settings::{Accounts, Authentication, LiveUsers, Scheme, Settings, TokenSettings, User};
use super::tokens::endpoint::{self, Login};
use super::tokens::keys::SigningKey;
use super::tokens::own_names::{self, Listening};
use super::tokens::refresh::RefreshTokens;
use super::tokens::verifier::{Genuine, Verifier};
use super::tokens::{OUR_CLAIM_VERSION, OurClaim};
use super::users::{self, Users};
use crate::clock::Clock;

/// Clocks differ by so much, as the registries that we stand in for assume too.
const LEEWAY_SECS: u64 = 60;

/// For so long after a token's end its upload sessions go on: the layer of a VM image takes hours on a slow line.
pub(super) const SESSION_EXTENSION_SECS: u64 = 24 * 60 * 60;

/// How a login ended.
pub(super) enum LoggedIn {
    /// With the right password of an account whose credentials are of this generation.
    As { generation: String },
    /// With none.
    No,
    /// Not judged: too many failures, or too many waiting.
    Later { retry_after_secs: u64 },
}

/// Judges callers.
pub struct Auth {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) authentication: Authentication,
    pub(super) scheme: Scheme,
    pub(super) token: TokenSettings,
    pub(super) scopes_max: usize,
    hash: KeyedHash,
    pub(super) signing: Option<SigningKey>,
    pub(super) refresh_tokens: RefreshTokens,
    pub(super) verifier: Verifier,
    pub(super) passwords: Passwords,
    live_users: Option<Arc<dyn LiveUsers>>,
    listening: OnceLock<Listening>,
    pub(super) now: ArcSwap<Current>,
}

/// What a reload replaces.
pub(super) struct Current {
    pub(super) users: Users,
    pub(super) acl: Vec<Rule>,
    accounts: Arc<Accounts>,
    live: Arc<BTreeMap<String, User>>,
}

impl Current {
    fn new(accounts: Arc<Accounts>, live: Arc<BTreeMap<String, User>>) -> Self {
        let mut users = accounts.users.clone();
        for (name, user) in live.iter() {
            users.entry(name.clone()).or_insert_with(|| user.clone());
        }
        Self {
            users: Users::new(users, &accounts.revoked),
            acl: accounts.acl.clone(),
            accounts,
            live,
        }
    }
}

impl Auth {
    /// Reads keys and certificates.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let hash = KeyedHash::new(&settings.secret);
        let signing = match &settings.token.signing {
            Some(pem) => Some(SigningKey::from_pem(pem)?),
            None => None,
        };
        let verifier = Verifier::new(
            &settings.token.issuer,
            &settings.token.trusted_certificates_pem,
            signing.as_ref(),
            &settings.limits,
            hash.clone(),
        )?;
        let live = settings.live_users.as_ref().map(|live| live.users());
        let current = Current::new(Arc::new(settings.accounts), live.unwrap_or_default());
        Ok(Self {
            authentication: settings.authentication,
            scheme: settings.scheme,
            token: settings.token.clone(),
            scopes_max: settings.limits.scopes_per_token_max,
            passwords: Passwords::new(&settings.limits, hash.clone(), Arc::clone(&clock)),
            refresh_tokens: RefreshTokens::new(&hash),
            hash,
            signing,
            verifier,
            clock,
            live_users: settings.live_users,
            listening: OnceLock::new(),
            now: ArcSwap::from_pointee(current),
        })
    }

    /// Whether nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        self.authentication == Authentication::Open
    }

    /// Replaces users, rules and revocations; everything else stays as it was at start.
    pub fn reload(&self, accounts: Accounts) {
        let accounts = Arc::new(accounts);
        self.now
            .rcu(|now| Current::new(Arc::clone(&accounts), Arc::clone(&now.live)));
    }

    /// Users and rules of now, once it was asked whether the users that are kept elsewhere have changed: for whoever logs
    /// in. What is asked later about the same caller takes them as they were then.
    pub(super) fn fresh(&self) -> Arc<Current> {
        if let Some(live_users) = &self.live_users {
            let live = live_users.users();
            if !Arc::ptr_eq(&live, &self.now.load().live) {
                self.now
                    .rcu(|now| Current::new(Arc::clone(&now.accounts), Arc::clone(&live)));
            }
        }
        self.now.load_full()
    }

    /// How many logins were compared with a stored hash so far: each costs a bcrypt, and those that are remembered do not.
    pub fn compared_logins(&self) -> usize {
        self.passwords.compared_logins()
    }

    /// Who is calling: from the values of the `Authorization` headers. No header = the anonymous caller (open mode: the
    /// open caller). Credentials that are no good make a caller too, whom `authorise` refuses: only there is it known
    /// which scope the challenge must name for the client to ask again.
    pub async fn caller(&self, authorization: &[&str], origin: &Origin) -> Result<Caller, Refusal> {
        let caller = |identity| Caller {
            identity,
            expired_secs: 0,
        };
        if self.authentication == Authentication::Open {
            return Ok(caller(Identity::Open));
        }
        let value = match authorization {
            [] => return Ok(caller(Identity::Nobody)),
            [value] => value,
            _ => return Err(Refusal::Malformed("more than one Authorization header")),
        };
        let (scheme, credentials) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("Bearer") {
            return Ok(self.bearer(credentials.trim()));
        }
        let login = scheme
            .eq_ignore_ascii_case("Basic")
            .then(|| endpoint::decode_basic(credentials.trim()))
            .flatten();
        let Some(login) = login else {
            return Ok(caller(Identity::Invalid { is_token: false }));
        };
        match self.log_in(&login, origin).await {
            LoggedIn::As { generation } => Ok(caller(Identity::Basic {
                account: login.account,
                generation,
            })),
            LoggedIn::No => Ok(caller(Identity::Invalid { is_token: false })),
            LoggedIn::Later { retry_after_secs } => {
                Err(Refusal::TooManyFailures { retry_after_secs })
            }
        }
    }

    /// Checks a password. It is compared with the hash of when it came; if the account has changed by the time that this is
    /// done (a login may wait in the queue), a right password of before is a wrong one.
    pub(super) async fn log_in(&self, login: &Login, origin: &Origin) -> LoggedIn {
        let Login { account, password } = login;
        let now = self.fresh();
        let user = now.users.find(account, self.clock.unix_secs());
        let before = user.map(|user| users::generation(&self.hash, account, user));
        let verdict = self
            .passwords
            .check(&now.users, account, password, origin.client)
            .await;
        match verdict {
            Verdict::Right => match self.generation_of(account) {
                Some(generation) if Some(&generation) == before.as_ref() => {
                    LoggedIn::As { generation }
                }
                _ => LoggedIn::No,
            },
            Verdict::Wrong => LoggedIn::No,
            Verdict::Later { retry_after_secs } => LoggedIn::Later { retry_after_secs },
        }
    }

    pub(super) fn generation_of(&self, account: &str) -> Option<String> {
        let now = self.fresh();
        let user = now.users.find(account, self.clock.unix_secs())?;
        Some(users::generation(&self.hash, account, user))
    }

    fn bearer(&self, text: &str) -> Caller {
        let now = self.clock.unix_secs();
        let judged = self.verifier.verify(text, now).and_then(|token| {
            let expired_secs = match now.saturating_sub(token.claims.exp) {
                0..=LEEWAY_SECS => 0,
                expired_secs => expired_secs,
            };
            let is_in_time = token.claims.nbf <= now.saturating_add(LEEWAY_SECS)
                && expired_secs <= SESSION_EXTENSION_SECS;
            if !is_in_time || !self.is_for_us(&token) {
                return None;
            }
            let identity = match &token.claims.bh {
                Some(claim) if token.is_under_our_key => self.ours(&token, claim)?,
                _ => Identity::Foreign(token),
            };
            Some(Caller {
                identity,
                expired_secs,
            })
        });
        judged.unwrap_or(Caller {
            identity: Identity::Invalid { is_token: true },
            expired_secs: 0,
        })
    }

    /// A token of ours counts while its account's credentials are those that it was issued for.
    fn ours(&self, token: &Arc<Genuine>, claim: &OurClaim) -> Option<Identity> {
        let generation = self.generation_of(&token.claims.sub)?;
        let is_current = claim.generation == generation;
        (claim.v == OUR_CLAIM_VERSION && is_current).then(|| Identity::Ours {
            token: Arc::clone(token),
            generation,
        })
    }

    /// Says where this registry listens, once that is known.
    pub fn listens(&self, listening: Listening) {
        // A second one would be of another server with the same judge, which there is not.
        let _ = self.listening.set(listening);
    }

    /// Whether a token is for this registry. Some clients ask for its host as service, or for none. Our own issuer signs
    /// whatever service it is asked for, also that of another registry: so under our key only names count that are known to
    /// be ours, and a token for no service at all if it grants nothing (see [`Auth::authorise`]).
    fn is_for_us(&self, token: &Genuine) -> bool {
        let external = self.token.external_host.as_deref();
        let is_own_name = |service: &str| {
            external.is_some_and(|url| own_names::is_host_of(url, service))
                || self
                    .listening
                    .get()
                    .is_some_and(|own| own.is_called(service))
        };
        let is_for_us = |service: &String| match service.as_str() {
            "" => token.is_under_our_key && token.claims.access.is_empty(),
            service => {
                service == self.token.service || (token.is_under_our_key && is_own_name(service))
            }
        };
        token.claims.aud.0.iter().any(is_for_us)
    }
}
