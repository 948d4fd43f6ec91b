//! What a worker keeps of the machine. Who takes it over by a fault in a parser gets no more: not the keys and the state
//! of the server beside it, no program to run, no port to listen on.

use std::path::{Path, PathBuf};

use sys::confine::{Confined, Keeps, confine};
use tracing::{info, warn};

use crate::accesslog::Sink;

/// Confines this thread and those that it starts, to reading what the system has, and:
///
/// `read`: files and directories to read; `write`: directories to keep state in; `listen`: whether it opens ports by
/// itself. The access log's directory stays writable, for a rotated log is opened anew.
///
/// # Errors
///
/// If the kernel has Landlock and refuses. One without it is told of, and no reason not to serve.
pub(crate) fn confine_worker(
    read: &[&Path],
    write: &[&Path],
    access_log: &Sink,
    listen: bool,
) -> std::io::Result<()> {
    let mut read = owned(read);
    read.extend(std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
    let mut write = owned(write);
    if let Sink::File(path) = access_log {
        write.push(directory(path));
    }
    match confine(&Keeps { read, write, listen })? {
        Confined::Fully => info!("confined"),
        Confined::Partly => info!("confined as far as this kernel's Landlock goes"),
        Confined::NotByLandlock => warn!("not confined: this kernel has no Landlock"),
    }
    Ok(())
}

/// Where a file is.
pub(crate) fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn owned(paths: &[&Path]) -> Vec<PathBuf> {
    paths.iter().map(|path| path.to_path_buf()).collect()
}
