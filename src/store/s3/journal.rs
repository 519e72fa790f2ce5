//! What the bucket has of an upload, in a small file beside its segments.
//!
//! Each line is a fact that stays true: which upload in parts was begun, where a segment was cut, with the hashes up to there,
//! which part the bucket has. So a file that lost its end, in a crash or a power cut, is an earlier one, from which the upload goes on. Must not
//! know how parts are sent. Invariant: a fact is written before anything is removed or done that relies on it.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::multipart::{Multipart, Part};
use crate::oci::{Algorithm, Digest, Hasher};
use crate::store::Version;
use crate::store::filesystem::session::Segment;

/// Its name in the directory of the session.
const FILE_NAME: &str = "boathouse.parts";

/// The longest that is read: 10,000 segments and parts.
const LENGTH_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What an upload in parts is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The key of the blob that the client has named.
    Blob(Digest),
    /// The key of the session, from which it is copied when the client names a digest.
    Session,
    /// The key of the blob, for a copy from the session's key.
    Copy,
}

/// One line.
#[derive(Debug, Clone)]
pub(super) enum Fact {
    /// An upload in parts was begun. The last one for a blob or for the session is the one that segments are sent to.
    Begun(Multipart, Target),
    /// A segment was cut.
    Cut(Segment),
    /// The bucket has a segment as this part.
    Sent(Part),
    /// The key of the session holds all parts.
    Joined,
    /// The session has ended. What was begun for it is still to be given up.
    Ended,
}

/// The file, open to be appended to.
pub(super) struct Journal(Mutex<File>);

impl Journal {
    /// Opens the journal in `directory`, and gives what is in it; blocks.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Vec<Fact>)> {
        let (facts, length_bytes) = read(directory)?;
        let options = OpenOptions::new().create(true).append(true).to_owned();
        let file = options.open(directory.join(FILE_NAME))?;
        // What follows a damaged line would not be read.
        file.set_len(length_bytes)?;
        Ok((Self(Mutex::new(file)), facts))
    }

    /// Appends a line; blocks.
    pub(super) fn append(&self, fact: &Fact) -> io::Result<()> {
        let text = fact.encode();
        let line = format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()));
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
    }
}

/// What is in the journal of `directory`, and the length of that in bytes; blocks.
pub(super) fn read(directory: &Path) -> io::Result<(Vec<Fact>, u64)> {
    let path = directory.join(FILE_NAME);
    let bytes = match fs::metadata(&path) {
        Ok(about) if about.len() > LENGTH_BYTES_MAX => {
            return Err(io::Error::other("the list of parts is too long"));
        }
        Ok(_) => fs::read(&path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let (mut facts, mut length_bytes) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Some(fact) = decode_line(line) else {
            break;
        };
        facts.push(fact);
        length_bytes += line.len() as u64;
    }
    Ok((facts, length_bytes))
}

fn decode_line(line: &[u8]) -> Option<Fact> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (sum, text) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (sum == crc32fast::hash(text.as_bytes())).then(|| Fact::decode(text))?
}

impl Fact {
    fn encode(&self) -> String {
        match self {
            Self::Begun(Multipart { key, id }, target) => {
                let target = match target {
                    Target::Blob(digest) => digest.to_string(),
                    Target::Session => "session".to_owned(),
                    Target::Copy => "copy".to_owned(),
                };
                format!("begun {target} {key} {id}")
            }
            Self::Cut(segment) => {
                let Segment {
                    start_bytes,
                    length_bytes,
                    checksum,
                    hashers,
                } = segment;
                let mut text = format!("cut {start_bytes} {length_bytes} {checksum}");
                for hasher in hashers {
                    let state = BASE64.encode(hasher.state());
                    // Writing into a String cannot fail.
                    let _ = write!(text, " {} {state}", hasher.algorithm());
                }
                text
            }
            Self::Sent(part) => {
                let Part {
                    number,
                    version,
                    size_bytes,
                } = part;
                format!("sent {number} {size_bytes} {}", version.0)
            }
            Self::Joined => "joined".to_owned(),
            Self::Ended => "ended".to_owned(),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let fact = match words.next()? {
            "begun" => {
                let target = match words.next()? {
                    "session" => Target::Session,
                    "copy" => Target::Copy,
                    digest => Target::Blob(digest.parse().ok()?),
                };
                let (key, id) = (words.next()?.to_owned(), words.next()?.to_owned());
                Self::Begun(Multipart { key, id }, target)
            }
            "cut" => {
                let (start_bytes, length_bytes) =
                    (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let checksum = words.next()?.parse().ok()?;
                let mut hashers = Vec::new();
                while let Some(algorithm) = words.next() {
                    let algorithm = Algorithm::from_str(algorithm).ok()?;
                    let state = BASE64.decode(words.next()?).ok()?;
                    hashers.push(Hasher::from_state(algorithm, &state)?);
                }
                Self::Cut(Segment {
                    start_bytes,
                    length_bytes,
                    checksum,
                    hashers,
                })
            }
            "sent" => {
                let (number, size_bytes) =
                    (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let version = Version(words.next()?.to_owned());
                Self::Sent(Part {
                    number,
                    version,
                    size_bytes,
                })
            }
            "joined" => Self::Joined,
            "ended" => Self::Ended,
            _ => return None,
        };
        words.next().is_none().then_some(fact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Vec<Fact> {
        let digest = Digest::of(Algorithm::Sha256, b"abc");
        let multipart = |key: &str| Multipart {
            key: key.to_owned(),
            id: "an-id.of~MinIO==".to_owned(),
        };
        let segment = Segment {
            start_bytes: 16,
            length_bytes: 5,
            checksum: 7,
            hashers: vec![
                Hasher::new(Algorithm::Sha256),
                Hasher::new(Algorithm::Sha512),
            ],
        };
        vec![
            Fact::Begun(multipart("a/b"), Target::Blob(digest)),
            Fact::Begun(multipart("a/c"), Target::Session),
            Fact::Begun(multipart("a/b"), Target::Copy),
            Fact::Cut(segment),
            Fact::Sent(Part {
                number: 3,
                version: Version("\"abc-3\"".to_owned()),
                size_bytes: 5,
            }),
            Fact::Joined,
            Fact::Ended,
        ]
    }

    #[test]
    fn a_journal_that_is_cut_anywhere_is_an_earlier_one() {
        let directory = tempfile::tempdir().unwrap();
        let (journal, nothing) = Journal::open(directory.path()).unwrap();
        assert!(nothing.is_empty());
        let mut ends = vec![0];
        let path = directory.path().join(FILE_NAME);
        for fact in facts() {
            journal.append(&fact).unwrap();
            ends.push(fs::metadata(&path).unwrap().len());
        }
        let whole = fs::read(&path).unwrap();
        let expected: Vec<String> = facts().iter().map(Fact::encode).collect();
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (journal, found) = Journal::open(directory.path()).unwrap();
            let found: Vec<String> = found.iter().map(Fact::encode).collect();
            let lines = ends.iter().filter(|end| **end <= length as u64).count() - 1;
            assert_eq!(found, expected[..lines], "{length}");
            // What is appended then is read.
            journal.append(&Fact::Ended).unwrap();
            let (found, _) = read(directory.path()).unwrap();
            assert_eq!(found.len(), lines + 1, "{length}");
        }
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let (found, _) = read(directory.path()).unwrap();
            assert!(found.len() < expected.len(), "byte {position}");
        }
    }
}
