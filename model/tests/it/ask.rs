//! Requests and configurations, briefly.

use std::{borrow::Cow, time::Duration};

use model::{
    Action, Backend, BackendId, Endpoint, EndpointAddress, HostPattern, Listener, ListenerId, ListenerPolicy,
    ListenerProtocol, Match, Origin, PathMatch, Rank, Request, Route, RouteId, Rule, TenantConfig, Timeouts,
    TrafficPolicy, TrafficQuota, UpstreamProtocol, WeightedBackend,
};

/// A request as a lookup sees it.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) port: u16,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) method: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Ask {
    /// `GET http://host/path?query` on port 80.
    pub(crate) fn get(url: &str) -> Self {
        let (host, target) = url.split_at(url.find('/').unwrap_or(url.len()));
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q.to_owned())));
        Self {
            port: 80,
            host: host.to_owned(),
            path: path.to_owned(),
            query,
            method: "GET".to_owned(),
            headers: vec![],
        }
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.to_owned();
        self
    }

    pub(crate) fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Request for Ask {
    fn port(&self) -> u16 {
        self.port
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn method(&self) -> &str {
        &self.method
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let values: Vec<_> =
            self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_bytes()).collect();
        (!values.is_empty()).then(|| Cow::Owned(values.join(&b',')))
    }
}

pub(crate) fn origin(kind: &str, name: &str, field: &str) -> Origin {
    Origin { kind: kind.into(), namespace: "default".into(), name: name.into(), field: field.into() }
}

pub(crate) fn hosts(patterns: &[&str]) -> Vec<HostPattern> {
    patterns.iter().map(|p| HostPattern::parse(p).unwrap()).collect()
}

pub(crate) fn listener(name: &str, port: u16, hostname: Option<&str>) -> Listener {
    Listener {
        id: ListenerId(name.into()),
        origin: origin("Gateway", "gw", &format!("spec.listeners[{name}]")),
        pool: "default".parse().unwrap(),
        port,
        protocol: ListenerProtocol::Http,
        hostname: hostname.map(|h| HostPattern::parse(h).unwrap()),
        certificates: vec![],
        client_certificates: None,
        policy: ListenerPolicy::default(),
    }
}

pub(crate) fn path(path: PathMatch, rank: u32) -> Match {
    Match { rank: Rank(rank), path, method: None, headers: vec![], query: vec![] }
}

pub(crate) fn prefix(text: &str, rank: u32) -> Match {
    path(PathMatch::PrefixSegment(text.into()), rank)
}

pub(crate) fn exact(text: &str, rank: u32) -> Match {
    path(PathMatch::Exact(text.into()), rank)
}

/// A route with one rule per match, all to the backend `b`.
pub(crate) fn route(name: &str, listeners: &[&str], hostnames: &[&str], matches: Vec<Match>) -> Route {
    let rule = |(index, each)| Rule {
        origin: origin("HTTPRoute", name, &format!("spec.rules[{index}]")),
        matches: vec![each],
        filters: vec![],
        action: Action::Forward(vec![WeightedBackend {
            backend: Some(BackendId("b".into())),
            weight: 1,
            filters: vec![],
        }]),
        timeouts: Timeouts::default(),
        persistence: None,
    };
    Route {
        id: RouteId(name.into()),
        origin: origin("HTTPRoute", name, ""),
        listeners: listeners.iter().map(|l| ListenerId((*l).into())).collect(),
        hostnames: hosts(hostnames),
        rules: matches.into_iter().enumerate().map(rule).collect(),
    }
}

pub(crate) fn config(listeners: Vec<Listener>, routes: Vec<Route>) -> TenantConfig {
    TenantConfig {
        tenant: "acme".parse().unwrap(),
        listeners,
        routes,
        streams: vec![],
        backends: vec![Backend {
            id: BackendId("b".into()),
            origin: origin("Backend", "b", ""),
            endpoints: vec![Endpoint { address: EndpointAddress::Ip(([127, 0, 0, 1], 1).into()), weight: 1 }],
            connect_timeout: Duration::from_secs(5),
            protocol: UpstreamProtocol::Negotiated,
            tls: None,
            send_proxy: None,
            traffic: TrafficPolicy::default(),
        }],
        certificates: vec![],
        quota: TrafficQuota::default(),
    }
}
