//! An open-loop load generator, the SLO search and the capacity planner that stand on it.
//!
//! [`run`] sends a [`Plan`]'s requests at the times its schedule says, whether or not earlier ones were answered, and
//! returns a [`Report`]. A request's latency counts from the time it was *meant* to leave: when all connections are
//! busy it waits, and the wait counts (no coordinated omission). The generator also measures itself, and marks a run
//! invalid when its own lateness is part of the figures.
//!
//! [`search`] finds the highest rate that keeps an [`Slo`]; [`capacity`] says how many workers a rate needs; [`what_if`]
//! plays a trace to the autoscaler's simulator.
//!
//! `schedule`, `backlog`, `tally`, `report`, `bracket`, `capacity` and `what_if` are pure; `generator` drives them.
//!
//! Deliberately absent: hiding failures. A request that was written and then lost has failed; what may be sent again
//! without a risk (RFC 9112 section 9.3.1 before the first byte, RFC 9113 section 8.7) is, and is counted.
#![forbid(unsafe_code)]

mod alarm;
mod args;
mod backlog;
mod bracket;
mod capacity;
mod cli;
mod connect;
mod generator;
mod h1;
mod h2;
mod plan;
mod report;
mod request;
mod run;
mod schedule;
mod search;
mod tally;
mod target;
mod tls;
mod what_if;
mod wire;

pub use args::{Args, PlanArgs};
pub use capacity::{Capacity, CapacityError, capacity};
pub use cli::{run_cli, run_plan_cli};
pub use plan::{Arrivals, Plan, Protocol, Step, Trust};
pub use report::{FailureKind, Percentiles, Report, Second, Validity};
pub use run::{RunError, run};
pub use search::{Limit, Range, Search, Slo, Trial, search};
pub use target::TargetError;
pub use tls::TlsError;
pub use what_if::{Pool, TraceError, WhatIf, parse_trace, what_if};
