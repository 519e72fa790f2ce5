//! What the bucket holds: objects and multipart uploads. Conditions are decided here, in the same moment as the write.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use http::HeaderMap;
use time::OffsetDateTime;

use super::answer::Failure;
use super::checksums::sha256_hex;
use super::request::header;

/// The least length of a part that is not the last one.
const PART_MIN_BYTES: usize = 5 * 1024 * 1024;

/// Headers as they were sent.
pub(super) type Headers = Vec<(String, String)>;

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    /// With its quotation marks.
    pub(super) etag: String,
    pub(super) written: OffsetDateTime,
    /// What is answered with the object.
    pub(super) headers: Headers,
}

#[derive(Debug)]
pub(super) struct Part {
    pub(super) bytes: Bytes,
    pub(super) etag: String,
    pub(super) written: OffsetDateTime,
}

#[derive(Debug)]
pub(super) struct Upload {
    pub(super) begun: OffsetDateTime,
    pub(super) parts: BTreeMap<usize, Part>,
    headers: Headers,
}

/// Key and identifier, in the order of their list.
pub(super) type UploadName = (String, String);

#[derive(Debug, Default)]
pub(super) struct Contents {
    objects: BTreeMap<String, Object>,
    pub(super) uploads: BTreeMap<UploadName, Upload>,
    /// The ETag of what was made of an upload.
    completed: BTreeMap<UploadName, String>,
    uploads_begun: u64,
}

/// What is written only if the key holds something, or nothing.
#[derive(Debug, Default)]
pub(super) struct Condition {
    is_absent: bool,
    etag: Option<String>,
}

impl Condition {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let is_absent = match header(headers, "if-none-match") {
            None => false,
            Some("*") => true,
            Some(_) => return Err(Failure::not_implemented("If-None-Match with an ETag here")),
        };
        let etag = header(headers, "if-match").map(quoted);
        Ok(Self { is_absent, etag })
    }

    pub(super) fn is_any(&self) -> bool {
        !self.is_absent && self.etag.is_none()
    }

    fn check(&self, existing: Option<&Object>) -> Result<(), Failure> {
        if self.is_absent && existing.is_some() {
            return Err(Failure::precondition_failed());
        }
        match (&self.etag, existing) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Failure::not_found("NoSuchKey")),
            (Some(etag), Some(object)) if *etag == object.etag => Ok(()),
            (Some(_), Some(_)) => Err(Failure::precondition_failed()),
        }
    }
}

/// The same for the same bytes, as clients must expect. Real servers take the MD5, which an unoptimised build computes slowly.
fn etag(bytes: &[u8]) -> String {
    let hash = sha256_hex(bytes);
    quoted(hash.get(..32).unwrap_or(&hash))
}

/// An ETag with its quotation marks, as some clients leave them out.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{}\"", etag.trim_matches('"'))
}

impl Contents {
    pub(super) fn everything(&self) -> BTreeMap<String, Bytes> {
        let objects = self.objects.iter();
        let objects = objects.map(|(key, object)| (key.clone(), object.bytes.clone()));
        objects.collect()
    }

    pub(super) fn content(&self, key: &str) -> Option<Bytes> {
        Some(self.objects.get(key)?.bytes.clone())
    }

    pub(super) fn header(&self, key: &str, name: &str) -> Option<String> {
        let headers = &self.objects.get(key)?.headers;
        let header = headers.iter().find(|(other, _)| other == name)?;
        Some(header.1.clone())
    }

    pub(super) fn open_uploads(&self) -> Vec<String> {
        self.uploads.keys().map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn remove_where(&mut self, is_removed: impl Fn(&str) -> bool) -> bool {
        let before = self.objects.len();
        self.objects.retain(|key, _| !is_removed(key));
        before > self.objects.len()
    }

    pub(super) fn get(&self, key: &str) -> Result<&Object, Failure> {
        let object = self.objects.get(key);
        object.ok_or_else(|| Failure::not_found("NoSuchKey").with("Key", key))
    }

    /// Whether there is a key that `key` is below, or one below it.
    pub(super) fn crosses(&self, key: &str) -> bool {
        let below = format!("{key}/");
        let next = self.objects.range(below.clone()..).next();
        next.is_some_and(|(other, _)| other.starts_with(&below)) || self.is_below_a_key(key)
    }

    pub(super) fn is_below_a_key(&self, key: &str) -> bool {
        let above = key.match_indices('/').filter_map(|(at, _)| key.get(..at));
        above
            .into_iter()
            .any(|above| self.objects.contains_key(above))
    }

    /// The objects below `prefix`, in the order of their keys, from this key on.
    pub(super) fn below<'a>(
        &'a self,
        prefix: &'a str,
        from: Bound<&'a str>,
    ) -> impl Iterator<Item = (&'a String, &'a Object)> {
        let objects = self.objects.range::<str, _>((from, Bound::Unbounded));
        objects
            .skip_while(move |(key, _)| key.as_str() < prefix)
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Writes an object without a condition; returns its ETag.
    pub(super) fn put(
        &mut self,
        key: &str,
        bytes: Bytes,
        headers: Headers,
        now: OffsetDateTime,
    ) -> String {
        let etag = etag(&bytes);
        self.write(key, bytes, &etag, headers, now);
        etag
    }

    fn write(
        &mut self,
        key: &str,
        bytes: Bytes,
        etag: &str,
        headers: Headers,
        now: OffsetDateTime,
    ) {
        let object = Object {
            bytes,
            etag: etag.to_owned(),
            written: now,
            headers,
        };
        self.objects.insert(key.to_owned(), object);
    }

    pub(super) fn check(&self, key: &str, condition: &Condition) -> Result<(), Failure> {
        condition.check(self.objects.get(key))
    }

    /// Removes an object, if there is one.
    pub(super) fn remove(&mut self, key: &str) {
        self.objects.remove(key);
    }

    pub(super) fn begin(&mut self, key: &str, headers: Headers, now: OffsetDateTime) -> String {
        self.uploads_begun += 1;
        let id = format!("upload-{:06}", self.uploads_begun);
        let upload = Upload {
            begun: now,
            parts: BTreeMap::new(),
            headers,
        };
        self.uploads.insert((key.to_owned(), id.clone()), upload);
        id
    }

    pub(super) fn upload(&mut self, name: &UploadName) -> Result<&mut Upload, Failure> {
        let upload = self.uploads.get_mut(name);
        upload.ok_or_else(|| Failure::not_found("NoSuchUpload"))
    }

    /// Takes a part; returns its ETag. A part of the same number is replaced.
    pub(super) fn put_part(
        &mut self,
        name: &UploadName,
        number: usize,
        bytes: Bytes,
        now: OffsetDateTime,
    ) -> Result<String, Failure> {
        let etag = etag(&bytes);
        let part = Part {
            bytes,
            etag: etag.clone(),
            written: now,
        };
        self.upload(name)?.parts.insert(number, part);
        Ok(etag)
    }

    /// The ETag of what an upload became, if it was completed.
    pub(super) fn completed(&self, name: &UploadName) -> Option<&str> {
        self.completed.get(name).map(String::as_str)
    }

    /// The bytes and the ETag of an upload's named parts, with the number of parts.
    pub(super) fn assemble(
        &mut self,
        name: &UploadName,
        wanted: &[(usize, String)],
    ) -> Result<(Bytes, String), Failure> {
        let upload = self.upload(name)?;
        if wanted.is_empty() {
            return Err(Failure::bad_request("MalformedXML"));
        }
        let is_ascending = wanted.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !is_ascending {
            return Err(Failure::bad_request("InvalidPartOrder"));
        }
        let (mut bytes, mut hashes) = (Vec::new(), Vec::new());
        for (place, (number, etag)) in wanted.iter().enumerate() {
            let part = upload.parts.get(number);
            let part = part.filter(|part| part.etag == quoted(etag));
            let part = part.ok_or_else(|| Failure::bad_request("InvalidPart"))?;
            if part.bytes.len() < PART_MIN_BYTES && place + 1 < wanted.len() {
                return Err(Failure::bad_request("EntityTooSmall"));
            }
            bytes.extend_from_slice(&part.bytes);
            hashes.extend_from_slice(part.etag.as_bytes());
        }
        let whole = etag(&hashes);
        let etag = format!("{}-{}", whole.trim_matches('"'), wanted.len());
        Ok((bytes.into(), quoted(&etag)))
    }

    /// Makes an object of an upload.
    pub(super) fn complete(
        &mut self,
        name: &UploadName,
        bytes: Bytes,
        etag: &str,
        now: OffsetDateTime,
    ) -> Result<(), Failure> {
        let upload = self.uploads.remove(name);
        let upload = upload.ok_or_else(|| Failure::not_found("NoSuchUpload"))?;
        self.write(&name.0, bytes, etag, upload.headers, now);
        self.completed.insert(name.clone(), etag.to_owned());
        Ok(())
    }
}
