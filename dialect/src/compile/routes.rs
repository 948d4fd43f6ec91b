//! HTTPRoutes and GRPCRoutes to routes.

use model::{
    Action, HostPattern, ListenerId, Match, Rank, Route, RouteId, Rule, SessionPersistence, WeightedBackend,
};

use super::{
    Output, backends,
    gateways::{Attach, Attachable, foreign_host},
    world::{Unresolved, World, id_text},
};
use crate::{
    Condition, Kind, Object, ObjectKey, ObjectStatus, Scope, Spec,
    spec::{
        BackendRef, BackendTarget, HttpRouteSpec, ParentRef, RouteRule, RuleAction, SessionSpec,
        route::session::default_name,
    },
    status::{ACCEPTED, RESOLVED_REFS},
};

pub(super) fn compile(world: &World<'_>, objects: &[&Object], listeners: &Attachable<'_>, out: &mut Output) {
    for object in objects {
        if let Spec::HttpRoute(spec) | Spec::GrpcRoute(spec) = &object.spec {
            route(world, object, spec, listeners, out);
        }
    }
}

/// What is wrong: a reason of Gateway API and a sentence.
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

fn route(
    world: &World<'_>,
    object: &Object,
    spec: &HttpRouteSpec,
    listeners: &Attachable<'_>,
    out: &mut Output,
) {
    let hostnames = owned_hostnames(world, object, &spec.hostnames, out);
    let mut fault = None;
    let rules = spec.rules.iter().enumerate();
    let rules = rules.map(|(index, each)| rule(world, object, index, each, &mut fault, out)).collect();

    let attaching = Attaching { object, parents: &spec.parents, hostnames: &spec.hostnames };
    let attached = attached(&attaching, listeners, fault.as_ref(), out, |found| {
        Ok(served(found).map(|listener| listener.id.clone()).collect())
    });

    // A route whose every hostname is another's must not become one for all hosts.
    let all_foreign = hostnames.is_empty() && !spec.hostnames.is_empty();
    if !attached.is_empty() && !all_foreign {
        out.config.routes.push(Route {
            id: route_id(&object.key),
            origin: object.key.origin(""),
            listeners: attached,
            hostnames,
            rules,
        });
    }
}

/// Unique among routes of all kinds: an HTTPRoute and a GRPCRoute may have one name.
pub(super) fn route_id(key: &ObjectKey) -> RouteId {
    match key.kind {
        Kind::HttpRoute => RouteId(id_text(key)),
        kind => RouteId(format!("{kind}/{}", id_text(key))),
    }
}

fn condition(scope: Scope, kind: &str, fault: Option<&Fault>) -> Condition {
    Condition {
        scope,
        kind: kind.to_owned(),
        status: fault.is_none(),
        reason: fault.map_or(kind, |fault| fault.reason).to_owned(),
        message: fault.map(|fault| fault.message.clone()).unwrap_or_default(),
    }
}

fn parent_text(object: &Object, parent: &ParentRef) -> String {
    let namespace = parent.namespace.as_ref().unwrap_or(&object.key.namespace);
    let mut text = format!("{namespace}/{}", parent.name);
    if let Some(section) = &parent.section {
        text.push_str(&format!("/{section}"));
    }
    if let Some(port) = parent.port {
        text.push_str(&format!(":{port}"));
    }
    text
}

/// The hostnames that are the tenant's; a mistake for each that is not.
pub(super) fn owned_hostnames(
    world: &World<'_>,
    object: &Object,
    hostnames: &[HostPattern],
    out: &mut Output,
) -> Vec<HostPattern> {
    let mut owned = vec![];
    for (index, hostname) in hostnames.iter().enumerate() {
        if world.environment.owns(hostname) {
            owned.push(hostname.clone());
        } else {
            let (problem, fix) = foreign_host(world, hostname);
            out.mistake(object, &format!("spec.hostnames[{index}]"), problem, fix);
        }
    }
    owned
}

/// A route of any kind, as one that wants to attach.
pub(super) struct Attaching<'a> {
    pub(super) object: &'a Object,
    pub(super) parents: &'a [ParentRef],
    pub(super) hostnames: &'a [HostPattern],
}

/// The listeners that a route attaches to through all its parents; what became of each parent is its status.
///
/// `take` says which of the listeners behind one parent the route gets, or why there are none and what to do.
pub(super) fn attached(
    route: &Attaching<'_>,
    listeners: &Attachable<'_>,
    unresolved: Option<&Fault>,
    out: &mut Output,
    mut take: impl FnMut(&[&Attach<'_>]) -> Result<Vec<ListenerId>, (Fault, &'static str)>,
) -> Vec<ListenerId> {
    let Attaching { object, parents, hostnames } = *route;
    if parents.is_empty() {
        let fix = "add parentRefs with a Gateway's name";
        out.warn(object, "spec.parentRefs", "it attaches to no Gateway", fix);
    }
    let mut attached: Vec<ListenerId> = vec![];
    let mut conditions = vec![];
    for (index, parent) in parents.iter().enumerate() {
        let taken = attach(object, parent, hostnames, listeners).and_then(|found| take(&found));
        let refused = match taken {
            Ok(ids) => {
                for id in ids {
                    if !attached.contains(&id) {
                        attached.push(id);
                    }
                }
                None
            }
            Err((fault, fix)) => {
                out.warn(object, &format!("spec.parentRefs[{index}]"), fault.message.clone(), fix);
                Some(fault)
            }
        };
        let scope = || Scope::Parent(parent_text(object, parent));
        conditions.push(condition(scope(), ACCEPTED, refused.as_ref()));
        conditions.push(condition(scope(), RESOLVED_REFS, unresolved));
    }
    out.statuses.push(ObjectStatus { key: object.key.clone(), conditions });
    attached
}

/// Those that are served.
pub(super) fn served<'s, 'l, 'a>(found: &'s [&'l Attach<'a>]) -> impl Iterator<Item = &'l Attach<'a>> + 's {
    found.iter().copied().filter(|listener| listener.served)
}

/// The listeners that the route attaches to through one parent, or why there are none and what to do.
fn attach<'l, 'a>(
    object: &'l Object,
    parent: &'l ParentRef,
    hostnames: &[HostPattern],
    listeners: &'l Attachable<'a>,
) -> Result<Vec<&'l Attach<'a>>, (Fault, &'static str)> {
    let namespace = parent.namespace.as_deref().unwrap_or(&object.key.namespace);
    let name = parent.name.as_str();
    let fault = |reason, message, fix| Err((Fault { reason, message }, fix));

    let Some(all) = listeners.get(&(namespace, name)) else {
        let message = format!("there is no Gateway {namespace}/{name}");
        return fault("NoMatchingParent", message, "create it, or name another");
    };
    let mut found: Vec<_> = all
        .iter()
        .filter(|l| parent.section.as_ref().is_none_or(|section| l.spec.name == *section))
        .filter(|l| parent.port.is_none_or(|port| l.spec.port == port))
        .collect();
    if found.is_empty() {
        let message = format!("Gateway {namespace}/{name} has no such listener");
        return fault("NoMatchingParent", message, "check sectionName and port");
    }
    found.retain(|l| l.allows(namespace, &object.key));
    if found.is_empty() {
        let message = format!("Gateway {namespace}/{name} does not let this route attach");
        return fault("NotAllowedByListeners", message, "check the listeners' allowedRoutes");
    }
    found.retain(|l| match &l.spec.hostname {
        Some(listener) if !hostnames.is_empty() => {
            hostnames.iter().any(|own| HostPattern::intersect(own, listener).is_some())
        }
        _ => true,
    });
    if found.is_empty() {
        let message = format!("no listener of Gateway {namespace}/{name} has one of the route's hostnames");
        return fault("NoMatchingListenerHostname", message, "change the hostnames of either");
    }
    Ok(found)
}

fn rule(
    world: &World<'_>,
    object: &Object,
    index: usize,
    spec: &RouteRule,
    fault: &mut Option<Fault>,
    out: &mut Output,
) -> Rule {
    let field = format!("spec.rules[{index}]");
    // Ranks are given when all routes are there.
    let each = |each: &crate::spec::RouteMatch| Match {
        rank: Rank(0),
        path: each.path.clone(),
        method: each.method.clone(),
        headers: each.headers.clone(),
        query: each.query.clone(),
    };
    let action = match &spec.action {
        RuleAction::Redirect(redirect) => Action::Redirect(redirect.clone()),
        RuleAction::Respond { name, field } => respond(world, object, name, field, fault, out),
        RuleAction::Forward(backends) => {
            if backends.is_empty() {
                let problem = "it forwards to nothing: its requests are answered with 500";
                out.warn(object, &field, problem, "add backendRefs or a RequestRedirect filter");
            }
            let backend = |(at, reference): (usize, &BackendRef)| {
                let field = format!("{field}.backendRefs[{at}]");
                weighted(world, object, &field, reference, fault, out)
            };
            Action::Forward(backends.iter().enumerate().map(backend).collect())
        }
    };
    Rule {
        origin: object.key.origin(&field),
        matches: spec.matches.iter().map(each).collect(),
        filters: spec.filters.clone(),
        action,
        timeouts: spec.timeouts,
        persistence: spec.session.as_ref().map(|session| persistence(object, index, session)),
    }
}

fn persistence(object: &Object, rule: usize, spec: &SessionSpec) -> SessionPersistence {
    let mut persistence = spec.persistence.clone();
    if persistence.name.is_empty() {
        persistence.name = default_name(&format!("{} {rule}", object.key), &persistence.carrier);
    }
    persistence
}

fn respond(
    world: &World<'_>,
    object: &Object,
    name: &str,
    field: &str,
    fault: &mut Option<Fault>,
    out: &mut Output,
) -> Action {
    let namespace = &object.key.namespace;
    match world.object(Kind::DirectResponse, namespace, name).map(|found| &found.spec) {
        Some(Spec::DirectResponse(spec)) => Action::Respond(spec.respond.clone()),
        _ => {
            let message = format!("there is no DirectResponse {namespace}/{name}");
            out.warn(object, field, message.clone(), "create it, or name another");
            fault.get_or_insert(Fault { reason: "FilterNotFound", message });
            // Nobody to forward to: 500, as Gateway API asks for filters that cannot be resolved.
            Action::Forward(vec![])
        }
    }
}

pub(super) fn weighted(
    world: &World<'_>,
    object: &Object,
    field: &str,
    reference: &BackendRef,
    fault: &mut Option<Fault>,
    out: &mut Output,
) -> WeightedBackend {
    let found = backend(world, object, reference).and_then(|found| {
        let added = backends::add(world, found, object.key.kind, out);
        added.map_err(|fault| (Fault { reason: fault.reason, message: fault.message }, fault.fix))
    });
    let backend = match found {
        Ok(added) => added,
        Err((found, fix)) => {
            out.warn(object, field, found.message.clone(), fix);
            fault.get_or_insert(found);
            None
        }
    };
    WeightedBackend { backend, weight: reference.weight, filters: reference.filters.clone() }
}

/// The Backend that is meant, or why there is none and what to do.
fn backend<'a>(
    world: &World<'a>,
    object: &Object,
    reference: &BackendRef,
) -> Result<&'a Object, (Fault, &'static str)> {
    let name = &reference.name;
    if let BackendTarget::Unknown { group, kind } = &reference.target {
        let group = if group.is_empty() { "core" } else { group };
        let message = format!("{kind} of group {group} is not something to forward to");
        let fix = "set group: weir.dev and kind: Backend";
        return Err((Fault { reason: "InvalidKind", message }, fix));
    }
    let namespace = reference.namespace.as_ref().unwrap_or(&object.key.namespace);
    world.resolve(&object.key, Kind::Backend, Some(namespace), name).map_err(|unresolved| match unresolved {
        Unresolved::NotFound => {
            let message = format!("there is no Backend {namespace}/{name}");
            (Fault { reason: "BackendNotFound", message }, "create it, or name another")
        }
        Unresolved::NotPermitted => {
            let message = format!("no ReferenceGrant lets this route use Backend {namespace}/{name}");
            (
                Fault { reason: "RefNotPermitted", message },
                "create a ReferenceGrant in the Backend's namespace",
            )
        }
    })
}
