//! The controller: takes objects from users, keeps them in the store, and feeds what they amount to to the edges.
//!
//! ```text
//! admin -> parse -> compile (dry) -> one transaction of the store
//!                                         |
//!            feed <- World <- snapshots <-+ watch: changed tenants are compiled again
//!              |
//!            edges: ack, nack -> acks -> conditions on objects (computed when they are read)
//! ```
//!
//! Main types: [`Controller`] serves both ports; [`World`] is what the edges are to serve at one revision;
//! [`Desired`] keeps the autoscaler's plans.
//!
//! Deliberately absent: scaling (the autoscaler comes in through [`Fleet`] and [`Intake`]), consensus (`store`), what
//! objects mean (`dialect`).
#![forbid(unsafe_code)]

mod acks;
mod admin;
pub mod auth;
mod controller;
mod desired;
mod feed;
mod handles;
mod joins;
pub mod keys;
mod kv;
mod leader;
pub mod metric;
mod objects;
mod others;
mod peers;
mod platform;
mod quotas;
mod recalls;
mod rollout;
mod sealing;
mod snapshots;
mod tickets;
mod world;

pub use controller::{Config, Controller, ServeError, StartError, TokenError, generate_token};
pub use desired::{Desired, DesiredError, Plan};
pub use handles::{EventStream, Fleet, FleetError, Intake, ReplyStream, ReportStream};
pub use joins::{
    CaError, JoinRole, JoinToken, Joins, LIFETIME as CERTIFICATE_LIFETIME, found_ca, seal_ca, stored_ca,
    unseal_ca,
};
pub use leader::{lost as leadership_lost, peers as servers};
pub use others::Others;
pub use peers::PeersPort;
pub use tickets::TicketKeysState;
pub use world::{PoolState, Snapshot, TenantState, World};
