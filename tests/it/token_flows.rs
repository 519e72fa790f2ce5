//! How each client comes to a token, and what that token opens.
//!
//! Each row is a request as the client sends it (`Ask`), the answer it can do with, and what must then be possible and what
//! must not. Real clients run against the real program in `tests/interop`; here every way of asking stands in one table,
//! also those that a client goes only once in a while. Source: distribution's token and OAuth pages; the clients' own code.

use http::{Method, StatusCode};

use crate::access::lab as lab_without_refresh_tokens;
use crate::support::{Answer, Options, TestRegistry, with_users};

/// How a client asks for a token.
enum Ask {
    /// `GET /token?<query>` as this user, or as nobody.
    Get(&'static str, Option<&'static str>),
    /// `POST /token` with this form; `REFRESH` stands for ann's refresh token.
    Post(&'static str),
}

struct Row {
    client: &'static str,
    ask: Ask,
    may: &'static [&'static str],
    may_not: &'static [&'static str],
}

const ANN: Option<&str> = Some("ann");
const BOB: Option<&str> = Some("bob");

const ROWS: &[Row] = &[
    Row {
        client: "docker login: no scope, asks for what may replace the password",
        ask: Ask::Get(
            "account=ann&client_id=docker&offline_token=true&service=boathouse",
            ANN,
        ),
        may: &["ping"],
        may_not: &["pull ann/app", "push ann/app", "pull shared/base"],
    },
    Row {
        client: "docker push with a mount: repeated scopes",
        ask: Ask::Get(
            "account=ann&scope=repository%3Ashared%2Fbase%3Apull&scope=repository%3Aann%2Fapp%3Apush%2Cpull&service=boathouse",
            ANN,
        ),
        may: &["ping", "push ann/app", "pull ann/app", "pull shared/base"],
        may_not: &["push shared/base", "delete ann/app"],
    },
    Row {
        client: "docker, containerd and oras with a refresh token: scopes in one field",
        ask: Ask::Post(
            "client_id=docker&grant_type=refresh_token&refresh_token=REFRESH&scope=repository%3Aann%2Fapp%3Apull%2Cpush+repository%3Ashared%2Fbase%3Apull&service=boathouse",
        ),
        may: &["ping", "push ann/app", "pull shared/base"],
        may_not: &["push shared/base", "delete ann/app"],
    },
    Row {
        client: "docker with the containerd store: a password is posted first",
        ask: Ask::Post(
            "client_id=containerd-client&grant_type=password&password=ann-secret&scope=repository%3Aann%2Fapp%3Apull%2Cpush&service=boathouse&username=ann",
        ),
        may: &["ping", "push ann/app"],
        may_not: &["pull shared/base", "delete ann/app"],
    },
    Row {
        client: "containerd without credentials",
        ask: Ask::Get(
            "scope=repository%3Apublic%2Fapp%3Apull&service=boathouse",
            None,
        ),
        may: &["ping", "pull public/app"],
        may_not: &["push public/app", "pull ann/app"],
    },
    Row {
        client: "podman and skopeo with a password",
        ask: Ask::Get(
            "account=ann&scope=repository%3Aann%2Fapp%3Apull%2Cpush&service=boathouse",
            ANN,
        ),
        may: &["ping", "push ann/app", "pull ann/app"],
        may_not: &["pull shared/base", "delete ann/app"],
    },
    Row {
        client: "podman and skopeo with a refresh token: the field `scope` is repeated",
        ask: Ask::Post(
            "account=ann&grant_type=refresh_token&refresh_token=REFRESH&scope=repository%3Aann%2Fapp%3Apull%2Cpush&scope=repository%3Ashared%2Fbase%3Apull&service=boathouse",
        ),
        may: &["push ann/app", "pull shared/base"],
        may_not: &["push shared/base", "delete ann/app"],
    },
    Row {
        client: "skopeo delete: every action",
        ask: Ask::Get(
            "account=ann&scope=repository%3Aann%2Fapp%3A%2A&service=boathouse",
            ANN,
        ),
        may: &["pull ann/app", "push ann/app", "delete ann/app"],
        may_not: &["pull shared/base"],
    },
    Row {
        client: "go-containerregistry (crane, ko, cosign, Geranos): push before pull",
        ask: Ask::Get(
            "scope=repository%3Aann%2Fapp%3Apush%2Cpull&service=boathouse",
            ANN,
        ),
        may: &["ping", "push ann/app", "pull ann/app"],
        may_not: &["delete ann/app", "pull shared/base"],
    },
    Row {
        client: "go-containerregistry after a challenge: that scope whole in one parameter, beside its own",
        ask: Ask::Get(
            "scope=repository%3Aann%2Fapp%3Apull+repository%3Ashared%2Fbase%3Apull&scope=repository%3Aann%2Fapp%3Apush%2Cpull&service=boathouse",
            ANN,
        ),
        may: &["push ann/app", "pull shared/base"],
        may_not: &["push shared/base", "delete ann/app"],
    },
    Row {
        client: "oras: sorted actions",
        ask: Ask::Get(
            "scope=repository%3Aann%2Fapp%3Adelete%2Cpull%2Cpush&scope=repository%3Ashared%2Fbase%3Apull&service=boathouse",
            ANN,
        ),
        may: &[
            "pull ann/app",
            "push ann/app",
            "delete ann/app",
            "pull shared/base",
        ],
        may_not: &["push shared/base"],
    },
    Row {
        client: "regctl: a password is posted, the scopes in one field",
        ask: Ask::Post(
            "client_id=regclient&grant_type=password&password=ann-secret&scope=repository%3Aann%2Fapp%3Apull%2Cpush&service=boathouse&username=ann",
        ),
        may: &["push ann/app"],
        may_not: &["pull shared/base", "delete ann/app"],
    },
    Row {
        client: "regctl without an account: a form without a grant",
        ask: Ask::Post(
            "client_id=regclient&scope=repository%3Apublic%2Fapp%3Apull&service=boathouse",
        ),
        may: &["ping", "pull public/app"],
        may_not: &["push public/app", "pull ann/app"],
    },
    Row {
        client: "regctl where posting was refused",
        ask: Ask::Get(
            "client_id=regclient&offline_token=true&scope=repository%3Apublic%2Fapp%3Apull&service=boathouse",
            None,
        ),
        may: &["ping", "pull public/app"],
        may_not: &["push public/app", "pull ann/app"],
    },
    Row {
        client: "lume: a path and a service of its own, whatever the challenge says",
        ask: Ask::Get(
            "scope=repository:ann/app:pull,push&service=registry.test:5000",
            ANN,
        ),
        may: &["push ann/app", "pull ann/app"],
        may_not: &["pull shared/base", "delete ann/app"],
    },
    Row {
        client: "any: more than the account may have is left out, not refused",
        ask: Ask::Get(
            "scope=repository:shared/base:pull,push&scope=repository:ann/app:pull&scope=unheard:of:it&service=boathouse",
            BOB,
        ),
        may: &["ping", "pull shared/base"],
        may_not: &["push shared/base", "pull ann/app"],
    },
];

/// What gets no token, from nobody: neither an anonymous one instead.
const REFUSED: &[(&str, Ask, u16)] = &[
    (
        "containerd posts a wrong password",
        Ask::Post(
            "client_id=containerd-client&grant_type=password&password=wrong&service=boathouse&username=ann",
        ),
        401,
    ),
    (
        "a refresh token that is none",
        Ask::Post(
            "client_id=docker&grant_type=refresh_token&refresh_token=a.b.c&service=boathouse",
        ),
        401,
    ),
];

async fn ask(registry: &TestRegistry, ask: &Ask, refresh_token: &str) -> Answer {
    match ask {
        Ask::Get(query, user) => {
            let call = registry.get(&format!("/token?{query}"));
            match user {
                Some(user) => call.basic(user, &format!("{user}-secret")),
                None => call,
            }
        }
        Ask::Post(form) => registry
            .post("/token")
            .header(
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8",
            )
            .body(form.replace("REFRESH", refresh_token).as_bytes()),
    }
    .send()
    .await
}

/// Tries something with a token: whether it is let through.
async fn is_let_through(registry: &TestRegistry, token: &str, deed: &str) -> bool {
    let (action, name) = deed.split_once(' ').unwrap_or((deed, ""));
    let (method, path, good) = match action {
        "ping" => (Method::GET, "/v2/".to_owned(), 200),
        "pull" => (Method::GET, format!("/v2/{name}/manifests/v1"), 200),
        "push" => (Method::POST, format!("/v2/{name}/blobs/uploads/"), 202),
        // What is not there can be deleted only by who may delete.
        "delete" => (Method::DELETE, format!("/v2/{name}/manifests/nothing"), 404),
        other => panic!("{other}"),
    };
    let answer = registry.call(method, &path).bearer(token).send().await;
    let is_let_through = answer.status.as_u16() == good;
    // Whoever is turned away is told by a challenge, which is how all of these clients go on.
    assert!(
        is_let_through
            || (answer.status == StatusCode::UNAUTHORIZED
                && answer
                    .header("www-authenticate")
                    .ends_with("error=\"insufficient_scope\"")),
        "{deed}: {answer:?}"
    );
    is_let_through
}

async fn lab() -> (TestRegistry, String) {
    let mut options = Options::default();
    let all: &[&str] = &["*"];
    let rules: &[(&str, &str, &[&str])] = &[
        ("ann", "*/*", all),
        ("bob", "shared/*", &["pull"]),
        ("", "public/*", &["pull"]),
    ];
    with_users(&mut options, &["ann", "bob", ""], rules);
    options.auth.token.refresh_tokens = true;
    // lume asks for a token of the host.
    options.auth.token.external_host = Some("http://registry.test:5000".parse().unwrap());
    let registry = TestRegistry::start(options);
    for name in ["ann/app", "shared/base", "public/app"] {
        push(&registry, name).await;
    }
    let login = "account=ann&client_id=docker&offline_token=true&service=boathouse";
    let login = ask(&registry, &Ask::Get(login, ANN), "")
        .await
        .expect(StatusCode::OK)
        .json();
    let refresh_token = login["refresh_token"].as_str().unwrap().to_owned();
    (registry, refresh_token)
}

/// An image index of nothing, as `v1`.
async fn push(registry: &TestRegistry, name: &str) {
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
        crate::support::OCI_INDEX
    );
    let put = registry.put(&format!("/v2/{name}/manifests/v1"));
    let put = put.header("content-type", crate::support::OCI_INDEX);
    let put = put.basic("ann", "ann-secret").body(index.as_bytes());
    put.send().await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn each_client_gets_the_token_it_asks_for() {
    let (registry, refresh_token) = lab().await;
    for Row {
        client,
        ask: asks,
        may,
        may_not,
    } in ROWS
    {
        let answer = ask(&registry, asks, &refresh_token).await;
        assert_eq!(answer.status, StatusCode::OK, "{client}: {answer:?}");
        let answer = answer.json();
        // Those that ask by GET read one, those that post read the other.
        assert_eq!(answer["token"], answer["access_token"], "{client}");
        assert!(answer["expires_in"].as_u64() > Some(60), "{client}");
        // A clock that is behind would take the token for expired.
        assert_eq!(answer.get("issued_at"), None, "{client}");
        let token = answer["token"].as_str().unwrap();
        for deed in *may {
            assert!(
                is_let_through(&registry, token, deed).await,
                "{client}: {deed}"
            );
        }
        for deed in *may_not {
            assert!(
                !is_let_through(&registry, token, deed).await,
                "{client}: {deed}"
            );
        }
    }
}

#[tokio::test]
async fn who_is_not_known_gets_no_token_of_nobody_instead() {
    let (registry, refresh_token) = lab().await;
    for (what, asks, status) in REFUSED {
        let answer = ask(&registry, asks, &refresh_token).await;
        assert_eq!(answer.status.as_u16(), *status, "{what}: {answer:?}");
        let answer = answer.json();
        assert!(
            answer.get("token").is_none() && answer.get("access_token").is_none(),
            "{what}"
        );
    }
    // As docker and the others repeat it.
    let query = "/token?scope=repository:public/app:pull&service=boathouse";
    let wrong = registry.get(query).basic("ann", "wrong").send().await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
}

/// Tart and podman ask for what the challenge of a refused request says, word for word.
#[tokio::test]
async fn the_scope_of_a_challenge_is_enough_for_what_was_refused() {
    let (registry, _) = lab().await;
    for (method, path, good, beyond) in [
        (
            Method::POST,
            "/v2/ann/app/blobs/uploads/",
            202,
            "delete ann/app",
        ),
        (Method::GET, "/v2/ann/app/manifests/v1", 200, "push ann/app"),
        (
            Method::DELETE,
            "/v2/ann/app/manifests/nothing",
            404,
            "push ann/app",
        ),
    ] {
        let refused = registry.call(method.clone(), path).send().await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        let challenge = refused.header("www-authenticate");
        let value = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap();
            rest.split_once('"').unwrap().0
        };
        assert_eq!(
            value("realm"),
            "http://registry.test:5000/token",
            "of the host that was asked"
        );
        let scope = value("scope");
        // podman goes on only after a scope of three parts.
        assert_eq!(scope.split(':').count(), 3, "{scope}");
        let query = format!("/token?scope={scope}&service={}", value("service"));
        let token = registry.get(&query).basic("ann", "ann-secret").send().await;
        let token = token.expect(StatusCode::OK).json()["token"]
            .as_str()
            .unwrap()
            .to_owned();
        let again = registry
            .call(method.clone(), path)
            .bearer(&token)
            .send()
            .await;
        assert_eq!(again.status.as_u16(), good, "{method} {path}");
        assert!(
            !is_let_through(&registry, &token, beyond).await,
            "{method} {path}: {beyond}"
        );
    }
}

/// Without refresh tokens a client keeps its password, and must not be told to post.
#[tokio::test]
async fn no_refresh_token_is_given_where_none_is_taken() {
    let registry = lab_without_refresh_tokens();
    let login = "/token?account=ann&client_id=docker&offline_token=true&service=boathouse";
    let login = registry.get(login).basic("ann", "ann-secret").send().await;
    assert_eq!(
        login.expect(StatusCode::OK).json().get("refresh_token"),
        None
    );
}
