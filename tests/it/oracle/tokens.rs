//! `docker-auth-tokens.jsonl`: tokens that `docker_auth` signed open a registry that trusts its certificate.

use std::sync::Arc;

use boathouse::auth::{Access, Auth, Origin, Settings, TokenSettings};
use boathouse::clock::ManualClock;

use super::intended::{Facts, Verdict, intended};
use super::{records, strings, text};

/// Some time after the recorded tokens were made.
const NOW: u64 = 1_795_500_000;

#[tokio::test]
async fn tokens_of_docker_auth_are_accepted() {
    let rules = intended().tokens;
    let mut verdict = Verdict::default();
    for case in records(&rules.file) {
        let parts = strings(&case["token"]);
        if parts.is_empty() {
            let facts = Facts::from([
                ("token", parts),
                ("docker_auth", vec![case["docker_auth"].to_string()]),
            ]);
            verdict.differs(&rules, &facts, || format!("{}: no token", case["id"]));
            continue;
        }
        let settings = Settings {
            token: TokenSettings {
                issuer: text(&case["issuer"]).expect("an issuer"),
                service: text(&case["service"]).expect("a service"),
                trusted_certificates_pem: vec![text(&case["certificate_pem"]).expect("PEM")],
                ..TokenSettings::default()
            },
            ..Settings::default()
        };
        let clock = Arc::new(ManualClock::at_unix_secs(NOW));
        let auth = Auth::new(settings, clock).expect("a trusted certificate");
        let origin = Origin {
            client: "192.0.2.1".parse().expect("an address"),
            is_https: true,
            host: "registry.lab".to_owned(),
        };
        let bearer = format!("Bearer {}", parts.join("."));
        let caller = auth.caller(&[&bearer], &origin).await.expect("a caller");
        let judged = |access| auth.authorise(&caller, &access, &origin);
        let name = || "team/app".parse().expect("a name");
        assert_eq!(judged(Access::Push(name())), Ok(()), "{}", case["id"]);
        assert!(judged(Access::Delete(name())).is_err(), "{}", case["id"]);
        assert_eq!(caller.account(), "admin");
        // The last letter of a signature may hold unused bits: change one in its middle.
        let (head, signature) = bearer.rsplit_once('.').expect("three parts");
        let (left, right) = signature.split_at(signature.len() / 2);
        let other = if right.starts_with('A') { 'B' } else { 'A' };
        let forged = format!("{head}.{left}{other}{}", &right[1..]);
        let caller = auth.caller(&[&forged], &origin).await.expect("a caller");
        let refused = auth.authorise(&caller, &Access::Any, &origin);
        assert!(refused.is_err(), "{}", case["id"]);
        verdict.same();
    }
    verdict.check(&rules);
}
