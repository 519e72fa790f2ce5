//! `ldap_auth`: a directory that knows accounts and their passwords.
//!
//! Source: `docker_auth`'s `ldap_auth`; RFC 4511, 4513, 4514, 4515. Must not know what the labels of an account are for.
//! Invariants: an empty password is never sent, since servers take it for an anonymous login that succeeds; what a client
//! named is never read as part of a filter or of a name; no password, account or name of an entry is in an error.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{Either, select};
use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, LdapResult, Scope, SearchEntry,
    SearchOptions, dn_escape, ldap_escape, parse_filter,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::authenticator::{Authenticator, Checked};
use crate::auth::accounts::Labels;
use crate::auth::external::checked_labels;
use crate::auth::fair_queue::FairQueue;
use crate::auth::program::{WAITING_MAX, WAITING_PER_CLIENT_MAX};
use crate::client::http::{Trust, tls_config};
use crate::clock::Clock;
use crate::host_port::HostPort;

/// Where the account stands in a filter and in the name of the first bind.
const ACCOUNT: &str = "${account}";

/// For a whole login: connection, handshake, three requests. A directory answers within a second; a login that takes longer
/// than this looks dead to people, and clients begin to give up.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Logins at a time, each with a connection of its own. They wait for another machine, so more than there are cores; a
/// directory takes hundreds.
const AT_ONCE: usize = 8;

/// One entry is the account's. The second one shows that the filter is not precise.
const ENTRIES_MAX: i32 = 2;

/// Asks for no attribute at all (RFC 4511 section 4.5.1.8).
const NO_ATTRIBUTES: &str = "1.1";

/// Result codes (RFC 4511 appendix A.1).
const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const INVALID_CREDENTIALS: u32 = 49;

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LdapTls {
    /// Not at all.
    None,
    /// By an upgrade, before anything else is sent.
    StartTls,
    /// From the first byte.
    Always,
}

/// A label, and the attribute whose values it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LdapLabel {
    /// The attribute.
    pub attribute: String,
    /// Of a value that is the name of an entry, only the first `CN`.
    pub parse_cn: bool,
    /// In lower case.
    pub lower_case: bool,
}

/// A directory, and how accounts are found in it.
#[derive(Debug, Clone)]
pub struct LdapSettings {
    /// Where it is; without it no login succeeds.
    pub address: Option<HostPort>,
    /// How the connection is protected.
    pub tls: LdapTls,
    /// Takes any certificate.
    pub insecure_tls_skip_verify: bool,
    /// A PEM file of authorities, read at each login; without it, those of the machine.
    pub ca_certificate: Option<PathBuf>,
    /// The entry below which accounts are.
    pub base: String,
    /// What finds an account; `${account}` stands for its name.
    pub filter: String,
    /// The name to search as; empty: an anonymous search.
    pub bind_dn: String,
    /// The file of its password, read at each login.
    pub bind_password_file: Option<PathBuf>,
    /// Searches as the account itself; `bind_dn` holds `${account}`.
    pub initial_bind_as_user: bool,
    /// Labels by their names.
    pub labels: BTreeMap<String, LdapLabel>,
}

impl LdapSettings {
    /// Whether the filter can be read once `${account}` is filled in.
    pub fn is_filter_valid(&self) -> bool {
        parse_filter(self.filter_for("a")).is_ok()
    }

    /// RFC 4515 section 3: what has a meaning in a filter is escaped.
    fn filter_for(&self, account: &str) -> String {
        self.filter.replace(ACCOUNT, &ldap_escape(account))
    }

    /// Active Directory also takes `NAME@DOMAIN` and `DOMAIN\NAME`, which are not names of entries.
    fn first_name_for(&self, account: &str) -> String {
        if self.bind_dn.contains('=') {
            self.bind_dn.replace(ACCOUNT, &dn_escape(account))
        } else {
            self.bind_dn.replace(ACCOUNT, account)
        }
    }
}

/// A directory that is asked about accounts.
pub(in crate::auth) struct Directory {
    settings: LdapSettings,
    clock: Arc<dyn Clock>,
    turns: FairQueue,
}

impl fmt::Debug for Directory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(formatter)
    }
}

#[async_trait]
impl Authenticator for Directory {
    fn turns(&self) -> &FairQueue {
        &self.turns
    }

    async fn check(&self, account: &str, password: &[u8]) -> Checked {
        // A server that takes a text for ended at a NUL would see an empty password.
        let is_sent = !password.is_empty() && !password.contains(&0) && !account.is_empty();
        let Some(password) = str::from_utf8(password).ok().filter(|_| is_sent) else {
            return Checked::Unknown;
        };
        let login = Box::pin(self.log_in(account, password));
        let checked = match select(login, self.clock.sleep(TIME_MAX)).await {
            Either::Left((checked, _)) => checked,
            Either::Right(_) => Err(format!("no answer within {} s", TIME_MAX.as_secs())),
        };
        checked.unwrap_or_else(|trouble| Checked::Unavailable(format!("ldap_auth: {trouble}")))
    }
}

impl Directory {
    pub(in crate::auth) fn new(settings: LdapSettings, clock: Arc<dyn Clock>) -> Self {
        Self {
            settings,
            clock,
            turns: FairQueue::new(AT_ONCE, WAITING_MAX, WAITING_PER_CLIENT_MAX),
        }
    }

    /// Finds the account's entry, and binds as it.
    async fn log_in(&self, account: &str, password: &str) -> Result<Checked, String> {
        let mut ldap = self.connect().await?;
        if self.settings.initial_bind_as_user {
            let name = self.settings.first_name_for(account);
            if !bind(&mut ldap, &name, password).await? {
                return Ok(Checked::Wrong);
            }
        } else if !self.settings.bind_dn.is_empty() {
            let own = self.own_password().await?;
            if !bind(&mut ldap, &self.settings.bind_dn, &own).await? {
                return Err(
                    "the directory refuses bind_dn with the password of bind_password_file"
                        .to_owned(),
                );
            }
        }
        let Some(entry) = self.find(&mut ldap, account).await? else {
            return Ok(Checked::Unknown);
        };
        let is_right = bind(&mut ldap, &entry.dn, password).await?;
        // The connection ends with its handle; to say so first is a courtesy.
        let _ = ldap.unbind().await;
        if !is_right {
            return Ok(Checked::Wrong);
        }
        let labels = self.labels_of(&entry.attrs);
        checked_labels(labels).map(|labels| Checked::Right(Some(labels)))
    }

    async fn connect(&self) -> Result<Ldap, String> {
        let Some(address) = &self.settings.address else {
            return Err("ldap_auth.addr is not set".to_owned());
        };
        let mut connection = LdapConnSettings::new();
        let scheme = match self.settings.tls {
            LdapTls::None | LdapTls::StartTls => "ldap",
            LdapTls::Always => "ldaps",
        };
        if self.settings.tls != LdapTls::None {
            connection = connection
                .set_config(Arc::new(self.tls_config().await?))
                .set_starttls(self.settings.tls == LdapTls::StartTls);
        }
        let url = format!("{scheme}://{address}");
        let (connection, ldap) = LdapConnAsync::with_settings(connection, &url)
            .await
            .map_err(|error| format!("cannot connect to {address}: {}", shown(&error)))?;
        // Ends with the last handle, which is below; its error is that of the request then under way.
        tokio::spawn(async move { connection.drive().await });
        Ok(ldap)
    }

    async fn tls_config(&self) -> Result<ClientConfig, String> {
        let is_insecure = self.settings.insecure_tls_skip_verify;
        let ca_certificate = self.settings.ca_certificate.clone();
        let clock = Arc::clone(&self.clock);
        let read = move || {
            let trust = if is_insecure {
                Trust::Nobody
            } else {
                Trust::Authorities(authorities(ca_certificate)?)
            };
            tls_config(trust, &clock).map_err(|error| error.to_string())
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| Err("the certificates cannot be read".to_owned()))
    }

    async fn own_password(&self) -> Result<String, String> {
        let Some(path) = &self.settings.bind_password_file else {
            return Err("bind_password_file is not set".to_owned());
        };
        let file = path.display();
        let password = tokio::fs::read_to_string(path).await;
        let password = password.map_err(|error| format!("cannot read {file}: {error}"))?;
        match password.trim() {
            "" => Err(format!("{file} is empty")),
            password => Ok(password.to_owned()),
        }
    }

    async fn find(&self, ldap: &mut Ldap, account: &str) -> Result<Option<SearchEntry>, String> {
        let LdapSettings { base, labels, .. } = &self.settings;
        let mut attributes: Vec<&str> = labels.values().map(|label| &*label.attribute).collect();
        if attributes.is_empty() {
            attributes.push(NO_ATTRIBUTES);
        }
        ldap.with_search_options(SearchOptions::new().sizelimit(ENTRIES_MAX));
        let filter = self.settings.filter_for(account);
        let found = ldap.search(base, Scope::Subtree, &filter, attributes).await;
        let found = found.map_err(|error| format!("the search failed: {}", shown(&error)))?;
        let (entries, result) = (found.0, found.1);
        let mut entries: Vec<SearchEntry> = entries
            .into_iter()
            .filter(|entry| !entry.is_ref() && !entry.is_intermediate())
            .map(SearchEntry::construct)
            .collect();
        match (entries.len(), result.rc) {
            (2.., _) | (_, SIZE_LIMIT_EXCEEDED) => {
                Err("the filter finds several entries for one account".to_owned())
            }
            (_, SUCCESS) => Ok(entries.pop().filter(|entry| !entry.dn.is_empty())),
            _ => Err(format!("the search failed: {}", refusal(&result))),
        }
    }

    fn labels_of(&self, attributes: &HashMap<String, Vec<String>>) -> Labels {
        let labels = self.settings.labels.iter();
        let labels = labels.map(|(name, label)| {
            let is_it = |(attribute, _): &(&String, &Vec<String>)| {
                attribute.eq_ignore_ascii_case(&label.attribute)
            };
            let values = attributes.iter().find(is_it).map(|(_, values)| values);
            let value = |value: &String| {
                let name = label.parse_cn.then(|| common_name(value)).flatten();
                let value = name.unwrap_or_else(|| value.clone());
                if label.lower_case {
                    value.to_lowercase()
                } else {
                    value
                }
            };
            (
                name.clone(),
                values.into_iter().flatten().map(value).collect(),
            )
        });
        labels.collect()
    }
}

/// Whether the directory takes this password.
async fn bind(ldap: &mut Ldap, name: &str, password: &str) -> Result<bool, String> {
    let result = ldap.simple_bind(name, password).await;
    let result = result.map_err(|error| format!("the bind failed: {}", shown(&error)))?;
    match result.rc {
        SUCCESS => Ok(true),
        INVALID_CREDENTIALS => Ok(false),
        _ => Err(format!("the bind failed: {}", refusal(&result))),
    }
}

/// The code alone: the text and the name beside it may tell of the account.
fn refusal(result: &LdapResult) -> String {
    format!("the directory answers with result code {}", result.rc)
}

fn shown(error: &LdapError) -> String {
    match error {
        LdapError::LdapResult { result } => refusal(result),
        LdapError::FilterParsing => "the filter cannot be read".to_owned(),
        other => other.to_string(),
    }
}

fn authorities(file: Option<PathBuf>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs().certs;
        roots.add_parsable_certificates(found);
        return Ok(roots);
    };
    let problem = |what: &dyn fmt::Display| format!("ca_certificate {}: {what}", file.display());
    let certificates = CertificateDer::pem_file_iter(&file).map_err(|error| problem(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| problem(&error))?;
        roots.add(certificate).map_err(|error| problem(&error))?;
    }
    if roots.is_empty() {
        return Err(problem(&"no certificate in it"));
    }
    Ok(roots)
}

/// The value of the first `CN` in the name of an entry (RFC 4514); `None` if there is none.
fn common_name(name: &str) -> Option<String> {
    let mut rest = name;
    while !rest.is_empty() {
        let (part, behind) = first_part(rest);
        if let Some((kind, value)) = part.split_once('=')
            && kind.trim().eq_ignore_ascii_case("cn")
        {
            return unescaped(value.trim_start());
        }
        rest = behind;
    }
    None
}

/// What is before the first separator that is neither escaped nor quoted, and what is behind it.
fn first_part(name: &str) -> (&str, &str) {
    let (mut is_escaped, mut is_quoted) = (false, false);
    for (position, character) in name.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ',' | '+' | ';' if !is_quoted => {
                let (part, behind) = name.split_at(position);
                return (part, behind.get(1..).unwrap_or_default());
            }
            _ => {}
        }
    }
    (name, "")
}

/// A value without its escapes (`\,`, `\2C`), quotes and trailing spaces.
fn unescaped(value: &str) -> Option<String> {
    let mut bytes = Vec::new();
    // Trailing spaces end here, escaped ones do not.
    let mut kept = 0;
    let mut rest = value.bytes().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => continue,
            b'\\' => {
                let first = rest.next()?;
                let digits = [Some(first), rest.peek().copied()].map(|digit| {
                    digit
                        .and_then(|digit| char::from(digit).to_digit(16))
                        .and_then(|digit| u8::try_from(digit).ok())
                });
                if let [Some(high), Some(low)] = digits {
                    rest.next();
                    bytes.push(high * 16 + low);
                } else {
                    bytes.push(first);
                }
            }
            b' ' => {
                bytes.push(b' ');
                continue;
            }
            byte => bytes.push(byte),
        }
        kept = bytes.len();
    }
    bytes.truncate(kept);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[path = "ldap_tests.rs"]
mod tests;
