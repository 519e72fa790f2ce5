//! Who is calling: passwords and tokens, against the users of now.
//!
//! Must not know HTTP, nor where users and rules come from, nor what a caller may do (`rights`). Invariant: a caller is an
//! account of now, or the bearer of a trusted token that speaks for itself.

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;

use super::SetupError;
use super::access::{Caller, Identity, Origin, Refusal};
use super::accounts::{Accounts, Current};
use super::keyed_hash::KeyedHash;
use super::passwords::{Passwords, Verdict};
use super::settings::{Authentication, Scheme, Settings, TokenSettings};
use super::tokens::endpoint::{self, Login};
use super::tokens::keys::SigningKey;
use super::tokens::own_names::{self, Listening};
use super::tokens::refresh::RefreshTokens;
use super::tokens::verifier::{Genuine, Verifier};
use super::tokens::{OUR_CLAIM_VERSION, OurClaim};
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
    listening: OnceLock<Vec<Listening>>,
    /// What a reload replaces.
    accounts: ArcSwap<Accounts>,
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
            listening: OnceLock::new(),
            accounts: ArcSwap::from_pointee(settings.accounts),
        })
    }

    /// Whether nobody is asked who they are.
    pub fn is_open(&self) -> bool {
        self.authentication == Authentication::Open
    }

    /// Replaces users, rules and revocations; everything else stays as it was at start.
    pub fn reload(&self, accounts: Accounts) {
        self.accounts.store(Arc::new(accounts));
    }

    /// Users and rules of now. Called once for a request that shows an account, before the account is judged, and again
    /// after each wait that may have been long.
    pub(super) async fn now(&self) -> Current {
        Current::of(self.accounts.load_full()).await
    }

    /// Users and rules as they were at the last look, which the request itself has caused.
    pub(super) fn known(&self) -> Current {
        Current::known(self.accounts.load_full())
    }

    /// Why changes of accounts may not be in force; for everybody to read.
    pub async fn trouble(&self) -> Option<&'static str> {
        self.now().await;
        self.accounts.load().live.as_ref()?.trouble()
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
            return Ok(self.bearer(credentials.trim()).await);
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

    /// Checks a password. It is compared with the hash of when it came. If that takes time (a login may wait in the queue) and
    /// the account changes meanwhile, a right password of before is a wrong one.
    pub(super) async fn log_in(&self, login: &Login, origin: &Origin) -> LoggedIn {
        let Login { account, password } = login;
        let before = self.now().await;
        let verdict = self
            .passwords
            .check(&before, account, password, origin.client);
        let mut verdict = pin!(verdict);
        // A password that is remembered needs no second look at the accounts.
        let (verdict, now) = match verdict.as_mut().now_or_never() {
            Some(verdict) => (verdict, before.clone()),
            None => (verdict.await, self.now().await),
        };
        match verdict {
            Verdict::Right => match self.generation_in(&now, account) {
                Some(generation)
                    if self.generation_in(&before, account).as_ref() == Some(&generation) =>
                {
                    LoggedIn::As { generation }
                }
                _ => LoggedIn::No,
            },
            Verdict::Wrong => LoggedIn::No,
            Verdict::Later { retry_after_secs } => LoggedIn::Later { retry_after_secs },
        }
    }

    /// The generation of an account's credentials; `None` if there is no such account.
    pub(super) fn generation_in(&self, accounts: &Current, account: &str) -> Option<String> {
        accounts.generation(&self.hash, account, self.clock.unix_secs())
    }

    async fn bearer(&self, text: &str) -> Caller {
        let invalid = Caller {
            identity: Identity::Invalid { is_token: true },
            expired_secs: 0,
        };
        let now = self.clock.unix_secs();
        let Some(token) = self.verifier.verify(text, now) else {
            return invalid;
        };
        let expired_secs = match now.saturating_sub(token.claims.exp) {
            0..=LEEWAY_SECS => 0,
            expired_secs => expired_secs,
        };
        let is_in_time = token.claims.nbf <= now.saturating_add(LEEWAY_SECS)
            && expired_secs <= SESSION_EXTENSION_SECS;
        if !is_in_time || !self.is_for_us(&token) {
            return invalid;
        }
        let identity = match &token.claims.bh {
            Some(claim) if token.is_under_our_key => self.ours(&token, claim).await,
            _ => Some(Identity::Foreign(token)),
        };
        identity.map_or(invalid, |identity| Caller {
            identity,
            expired_secs,
        })
    }

    /// A token of ours counts while its account's credentials are those that it was issued for.
    async fn ours(&self, token: &Arc<Genuine>, claim: &OurClaim) -> Option<Identity> {
        let generation = self.generation_in(&self.now().await, &token.claims.sub)?;
        let is_current = claim.generation == generation;
        (claim.v == OUR_CLAIM_VERSION && is_current).then(|| Identity::Ours {
            token: Arc::clone(token),
            generation,
        })
    }

    /// Says where this registry listens, once all of that is known.
    pub fn listens(&self, listening: Vec<Listening>) {
        // There is no second server with the same judge.
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
                    .is_some_and(|all| all.iter().any(|own| own.is_called(service)))
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
