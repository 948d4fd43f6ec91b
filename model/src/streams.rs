//! Connections and datagrams that are passed on without a look into them: which route takes them.

use std::collections::BTreeMap;

use crate::{Forward, HostPattern, ListenerProtocol, Origin, PoolName, RouteId, TenantConfig, host::HostMap};

/// The routes of one tenant's listeners for TLS, TCP and UDP.
#[derive(Debug, Default)]
pub struct StreamTable {
    routes: Box<[CompiledStream]>,
    /// By port.
    ports: BTreeMap<u16, HostMap<Place>>,
    /// By port of UDP.
    udp_ports: BTreeMap<u16, HostMap<Place>>,
}

/// Where the streams of one port and host go.
#[derive(Debug, Clone, Copy)]
struct Place {
    route: u32,
    protocol: ListenerProtocol,
}

/// A route of streams.
#[derive(Debug)]
pub struct CompiledStream {
    /// Unique in the tenant; the `route` label of logs.
    pub id: RouteId,
    /// The route object.
    pub origin: Origin,
    /// Its backends by weight.
    pub forward: Forward,
}

/// What takes a stream.
#[derive(Debug, Clone, Copy)]
pub struct FoundStream<'t> {
    /// The route.
    pub route: &'t CompiledStream,
    /// What its listener speaks.
    pub protocol: ListenerProtocol,
}

/// Two routes claim one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// The later one.
    pub(crate) origin: Origin,
    pub(crate) port: u16,
    pub(crate) host: Option<HostPattern>,
}

impl StreamTable {
    /// The table of the listeners of `pool`, or of all. `forwards` are the compiled backends of the routes, in their order.
    pub(crate) fn new(
        config: &TenantConfig,
        forwards: Vec<Forward>,
        pool: Option<&PoolName>,
    ) -> Result<Self, Vec<Claimed>> {
        let mut table = Self::default();
        let mut claimed = vec![];
        for (index, route) in config.streams.iter().enumerate() {
            let listeners = config.listeners.iter().filter(|l| pool.is_none_or(|pool| *pool == l.pool));
            for listener in listeners.filter(|listener| route.listeners.contains(&listener.id)) {
                for host in attached_hosts(&route.hostnames, listener.hostname.as_ref()) {
                    let place = Place { route: crate::compile::position(index), protocol: listener.protocol };
                    let ports =
                        if listener.protocol.is_udp() { &mut table.udp_ports } else { &mut table.ports };
                    let hosts = ports.entry(listener.port).or_default();
                    if hosts.insert(host.as_ref(), place).is_some_and(|before| before.route != place.route) {
                        claimed.push(Claimed { origin: route.origin.clone(), port: listener.port, host });
                    }
                }
            }
        }
        let compiled = config.streams.iter().zip(forwards);
        table.routes = compiled
            .map(|(route, forward)| CompiledStream {
                id: route.id.clone(),
                origin: route.origin.clone(),
                forward,
            })
            .collect();
        if claimed.is_empty() { Ok(table) } else { Err(claimed) }
    }

    /// The backends of each route.
    pub(crate) fn forwards(&self) -> impl Iterator<Item = &Forward> {
        self.routes.iter().map(|route| &route.forward)
    }

    /// The route of a stream that came by `port` and asks for `host` (lowercase; empty where it does not say, or cannot):
    /// on the most specific hostname that the host is of.
    #[must_use]
    pub fn find(&self, port: u16, host: &str) -> Option<FoundStream<'_>> {
        let place = self.ports.get(&port)?.find(host)?;
        let route = self.routes.get(place.route as usize)?;
        Some(FoundStream { route, protocol: place.protocol })
    }

    /// The route of a datagram that came by that port of UDP.
    #[must_use]
    pub fn find_udp(&self, port: u16) -> Option<&CompiledStream> {
        let place = self.udp_ports.get(&port)?.find("")?;
        self.routes.get(place.route as usize)
    }
}

/// The hosts for which a route of these hostnames answers on a listener of that one. `None` is any.
#[must_use]
pub fn attached_hosts(route: &[HostPattern], listener: Option<&HostPattern>) -> Vec<Option<HostPattern>> {
    if route.is_empty() {
        return vec![listener.cloned()];
    }
    let both = |own: &HostPattern| match listener {
        Some(listener) => HostPattern::intersect(own, listener),
        None => Some(own.clone()),
    };
    route.iter().filter_map(both).map(Some).collect()
}
