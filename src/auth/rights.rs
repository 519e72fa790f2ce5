//! What a caller may do: checked when its request arrives, checked again before a change, and explained.
//!
//! Must not know how callers show who they are, nor what a request does. Invariants: every right is judged by the users and
//! rules of now, except with foreign tokens, whose own list decides; no right outlives the rule or token that gave it; an
//! explanation comes from the same functions as the verdict.

use super::access::{self, Access, Caller, Details, Identity, Origin, Reason, Refusal};
use super::accounts::{ANONYMOUS, Current, Labels};
use super::ext_authz;
use super::rules::{self, Fields, Question, RuleText, Unmet};
use super::service::Auth;
use super::settings::{Authentication, Scheme};
use super::tokens::TokenFault;
use super::tokens::verifier::Genuine;
use crate::oci::RepositoryName;

/// What a caller, or a background task, may see beyond the repository that it asked for (DESIGN D8): nothing, unless an
/// implementation says so.
pub trait Viewer: Send + Sync {
    /// Whether `name` may be pulled from.
    fn may_pull(&self, _name: &RepositoryName) -> bool {
        false
    }

    /// Whether the credential carries push to `name`.
    fn carries_push(&self, _name: &RepositoryName) -> bool {
        false
    }

    /// Whether the catalog may name `name`.
    fn may_list(&self, _name: &RepositoryName) -> bool {
        false
    }
}

/// The view of a caller, judged by the ACL of the account alone (our tokens, Basic), by `access` (foreign tokens), or always
/// yes (open mode).
pub struct CallerView<'a> {
    auth: &'a Auth,
    caller: &'a Caller,
    origin: &'a Origin,
}

impl Viewer for CallerView<'_> {
    fn may_pull(&self, name: &RepositoryName) -> bool {
        let name = name.as_str();
        self.auth.may_see(self.caller, self.origin, name, false)
    }

    /// Not in open mode, and not for anonymous callers: they show no credential.
    fn carries_push(&self, name: &RepositoryName) -> bool {
        self.auth.carries_push(self.caller, self.origin, name)
    }

    /// As `may_pull`; a foreign token that holds `registry:catalog:*` sees all.
    fn may_list(&self, name: &RepositoryName) -> bool {
        let name = name.as_str();
        self.auth.may_see(self.caller, self.origin, name, true)
    }
}

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

    /// Checks again that the caller has the rights that its request was accepted with. A token may have expired since: the
    /// request may have been long.
    pub async fn confirm(&self) -> Result<(), Refusal> {
        let CallerView {
            auth,
            caller,
            origin,
        } = &self.viewer;
        auth.confirm(caller, self.access, origin).await
    }
}

/// What an account is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Authentication is off.
    Open,
    /// It may log in.
    Known,
    /// It is in no list, and external authenticators are asked about it when it logs in.
    External,
    /// It has ended at that second.
    Ended(u64),
    /// There is none.
    Unknown,
}

/// A verdict and what led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Whether a request would be let through. Of an external account: if it is admitted, and has no labels.
    pub is_allowed: bool,
    /// Whether no rule decides, so that `ext_authz` is asked when a token is made.
    pub is_left_to_program: bool,
    /// The actions that the request needs, all of them.
    pub needed: Vec<String>,
    /// What the account is.
    pub standing: Standing,
    /// The rules before the one that decides, each with the first condition that is not met.
    pub passed_over: Vec<(RuleText, Unmet)>,
    /// The rule that decides; none: nothing is granted.
    pub decisive: Option<RuleText>,
}

impl Auth {
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
        let unauthorized = |reason: Reason, details: Details| {
            let error = match reason {
                Reason::NoCredential | Reason::WrongPassword => None,
                Reason::InvalidToken(_) => Some("invalid_token"),
                Reason::InsufficientScope => Some("insufficient_scope"),
            };
            let challenge = match &self.scheme {
                Scheme::Bearer => access::bearer(&self.token, origin, access, error)?,
                Scheme::Basic { realm } => access::basic(realm),
            };
            Err(Refusal::Unauthorized {
                challenge,
                reason,
                details,
            })
        };
        let needed = || Details {
            needed: access.scope_text(),
            ..Details::default()
        };
        match &caller.identity {
            Identity::Open => return Ok(()),
            Identity::Nobody => return unauthorized(Reason::NoCredential, needed()),
            Identity::InvalidToken(fault) => {
                return unauthorized(Reason::InvalidToken(*fault), needed());
            }
            Identity::WrongPassword(claimed_account) => {
                let details = Details {
                    claimed_account: claimed_account.clone(),
                    ..needed()
                };
                return unauthorized(Reason::WrongPassword, details);
            }
            Identity::Basic { .. } | Identity::Ours { .. } | Identity::Foreign(_) => {}
        }
        // An external account may have ended without anybody knowing here: its tokens live no longer than they say.
        let may_go_on = matches!(access, Access::Session(..)) && caller.external_labels().is_none();
        if caller.expired_secs > 0 && !may_go_on {
            return unauthorized(Reason::InvalidToken(TokenFault::Expired), needed());
        }
        // Such a token is for no registry: it shows who is calling, and opens nothing.
        let is_shut = caller.is_for_no_service() && *access != Access::Any;
        if !is_shut && self.holds(caller, access, origin) {
            return Ok(());
        }
        let details = Details {
            decided_by: Some(self.decided_by(caller, access, origin)),
            ..needed()
        };
        match caller.identity {
            // What `ext_authz` grants is in tokens only, so such a client must ask for one.
            Identity::Basic { .. } if !self.is_left_to_program(caller, access, origin) => {
                Err(Refusal::Denied(details))
            }
            _ => unauthorized(Reason::InsufficientScope, details),
        }
    }

    /// What decided against a caller with a good credential: where the rule is written, or what else.
    fn decided_by(&self, caller: &Caller, access: &Access, origin: &Origin) -> String {
        let Some((resource_type, name, actions)) = access.scope() else {
            return "the token".to_owned();
        };
        let speaks_for_itself = matches!(caller.identity, Identity::Foreign(_));
        if speaks_for_itself
            || caller.is_for_no_service()
            || self.rules_allow(caller, origin, resource_type, name, actions)
        {
            return "the token: it was made without this right".to_owned();
        }
        let fields = self.fields_here(caller, resource_type, name);
        let labels = caller.external_labels();
        self.judge(
            fields,
            labels,
            origin,
            |accounts, question| match rules::decide(accounts.rules(), question) {
                None => "no rule matches".to_owned(),
                Some(rule) if rule.text().place.is_empty() => "a rule".to_owned(),
                Some(rule) => rule.text().place.clone(),
            },
        )
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
            (Identity::Nobody | Identity::WrongPassword(_) | Identity::InvalidToken(_), _) => false,
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
        self.rules_say(caller, origin, resource_type, name, actions)
            .unwrap_or_else(|| caller.has_from_program(resource_type, name, actions))
    }

    /// What the rules say; `None` if none decides, so that `ext_authz` does.
    fn rules_say(
        &self,
        caller: &Caller,
        origin: &Origin,
        resource_type: &str,
        name: &str,
        actions: &[&str],
    ) -> Option<bool> {
        let asked: Vec<String> = actions.iter().map(|&action| action.to_owned()).collect();
        let fields = self.fields_here(caller, resource_type, name);
        match self.granted(fields, caller.external_labels(), origin, &asked) {
            Some(granted) => Some(granted.len() == asked.len()),
            None if self.known().external().decides_rights() => None,
            None => Some(false),
        }
    }

    fn is_left_to_program(&self, caller: &Caller, access: &Access, origin: &Origin) -> bool {
        access
            .scope()
            .is_some_and(|(resource_type, name, actions)| {
                self.rules_say(caller, origin, resource_type, name, actions)
                    .is_none()
            })
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

    /// What the rules grant of what is asked; `None` if no rule decides.
    pub(super) fn granted(
        &self,
        fields: Fields<'_>,
        external_labels: Option<&Labels>,
        origin: &Origin,
        asked: &[String],
    ) -> Option<Vec<String>> {
        self.judge(fields, external_labels, origin, |accounts, question| {
            rules::granted(accounts.rules(), question, asked)
        })
    }

    /// Puts a question to the rules of now.
    fn judge<T>(
        &self,
        fields: Fields<'_>,
        external_labels: Option<&Labels>,
        origin: &Origin,
        judge: impl FnOnce(&Current, &Question<'_>) -> T,
    ) -> T {
        let now = self.known();
        let no_labels = Labels::new();
        let user = now.find(fields.account, self.clock.unix_secs());
        let labels = user.map(|user| &user.labels).or(external_labels);
        let question = Question {
            fields,
            client: origin.client,
            labels: labels.unwrap_or(&no_labels),
        };
        judge(&now, &question)
    }

    /// Asks `ext_authz`, if there is one, about what no rule decides. The error is for the log.
    pub(super) async fn program_grants(
        &self,
        fields: Fields<'_>,
        external_labels: Option<&Labels>,
        origin: &Origin,
        asked: &[String],
    ) -> Result<bool, String> {
        let now = self.known();
        let Some(program) = now.external().authorizer() else {
            return Ok(false);
        };
        let no_labels = Labels::new();
        let user = now.find(fields.account, self.clock.unix_secs());
        let labels = user.map(|user| &user.labels).or(external_labels);
        let labels = labels.unwrap_or(&no_labels);
        ext_authz::grants(program, fields, origin.client, labels, asked).await
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
            Identity::Nobody | Identity::WrongPassword(_) | Identity::InvalidToken(_) => false,
            Identity::Basic { .. } | Identity::Ours { .. } => {
                let said = self.rules_say(caller, origin, "repository", name, &["pull"]);
                said.unwrap_or_else(|| {
                    caller.has_from_program("repository", name, &["pull"])
                        || (is_list && caller.has_from_program("registry", "catalog", &["*"]))
                })
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
            Identity::Open
            | Identity::Nobody
            | Identity::WrongPassword(_)
            | Identity::InvalidToken(_) => false,
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
    pub(super) async fn confirm(
        &self,
        caller: &Caller,
        access: &Access,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let current = match caller.identity {
            Identity::Basic { .. } | Identity::Ours { .. } => self.now().await,
            Identity::Open
            | Identity::Nobody
            | Identity::WrongPassword(_)
            | Identity::InvalidToken(_)
            | Identity::Foreign(_) => self.known(),
        };
        let now = self.clock.unix_secs();
        let is_current = |account, generation: &String| {
            self.generation_in(&current, account).as_ref() == Some(generation)
        };
        let ended = match &caller.identity {
            Identity::Open
            | Identity::Nobody
            | Identity::WrongPassword(_)
            | Identity::InvalidToken(_) => None,
            Identity::Basic {
                account,
                generation,
                labels: _,
            } => (!is_current(account, generation))
                .then(|| Identity::WrongPassword(Some(account.clone()))),
            Identity::Ours { token, generation } => {
                let revoked = !is_current(&token.claims.sub, generation);
                let revoked = revoked.then_some(TokenFault::Revoked);
                revoked.or(token.end(now)).map(Identity::InvalidToken)
            }
            Identity::Foreign(token) => token.end(now).map(Identity::InvalidToken),
        };
        match ended {
            None => self.authorise(caller, access, origin),
            Some(identity) => {
                let ended = Caller {
                    identity,
                    expired_secs: 0,
                };
                self.authorise(&ended, access, origin)
            }
        }
    }

    /// The verdict on a request of `account` for `access`, and the rule that decides.
    pub fn explain(&self, account: &str, access: &Access, origin: &Origin) -> Explanation {
        let standing = self.standing(account);
        let identity = match standing {
            Standing::Open => Identity::Open,
            Standing::Known | Standing::External | Standing::Ended(_) | Standing::Unknown => {
                Identity::Basic {
                    account: account.to_owned(),
                    generation: self
                        .generation_in(&self.known(), account)
                        .unwrap_or_default(),
                    labels: None,
                }
            }
        };
        let caller = Caller {
            identity,
            expired_secs: 0,
        };
        let may_enter = match standing {
            Standing::Open | Standing::Known | Standing::External => true,
            Standing::Ended(_) | Standing::Unknown => false,
        };
        let mut explanation = Explanation {
            is_allowed: may_enter && self.authorise(&caller, access, origin).is_ok(),
            is_left_to_program: self.is_left_to_program(&caller, access, origin),
            needed: Vec::new(),
            standing,
            passed_over: Vec::new(),
            decisive: None,
        };
        if let Some((resource_type, name, actions)) = access.scope() {
            explanation.needed = actions.iter().map(|&action| action.to_owned()).collect();
            let mut fields = self.fields_here(&caller, resource_type, name);
            fields.account = account;
            self.judge(fields, None, origin, |accounts, question| {
                for rule in accounts.rules() {
                    let Some(unmet) = rule.unmet(question) else {
                        explanation.decisive = Some(rule.text().clone());
                        return;
                    };
                    explanation.passed_over.push((rule.text().clone(), unmet));
                }
            });
        }
        explanation
    }

    fn standing(&self, account: &str) -> Standing {
        if self.authentication == Authentication::Open {
            return Standing::Open;
        }
        let now = self.known();
        if now.find(account, self.clock.unix_secs()).is_some() {
            Standing::Known
        } else if now.external().knows_accounts() && !now.is_listed(account) {
            Standing::External
        } else {
            now.end_of(account)
                .map_or(Standing::Unknown, Standing::Ended)
        }
    }
}
