//! The `boathouse.yml` that the first run writes.
//!
//! Must not touch the file system. Invariants: our own reader takes it; every key that is shown as a comment stands there with
//! its default, and un-commenting it changes nothing.

use std::path::{Path, PathBuf};

use super::users_file::quoted;

/// What the first run decides.
#[derive(Debug, Clone)]
pub struct Template {
    /// Where the file will lie, absolute: what lies below it is written relative to it.
    pub directory: PathBuf,
    /// `http.addr`
    pub address: String,
    /// `tls.hosts`: names and addresses beside those found on this machine.
    pub hosts: Vec<String>,
    /// `storage.filesystem.rootdirectory`, absolute.
    pub root_directory: PathBuf,
    /// `tls.ca_certificate`, absolute.
    pub ca_certificate: PathBuf,
    /// `tls.keys_directory`, absolute.
    pub keys_directory: PathBuf,
    /// `users_file`, absolute.
    pub users_file: PathBuf,
    /// `state_directory`, absolute.
    pub state_directory: PathBuf,
}

impl Template {
    /// The text of the file.
    pub fn render(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(|host| quoted(host)).collect();
        let path = |path: &PathBuf| {
            let written = match path.strip_prefix(&self.directory) {
                Ok(below) if below.as_os_str().is_empty() => Path::new("."),
                Ok(below) => below,
                Err(_) => path,
            };
            quoted(&written.to_string_lossy())
        };
        TEXT.replace("@ADDRESS@", &quoted(&self.address))
            .replace("@HOSTS@", &hosts.join(", "))
            .replace("@ROOT@", &path(&self.root_directory))
            .replace("@CA@", &path(&self.ca_certificate))
            .replace("@KEYS@", &path(&self.keys_directory))
            .replace("@USERS@", &path(&self.users_file))
            .replace("@STATE@", &path(&self.state_directory))
    }
}

const TEXT: &str = r#"# Boathouse. Keys behind `#` have the value shown, which is the default.
# After a change: `boathouse check --config THIS_FILE`, then SIGHUP for users, rules and certificates, or a restart.
# The keys of a registry's config.yml and of docker_auth's auth_config.yml have the same names and meanings here.

# Relative paths start at the directory of this file, which can therefore be moved or copied as a whole.
relative_paths: config_directory

http:
  # HOST:PORT; without HOST every address of this machine, IPv4 and IPv6.
  addr: @ADDRESS@
  # The URL that clients use, if it cannot be told from their requests: https://registry.example
  #host: ""
  # The path before /v2/, with a slash at both ends.
  #prefix: ""
  # Answers carry these too: {Name: [value]}
  #headers: {}
  # Proxies whose Forwarded and X-Forwarded-* headers are believed: [192.0.2.7, 10.0.0.0/8]
  #trusted_proxies: []
  # How long a stop waits for transfers.
  #draintimeout: 10s
  # HTTP/2 puts all transfers of a client on one connection: with large layers that is slower.
  #http2: {disabled: true}

# Certificates from an authority of our own. For your own ones: http.tls.certificate and http.tls.key instead.
tls:
  # Names and addresses of this machine beside those that are found.
  hosts: [@HOSTS@]
  # Clients trust this file.
  ca_certificate: @CA@
  keys_directory: @KEYS@

storage:
  filesystem:
    # The images, laid out as Docker's registry does it.
    rootdirectory: @ROOT@
  # Whether clients may delete (whoever the rules allow it).
  delete: {enabled: true}
  #maintenance: {readonly: {enabled: false}}

# The index; can be made anew.
state_directory: @STATE@

# What `boathouse user` writes. More users and rules may stand here as `users:` and `acl:`; SIGHUP reads both again.
users_file: @USERS@

token:
  #issuer: boathouse
  # Seconds.
  expiration: 14400
  # Whether clients that ask for it may keep a token for 90 days instead of the password (Tart cannot).
  #refresh_tokens: false

#auth:
  #token:
    #service: boathouse

log:
  # error, warn, info, debug, trace
  level: info
  # text, json
  #formatter: text
  #accesslog: {disabled: false}

validation:
  manifests:
    # strict: everything that an image refers to must be here; any: it need not.
    references: strict

limits:
  # Connections at a time.
  connections: 1024
  # Seconds without a byte until a transfer is ended.
  #stall_secs: 120
  # Seconds for the head of a request, and for the TLS handshake.
  #header_secs: 30
  #handshake_secs: 10
  # Longest form posted to the token endpoint, in bytes.
  #token_body_bytes: 65536
  # Least bytes per second of a transfer while more than 80 % of the connections are taken.
  #floor_bytes_per_sec: 1024
  # Longest manifest, in bytes; at most 16777216.
  #manifest_size_bytes: 4194304
  # Memory for manifests, forms and lists that are held whole, in bytes, and seconds for one of them to come.
  #whole_bodies_bytes: 67108864
  #whole_body_secs: 120
  # Repositories looked through for a blob to mount.
  #mount_probes: 1000
  # Entries in one page of a list.
  #list_page: 1000
  # Uploads kept open in memory; others are taken up again from the store.
  #open_uploads: 1024
  # Seconds for which a deleted blob stays unknown to its repository while another one holds it, unless it is sent again.
  #grace_period_secs: 86400
  # Failed logins a minute for one account and address before the next are slowed; 0 = never.
  #failed_logins: 10

#catalog:
  #maxentries: 1000
"#;
