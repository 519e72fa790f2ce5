//! What disks are made of here: bytes of any size that a number repeats. Only a piece of them is ever in memory.

use std::ops::Range;
use std::sync::LazyLock;

use boathouse::oci::{Algorithm, Digest, Hasher};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};

use crate::random::Random;

const PIECE_BYTES: usize = 64 * 1024;

static NOISE: LazyLock<Bytes> = LazyLock::new(|| Random::of_seed(0).bytes(PIECE_BYTES));

/// A blob that another with the same number and size equals.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) number: u64,
    pub(super) size_bytes: u64,
    pub(super) digest: Digest,
}

impl Blob {
    pub(super) fn new(number: u64, size_bytes: u64) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut at = 0;
        while at < size_bytes {
            let piece = piece(number, at..size_bytes);
            hasher.update(&piece);
            at += piece.len() as u64;
        }
        Self {
            number,
            size_bytes,
            digest: hasher.finish(),
        }
    }

    /// The bytes of `range`, in pieces.
    pub(super) fn stream(&self, range: Range<u64>) -> impl Stream<Item = Bytes> + Send + 'static {
        let number = self.number;
        stream::unfold(range, move |range| async move {
            if range.is_empty() {
                return None;
            }
            let piece = piece(number, range.clone());
            let next = range.start + piece.len() as u64..range.end;
            Some((piece, next))
        })
    }

    /// The first bytes of `range`: at least one, unless it is empty.
    pub(super) fn piece(&self, range: Range<u64>) -> Bytes {
        piece(self.number, range.start..range.end.min(self.size_bytes))
    }
}

/// The same noise everywhere, but for the number and the place at each piece's start.
fn piece(number: u64, range: Range<u64>) -> Bytes {
    let index = range.start / PIECE_BYTES as u64;
    let within = usize::try_from(range.start % PIECE_BYTES as u64).expect("less than a piece");
    let length = usize::try_from(range.end - range.start).unwrap_or(PIECE_BYTES);
    let mut piece = BytesMut::from(&NOISE[..]);
    piece[..8].copy_from_slice(&number.to_le_bytes());
    piece[8..16].copy_from_slice(&index.to_le_bytes());
    let end = PIECE_BYTES.min(within.saturating_add(length));
    piece.freeze().slice(within..end)
}
