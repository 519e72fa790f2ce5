//! The two files of the guide, which `Lab::configure` takes, and what tests make of them.

/// The guide's `registry.yml`.
pub(crate) const REGISTRY: &str = "\
version: 0.1
log: {fields: {service: registry}}
auth:
  token:
    realm: \"https://macvm.store/auth\"
    service: \"jarosik-oci-service\"
    issuer: \"jarosik-token-issuer\"
    rootcertbundle: DIR/certs/cert.pem
storage:
  delete: {enabled: true}
  filesystem: {rootdirectory: DIR/registry-data}
  cache: {blobdescriptor: inmemory}
http: {addr: \"ADDRESS\", secret: thisisasecretforhttp, host: \"https://macvm.store\"}
";

/// Its `auth_config.yml`. `HASH` stands for that of `tjarosik`'s password.
pub(crate) const AUTH_CONFIG: &str = "\
server: {addr: \"ADDRESS\"}
token:
  issuer: \"jarosik-token-issuer\"
  expiration: 900
  certificate: \"DIR/certs/cert.pem\"
  key: \"DIR/certs/privkey.pem\"
users:
  \"tjarosik\": {password: \"HASH\"}
  \"marcin\": {password: \"<redacted>\"}
  \"\": {}
acl:
  - match: {account: \"tjarosik\"}
    actions: [\"*\"]
  - match: {account: \"marcin\"}
    actions: [\"*\"]
  - match: {account: \"\", name: \"public/*\"}
    actions: [\"pull\"]
";
