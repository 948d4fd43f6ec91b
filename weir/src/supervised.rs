//! When a process of an installation should end: on a signal, or when its supervisor is gone.

use std::io::Read;

use anyhow::{Context, Result};
use api::process;
use tokio::sync::watch;
use tracing::info;

/// Becomes `true` on SIGTERM or SIGINT and, with `supervised`, at the end of standard input: that is a pipe which
/// the supervisor holds open and never writes to, so its end means that the supervisor is gone or wants this
/// process gone.
pub(crate) fn shutdown(supervised: bool) -> Result<watch::Receiver<bool>> {
    let mut signal = process::shutdown_signal().context("install signal handlers")?;
    if !supervised {
        return Ok(signal);
    }
    process::ignore_hangup().context("install signal handlers")?;
    let (sender, receiver) = watch::channel(false);
    let ended = sender.clone();
    // A thread of its own: a blocked read cannot be cancelled, and must not hold up the runtime's end.
    std::thread::Builder::new().name("supervisor".into()).spawn(move || {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(count) if count > 0) {}
        info!("the supervisor ended standard input, shutting down");
        ended.send_replace(true);
    })?;
    tokio::spawn(async move {
        process::shut_down(&mut signal).await;
        sender.send_replace(true);
    });
    Ok(receiver)
}
