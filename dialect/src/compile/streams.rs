//! TLSRoutes, TCPRoutes and UDPRoutes to routes of streams.

use std::collections::BTreeMap;

use model::{HostPattern, ListenerId, PoolName, Revision, RouteId, StreamRoute};

use super::{
    Output,
    gateways::{Attach, Attachable},
    routes::{Attaching, Fault, attached, owned_hostnames, route_id, served, weighted},
    world::World,
};
use crate::{Object, Spec, spec::StreamRouteSpec};

/// Who takes what comes in at a place.
type Claims = BTreeMap<Place, RouteId>;

/// A pool's port, of UDP or not, and a host. `None` is any host.
type Place = (PoolName, u16, bool, Option<HostPattern>);

/// Of two routes for the same connections the older one has them, then the first by name (Gateway API).
pub(super) fn compile(world: &World<'_>, objects: &[&Object], listeners: &Attachable<'_>, out: &mut Output) {
    let mut routes: Vec<_> = objects
        .iter()
        .filter_map(|object| match &object.spec {
            Spec::StreamRoute(spec) => Some((*object, spec)),
            _ => None,
        })
        .collect();
    // What is not stored yet is newest.
    routes.sort_by_key(|(object, _)| (object.created.unwrap_or(Revision(u64::MAX)), &object.key));
    let mut claims = Claims::new();
    for (object, spec) in routes {
        route(world, object, spec, listeners, &mut claims, out);
    }
}

fn route(
    world: &World<'_>,
    object: &Object,
    spec: &StreamRouteSpec,
    listeners: &Attachable<'_>,
    claims: &mut Claims,
    out: &mut Output,
) {
    let id = route_id(&object.key);
    let hostnames = owned_hostnames(world, object, &spec.hostnames, out);
    let mut fault = None;
    let backends = spec.backends.iter().enumerate().map(|(index, reference)| {
        let field = format!("spec.rules[0].backendRefs[{index}]");
        weighted(world, object, &field, reference, &mut fault, out)
    });
    let backends = backends.collect();
    let attaching = Attaching { object, parents: &spec.parents, hostnames: &spec.hostnames };
    let attached =
        attached(&attaching, listeners, fault.as_ref(), out, |found| claim(&id, found, &hostnames, claims));

    // A route whose every hostname is another's must not become one for all hosts.
    let all_foreign = hostnames.is_empty() && !spec.hostnames.is_empty();
    if !attached.is_empty() && !all_foreign {
        let origin = object.key.origin("");
        out.config.streams.push(StreamRoute { id, origin, listeners: attached, hostnames, backends });
    }
}

/// The listeners of these that are served and that the route has for itself. All of them or none, so that no host is half
/// one's and half another's.
fn claim(
    id: &RouteId,
    found: &[&Attach<'_>],
    hostnames: &[HostPattern],
    claims: &mut Claims,
) -> Result<Vec<ListenerId>, (Fault, &'static str)> {
    let mut wanted = vec![];
    for listener in served(found) {
        let own = listener.spec.hostname.as_ref();
        for host in model::attached_hosts(hostnames, own) {
            let udp = listener.spec.protocol.is_udp();
            wanted.push((listener.pool.clone(), listener.spec.port, udp, host));
        }
    }
    let other =
        wanted.iter().find_map(|place| claims.get(place).filter(|other| *other != id).map(|o| (place, o)));
    if let Some(((_, port, udp, host), other)) = other {
        let host = host.as_ref().map_or_else(|| "any host".to_owned(), ToString::to_string);
        let message = match udp {
            true => format!("route {other} has port {port} of UDP already"),
            false => format!("route {other} has port {port} and {host} already"),
        };
        return Err((
            Fault { reason: "Conflicted", message },
            "remove either, or change its hostnames or listener",
        ));
    }
    claims.extend(wanted.into_iter().map(|place| (place, id.clone())));
    Ok(served(found).map(|listener| listener.id.clone()).collect())
}
