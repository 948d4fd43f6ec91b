//! How many workers a pool should have. Read this file first.
//!
//! Out at once, on one signal, as far as demand says. In slowly: when the highest demand of the scale-in delay needs
//! fewer, all evidence of that time is there, and nothing is under way; then at most a quarter a step.

#[cfg(test)]
mod tests;

use crate::{
    Time, demand::Demand, fleet::Crew, number::whole_up, policy::PoolPolicy, reason::Reason, window::SHORT,
};

/// Scale-in leaves the remaining workers a tenth below the target utilisation: else the first ripple would bring
/// the leaver back. (The tolerance of the HPA.)
const SCALE_IN_TOLERANCE: f64 = 0.9;

/// How many workers there should be, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// That many, always within the policy's bounds.
    pub target: u32,
    /// Why.
    pub reason: Reason,
    /// Another target would be better, but something forbids it; the reason says what.
    pub hold: bool,
}

/// Decides. More demand never makes fewer workers; missing evidence never removes one.
#[must_use]
pub fn decide(policy: &PoolPolicy, crew: &Crew, demand: &Demand, now: Time) -> Decision {
    let (min, max) = policy.bounds();
    let current = crew.target.clamp(min, max);
    if current != crew.target {
        // The operator's word takes no evidence. Demand is heard again in the next second.
        let reason =
            if crew.target < min { Reason::BelowMinimum { min } } else { Reason::AboveMaximum { max } };
        return to(current, reason);
    }
    let (wanted, cause) = wanted(policy, crew, demand, now);
    let room = crew.room.map_or(max, |room| room.clamp(min, max).max(current));
    let most = max.min(room);
    if wanted.min(most) > current {
        return to(wanted.min(most), cause);
    }
    if current == 0 && crew.woken {
        return to(1, Reason::Woken);
    }
    if wanted > max {
        return hold(current, Reason::AtMaximum { wanted, max });
    }
    if wanted > most {
        return hold(current, Reason::NoRoom { wanted, room: most });
    }
    scale_in(policy, crew, demand, current, now)
}

/// As many as demand needs, whatever there may be.
fn wanted(policy: &PoolPolicy, crew: &Crew, demand: &Demand, now: Time) -> (u32, Reason) {
    let usable = usable(policy, demand);
    let by_demand = whole_up(demand.expected() / usable);
    let &Demand { work, forecast, horizon, backlog, saturated, .. } = demand;
    // Full workers hide how much is asked of them, so each gets a helper: the pool doubles if all are full. Then new
    // workers get the time to start and to be seen helping before full ones are believed again. A few full ones
    // beside many that are not have too many connections, and levelling is the answer to that.
    let settled = now.since(crew.changed_at) >= horizon + SHORT;
    let most = saturated > 0 && saturated.saturating_mul(2) >= crew.ready;
    let by_saturation = if settled && most { crew.ready.saturating_add(saturated) } else { 0 };
    if by_saturation > by_demand {
        return (by_saturation, Reason::Saturated { saturated, ready: crew.ready });
    }
    (by_demand, Reason::Demand { work, forecast, horizon, backlog, usable })
}

/// What of a worker's capacity is planned with. The target utilisation leaves headroom already; what forecasts were
/// wrong by counts where it is more.
fn usable(policy: &PoolPolicy, demand: &Demand) -> f64 {
    policy.target_utilization().min(1.0 / (1.0 + demand.headroom))
}

fn scale_in(policy: &PoolPolicy, crew: &Crew, demand: &Demand, current: u32, now: Time) -> Decision {
    let (min, _) = policy.bounds();
    let idle = min == 0 && current <= 1 && demand.idle >= policy.idle_delay;
    let by_peak = whole_up(demand.peak / (usable(policy, demand) * SCALE_IN_TOLERANCE));
    let needed = if idle { 0 } else { by_peak.max(min).max(1) };
    if needed >= current {
        return to(current, Reason::Steady { expected: demand.expected() });
    }
    if let Some(reason) = obstacle(policy, crew, demand, idle, now) {
        return hold(current, reason);
    }
    if idle {
        return to(0, Reason::Idle { idle: demand.idle });
    }
    let target = needed.max(current - policy.scale_in_step(current).min(current));
    to(target, Reason::Surplus { peak: demand.peak, over: policy.scale_in_delay, needed })
}

/// What forbids to remove a worker now.
fn obstacle(policy: &PoolPolicy, crew: &Crew, demand: &Demand, idle: bool, now: Time) -> Option<Reason> {
    let (required, covered) = (policy.scale_in_delay, demand.covered);
    let (since, pause) = (now.since(crew.changed_at), policy.scale_in_pause);
    if crew.missing > 0 || crew.lost_nodes > 0 {
        Some(Reason::Missing { workers: crew.missing, nodes: crew.lost_nodes })
    } else if crew.starting > 0 || crew.leaving > 0 {
        Some(Reason::Unsettled { starting: crew.starting, leaving: crew.leaving })
    } else if !idle && covered < required {
        // Idleness brings its own evidence: it was complete for the whole idle delay.
        Some(Reason::TooEarly { covered, required })
    } else if since < pause {
        Some(Reason::Pause { since, pause })
    } else {
        None
    }
}

fn to(target: u32, reason: Reason) -> Decision {
    Decision { target, reason, hold: false }
}

fn hold(target: u32, reason: Reason) -> Decision {
    Decision { target, reason, hold: true }
}
