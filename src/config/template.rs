//! The `boathouse.yml` that the first run writes.
//!
//! Must not touch the file system. Invariants: our own reader takes it; a key behind `#` has its default, and removing the `#`
//! changes nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::key::{FirstRunValue, InTemplate};
use super::keys::FAMILIES;
use super::users_file::quoted;

/// What the first run decides.
#[derive(Debug, Clone)]
pub struct Template {
    /// Where the file will be, absolute: paths below it are written relative to it.
    pub directory: PathBuf,
    /// `http.addr`
    pub address: String,
    /// `tls.hosts`: names and addresses beside those found on this machine.
    pub hosts: Vec<String>,
    /// `storage`
    pub storage: TemplateStorage,
    /// `tls.ca_certificate`, absolute.
    pub ca_certificate: PathBuf,
    /// `tls.keys_directory`, absolute.
    pub keys_directory: PathBuf,
    /// `users_file`, absolute.
    pub users_file: PathBuf,
    /// `state_directory`, absolute.
    pub state_directory: PathBuf,
}

/// Where the data are to be.
#[derive(Debug, Clone)]
pub enum TemplateStorage {
    /// `storage.filesystem.rootdirectory`, absolute.
    Directory(PathBuf),
    /// `storage.s3`
    Bucket(TemplateBucket),
}

/// `storage.s3`, as the first run writes it: without secrets.
#[derive(Debug, Clone)]
pub struct TemplateBucket {
    /// `regionendpoint`; `None` is Amazon's.
    pub endpoint: Option<String>,
    /// `bucket`
    pub bucket: String,
    /// `region`
    pub region: String,
    /// `accesskey_file` and `secretkey_file`, absolute; without them the credentials come from the environment, a profile or
    /// the instance.
    pub key_files: Option<(PathBuf, PathBuf)>,
}

const HEAD: &str = "\
# Boathouse. Keys behind `#` have the value shown, which is the default.
# After a change: `boathouse check --config THIS_FILE`, then SIGHUP for users, rules and certificates, or a restart.
# The keys of a registry's config.yml and of docker_auth's auth_config.yml have the same names and meanings here.
# docs/configuration.md describes all keys.
";

/// One key in the file.
pub(super) struct Entry {
    /// The path; for `http.headers.*` without the `*`.
    pub(super) path: Vec<&'static str>,
    pub(super) comment: String,
    /// Absent for a key whose map follows, and has only a comment.
    pub(super) value: Option<String>,
    pub(super) is_commented: bool,
}

impl Template {
    /// The text of the file.
    pub fn render(&self) -> String {
        let keys = FAMILIES.iter().flat_map(|family| family.keys);
        let entries: Vec<Entry> = keys
            .filter_map(|key| {
                let row = key.row();
                let value = match row.in_template {
                    InTemplate::No => return None,
                    InTemplate::Heading => None,
                    InTemplate::Commented | InTemplate::Default => Some(key.default()),
                    InTemplate::Value(value) => Some(value.to_owned()),
                    InTemplate::FirstRun(which) => Some(self.value(which)?),
                };
                Some(Entry {
                    path: row.path.trim_end_matches(".*").split('.').collect(),
                    comment: row.paragraphs().into_iter().next().unwrap_or_default(),
                    value,
                    is_commented: row.in_template == InTemplate::Commented,
                })
            })
            .collect();
        let mut text = HEAD.to_owned();
        write_level(&mut text, &entries.iter().collect::<Vec<_>>(), 0);
        text
    }

    /// `None` for a key that is not written.
    fn value(&self, which: FirstRunValue) -> Option<String> {
        let bucket = match &self.storage {
            TemplateStorage::Directory(_) => None,
            TemplateStorage::Bucket(bucket) => Some(bucket),
        };
        Some(match which {
            FirstRunValue::Address => quoted(&self.address),
            FirstRunValue::Hosts => {
                let hosts: Vec<String> = self.hosts.iter().map(|host| quoted(host)).collect();
                format!("[{}]", hosts.join(", "))
            }
            FirstRunValue::RootDirectory => match &self.storage {
                TemplateStorage::Directory(root_directory) => self.path(root_directory),
                TemplateStorage::Bucket(_) => return None,
            },
            FirstRunValue::Bucket => quoted(&bucket?.bucket),
            FirstRunValue::BucketEndpoint => quoted(bucket?.endpoint.as_ref()?),
            FirstRunValue::BucketRegion => quoted(&bucket?.region),
            FirstRunValue::AccessKeyFile => self.path(&bucket?.key_files.as_ref()?.0),
            FirstRunValue::SecretKeyFile => self.path(&bucket?.key_files.as_ref()?.1),
            FirstRunValue::CaCertificate => self.path(&self.ca_certificate),
            FirstRunValue::KeysDirectory => self.path(&self.keys_directory),
            FirstRunValue::UsersFile => self.path(&self.users_file),
            FirstRunValue::StateDirectory => self.path(&self.state_directory),
        })
    }

    fn path(&self, path: &Path) -> String {
        let written = match path.strip_prefix(&self.directory) {
            Ok(below) if below.as_os_str().is_empty() => Path::new("."),
            Ok(below) => below,
            Err(_) => path,
        };
        quoted(&written.to_string_lossy())
    }
}

/// Writes entries whose paths agree in their first `depth` names. A map with a single key is written on one line.
pub(super) fn write_level(text: &mut String, entries: &[&Entry], depth: usize) {
    let indent = "  ".repeat(depth);
    let mut names: Vec<&str> = entries
        .iter()
        .filter_map(|entry| entry.path.get(depth).copied())
        .collect();
    // Not sorted: a name's keys may be apart in the table.
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    for name in names {
        if depth == 0 {
            text.push('\n');
        }
        let group = entries
            .iter()
            .copied()
            .filter(|entry| entry.path.get(depth) == Some(&name));
        let (headings, group): (Vec<&Entry>, Vec<&Entry>) =
            group.partition(|entry| entry.value.is_none());
        let mark = if group.iter().all(|entry| entry.is_commented) {
            "#"
        } else {
            ""
        };
        // Writing to a String cannot fail.
        for heading in headings {
            let _ = writeln!(text, "{indent}# {}", heading.comment);
        }
        if let [entry] = group.as_slice() {
            let below = entry.path.get(depth + 1..).unwrap_or_default();
            let value = entry.value.clone().unwrap_or_default();
            let value = below
                .iter()
                .rev()
                .fold(value, |value, name| format!("{{{name}: {value}}}"));
            let _ = writeln!(
                text,
                "{indent}# {}\n{indent}{mark}{name}: {value}",
                entry.comment
            );
        } else {
            let _ = writeln!(text, "{indent}{mark}{name}:");
            write_level(text, &group, depth + 1);
        }
    }
}
