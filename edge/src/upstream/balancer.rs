//! How one configuration spreads a backend's requests over its endpoints.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use model::{Backend, Balancing, EndpointAddress, HedgeDelay};
use tracing::info;

use super::{Endpoint, Group, check::Vital, resolve::Resolved, transport::Transport};
use crate::{
    balance::{
        RoundRobin, Shares,
        hash::{Maglev, Ring, Table},
    },
    config::TenantTable,
    health::{self, Verdict},
    worker::Thread,
};

/// Spreads a backend's requests over its endpoints.
pub(crate) struct Balancer {
    pub(crate) backend: Arc<Backend>,
    pub(crate) group: Rc<Group>,
    resolved: u64,
    members: Vec<Member>,
    shares: RefCell<Shares>,
    policy: Policy,
    /// It has nothing that could keep a request from its only endpoint.
    is_plain: bool,
    /// The group's changes that `shares` know of.
    seen: Cell<Option<u64>>,
    /// When an answer is late, where it is known.
    hedge_after: Cell<Option<Duration>>,
}

/// Why there is no endpoint for a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoEndpoint {
    /// None is known: the backend's names do not resolve.
    Unresolved,
    /// None is well, and the policy says not to try the others.
    Unhealthy,
    /// All that are well have as many requests as the policy allows.
    Full,
}

/// An endpoint in its backend.
struct Member {
    endpoint: Rc<Endpoint>,
    weight: u64,
    /// What health checks say, where there are some, and what they said when it was last looked at.
    vital: Option<Arc<Vital>>,
    down: Cell<bool>,
}

impl Balancer {
    pub(super) fn new(
        thread: &Thread,
        table: &TenantTable,
        backend: &Arc<Backend>,
        names: &Resolved,
        group: Rc<Group>,
    ) -> Self {
        let tls = table.upstream_tls.get(&backend.id).cloned();
        // Compiled together with the backend; one that asks for TLS is never spoken to without.
        let reachable = tls.is_some() == backend.tls.is_some();
        let transport = Transport::new(backend, tls);
        let mut members: Vec<Member> = Vec::new();
        let mut places: HashMap<_, usize> = HashMap::new();
        // Those that a backend begins with are all as new: none is warmed up.
        let since_ms = if group.is_new() { 0 } else { thread.clock.now_ms() };
        let mut add = |address: SocketAddr, weight: u32| {
            if !reachable || model::is_denied(address.ip()) {
                return;
            }
            match places.entry(address) {
                // Said twice, or two names for it.
                Entry::Occupied(place) => members[*place.get()].weight += u64::from(weight),
                Entry::Vacant(place) => {
                    place.insert(members.len());
                    let endpoint = group.endpoint(address, &transport, since_ms);
                    endpoint.pool.set(backend.traffic.pool);
                    let vitals = || thread.shared.vitals.of(&table.tenant, &backend.id, address);
                    let vital = backend.traffic.health_check.is_some().then(vitals);
                    let down = Cell::new(vital.as_ref().is_some_and(|vital| vital.is_down()));
                    members.push(Member { endpoint, weight: weight.into(), vital, down });
                }
            }
        };
        for endpoint in &backend.endpoints {
            match &endpoint.address {
                EndpointAddress::Ip(address) => add(*address, endpoint.weight),
                EndpointAddress::Dns { host, port } => {
                    for ip in names.addresses(host) {
                        add(SocketAddr::new(*ip, *port), endpoint.weight);
                    }
                }
            }
        }
        let traffic = &backend.traffic;
        let policy = Policy::new(&traffic.balancing, &members);
        let hedge_after = late(traffic.hedging, &members);
        Self {
            backend: Arc::clone(backend),
            group,
            resolved: names.version,
            members,
            shares: RefCell::default(),
            is_plain: traffic.outliers.is_none()
                && traffic.health_check.is_none()
                && traffic.pool.max_requests.is_none(),
            policy,
            seen: Cell::new(None),
            hedge_after: Cell::new(hedge_after),
        }
    }

    /// The version of the names that it knows.
    pub(super) fn resolved(&self) -> u64 {
        self.resolved
    }

    /// Whether its backend is in a configuration that somebody has.
    pub(super) fn is_configured(&self) -> bool {
        Arc::strong_count(&self.backend) > 1
    }

    /// The endpoint for the next try: another than the one that failed, if there is another. `key` is the hash of what
    /// the policy looks at, where the request has that.
    ///
    /// # Errors
    /// [`NoEndpoint`].
    pub(crate) fn pick(
        &self,
        thread: &Thread,
        key: Option<u64>,
        failed: Option<&Rc<Endpoint>>,
    ) -> Result<Rc<Endpoint>, NoEndpoint> {
        if let [only] = self.members.as_slice()
            && self.is_plain
        {
            return Ok(Rc::clone(&only.endpoint));
        }
        self.refresh(thread);
        let shares = self.shares.borrow();
        let load = |place: usize| self.members[place].endpoint.load();
        let draw = |below| thread.random_below(below);
        let failed =
            failed.and_then(|failed| self.members.iter().position(|m| Rc::ptr_eq(&m.endpoint, failed)));
        let chosen = match (&self.policy, key) {
            _ if failed.is_some() => shares.least_loaded(failed, load, draw).or(failed),
            (Policy::Hashed(table), Some(key)) => table.find(key, |place| shares.contains(place)),
            (Policy::PowerOfTwo | Policy::Hashed(_), _) => shares.power_of_two(load, draw),
            (Policy::LeastRequest, _) => shares.least_loaded(None, load, draw),
            (Policy::RoundRobin(turns), _) => turns.borrow_mut().next(&shares),
        };
        let nobody = || if self.members.is_empty() { NoEndpoint::Unresolved } else { NoEndpoint::Unhealthy };
        let mut chosen = chosen.ok_or_else(nobody)?;
        if let Some(most) = self.backend.traffic.pool.max_requests
            && load(chosen) >= most
        {
            chosen = shares.places().find(|place| load(*place) < most).ok_or(NoEndpoint::Full)?;
        }
        Ok(Rc::clone(&self.members[chosen].endpoint))
    }

    /// When an answer is late, so that another endpoint is asked; `None`: never, or it is not known yet.
    pub(crate) fn hedge_after(&self) -> Option<Duration> {
        self.hedge_after.get()
    }

    /// Another endpoint than `first`, if one may be chosen.
    pub(crate) fn other(&self, thread: &Thread, first: &Rc<Endpoint>) -> Option<Rc<Endpoint>> {
        let other = self.pick(thread, None, Some(first)).ok()?;
        (!Rc::ptr_eq(&other, first)).then_some(other)
    }

    /// The endpoint of that address, if it may be chosen.
    pub(crate) fn find(&self, thread: &Thread, address: SocketAddr) -> Option<Rc<Endpoint>> {
        let place = self.members.iter().position(|member| member.endpoint.address == address)?;
        self.refresh(thread);
        let endpoint = &self.members.get(place)?.endpoint;
        let has_room = self.backend.traffic.pool.max_requests.is_none_or(|most| endpoint.load() < most);
        (has_room && self.shares.borrow().contains(place)).then(|| Rc::clone(endpoint))
    }

    /// Whether whoever has chosen `endpoint` before may go on with it.
    pub(crate) fn allows(&self, thread: &Thread, endpoint: &Rc<Endpoint>) -> bool {
        let place = self.members.iter().position(|member| Rc::ptr_eq(&member.endpoint, endpoint));
        place.is_some_and(|place| {
            self.refresh(thread);
            self.shares.borrow().contains(place)
        })
    }

    /// Looks again at who may be chosen, if something has changed.
    ///
    /// Those that could not be connected to a moment ago are passed over unless all are. Those that are down or ejected
    /// are left out, too, unless so few would be left that the policy says to use all: a wrong guess about health must
    /// not make an outage.
    fn refresh(&self, thread: &Thread) {
        let changes = self.group.changes.get();
        if self.seen.replace(Some(changes)) == Some(changes) {
            return;
        }
        let all_rest = self.members.iter().all(|member| member.endpoint.is_resting());
        let is_reachable = |member: &Member| all_rest || !member.endpoint.is_resting();
        let is_well = |member: &Member| is_reachable(member) && !self.is_left_out(member);
        let (all, well) = (self.members.len(), self.members.iter().filter(|member| is_well(member)).count());
        let left_out = self.members.iter().any(|member| self.is_left_out(member));
        let is_panic = left_out && well * 100 < all * usize::from(self.backend.traffic.panic_percent);
        if is_panic {
            thread.counters.panics.add(1);
        }
        let usable = self.members.iter().enumerate();
        let usable =
            usable.filter(|(_, member)| if is_panic { is_reachable(member) } else { is_well(member) });
        let now_ms = thread.clock.now_ms();
        let shares = Shares::new(usable.map(|(place, member)| (place, self.weight(member, now_ms))));
        if let Policy::RoundRobin(turns) = &self.policy {
            turns.replace(RoundRobin::new(&shares, |below| thread.random_below(below)));
        }
        self.shares.replace(shares);
    }

    /// Its weight in thousandths, which grows while it warms up.
    fn weight(&self, member: &Member, now_ms: u64) -> u64 {
        let warm_up = self.backend.traffic.slow_start;
        member.weight * warm_up.map_or(1000, |warm_up| member.endpoint.warmth(warm_up, now_ms))
    }

    /// Whether the policy leaves it out.
    fn is_left_out(&self, member: &Member) -> bool {
        member.down.get() || (self.backend.traffic.outliers.is_some() && member.endpoint.is_ejected())
    }

    /// Takes note of how a try on `endpoint` ended.
    pub(crate) fn note(&self, thread: &Thread, endpoint: &Endpoint, verdict: Verdict) {
        let Some(policy) = &self.backend.traffic.outliers else { return };
        let now_ms = thread.clock.now_ms();
        if !endpoint.note(policy, verdict, now_ms) || endpoint.is_ejected() {
            return;
        }
        let ejected = self.members.iter().filter(|member| member.endpoint.is_ejected()).count();
        if health::may_eject(policy, ejected, self.members.len()) {
            endpoint.eject(policy, now_ms);
            thread.counters.ejections.add(1);
            info!(backend = %self.backend.id, address = %endpoint.address, ?verdict, "an endpoint is ejected");
        }
    }

    /// Once each tick: takes endpoints back whose time is over, hears what checks have found, and tells what it sees.
    pub(super) fn sweep(&self, now_ms: u64) {
        for member in &self.members {
            member.endpoint.sweep(now_ms);
            if let Some(policy) = &self.backend.traffic.outliers {
                member.endpoint.readmit(policy, now_ms);
            }
            let is_down = member.vital.as_ref().is_some_and(|vital| vital.is_down());
            if member.down.replace(is_down) != is_down {
                member.endpoint.begin(now_ms);
                self.group.changed();
            }
        }
        if let Some(warm_up) = self.backend.traffic.slow_start
            && self.members.iter().any(|member| member.endpoint.warmth(warm_up, now_ms) < 1000)
        {
            self.group.changed();
        }
        self.hedge_after.set(late(self.backend.traffic.hedging, &self.members));
        let count =
            |is: &dyn Fn(&Member) -> bool| self.members.iter().filter(|member| is(member)).count() as u64;
        let gauges = &self.group.gauges;
        gauges.endpoints.set(self.members.len() as u64);
        gauges.resting.set(count(&|member| member.endpoint.is_resting()));
        gauges.ejected.set(count(&|member| member.endpoint.is_ejected()));
        gauges.down.set(count(&|member| member.down.get()));
    }
}

/// When an answer is late. Where that follows what is observed, it is the median of the endpoints': one that is slow does
/// not say what is late, and neither does one that is quick.
fn late(hedging: Option<HedgeDelay>, members: &[Member]) -> Option<Duration> {
    match hedging? {
        HedgeDelay::Fixed(delay) => Some(delay),
        HedgeDelay::Percentile { percent, at_least } => {
            let mut known: Vec<_> =
                members.iter().filter_map(|member| member.endpoint.latency(percent)).collect();
            known.sort_unstable();
            known.get(known.len().saturating_sub(1) / 2).map(|late| at_least.max(*late))
        }
    }
}

/// What chooses, with what it remembers.
enum Policy {
    PowerOfTwo,
    LeastRequest,
    RoundRobin(RefCell<RoundRobin>),
    /// Over all endpoints, usable or not: one that is left out for a while moves only its own keys.
    Hashed(Table),
}

impl Policy {
    fn new(balancing: &Balancing, members: &[Member]) -> Self {
        let addresses = || members.iter().map(|m| (m.endpoint.address, m.weight)).collect::<Vec<_>>();
        match balancing {
            Balancing::PowerOfTwo => Self::PowerOfTwo,
            Balancing::LeastRequest => Self::LeastRequest,
            // Its shares come with the first request.
            Balancing::RoundRobin => {
                Self::RoundRobin(RefCell::new(RoundRobin::new(&Shares::default(), |_| 0)))
            }
            Balancing::RingHash(_) => Self::Hashed(Table::Ring(Ring::new(&addresses()))),
            Balancing::Maglev(_) => Self::Hashed(Table::Maglev(Maglev::new(&addresses()))),
        }
    }
}
