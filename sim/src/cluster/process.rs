//! One process of a cluster, with what it logged.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::harness::wait_exit;

/// Killed with its value.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    pub(super) fn start(binary: &Path, args: &[String], directory: &Path) -> Result<Self> {
        let mut child = Command::new(binary)
            .args(args)
            .current_dir(directory)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {} {args:?}", binary.display()))?;
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stderr.take().context("stderr is piped")?, Arc::clone(&log));
        Ok(Self { child, log })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        wait_exit(&mut self.child, within)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut text = into.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&line);
            text.push('\n');
        }
    });
}

/// How often the kernel's table is read for a socket that must be in it.
const READS: usize = 5;

/// Which of these processes has a socket that is bound to this local address.
pub(super) fn owner(address: SocketAddr, pids: impl Iterator<Item = u32>) -> Option<u32> {
    // The table is read in pieces while it changes, and a row may be missed between two of them.
    let inodes = (0..READS).map(|_| inodes(address)).find(|inodes| !inodes.is_empty()).unwrap_or_default();
    let sockets: Vec<String> = inodes.into_iter().map(|inode| format!("socket:[{inode}]")).collect();
    let has = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let mut links =
            descriptors.into_iter().flatten().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
    };
    pids.into_iter().find(has)
}

/// The inodes of the sockets with this local address, from the kernel's table (`proc_net_tcp(5)`): a port may be used by
/// several connections to different places, and by some that are over and belong to nobody.
fn inodes(address: SocketAddr) -> Vec<u64> {
    let SocketAddr::V4(address) = address else { return vec![] };
    // The address is printed as a number of the machine's byte order.
    let ip = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let rows = table.lines().skip(1).map(|row| row.split_ascii_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| row.get(1) == Some(&local.as_str()));
    rows.filter_map(|row| row.get(9)?.parse().ok()).filter(|inode| *inode != 0).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_owner_of_a_connection_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_, from) = listener.accept().unwrap();
        let own = std::process::id();
        assert_eq!(owner(from, [1, own].into_iter()), Some(own));
        assert_eq!(owner(from, [].into_iter()), None);
        drop(client);
    }
}
