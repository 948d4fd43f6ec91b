//! What became of each policy.

use super::{Output, backends, world::World};
use crate::{
    Condition, Kind, Object, ObjectKey, ObjectStatus, Scope, Spec,
    spec::{BackendTlsPolicySpec, ListenerPolicySpec, ListenerRef},
    status::{ACCEPTED, RESOLVED_REFS},
};

pub(super) fn compile(world: &World<'_>, objects: &[&Object], out: &mut Output) {
    for object in objects {
        match &object.spec {
            Spec::BackendTlsPolicy(spec) => policy(world, object, spec, out),
            Spec::ListenerPolicy(spec) => listener_policy(world, object, spec, out),
            _ => {}
        }
    }
}

fn policy(world: &World<'_>, object: &Object, spec: &BackendTlsPolicySpec, out: &mut Output) {
    let mut fault = None;
    for (index, name) in spec.targets.iter().enumerate() {
        if let Some((reason, message, fix)) = target_fault(world, object, name) {
            out.warn(object, &format!("spec.targetRefs[{index}]"), message.clone(), fix);
            fault.get_or_insert((reason, message));
        }
    }
    let accepted = condition(ACCEPTED, fault);
    let unresolved = backends::roots(world, object, &spec.tls).err().map(|fault| {
        out.warn(object, "spec.validation.caCertificateRefs", fault.message.clone(), fault.fix);
        (fault.reason, fault.message)
    });
    let conditions = vec![accepted, condition(RESOLVED_REFS, unresolved)];
    out.statuses.push(ObjectStatus { key: object.key.clone(), conditions });
}

fn listener_policy(world: &World<'_>, object: &Object, spec: &ListenerPolicySpec, out: &mut Output) {
    let mut fault = None;
    for (index, target) in spec.targets.iter().enumerate() {
        if let Some((reason, message, fix)) = listener_fault(world, object, spec, target) {
            out.warn(object, &format!("spec.targetRefs[{index}]"), message.clone(), fix);
            fault.get_or_insert((reason, message));
        }
    }
    let conditions = vec![condition(ACCEPTED, fault)];
    out.statuses.push(ObjectStatus { key: object.key.clone(), conditions });
}

/// Why the policy does not hold for such listeners, and what to do.
fn listener_fault(
    world: &World<'_>,
    object: &Object,
    policy: &ListenerPolicySpec,
    target: &ListenerRef,
) -> Option<(&'static str, String, &'static str)> {
    let ListenerRef { gateway, listener } = target;
    let namespace = &object.key.namespace;
    let Some(Spec::Gateway(spec)) = world.object(Kind::Gateway, namespace, gateway).map(|found| &found.spec)
    else {
        let message = format!("there is no Gateway {namespace}/{gateway}");
        return Some(("TargetNotFound", message, "create it, or name another"));
    };
    if let Some(name) = listener
        && !spec.listeners.iter().any(|listener| listener.name == *name)
    {
        let message = format!("Gateway {namespace}/{gateway} has no listener {name:?}");
        return Some(("TargetNotFound", message, "add it, or name another"));
    }
    if let Some((holds, _)) = world.listener_policy(namespace, gateway, listener.as_deref())
        && holds.key != object.key
    {
        let message = format!("an older policy holds for it, {}", holds.key.name);
        return Some(("Conflicted", message, "remove either"));
    }
    let targeted = || spec.listeners.iter().filter(|each| listener.as_ref().is_none_or(|l| *l == each.name));
    let idle = policy.says.iter().find(|part| !targeted().any(|each| part.holds_for(each.protocol)))?;
    let whose = match listener {
        Some(name) => format!("listener {name:?} of Gateway {namespace}/{gateway}"),
        None => format!("any listener of Gateway {namespace}/{gateway}"),
    };
    let message = format!("{} means nothing to {whose}", idle.as_str());
    Some((
        "Invalid",
        message,
        "remove it, or name a listener for it: udp is for those of UDP, clientCertificates for those at which TLS ends, all else \
         for those of HTTP and HTTPS",
    ))
}

/// Why the policy does not hold for a Backend of that name, and what to do.
fn target_fault(
    world: &World<'_>,
    object: &Object,
    name: &str,
) -> Option<(&'static str, String, &'static str)> {
    let key =
        ObjectKey { kind: Kind::Backend, name: name.to_owned(), namespace: object.key.namespace.clone() };
    let Some(target) = world.object(Kind::Backend, &key.namespace, name) else {
        return Some(("TargetNotFound", format!("there is no {key}"), "create it, or name another"));
    };
    if matches!(&target.spec, Spec::Backend(spec) if spec.tls.is_some()) {
        let message = format!("{key} has a tls of its own, which holds");
        return Some(("Conflicted", message, "remove either"));
    }
    match world.tls_policy(&key) {
        Some((holds, _)) if holds.key != object.key => {
            let message = format!("{key} has an older policy, {}", holds.key.name);
            Some(("Conflicted", message, "remove either"))
        }
        _ => None,
    }
}

fn condition(kind: &str, fault: Option<(&'static str, String)>) -> Condition {
    let status = fault.is_none();
    let (reason, message) = fault.unwrap_or_default();
    let reason = if status { kind } else { reason };
    Condition { scope: Scope::Object, kind: kind.to_owned(), status, reason: reason.to_owned(), message }
}
