//! What every process does at its start: logs, the wish to end, and what a panic means.

use std::{
    cell::Cell,
    io::{IsTerminal as _, stderr},
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info};
use tracing_subscriber::{EnvFilter, fmt, util::TryInitError};

/// Sends logs to stderr: for people on a terminal, as JSON lines else. `RUST_LOG` says what is logged; `default`
/// does where it is absent (`info` is a good one). What rustls finds odd in a client's hello is logged only where `RUST_LOG`
/// names rustls: else every client could write lines.
///
/// # Errors
///
/// Logs have a destination already, or `default` is no filter.
pub fn init_tracing(default: &str) -> Result<(), InitError> {
    use tracing_subscriber::util::SubscriberInitExt as _;
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(filter) if !filter.is_empty() => filter,
        _ => default.to_owned(),
    };
    let filter = self::filter(filter)?;
    let logs = fmt().with_env_filter(filter).with_writer(stderr);
    if stderr().is_terminal() {
        logs.with_target(false).finish().try_init()?;
    } else {
        logs.json().flatten_event(true).finish().try_init()?;
    }
    Ok(())
}

/// Of two directives for one target the later one holds, and one that names a target comes before one that does not.
fn filter(text: String) -> Result<EnvFilter, InitError> {
    EnvFilter::try_new(format!("rustls=error,{text}"))
        .map_err(|e| InitError::Filter { filter: text, problem: e.to_string() })
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Not a filter.
    #[error("RUST_LOG {filter:?}: {problem}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Set up twice.
    #[error("logs have a destination already")]
    Twice(#[from] TryInitError),
}

/// Becomes `true` on the first SIGTERM or SIGINT and stays so. Must be called on a runtime.
///
/// # Errors
///
/// The signal handlers could not be installed.
pub fn shutdown_signal() -> std::io::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            // Nobody listens any more.
            () = sender.closed() => return,
        };
        info!(signal = name, "shutting down");
        sender.send_replace(true);
        // The handlers stay installed for the process's life: a second signal does not kill it half way.
        sender.closed().await;
    });
    Ok(receiver)
}

/// Makes SIGHUP mean nothing, for the life of a process that others start and end: it has no terminal whose end could be
/// its own. The system sends it, too, to a process that stands still while its parent ends (an orphaned process group,
/// POSIX `_exit`), and a worker is to outlive its agent then as well. Must be called on a runtime.
///
/// # Errors
///
/// The signal handler could not be installed.
pub fn ignore_hangup() -> std::io::Result<()> {
    // The handler stays installed when nobody listens to it.
    signal(SignalKind::hangup()).map(drop)
}

/// Waits until `shutdown` is `true` or its sender is gone.
pub async fn shut_down(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody can ask any more; to end is the safe reading.
    drop(shutdown.wait_for(|down| *down).await);
}

/// Logs panics as errors with their place, so that JSON logs stay JSON. With `abort`, the process ends at once:
/// for a process whose state a panic may have left half changed. Panics in [`contained`] work are only logged.
pub fn log_panics(abort: bool) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("a value that is not text");
        error!(place, message, "panicked");
        if abort && !CONTAINED.get() {
            std::process::abort();
        }
    }));
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// A panic in contained work. It has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("panicked")]
pub struct Panicked;

/// Does work whose panic is nobody's end: a hook that aborts runs before any `catch_unwind` could help.
///
/// For work that changes nothing of its own but what it returns, or whose changes are thrown away after a panic.
///
/// # Errors
///
/// It panicked.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    result.map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        os::unix::process::ExitStatusExt as _,
        process::Command,
        sync::{Arc, Mutex},
    };

    use super::*;

    const PANIC: &str = "WEIR_TEST_PANIC";

    /// What a process that aborts on panics does, in a process of its own.
    #[test]
    #[ignore = "a child process of contained_work_panics_for_itself_only"]
    fn child() {
        let Ok(which) = std::env::var(PANIC) else { return };
        log_panics(true);
        assert_eq!(contained(|| 7), Ok(7));
        assert_eq!(contained(|| panic!("one tenant's")), Err::<(), _>(Panicked));
        if which == "after" {
            panic!("everybody's");
        }
    }

    #[test]
    fn contained_work_panics_for_itself_only() {
        for (which, signal) in [("contained", None), ("after", Some(6))] {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["process::tests::child", "--exact", "--ignored"])
                .env(PANIC, which)
                .output()
                .unwrap();
            assert_eq!(output.status.signal(), signal, "{which}: {output:?}");
        }
    }

    #[tokio::test]
    async fn a_lost_sender_ends_the_wait() {
        let (sender, mut receiver) = watch::channel(false);
        drop(sender);
        shut_down(&mut receiver).await;
    }

    #[test]
    fn what_clients_make_rustls_say_is_logged_only_on_demand() {
        #[derive(Clone, Default)]
        struct Log(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Log {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = |text: &str| {
            let log = Log::default();
            let writer = log.clone();
            let filter = filter(text.to_owned()).unwrap();
            let logs = fmt().with_env_filter(filter).with_writer(move || writer.clone()).finish();
            tracing::subscriber::with_default(logs, || {
                tracing::warn!(target: "rustls::msgs::handshake", "odd");
                tracing::error!(target: "rustls::server", "broken");
                tracing::info!(target: "edge::tls", "ours");
            });
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            ["odd", "broken", "ours"].map(|word| text.contains(word))
        };
        assert_eq!(lines("info"), [false, true, true]);
        assert_eq!(lines("info,rustls=warn"), [true, true, true]);
        assert_eq!(lines("warn"), [false, true, false]);
        assert!(filter("a=b=c".to_owned()).is_err());
    }

    #[tokio::test]
    async fn the_wait_ends_when_asked() {
        let (sender, mut receiver) = watch::channel(false);
        let wait = tokio::spawn(async move { shut_down(&mut receiver).await });
        sender.send_replace(true);
        wait.await.unwrap();
    }
}
