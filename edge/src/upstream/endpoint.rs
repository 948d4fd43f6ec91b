//! One address that answers requests, as one thread sees it.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    time::Duration,
};

use model::{OutlierDetection, PoolPolicy};

use super::{
    Group,
    connect::Spoken,
    latency::Latency,
    links::Links,
    pool::{Idle, millis},
    transport::Transport,
};
use crate::{
    h1::Scheme,
    health::{Record, Verdict},
    limits::ENDPOINT_REST,
    worker::micros,
};

/// One address that answers requests, its connections and what is known of it.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(super) transport: Transport,
    pub(super) spoken: Cell<Spoken>,
    pub(super) links: Links,
    pub(super) idle: RefCell<Idle>,
    /// As the newest configuration has it.
    pub(super) pool: Cell<PoolPolicy>,
    in_flight: Cell<u32>,
    /// Since when it may be used; zero: it always could.
    since_ms: Cell<u64>,
    /// Zero if it does not rest.
    resting_until_ms: Cell<u64>,
    /// What is held against it.
    record: Cell<Record>,
    /// How long it takes to answer, where somebody wants to know.
    latency: RefCell<Option<Box<Latency>>>,
    group: Weak<Group>,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, transport: Transport, since_ms: u64, group: Weak<Group>) -> Self {
        Self {
            address,
            transport,
            spoken: Cell::default(),
            links: Links::default(),
            idle: RefCell::default(),
            pool: Cell::default(),
            in_flight: Cell::new(0),
            since_ms: Cell::new(since_ms),
            resting_until_ms: Cell::new(0),
            record: Cell::default(),
            latency: RefCell::default(),
            group,
        }
    }

    /// The scheme of requests to it.
    pub(crate) fn scheme(&self) -> Scheme {
        if self.transport.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Requests that run on it from this thread.
    pub(super) fn load(&self) -> u32 {
        self.in_flight.get()
    }

    /// It may be used from now on.
    pub(super) fn begin(&self, now_ms: u64) {
        self.since_ms.set(now_ms);
    }

    /// How far it has come in a warm-up of this length, in thousandths.
    pub(super) fn warmth(&self, warm_up: Duration, now_ms: u64) -> u64 {
        let since = self.since_ms.get();
        let (elapsed, whole) = (now_ms.saturating_sub(since), millis(warm_up).max(1));
        if since == 0 || elapsed >= whole { 1000 } else { (elapsed * 1000 / whole).max(COLD) }
    }

    /// It could not be connected to: others are preferred for a while.
    pub(crate) fn rest(&self, now_ms: u64) {
        self.resting_until_ms.set(now_ms.saturating_add(millis(ENDPOINT_REST)));
        self.changed();
    }

    pub(super) fn is_resting(&self) -> bool {
        self.resting_until_ms.get() != 0
    }

    /// Whether it is left out because of how it answered.
    pub(super) fn is_ejected(&self) -> bool {
        self.record.get().is_ejected()
    }

    /// Takes note of how a try ended. Whether it has earned its ejection.
    pub(super) fn note(&self, policy: &OutlierDetection, verdict: Verdict, now_ms: u64) -> bool {
        let mut record = self.record.get();
        let earned = record.note(policy, verdict, now_ms);
        self.record.set(record);
        earned
    }

    /// Leaves it out.
    pub(super) fn eject(&self, policy: &OutlierDetection, now_ms: u64) {
        let mut record = self.record.get();
        record.eject(policy, now_ms);
        self.record.set(record);
        self.changed();
    }

    /// Takes it back when its time is over.
    pub(super) fn readmit(&self, policy: &OutlierDetection, now_ms: u64) {
        let mut record = self.record.get();
        let is_back = record.sweep(policy, now_ms);
        self.record.set(record);
        if is_back {
            self.begin(now_ms);
            self.changed();
        }
    }

    /// It took so long to answer, or longer.
    pub(crate) fn observe(&self, elapsed: Duration) {
        self.latency.borrow_mut().get_or_insert_default().record(micros(elapsed));
    }

    /// The time within which it has answered so many of a hundred requests, if that is known; as of now, older ones count less.
    pub(super) fn latency(&self, percent: u8) -> Option<Duration> {
        let mut latency = self.latency.borrow_mut();
        let latency = latency.as_deref_mut()?;
        latency.age();
        latency.percentile_us(percent).map(Duration::from_micros)
    }

    /// Counts a request on it until the guard is dropped.
    pub(crate) fn occupy(self: &Rc<Self>) -> Occupied {
        self.in_flight.set(self.in_flight.get() + 1);
        Occupied(Rc::clone(self))
    }

    /// Ends its rest when that is over, and closes connections that were idle for too long.
    pub(super) fn sweep(&self, now_ms: u64) {
        if self.is_resting() && self.resting_until_ms.get() <= now_ms {
            self.resting_until_ms.set(0);
            self.begin(now_ms);
            self.changed();
        }
        self.idle.borrow_mut().expire(now_ms, self.pool.get());
        self.links.expire(now_ms, self.pool.get());
    }

    /// A number that is another when its backend's endpoints may have to be chosen anew.
    pub(crate) fn changes(&self) -> u64 {
        self.group.upgrade().map_or(u64::MAX, |group| group.changes.get())
    }

    /// Balancers must look at it again.
    fn changed(&self) {
        if let Some(group) = self.group.upgrade() {
            group.changed();
        }
    }
}

/// What an endpoint has of its share at the least, in thousandths: Envoy's tenth.
const COLD: u64 = 100;

/// A request that runs on an endpoint.
pub(crate) struct Occupied(Rc<Endpoint>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

impl Occupied {
    /// The endpoint.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0
    }
}
