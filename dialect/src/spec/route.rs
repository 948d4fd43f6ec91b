//! `gateway.networking.k8s.io/v1` HTTPRoute.

mod filters;
mod grpc;
mod matches;
pub(crate) mod session;
mod stream;

use std::{collections::HashSet, time::Duration};

use model::{Filter, HostPattern, Redirect, Timeouts};

use super::{gateway::read_reference, hostname};
use crate::{
    Kind, name,
    read::{Fields, Node},
};

pub use matches::RouteMatch;
pub use session::SessionSpec;
pub use stream::StreamRouteSpec;

/// Gateway API's bounds.
const MAX_PARENTS: usize = 32;
const MAX_HOSTNAMES: usize = 16;
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_MATCHES_IN_ALL: usize = 128;
const MAX_BACKENDS: usize = 16;

/// How requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRouteSpec {
    /// The Gateways that it attaches to.
    pub parents: Vec<ParentRef>,
    /// Empty: every host of its listeners.
    pub hostnames: Vec<HostPattern>,
    /// In the order of the object.
    pub rules: Vec<RouteRule>,
}

/// A Gateway or one of its listeners.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParentRef {
    /// `None` is the route's own.
    pub namespace: Option<String>,
    /// The Gateway's name.
    pub name: String,
    /// One listener; `None` is all that have the port.
    pub section: Option<String>,
    /// Listeners of one port; `None` is all.
    pub port: Option<u16>,
}

/// What is done with the requests that one of the matches holds for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRule {
    /// Never empty.
    pub matches: Vec<RouteMatch>,
    /// Header edits and rewrites, in the order of the object.
    pub filters: Vec<Filter>,
    /// How the request is answered.
    pub action: RuleAction,
    /// Bounds on the answer.
    pub timeouts: Timeouts,
    /// How clients stay with an endpoint.
    pub session: Option<SessionSpec>,
}

/// How a request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleAction {
    /// Forwarded to one of these by weight.
    Forward(Vec<BackendRef>),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered as the DirectResponse of that name in the route's namespace says.
    Respond {
        /// The DirectResponse's name.
        name: String,
        /// The field that names it, below the rule.
        field: String,
    },
}

/// A backend and its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendRef {
    /// What it names.
    pub target: BackendTarget,
    /// `None` is the route's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Relative to the sum.
    pub weight: u32,
    /// Only for requests that go to this backend.
    pub filters: Vec<Filter>,
}

/// What kind of object a backend reference names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    /// A `weir.dev/v1` Backend.
    Backend,
    /// Something that cannot be forwarded to: its share is answered with 500.
    Unknown {
        /// Empty for core kinds.
        group: String,
        /// `Service` when the reference does not say.
        kind: String,
    },
}

impl HttpRouteSpec {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let (parents, hostnames) = read_place(&mut fields);
        let rules = fields.optional("rules");
        fields.unsupported(&["useDefaultGateways"]);
        let mut names = HashSet::new();
        let rules: Vec<_> = match &rules {
            Some(node) => {
                node.items(MAX_RULES).iter().filter_map(|node| read_rule(node, &mut names)).collect()
            }
            // Gateway API's default: one rule that matches everything, and here has nothing to forward to.
            None => {
                fields.node.wrong("it has no rules", "add rules with backendRefs");
                vec![]
            }
        };
        bound_matches(&fields, &rules);
        fields.finish();
        Some(Self { parents, hostnames, rules })
    }
}

/// Where the route attaches, and for which hosts.
fn read_place(fields: &mut Fields<'_>) -> (Vec<ParentRef>, Vec<HostPattern>) {
    let parents = fields.list("parentRefs", MAX_PARENTS).iter().filter_map(read_parent).collect();
    let hostnames = fields.list("hostnames", MAX_HOSTNAMES).iter().filter_map(hostname).collect();
    (parents, hostnames)
}

fn bound_matches(fields: &Fields<'_>, rules: &[RouteRule]) {
    let all: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    if all > MAX_MATCHES_IN_ALL {
        let problem = format!("its rules have {all} matches, more than {MAX_MATCHES_IN_ALL}");
        fields.node.wrong(problem, "split the route into several");
    }
}

/// The name of a rule, which nothing but people use.
fn read_name(fields: &mut Fields<'_>, names: &mut HashSet<String>) {
    if let Some(node) = fields.optional("name")
        && let Some(name) = name::name(&node)
        && !names.insert(name.clone())
    {
        node.wrong(format!("the name {name:?} is taken by a rule before it"), "use another");
    }
}

fn read_parent(node: &Node<'_>) -> Option<ParentRef> {
    let mut fields = node.fields()?;
    if let Some(node) = fields.optional("group") {
        node.choice("the group of Gateways", &[(Kind::Gateway.group(), ())])?;
    }
    if let Some(node) = fields.optional("kind") {
        node.choice("a kind that routes attach to", &[(Kind::Gateway.as_str(), ())])?;
    }
    let (namespace, name) = read_reference(&mut fields);
    let section = match fields.optional("sectionName") {
        Some(node) => name::name(&node).map(Some),
        None => Some(None),
    };
    let port = match fields.optional("port") {
        Some(node) => node.number(1..=u16::MAX).map(Some),
        None => Some(None),
    };
    fields.finish();
    Some(ParentRef { namespace: namespace?, name: name?, section: section?, port: port? })
}

fn read_rule(node: &Node<'_>, names: &mut HashSet<String>) -> Option<RouteRule> {
    let mut fields = node.fields()?;
    read_name(&mut fields, names);
    let mut matches: Vec<_> =
        fields.list("matches", MAX_MATCHES).iter().filter_map(matches::read_match).collect();
    if fields.optional("matches").is_none_or(|node| node.raw().as_array().is_some_and(Vec::is_empty)) {
        matches.push(RouteMatch::everything());
    }
    let filter_nodes = fields.list("filters", 16);
    let backend_nodes = fields.list("backendRefs", MAX_BACKENDS);
    let timeouts = fields.optional("timeouts").map_or(Some(Timeouts::default()), |node| read_timeouts(&node));
    let session = read_session(&mut fields, &matches);
    fields.unsupported(&["retry"]);
    fields.finish();

    let filters = filters::read_filters(&filter_nodes, Some(&matches));
    let backends: Vec<_> = backend_nodes.iter().filter_map(|node| read_backend(node, &matches)).collect();
    let filters::Filters { plain, reply } = filters?;
    if let (Some(reply), false) = (&reply, backend_nodes.is_empty()) {
        let problem = format!("{} answers by itself, so nothing is forwarded", reply.what());
        fields_node(node, "backendRefs").wrong(problem, "remove backendRefs or the filter");
    }
    let action = match reply {
        Some(filters::Reply::Redirect(redirect)) => RuleAction::Redirect(redirect),
        Some(filters::Reply::Respond { name, field }) => RuleAction::Respond { name, field },
        None => RuleAction::Forward(backends),
    };
    let session = session?;
    if session.is_some() && !matches!(action, RuleAction::Forward(_)) {
        fields_node(node, "sessionPersistence").wrong("the rule answers by itself", "remove it");
    }
    Some(RouteRule { matches, filters: plain, action, timeouts: timeouts?, session })
}

/// `sessionPersistence`. `None` where something is wrong.
fn read_session(fields: &mut Fields<'_>, matches: &[RouteMatch]) -> Option<Option<SessionSpec>> {
    match fields.optional("sessionPersistence") {
        Some(node) => session::read(&node, matches).map(Some),
        None => Some(None),
    }
}

/// The node of a field that is known to be there, to note something about it.
fn fields_node<'a>(node: &Node<'a>, name: &str) -> Node<'a> {
    let mut inner = node.clone();
    inner.field = format!("{}.{name}", node.field);
    inner
}

fn read_timeouts(node: &Node<'_>) -> Option<Timeouts> {
    let mut fields = node.fields()?;
    let mut time = |name| match fields.optional(name) {
        Some(node) => name::duration(&node).map(Some),
        None => Some(None),
    };
    let (request, backend_request) = (time("request"), time("backendRequest"));
    fields.finish();
    // Zero means none (Gateway API).
    let some = |time: Option<Duration>| time.filter(|time| !time.is_zero());
    let (request, backend_request) = (some(request?), some(backend_request?));
    if let (Some(request), Some(backend_request)) = (request, backend_request)
        && backend_request > request
    {
        fields_node(node, "backendRequest")
            .wrong("it is longer than request", "shorten it, or raise request");
    }
    Some(Timeouts { request, backend_request })
}

fn read_backend(node: &Node<'_>, matches: &[RouteMatch]) -> Option<BackendRef> {
    let mut fields = node.fields()?;
    let text = |node: Option<Node<'_>>, default: &str| match node {
        Some(node) => node.text_of(0..=253).map(str::to_owned),
        None => Some(default.to_owned()),
    };
    let group = text(fields.optional("group"), "");
    let kind = text(fields.optional("kind"), "Service");
    let (namespace, name) = read_reference(&mut fields);
    let port = fields.optional("port");
    let weight = match fields.optional("weight") {
        Some(node) => node.number(0..=1_000_000),
        None => Some(1),
    };
    let filters = filters::read_filters(&fields.list("filters", 16), Some(matches));
    fields.finish();

    let (group, kind) = (group?, kind?);
    let target = if group == Kind::Backend.group() && kind == Kind::Backend.as_str() {
        if let Some(port) = port {
            port.wrong("a Backend's endpoints have their own ports", "remove it");
        }
        BackendTarget::Backend
    } else {
        if let Some(port) = port {
            port.number(1..=u16::MAX)?;
        }
        BackendTarget::Unknown { group, kind }
    };
    let filters::Filters { plain, reply } = filters?;
    if let Some(reply) = reply {
        let problem = format!("{} cannot stand at one backend: it answers by itself", reply.what());
        fields_node(node, "filters").wrong(problem, "move it to the rule's filters");
    }
    Some(BackendRef { target, namespace: namespace?, name: name?, weight: weight?, filters: plain })
}
