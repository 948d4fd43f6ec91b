//! Threads for what nobody waits for.

use std::{io, thread};

/// What nice(1) gives: a share of a busy machine that is small, but not nothing.
const NICE: i32 = 10;

/// Starts a thread that leaves the processors to those that answer somebody.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name.into()).spawn(|| {
        // On Linux, the calling thread's alone.
        if let Err(errno) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%errno, "a thread in the background keeps its priority");
        }
        work()
    })
}
