//! Tests of the whole system, and what they stand on.
//!
//! [`harness`] starts an installation as a user does, `weir up` as a process, and drives it by the command line;
//! [`cluster`] does so with several servers and host agents, with [`proxy`] between them where a test asks for it;
//! [`upstream`] is a backend whose answers are known; [`history`] says whether what clients of the store saw could be. `tests/it` holds the end-to-end tests, and `tidy`: the
//! architecture's rules as tests.
//!
//! Nothing here is part of what ships, and no other crate depends on this one.
#![forbid(unsafe_code)]

pub mod clients;
pub mod cluster;
pub mod harness;
pub mod history;
pub mod proxy;
pub mod upstream;
