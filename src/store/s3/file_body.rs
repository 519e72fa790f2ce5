//! The bytes of files as the body of a request, in pieces, so that memory does not depend on their length.
//!
//! Must not know where they are sent. Invariant: the body has exactly the length that it says, or ends in an error.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

use super::requests::Body;

/// How much is read at once: a request in flight holds two of these.
const PIECE_BYTES: u64 = 256 * 1024;

/// The first bytes of each file, as many as it is given with, one file after the other; blocks.
pub(super) fn body_of(files: &[(PathBuf, u64)]) -> io::Result<Body> {
    let files = files
        .iter()
        .map(|(path, length_bytes)| Ok((Arc::new(File::open(path)?), *length_bytes)));
    let files: VecDeque<(Arc<File>, u64)> = files.collect::<io::Result<_>>()?;
    let size_bytes = files.iter().map(|(_, length_bytes)| length_bytes).sum();
    Ok(Body::streamed(size_bytes, move || {
        SdkBody::from_body_1_x(FileBody {
            files: files.clone(),
            position_bytes: 0,
            left_bytes: size_bytes,
            reading: None,
        })
    }))
}

struct FileBody {
    /// Those that are still to be read; the first from `position_bytes` on.
    files: VecDeque<(Arc<File>, u64)>,
    position_bytes: u64,
    /// What was not given away yet.
    left_bytes: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileBody {
    /// Begins to read the next piece; `None` at the end.
    fn read_on(&mut self) -> Option<JoinHandle<io::Result<Bytes>>> {
        loop {
            let (file, length_bytes) = self.files.front()?;
            let left = length_bytes - self.position_bytes;
            if left == 0 {
                self.files.pop_front();
                self.position_bytes = 0;
                continue;
            }
            let (file, position_bytes) = (Arc::clone(file), self.position_bytes);
            let piece_bytes = left.min(PIECE_BYTES);
            self.position_bytes += piece_bytes;
            // At most a piece.
            let piece_bytes = usize::try_from(piece_bytes).unwrap_or_default();
            return Some(spawn_blocking(move || {
                let mut piece = vec![0; piece_bytes];
                file.read_exact_at(&mut piece, position_bytes)?;
                Ok(Bytes::from(piece))
            }));
        }
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let reading = self.reading.take().or_else(|| self.read_on());
        let Some(mut reading) = reading else {
            return Poll::Ready(None);
        };
        let Poll::Ready(read) = Pin::new(&mut reading).poll(context) else {
            self.reading = Some(reading);
            return Poll::Pending;
        };
        let piece = match read.map_err(io::Error::other).flatten() {
            Ok(piece) => piece,
            Err(error) => {
                self.files.clear();
                return Poll::Ready(Some(Err(error)));
            }
        };
        self.left_bytes -= piece.len() as u64;
        self.reading = self.read_on();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}
