//! AWS Signature Version 4: who sends a request, and whether it is the one that was signed.
//!
//! Written from the documentation of the signature, not from a client's code, so that the two check each other.

use std::collections::BTreeMap;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use data_encoding::HEXLOWER_PERMISSIVE;
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

use super::answer::{Failure, xml_date};
use super::checksums::sha256_hex;
use super::manners::Manners;
use super::request::{decoded, header, query};
use super::{ACCESS_KEY, REGION, SECRET_KEY};

/// How far the client's clock may be from the server's.
const SKEW_MAX: Duration = Duration::minutes(15);

/// The longest time for which a request may be signed in advance.
const EXPIRES_MAX_SECS: i64 = 7 * 24 * 60 * 60;

/// What is hashed for the signature in place of a body that is not.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const UNRESERVED_IN_PATHS: &AsciiSet = &UNRESERVED.remove(b'/');

const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// What a body must be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// Anything: it is not signed.
    Any,
    /// What has this SHA-256, in hexadecimal.
    Sha256(String),
}

/// What a request says of its signature.
struct Signed<'a> {
    credential: &'a str,
    headers: &'a str,
    signature: &'a str,
    timestamp: &'a str,
    /// The seconds for which it is valid, where it was signed in advance.
    expires_secs: Option<i64>,
}

/// Verifies the signature of a request; returns what its body must be.
pub(super) fn check(
    parts: &Parts,
    now: OffsetDateTime,
    manners: &Manners,
) -> Result<Payload, Failure> {
    let query = query(parts.uri.query().unwrap_or_default())?;
    let authorization = header(&parts.headers, "authorization");
    let signed = match (authorization, query.contains_key("X-Amz-Signature")) {
        (Some(_), true) => return Err(Failure::invalid_argument("request: it is signed twice")),
        (Some(authorization), false) => by_header(authorization, parts)?,
        (None, true) => in_advance(&query)?,
        (None, false) => return Err(Failure::forbidden("AccessDenied")),
    };
    let scope: Vec<&str> = signed.credential.split('/').collect();
    let [key, day, region, "s3", "aws4_request"] = scope[..] else {
        return Err(Failure::bad_request("AuthorizationHeaderMalformed"));
    };
    if key != ACCESS_KEY {
        let (status, code) = manners.unknown_key;
        return Err(Failure::new(status, code));
    }
    if manners.checks_region && region != REGION {
        let failure = Failure::bad_request("AuthorizationHeaderMalformed");
        return Err(failure.with("Region", REGION));
    }
    check_time(&signed, day, now)?;
    let payload = match header(&parts.headers, "x-amz-content-sha256") {
        None if signed.expires_secs.is_some() => UNSIGNED,
        None => return Err(Failure::bad_request("InvalidRequest")),
        Some(payload) => payload,
    };
    let canonical = canonical_request(parts, &query, &signed, payload)?;
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{day}/{region}/s3/aws4_request\n{}",
        signed.timestamp,
        sha256_hex(canonical.as_bytes())
    );
    let mut signing = Key::new(HMAC_SHA256, format!("AWS4{SECRET_KEY}").as_bytes());
    for part in [day, region, "s3", "aws4_request"] {
        signing = Key::new(HMAC_SHA256, sign(&signing, part.as_bytes()).as_ref());
    }
    let signature = HEXLOWER_PERMISSIVE.decode(signed.signature.as_bytes());
    let is_right =
        signature.is_ok_and(|signature| verify(&signing, to_sign.as_bytes(), &signature).is_ok());
    if !is_right {
        return Err(Failure::forbidden("SignatureDoesNotMatch"));
    }
    match payload {
        UNSIGNED => Ok(Payload::Any),
        streaming if streaming.starts_with("STREAMING-") => {
            Err(Failure::not_implemented("bodies in signed chunks"))
        }
        hash => Ok(Payload::Sha256(hash.to_owned())),
    }
}

/// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`
fn by_header<'a>(authorization: &'a str, parts: &'a Parts) -> Result<Signed<'a>, Failure> {
    let malformed = || Failure::bad_request("AuthorizationHeaderMalformed");
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ");
    let fields = fields.ok_or_else(malformed)?.split(',').map(str::trim);
    let fields: BTreeMap<&str, &str> = fields.filter_map(|field| field.split_once('=')).collect();
    let field = |name| fields.get(name).copied().ok_or_else(malformed);
    Ok(Signed {
        credential: field("Credential")?,
        headers: field("SignedHeaders")?,
        signature: field("Signature")?,
        timestamp: header(&parts.headers, "x-amz-date").ok_or_else(malformed)?,
        expires_secs: None,
    })
}

fn in_advance(query: &BTreeMap<String, String>) -> Result<Signed<'_>, Failure> {
    let malformed = || Failure::bad_request("AuthorizationQueryParametersError");
    let field = |name| query.get(name).map(String::as_str).ok_or_else(malformed);
    if field("X-Amz-Algorithm")? != "AWS4-HMAC-SHA256" {
        return Err(malformed());
    }
    let expires_secs = field("X-Amz-Expires")?.parse().map_err(|_| malformed())?;
    if !(1..=EXPIRES_MAX_SECS).contains(&expires_secs) {
        return Err(malformed());
    }
    Ok(Signed {
        credential: field("X-Amz-Credential")?,
        headers: field("X-Amz-SignedHeaders")?,
        signature: field("X-Amz-Signature")?,
        timestamp: field("X-Amz-Date")?,
        expires_secs: Some(expires_secs),
    })
}

fn check_time(signed: &Signed<'_>, day: &str, now: OffsetDateTime) -> Result<(), Failure> {
    let moment = PrimitiveDateTime::parse(signed.timestamp, &TIMESTAMP);
    let moment = moment.map_err(|_| Failure::forbidden("AccessDenied"))?;
    if !signed.timestamp.starts_with(day) {
        return Err(Failure::forbidden("SignatureDoesNotMatch"));
    }
    let age = now - moment.assume_utc();
    match signed.expires_secs {
        None if age.abs() > SKEW_MAX => {
            let failure = Failure::forbidden("RequestTimeTooSkewed");
            Err(failure.with("ServerTime", xml_date(now)))
        }
        Some(_) if age < -SKEW_MAX => {
            let failure = Failure::forbidden("AccessDenied");
            Err(failure.because("Request is not yet valid".to_owned()))
        }
        Some(expires_secs) if age > Duration::seconds(expires_secs) => {
            let failure = Failure::forbidden("AccessDenied");
            Err(failure.because("Request has expired".to_owned()))
        }
        None | Some(_) => Ok(()),
    }
}

fn canonical_request(
    parts: &Parts,
    query: &BTreeMap<String, String>,
    signed: &Signed<'_>,
    payload: &str,
) -> Result<String, Failure> {
    let names: Vec<&str> = signed.headers.split(';').collect();
    let is_signed = |name: &str| names.contains(&name);
    // What is not signed can be added by anybody on the way.
    let unsigned = parts.headers.keys().map(http::HeaderName::as_str);
    let unsigned = unsigned.filter(|name| name.starts_with("x-amz-") && !is_signed(name));
    // The hash of the body is part of the canonical request in any case.
    let unsigned = unsigned.filter(|name| *name != "x-amz-content-sha256");
    if !is_signed("host") || unsigned.count() > 0 {
        let failure = Failure::forbidden("AccessDenied");
        return Err(failure.because("a header that must be signed is not".to_owned()));
    }
    let path = decoded(parts.uri.path())?;
    let path = utf8_percent_encode(&path, UNRESERVED_IN_PATHS);
    let parameters = query.iter().filter(|(name, _)| *name != "X-Amz-Signature");
    let mut parameters: Vec<String> = parameters
        .map(|(name, value)| {
            let [name, value] = [name, value].map(|text| utf8_percent_encode(text, UNRESERVED));
            format!("{name}={value}")
        })
        .collect();
    parameters.sort();
    let mut headers = String::new();
    for name in names {
        let values = parts.headers.get_all(name).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let value = values.collect::<Vec<_>>().join(",");
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        headers = format!("{headers}{name}:{value}\n");
    }
    Ok(format!(
        "{}\n{path}\n{}\n{headers}\n{}\n{payload}",
        parts.method,
        parameters.join("&"),
        signed.headers
    ))
}
