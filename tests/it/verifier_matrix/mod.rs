//! Which tokens of other issuers open a registry: a row for each kind of token that issuers write, or that an attacker tries.
//!
//! The rows are asked of Boathouse over HTTP by `cargo test`, and of the real registries 2.8.2 and 3.1.2 by the interop step
//! `tokens-across`. So their columns cannot rot, and a token that either of them accepts is refused here only for a reason
//! that its row gives.

use std::path::Path;

use boathouse::auth::{self, TokenSettings};
use boathouse::clock::{Clock as _, SystemClock};
use http::{Method, StatusCode};

use crate::client::Client;
use crate::lab::Lab;
use crate::program::{Program, command_of, free_address};
use crate::support::{Options, TestRegistry};

use Bundle::{Expired, Usual, WithEd25519};
use Verdict::{DoesNotStart, Opens, OpensNothing, Refused};
use issuers::{Bundle, ISSUER, Issuers, SERVICE, Token, x5c};

mod issuers;

/// What a registry does with a token for `team/app:pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It opens what it is for.
    Opens,
    /// It is genuine and grants nothing.
    OpensNothing,
    Refused,
    /// The registry does not even start with this bundle.
    DoesNotStart,
}

struct Row {
    name: &'static str,
    trusted: Bundle,
    token: fn(&Issuers) -> Token<'_>,
    ours: Verdict,
    /// docker-registry 2.8.2
    old: Verdict,
    /// distribution 3.1.2
    new: Verdict,
}

const fn row(
    name: &'static str,
    trusted: Bundle,
    token: fn(&Issuers) -> Token<'_>,
    [ours, old, new]: [Verdict; 3],
) -> Row {
    Row {
        name,
        trusted,
        token,
        ours,
        old,
        new,
    }
}

/// What our own issuer writes: the form that all accept.
fn usual(all: &Issuers) -> Token<'_> {
    let token = all.p256.key.token(all.now);
    token
        .kid(all.p256.key.libtrust_id())
        .x5c(&[&all.p256.certificate])
}

const ROWS: &[Row] = &[
    // Key ids.
    row(
        "RSA, libtrust kid",
        Usual,
        |all| all.rsa.key.token(all.now).kid(all.rsa.key.libtrust_id()),
        [Opens, Opens, Refused],
    ),
    row(
        "P-256, libtrust kid",
        Usual,
        |all| all.p256.key.token(all.now).kid(all.p256.key.libtrust_id()),
        [Opens, Opens, Refused],
    ),
    row(
        "P-384, libtrust kid",
        Usual,
        |all| all.p384.key.token(all.now).kid(all.p384.key.libtrust_id()),
        [Opens, Opens, Refused],
    ),
    row(
        "P-521, libtrust kid",
        Usual,
        |all| all.p521.key.token(all.now).kid(all.p521.key.libtrust_id()),
        [Opens, Opens, Refused],
    ),
    row(
        "RSA, RFC 7638 kid",
        Usual,
        |all| all.rsa.key.token(all.now).kid(all.rsa.key.thumbprint()),
        [Opens, Refused, Opens],
    ),
    row(
        "P-256, RFC 7638 kid",
        Usual,
        |all| all.p256.key.token(all.now).kid(all.p256.key.thumbprint()),
        [Opens, Refused, Opens],
    ),
    row(
        "P-256, docker_auth's broken RFC 7638 kid",
        Usual,
        |all| {
            let key = &all.p256.key;
            key.token(all.now).kid(key.generator_thumbprint())
        },
        [Opens, Refused, Refused],
    ),
    row(
        "another P-256, docker_auth's broken RFC 7638 kid",
        Usual,
        |all| {
            let key = &all.p256_other.key;
            key.token(all.now).kid(key.generator_thumbprint())
        },
        [Opens, Refused, Refused],
    ),
    row(
        "P-384, docker_auth's broken RFC 7638 kid",
        Usual,
        |all| {
            let key = &all.p384.key;
            key.token(all.now).kid(key.generator_thumbprint())
        },
        [Opens, Refused, Refused],
    ),
    row(
        "P-521, docker_auth's broken RFC 7638 kid",
        Usual,
        |all| {
            let key = &all.p521.key;
            key.token(all.now).kid(key.generator_thumbprint())
        },
        [Opens, Refused, Refused],
    ),
    row(
        "a stranger's key, docker_auth's broken RFC 7638 kid",
        Usual,
        |all| {
            let key = &all.stranger.key;
            key.token(all.now).kid(key.generator_thumbprint())
        },
        [Refused, Refused, Refused],
    ),
    row(
        "neither kid nor x5c",
        Usual,
        |all| all.p256.key.token(all.now),
        [Refused, Refused, Refused],
    ),
    row(
        "the kid of another key",
        Usual,
        |all| all.p256.key.token(all.now).kid(all.rsa.key.libtrust_id()),
        [Refused, Refused, Refused],
    ),
    // Certificates in the token.
    row(
        "P-256, x5c and libtrust kid",
        Usual,
        usual,
        [Opens, Opens, Opens],
    ),
    row(
        "RSA, x5c and libtrust kid",
        Usual,
        |all| {
            let token = all.rsa.key.token(all.now).kid(all.rsa.key.libtrust_id());
            token.x5c(&[&all.rsa.certificate])
        },
        [Opens, Opens, Opens],
    ),
    row(
        "P-384, x5c and libtrust kid",
        Usual,
        |all| {
            let token = all.p384.key.token(all.now).kid(all.p384.key.libtrust_id());
            token.x5c(&[&all.p384.certificate])
        },
        [Opens, Opens, Opens],
    ),
    row(
        "P-521, x5c and libtrust kid",
        Usual,
        |all| {
            let token = all.p521.key.token(all.now).kid(all.p521.key.libtrust_id());
            token.x5c(&[&all.p521.certificate])
        },
        [Opens, Opens, Opens],
    ),
    row(
        "x5c alone, self-signed and no authority, in the bundle",
        Usual,
        |all| all.p256.key.token(all.now).x5c(&[&all.p256.certificate]),
        [Opens, Opens, Opens],
    ),
    row(
        "x5c, a leaf under an authority of the bundle",
        Usual,
        |all| all.leaf.key.token(all.now).x5c(&[&all.leaf.certificate]),
        [Opens, Opens, Opens],
    ),
    row(
        "x5c of a stranger",
        Usual,
        |all| {
            let token = all.stranger.key.token(all.now);
            token.x5c(&[&all.stranger.certificate])
        },
        [Refused, Refused, Refused],
    ),
    row(
        "x5c of a stranger with the name of an authority of the bundle",
        Usual,
        |all| {
            let token = all.namesake.key.token(all.now);
            token.x5c(&[&all.namesake.certificate])
        },
        [Refused, Refused, Refused],
    ),
    row(
        "x5c of a trusted key, signed by a stranger",
        Usual,
        |all| {
            let token = all.stranger.key.token(all.now);
            token.x5c(&[&all.p256.certificate])
        },
        [Refused, Refused, Refused],
    ),
    row(
        "x5c of a stranger and the kid of a trusted key",
        Usual,
        |all| {
            let token = all.stranger.key.token(all.now);
            token
                .kid(all.p256.key.libtrust_id())
                .x5c(&[&all.stranger.certificate])
        },
        [Refused, Refused, Refused],
    ),
    // Expired certificates. The real ones do not look at the dates of a certificate that is found by its key id. An
    // operator who sees a certificate expire expects its tokens to end with it, so here both ways are refused.
    row(
        "an expired certificate, kid alone",
        Expired,
        |all| {
            let key = &all.expired.key;
            key.token(all.now).kid(key.libtrust_id())
        },
        [Refused, Opens, Refused],
    ),
    row(
        "an expired certificate, RFC 7638 kid alone",
        Expired,
        |all| {
            let key = &all.expired.key;
            key.token(all.now).kid(key.thumbprint())
        },
        [Refused, Refused, Opens],
    ),
    row(
        "an expired certificate, x5c",
        Expired,
        |all| {
            let token = all.expired.key.token(all.now);
            token.x5c(&[&all.expired.certificate])
        },
        [Refused, Refused, Refused],
    ),
    // Ed25519.
    row(
        "an Ed25519 certificate beside the issuer's",
        WithEd25519,
        usual,
        [Opens, DoesNotStart, Opens],
    ),
    // As in 3.1; 2.8 cannot even start with the certificate.
    row(
        "Ed25519, x5c",
        WithEd25519,
        |all| {
            let token = all.ed25519.key.token(all.now);
            token.x5c(&[&all.ed25519.certificate])
        },
        [Opens, DoesNotStart, Opens],
    ),
    row(
        "Ed25519, RFC 7638 kid",
        WithEd25519,
        |all| {
            let key = &all.ed25519.key;
            key.token(all.now).kid(key.thumbprint())
        },
        [Opens, DoesNotStart, Opens],
    ),
    // Claims.
    row(
        "aud is a list with the service in it",
        Usual,
        |all| usual(all).claim("aud", vec!["another", SERVICE]),
        [Opens, Refused, Opens],
    ),
    row(
        "aud is a list of other services",
        Usual,
        |all| usual(all).claim("aud", vec!["another"]),
        [Refused, Refused, Refused],
    ),
    row(
        "another aud",
        Usual,
        |all| usual(all).claim("aud", "another"),
        [Refused, Refused, Refused],
    ),
    row(
        "no aud",
        Usual,
        |all| usual(all).without_claim("aud"),
        [Refused, Refused, Refused],
    ),
    row(
        "another iss",
        Usual,
        |all| usual(all).claim("iss", "another"),
        [Refused, Refused, Refused],
    ),
    row(
        "no nbf",
        Usual,
        |all| usual(all).without_claim("nbf"),
        [Opens, Opens, Opens],
    ),
    row(
        "nbf in two minutes",
        Usual,
        |all| usual(all).claim("nbf", all.now + 120),
        [Refused, Refused, Refused],
    ),
    row(
        "access is null",
        Usual,
        |all| usual(all).claim("access", serde_json::Value::Null),
        [OpensNothing, OpensNothing, OpensNothing],
    ),
    row(
        "no access",
        Usual,
        |all| usual(all).without_claim("access"),
        [OpensNothing, OpensNothing, OpensNothing],
    ),
    row(
        "expired for 30 seconds: clocks differ",
        Usual,
        |all| usual(all).claim("exp", all.now - 30),
        [Opens, Opens, Opens],
    ),
    row(
        "expired for two minutes",
        Usual,
        |all| usual(all).claim("exp", all.now - 120),
        [Refused, Refused, Refused],
    ),
    // A key that the token brings itself. 2.8 and 3.1 take it if they know it; what vouches for it here is `kid` or `x5c`.
    row(
        "an embedded jwk of a stranger",
        Usual,
        |all| {
            let key = &all.stranger.key;
            key.token(all.now).header("jwk", key.jwk())
        },
        [Refused, Refused, Refused],
    ),
    row(
        "an embedded jwk of a stranger that names a trusted key (CVE-2025-24976)",
        Usual,
        |all| {
            let mut jwk = all.stranger.key.jwk();
            jwk["kid"] = all.p256.key.thumbprint().into();
            all.stranger.key.token(all.now).header("jwk", jwk)
        },
        [Refused, Refused, Refused],
    ),
    row(
        "an embedded jwk of a stranger, and the kid of a trusted key",
        Usual,
        |all| {
            let key = &all.stranger.key;
            key.token(all.now)
                .header("jwk", key.jwk())
                .kid(all.p256.key.libtrust_id())
        },
        [Refused, Refused, Refused],
    ),
    row(
        "an embedded jwk of a trusted key, without its kid",
        Usual,
        |all| {
            let key = &all.p256.key;
            key.token(all.now).header("jwk", key.jwk())
        },
        [Refused, Opens, Refused],
    ),
    row(
        "an embedded jwk with a trusted certificate in it",
        Usual,
        |all| {
            let mut jwk = all.p256.key.jwk();
            jwk["x5c"] = x5c(&[&all.p256.certificate]).into();
            all.p256.key.token(all.now).header("jwk", jwk)
        },
        [Refused, Opens, Opens],
    ),
    // Algorithms.
    row(
        "no signature: alg is none",
        Usual,
        |all| usual(all).header("alg", "none"),
        [Refused, Refused, Refused],
    ),
    row(
        "HS256 with the public key as the secret",
        Usual,
        |all| usual(all).header("alg", "HS256"),
        [Refused, Refused, Refused],
    ),
    // 3.1 would accept it; a key that can be checked by two families of algorithms lets the token choose.
    row(
        "RSA-PSS, x5c",
        Usual,
        |all| {
            let token = all.rsa.key.token(all.now).x5c(&[&all.rsa.certificate]);
            token.header("alg", "PS256")
        },
        [Refused, Refused, Opens],
    ),
];

/// What the registry that the client knows does with a token.
async fn judged(client: &Client, token: &str) -> Verdict {
    let ask = async |path| {
        let call = client.call(Method::GET, path).bearer(token);
        call.send().await.status
    };
    let (base, image) = (ask("/v2/").await, ask("/v2/team/app/manifests/v1").await);
    match (base, image) {
        (StatusCode::OK, StatusCode::NOT_FOUND) => Opens,
        (StatusCode::OK, StatusCode::UNAUTHORIZED) => OpensNothing,
        (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED) => Refused,
        other => panic!("{other:?}"),
    }
}

/// The rows in which one of the three differs from what is found.
async fn differences(
    client: Option<&Client>,
    all: &Issuers,
    trusted: Bundle,
    expected: fn(&Row) -> Verdict,
) -> Vec<String> {
    let mut differences = Vec::new();
    for row in ROWS.iter().filter(|row| row.trusted == trusted) {
        let found = match client {
            Some(client) => judged(client, &(row.token)(all).signed()).await,
            None => DoesNotStart,
        };
        if found != expected(row) {
            differences.push(format!("{}: {found:?}", row.name));
        }
    }
    differences
}

const BUNDLES: [Bundle; 3] = [Usual, Expired, WithEd25519];

#[tokio::test]
async fn boathouse_judges_each_kind_of_token_as_its_row_says() {
    let mut found = Vec::new();
    for trusted in BUNDLES {
        let now = 1_800_000_000;
        let all = Issuers::new(now);
        let registry = TestRegistry::start(Options {
            auth: auth::Settings {
                token: TokenSettings {
                    issuer: ISSUER.to_owned(),
                    service: SERVICE.to_owned(),
                    trusted_certificates_pem: vec![all.bundle_pem(trusted)],
                    ..TokenSettings::default()
                },
                ..auth::Settings::default()
            },
            ..Options::default()
        });
        let client = Client::plain(registry.address);
        found.extend(differences(Some(&client), &all, trusted, |row| row.ours).await);
    }
    assert_eq!(found, Vec::<String>::new());
}

/// Starts a real registry that trusts a bundle; `None` if it ends instead.
async fn real_registry(
    path: &Path,
    all: &Issuers,
    trusted: Bundle,
    lab: &Lab,
) -> Option<(Program, Client)> {
    lab.write("bundle.pem", all.bundle_pem(trusted));
    let address = free_address();
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: DIR/data}}}}\nhttp: {{addr: '{address}'}}\n\
         auth: {{token: {{realm: 'https://issuer/', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: DIR/bundle.pem}}}}\n"
    );
    lab.configure("registry.yml", &text);
    let mut command = command_of(path);
    command.arg("serve").arg(lab.path("registry.yml"));
    let mut program = Program::start(&lab.path("log"), &mut command);
    if program.answers(address).await {
        return Some((program, Client::plain(address)));
    }
    eprintln!("{trusted:?}: {}", program.log());
    None
}

async fn asks_a_real_registry(variable: &str, expected: fn(&Row) -> Verdict) {
    let path = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} names it"));
    let now = SystemClock::new().unix_secs();
    let mut found = Vec::new();
    for trusted in BUNDLES {
        let (all, lab) = (Issuers::new(now), Lab::empty());
        let registry = real_registry(path.as_ref(), &all, trusted, &lab).await;
        let client = registry.as_ref().map(|(_, client)| client);
        found.extend(differences(client, &all, trusted, expected).await);
    }
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs the real docker-registry 2.8.2"]
async fn registry_2_8_2_judges_each_kind_of_token_as_its_row_says() {
    asks_a_real_registry("BOATHOUSE_DOCKER_REGISTRY", |row| row.old).await;
}

#[tokio::test]
#[ignore = "needs the real distribution 3.1.2"]
async fn registry_3_1_2_judges_each_kind_of_token_as_its_row_says() {
    asks_a_real_registry("BOATHOUSE_DISTRIBUTION", |row| row.new).await;
}
