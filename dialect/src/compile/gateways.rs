//! Gateways to listeners.

use std::collections::BTreeMap;

use model::{Certificate, CertificateId, HostPattern, Listener, ListenerId, ListenerPolicy, PoolName};

use super::{
    Output, clients,
    world::{Unresolved, World, id_text},
};
use crate::{
    Condition, Kind, Object, ObjectKey, ObjectStatus, PoolSpec, Scope, Spec,
    spec::{CertificateRef, GatewayListener, GatewaySpec, RoutesFrom},
    status::{ACCEPTED, RESOLVED_REFS},
};

/// The listeners of each Gateway by namespace and name.
pub(super) type Attachable<'a> = BTreeMap<(&'a str, &'a str), Vec<Attach<'a>>>;

/// A listener that routes may attach to.
pub(super) struct Attach<'a> {
    pub(super) id: ListenerId,
    pub(super) spec: &'a GatewayListener,
    /// Whether it is served. A route that attaches to one that is not is accepted nevertheless.
    pub(super) served: bool,
    /// The pool that serves it.
    pub(super) pool: PoolName,
}

impl Attach<'_> {
    /// Whether `route` may attach to this listener of a Gateway in `own`.
    pub(super) fn allows(&self, own: &str, route: &ObjectKey) -> bool {
        let from = match self.spec.routes_from {
            RoutesFrom::Same => own == route.namespace,
            RoutesFrom::All => true,
            RoutesFrom::None => false,
        };
        from && self.spec.allowed_kinds.contains(&route.kind)
    }
}

pub(super) fn compile<'a>(world: &World<'a>, objects: &[&'a Object], out: &mut Output) -> Attachable<'a> {
    let mut attachable = Attachable::new();
    let mut certificates = BTreeMap::new();
    for object in objects {
        if let Spec::Gateway(spec) = &object.spec {
            let listeners = gateway(world, object, spec, &mut certificates, out);
            attachable.insert((&object.key.namespace, &object.key.name), listeners);
        }
    }
    out.config.certificates = certificates.into_values().collect();
    attachable
}

/// What is wrong with a listener: a reason of Gateway API and a sentence.
struct Fault {
    reason: &'static str,
    message: String,
    fix: String,
}

fn gateway<'a>(
    world: &World<'a>,
    object: &'a Object,
    spec: &'a GatewaySpec,
    certificates: &mut BTreeMap<CertificateId, Certificate>,
    out: &mut Output,
) -> Vec<Attach<'a>> {
    let pool_name = spec.pool.as_ref().unwrap_or(&world.environment.default_pool);
    let pool = world.pool(pool_name);
    if pool.is_none() {
        let fix = "name another, or ask the platform admin to create it";
        out.warn(
            object,
            "spec.infrastructure.parametersRef.name",
            format!("there is no pool {pool_name}"),
            fix,
        );
    }
    let mut conditions = vec![];
    let mut attachable = vec![];
    let (mut accepted, mut resolved) = (0, 0);
    for (index, listener) in spec.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{index}]");
        let scope = || Scope::Listener(listener.name.clone());

        let owned = owns(world, object, &field, listener, out);
        let fault = match &pool {
            Some(pool) => port_fault(world, pool, listener),
            None => Some(Fault {
                reason: "InvalidParameters",
                message: format!("there is no pool {pool_name}"),
                fix: String::new(),
            }),
        };
        if let (Some(fault), true) = (&fault, pool.is_some()) {
            out.warn(object, &format!("{field}.port"), fault.message.clone(), fault.fix.clone());
        }
        let fault = fault.or_else(|| (!owned).then(|| not_owned(listener)));
        let asked = clients::asked(world, object, spec, listener, out);
        let fault = fault.or_else(|| asked.nobody.then(nobody_vouches));
        accepted += usize::from(fault.is_none());
        conditions.push(condition(scope(), ACCEPTED, fault.as_ref(), ACCEPTED));

        let (usable, ref_fault) = secrets(world, object, &field, listener, out);
        let ref_fault = ref_fault.or(asked.unresolved.map(|fault| Fault {
            reason: fault.reason,
            message: fault.message,
            fix: fault.fix.to_owned(),
        }));
        resolved += usize::from(ref_fault.is_none());
        conditions.push(condition(scope(), RESOLVED_REFS, ref_fault.as_ref(), RESOLVED_REFS));

        // Without its own certificates it must not be served with the pool's.
        let served = fault.is_none() && (usable.len() == listener.certificates.len() || !usable.is_empty());
        let id = ListenerId(format!("{}/{}", id_text(&object.key), listener.name));
        if served {
            let ids = usable.iter().map(|secret| CertificateId(id_text(&secret.key))).collect();
            certificates.extend(usable.into_iter().filter_map(certificate));
            out.config.listeners.push(Listener {
                id: id.clone(),
                origin: object.key.origin(&field),
                pool: pool_name.clone(),
                port: listener.port,
                protocol: listener.protocol,
                hostname: listener.hostname.clone(),
                certificates: ids,
                policy: policy(world, &object.key, listener),
                client_certificates: asked.certificates,
            });
        }
        attachable.push(Attach { id, spec: listener, served, pool: pool_name.clone() });
    }
    let all = spec.listeners.len();
    conditions.insert(0, gateway_condition(ACCEPTED, accepted > 0, accepted == all, "ListenersNotValid"));
    conditions
        .insert(1, gateway_condition(RESOLVED_REFS, resolved == all, resolved == all, "ListenersNotValid"));
    if spec.frontend.has_fallback() {
        conditions.push(Condition {
            scope: Scope::Object,
            kind: "InsecureFrontendValidationMode".to_owned(),
            status: true,
            reason: "ConfigurationChanged".to_owned(),
            message: "clients without a valid certificate are let in".to_owned(),
        });
    }
    out.statuses.push(ObjectStatus { key: object.key.clone(), conditions });
    attachable
}

fn gateway_condition(kind: &str, status: bool, whole: bool, reason: &str) -> Condition {
    let (reason, message) = if whole { (kind, "") } else { (reason, "see the conditions of the listeners") };
    Condition {
        scope: Scope::Object,
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

fn condition(scope: Scope, kind: &str, fault: Option<&Fault>, fine: &str) -> Condition {
    Condition {
        scope,
        kind: kind.to_owned(),
        status: fault.is_none(),
        reason: fault.map_or(fine, |fault| fault.reason).to_owned(),
        message: fault.map(|fault| fault.message.clone()).unwrap_or_default(),
    }
}

/// The listener's own policy, or else its Gateway's.
fn policy(world: &World<'_>, gateway: &ObjectKey, listener: &GatewayListener) -> ListenerPolicy {
    let found = world.policy_of(gateway, &listener.name);
    found.map(|(_, spec)| spec.policy_for(listener.protocol)).unwrap_or_default()
}

/// Whether the tenant owns the listener's hosts; a mistake if not.
fn owns(
    world: &World<'_>,
    object: &Object,
    field: &str,
    listener: &GatewayListener,
    out: &mut Output,
) -> bool {
    let Some(hostname) = &listener.hostname else { return true };
    let owned = world.environment.owns(hostname);
    if !owned {
        let (problem, fix) = foreign_host(world, hostname);
        out.mistake(object, &format!("{field}.hostname"), problem, fix);
    }
    owned
}

/// What is said of a hostname that the tenant does not own, and how to get it.
pub(super) fn foreign_host(world: &World<'_>, hostname: &HostPattern) -> (String, String) {
    let tenant = &world.environment.tenant;
    let own: Vec<String> = world.environment.hostnames.iter().take(4).map(ToString::to_string).collect();
    let mut fix = format!("ask the platform admin to add it to the Tenant's spec.hostnames ({tenant})");
    if !own.is_empty() {
        fix.push_str(&format!(", or use one of {}", own.join(", ")));
    }
    (format!("{hostname} does not belong to tenant {tenant}"), fix)
}

fn not_owned(listener: &GatewayListener) -> Fault {
    let hostname = listener.hostname.as_ref().map(ToString::to_string).unwrap_or_default();
    let message = format!("{hostname} does not belong to the tenant");
    Fault { reason: "HostnameNotOwned", message, fix: String::new() }
}

fn nobody_vouches() -> Fault {
    let message = "there is no authority that could vouch for clients";
    Fault { reason: "NoValidCACertificate", message: message.to_owned(), fix: String::new() }
}

/// Whether the pool has the listener's port, and speaks its protocol there.
fn port_fault(world: &World<'_>, pool: &PoolSpec, listener: &GatewayListener) -> Option<Fault> {
    let Some(listen) = pool.listen_for(listener.port, listener.protocol) else {
        let udp = listener.protocol.is_udp();
        let like = pool.listen.iter().filter(|listen| listen.protocol.is_udp() == udp);
        let ports: Vec<String> = like.map(|listen| listen.port.to_string()).collect();
        let ask = "ask the platform admin to add it to the Pool's spec.listen";
        let by = if udp { " of UDP" } else { "" };
        return Some(Fault {
            reason: "PortUnavailable",
            message: format!("the pool does not listen for port {}{by}", listener.port),
            fix: if ports.is_empty() {
                ask.to_owned()
            } else {
                format!("use {}, or {ask}", ports.join(" or "))
            },
        });
    };
    if listen.protocol != listener.protocol.on_port() {
        return Some(Fault {
            reason: "UnsupportedProtocol",
            message: format!("the pool speaks another protocol on port {}", listener.port),
            fix: "change the listener's protocol or its port".to_owned(),
        });
    }
    // Nothing that clients say tells tenants apart there.
    let tenant = &world.environment.tenant;
    let shared = listen.protocol.names_hosts() || world.environment.any_host;
    (!shared && listen.tenant.as_ref() != Some(tenant)).then(|| Fault {
        reason: "PortUnavailable",
        message: format!("port {} of the pool is not given to tenant {tenant}", listener.port),
        fix: format!(
            "ask the platform admin to write tenant: {tenant} at that port of the Pool's spec.listen"
        ),
    })
}

/// The Secrets that can be used, and what is wrong with the last one that cannot.
fn secrets<'a>(
    world: &World<'a>,
    object: &Object,
    field: &str,
    listener: &GatewayListener,
    out: &mut Output,
) -> (Vec<&'a Object>, Option<Fault>) {
    let mut usable = vec![];
    let mut last = None;
    for (index, reference) in listener.certificates.iter().enumerate() {
        let CertificateRef { namespace, name } = reference;
        match world.resolve(&object.key, Kind::Secret, namespace.as_deref(), name) {
            Ok(secret) => usable.push(secret),
            Err(unresolved) => {
                let namespace = namespace.as_ref().unwrap_or(&object.key.namespace);
                let (reason, message, fix) = match unresolved {
                    Unresolved::NotFound => (
                        "InvalidCertificateRef",
                        format!("there is no Secret {namespace}/{name}"),
                        "create it, with type kubernetes.io/tls",
                    ),
                    Unresolved::NotPermitted => (
                        "RefNotPermitted",
                        format!("no ReferenceGrant lets this Gateway use Secret {namespace}/{name}"),
                        "create a ReferenceGrant in the Secret's namespace",
                    ),
                };
                let field = format!("{field}.tls.certificateRefs[{index}]");
                out.warn(object, &field, message.clone(), fix);
                last = Some(Fault { reason, message, fix: fix.to_owned() });
            }
        }
    }
    (usable, last)
}

pub(super) fn certificate(secret: &Object) -> Option<(CertificateId, Certificate)> {
    let Spec::TlsSecret(spec) = &secret.spec else { return None };
    let id = CertificateId(id_text(&secret.key));
    let certificate = Certificate {
        id: id.clone(),
        origin: secret.key.origin(""),
        hosts: spec.hosts.clone(),
        chain_pem: spec.chain_pem.clone(),
        key_pem: spec.key_pem.clone(),
    };
    Some((id, certificate))
}
