//! Processes by pidfd: a handle that never comes to mean another process, also of processes that are not our
//! children.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

pub use rustix::process::Signal;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags},
};

/// A process. Readable (in `poll`, `epoll`, tokio's `AsyncFd`) once it has ended.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    pid: u32,
}

impl Process {
    /// The process that has this id now.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if there is none; those of `pidfd_open`.
    pub fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is no process id")))?;
        match rustix::process::pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => Ok(Self { pidfd, pid }),
            Err(rustix::io::Errno::SRCH) => {
                Err(io::Error::new(io::ErrorKind::NotFound, format!("no process {pid}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The process that has this id and was born at `birth` (see [`birth`]): not a later one with the same id.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it is gone; those of [`Self::open`].
    pub fn open_born(pid: u32, birth: u64) -> io::Result<Self> {
        let process = Self::open(pid)?;
        // Asked after the handle is open: the id cannot change hands in between.
        if self::birth(pid)? == birth && !process.has_ended()? {
            Ok(process)
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("no process {pid} of that birth")))
        }
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended, reaped by its parent or not.
    ///
    /// # Errors
    ///
    /// Those of `poll`.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(rustix::event::poll(&mut fds, Some(&now))? > 0)
    }

    /// Sends a signal. A process that has ended is no error: there is nothing left to signal.
    ///
    /// # Errors
    ///
    /// Those of `pidfd_send_signal`.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// When the process of this id was started, in clock ticks since boot: with the id it names one process until the
/// next boot.
///
/// # Errors
///
/// [`io::ErrorKind::NotFound`] if there is none.
pub fn birth(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in brackets and may hold anything; starttime is the 22nd (proc(5)).
    let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
    after_name.and_then(|rest| rest.split(' ').nth(22 - 3)).and_then(|field| field.parse().ok()).ok_or_else(
        || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as proc(5) says")),
    )
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    #[test]
    fn the_end_of_a_process_is_seen_and_a_signal_after_it_is_no_error() {
        let mut child = sleeper();
        let process = Process::open(child.id()).unwrap();
        assert!(!process.has_ended().unwrap());
        process.signal(Signal::KILL).unwrap();
        rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
        assert!(process.has_ended().unwrap());
        child.wait().unwrap();
        process.signal(Signal::TERM).unwrap();
        assert_eq!(Process::open(child.id()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_process_of_another_birth_is_not_it() {
        let mut child = sleeper();
        let birth = birth(child.id()).unwrap();
        Process::open_born(child.id(), birth).unwrap();
        let error = Process::open_born(child.id(), birth + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn no_process_is_not_found() {
        assert_eq!(Process::open(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(birth(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
