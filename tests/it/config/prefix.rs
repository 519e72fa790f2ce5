//! A registry below `http.prefix`, as the program serves it.

use http::StatusCode;

use crate::lab::{Lab, account};

/// A proxy may send on only what is below the prefix, so the realm must be below it too.
#[tokio::test]
async fn the_realm_of_a_challenge_leads_to_the_token_endpoint_below_the_prefix() {
    for host in ["", "host: 'http://registry.test:5000', "] {
        let lab = Lab::configured(&format!(
            "storage: {{filesystem: {{rootdirectory: DIR/data}}}}\n\
             http: {{addr: 'ADDRESS', {host}prefix: /lab/registry}}\n\
             users: {{{}}}\nacl: [{{match: {{}}, actions: ['*']}}]\n",
            account("ann", "secret")
        ));
        let server = lab.serve().await;
        let challenged = server.get("/lab/registry/v2/").send().await;
        let challenge = challenged.expect(StatusCode::UNAUTHORIZED);
        let challenge = challenge.header("www-authenticate").to_owned();
        let (_, realm) = challenge.split_once("realm=\"http://").unwrap();
        let (realm, _) = realm.split_once('"').unwrap();
        let (_, path) = realm.split_once('/').unwrap();
        assert!(path.starts_with("lab/registry/"), "{challenge}");
        let asked = server.get(&format!("/{path}?service=boathouse"));
        let answer = asked.basic("ann", "secret").send().await;
        let token = answer.expect(StatusCode::OK).json();
        let token = token["token"].as_str().unwrap();
        let again = server.get("/lab/registry/v2/").bearer(token).send().await;
        again.expect(StatusCode::OK);
        server.end();
    }
}
