//! The access log: one JSON object per request and line, off the hot path.
//!
//! A request thread writes its lines into a buffer of its own, which takes no lock, and hands it to one writer
//! thread when it is full or a tick has passed. Nobody waits for the sink: when it is slower than the traffic, lines
//! are lost, counted, and the log says how many.
//!
//! Lines are made of known parts only: no query, no body, no header but those that a listener's policy names, and so no
//! credentials. Every text is escaped and cut at a length of its own.
//!
//! Deliberately absent: rotation (rename the file, then [`AccessLog::reopen`]) and formats.

mod entry;
mod json;
mod policy;
mod sink;
mod stamp;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    time::{Duration, SystemTime},
};

pub use entry::Entry;
pub(crate) use entry::Line;
pub(crate) use policy::Policy;
pub use sink::{InvalidSink, Sink};

use json::Object;
use sink::Message;
use stamp::Stamp;

/// A thread's buffer is handed over at this size: some 100 lines, so that a busy thread pays for the channel once
/// in 100 requests.
const HAND_OVER: usize = 32 << 10;
/// A thread's buffer grows to this size while the writer is behind; then lines are lost.
const MOST: usize = 64 << 10;
/// Buffers waiting for the writer: at most 1 MiB for all threads together, a second of a slow disk at 3,000
/// requests per second.
const QUEUE: usize = 16;

/// How long a worker that ends lets the log take its last lines.
pub(crate) const LAST_LINES: Duration = Duration::from_secs(2);

/// The log and its writer thread.
#[derive(Debug)]
pub struct AccessLog(Option<Running>);

#[derive(Debug)]
struct Running {
    sender: SyncSender<Message>,
    /// Nothing is ever sent: it ends with the writer.
    ended: Receiver<()>,
    worker: Arc<str>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the sink and starts its writer; `worker` is named in every line. Without a sink there is no thread.
    ///
    /// # Errors
    ///
    /// The file cannot be opened for appending, or the thread cannot be made.
    pub fn start(sink: &Sink, worker: &str) -> io::Result<Self> {
        let Some(writer) = sink.open()? else { return Ok(Self(None)) };
        Self::start_with(writer, worker)
    }

    fn start_with(mut writer: sink::Writer, worker: &str) -> io::Result<Self> {
        let (sender, messages) = mpsc::sync_channel(QUEUE);
        let (ending, ended) = mpsc::sync_channel(0);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            let _ending = ending;
            while let Ok(message) = messages.recv() {
                counter.fetch_add(writer.take(message), Ordering::Relaxed);
            }
        })?;
        Ok(Self(Some(Running { sender, ended, worker: worker.into(), lost })))
    }

    /// The end that a request thread writes to.
    #[must_use]
    pub fn logger(&self) -> Logger {
        Logger(self.0.as_ref().map(|running| Buffered {
            sender: running.sender.clone(),
            worker: Arc::clone(&running.worker),
            lost: Arc::clone(&running.lost),
            state: RefCell::default(),
        }))
    }

    /// How many lines were lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.as_ref().map_or(0, |running| running.lost.load(Ordering::Relaxed))
    }

    /// Opens the file anew after what is queued has been written; for log rotation. `false` if the writer is too
    /// far behind to take the order.
    pub fn reopen(&self) -> bool {
        self.0.as_ref().is_none_or(|running| running.sender.try_send(Message::Reopen).is_ok())
    }

    /// Waits until everything is written, for no longer than `limit`; to be called when the request threads have
    /// ended, since each [`Logger`] keeps the writer waiting. Whether all of it was written.
    pub fn close(self, limit: Duration) -> bool {
        self.0.is_none_or(|Running { sender, ended, .. }| {
            drop(sender);
            ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected)
        })
    }
}

/// What a request thread logs to. Costs nothing when there is no sink.
#[derive(Debug)]
pub struct Logger(Option<Buffered>);

#[derive(Debug)]
struct Buffered {
    sender: SyncSender<Message>,
    worker: Arc<str>,
    lost: Arc<AtomicU64>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    stamp: Stamp,
    /// Lines of this thread that were lost and that the log does not tell of yet.
    untold: u64,
}

impl Logger {
    /// A logger without a sink.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether there is a sink: otherwise no [`Entry`] needs to be made.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Adds a line. Never waits.
    pub fn log(&self, entry: &Entry<'_>) {
        if let Some(buffered) = &self.0 {
            buffered.log(entry);
        }
    }

    /// Hands over what is in the buffer, if the writer takes it; to be called every tick, so that a quiet thread's
    /// lines appear.
    pub fn flush(&self) {
        if let Some(buffered) = &self.0 {
            buffered.hand_over(&mut buffered.state.borrow_mut());
        }
    }
}

impl Buffered {
    fn log(&self, entry: &Entry<'_>) {
        let state = &mut *self.state.borrow_mut();
        if state.buffer.len() >= MOST {
            self.hand_over(state);
        }
        if state.buffer.len() >= MOST {
            state.untold += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if state.untold > 0 {
            let lost = std::mem::take(&mut state.untold);
            self.tell_loss(state, entry.time, lost);
        }
        if state.buffer.capacity() == 0 {
            state.buffer.reserve(HAND_OVER + LINE);
        }
        entry.write(&mut state.buffer, &mut state.stamp, &self.worker);
        if state.buffer.len() >= HAND_OVER {
            self.hand_over(state);
        }
    }

    fn tell_loss(&self, state: &mut State, time: SystemTime, lost: u64) {
        let mut line = Object::open(&mut state.buffer);
        line.text("time", state.stamp.rfc3339(time), 40);
        line.text("worker", &self.worker, 64);
        line.number("lost", lost);
        line.close();
    }

    fn hand_over(&self, state: &mut State) {
        if state.buffer.is_empty() {
            return;
        }
        match self.sender.try_send(Message::Lines(std::mem::take(&mut state.buffer))) {
            Ok(()) => {}
            Err(TrySendError::Full(Message::Lines(lines))) => state.buffer = lines,
            // The writer is gone: it panicked.
            Err(TrySendError::Disconnected(Message::Lines(lines))) => {
                self.lost.fetch_add(sink::count(&lines), Ordering::Relaxed);
            }
            Err(TrySendError::Full(Message::Reopen) | TrySendError::Disconnected(Message::Reopen)) => {}
        }
    }
}

/// Room for an ordinary line beyond the size at which a buffer is handed over.
const LINE: usize = 1 << 10;

impl Drop for Buffered {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let lines = std::mem::take(&mut state.buffer);
        if lines.is_empty() {
            return;
        }
        let count = sink::count(&lines);
        if self.sender.try_send(Message::Lines(lines)).is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}
