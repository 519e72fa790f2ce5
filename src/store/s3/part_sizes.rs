//! How long the parts of an upload are.
//!
//! An object has 10,000 parts at most, and is up to 5 TiB long, so parts must grow; and they must grow early, since some
//! servers cannot complete a thousand (`docs/storage-layout.md`). Must not know where parts are sent. Invariants: any 10,000 parts
//! hold 5 TiB, also where each is as short as it may be; every part but the last is longer than S3 demands.

use super::multipart::{PART_BYTES_MAX, PART_BYTES_MIN};

/// After so many parts they are twice as long: 63 GiB have 384 parts, if the first has 16 MiB.
const DOUBLED_AFTER_PARTS: u16 = 64;

/// Longer parts would only cost: a file that long is in the spool, and is sent again as a whole after an error.
const PLANNED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The shortest part where the spool is full: S3 demands 5 MiB.
const SHORT_BYTES: u64 = 8 * 1024 * 1024;

/// How many parts may be short: a tenth of all.
const SHORT_PARTS_MAX: u16 = 1000;

/// What is left is cut into so many parts at least, if the length is known: the last one is short, since the client waits for
/// it.
const LAST_PARTS: u64 = 8;

/// How long part `number` (from 1) is where nothing speaks against it. `first_bytes` is the length of the first parts, and
/// `left_bytes` what the client has still to send, if that is known.
pub(super) fn planned(first_bytes: u64, number: u16, left_bytes: Option<u64>) -> u64 {
    let first_bytes = first_bytes.clamp(PART_BYTES_MIN, PART_BYTES_MAX);
    let doublings = u32::from(number.saturating_sub(1) / DOUBLED_AFTER_PARTS);
    let grown = first_bytes.saturating_mul(1_u64.checked_shl(doublings).unwrap_or(u64::MAX));
    let planned = grown.min(PLANNED_BYTES_MAX.max(first_bytes));
    match left_bytes {
        Some(left_bytes) => planned.min((left_bytes / LAST_PARTS).max(first_bytes)),
        None => planned,
    }
}

/// How long it is at least where the spool is full.
pub(super) fn shortest(first_bytes: u64, number: u16) -> u64 {
    let planned = planned(first_bytes, number, None);
    if number > SHORT_PARTS_MAX {
        return planned;
    }
    planned.min(SHORT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::s3::multipart::PARTS_MAX;

    const MIB: u64 = 1024 * 1024;
    const TIB: u64 = 1024 * 1024 * MIB;

    #[test]
    fn any_ten_thousand_parts_hold_five_tebibytes() {
        for first_bytes in [PART_BYTES_MIN, 16 * MIB, 64 * MIB] {
            let all = (1..=PARTS_MAX).map(|number| shortest(first_bytes, number));
            let all: u64 = all.sum();
            assert!(all >= 5 * TIB, "{first_bytes}: {all}");
            let longest = (1..=PARTS_MAX).map(|number| planned(first_bytes, number, None));
            assert!(longest.max() <= Some(PART_BYTES_MAX));
            assert!((1..=PARTS_MAX).all(|number| shortest(first_bytes, number) >= PART_BYTES_MIN));
        }
    }

    #[test]
    fn a_large_image_has_few_parts() {
        let parts_of = |mut left_bytes: u64, is_known: bool| {
            let mut number = 0;
            while left_bytes > 0 {
                number += 1;
                let known = is_known.then_some(left_bytes);
                left_bytes = left_bytes.saturating_sub(planned(16 * MIB, number, known));
            }
            number
        };
        assert_eq!(parts_of(1024 * MIB, false), 64);
        for is_known in [false, true] {
            assert!(parts_of(58_000_000_000, is_known) <= 400);
            // Short last parts are some 40 of them.
            assert!(parts_of(100 * 1024 * MIB, is_known) <= 480);
        }
        // The last one is short where the length is known.
        assert_eq!(planned(16 * MIB, 300, Some(100 * MIB)), 16 * MIB);
    }
}
