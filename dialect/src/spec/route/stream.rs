//! `gateway.networking.k8s.io` TLSRoute, TCPRoute and UDPRoute.

use std::collections::HashSet;

use model::HostPattern;

use super::{BackendRef, MAX_BACKENDS, ParentRef, read_backend, read_name, read_parent};
use crate::{
    read::{Fields, Node},
    spec::hostname,
};

/// Where connections or datagrams go that are passed on as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRouteSpec {
    /// The Gateways that it attaches to.
    pub parents: Vec<ParentRef>,
    /// The hosts that clients of TLS ask for; empty: every host of its listeners.
    pub hostnames: Vec<HostPattern>,
    /// One of these by weight. Without filters.
    pub backends: Vec<BackendRef>,
}

impl StreamRouteSpec {
    pub(in crate::spec) fn read_tls(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let hostnames = fields.list("hostnames", super::MAX_HOSTNAMES).iter().filter_map(hostname).collect();
        Some(Self { hostnames, ..Self::read(fields) })
    }

    /// Of TCP or UDP, where nobody says which host he means.
    pub(in crate::spec) fn read_nameless(node: &Node<'_>) -> Option<Self> {
        Some(Self::read(node.fields()?))
    }

    fn read(mut fields: Fields<'_>) -> Self {
        let parents = fields.list("parentRefs", super::MAX_PARENTS).iter().filter_map(read_parent).collect();
        let rules = fields.list("rules", super::MAX_RULES);
        fields.unsupported(&["useDefaultGateways"]);
        match rules.as_slice() {
            [_] => {}
            [] => fields.node.wrong("it has no rules", "add a rule with backendRefs"),
            // Nothing tells what is for them apart.
            [_, second, ..] => second.wrong("it is never reached: the first rule takes all", "remove it"),
        }
        fields.finish();
        let backends = rules.first().map(read_rule).unwrap_or_default();
        Self { parents, hostnames: vec![], backends }
    }
}

fn read_rule(node: &Node<'_>) -> Vec<BackendRef> {
    let Some(mut fields) = node.fields() else { return vec![] };
    read_name(&mut fields, &mut HashSet::new());
    let nodes = fields.list("backendRefs", MAX_BACKENDS);
    if nodes.is_empty() {
        fields.node.wrong("it has no backendRefs", "add one");
    }
    fields.finish();
    let backends = nodes.iter().filter_map(|node| Some((node, read_backend(node, &[])?)));
    let without_filters = backends.map(|(node, backend)| {
        if !backend.filters.is_empty() {
            node.wrong("what is passed on as it is has no filters", "remove filters");
        }
        backend
    });
    without_filters.collect()
}
