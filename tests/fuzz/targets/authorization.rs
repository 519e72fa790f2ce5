//! What a client sends to be somebody: `Authorization` headers, tokens, the queries and forms of the token endpoint. Nobody
//! becomes anybody by any of it, since nobody has an account.

#![no_main]

use std::sync::{Arc, LazyLock};

use boathouse::auth::{Access, Auth, Authentication, Origin, Secret, Settings, TokenRequest, make_token_key};
use boathouse::clock::ManualClock;
use libfuzzer_sys::fuzz_target;

struct Lab {
    runtime: tokio::runtime::Runtime,
    auth: Auth,
    origin: Origin,
}

static LAB: LazyLock<Lab> = LazyLock::new(|| {
    let clock = ManualClock::at_unix_secs(1_800_000_000);
    let mut settings = Settings {
        authentication: Authentication::Required,
        secret: Secret([7; 32]),
        ..Settings::default()
    };
    settings.token.signing = Some(make_token_key(&clock).expect("a key"));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    Lab {
        runtime: runtime.expect("a runtime"),
        auth: Auth::new(settings, Arc::new(clock)).expect("no mistakes"),
        origin: Origin {
            client: [127, 0, 0, 1].into(),
            is_https: true,
            host: "registry.test".to_owned(),
        },
    }
});

fuzz_target!(|input: (&str, &str, Option<&str>)| {
    let (text, query, form) = input;
    let Lab { runtime, auth, origin } = &*LAB;
    runtime.block_on(async {
        let headers = [text.to_owned(), format!("Bearer {text}"), format!("Basic {text}")];
        for header in &headers {
            let Ok(caller) = auth.caller(&[header], origin).await else {
                continue;
            };
            assert_eq!(caller.account(), "", "{header}");
            let access = [Access::Any, Access::Catalog, Access::Pull("a".parse().expect("a name"))];
            assert!(access.iter().all(|access| auth.authorise(&caller, access, origin).is_err()), "{header}");
        }
        for authorization in [&[][..], &[text]] {
            let request = TokenRequest { query, form, authorization, origin };
            // An anonymous one may be given a token for nothing; what it is worth is tested elsewhere.
            let _ = auth.token(&request).await;
        }
    });
});
