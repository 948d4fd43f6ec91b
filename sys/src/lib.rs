//! What Weir needs of the kernel beyond std and tokio: packets with file descriptors, `SO_REUSEPORT` groups, lock
//! files, processes by pidfd, and the confinement of a process.
//!
//! The only crate that may hold unsafe code, and nearly none is needed: `rustix` and `socket2` do the rest. What is
//! left are a few socket options that neither offers, in [`reuseport`] and [`steer`], tokio's registration in [`polled`],
//! the processor's hint in [`prefetch`], and the power cuts of tests in [`powercut`].
//!
//! Deliberately absent: policy. Who gets which socket is decided in `node`.
#![deny(unsafe_code)]

pub mod confine;
pub mod handover;
pub mod lock;
pub mod polled;
pub mod powercut;
pub mod prefetch;
pub mod process;
pub mod reuseport;
pub mod seqpacket;
pub mod steer;
