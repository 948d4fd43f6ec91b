//! The controller's boundary: a real store in a temporary directory, real TLS on loopback.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod apply;
mod feed;
mod harness;
mod history;
mod isolation;
mod kv;
mod refusals;
mod rotation;
mod secrets;
mod tenants;
mod tickets;
mod transactions;
mod watch;
mod waves;
