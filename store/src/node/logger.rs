//! raft's log lines as tracing events. What it calls info is of interest to who debugs raft.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record};

struct Tracing;

impl Drain for Tracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
        match record.level() {
            // Not ERROR: it is followed by a panic, which is one event already.
            Level::Critical | Level::Error | Level::Warning => tracing::warn!("raft: {}", record.msg()),
            Level::Info | Level::Debug => tracing::debug!("raft: {}", record.msg()),
            Level::Trace => tracing::trace!("raft: {}", record.msg()),
        }
        Ok(())
    }
}

pub(super) fn logger() -> Logger {
    Logger::root(Tracing, slog::o!())
}
