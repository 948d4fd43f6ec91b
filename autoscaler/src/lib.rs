//! How many workers each pool should have, and where.
//!
//! ```text
//! LoadReport -> fleet (window) -> demand -> decide -> plan -> execute (store, fenced) -> provider -> agents
//!                                    pure, on a virtual clock     |  I/O
//! ```
//!
//! The pure core: [`window`], [`fleet`], [`demand`], [`mod@decide`], [`plan`], put together by [`scaler`]; [`sim`] runs it
//! against a modelled pool. Around it: [`Intake`], [`run()`], [`execute`], [`provider`], [`events`].
//!
//! Deliberately absent: the store (it comes in through [`execute::Desired`]), Pool objects (the controller translates
//! them into [`policy::PoolPolicy`]), and the starting of processes (node agents and Kubernetes do that).
#![forbid(unsafe_code)]

pub mod decide;
pub mod demand;
pub mod events;
pub mod execute;
pub mod fleet;
mod intake;
pub mod level;
pub mod metric;
mod number;
pub mod plan;
pub mod policy;
pub mod provider;
pub mod reason;
mod run;
pub mod scaler;
pub mod sim;
mod state;
mod time;
mod traffic;
pub mod window;

pub use decide::{Decision, decide};
pub use demand::Demand;
pub use events::{Event, EventKind, Events};
pub use execute::{Desired, DesiredError, InMemory, Stored, Version};
pub use intake::Intake;
pub use plan::DesiredPool;
pub use policy::{Capacity, Listen, PoolPolicy};
pub use provider::{Provider, process::Nodes};
pub use reason::Reason;
pub use run::run;
pub use state::{Autoscaler, DrainError, Leadership, Plans, Policies};
pub use time::Time;
