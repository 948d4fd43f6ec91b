//! The host agent: one per machine. It owns the listening sockets for life, lends them to worker processes, and
//! starts and stops those as the leading server plans it.
//!
//! The decisions are pure: [`pool::Pool`] takes inputs (a plan, a worker's message, an exit, the time) and returns
//! actions, over [`slots::Group`], which says who listens on what. Around it are the agent's socket, the processes,
//! the sockets and the servers.
//!
//! Deliberately absent: how many workers there should be (`autoscaler`), and what they serve (they ask the servers
//! themselves). Workers outlive the agent: it may be killed and started again under full traffic.
#![forbid(unsafe_code)]

mod agent;
mod config;
mod dispatch;
mod doorbell;
mod link;
pub mod metrics;
pub mod plan;
pub mod pool;
mod processes;
mod running;
mod saved;
mod scrape;
mod servers;
pub mod slots;
mod sockets;
pub mod standing;

pub use agent::{NodeError, run};
pub use config::{Identities, Identity, NodeConfig, Timing};
pub use scrape::{Scraper, Scrapes, scrapes};
