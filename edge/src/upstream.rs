//! The upstream side of one thread: backends, their endpoints and the connections to them. Nothing here is shared
//! with another thread but the table of resolved names.
//!
//! What is known of a backend and of its endpoints (connections, load, health, retries left) belongs to a [`Group`] and
//! outlives configurations: it is found again by the backend's id and the endpoint's address. A [`Balancer`] is how one
//! configuration spreads requests over a group's endpoints.

pub(crate) mod balancer;
pub(crate) mod check;
pub(crate) mod connect;
pub(crate) mod endpoint;
pub(crate) mod exchange;
pub(crate) mod h2;
mod latency;
pub(crate) mod links;
pub(crate) mod pool;
pub(crate) mod resolve;
pub(crate) mod transport;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{self, Arc},
};

use foldhash::fast::RandomState;
use model::{Backend, BackendId, TenantId};

use crate::{
    config::{Config, TenantTable},
    journal::BackendName,
    metrics::BackendGauges,
    retry::RetryBudget,
    worker::Thread,
};
pub(crate) use balancer::{Balancer, NoEndpoint};
pub(crate) use endpoint::{Endpoint, Occupied};
use transport::{Transport, TransportKey};

/// The backends that a thread forwards to.
#[derive(Default)]
pub(crate) struct Upstreams {
    /// By the address of the backend's `Arc`, which the entry keeps alive, so that no other can take it.
    balancers: RefCell<HashMap<*const Backend, Rc<Balancer>, RandomState>>,
    /// Tenants never share a connection, and neither do backends.
    groups: RefCell<HashMap<(TenantId, BackendId), Weak<Group>>>,
    /// The configuration that the balancers were last made for.
    followed: RefCell<sync::Weak<Config>>,
}

impl Upstreams {
    /// The balancer of a backend of the pinned configuration.
    pub(crate) fn balancer(
        &self,
        thread: &Thread,
        table: &TenantTable,
        backend: &Arc<Backend>,
    ) -> Rc<Balancer> {
        let resolved = thread.shared.resolved.load();
        if let Some(found) = self.balancers.borrow().get(&Arc::as_ptr(backend))
            && found.resolved() == resolved.version
        {
            return Rc::clone(found);
        }
        let group = self.group(thread, &table.tenant, &backend.id);
        let balancer = Rc::new(Balancer::new(thread, table, backend, &resolved, group));
        self.balancers.borrow_mut().insert(Arc::as_ptr(backend), Rc::clone(&balancer));
        balancer
    }

    fn group(&self, thread: &Thread, tenant: &TenantId, backend: &BackendId) -> Rc<Group> {
        let mut groups = self.groups.borrow_mut();
        let place = groups.entry((tenant.clone(), backend.clone())).or_default();
        place.upgrade().unwrap_or_else(|| {
            let group = Rc::new(Group::new(backend, thread.counters.backend(tenant, backend)));
            *place = Rc::downgrade(&group);
            group
        })
    }

    /// Moves on to the newest configuration and names, and closes what was idle for too long.
    pub(crate) fn sweep(&self, thread: &Thread) {
        self.follow(thread);
        let now_ms = thread.clock.now_ms();
        for balancer in self.balancers.borrow().values() {
            balancer.sweep(now_ms);
        }
        // Balancers hold the groups.
        self.groups.borrow_mut().retain(|_, group| group.strong_count() > 0);
        self.groups.borrow().values().filter_map(Weak::upgrade).for_each(|group| group.prune());
    }

    /// Makes balancers for the backends that requests went to in the configuration before, and only then lets the old ones
    /// go: what they have in common stays as it is, though no request may come in between.
    fn follow(&self, thread: &Thread) {
        let config = thread.config();
        if !std::ptr::eq(self.followed.borrow().as_ptr(), Arc::as_ptr(&config)) {
            *self.followed.borrow_mut() = Arc::downgrade(&config);
        } else if !self.is_outdated(thread) {
            return;
        }
        let known: Vec<_> = self.groups.borrow().keys().cloned().collect();
        for (tenant, id) in known {
            if let Some(table) = config.tenants.get(tenant.as_str())
                && let Some(backend) = table.backends.get(&id)
            {
                self.balancer(thread, table, backend);
            }
        }
        // A backend that nobody else holds is in no configuration that a request still has.
        self.balancers.borrow_mut().retain(|_, balancer| balancer.is_configured());
    }

    fn is_outdated(&self, thread: &Thread) -> bool {
        let resolved = thread.shared.resolved.load().version;
        let balancers = self.balancers.borrow();
        balancers.values().any(|balancer| balancer.resolved() != resolved || !balancer.is_configured())
    }
}

/// What a thread knows of a backend, whatever the configuration.
pub(crate) struct Group {
    /// The backend's.
    pub(crate) name: BackendName,
    endpoints: RefCell<HashMap<(SocketAddr, TransportKey), Weak<Endpoint>>>,
    /// Of the backend's own: one that is down must not use up what others need.
    pub(crate) retries: RefCell<RetryBudget>,
    /// Rises when an endpoint may be used again, or no more.
    changes: Cell<u64>,
    gauges: Arc<BackendGauges>,
}

impl Group {
    fn new(name: &BackendId, gauges: Arc<BackendGauges>) -> Self {
        Self {
            name: name.0.as_str().into(),
            endpoints: RefCell::default(),
            retries: RefCell::default(),
            changes: Cell::new(0),
            gauges,
        }
    }

    /// Balancers must look again at who may be chosen.
    fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// The endpoint at an address that is spoken to in that way: the one that is there already, or a new one, which may be
    /// used since then.
    fn endpoint(self: &Rc<Self>, address: SocketAddr, transport: &Transport, since_ms: u64) -> Rc<Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        let place = endpoints.entry((address, transport.key())).or_default();
        place.upgrade().unwrap_or_else(|| {
            let endpoint = Rc::new(Endpoint::new(address, transport.clone(), since_ms, Rc::downgrade(self)));
            *place = Rc::downgrade(&endpoint);
            endpoint
        })
    }

    /// Whether it has no endpoints yet.
    fn is_new(&self) -> bool {
        self.endpoints.borrow().is_empty()
    }

    /// Forgets endpoints that are gone.
    fn prune(&self) {
        self.endpoints.borrow_mut().retain(|_, endpoint| endpoint.strong_count() > 0);
    }
}
