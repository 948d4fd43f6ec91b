//! `model` to `weir.snapshot.v1`. Total: every configuration can be sent.

use std::{num::NonZeroU32, time::Duration};

use crate::snapshot as wire;

/// Milliseconds on the wire, rounded up: a bound that is not zero must not become zero.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn all<'a, M: 'a, W: From<&'a M>>(items: &'a [M]) -> Vec<W> {
    items.iter().map(W::from).collect()
}

fn texts<'a, T: ToString + 'a>(items: impl IntoIterator<Item = &'a T>) -> Vec<String> {
    items.into_iter().map(ToString::to_string).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "prost wants every message field optional")]
pub(super) fn origin(origin: &model::Origin) -> Option<wire::Origin> {
    let model::Origin { kind, namespace, name, field } = origin.clone();
    Some(wire::Origin { kind, namespace, name, field })
}

impl From<&model::TenantConfig> for wire::TenantConfig {
    fn from(config: &model::TenantConfig) -> Self {
        Self {
            tenant: config.tenant.to_string(),
            features: config.features().into_iter().map(|f| f.as_str().to_owned()).collect(),
            listeners: all(&config.listeners),
            routes: all(&config.routes),
            backends: all(&config.backends),
            certificates: all(&config.certificates),
            streams: all(&config.streams),
            quota: (!config.quota.is_default()).then(|| (&config.quota).into()),
        }
    }
}

impl From<&model::TrafficQuota> for wire::TrafficQuota {
    fn from(quota: &model::TrafficQuota) -> Self {
        let model::TrafficQuota { connections, requests, buffered_bytes, weight } = *quota;
        Self { connections, requests, buffered_bytes, weight: weight.get() }
    }
}

impl From<&model::Listener> for wire::Listener {
    fn from(listener: &model::Listener) -> Self {
        let protocol = match listener.protocol {
            model::ListenerProtocol::Http => wire::ListenerProtocol::Http,
            model::ListenerProtocol::Https => wire::ListenerProtocol::Https,
            model::ListenerProtocol::Tls => wire::ListenerProtocol::Tls,
            model::ListenerProtocol::TlsPassthrough => wire::ListenerProtocol::TlsPassthrough,
            model::ListenerProtocol::Tcp => wire::ListenerProtocol::Tcp,
            model::ListenerProtocol::Udp => wire::ListenerProtocol::Udp,
        };
        Self {
            id: listener.id.0.clone(),
            origin: origin(&listener.origin),
            pool: listener.pool.to_string(),
            port: listener.port.into(),
            protocol: protocol.into(),
            hostname: listener.hostname.as_ref().map(ToString::to_string).unwrap_or_default(),
            certificates: texts(&listener.certificates),
            policy: (!listener.policy.is_default()).then(|| (&listener.policy).into()),
            client_certificates: listener
                .client_certificates
                .as_deref()
                .map(super::client_certificates::to_wire),
        }
    }
}

impl From<&model::ListenerPolicy> for wire::ListenerPolicy {
    fn from(policy: &model::ListenerPolicy) -> Self {
        let target = |target: &model::ConnectTarget| wire::ConnectTarget {
            host: target.host.to_string(),
            ports: target.ports.iter().map(|port| (*port).into()).collect(),
        };
        let session = |udp: &model::SessionPolicy| wire::SessionPolicy {
            idle_ms: millis(udp.idle),
            responses: udp.responses.map_or(0, NonZeroU32::get),
        };
        Self {
            http2_off: !policy.http2,
            connect: policy.connect.iter().map(target).collect(),
            access_log: policy.access_log.as_deref().map(Into::into),
            trace_sampled_ppm: policy.trace_sampled_ppm,
            udp: (!policy.udp.is_default()).then(|| session(&policy.udp)),
        }
    }
}

impl From<&model::Route> for wire::Route {
    fn from(route: &model::Route) -> Self {
        Self {
            id: route.id.0.clone(),
            origin: origin(&route.origin),
            listeners: texts(&route.listeners),
            hostnames: texts(&route.hostnames),
            rules: route.rules.iter().map(|each| rule(each, &route.origin)).collect(),
        }
    }
}

impl From<&model::StreamRoute> for wire::StreamRoute {
    fn from(route: &model::StreamRoute) -> Self {
        Self {
            id: route.id.0.clone(),
            origin: origin(&route.origin),
            listeners: texts(&route.listeners),
            hostnames: texts(&route.hostnames),
            backends: all(&route.backends),
        }
    }
}

/// A rule of a route. Of the route's own object its origin says only the field.
fn rule(rule: &model::Rule, route: &model::Origin) -> wire::Rule {
    let action = match &rule.action {
        model::Action::Forward(backends) => {
            wire::rule::Action::Forward(wire::Forward { backends: all(backends) })
        }
        model::Action::Redirect(redirect) => wire::rule::Action::Redirect(redirect.into()),
        model::Action::Respond(respond) => wire::rule::Action::Respond(wire::Respond {
            status: respond.status.into(),
            body: respond.body.clone(),
        }),
    };
    let field = || wire::Origin { field: rule.origin.field.clone(), ..wire::Origin::default() };
    wire::Rule {
        origin: if rule.origin.is_of(route) { Some(field()) } else { origin(&rule.origin) },
        matches: all(&rule.matches),
        filters: all(&rule.filters),
        action: Some(action),
        request_timeout_ms: rule.timeouts.request.map(millis),
        backend_request_timeout_ms: rule.timeouts.backend_request.map(millis),
        persistence: rule.persistence.as_ref().map(persistence),
    }
}

fn persistence(policy: &model::SessionPersistence) -> wire::SessionPersistence {
    use wire::session_persistence::Carrier;
    let carrier = match &policy.carrier {
        model::SessionCarrier::Header => Carrier::Header(wire::SessionHeader {}),
        model::SessionCarrier::Cookie { permanent, path } => {
            Carrier::Cookie(wire::SessionCookie { permanent: *permanent, path: path.clone() })
        }
    };
    wire::SessionPersistence {
        name: policy.name.clone(),
        carrier: Some(carrier),
        absolute_ms: policy.absolute.map(millis),
        idle_ms: policy.idle.map(millis),
    }
}

impl From<&model::Match> for wire::Match {
    fn from(m: &model::Match) -> Self {
        use wire::r#match::Path;
        let path = match &m.path {
            model::PathMatch::Exact(path) => Path::Exact(path.clone()),
            model::PathMatch::PrefixSegment(path) => Path::PrefixSegment(path.clone()),
            model::PathMatch::PrefixString(path) => Path::PrefixString(path.clone()),
            model::PathMatch::Regex { pattern, anchor, icase } => {
                Path::Regex(wire::PathRegex { pattern: pattern.clone(), anchor: *anchor, icase: *icase })
            }
        };
        Self {
            rank: m.rank.0,
            path: Some(path),
            method: m.method.clone(),
            headers: all(&m.headers),
            query: all(&m.query),
        }
    }
}

impl From<&model::ValueMatch> for wire::ValueMatch {
    fn from(m: &model::ValueMatch) -> Self {
        let matcher = match &m.matcher {
            model::ValueMatcher::Exact(value) => wire::value_match::Matcher::Exact(value.clone()),
            model::ValueMatcher::Regex(pattern) => wire::value_match::Matcher::Regex(pattern.clone()),
        };
        Self { name: m.name.clone(), matcher: Some(matcher) }
    }
}

impl From<&model::Filter> for wire::Filter {
    fn from(filter: &model::Filter) -> Self {
        let filter = match filter {
            model::Filter::RequestHeaders(edit) => wire::filter::Filter::RequestHeaders(edit.into()),
            model::Filter::ResponseHeaders(edit) => wire::filter::Filter::ResponseHeaders(edit.into()),
            model::Filter::Rewrite(rewrite) => wire::filter::Filter::Rewrite(wire::Rewrite {
                hostname: rewrite.hostname.clone(),
                path: rewrite.path.as_ref().map(Into::into),
            }),
        };
        Self { filter: Some(filter) }
    }
}

impl From<&model::HeaderEdit> for wire::HeaderEdit {
    fn from(edit: &model::HeaderEdit) -> Self {
        let headers = |pairs: &[(String, String)]| {
            pairs
                .iter()
                .map(|(name, value)| wire::Header { name: name.clone(), value: value.clone() })
                .collect()
        };
        Self { set: headers(&edit.set), add: headers(&edit.add), remove: edit.remove.clone() }
    }
}

impl From<&model::PathModifier> for wire::PathModifier {
    fn from(modifier: &model::PathModifier) -> Self {
        use wire::path_modifier::Modifier;
        let modifier = match modifier {
            model::PathModifier::ReplaceFull(path) => Modifier::ReplaceFull(path.clone()),
            model::PathModifier::ReplacePrefix(path) => Modifier::ReplacePrefix(path.clone()),
        };
        Self { modifier: Some(modifier) }
    }
}

impl From<&model::WeightedBackend> for wire::WeightedBackend {
    fn from(weighted: &model::WeightedBackend) -> Self {
        Self {
            backend: weighted.backend.as_ref().map(|b| b.0.clone()),
            weight: weighted.weight,
            filters: all(&weighted.filters),
        }
    }
}

impl From<&model::Redirect> for wire::Redirect {
    fn from(redirect: &model::Redirect) -> Self {
        Self {
            scheme: redirect.scheme.clone(),
            hostname: redirect.hostname.clone(),
            path: redirect.path.as_ref().map(Into::into),
            port: redirect.port.map(u32::from),
            status: redirect.status.into(),
        }
    }
}

impl From<&model::Backend> for wire::Backend {
    fn from(backend: &model::Backend) -> Self {
        Self {
            id: backend.id.0.clone(),
            origin: origin(&backend.origin),
            endpoints: all(&backend.endpoints),
            connect_timeout_ms: millis(backend.connect_timeout),
            protocol: wire::UpstreamProtocol::from(backend.protocol).into(),
            tls: backend.tls.as_ref().map(Into::into),
            send_proxy: match backend.send_proxy {
                None => wire::ProxyVersion::Unspecified,
                Some(model::ProxyVersion::V1) => wire::ProxyVersion::V1,
                Some(model::ProxyVersion::V2) => wire::ProxyVersion::V2,
            }
            .into(),
            traffic: super::traffic::to_wire(&backend.traffic),
        }
    }
}

impl From<model::UpstreamProtocol> for wire::UpstreamProtocol {
    fn from(protocol: model::UpstreamProtocol) -> Self {
        match protocol {
            model::UpstreamProtocol::Negotiated => Self::Negotiated,
            model::UpstreamProtocol::Http1 => Self::Http1,
            model::UpstreamProtocol::Http2 => Self::Http2,
        }
    }
}

impl From<&model::UpstreamTls> for wire::UpstreamTls {
    fn from(tls: &model::UpstreamTls) -> Self {
        use wire::upstream_tls::Roots;
        let roots = match &tls.roots {
            model::UpstreamRoots::System => Roots::System(true),
            model::UpstreamRoots::Pem(pem) => Roots::Pem(pem.clone()),
        };
        let client = tls.client_certificate.as_ref();
        Self {
            origin: origin(&tls.origin),
            server_name: tls.server_name.clone(),
            roots: Some(roots),
            client_certificate: client.map(|id| id.0.clone()).unwrap_or_default(),
        }
    }
}

impl From<&model::Endpoint> for wire::Endpoint {
    fn from(endpoint: &model::Endpoint) -> Self {
        use wire::endpoint::Address;
        let address = match &endpoint.address {
            model::EndpointAddress::Ip(address) => Address::Ip(address.to_string()),
            model::EndpointAddress::Dns { host, port } => {
                Address::Dns(wire::DnsName { host: host.clone(), port: (*port).into() })
            }
        };
        Self { address: Some(address), weight: endpoint.weight }
    }
}

impl From<&model::Certificate> for wire::Certificate {
    fn from(certificate: &model::Certificate) -> Self {
        Self {
            id: certificate.id.0.clone(),
            origin: origin(&certificate.origin),
            hosts: texts(&certificate.hosts),
            chain_pem: certificate.chain_pem.clone(),
            key_pem: certificate.key_pem.clone(),
        }
    }
}
