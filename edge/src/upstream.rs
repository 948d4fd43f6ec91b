//! The upstream side of one thread: backends, their endpoints and the connections to them. Nothing here is shared
//! with another thread but the table of resolved names.

pub(crate) mod connect;
pub(crate) mod exchange;
pub(crate) mod links;
pub(crate) mod pool;
pub(crate) mod resolve;
pub(crate) mod transport;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
};

use model::{Backend, EndpointAddress, TenantId};

use crate::{
    balance::{self, Candidate},
    config::TenantTable,
    h1::Scheme,
    limits::ENDPOINT_REST,
    worker::Thread,
};
use connect::Spoken;
use links::Links;
use pool::Idle;
use transport::{Transport, TransportKey};

/// What an endpoint is to a thread: whose, where, and how it is spoken to.
type EndpointKey = (TenantId, SocketAddr, TransportKey);

/// The backends that a thread forwards to.
#[derive(Default)]
pub(crate) struct Upstreams {
    /// By the address of the backend's `Arc`, which the entry keeps alive, so that no other can take it.
    balancers: RefCell<HashMap<*const Backend, Rc<Balancer>>>,
    /// Endpoints live on when a configuration changes. Tenants never share a connection.
    endpoints: RefCell<HashMap<EndpointKey, Weak<Endpoint>>>,
}

impl Upstreams {
    /// The balancer of a backend of the pinned configuration.
    pub(crate) fn balancer(
        &self,
        thread: &Thread,
        table: &TenantTable,
        backend: &Arc<Backend>,
    ) -> Rc<Balancer> {
        let resolved = thread.shared.resolved.load().version;
        if let Some(found) = self.balancers.borrow().get(&Arc::as_ptr(backend))
            && found.resolved == resolved
        {
            return Rc::clone(found);
        }
        let balancer = Rc::new(self.build(thread, table, backend));
        self.balancers.borrow_mut().insert(Arc::as_ptr(backend), Rc::clone(&balancer));
        balancer
    }

    fn build(&self, thread: &Thread, table: &TenantTable, backend: &Arc<Backend>) -> Balancer {
        let names = thread.shared.resolved.load();
        let tls = table.upstream_tls.get(&backend.id).cloned();
        // Compiled together with the backend; one that asks for TLS is never spoken to without.
        let reachable = tls.is_some() == backend.tls.is_some();
        let transport = Transport::new(backend, tls);
        let mut endpoints = Vec::new();
        let mut add = |address: SocketAddr, weight: u32| {
            if reachable && !model::is_denied(address.ip()) {
                endpoints.push((self.endpoint(&table.tenant, address, &transport), weight));
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
        Balancer { backend: Arc::clone(backend), resolved: names.version, endpoints }
    }

    fn endpoint(&self, tenant: &TenantId, address: SocketAddr, transport: &Transport) -> Rc<Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        let place = endpoints.entry((tenant.clone(), address, transport.key())).or_default();
        place.upgrade().unwrap_or_else(|| {
            let endpoint = Rc::new(Endpoint {
                address,
                transport: transport.clone(),
                spoken: Cell::default(),
                links: Links::default(),
                in_flight: Cell::new(0),
                resting_until_ms: Cell::new(0),
                idle: RefCell::default(),
            });
            *place = Rc::downgrade(&endpoint);
            endpoint
        })
    }

    /// Closes what was idle for too long and forgets backends that no configuration has any more.
    pub(crate) fn sweep(&self, now_ms: u64) {
        let mut balancers = self.balancers.borrow_mut();
        balancers.retain(|_, balancer| Arc::strong_count(&balancer.backend) > 1);
        for (endpoint, _) in balancers.values().flat_map(|b| &b.endpoints) {
            endpoint.idle.borrow_mut().expire(now_ms);
            endpoint.links.expire(now_ms);
        }
        drop(balancers);
        self.endpoints.borrow_mut().retain(|_, endpoint| endpoint.strong_count() > 0);
    }
}

/// Spreads a backend's requests over its endpoints.
pub(crate) struct Balancer {
    pub(crate) backend: Arc<Backend>,
    resolved: u64,
    endpoints: Vec<(Rc<Endpoint>, u32)>,
}

impl Balancer {
    /// The endpoint for the next try; `None` if the backend has none (its name does not resolve).
    pub(crate) fn pick(&self, thread: &Thread) -> Option<Rc<Endpoint>> {
        if let [(only, _)] = self.endpoints.as_slice() {
            return Some(Rc::clone(only));
        }
        let now = thread.clock.now_ms();
        let candidates: Vec<_> = self
            .endpoints
            .iter()
            .map(|(endpoint, weight)| Candidate {
                weight: *weight,
                in_flight: endpoint.in_flight.get(),
                resting: endpoint.resting_until_ms.get() > now,
            })
            .collect();
        let chosen = balance::choose(&candidates, |bound| thread.random_below(bound))?;
        Some(Rc::clone(&self.endpoints[chosen].0))
    }
}

/// One address that answers requests, as one thread sees it.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    transport: Transport,
    spoken: Cell<Spoken>,
    links: Links,
    in_flight: Cell<u32>,
    resting_until_ms: Cell<u64>,
    idle: RefCell<Idle>,
}

impl Endpoint {
    /// The scheme of requests to it.
    pub(crate) fn scheme(&self) -> Scheme {
        if self.transport.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// It could not be connected to: others are preferred for a while.
    pub(crate) fn rest(&self, now_ms: u64) {
        let rest = u64::try_from(ENDPOINT_REST.as_millis()).unwrap_or(u64::MAX);
        self.resting_until_ms.set(now_ms.saturating_add(rest));
    }

    /// Counts a request on it until the guard is dropped.
    pub(crate) fn occupy(self: &Rc<Self>) -> Occupied {
        self.in_flight.set(self.in_flight.get() + 1);
        Occupied(Rc::clone(self))
    }
}

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
