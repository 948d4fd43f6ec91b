//! Routes of streams to their compiled form.

use std::collections::HashSet;

use super::{
    Errors, check,
    lower::{self, Names},
};
use crate::{CompileLimits, Forward, PoolName, StreamRoute, StreamTable, TenantConfig};

/// The table of the listeners of `pool`, or of all; all routes are checked.
pub(super) fn streams(
    config: &TenantConfig,
    names: &Names<'_>,
    pool: Option<&PoolName>,
    limits: &CompileLimits,
    errors: &mut Errors,
) -> StreamTable {
    let mut ids = HashSet::with_capacity(config.streams.len());
    for route in &config.streams {
        if !ids.insert((&route.origin.kind, &route.id)) {
            errors.push(&route.origin, format!("route {} is there twice", route.id));
        }
        for id in &route.listeners {
            match names.listeners.get(id.0.as_str()).map(|at| &config.listeners[*at as usize]) {
                None => errors.push_in(&route.origin, "parentRefs", format!("there is no listener {id}")),
                Some(listener) if listener.protocol.is_http() => {
                    let problem = format!("listener {id} speaks HTTP, which is not passed on as it is");
                    errors.push_in(&route.origin, "parentRefs", problem);
                }
                Some(listener) if !listener.protocol.names_hosts() && !route.hostnames.is_empty() => {
                    let problem = format!("clients of listener {id} do not say which host they mean");
                    errors.push_in(&route.origin, "hostnames", problem);
                }
                Some(_) => {}
            }
        }
        for hostname in &route.hostnames {
            check::host(hostname, &route.origin, "hostnames", errors);
        }
    }
    let forwards: Vec<_> = config.streams.iter().map(|route| forward(route, names, limits, errors)).collect();
    for (route, forward) in config.streams.iter().zip(&forwards) {
        datagrams_as_they_are(config, names, route, forward, errors);
    }
    match StreamTable::new(config, forwards, pool) {
        Ok(table) => table,
        Err(claimed) => {
            for claim in claimed {
                let host = claim.host.map_or_else(|| "any host".to_owned(), |host| host.to_string());
                let problem = format!("another route has port {} and {host}", claim.port);
                errors.push_in(&claim.origin, "parentRefs", problem);
            }
            StreamTable::default()
        }
    }
}

/// UDP has no TLS, and nowhere to say whose it is.
fn datagrams_as_they_are(
    config: &TenantConfig,
    names: &Names<'_>,
    route: &StreamRoute,
    forward: &Forward,
    errors: &mut Errors,
) {
    let listeners = route.listeners.iter().filter_map(|id| names.listeners.get(id.0.as_str()));
    if !listeners.into_iter().any(|at| config.listeners[*at as usize].protocol.is_udp()) {
        return;
    }
    for backend in forward.variants().iter().filter_map(|variant| variant.backend.as_ref()) {
        if backend.tls.is_some() || backend.send_proxy.is_some() {
            let problem =
                format!("backend {} has TLS or the PROXY protocol, which datagrams have not", backend.id);
            errors.push_in(&route.origin, "backendRefs", problem);
        }
    }
}

fn forward(route: &StreamRoute, names: &Names<'_>, limits: &CompileLimits, errors: &mut Errors) -> Forward {
    for (index, weighted) in route.backends.iter().enumerate().filter(|(_, b)| !b.filters.is_empty()) {
        let field = format!("backendRefs[{index}].filters");
        let count = weighted.filters.len();
        errors.push_in(&route.origin, &field, format!("{count} filters on what is passed on as it is"));
    }
    lower::forward(&route.backends, &route.origin, names, limits, errors)
}
