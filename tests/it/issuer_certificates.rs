//! A certificate of a token issuer that has expired: `check`, the start and each refusal name it, and the client is not told.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;

use crate::lab::Lab;

#[tokio::test]
async fn an_expired_issuer_certificate_is_named_by_check_by_the_start_and_by_each_refusal() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let name = (rcgen::DnType::CommonName, "old issuer");
    params.distinguished_name.push(name.0, name.1);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 2, 3);
    let certificate = params.self_signed(&key).unwrap();
    let lab = Lab::configured(
        "storage: {filesystem: {rootdirectory: DIR/data}}\nhttp: {addr: 'ADDRESS'}\nlog: {formatter: json}\n\
         auth: {token: {realm: 'https://old/', service: lab, issuer: old, rootcertbundle: DIR/old.pem}}\n",
    );
    lab.write("old.pem", certificate.pem());
    let warning = "auth.token.rootcertbundle: the certificate `CN=old issuer` expired on 2021-02-03: \
                   its tokens are refused; hint: ";
    let checked = lab.run(&["check"]).talk;
    assert!(
        checked.contains(&format!("warning: {warning}")),
        "{checked}"
    );

    let header = jsonwebtoken::Header {
        x5c: Some(vec![STANDARD.encode(certificate.der())]),
        ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256)
    };
    let claims = serde_json::json!({"iss": "old", "aud": "lab", "exp": 4_000_000_000_u64});
    let signer = jsonwebtoken::EncodingKey::from_ec_der(key.serialized_der());
    let token = jsonwebtoken::encode(&header, &claims, &signer).unwrap();
    let program = lab.serve().await;
    let call = program
        .get("/v2/")
        .header("authorization", &format!("Bearer {token}"));
    let answer = call.send().await.expect(StatusCode::UNAUTHORIZED);
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(
        body.contains("invalid token") && !body.contains("certificate"),
        "{body}"
    );
    let log = program.end();
    assert!(log.contains(warning), "{log}");
    let refusal = "\"refusal\":\"invalid token: issuer certificate expired\"";
    assert!(log.contains(refusal), "{log}");
    assert!(!log.contains(&token), "{log}");
}
