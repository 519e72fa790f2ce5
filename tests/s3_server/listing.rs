//! Lists of objects, of uploads and of parts, in pages.

use std::ops::Bound;

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer::{Answer, Failure, Xml, xml_date};
use super::contents::{Contents, Object};
use super::manners::{KeysBelowKeys, Manners};
use super::request::Request;

/// The most entries of one page.
const PAGE_MAX: usize = 1_000;

const NOT_IN_URLS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

enum Entry<'a> {
    Object(&'a str, &'a Object),
    Group(String),
}

impl Entry<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Object(key, _) => key,
            Self::Group(group) => group,
        }
    }
}

/// How names are written, as the request asks.
fn encoding(request: &Request) -> Result<impl Fn(&str) -> String + use<>, Failure> {
    let is_url = match request.parameter("encoding-type") {
        None => false,
        Some("url") => true,
        Some(_) => return Err(Failure::invalid_argument("encoding-type")),
    };
    Ok(move |name: &str| {
        if is_url {
            utf8_percent_encode(name, NOT_IN_URLS).to_string()
        } else {
            name.to_owned()
        }
    })
}

/// `ListObjectsV2`
pub(super) fn objects(
    contents: &Contents,
    manners: &Manners,
    request: &Request,
) -> Result<Answer, Failure> {
    let encode = encoding(request)?;
    let page_max = request
        .number("max-keys")?
        .unwrap_or(PAGE_MAX)
        .min(PAGE_MAX);
    let prefix = request.parameter("prefix").unwrap_or_default();
    let delimiter = request
        .parameter("delimiter")
        .filter(|text| !text.is_empty());
    let token = match request.parameter("continuation-token") {
        None => None,
        Some(token) => {
            let decoded = BASE64URL_NOPAD.decode(token.as_bytes()).ok();
            let decoded = decoded.and_then(|token| String::from_utf8(token).ok());
            Some(decoded.ok_or_else(|| Failure::invalid_argument("continuation-token"))?)
        }
    };
    // A group that a page ended with is not shown again on the next one.
    let skips_group = token.is_some() || manners.start_after_skips_group;
    let start_after = request.parameter("start-after");
    let after = token.as_deref().or(start_after).unwrap_or_default();

    let mut page: Vec<Entry<'_>> = Vec::new();
    let mut is_truncated = false;
    for (key, object) in contents.below(prefix, Bound::Excluded(after)) {
        let is_hidden = manners.keys_below_keys == KeysBelowKeys::Hidden;
        if is_hidden && contents.is_below_a_key(key) {
            continue;
        }
        let rest = key.strip_prefix(prefix).unwrap_or_default();
        let group = delimiter.and_then(|delimiter| {
            let (group, _) = rest.split_once(delimiter)?;
            Some(format!("{prefix}{group}{delimiter}"))
        });
        let entry = match group {
            Some(group) if skips_group && group == after => continue,
            Some(group) => Entry::Group(group),
            None => Entry::Object(key, object),
        };
        if page.last().is_some_and(|last| last.name() == entry.name()) {
            continue;
        }
        if page.len() == page_max {
            is_truncated = true;
            break;
        }
        page.push(entry);
    }

    let mut xml = Xml::new();
    xml.open("ListBucketResult");
    xml.element("Name", super::BUCKET);
    xml.element("Prefix", &encode(prefix));
    xml.element("KeyCount", &page.len().to_string());
    xml.element("MaxKeys", &page_max.to_string());
    xml.element("IsTruncated", &is_truncated.to_string());
    if let (true, Some(last)) = (is_truncated, page.last()) {
        let token = BASE64URL_NOPAD.encode(last.name().as_bytes());
        xml.element("NextContinuationToken", &token);
    }
    for entry in &page {
        match entry {
            Entry::Object(key, object) => {
                xml.open("Contents");
                xml.element("Key", &encode(key));
                xml.element("LastModified", &xml_date(object.written));
                xml.element("ETag", &object.etag);
                xml.element("Size", &object.bytes.len().to_string());
                xml.element("StorageClass", "STANDARD");
                xml.close("Contents");
            }
            Entry::Group(group) => {
                xml.open("CommonPrefixes");
                xml.element("Prefix", &encode(group));
                xml.close("CommonPrefixes");
            }
        }
    }
    xml.close("ListBucketResult");
    Ok(xml.answer(StatusCode::OK))
}

/// `ListMultipartUploads`
pub(super) fn uploads(
    contents: &Contents,
    manners: &Manners,
    request: &Request,
) -> Result<Answer, Failure> {
    if request.parameter("delimiter").is_some() {
        return Err(Failure::not_implemented("a delimiter here"));
    }
    let encode = encoding(request)?;
    let page_max = request
        .number("max-uploads")?
        .unwrap_or(PAGE_MAX)
        .min(PAGE_MAX);
    let prefix = request.parameter("prefix").unwrap_or_default();
    let key_marker = request.parameter("key-marker").unwrap_or_default();
    let id_marker = request.parameter("upload-id-marker").unwrap_or_default();
    let is_listed = |(key, id): (&str, &str)| {
        if !manners.uploads_by_prefix {
            return prefix.is_empty() || key == prefix;
        }
        let is_after = match id_marker {
            "" => key > key_marker,
            id_marker => (key, id) > (key_marker, id_marker),
        };
        key.starts_with(prefix) && is_after
    };
    let names = contents.uploads.keys();
    let mut names: Vec<_> = names.filter(|(key, id)| is_listed((key, id))).collect();
    let is_truncated = manners.uploads_by_prefix && names.len() > page_max;
    if is_truncated {
        names.truncate(page_max);
    }

    let mut xml = Xml::new();
    xml.open("ListMultipartUploadsResult");
    xml.element("Bucket", super::BUCKET);
    xml.element("MaxUploads", &page_max.to_string());
    xml.element("IsTruncated", &is_truncated.to_string());
    if let (true, Some((key, id))) = (is_truncated, names.last()) {
        xml.element("NextKeyMarker", &encode(key));
        xml.element("NextUploadIdMarker", id);
    }
    for name in names {
        xml.open("Upload");
        xml.element("Key", &encode(&name.0));
        xml.element("UploadId", &name.1);
        if let Some(upload) = contents.uploads.get(name) {
            xml.element("Initiated", &xml_date(upload.begun));
        }
        xml.close("Upload");
    }
    xml.close("ListMultipartUploadsResult");
    Ok(xml.answer(StatusCode::OK))
}

/// `ListParts`
pub(super) fn parts(contents: &mut Contents, request: &Request) -> Result<Answer, Failure> {
    let page_max = request
        .number("max-parts")?
        .unwrap_or(PAGE_MAX)
        .min(PAGE_MAX);
    let after = request.number("part-number-marker")?.unwrap_or(0);
    let id = request.parameter("uploadId").unwrap_or_default();
    let name = (request.key.clone(), id.to_owned());
    let parts = &contents.upload(&name)?.parts;
    let mut listed: Vec<_> = parts.range(after + 1..).collect();
    let is_truncated = listed.len() > page_max;
    listed.truncate(page_max);

    let mut xml = Xml::new();
    xml.open("ListPartsResult");
    xml.element("Bucket", super::BUCKET);
    xml.element("Key", &request.key);
    xml.element("UploadId", id);
    xml.element("MaxParts", &page_max.to_string());
    xml.element("IsTruncated", &is_truncated.to_string());
    if let (true, Some((number, _))) = (is_truncated, listed.last()) {
        xml.element("NextPartNumberMarker", &number.to_string());
    }
    for (number, part) in listed {
        xml.open("Part");
        xml.element("PartNumber", &number.to_string());
        xml.element("LastModified", &xml_date(part.written));
        xml.element("ETag", &part.etag);
        xml.element("Size", &part.bytes.len().to_string());
        xml.close("Part");
    }
    xml.close("ListPartsResult");
    Ok(xml.answer(StatusCode::OK))
}
