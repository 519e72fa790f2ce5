//! Buffers for what is read: made once, filled many times, never cleared in between.
//!
//! Must not know files. Invariant: a buffer is used by one reader at a time, and comes back when the last part of it that was
//! handed out is gone.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// How long a buffer is.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// How many wait for their next use; what many readers needed at once is given back to the system.
const KEPT_MAX: usize = 32;

/// The buffers that are not in use.
#[derive(Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Box<[u8]>>>,
}

/// A buffer in use.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    buffers: Arc<Buffers>,
}

impl Buffers {
    /// A buffer with anything in it.
    pub(super) fn take(self: &Arc<Self>) -> Buffer {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = { free }.pop();
        Buffer {
            // Memory that the system gives is clear, and takes room only once it is used.
            bytes: bytes.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice()),
            filled: 0,
            buffers: Arc::clone(self),
        }
    }
}

impl Buffer {
    /// The first `count` bytes of it, or all, to be filled.
    pub(super) fn front(&mut self, count: usize) -> &mut [u8] {
        let count = count.min(self.bytes.len());
        let (front, _) = self.bytes.split_at_mut(count);
        front
    }

    /// The first `count` bytes as content.
    pub(super) fn filled(mut self, count: usize) -> Bytes {
        self.filled = count;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or(&self.bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let free = self.buffers.free.lock();
        let mut free = free.unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT_MAX {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_part_is_gone_and_never_before() {
        let buffers = Arc::new(Buffers::default());
        let kept = || buffers.free.lock().unwrap().len();
        let mut buffer = buffers.take();
        buffer.front(4).copy_from_slice(b"abcd");
        let content = buffer.filled(4);
        let part = content.slice(1..3);
        drop(content);
        assert_eq!(kept(), 0);
        let mut other = buffers.take();
        other.front(4).copy_from_slice(b"efgh");
        assert_eq!(part, "bc");
        drop(part);
        assert_eq!(kept(), 1);
        let many: Vec<Buffer> = (0..=KEPT_MAX).map(|_| buffers.take()).collect();
        drop((other, many));
        assert_eq!(kept(), KEPT_MAX);
    }
}
