//! What a server plans for this node, checked.

use std::{collections::BTreeSet, time::Duration};

use api::{
    agent::{Listen, Transport},
    node::{PoolListen, PoolPlan},
};
use model::{PoolName, WorkerId};
use serde::{Deserialize, Serialize};

/// The most workers that one node runs of one pool: a plan beyond is a mistake, not a wish.
pub const MAX_WORKERS: u32 = 256;

/// The most slots of one address. Beyond it, slots for each worker get fewer than four.
const MAX_SLOTS: u32 = 1024;

/// Slots for each worker that may ever be: with four, an even spread is even within a quarter of a share.
const SLOTS_PER_WORKER: u32 = 4;

/// The order of plans. A leader's term comes first: what a deposed leader planned is stale whatever its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct PlanVersion {
    /// The leader's term.
    pub term: u64,
    /// Counted by the leader.
    pub generation: u64,
}

/// What this node should run of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The pool.
    pub pool: PoolName,
    /// Its place among the plans.
    pub version: PlanVersion,
    /// How many workers should take connections.
    pub workers: u32,
    /// Who drains first when there are too many.
    pub drain: Vec<WorkerId>,
    /// Where they listen.
    pub listen: BTreeSet<Listen>,
    /// The most that there will ever be.
    pub max_workers: u32,
    /// Request threads of each.
    pub threads: u32,
    /// See [`Self::drain_deadline`].
    pub drain_deadline_ms: u64,
}

/// Why a plan makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plan of pool {pool:?}: {problem}")]
pub struct InvalidPlan {
    /// The pool as the server named it.
    pub pool: String,
    /// What is wrong.
    pub problem: String,
}

impl Plan {
    /// Connections at this time after the beginning of a drain are closed.
    #[must_use]
    pub fn drain_deadline(&self) -> Duration {
        Duration::from_millis(self.drain_deadline_ms)
    }

    /// How many slots an address needs.
    #[must_use]
    pub fn slots(&self, transport: Transport) -> usize {
        let each = match transport {
            Transport::Tcp => SLOTS_PER_WORKER,
            // Twice as many as threads: a drainer keeps its own while its successor has others.
            Transport::Udp => self.threads.saturating_mul(2),
        };
        let slots = self.max_workers.max(self.workers).saturating_mul(each).min(MAX_SLOTS);
        slots as usize
    }
}

impl TryFrom<PoolPlan> for Plan {
    type Error = InvalidPlan;

    fn try_from(plan: PoolPlan) -> Result<Self, InvalidPlan> {
        let fail = |problem: String| InvalidPlan { pool: plan.pool.clone(), problem };
        let pool = plan.pool.parse().map_err(|e: model::InvalidName| fail(e.to_string()))?;
        if plan.workers > MAX_WORKERS {
            return Err(fail(format!("{} workers on one node; the most is {MAX_WORKERS}", plan.workers)));
        }
        let drain: Result<Vec<WorkerId>, _> = plan.drain.iter().map(|worker| worker.parse()).collect();
        let mut listen = BTreeSet::new();
        for one in &plan.listen {
            let own = parse_listen(one).map_err(fail)?;
            if one.tls && one.http3 && !one.raw {
                listen.insert(Listen { transport: Transport::Udp, ..own.clone() });
            }
            if !listen.insert(own) {
                return Err(fail("two listeners have one address".to_owned()));
            }
        }
        let mut addresses = BTreeSet::new();
        if let Some(second) = listen.iter().find(|l| !addresses.insert((l.bind, l.transport))) {
            return Err(fail(match second.transport {
                Transport::Tcp => "two listeners have one address".to_owned(),
                Transport::Udp => format!("two listeners, or one and HTTP/3, have {} by UDP", second.bind),
            }));
        }
        Ok(Self {
            pool,
            version: PlanVersion { term: plan.term, generation: plan.generation },
            workers: plan.workers,
            drain: drain.map_err(|e| fail(e.to_string()))?,
            listen,
            max_workers: plan.max_workers.clamp(1, MAX_WORKERS),
            threads: plan.threads_per_worker.clamp(1, 64),
            drain_deadline_ms: plan.drain_deadline_ms,
        })
    }
}

fn parse_listen(listen: &PoolListen) -> Result<Listen, String> {
    let bind = listen.bind.parse().map_err(|_| format!("{:?} is not an address and port", listen.bind))?;
    let port = u16::try_from(listen.port).map_err(|_| format!("{} is not a port", listen.port))?;
    let (transport, raw, tls) = match listen.udp {
        true => (Transport::Udp, true, false),
        false => (Transport::Tcp, listen.raw, listen.tls),
    };
    Ok(Listen { bind, port, tls, transport, raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> PoolPlan {
        PoolPlan {
            pool: "default".to_owned(),
            workers: 2,
            max_workers: 16,
            listen: vec![PoolListen { bind: "127.0.0.1:8080".to_owned(), port: 80, ..PoolListen::default() }],
            ..PoolPlan::default()
        }
    }

    #[test]
    fn a_plan_has_four_slots_a_worker_within_bounds() {
        let plan = Plan::try_from(wire()).unwrap();
        assert_eq!(plan.slots(Transport::Tcp), 64);
        assert_eq!(plan.slots(Transport::Udp), 32);
        let huge = Plan::try_from(PoolPlan { max_workers: u32::MAX, ..wire() }).unwrap();
        assert_eq!(huge.slots(Transport::Tcp), 1024);
        assert_eq!(huge.threads, 1);
    }

    #[test]
    fn http_3_is_the_same_port_by_udp() {
        let listen = |tls, http3| {
            let bind = "127.0.0.1:8443".to_owned();
            let plan = PoolPlan {
                listen: vec![PoolListen { bind, port: 443, tls, http3, ..PoolListen::default() }],
                ..wire()
            };
            Plan::try_from(plan).unwrap().listen.into_iter().map(|l| (l.transport, l.tls)).collect::<Vec<_>>()
        };
        assert_eq!(listen(true, true), [(Transport::Tcp, true), (Transport::Udp, true)]);
        assert_eq!(listen(true, false), [(Transport::Tcp, true)]);
        assert_eq!(listen(false, true), [(Transport::Tcp, false)], "never without TLS");
    }

    #[test]
    fn a_port_of_udp_is_beside_that_of_tcp_and_not_beside_http_3() {
        let bind = || "127.0.0.1:8443".to_owned();
        let udp = PoolListen { bind: bind(), port: 53, udp: true, raw: true, ..PoolListen::default() };
        let beside = |tls, http3| {
            let tcp = PoolListen { bind: bind(), port: 443, tls, http3, ..PoolListen::default() };
            Plan::try_from(PoolPlan { listen: vec![tcp, udp.clone()], ..wire() })
        };
        let listen: Vec<_> = beside(true, false).unwrap().listen.into_iter().collect();
        let kinds: Vec<_> = listen.iter().map(|l| (l.transport, l.port, l.tls, l.raw)).collect();
        assert_eq!(kinds, [(Transport::Udp, 53, false, true), (Transport::Tcp, 443, true, false)]);
        let error = beside(true, true).unwrap_err().to_string();
        assert!(error.contains("one and HTTP/3, have 127.0.0.1:8443 by UDP"), "{error}");
    }

    #[test]
    fn a_mistake_is_named() {
        let check = |plan: PoolPlan, problem: &str| {
            let error = Plan::try_from(plan).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        };
        let listen =
            |bind: &str, port| vec![PoolListen { bind: bind.to_owned(), port, ..PoolListen::default() }];
        check(PoolPlan { pool: "No".to_owned(), ..wire() }, "\"No\" is not valid");
        check(PoolPlan { workers: 1_000_000, ..wire() }, "1000000 workers");
        check(PoolPlan { drain: vec!["..".to_owned()], ..wire() }, "\"..\" is not valid");
        check(PoolPlan { listen: listen("localhost", 80), ..wire() }, "\"localhost\" is not an address");
        check(PoolPlan { listen: listen("127.0.0.1:1", 65_536), ..wire() }, "65536 is not a port");
        let twice = [listen("127.0.0.1:1", 80), listen("127.0.0.1:1", 81)].concat();
        check(PoolPlan { listen: twice, ..wire() }, "two listeners have one address");
    }
}
