//! A power cut of one file system, for tests of what survives it.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `EXT4_IOC_SHUTDOWN`, the same number on all file systems that know it: `_IOR('X', 125, __u32)`.
const SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;

/// Nothing more reaches the disk, the journal's last transaction neither.
const NO_LOG_FLUSH: u32 = 2;

/// Cuts the power of the file system that `directory` is on: what it has not written is lost, and every call on it
/// fails until it is mounted anew. Needs `CAP_SYS_ADMIN`. Never to be called on a file system that is not the test's
/// own.
///
/// # Errors
///
/// Those of `ioctl`: among others, that the file system does not know it.
#[expect(unsafe_code, reason = "rustix offers its ioctl by an unsafe function as well")]
pub fn cut_power(directory: BorrowedFd<'_>) -> io::Result<()> {
    let flags = NO_LOG_FLUSH;
    // SAFETY: the descriptor is open for the whole call, and the kernel reads four bytes at the pointer, which are `flags`.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), SHUTDOWN, &raw const flags) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
