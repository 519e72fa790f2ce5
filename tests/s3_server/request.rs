//! What a request asks for.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;

use super::BUCKET;
use super::answer::Failure;

/// The operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    HeadBucket,
    ListObjects,
    ListUploads,
    DeleteObjects,
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    CreateUpload,
    UploadPart,
    CopyPart,
    CompleteUpload,
    AbortUpload,
    ListParts,
}

/// A request with its body, its signature verified.
pub(super) struct Request {
    pub(super) kind: Kind,
    /// Empty for requests about the bucket.
    pub(super) key: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// A parameter that is a number.
    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, Failure> {
        let number = self.parameter(name).map(str::parse).transpose();
        number.map_err(|_| Failure::invalid_argument(name))
    }
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Parameters that change nothing here, or are read where they matter. Any other one is answered 501.
const KNOWN_PARAMETERS: [&str; 17] = [
    "list-type",
    "prefix",
    "delimiter",
    "start-after",
    "continuation-token",
    "max-keys",
    "encoding-type",
    "fetch-owner",
    "uploads",
    "uploadId",
    "partNumber",
    "key-marker",
    "upload-id-marker",
    "max-uploads",
    "part-number-marker",
    "max-parts",
    "delete",
];

/// The operation, the key and the parameters of a request.
pub(super) fn parse(parts: &Parts) -> Result<(Kind, String, BTreeMap<String, String>), Failure> {
    let query = query(parts.uri.query().unwrap_or_default())?;
    let path = decoded(parts.uri.path())?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    if bucket != BUCKET {
        return Err(Failure::new(StatusCode::NOT_FOUND, "NoSuchBucket"));
    }
    let unknown = query.keys().find(|name| {
        let is_known = KNOWN_PARAMETERS.contains(&name.as_str());
        // `x-id` names the operation for logs; the others are the signature.
        !is_known && name.as_str() != "x-id" && !name.starts_with("X-Amz-")
    });
    if let Some(unknown) = unknown {
        return Err(Failure::not_implemented(unknown));
    }
    let has = |name: &str| query.contains_key(name);
    let is_copy = parts.headers.contains_key("x-amz-copy-source");
    let kind = match (&parts.method, key.is_empty()) {
        (&Method::HEAD, true) => Kind::HeadBucket,
        (&Method::GET, true) if has("uploads") => Kind::ListUploads,
        (&Method::GET, true) if query.get("list-type").is_some_and(|kind| kind == "2") => {
            Kind::ListObjects
        }
        (&Method::POST, true) if has("delete") => Kind::DeleteObjects,
        (&Method::GET, false) if has("uploadId") => Kind::ListParts,
        (&Method::GET, false) if !has("partNumber") => Kind::GetObject,
        (&Method::HEAD, false) if !has("partNumber") => Kind::HeadObject,
        (&Method::PUT, false) if has("uploadId") && is_copy => Kind::CopyPart,
        (&Method::PUT, false) if has("uploadId") => Kind::UploadPart,
        (&Method::PUT, false) if is_copy => Kind::CopyObject,
        (&Method::PUT, false) => Kind::PutObject,
        (&Method::POST, false) if has("uploads") => Kind::CreateUpload,
        (&Method::POST, false) if has("uploadId") => Kind::CompleteUpload,
        (&Method::DELETE, false) if has("uploadId") => Kind::AbortUpload,
        (&Method::DELETE, false) => Kind::DeleteObject,
        _ => return Err(Failure::not_implemented("this method here")),
    };
    Ok((kind, key.to_owned(), query))
}

/// The parameters, decoded. `+` is a plus: what signs them writes a blank as `%20`.
pub(super) fn query(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        })
        .collect()
}

pub(super) fn decoded(text: &str) -> Result<String, Failure> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "InvalidURI"))?;
    Ok(decoded.into_owned())
}
