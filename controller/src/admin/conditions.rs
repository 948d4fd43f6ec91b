//! What is true of an object: the dialect's conditions, and what the workers have said.
//!
//! `Propagated` counts the workers of all servers that answer; `Programmed` is true when all of them serve the object.

use api::admin::Condition;
use dialect::{Kind, Scope};

use crate::{
    Snapshot, TenantState, World,
    acks::{Acks, Propagation},
    objects::Stored,
    others::Elsewhere,
    rollout::Stage,
};

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// The conditions of an object as of now.
pub(super) fn conditions(
    world: &World,
    acks: &Acks,
    elsewhere: &Elsewhere,
    stored: &Stored,
) -> Vec<Condition> {
    let make = Maker { generation: stored.generation.0 };
    if stored.tenant.is_platform() {
        return platform(world, acks, stored, &make);
    }
    let state = world.tenants.get(&stored.tenant).filter(|state| state.revision >= stored.revision);
    let Some(state) = state else {
        return vec![make.whole("Accepted", UNKNOWN, "Pending", "not compiled yet".to_owned())];
    };
    if !state.held.is_empty() {
        let about = format!("{}", stored.key);
        let mine: Vec<_> = state.held.iter().filter(|line| line.contains(&about)).cloned().collect();
        let lines = if mine.is_empty() { &state.held } else { &mine };
        let message = format!("the tenant is held at its last good configuration: {}", lines.join("; "));
        return vec![
            make.whole("Accepted", FALSE, "Invalid", message.clone()),
            make.whole("Programmed", FALSE, "Invalid", message),
        ];
    }
    let mut conditions: Vec<_> = dialects(state, stored, &make).collect();
    if let Some(snapshot) = &state.snapshot {
        let here = acks.propagation(&stored.tenant, &snapshot.hash, |p| snapshot.pools.contains(p));
        let propagation = elsewhere.with(&stored.tenant, here);
        conditions.extend(workers(&make, &propagation, snapshot, stored));
    }
    conditions
}

/// How far a pool's settings have come: they go out in waves. Tenants' hosts go to all at once.
fn platform(world: &World, acks: &Acks, stored: &Stored, make: &Maker) -> Vec<Condition> {
    let Ok(pool) = stored.key.name.parse().map_err(drop) else { return vec![] };
    if stored.key.kind != Kind::Pool || !world.pools.contains_key(&pool) {
        return vec![];
    }
    if world.revision < stored.revision {
        return vec![make.whole("Propagated", UNKNOWN, "Pending", "not read yet".to_owned())];
    }
    let progress = acks.progress().borrow().clone();
    let held = match &progress.stage {
        Stage::Held(why) if progress.number == world.platform => Some(why),
        _ => None,
    };
    let Propagation { wanted, active, .. } = acks.platform(&pool, world.platform);
    let count = format!("{active} of {wanted} workers have the settings of all pools");
    let (status, reason, message) = match held {
        Some(why) => (FALSE, "Held", format!("{count}; the others keep what was good before: {why}")),
        None if world.waiting => {
            (FALSE, "Waiting", "the change of pools before this one is on its way".into())
        }
        None if wanted == 0 => {
            (UNKNOWN, "NoWorkers", "no worker of the pool is connected to this server".into())
        }
        None if active < wanted => (FALSE, "RollingOut", count),
        None => (TRUE, "Propagated", count),
    };
    vec![
        make.whole("Propagated", status, reason, message.clone()),
        make.whole("Programmed", status, reason, message),
    ]
}

/// What the dialect said.
fn dialects<'a>(
    state: &'a TenantState,
    stored: &Stored,
    make: &'a Maker,
) -> impl Iterator<Item = Condition> + 'a {
    let statuses = state.statuses.get(&stored.key);
    statuses.into_iter().flat_map(|status| &status.conditions).map(|condition| {
        let parent = match &condition.scope {
            Scope::Object => String::new(),
            Scope::Listener(name) | Scope::Parent(name) => name.clone(),
        };
        let status = if condition.status { TRUE } else { FALSE };
        Condition {
            parent,
            ..make.whole(&condition.kind, status, &condition.reason, condition.message.clone())
        }
    })
}

/// What the workers said.
fn workers(make: &Maker, propagation: &Propagation, snapshot: &Snapshot, stored: &Stored) -> [Condition; 2] {
    let Propagation { wanted, active, refused } = propagation;
    let revision = snapshot.revision;
    let count = format!("{active} of {wanted} workers serve revision {revision}");
    if *wanted == 0 {
        let message = match snapshot.pools.is_empty() {
            true => "no listener uses it, so no worker serves it".to_owned(),
            false => "no worker of its pools is connected and has started".to_owned(),
        };
        return [
            make.whole("Propagated", UNKNOWN, "NoWorkers", message.clone()),
            make.whole("Programmed", UNKNOWN, "NoWorkers", message),
        ];
    }
    if active == wanted {
        return [
            make.whole("Propagated", TRUE, "Propagated", count.clone()),
            make.whole("Programmed", TRUE, "Programmed", count),
        ];
    }
    let reason = if refused.is_empty() { "Pending" } else { "Refused" };
    let message = match refusals(propagation, stored) {
        Some(why) => format!("{count}; {why}"),
        None => count,
    };
    [
        make.whole("Propagated", FALSE, reason, message.clone()),
        make.whole("Programmed", FALSE, reason, message),
    ]
}

/// Who refused, and why: on the object that a worker blamed, in its words; on the tenant's others, which one it was.
fn refusals(propagation: &Propagation, stored: &Stored) -> Option<String> {
    let (worker, nack) = propagation.refused.first()?;
    let about = stored.key.to_string();
    let mine = propagation.refused.iter().find_map(|(worker, nack)| {
        let of_this = |origin: &str| {
            origin.strip_prefix(about.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        nack.causes.iter().find(|c| of_this(&c.origin)).map(|cause| (worker, nack.revision, cause))
    });
    Some(match mine {
        Some((worker, revision, cause)) => format!("worker {worker} refused revision {revision}: {cause}"),
        None => format!("worker {worker} refused the tenant's configuration: {nack}"),
    })
}

struct Maker {
    generation: u64,
}

impl Maker {
    fn whole(&self, kind: &str, status: &str, reason: &str, message: String) -> Condition {
        Condition {
            r#type: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: self.generation,
            parent: String::new(),
        }
    }
}
