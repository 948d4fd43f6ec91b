//! `weir.snapshot.v1` to `model`. Every error names the tenant and the nearest object.

use std::{fmt::Display, num::NonZeroU32, time::Duration};

use model::{Action, Feature, Filter, HostPattern, Origin, PathMatch, Rank, Timeouts, ValueMatcher};

use super::ConvertError;
use crate::snapshot as wire;

type Result<T> = std::result::Result<T, ConvertError>;

impl TryFrom<wire::TenantConfig> for model::TenantConfig {
    type Error = ConvertError;

    fn try_from(config: wire::TenantConfig) -> Result<Self> {
        let tenant = config.tenant.parse().map_err(|e: model::InvalidName| ConvertError::Invalid {
            tenant: config.tenant.clone(),
            origin: "tenant".to_owned(),
            problem: e.to_string(),
        })?;
        // Before anything else: what an unknown feature means cannot be judged from the fields that we know.
        if let Some(feature) = config.features.iter().find(|f| Feature::parse(f).is_none()) {
            return Err(ConvertError::UnknownFeature { tenant: config.tenant, feature: feature.clone() });
        }
        let top = Place { tenant: &config.tenant, origin: Origin::default() };
        Ok(Self {
            tenant,
            listeners: each(config.listeners, |l| top.listener(l))?,
            routes: each(config.routes, |r| top.route(r))?,
            streams: each(config.streams, |s| top.stream(s))?,
            backends: each(config.backends, |b| top.backend(b))?,
            certificates: each(config.certificates, |c| top.certificate(c))?,
            quota: config.quota.map(model::TrafficQuota::from).unwrap_or_default(),
        })
    }
}

impl From<wire::TrafficQuota> for model::TrafficQuota {
    fn from(quota: wire::TrafficQuota) -> Self {
        let wire::TrafficQuota { connections, requests, buffered_bytes, weight } = quota;
        let weight = NonZeroU32::new(weight).unwrap_or(Self::WEIGHT);
        Self { connections, requests, buffered_bytes, weight }
    }
}

fn each<W, M>(items: Vec<W>, convert: impl FnMut(W) -> Result<M>) -> Result<Vec<M>> {
    items.into_iter().map(convert).collect()
}

/// Where in the snapshot we are: what an error names.
struct Place<'t> {
    tenant: &'t str,
    origin: Origin,
}

impl<'t> Place<'t> {
    fn at(&self, origin: Option<wire::Origin>) -> Self {
        let origin = origin
            .map(|wire::Origin { kind, namespace, name, field }| Origin { kind, namespace, name, field })
            .unwrap_or_default();
        Self { tenant: self.tenant, origin }
    }

    fn error(&self, problem: impl Display) -> ConvertError {
        ConvertError::Invalid {
            tenant: self.tenant.to_owned(),
            origin: self.origin.to_string(),
            problem: problem.to_string(),
        }
    }

    fn some<T>(&self, value: Option<T>, what: &str) -> Result<T> {
        value.ok_or_else(|| self.error(format_args!("{what} is missing")))
    }

    fn fits<N: TryFrom<u32>>(&self, value: u32, what: &str) -> Result<N> {
        N::try_from(value).map_err(|_| self.error(format_args!("{what} {value} is out of range")))
    }

    fn host(&self, host: &str) -> Result<HostPattern> {
        HostPattern::parse(host).map_err(|e| self.error(e))
    }

    fn listener(&self, listener: wire::Listener) -> Result<model::Listener> {
        let place = self.at(listener.origin.clone());
        let protocol = match listener.protocol() {
            wire::ListenerProtocol::Http => model::ListenerProtocol::Http,
            wire::ListenerProtocol::Https => model::ListenerProtocol::Https,
            wire::ListenerProtocol::Tls => model::ListenerProtocol::Tls,
            wire::ListenerProtocol::TlsPassthrough => model::ListenerProtocol::TlsPassthrough,
            wire::ListenerProtocol::Tcp => model::ListenerProtocol::Tcp,
            wire::ListenerProtocol::Udp => model::ListenerProtocol::Udp,
            wire::ListenerProtocol::Unspecified => {
                return Err(place.error(format_args!("protocol {} is unknown", listener.protocol)));
            }
        };
        let hostname = match listener.hostname.as_str() {
            "" => None,
            host => Some(place.host(host)?),
        };
        let client_certificates = listener
            .client_certificates
            .map(|asked| super::client_certificates::read(asked).map_err(|e| place.error(e)))
            .transpose()?;
        Ok(model::Listener {
            id: model::ListenerId(listener.id),
            pool: listener.pool.parse().map_err(|e| place.error(e))?,
            port: place.fits(listener.port, "port")?,
            protocol,
            hostname,
            certificates: listener.certificates.into_iter().map(model::CertificateId).collect(),
            policy: place.listener_policy(listener.policy.unwrap_or_default())?,
            client_certificates: client_certificates.map(Box::new),
            origin: place.origin,
        })
    }

    fn listener_policy(&self, policy: wire::ListenerPolicy) -> Result<model::ListenerPolicy> {
        let target = |target: wire::ConnectTarget| -> Result<model::ConnectTarget> {
            let ports = target.ports.iter().map(|port| self.fits(*port, "port")).collect::<Result<_>>()?;
            Ok(model::ConnectTarget { host: self.host(&target.host)?, ports })
        };
        let access_log = policy
            .access_log
            .map(|log| super::access_log::read(log).map_err(|e| self.error(e)))
            .transpose()?;
        let session = |udp: wire::SessionPolicy| model::SessionPolicy {
            idle: Duration::from_millis(udp.idle_ms),
            responses: NonZeroU32::new(udp.responses),
        };
        Ok(model::ListenerPolicy {
            http2: !policy.http2_off,
            connect: each(policy.connect, target)?,
            access_log: access_log.map(Box::new),
            trace_sampled_ppm: policy.trace_sampled_ppm,
            udp: policy.udp.map(session).unwrap_or_default(),
        })
    }

    fn route(&self, route: wire::Route) -> Result<model::Route> {
        let place = self.at(route.origin);
        Ok(model::Route {
            id: model::RouteId(route.id),
            listeners: route.listeners.into_iter().map(model::ListenerId).collect(),
            hostnames: route.hostnames.iter().map(|h| place.host(h)).collect::<Result<_>>()?,
            rules: each(route.rules, |r| place.rule(r))?,
            origin: place.origin,
        })
    }

    fn stream(&self, route: wire::StreamRoute) -> Result<model::StreamRoute> {
        let place = self.at(route.origin);
        Ok(model::StreamRoute {
            id: model::RouteId(route.id),
            listeners: route.listeners.into_iter().map(model::ListenerId).collect(),
            hostnames: route.hostnames.iter().map(|h| place.host(h)).collect::<Result<_>>()?,
            backends: each(route.backends, |b| place.weighted(b))?,
            origin: place.origin,
        })
    }

    /// A rule of the route that this is the place of.
    fn rule(&self, rule: wire::Rule) -> Result<model::Rule> {
        let mut place = self.at(rule.origin);
        if place.origin.is_of(&Origin::default()) {
            place.origin = Origin { field: place.origin.field, ..self.origin.clone() };
        }
        let action = match place.some(rule.action, "action")? {
            wire::rule::Action::Forward(forward) => {
                Action::Forward(each(forward.backends, |b| place.weighted(b))?)
            }
            wire::rule::Action::Redirect(redirect) => Action::Redirect(model::Redirect {
                scheme: redirect.scheme,
                hostname: redirect.hostname,
                path: redirect.path.map(|p| place.path_modifier(p)).transpose()?,
                port: redirect.port.map(|p| place.fits(p, "port")).transpose()?,
                status: place.fits(redirect.status, "status")?,
            }),
            wire::rule::Action::Respond(respond) => Action::Respond(model::Respond {
                status: place.fits(respond.status, "status")?,
                body: respond.body,
            }),
        };
        Ok(model::Rule {
            matches: each(rule.matches, |m| place.request_match(m))?,
            filters: each(rule.filters, |f| place.filter(f))?,
            action,
            timeouts: Timeouts {
                request: rule.request_timeout_ms.map(Duration::from_millis),
                backend_request: rule.backend_request_timeout_ms.map(Duration::from_millis),
            },
            persistence: rule.persistence.map(|policy| place.persistence(policy)).transpose()?,
            origin: place.origin,
        })
    }

    fn persistence(&self, policy: wire::SessionPersistence) -> Result<model::SessionPersistence> {
        use wire::session_persistence::Carrier;
        let carrier = match self.some(policy.carrier, "carrier")? {
            Carrier::Header(wire::SessionHeader {}) => model::SessionCarrier::Header,
            Carrier::Cookie(wire::SessionCookie { permanent, path }) => {
                model::SessionCarrier::Cookie { permanent, path }
            }
        };
        Ok(model::SessionPersistence {
            name: policy.name,
            carrier,
            absolute: policy.absolute_ms.map(Duration::from_millis),
            idle: policy.idle_ms.map(Duration::from_millis),
        })
    }

    fn request_match(&self, m: wire::Match) -> Result<model::Match> {
        use wire::r#match::Path;
        let path = match self.some(m.path, "path")? {
            Path::Exact(path) => PathMatch::Exact(path),
            Path::PrefixSegment(path) => PathMatch::PrefixSegment(path),
            Path::PrefixString(path) => PathMatch::PrefixString(path),
            Path::Regex(wire::PathRegex { pattern, anchor, icase }) => {
                PathMatch::Regex { pattern, anchor, icase }
            }
        };
        Ok(model::Match {
            rank: Rank(m.rank),
            path,
            method: m.method,
            headers: each(m.headers, |v| self.value_match(v))?,
            query: each(m.query, |v| self.value_match(v))?,
        })
    }

    fn value_match(&self, m: wire::ValueMatch) -> Result<model::ValueMatch> {
        let matcher = match self.some(m.matcher, "matcher")? {
            wire::value_match::Matcher::Exact(value) => ValueMatcher::Exact(value),
            wire::value_match::Matcher::Regex(pattern) => ValueMatcher::Regex(pattern),
        };
        Ok(model::ValueMatch { name: m.name, matcher })
    }

    fn filter(&self, filter: wire::Filter) -> Result<Filter> {
        Ok(match self.some(filter.filter, "filter")? {
            wire::filter::Filter::RequestHeaders(edit) => Filter::RequestHeaders(header_edit(edit)),
            wire::filter::Filter::ResponseHeaders(edit) => Filter::ResponseHeaders(header_edit(edit)),
            wire::filter::Filter::Rewrite(rewrite) => Filter::Rewrite(model::Rewrite {
                hostname: rewrite.hostname,
                path: rewrite.path.map(|p| self.path_modifier(p)).transpose()?,
            }),
        })
    }

    fn path_modifier(&self, modifier: wire::PathModifier) -> Result<model::PathModifier> {
        use wire::path_modifier::Modifier;
        Ok(match self.some(modifier.modifier, "path modifier")? {
            Modifier::ReplaceFull(path) => model::PathModifier::ReplaceFull(path),
            Modifier::ReplacePrefix(path) => model::PathModifier::ReplacePrefix(path),
        })
    }

    fn weighted(&self, weighted: wire::WeightedBackend) -> Result<model::WeightedBackend> {
        Ok(model::WeightedBackend {
            backend: weighted.backend.map(model::BackendId),
            weight: weighted.weight,
            filters: each(weighted.filters, |f| self.filter(f))?,
        })
    }

    fn backend(&self, backend: wire::Backend) -> Result<model::Backend> {
        let place = self.at(backend.origin.clone());
        let protocol = match wire::UpstreamProtocol::try_from(backend.protocol) {
            Ok(wire::UpstreamProtocol::Negotiated) => model::UpstreamProtocol::Negotiated,
            Ok(wire::UpstreamProtocol::Http1) => model::UpstreamProtocol::Http1,
            Ok(wire::UpstreamProtocol::Http2) => model::UpstreamProtocol::Http2,
            Err(_) => return Err(place.error(format_args!("protocol {} is unknown", backend.protocol))),
        };
        let send_proxy = match wire::ProxyVersion::try_from(backend.send_proxy) {
            Ok(wire::ProxyVersion::Unspecified) => None,
            Ok(wire::ProxyVersion::V1) => Some(model::ProxyVersion::V1),
            Ok(wire::ProxyVersion::V2) => Some(model::ProxyVersion::V2),
            Err(_) => {
                let version = backend.send_proxy;
                return Err(place.error(format_args!("PROXY protocol version {version} is unknown")));
            }
        };
        Ok(model::Backend {
            id: model::BackendId(backend.id),
            endpoints: each(backend.endpoints, |e| place.endpoint(e))?,
            connect_timeout: Duration::from_millis(backend.connect_timeout_ms),
            protocol,
            tls: backend.tls.map(|tls| self.upstream_tls(tls)).transpose()?,
            send_proxy,
            traffic: backend.traffic.map_or_else(
                || Ok(model::TrafficPolicy::default()),
                |traffic| super::traffic::from_wire(traffic).map_err(|problem| place.error(problem)),
            )?,
            origin: place.origin,
        })
    }

    fn upstream_tls(&self, tls: wire::UpstreamTls) -> Result<model::UpstreamTls> {
        use wire::upstream_tls::Roots;
        let place = self.at(tls.origin);
        // Never a guess: roots that are missing must not become those of the machine.
        let roots = match place.some(tls.roots, "roots")? {
            Roots::System(_) => model::UpstreamRoots::System,
            Roots::Pem(pem) => model::UpstreamRoots::Pem(pem),
        };
        let client = (!tls.client_certificate.is_empty()).then_some(tls.client_certificate);
        Ok(model::UpstreamTls {
            server_name: tls.server_name,
            roots,
            client_certificate: client.map(model::CertificateId),
            origin: place.origin,
        })
    }

    fn endpoint(&self, endpoint: wire::Endpoint) -> Result<model::Endpoint> {
        use wire::endpoint::Address;
        let address = match self.some(endpoint.address, "address")? {
            Address::Ip(text) => model::EndpointAddress::Ip(
                text.parse().map_err(|_| self.error(format_args!("{text:?} is not an address and port")))?,
            ),
            Address::Dns(wire::DnsName { host, port }) => {
                model::EndpointAddress::Dns { host, port: self.fits(port, "port")? }
            }
        };
        Ok(model::Endpoint { address, weight: endpoint.weight })
    }

    fn certificate(&self, certificate: wire::Certificate) -> Result<model::Certificate> {
        let place = self.at(certificate.origin);
        Ok(model::Certificate {
            id: model::CertificateId(certificate.id),
            hosts: certificate.hosts.iter().map(|h| place.host(h)).collect::<Result<_>>()?,
            chain_pem: certificate.chain_pem,
            key_pem: certificate.key_pem,
            origin: place.origin,
        })
    }
}

fn header_edit(edit: wire::HeaderEdit) -> model::HeaderEdit {
    let pairs =
        |headers: Vec<wire::Header>| headers.into_iter().map(|h| (h.name, h.value)).collect::<Vec<_>>();
    model::HeaderEdit { set: pairs(edit.set), add: pairs(edit.add), remove: edit.remove }
}
