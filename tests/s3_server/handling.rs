//! The operations. Each happens at one moment, under the lock of the state.

use http::{HeaderMap, StatusCode};

use super::answer::{Answer, Failure, Xml, elements, empty, http_date, set, xml_date};
use super::checksums::{ALGORITHMS, checksum, verify};
use super::contents::{Condition, Headers, Object, UploadName, quoted};
use super::manners::KeysBelowKeys;
use super::request::{Kind, Request, decoded, header};
use super::{BUCKET, State, listing};

/// The longest key.
const KEY_MAX_BYTES: usize = 1_024;

/// The highest number of a part.
const PART_NUMBER_MAX: usize = 10_000;

/// The longest single PUT.
const PUT_MAX_BYTES: usize = 5 * 1024 * 1024 * 1024;

pub(super) fn handle(state: &mut State, request: &Request) -> Result<Answer, Failure> {
    if request.key.len() > KEY_MAX_BYTES {
        return Err(Failure::bad_request("KeyTooLongError"));
    }
    if request.body.len() > PUT_MAX_BYTES {
        return Err(Failure::bad_request("EntityTooLarge"));
    }
    match request.kind {
        Kind::HeadBucket => Ok(empty(StatusCode::OK)),
        Kind::ListObjects => listing::objects(&state.contents, &state.manners, request),
        Kind::ListUploads => listing::uploads(&state.contents, &state.manners, request),
        Kind::ListParts => listing::parts(&mut state.contents, request),
        Kind::GetObject => get(state, request),
        Kind::HeadObject => head(state, request),
        Kind::PutObject => put(state, request),
        Kind::CopyObject => copy(state, request),
        Kind::DeleteObject => delete(state, request),
        Kind::DeleteObjects => delete_each(state, request),
        Kind::CreateUpload => Ok(create(state, request)),
        Kind::UploadPart => upload_part(state, request),
        Kind::CopyPart => copy_part(state, request),
        Kind::CompleteUpload => complete(state, request),
        Kind::AbortUpload => {
            let name = upload_name(request);
            let aborted = state.contents.uploads.remove(&name);
            aborted.ok_or_else(|| Failure::not_found("NoSuchUpload"))?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
    }
}

/// The headers that are stored with an object.
fn stored_headers(headers: &HeaderMap) -> Headers {
    let is_stored = |name: &str| {
        let about_the_object = ["content-type", "cache-control", "x-amz-storage-class"];
        about_the_object.contains(&name)
            || name.starts_with("x-amz-meta-")
            || name.starts_with("x-amz-server-side-encryption")
    };
    let names = headers.keys().map(http::HeaderName::as_str);
    let stored = names.filter(|name| is_stored(name));
    stored
        .filter_map(|name| Some((name.to_owned(), header(headers, name)?.to_owned())))
        .collect()
}

fn describe(answer: &mut Answer, object: &Object, request: &Request) {
    for (name, value) in &object.headers {
        set(answer, name, value);
    }
    if request.header("x-amz-checksum-mode") == Some("ENABLED") {
        // Kept by no server for what it does not know; here, whole objects have all of them.
        for algorithm in ALGORITHMS {
            if let Some(checksum) = checksum(algorithm, &object.bytes) {
                set(answer, &format!("x-amz-checksum-{algorithm}"), &checksum);
            }
        }
    }
    set(answer, "etag", &object.etag);
    set(answer, "last-modified", &http_date(object.written));
    set(answer, "accept-ranges", "bytes");
}

fn read<'a>(state: &'a State, request: &Request) -> Result<&'a Object, Failure> {
    let object = state.contents.get(&request.key)?;
    if let Some(etag) = request.header("if-match")
        && quoted(etag) != object.etag
    {
        return Err(Failure::precondition_failed());
    }
    if let Some(etag) = request.header("if-none-match")
        && (etag == "*" || quoted(etag) == object.etag)
    {
        return Err(Failure::new(StatusCode::NOT_MODIFIED, "NotModified"));
    }
    Ok(object)
}

fn get(state: &State, request: &Request) -> Result<Answer, Failure> {
    let object = read(state, request)?;
    let size = object.bytes.len();
    let range = request
        .header("range")
        .map_or(Range::Ignored, |text| range(text, size));
    let mut answer = match range {
        Range::Ignored => Answer::new(object.bytes.clone()),
        // "-0" is no bytes anywhere.
        Range::Outside
            if size == 0
                && state.manners.serves_the_end_of_nothing
                && request
                    .header("range")
                    .is_some_and(|text| text.starts_with("bytes=-") && text != "bytes=-0") =>
        {
            let mut answer = empty(StatusCode::PARTIAL_CONTENT);
            set(&mut answer, "content-range", "bytes 0--1/0");
            answer
        }
        Range::Outside => {
            let failure = Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
            return Err(failure.with("ActualObjectSize", size.to_string()));
        }
        Range::Bytes(first, last) => {
            let mut answer = Answer::new(object.bytes.slice(first..=last));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {first}-{last}/{size}");
            set(&mut answer, "content-range", &range);
            answer
        }
    };
    describe(&mut answer, object, request);
    Ok(answer)
}

/// What a `Range` header asks of an object.
enum Range {
    /// It is not one range, and counts as absent.
    Ignored,
    /// The object has no such bytes.
    Outside,
    /// From the first to the last of them.
    Bytes(usize, usize),
}

fn range(text: &str, size: usize) -> Range {
    match one_range(text, size) {
        None => Range::Ignored,
        Some((first, last)) if first > last || first >= size => Range::Outside,
        Some((first, last)) => Range::Bytes(first, last),
    }
}

/// The first and the last byte of the range; beyond the object, or in the wrong order, if it has no such bytes.
fn one_range(text: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let length = last.parse::<usize>().ok()?.min(size);
        return Some((size - length, size.saturating_sub(1)));
    }
    let first = first.parse::<usize>().ok()?;
    let last = match last {
        "" => u64::MAX,
        last => last.parse::<u64>().ok()?,
    };
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    if first > last {
        return None;
    }
    Some((first, last.min(size.saturating_sub(1))))
}

fn head(state: &State, request: &Request) -> Result<Answer, Failure> {
    let object = read(state, request)?;
    let mut answer = empty(StatusCode::OK);
    describe(&mut answer, object, request);
    set(
        &mut answer,
        "content-length",
        &object.bytes.len().to_string(),
    );
    Ok(answer)
}

/// Decides whether a write may happen.
fn check_write(state: &mut State, request: &Request, is_honoured: bool) -> Result<(), Failure> {
    let refuses = state.manners.keys_below_keys == KeysBelowKeys::Refused;
    if refuses && state.contents.crosses(&request.key) {
        return Err(Failure::new(StatusCode::CONFLICT, "ObjectParentIsFile"));
    }
    let condition = Condition::of(&request.headers)?;
    if condition.is_any() || !is_honoured {
        return Ok(());
    }
    let one_in = state.manners.conflict_one_in;
    if state.plans.is_one_in(one_in) {
        let code = "ConditionalRequestConflict";
        return Err(Failure::new(StatusCode::CONFLICT, code));
    }
    state.contents.check(&request.key, &condition)
}

fn put(state: &mut State, request: &Request) -> Result<Answer, Failure> {
    verify(
        &request.headers,
        &request.body,
        state.manners.wrong_checksum,
    )?;
    check_write(state, request, state.manners.conditional_writes)?;
    let (headers, now) = (stored_headers(&request.headers), state.now());
    let body = request.body.clone();
    let etag = state.contents.put(&request.key, body, headers, now);
    let mut answer = empty(StatusCode::OK);
    set(&mut answer, "etag", &etag);
    Ok(answer)
}

/// What a copy is made from: the bytes of the object, or of its range.
fn source(state: &State, request: &Request) -> Result<(bytes::Bytes, Headers), Failure> {
    let source = request.header("x-amz-copy-source").unwrap_or_default();
    let source = decoded(source)?;
    let source = source.strip_prefix('/').unwrap_or(&source);
    let key = source
        .strip_prefix(BUCKET)
        .and_then(|rest| rest.strip_prefix('/'));
    let key = key.ok_or_else(|| Failure::not_found("NoSuchBucket"))?;
    let object = state.contents.get(key)?;
    if let Some(etag) = request.header("x-amz-copy-source-if-match")
        && quoted(etag) != object.etag
    {
        return Err(Failure::precondition_failed());
    }
    let bytes = match request.header("x-amz-copy-source-range") {
        None => object.bytes.clone(),
        Some(text) => match range(text, object.bytes.len()) {
            // Here, and only here, a range must lie inside.
            Range::Bytes(first, last) if text.ends_with(&format!("-{last}")) => {
                object.bytes.slice(first..=last)
            }
            _ => return Err(Failure::invalid_argument("x-amz-copy-source-range")),
        },
    };
    Ok((bytes, object.headers.clone()))
}

fn copy(state: &mut State, request: &Request) -> Result<Answer, Failure> {
    let (bytes, headers) = source(state, request)?;
    check_write(state, request, state.manners.conditional_copies)?;
    let now = state.now();
    let etag = state.contents.put(&request.key, bytes, headers, now);
    Ok(copied("CopyObjectResult", &etag, now))
}

fn copied(element: &str, etag: &str, now: time::OffsetDateTime) -> Answer {
    let mut xml = Xml::new();
    xml.open(element);
    xml.element("LastModified", &xml_date(now));
    xml.element("ETag", etag);
    xml.close(element);
    xml.answer(StatusCode::OK)
}

fn delete(state: &mut State, request: &Request) -> Result<Answer, Failure> {
    if state.manners.conditional_deletes {
        let condition = Condition::of(&request.headers)?;
        state.contents.check(&request.key, &condition)?;
    }
    state.contents.remove(&request.key);
    Ok(empty(StatusCode::NO_CONTENT))
}

fn delete_each(state: &mut State, request: &Request) -> Result<Answer, Failure> {
    let has_checksum = request
        .headers
        .keys()
        .any(|name| name == "content-md5" || name.as_str().starts_with("x-amz-checksum-"));
    if !has_checksum {
        return Err(Failure::bad_request("InvalidRequest"));
    }
    verify(
        &request.headers,
        &request.body,
        state.manners.wrong_checksum,
    )?;
    let text = String::from_utf8_lossy(&request.body);
    let mut xml = Xml::new();
    xml.open("DeleteResult");
    for object in elements(&text, "Object") {
        if object.contains("<ETag>") && state.manners.conditional_deletes {
            return Err(Failure::not_implemented("conditions in DeleteObjects"));
        }
        for key in elements(&object, "Key") {
            state.contents.remove(&key);
            xml.open("Deleted");
            xml.element("Key", &key);
            xml.close("Deleted");
        }
    }
    xml.close("DeleteResult");
    Ok(xml.answer(StatusCode::OK))
}

fn create(state: &mut State, request: &Request) -> Answer {
    let (headers, now) = (stored_headers(&request.headers), state.now());
    let id = state.contents.begin(&request.key, headers, now);
    let mut xml = Xml::new();
    xml.open("InitiateMultipartUploadResult");
    xml.element("Bucket", BUCKET);
    xml.element("Key", &request.key);
    xml.element("UploadId", &id);
    xml.close("InitiateMultipartUploadResult");
    xml.answer(StatusCode::OK)
}

fn upload_name(request: &Request) -> UploadName {
    let id = request.parameter("uploadId").unwrap_or_default();
    (request.key.clone(), id.to_owned())
}

fn part_number(request: &Request) -> Result<usize, Failure> {
    let number = request.number("partNumber")?;
    let number = number.filter(|number| (1..=PART_NUMBER_MAX).contains(number));
    number.ok_or_else(|| Failure::invalid_argument("partNumber"))
}

fn upload_part(state: &mut State, request: &Request) -> Result<Answer, Failure> {
    verify(
        &request.headers,
        &request.body,
        state.manners.wrong_checksum,
    )?;
    let (name, number, now) = (upload_name(request), part_number(request)?, state.now());
    let body = request.body.clone();
    let etag = state.contents.put_part(&name, number, body, now)?;
    let mut answer = empty(StatusCode::OK);
    set(&mut answer, "etag", &etag);
    Ok(answer)
}

fn copy_part(state: &mut State, request: &Request) -> Result<Answer, Failure> {
    let (name, number, now) = (upload_name(request), part_number(request)?, state.now());
    state.contents.upload(&name)?;
    let (bytes, _) = source(state, request)?;
    let etag = state.contents.put_part(&name, number, bytes, now)?;
    Ok(copied("CopyPartResult", &etag, now))
}

fn complete(state: &mut State, request: &Request) -> Result<Answer, Failure> {
    let name = upload_name(request);
    if state.manners.completes_again
        && let Some(etag) = state.contents.completed(&name)
    {
        return Ok(completed(request, etag));
    }
    check_write(state, request, state.manners.conditional_writes)?;
    let text = String::from_utf8_lossy(&request.body);
    let parts = elements(&text, "Part");
    let wanted = parts.iter().map(|part| {
        let number = elements(part, "PartNumber").pop()?.parse().ok()?;
        Some((number, elements(part, "ETag").pop()?))
    });
    let wanted: Option<Vec<(usize, String)>> = wanted.collect();
    let wanted = wanted.ok_or_else(|| Failure::bad_request("MalformedXML"))?;
    if wanted.len() > state.manners.parts_max {
        let failure = Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        return Err(failure);
    }
    let (bytes, etag) = state.contents.assemble(&name, &wanted)?;
    // What the parts say of themselves must be so as well.
    for (part, (number, _)) in parts.iter().zip(&wanted) {
        for (element, algorithm) in [("ChecksumCRC32", "crc32"), ("ChecksumSHA256", "sha256")] {
            let expected = elements(part, element).pop();
            let part = &state.contents.upload(&name)?.parts[number];
            if expected.is_some() && expected != checksum(algorithm, &part.bytes) {
                return Err(Failure::bad_request("InvalidPart"));
            }
        }
    }
    // Of the whole object; one made of checksums (COMPOSITE) is known by its number of parts.
    let is_composite = |value: &http::HeaderValue| value.as_bytes().contains(&b'-');
    let checksums = request.headers.iter();
    let checksums = checksums.filter(|(name, value)| {
        name.as_str().starts_with("x-amz-checksum-") && !is_composite(value)
    });
    let checksums = checksums.map(|(name, value)| (name.clone(), value.clone()));
    verify(&checksums.collect(), &bytes, state.manners.wrong_checksum)?;
    let now = state.now();
    state.contents.complete(&name, bytes, &etag, now)?;
    Ok(completed(request, &etag))
}

fn completed(request: &Request, etag: &str) -> Answer {
    let mut xml = Xml::new();
    xml.open("CompleteMultipartUploadResult");
    xml.element("Bucket", BUCKET);
    xml.element("Key", &request.key);
    xml.element("ETag", etag);
    xml.close("CompleteMultipartUploadResult");
    xml.answer(StatusCode::OK)
}
