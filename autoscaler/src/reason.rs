//! Why a decision is what it is, for people: with the figures that decided it.

use std::{fmt, time::Duration};

/// Why a pool has the target that it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    /// Demand fits the workers there are.
    Steady {
        /// In workers at full use.
        expected: f64,
    },
    /// Demand needs more workers.
    Demand {
        /// Now, in workers at full use.
        work: f64,
        /// When a new worker is ready.
        forecast: f64,
        /// When that is.
        horizon: Duration,
        /// What the backlog adds.
        backlog: f64,
        /// What one worker may be used, as a ratio.
        usable: f64,
    },
    /// Workers are full, so what they do is less than what is asked of them.
    Saturated {
        /// How many.
        saturated: u32,
        /// Of how many that are ready.
        ready: u32,
    },
    /// A connection came to a sleeping pool.
    Woken,
    /// There are fewer workers than the policy's minimum.
    BelowMinimum {
        /// The minimum.
        min: u32,
    },
    /// There are more than the policy's maximum.
    AboveMaximum {
        /// The maximum.
        max: u32,
    },
    /// Even the highest demand of the scale-in delay needs fewer workers.
    Surplus {
        /// That demand, in workers at full use.
        peak: f64,
        /// The delay.
        over: Duration,
        /// How many workers it needs.
        needed: u32,
    },
    /// Nobody called for the idle delay.
    Idle {
        /// For how long.
        idle: Duration,
    },
    /// The pool was deleted.
    Removed,
    /// Held: demand needs more than the policy's maximum.
    AtMaximum {
        /// As many as it needs.
        wanted: u32,
        /// The maximum.
        max: u32,
    },
    /// Held: demand needs more than the nodes' CPUs can bear.
    NoRoom {
        /// As many as it needs.
        wanted: u32,
        /// As many as there is room for.
        room: u32,
    },
    /// Held: fewer would do, but not all have reported.
    Missing {
        /// Workers that did not.
        workers: u32,
        /// Nodes that are not connected.
        nodes: u32,
    },
    /// Held: fewer would do, but workers are coming or going.
    Unsettled {
        /// Coming.
        starting: u32,
        /// Going.
        leaving: u32,
    },
    /// Held: fewer would do, but that has not been known for long enough.
    TooEarly {
        /// For how long all was known.
        covered: Duration,
        /// For how long it must be.
        required: Duration,
    },
    /// Held: fewer would do, but the last change was just now.
    Pause {
        /// Since the last change.
        since: Duration,
        /// The shortest time between steps.
        pause: Duration,
    },
}

impl Reason {
    /// A short name: a metric label, and what makes two decisions alike.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Steady { .. } => "steady",
            Self::Demand { .. } => "demand",
            Self::Saturated { .. } => "saturated",
            Self::Woken => "woken",
            Self::BelowMinimum { .. } => "below-minimum",
            Self::AboveMaximum { .. } => "above-maximum",
            Self::Surplus { .. } => "surplus",
            Self::Idle { .. } => "idle",
            Self::Removed => "removed",
            Self::AtMaximum { .. } => "at-maximum",
            Self::NoRoom { .. } => "no-room",
            Self::Missing { .. } => "missing",
            Self::Unsettled { .. } => "unsettled",
            Self::TooEarly { .. } => "too-early",
            Self::Pause { .. } => "pause",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Steady { expected } => write!(f, "demand of {expected:.2} workers fits"),
            Self::Demand { work, forecast, horizon, backlog, usable } => {
                write!(f, "demand of {work:.2} workers")?;
                if forecast > work * 1.01 {
                    write!(f, ", {forecast:.2} expected in {:.1} s", horizon.as_secs_f64())?;
                }
                if backlog > 0.005 {
                    write!(f, ", {backlog:.2} more for the backlog")?;
                }
                write!(f, "; each worker is used to {:.0} %", usable * 100.0)
            }
            Self::Saturated { saturated, ready } => {
                write!(f, "{saturated} of {ready} ready workers are saturated")
            }
            Self::Woken => write!(f, "a connection woke the pool"),
            Self::BelowMinimum { min } => write!(f, "fewer than the minimum of {min}"),
            Self::AboveMaximum { max } => write!(f, "more than the maximum of {max}"),
            Self::Surplus { peak, over, needed } => {
                let over = over.as_secs_f64();
                write!(f, "demand was at most {peak:.2} workers for {over:.0} s: {needed} will do")
            }
            Self::Idle { idle } => write!(f, "no request for {:.0} s", idle.as_secs_f64()),
            Self::Removed => write!(f, "the pool was deleted"),
            Self::AtMaximum { wanted, max } => write!(f, "{wanted} workers are needed; the maximum is {max}"),
            Self::NoRoom { wanted, room } => {
                write!(f, "{wanted} workers are needed; the nodes' CPUs bear {room}")
            }
            Self::Missing { workers, nodes } => {
                write!(f, "fewer would do, but {workers} workers and {nodes} nodes are silent")
            }
            Self::Unsettled { starting, leaving } => {
                write!(f, "fewer would do, but {starting} workers are starting and {leaving} leaving")
            }
            Self::TooEarly { covered, required } => {
                let (covered, required) = (covered.as_secs_f64(), required.as_secs_f64());
                write!(f, "fewer would do, but all has been known for {covered:.0} of {required:.0} s only")
            }
            Self::Pause { since, pause } => {
                let (since, pause) = (since.as_secs_f64(), pause.as_secs_f64());
                write!(f, "fewer would do, but the last change was {since:.0} of {pause:.0} s ago")
            }
        }
    }
}
