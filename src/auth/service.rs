//! Who is calling: passwords and tokens, against the users of now.
//!
//! Must not know HTTP, nor where users and rules come from, nor what a caller may do (`rights`). Invariant: a caller is an
//! account of now, or the bearer of a trusted token that speaks for itself.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;

use super::SetupError;
use super::access::{Caller, Details, Identity, Origin, Refusal};
use super::accounts::{Accounts, Current, Labels};
use super::keyed_hash::KeyedHash;
use super::passwords::{Authenticator, Freshness, Passwords, StoredHashes, Verdict};
use super::settings::{Authentication, Scheme, Settings, TokenSettings};
use super::tokens::endpoint::{self, Login};
use super::tokens::keys::SigningKey;
use super::tokens::own_names::Listening;
use super::tokens::refresh::RefreshTokens;
use super::tokens::verifier::{Genuine, JudgedBy, Verifier};
use super::tokens::{OUR_CLAIM_VERSION, TokenFault};
use crate::clock::Clock;

/// How a login ended.
pub(super) enum LoggedIn {
    /// With the right password of an account whose credentials are of this generation.
    As {
        generation: String,
        /// Of an account that is in no list.
        labels: Option<Arc<Labels>>,
    },
    /// With none.
    No,
    /// Not judged: too many failures, or too many waiting.
    Later { retry_after_secs: u64 },
    /// Not judged: an external authenticator is unavailable. The text is for the log.
    Unavailable(String),
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
    pub(super) passwords: Arc<Passwords>,
    /// What comparisons of passwords cost in all: 2 to the power of bcrypt's cost, summed.
    pub(super) bcrypt_work: Arc<AtomicU64>,
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
            &settings.token,
            signing.as_ref(),
            &settings.limits,
            hash.clone(),
        )?;
        Ok(Self {
            authentication: settings.authentication,
            scheme: settings.scheme,
            token: settings.token.clone(),
            scopes_max: settings.limits.scopes_per_token_max,
            passwords: Arc::new(Passwords::new(
                &settings.limits,
                Duration::from_secs(settings.token.lifetime_secs),
                hash.clone(),
                Arc::clone(&clock),
            )),
            bcrypt_work: Arc::default(),
            refresh_tokens: RefreshTokens::new(&hash),
            hash,
            signing,
            verifier,
            clock,
            accounts: ArcSwap::from_pointee(settings.accounts),
        })
    }

    /// Whether authentication is off.
    pub fn is_open(&self) -> bool {
        self.authentication == Authentication::Open
    }

    /// The issuer of tokens.
    pub fn issuer(&self) -> &str {
        &self.token.issuer
    }

    /// Replaces users, rules, revocations and external deciders; everything else stays as it was at start.
    pub fn reload(&self, accounts: Accounts) {
        self.accounts.store(Arc::new(accounts));
        self.passwords.forget_external();
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

    /// Why changes of accounts may not be in force; shown without a login.
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
            return Ok(caller(Identity::WrongPassword(None)));
        };
        match self.log_in(&login, origin, Freshness::Lately).await {
            LoggedIn::As { generation, labels } => Ok(caller(Identity::Basic {
                account: login.account,
                generation,
                labels,
            })),
            LoggedIn::No => {
                let claimed = self.details_of(&login).claimed_account;
                Ok(caller(Identity::WrongPassword(claimed)))
            }
            LoggedIn::Later { retry_after_secs } => Err(Refusal::TooManyFailures {
                retry_after_secs,
                details: self.details_of(&login),
            }),
            LoggedIn::Unavailable(reason) => Err(Refusal::Unavailable(reason)),
        }
    }

    /// What the log says of a login that failed.
    pub(super) fn details_of(&self, login: &Login) -> Details {
        let is_listed = !login.account.is_empty() && self.known().is_listed(&login.account);
        Details {
            claimed_account: is_listed.then(|| login.account.clone()),
            ..Details::default()
        }
    }

    /// Checks a password. It is compared with the hash of when it came. If that takes time (a login may wait in the queue) and
    /// the account changes meanwhile, a right password of before is a wrong one.
    pub(super) async fn log_in(
        &self,
        login: &Login,
        origin: &Origin,
        freshness: Freshness,
    ) -> LoggedIn {
        let account = &login.account;
        let before = self.now().await;
        let generation = self.generation_in(&before, account);
        let (verdict, is_current) = {
            let known = generation.as_deref();
            let checked = self.check_password(&before, known, login, origin, freshness);
            let mut checked = pin!(checked);
            if let Some(verdict) = checked.as_mut().now_or_never() {
                // A password that is remembered needs no second look at the accounts.
                (verdict, true)
            } else {
                let verdict = checked.await;
                let now = self.generation_in(&self.now().await, account);
                (verdict, now == generation)
            }
        };
        match verdict {
            Verdict::Right(labels) => match generation {
                Some(generation) if is_current => LoggedIn::As { generation, labels },
                _ => LoggedIn::No,
            },
            Verdict::Wrong => LoggedIn::No,
            Verdict::Later { retry_after_secs } => LoggedIn::Later { retry_after_secs },
            Verdict::Unavailable(reason) => LoggedIn::Unavailable(reason),
        }
    }

    async fn check_password(
        &self,
        accounts: &Current,
        generation: Option<&str>,
        login: &Login,
        origin: &Origin,
        freshness: Freshness,
    ) -> Verdict {
        let user = accounts.find(&login.account, self.clock.unix_secs());
        // `{}` in the configuration: any password is right.
        if user.is_some_and(|user| user.password_hash.is_none()) {
            return Verdict::Right(None);
        }
        let authenticators = || self.authenticators(accounts, &login.account);
        let generation = generation.unwrap_or_default();
        self.passwords
            .check(authenticators, login, generation, origin.client, freshness)
            .await
    }

    /// Who is asked about the password of this account, in this order. An account that is in a list is the list's alone. Any
    /// other one has no stored hash, and time cannot hide that where a program or another machine is asked.
    fn authenticators(&self, accounts: &Current, account: &str) -> Vec<Arc<dyn Authenticator>> {
        let external = accounts.external();
        if external.knows_accounts() && !accounts.is_listed(account) {
            return external.authenticators().to_vec();
        }
        let stored = StoredHashes::new(
            accounts.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.bcrypt_work),
            self.passwords.turns().clone(),
        );
        vec![Arc::new(stored)]
    }

    /// The generation of an account's credentials; `None` if there is no such account.
    pub(super) fn generation_in(&self, accounts: &Current, account: &str) -> Option<String> {
        accounts.generation(&self.hash, account, self.clock.unix_secs())
    }

    async fn bearer(&self, text: &str) -> Caller {
        let now_unix_secs = self.clock.unix_secs();
        let judged = match self.verifier.verify(text, now_unix_secs) {
            Ok(token) => {
                let expired_secs = token.expired_secs(now_unix_secs);
                let identity = match token.judged_by() {
                    JudgedBy::RulesOfNow => self.ours(token).await.ok_or(TokenFault::Revoked),
                    JudgedBy::TokenAlone => Ok(Identity::Foreign(token)),
                };
                identity.map(|identity| (identity, expired_secs))
            }
            Err(fault) => Err(fault),
        };
        let (identity, expired_secs) =
            judged.unwrap_or_else(|fault| (Identity::InvalidToken(fault), 0));
        Caller {
            identity,
            expired_secs,
        }
    }

    /// A token of ours counts while its account's credentials are those that it was issued for.
    async fn ours(&self, token: Arc<Genuine>) -> Option<Identity> {
        let claim = token.claims.bh.as_ref()?;
        let generation = self.generation_in(&self.now().await, &token.claims.sub)?;
        let is_current = claim.generation == generation;
        (claim.v == OUR_CLAIM_VERSION && is_current).then_some(Identity::Ours { token, generation })
    }

    /// Says where this registry listens, once all of that is known.
    pub fn listens(&self, listening: Vec<Listening>) {
        self.verifier.names.listens(listening);
    }
}
