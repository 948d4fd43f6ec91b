//! `weir.dev/v1` ListenerPolicy.

use std::{num::NonZeroU32, time::Duration};

use model::{ConnectTarget, ListenerPolicy, ListenerProtocol, SessionPolicy};

use super::{ClientCertificatesSpec, access_log, hostname};
use crate::{Kind, name, read::Node};

/// Gateway API's bound.
const MAX_TARGETS: usize = 16;
/// Each is compared with the destination of each CONNECT.
const MAX_DESTINATIONS: usize = 64;
const MAX_PORTS: usize = 16;
/// Each session keeps a socket; who is silent for longer has gone.
const MAX_UDP_IDLE: Duration = Duration::from_secs(3600);

/// What some listeners of its namespace allow beside ordinary requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerPolicySpec {
    /// Whose it is.
    pub targets: Vec<ListenerRef>,
    /// What they allow.
    pub policy: ListenerPolicy,
    /// What they ask of clients' certificates, where TLS ends.
    pub client_certificates: Option<ClientCertificatesSpec>,
    /// Which of its parts it has.
    pub says: Vec<PolicyPart>,
}

/// A part of a policy, which means something to listeners of some protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyPart {
    /// `http2`
    Http2,
    /// `connect`
    Connect,
    /// `accessLog`
    AccessLog,
    /// `tracing`
    Tracing,
    /// `udp`
    Udp,
    /// `clientCertificates`
    ClientCertificates,
}

impl PolicyPart {
    /// The field.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http2 => "http2",
            Self::Connect => "connect",
            Self::AccessLog => "accessLog",
            Self::Tracing => "tracing",
            Self::Udp => "udp",
            Self::ClientCertificates => "clientCertificates",
        }
    }

    /// Whether it means something to a listener that speaks this.
    #[must_use]
    pub const fn holds_for(self, protocol: ListenerProtocol) -> bool {
        match self {
            Self::Http2 | Self::Connect | Self::AccessLog | Self::Tracing => protocol.is_http(),
            Self::Udp => protocol.is_udp(),
            Self::ClientCertificates => protocol.ends_tls(),
        }
    }
}

/// A listener of a Gateway, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerRef {
    /// The Gateway's name.
    pub gateway: String,
    /// The listener's name; `None` is all that no policy names.
    pub listener: Option<String>,
}

impl ListenerPolicySpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let default = ListenerPolicy::default();
        let mut fields = node.fields()?;
        let targets = fields.required("targetRefs").map(|node| {
            if node.raw().as_array().is_some_and(Vec::is_empty) {
                node.wrong("it applies to nothing", "name a Gateway");
            }
            node.items(MAX_TARGETS).iter().map(read_target).collect::<Option<Vec<_>>>()
        });
        let mut says = vec![];
        let mut part = |part: PolicyPart| {
            let node = fields.optional(part.as_str());
            says.extend(node.is_some().then_some(part));
            node
        };
        let http2 = match part(PolicyPart::Http2) {
            Some(node) => node.choice("a choice", &[("on", true), ("off", false)]),
            None => Some(default.http2),
        };
        let connect = match part(PolicyPart::Connect) {
            Some(node) => read_connect(&node),
            None => Some(default.connect),
        };
        let access_log = match part(PolicyPart::AccessLog) {
            Some(node) => access_log::read(&node).map(|log| Some(Box::new(log))),
            None => Some(None),
        };
        let trace_sampled_ppm = match part(PolicyPart::Tracing) {
            Some(node) => read_tracing(&node).map(Some),
            None => Some(None),
        };
        let udp = match part(PolicyPart::Udp) {
            Some(node) => read_udp(&node),
            None => Some(default.udp),
        };
        let client_certificates = match part(PolicyPart::ClientCertificates) {
            Some(node) => ClientCertificatesSpec::read(&node).map(Some),
            None => Some(None),
        };
        fields.finish();
        let policy = ListenerPolicy {
            http2: http2?,
            connect: connect?,
            access_log: access_log?,
            trace_sampled_ppm: trace_sampled_ppm?,
            udp: udp?,
        };
        Some(Self { targets: targets??, policy, client_certificates: client_certificates?, says })
    }

    /// What of it a listener that speaks this has.
    #[must_use]
    pub fn policy_for(&self, protocol: ListenerProtocol) -> ListenerPolicy {
        let default = ListenerPolicy::default();
        if protocol.is_http() {
            ListenerPolicy { udp: default.udp, ..self.policy.clone() }
        } else if protocol.is_udp() {
            ListenerPolicy { udp: self.policy.udp, ..default }
        } else {
            default
        }
    }
}

fn read_target(node: &Node<'_>) -> Option<ListenerRef> {
    let mut fields = node.fields()?;
    let group = fields
        .required("group")
        .and_then(|node| node.choice("the group of Gateways", &[(Kind::Gateway.group(), ())]));
    let kind = fields
        .required("kind")
        .and_then(|node| node.choice("a kind with listeners", &[(Kind::Gateway.as_str(), ())]));
    let gateway = fields.required("name").and_then(|node| name::name(&node));
    let listener = match fields.optional("sectionName") {
        Some(node) => name::name(&node).map(Some),
        None => Some(None),
    };
    fields.finish();
    group?;
    kind?;
    Some(ListenerRef { gateway: gateway?, listener: listener? })
}

fn read_tracing(node: &Node<'_>) -> Option<u32> {
    let mut fields = node.fields()?;
    let sampled = fields.required("sampledPercent").and_then(|node| access_log::read_percent(&node));
    fields.finish();
    sampled
}

fn read_connect(node: &Node<'_>) -> Option<Vec<ConnectTarget>> {
    let mut fields = node.fields()?;
    let allow = fields.required("allow").and_then(|node| {
        if node.raw().as_array().is_some_and(Vec::is_empty) {
            node.wrong("CONNECT could lead nowhere", "name a destination, or remove connect");
        }
        node.items(MAX_DESTINATIONS).iter().map(read_destination).collect()
    });
    fields.finish();
    allow
}

fn read_destination(node: &Node<'_>) -> Option<ConnectTarget> {
    let mut fields = node.fields()?;
    let host = fields.required("host").and_then(|node| hostname(&node));
    let ports = fields.required("ports").and_then(|node| {
        if node.raw().as_array().is_some_and(Vec::is_empty) {
            node.wrong("no port is allowed", "name one, like 443");
        }
        node.items(MAX_PORTS).iter().map(|port| port.number(1..=u16::MAX)).collect()
    });
    fields.finish();
    Some(ConnectTarget { host: host?, ports: ports? })
}

fn read_udp(node: &Node<'_>) -> Option<SessionPolicy> {
    let default = SessionPolicy::default();
    let mut fields = node.fields()?;
    let idle = match fields.optional("idleTimeout") {
        Some(node) => name::positive_duration(&node).filter(|idle| {
            let fits = *idle <= MAX_UDP_IDLE;
            if !fits {
                node.wrong("a session would be kept for too long", "use at most 1h");
            }
            fits
        }),
        None => Some(default.idle),
    };
    let responses = match fields.optional("responses") {
        Some(node) => node.number(1..=u32::MAX).map(NonZeroU32::new),
        None => Some(default.responses),
    };
    fields.finish();
    Some(SessionPolicy { idle: idle?, responses: responses? })
}
