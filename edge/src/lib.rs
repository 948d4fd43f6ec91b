//! The data plane: a worker that answers requests.
//!
//! `serve` is read first: a request from its head to its reply. [`Worker`] starts the threads, [`Control`] steers
//! them, [`Config`] is what they serve; [`run_static`] serves a file without any control plane.
//!
//! Deliberately absent: the controller's objects (`dialect` reads them for [`run_static`] only) and every decision
//! about how many workers there are.
#![forbid(unsafe_code)]

pub mod accesslog;
mod admit;
mod balance;
mod body;
mod buffer;
mod clock;
pub mod config;
mod confine;
pub mod control;
mod date;
mod downstream;
mod drain;
mod exit;
mod grpc;
pub mod h1;
pub mod h2;
pub mod h3;
mod health;
pub mod hello;
mod io;
mod journal;
pub mod limits;
mod listen;
pub mod metrics;
mod mux;
pub mod proxy;
mod quic;
mod retry;
mod section;
mod serve;
mod share;
mod shared;
mod socket;
pub mod static_config;
mod stream;
mod tls;
pub mod trace;
mod turns;
mod udp;
mod upstream;
mod websocket;
mod worker;

pub use config::{Config, PoolSettings, TenantTable, Tenants};
pub use control::{WorkerArgs, run_worker};
pub use limits::Limits;
pub use listen::TakeError;
pub use shared::{Control, LoadSample, Phase, Stale};
pub use static_config::{StaticArgs, run_static};
pub use tls::tickets::Keyring;
pub use worker::{Worker, WorkerSettings};
