//! What can be said of listeners, backends and certificates by themselves.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Backends, Errors, Positions, position};
use crate::{
    ClientCertificates, CompileLimits, HostPattern, Listener, Origin, PoolName, TenantConfig,
    UpstreamProtocol,
};

/// The tenant is within its limits.
pub(super) fn sizes(config: &TenantConfig, limits: &CompileLimits, errors: &mut Errors) {
    let matches = config.routes.iter().flat_map(|r| &r.rules).map(|r| r.matches.len()).sum();
    let whole = Origin { kind: "Tenant".into(), name: config.tenant.to_string(), ..Origin::default() };
    for (what, count, most) in [
        ("listeners", config.listeners.len(), limits.max_listeners),
        ("routes", config.routes.len() + config.streams.len(), limits.max_routes),
        ("matches", matches, limits.max_matches),
        ("backends", config.backends.len(), limits.max_backends),
        ("certificates", config.certificates.len(), limits.max_certificates),
    ] {
        if count > most {
            errors.push(&whole, format!("{count} {what} are more than the limit of {most}"));
        }
    }
}

/// The backends by their id.
pub(super) fn backends<'c>(
    config: &'c TenantConfig,
    limits: &CompileLimits,
    errors: &mut Errors,
) -> Backends<'c> {
    let mut known = HashMap::with_capacity(config.backends.len());
    for backend in &config.backends {
        let origin = &backend.origin;
        if known.insert(backend.id.0.as_str(), Arc::new(backend.clone())).is_some() {
            errors.push(origin, format!("backend {} is there twice", backend.id));
        }
        if backend.endpoints.is_empty() {
            errors.push_in(origin, "endpoints", "a backend needs at least one endpoint");
        }
        if backend.endpoints.len() > limits.max_endpoints {
            let count = backend.endpoints.len();
            let most = limits.max_endpoints;
            errors.push_in(
                origin,
                "endpoints",
                format!("{count} endpoints are more than the limit of {most}"),
            );
        }
        if backend.send_proxy.is_some() && backend.protocol == UpstreamProtocol::Http2 {
            let problem =
                "the PROXY protocol names one client for a connection, and HTTP/2 shares it among many";
            errors.push_in(origin, "proxyProtocol", problem);
        }
        if backend.connect_timeout.is_zero() {
            errors.push_in(origin, "connectTimeout", "it must be longer than zero");
        }
        for (index, endpoint) in backend.endpoints.iter().enumerate() {
            if endpoint.weight == 0 {
                errors.push_in(origin, &format!("endpoints[{index}].weight"), "it must be at least 1");
            }
        }
    }
    known
}

/// Certificates have different ids.
pub(super) fn certificates(config: &TenantConfig, errors: &mut Errors) {
    let mut known = HashSet::with_capacity(config.certificates.len());
    for certificate in &config.certificates {
        if !known.insert(&certificate.id) {
            errors.push(&certificate.origin, format!("certificate {} is there twice", certificate.id));
        }
    }
}

/// The listeners by their id.
pub(super) fn listeners<'c>(config: &'c TenantConfig, errors: &mut Errors) -> Positions<'c> {
    let certificates: HashSet<_> = config.certificates.iter().map(|c| &c.id).collect();
    let mut known = HashMap::with_capacity(config.listeners.len());
    let mut protocols = HashMap::new();
    let mut asking = HashMap::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        let origin = &listener.origin;
        if known.insert(listener.id.0.as_str(), position(index)).is_some() {
            errors.push(origin, format!("listener {} is there twice", listener.id));
        }
        if listener.port == 0 {
            errors.push_in(origin, "port", "it must be at least 1");
        }
        let first =
            protocols.entry((&listener.pool, listener.port, listener.protocol.is_udp())).or_insert(listener);
        if first.protocol.on_port() != listener.protocol.on_port() {
            let problem = format!("port {} speaks another protocol on listener {}", listener.port, first.id);
            errors.push_in(origin, "protocol", problem);
        }
        if let Some(hostname) = &listener.hostname {
            host(hostname, origin, "hostname", errors);
        }
        if !listener.protocol.ends_tls() && !listener.certificates.is_empty() {
            errors.push_in(origin, "tls", "a listener at which no TLS ends has no certificates");
        }
        client_certificates(listener, &mut asking, errors);
        if !listener.protocol.names_hosts() && listener.hostname.is_some() {
            errors.push_in(origin, "hostname", "clients of TCP and UDP do not say which host they mean");
        }
        for id in listener.certificates.iter().filter(|id| !certificates.contains(id)) {
            errors.push_in(origin, "tls.certificateRefs", format!("there is no certificate {id}"));
        }
    }
    known
}

/// The listeners that came first on their ports with their hosts.
type Asking<'c> = HashMap<(&'c PoolName, u16, Option<&'c HostPattern>), &'c Listener>;

/// Clients are asked for certificates where TLS ends, and for one port and hostname in one way: whose routes a request finds is
/// known when its client has been let in.
fn client_certificates<'c>(listener: &'c Listener, asking: &mut Asking<'c>, errors: &mut Errors) {
    let Listener { origin, pool, port, hostname, client_certificates, .. } = listener;
    if !listener.protocol.ends_tls() {
        if client_certificates.is_some() {
            errors.push(origin, "a listener at which no TLS ends cannot ask clients for certificates");
        }
        return;
    }
    let first = asking.entry((pool, *port, hostname.as_ref())).or_insert(listener);
    let what = |listener: &'c Listener| {
        listener
            .client_certificates
            .as_deref()
            .map(|asked| ClientCertificates { origin: Origin::default(), ..asked.clone() })
    };
    if what(first) != what(listener) {
        let problem = format!(
            "listener {} asks clients of the same port and hostname for other certificates",
            first.id
        );
        errors.push(origin, problem);
    }
    if let Some(asked) = client_certificates
        && asked.authorities_pem.is_empty()
    {
        errors.push(&asked.origin, "there is no authority that could vouch for clients");
    }
}

/// A pattern is as [`HostPattern::parse`] would make it.
pub(super) fn host(pattern: &HostPattern, origin: &Origin, field: &str, errors: &mut Errors) {
    match HostPattern::parse(&pattern.to_string()) {
        Ok(parsed) if parsed == *pattern => {}
        Ok(parsed) => errors.push_in(origin, field, format!("{pattern:?} must be written as {parsed}")),
        Err(invalid) => errors.push_in(origin, field, invalid.to_string()),
    }
}
