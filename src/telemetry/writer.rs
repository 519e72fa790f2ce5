//! The queue of log lines, and the thread that writes them to stderr.
//!
//! Code that logs puts a line into the queue and continues; one thread writes. So a log that cannot be written (a full
//! disk, a closed pipe) or is not read (a full pipe) blocks nothing: lines are lost and counted, and the number is logged
//! when writing works again. Must not know what is in a line. Invariants: queueing a line neither fails nor waits; the
//! queue has limited memory; a line is written whole or counted as lost.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// The size of the queue: a second of a busy registry's access log.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// The maximum of bytes in one write, if many lines wait.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// How long the end of the program waits for the last lines. A reader that has taken none by then never will.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// A message to the writing thread.
enum Message {
    /// A line, with its newline.
    Line(Vec<u8>),
    /// Answered when all earlier lines have been written or lost.
    Flush(SyncSender<()>),
}

/// Shared by the code that logs and the writing thread.
#[derive(Debug, Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    lost_lines: AtomicU64,
}

/// The queue's end for code that logs.
#[derive(Clone)]
pub(super) struct LogWriter {
    sender: Arc<Mutex<Sender<Message>>>,
    counts: Arc<Counts>,
}

impl LogWriter {
    /// Starts the thread that writes to `sink`. After a loss, it calls `report` with the number of lost lines when a line
    /// is written again.
    pub(super) fn start(
        sink: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let counts = Arc::new(Counts::default());
        let sinking = Sinking {
            sink,
            counts: Arc::clone(&counts),
            is_torn: false,
            reported_lines: 0,
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || sinking.run(&receiver, &report))?;
        Ok(Self {
            sender: Arc::new(Mutex::new(sender)),
            counts,
        })
    }

    /// Puts one or several lines into the queue.
    pub(super) fn hand_over(&self, lines: &[u8]) {
        let waiting = &self.counts.waiting_bytes;
        let before = waiting.fetch_add(lines.len(), Ordering::Relaxed);
        let is_sent = before < WAITING_BYTES_MAX && self.send(Message::Line(lines.to_vec()));
        if !is_sent {
            waiting.fetch_sub(lines.len(), Ordering::Relaxed);
            self.counts.lose(lines);
        }
    }

    /// Waits until the lines so far are written, but not longer than [`FLUSH_TIME`].
    pub(super) fn flush(&self) {
        let (sender, receiver) = mpsc::sync_channel(1);
        if self.send(Message::Flush(sender)) {
            // Lines that are not written by then are lost with the program.
            let _ = receiver.recv_timeout(FLUSH_TIME);
        }
    }

    /// Lines that were lost since the start.
    pub(super) fn lost_lines(&self) -> u64 {
        self.counts.lost_lines.load(Ordering::Relaxed)
    }

    fn send(&self, message: Message) -> bool {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send(message).is_ok()
    }
}

impl Counts {
    fn lose(&self, lines: &[u8]) {
        let count = lines.split_inclusive(|byte| *byte == b'\n').count();
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.lost_lines.fetch_add(count, Ordering::Relaxed);
    }
}

/// The writing thread.
struct Sinking<S> {
    sink: S,
    counts: Arc<Counts>,
    /// Part of a line was written before an error.
    is_torn: bool,
    reported_lines: u64,
}

impl<S: Write> Sinking<S> {
    fn run(mut self, receiver: &Receiver<Message>, report: &dyn Fn(u64)) {
        let mut lines = Vec::new();
        let mut next = receiver.recv().ok();
        while let Some(message) = next.take() {
            match message {
                Message::Line(line) => {
                    lines.extend_from_slice(&line);
                    if lines.len() < WRITE_BYTES_MAX {
                        next = receiver.try_recv().ok();
                    }
                }
                Message::Flush(done) => {
                    self.write(&mut lines, report);
                    // The caller may have stopped waiting.
                    let _ = done.send(());
                }
            }
            if next.is_none() {
                self.write(&mut lines, report);
                next = receiver.recv().ok();
            }
        }
    }

    fn write(&mut self, lines: &mut Vec<u8>, report: &dyn Fn(u64)) {
        if lines.is_empty() {
            return;
        }
        let size_bytes = lines.len();
        if self.is_torn {
            lines.insert(0, b'\n');
        }
        let (written, result) = write_as_far_as_possible(&mut self.sink, lines);
        // The newline that ends the partial line does not end another line.
        let counted_from = written.max(usize::from(self.is_torn));
        // The partial line counts as lost: its newline is in the rest.
        self.counts
            .lose(lines.get(counted_from..).unwrap_or_default());
        if written > 0 {
            self.is_torn = lines.get(written - 1) != Some(&b'\n');
        }
        lines.clear();
        self.counts
            .waiting_bytes
            .fetch_sub(size_bytes, Ordering::Relaxed);
        let lost = self.counts.lost_lines.load(Ordering::Relaxed);
        if result.is_ok() && lost > self.reported_lines {
            report(lost - self.reported_lines);
            self.reported_lines = lost;
        }
    }
}

/// How many bytes were written, and why not all.
fn write_as_far_as_possible(sink: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match sink.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, sink.flush())
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

/// Writes one event, which the formatter passes in one write.
pub(super) struct Line<'a>(&'a LogWriter);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.hand_over(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use super::*;

    /// A log whose disk is full after some bytes, or whose reader does not read.
    #[derive(Clone, Default)]
    struct Sink(Arc<(Mutex<SinkState>, Condvar)>);

    #[derive(Default)]
    struct SinkState {
        text: Vec<u8>,
        room_bytes: Option<usize>,
        is_stuck: bool,
    }

    impl Sink {
        fn set(&self, change: impl FnOnce(&mut SinkState)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().text.clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock().unwrap();
            while state.is_stuck {
                state = self.0.1.wait(state).unwrap();
            }
            let count = bytes.len().min(state.room_bytes.unwrap_or(usize::MAX));
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if let Some(room) = &mut state.room_bytes {
                *room -= count;
            }
            state.text.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer(sink: &Sink) -> LogWriter {
        let reports = sink.clone();
        LogWriter::start(sink.clone(), move |lost| {
            writeln!(reports.clone(), "({lost} lost)").unwrap();
        })
        .unwrap()
    }

    #[test]
    fn what_a_full_disk_loses_is_counted_and_reported_once_there_is_room() {
        let sink = Sink::default();
        let writer = writer(&sink);
        writer.hand_over(b"one\n");
        writer.flush();
        sink.set(|state| state.room_bytes = Some(2));
        for line in [&b"two\n"[..], b"three\n"] {
            writer.hand_over(line);
            writer.flush();
        }
        assert_eq!(writer.lost_lines(), 2);
        sink.set(|state| state.room_bytes = None);
        writer.hand_over(b"four\n");
        writer.flush();
        writer.hand_over(b"five\n");
        writer.flush();
        assert_eq!(sink.text(), "one\ntw\nfour\n(2 lost)\nfive\n");
        assert_eq!(writer.lost_lines(), 2);
    }

    #[test]
    fn a_reader_that_reads_nothing_holds_nobody_up_and_takes_bounded_memory() {
        let sink = Sink::default();
        let writer = writer(&sink);
        sink.set(|state| state.is_stuck = true);
        let line = [&[b'x'; 1_023][..], b"\n"].concat();
        // This returns, or the test hangs.
        for _ in 0..4 * 1_024 {
            writer.hand_over(&line);
        }
        let waiting = writer.counts.waiting_bytes.load(Ordering::Relaxed);
        assert!(
            waiting <= WAITING_BYTES_MAX + line.len(),
            "{waiting} bytes wait"
        );
        let lost = writer.lost_lines();
        assert!(lost >= 3 * 1_024 - 1, "{lost} lines lost");
        sink.set(|state| state.is_stuck = false);
        writer.flush();
        let text = sink.text();
        let kept = text.lines().filter(|line| line.starts_with('x')).count();
        assert_eq!(u64::try_from(kept).unwrap() + lost, 4 * 1_024);
        assert!(text.contains(" lost)\n"), "the loss is not logged");
        assert_eq!(writer.counts.waiting_bytes.load(Ordering::Relaxed), 0);
    }
}
