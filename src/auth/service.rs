//! The judge: who is calling, what they may do, which tokens they get.
//!
//! Must not know HTTP, nor where users and rules come from. Invariant: every right is judged by users and rules of now, but
//! for foreign tokens, whose own list it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::access::{Access, Caller, Identity, Origin, Refusal, TokenAnswer, TokenRefusal};
use super::acl::{self, Question, Rule};
use super::challenge;
use super::keyed_hash::KeyedHash;
use super::passwords::{Passwords, Verdict};
use super::pattern::Fields;
use super::request::{self, Login, TokenRequest, Unreadable};
use super::settings::{Accounts, Authentication, Settings, TokenSettings};
use super::signing::SigningKey;
use super::token::{self, Audience, BACKDATED_SECS, Claims, OUR_CLAIM_VERSION, OurClaim};
use super::users::{self, ANONYMOUS, Users};
use super::verifier::{Genuine, Verifier};
use super::{SetupError, Viewer};
use crate::clock::Clock;
use crate::oci::RepositoryName;
use crate::oci::scope::Scope;

/// Clocks differ by so much, as the registries that we stand in for assume too.
const LEEWAY_SECS: u64 = 60;

/// For so long after a token's end its upload sessions go on: the layer of a VM image takes hours on a slow line.
const SESSION_EXTENSION_SECS: u64 = 24 * 60 * 60;

/// Judges callers.
pub struct Auth {
    clock: Arc<dyn Clock>,
    authentication: Authentication,
    token: TokenSettings,
    scopes_max: usize,
    hash: KeyedHash,
    signing: Option<SigningKey>,
    pub(super) verifier: Verifier,
    pub(super) passwords: Passwords,
    now: ArcSwap<Current>,
}

/// What a reload replaces.
struct Current {
    users: Users,
    acl: Vec<Rule>,
}

impl Current {
    fn new(accounts: Accounts) -> Self {
        Self {
            users: Users::new(accounts.users, &accounts.revoked),
            acl: accounts.acl,
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
        Ok(Self {
            authentication: settings.authentication,
            token: settings.token.clone(),
            scopes_max: settings.limits.scopes_per_token_max,
            passwords: Passwords::new(&settings.limits, hash.clone(), Arc::clone(&clock)),
            hash,
            signing,
            verifier,
            clock,
            now: ArcSwap::from_pointee(Current::new(settings.accounts)),
        })
    }

    /// Replaces users, rules and revocations; everything else stays as it was at start.
    pub fn reload(&self, accounts: Accounts) {
        self.now.store(Arc::new(Current::new(accounts)));
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
            return Ok(self.bearer(credentials.trim(), origin));
        }
        let login = scheme
            .eq_ignore_ascii_case("Basic")
            .then(|| request::decode_basic(credentials.trim()))
            .flatten();
        let Some(login) = login else {
            return Ok(caller(Identity::Invalid { is_token: false }));
        };
        match self.log_in(&login, origin).await {
            Verdict::Right => Ok(caller(self.generation_of(&login.account).map_or(
                Identity::Invalid { is_token: false },
                |generation| Identity::Basic {
                    account: login.account,
                    generation,
                },
            ))),
            Verdict::Wrong => Ok(caller(Identity::Invalid { is_token: false })),
            Verdict::Later { retry_after_secs } => {
                Err(Refusal::TooManyFailures { retry_after_secs })
            }
        }
    }

    async fn log_in(&self, login: &Login, origin: &Origin) -> Verdict {
        let now = self.now.load_full();
        self.passwords
            .check(&now.users, &login.account, &login.password, origin.client)
            .await
    }

    fn generation_of(&self, account: &str) -> Option<String> {
        let now = self.now.load();
        let user = now.users.find(account, self.clock.unix_secs())?;
        Some(users::generation(&self.hash, account, user))
    }

    fn bearer(&self, text: &str, origin: &Origin) -> Caller {
        let now = self.clock.unix_secs();
        let judged = self.verifier.verify(text, now).and_then(|token| {
            let expired_secs = match now.saturating_sub(token.claims.exp) {
                0..=LEEWAY_SECS => 0,
                expired_secs => expired_secs,
            };
            let is_in_time = token.claims.nbf <= now.saturating_add(LEEWAY_SECS)
                && expired_secs <= SESSION_EXTENSION_SECS;
            if !is_in_time || !self.is_for_us(&token, origin) {
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

    /// Some clients ask for the host, or for nothing, as service; our own issuer signs that, so it counts under our key.
    fn is_for_us(&self, token: &Genuine, origin: &Origin) -> bool {
        token.claims.aud.0.iter().any(|service| {
            *service == self.token.service
                || (token.is_under_our_key && (service.is_empty() || *service == origin.host))
        })
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
            challenge::bearer(&self.token, origin, access, error)
                .and_then(|challenge| Err(Refusal::Unauthorized { challenge, reason }))
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
        if self.holds(caller, access, origin) {
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
        let fields = Fields {
            account: caller.account(),
            resource_type,
            name,
            service: &self.token.service,
        };
        self.granted(fields, origin, &asked).len() == asked.len()
    }

    fn granted(&self, fields: Fields<'_>, origin: &Origin, asked: &[String]) -> Vec<String> {
        let now = self.now.load();
        let no_labels = BTreeMap::new();
        let user = now.users.find(fields.account, self.clock.unix_secs());
        let question = Question {
            fields,
            client: origin.client,
            labels: user.map_or(&no_labels, |user| &user.labels),
        };
        acl::granted(&now.acl, &question, asked)
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
    pub fn viewer<'a>(&'a self, caller: &'a Caller, origin: &'a Origin) -> Viewer<'a> {
        Viewer {
            auth: self,
            caller,
            origin,
        }
    }

    /// The token endpoint as a function.
    pub async fn token(&self, request: &TokenRequest<'_>) -> Result<TokenAnswer, TokenRefusal> {
        if self.authentication == Authentication::Open {
            let token = token::random_id().map_err(|()| TokenRefusal::Internal)?;
            return Ok(self.answer(token));
        }
        let Some(key) = &self.signing else {
            return Err(TokenRefusal::NoIssuer);
        };
        let unauthorized = || TokenRefusal::Unauthorized {
            challenge: challenge::basic(&self.token),
        };
        let asked = request::read(request, self.scopes_max).map_err(|error| match error {
            Unreadable::Malformed(text) => TokenRefusal::Malformed(text),
            Unreadable::Credentials => unauthorized(),
        })?;
        let login = asked.login.unwrap_or_else(|| Login {
            account: ANONYMOUS.to_owned(),
            password: Vec::new(),
        });
        match self.log_in(&login, request.origin).await {
            Verdict::Right => {}
            Verdict::Wrong => return Err(unauthorized()),
            Verdict::Later { retry_after_secs } => {
                return Err(TokenRefusal::TooManyFailures { retry_after_secs });
            }
        }
        let generation = self
            .generation_of(&login.account)
            .ok_or_else(unauthorized)?;
        let access = asked.scopes.into_iter().map(|scope| {
            let fields = Fields {
                account: &login.account,
                resource_type: &scope.resource_type,
                name: &scope.name,
                service: &asked.service,
            };
            let actions = self.granted(fields, request.origin, &scope.actions);
            Scope { actions, ..scope }
        });
        let access = access.collect();
        let iat = self.clock.unix_secs();
        let claims = Claims {
            iss: self.token.issuer.clone(),
            sub: login.account,
            aud: Audience(vec![asked.service]),
            nbf: iat.saturating_sub(BACKDATED_SECS),
            iat,
            exp: iat.saturating_add(self.token.lifetime_secs),
            jti: token::random_id().map_err(|()| TokenRefusal::Internal)?,
            access,
            bh: Some(OurClaim {
                v: OUR_CLAIM_VERSION,
                generation,
            }),
        };
        let token = token::sign(&claims, key).map_err(|()| TokenRefusal::Internal)?;
        Ok(self.answer(token))
    }

    fn answer(&self, token: String) -> TokenAnswer {
        TokenAnswer {
            token,
            expires_in_secs: self.token.lifetime_secs,
        }
    }
}
