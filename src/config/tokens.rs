//! The keys of `auth`, `token`, `users`, `acl` and `users_file`, which `authentication` reads.

use super::key::{
    Family, Files, FirstRunValue, Flag, InTemplate, Number, OptionalPath, OptionalText, Special,
    Text, Texts, distribution, docker_auth, keys, ours,
};
use crate::auth::TokenSettings;

/// A year; clients and verifiers cannot be relied upon beyond.
const LIFETIME_SECS_MAX: u64 = 366 * 86_400;

keys! {
    table ACCOUNT_KEYS;

    /// The file that `boathouse user` writes; a change of it takes effect at once. More users and rules may be here as `users:` and `acl:`.
    ///
    /// SIGHUP reads those again, and takes up another path.
    USERS_FILE: OptionalPath = ours("users_file").optional_path().at_reload().in_template(InTemplate::FirstRun(FirstRunValue::UsersFile));

    /// The hash of the user's password.
    ///
    /// `{}` without this key lets the user in with any password, as in docker_auth. The key with anything else than such a hash
    /// behind it (another text, an empty one, nothing) lets nobody in, with a warning. The user `""` is every client that gives
    /// no name.
    PASSWORD: Special = docker_auth("users.*.password").special("bcrypt hash of cost 16 at most", "").at_reload().in_files(Files::Both);

    /// Labels of the user, for rules.
    LABELS: Special = docker_auth("users.*.labels.*").special("list of texts", "").at_reload().in_files(Files::Both);

    /// When the account ends.
    EXPIRES: Special = ours("users.*.expires").special("time as in RFC 3339", "").at_reload().in_files(Files::UsersFile);

    /// Tokens from before this time are void.
    VALID_AFTER: Special = ours("users.*.valid_after").special("time as in RFC 3339", "").at_reload().in_files(Files::UsersFile);

    /// The account that the rule is for. `""` is every client that gives no name.
    ///
    /// All patterns of a rule are globs, or with slashes (`/text/`) regular expressions as Go reads them. A condition that is
    /// left out matches everything. The first rule that matches decides. [security.md](security.md) has more.
    ACCOUNT: Special = docker_auth("acl.[].match.account").special("pattern", "").at_reload().in_files(Files::Both);

    /// `repository` or `registry`.
    TYPE: Special = docker_auth("acl.[].match.type").special("pattern", "").at_reload().in_files(Files::Both);

    /// The repository.
    NAME: Special = docker_auth("acl.[].match.name").special("pattern", "").at_reload().in_files(Files::Both);

    /// The service that a token is asked for.
    MATCH_SERVICE: Special = docker_auth("acl.[].match.service").special("pattern", "").at_reload().in_files(Files::Both);

    /// The client's address.
    IP: Special = docker_auth("acl.[].match.ip").special("address or network", "").at_reload().in_files(Files::Both);

    /// A label of the account.
    MATCH_LABELS: Special = docker_auth("acl.[].match.labels.*").special("pattern", "").at_reload().in_files(Files::Both);

    /// What the rule allows: `pull`, `push`, `delete`, or `*` for all. An empty list denies.
    ACTIONS: Special = docker_auth("acl.[].actions").special("list of texts", "").at_reload().in_files(Files::Both);

    /// What `acl explain` shows of the rule.
    COMMENT: Special = docker_auth("acl.[].comment").special("text", "").at_reload().in_files(Files::Both);

    /// Tokens of this account from before this time are void.
    REVOKED: Special = ours("revoked.*").special("time as in RFC 3339", "").at_reload().in_files(Files::UsersFile);

    /// The file of users in Apache's format. A change of the file takes effect at once.
    ///
    /// Excludes `users`, `users_file`, `token` and `auth.token`. Without `acl`, every user in it may do everything.
    HTPASSWD_PATH: OptionalPath = distribution("auth.htpasswd.path").optional_path();

    /// The realm of the challenge, which clients show to people.
    HTPASSWD_REALM: Text = distribution("auth.htpasswd.realm").text("");
}

pub(super) const ACCOUNTS: Family = Family {
    heading: "Accounts and rules",
    intro: "",
    keys: ACCOUNT_KEYS,
    unread: &[
        distribution("auth.silly")
            .refused(&[], "it accepts every client that sends an `Authorization` header, and is for tests")
            .hint("`auth: none` asks for no authentication; otherwise use auth.token or auth.htpasswd"),
        distribution("auth.none")
            .harmless("it asks for no authentication, as leaving `auth` out does"),
    ],
};
keys! {
    table TOKEN_KEYS;

    /// The issuer of tokens.
    ///
    /// Where `auth.token.issuer` is given too, both must be the same.
    ISSUER: Text = docker_auth("token.issuer").text(TokenSettings::NAME).commented();

    /// Seconds for which a token is valid.
    ///
    /// A push of hundreds of GB ends within the default; `user passwd`, `user remove` and `user revoke` end tokens earlier.
    EXPIRATION: Number<u64> = docker_auth("token.expiration").number(TokenSettings::LIFETIME_SECS, 1..=LIFETIME_SECS_MAX, "seconds").in_template(InTemplate::Default);

    /// Whether clients that ask for it may keep a token for 90 days instead of the password (Tart cannot).
    REFRESH_TOKENS: Flag = ours("token.refresh_tokens").flag(false).commented();

    /// The certificate whose key signs tokens.
    ///
    /// By default that of `server.certificate`, else one that is made at first start.
    CERTIFICATE: OptionalPath = docker_auth("token.certificate").optional_path();

    /// The private key that signs tokens: RSA, or EC on P-256, P-384 or P-521.
    KEY: OptionalPath = docker_auth("token.key").optional_path();

    /// The full address of the token endpoint, as challenges give it.
    ///
    /// By default `/token` below `http.prefix` at `http.host`, else at the scheme and host of the request. It is used as it is.
    REALM: OptionalText = distribution("auth.token.realm").optional_text();

    /// The service for which tokens are valid.
    SERVICE: Text = distribution("auth.token.service").text(TokenSettings::NAME).commented();

    /// The issuer of the tokens that are accepted.
    REGISTRY_ISSUER: Text = distribution("auth.token.issuer").text(TokenSettings::NAME);

    /// Certificates as PEM, whose keys may sign tokens that are accepted.
    ///
    /// Needed, with realm, service and issuer, where another server issues the tokens.
    ROOT_CERTIFICATES: OptionalPath = distribution("auth.token.rootcertbundle").optional_path();

    /// A file of public keys (JWKS): RSA, EC and Ed25519, found by their `kid`. They may sign tokens that are accepted.
    ///
    /// Beside `auth.token.rootcertbundle`, or instead of it. A key in a token's own header is never accepted.
    JWKS: OptionalPath = distribution("auth.token.jwks").optional_path();

    /// The algorithms that tokens of others may be signed by: `RS256`, `RS384`, `RS512`, `ES256`, `ES384`, `ES512`, `EdDSA`, `PS256`, `PS384`, `PS512`.
    ///
    /// Without the key all of these but `PS…`. Tokens that are signed here are accepted whatever it says.
    SIGNING_ALGORITHMS: Texts = distribution("auth.token.signingalgorithms").texts();

    /// Whether challenges name the token endpoint at the host of the request, whatever `auth.token.realm` is.
    ///
    /// As in distribution, the scheme is `https`; where `http.trusted_proxies` names proxies, it is the one that the client used.
    AUTO_REDIRECT: Flag = distribution("auth.token.autoredirect").flag(false);

    /// The path of that endpoint.
    AUTO_REDIRECT_PATH: Text = distribution("auth.token.autoredirectpath").text("/auth/token");
}

pub(super) const TOKENS: Family = Family {
    heading: "Tokens",
    intro: "",
    keys: TOKEN_KEYS,
    unread: &[docker_auth("token.disable_legacy_key_id")
        .harmless("tokens carry their certificate, so that old and new registries accept them")],
};
