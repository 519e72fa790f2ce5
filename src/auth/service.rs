//! The judge: who is calling, what they may do, which tokens they get.
//!
//! Must not know HTTP, nor where users and rules come from. Invariant: every right is judged by users and rules of now, but
//! for foreign tokens, whose own list it is.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::access::{Access, Caller, Identity, Origin, Refusal};
use super::acl::{self, Question, Rule};
use super::challenge;
use super::keyed_hash::KeyedHash;
use super::own_names::{self, Listening};
use super::passwords::{Passwords, Verdict};
use super::placeholder::Fields;
use super::refresh::RefreshTokens;
use super::request::{self, Login};
use super::settings::{Accounts, Authentication, LiveUsers, Scheme, Settings, TokenSettings, User};
use super::signing::SigningKey;
use super::token::{OUR_CLAIM_VERSION, OurClaim};
use super::users::{self, ANONYMOUS, Users};
use super::verifier::{Genuine, Verifier};
use super::{CallerView, SetupError};
use crate::clock::Clock;
use crate::oci::RepositoryName;

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
    scheme: Scheme,
    pub(super) token: TokenSettings,
    pub(super) scopes_max: usize,
    hash: KeyedHash,
    pub(super) signing: Option<SigningKey>,
    pub(super) refresh_tokens: RefreshTokens,
    pub(super) verifier: Verifier,
    pub(super) passwords: Passwords,
    live_users: Option<Arc<dyn LiveUsers>>,
    listening: OnceLock<Listening>,
    now: ArcSwap<Current>,
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
            .then(|| request::decode_basic(credentials.trim()))
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

    /// Whether `caller` may do what `access` asks; the refusal carries the right challenge.
    pub fn authorise(
        &self,
        caller: &Caller,
        access: &Access,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        if *access == Access::Public {
            return Ok(());
        }
        let unauthorized = |error: Option<&str>, reason| {
            let challenge = match &self.scheme {
                Scheme::Bearer => challenge::bearer(&self.token, origin, access, error)?,
                Scheme::Basic { realm } => challenge::basic(realm),
            };
            Err(Refusal::Unauthorized { challenge, reason })
        };
        match caller.identity {
            Identity::Open => return Ok(()),
            Identity::Nobody => return unauthorized(None, "authentication required"),
            Identity::Invalid { is_token: true } => {
                return unauthorized(Some("invalid_token"), "invalid token");
            }
            Identity::Invalid { is_token: false } => {
                return unauthorized(None, "authentication failed");
            }
            Identity::Basic { .. } | Identity::Ours { .. } | Identity::Foreign(_) => {}
        }
        if caller.expired_secs > 0 && !matches!(access, Access::Session(..)) {
            return unauthorized(Some("invalid_token"), "expired token");
        }
        // Such a token is for no registry: it shows who is calling, and opens nothing.
        let is_shut = caller.is_for_no_service() && *access != Access::Any;
        if !is_shut && self.holds(caller, access, origin) {
            return Ok(());
        }
        match caller.identity {
            Identity::Basic { .. } => Err(Refusal::Denied),
            _ => unauthorized(Some("insufficient_scope"), "insufficient scope"),
        }
    }

    fn holds(&self, caller: &Caller, access: &Access, origin: &Origin) -> bool {
        let Some((resource_type, name, actions)) = access.scope() else {
            return true;
        };
        let by_token = |token: &Genuine| {
            actions.iter().all(|action| {
                token.claims.access.iter().any(|scope| {
                    scope.resource_type == resource_type
                        && scope.name == name
                        && scope.allows(action)
                })
            })
        };
        let by_rules = || self.rules_allow(caller, origin, resource_type, name, actions);
        match (&caller.identity, access) {
            (Identity::Open, _) => true,
            (Identity::Nobody | Identity::Invalid { .. }, _) => false,
            (Identity::Foreign(token), _) => by_token(token),
            (Identity::Basic { .. } | Identity::Ours { .. }, Access::Catalog) => {
                caller.account() != ANONYMOUS
            }
            (Identity::Basic { .. }, _) => by_rules(),
            (Identity::Ours { token, .. }, _) => by_token(token) && by_rules(),
        }
    }

    /// What the rules of now allow the caller's account, here: the service is ours, whichever one the client had its token
    /// made out to. Otherwise it would choose which rules with a `service` it is judged by.
    fn rules_allow(
        &self,
        caller: &Caller,
        origin: &Origin,
        resource_type: &str,
        name: &str,
        actions: &[&str],
    ) -> bool {
        let asked: Vec<String> = actions.iter().map(|&action| action.to_owned()).collect();
        let fields = self.fields_here(caller, resource_type, name);
        self.granted(fields, origin, &asked).len() == asked.len()
    }

    /// What rules are asked about on `/v2/`.
    pub(super) fn fields_here<'a>(
        &'a self,
        caller: &'a Caller,
        resource_type: &'a str,
        name: &'a str,
    ) -> Fields<'a> {
        Fields {
            account: caller.account(),
            resource_type,
            name,
            service: &self.token.service,
        }
    }

    pub(super) fn granted(
        &self,
        fields: Fields<'_>,
        origin: &Origin,
        asked: &[String],
    ) -> Vec<String> {
        self.judge(fields, origin, |rules, question| {
            acl::granted(rules, question, asked)
        })
    }

    /// Puts a question to the rules of now.
    pub(super) fn judge<T>(
        &self,
        fields: Fields<'_>,
        origin: &Origin,
        judge: impl FnOnce(&[Rule], &Question<'_>) -> T,
    ) -> T {
        let now = self.now.load();
        let no_labels = BTreeMap::new();
        let user = now.users.find(fields.account, self.clock.unix_secs());
        let question = Question {
            fields,
            client: origin.client,
            labels: user.map_or(&no_labels, |user| &user.labels),
        };
        judge(&now.acl, &question)
    }

    pub(super) fn may_see(
        &self,
        caller: &Caller,
        origin: &Origin,
        name: &str,
        is_list: bool,
    ) -> bool {
        match &caller.identity {
            Identity::Open => true,
            Identity::Nobody | Identity::Invalid { .. } => false,
            Identity::Basic { .. } | Identity::Ours { .. } => {
                self.rules_allow(caller, origin, "repository", name, &["pull"])
            }
            Identity::Foreign(token) => {
                token
                    .claims
                    .access
                    .iter()
                    .any(|scope| match scope.resource_type.as_str() {
                        "repository" => scope.name == name && scope.allows("pull"),
                        "registry" => is_list && scope.name == "catalog" && scope.allows("*"),
                        _ => false,
                    })
            }
        }
    }

    pub(super) fn carries_push(
        &self,
        caller: &Caller,
        origin: &Origin,
        name: &RepositoryName,
    ) -> bool {
        let has_credential = match &caller.identity {
            Identity::Open | Identity::Nobody | Identity::Invalid { .. } => false,
            Identity::Basic { .. } | Identity::Ours { .. } => caller.account() != ANONYMOUS,
            Identity::Foreign(_) => true,
        };
        // What was asked for may need less, so an expired token may have come this far.
        has_credential
            && caller.expired_secs == 0
            && self.holds(caller, &Access::Push(name.clone()), origin)
    }

    /// What this caller may see beyond the repository that was asked for (DESIGN D8).
    pub fn viewer<'a>(&'a self, caller: &'a Caller, origin: &'a Origin) -> CallerView<'a> {
        CallerView {
            auth: self,
            caller,
            origin,
        }
    }
}
