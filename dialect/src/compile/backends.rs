//! Backends, with the TLS that they or their policies ask for.

use model::{Backend, BackendId, CertificateId, UpstreamProtocol, UpstreamRoots, UpstreamTls};

use super::{
    Output,
    gateways::certificate,
    world::{Unresolved, World, id_text},
};
use crate::{
    Kind, Object, Spec,
    spec::{BackendSpec, BackendTlsSpec, RootsRef},
};

/// Why a backend cannot be spoken to as it should be: a reason of Gateway API, a sentence, and what to do. Such a backend is not
/// used at all, rather than in cleartext or with other authorities than its owner chose.
pub(super) struct BackendFault {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) fix: &'static str,
}

/// Adds the backend that `object` is, once. For gRPC one that does not say what it speaks in cleartext speaks HTTP/2: that
/// is a backend of its own, beside the one that other routes know.
///
/// `route` is the kind of the route that forwards to it.
pub(super) fn add(
    world: &World<'_>,
    object: &Object,
    route: Kind,
    out: &mut Output,
) -> Result<Option<BackendId>, BackendFault> {
    let Spec::Backend(spec) = &object.spec else { return Ok(None) };
    let in_tls = spec.tls.is_some() || world.tls_policy(&object.key).is_some();
    if route == Kind::UdpRoute && (in_tls || spec.send_proxy.is_some()) {
        return Err(BackendFault {
            reason: "UnsupportedProtocol",
            message: format!(
                "Backend {} has TLS or proxyProtocol, which datagrams have not",
                id_text(&object.key)
            ),
            fix: "forward to a Backend without",
        });
    }
    let grpc = route == Kind::GrpcRoute;
    if grpc && spec.send_proxy.is_some() {
        return Err(BackendFault {
            reason: "UnsupportedProtocol",
            message: format!(
                "Backend {} has proxyProtocol, and gRPC's HTTP/2 shares connections",
                id_text(&object.key)
            ),
            fix: "remove proxyProtocol, or forward to another Backend",
        });
    }
    let assumed = grpc && !in_tls && spec.protocol == UpstreamProtocol::Negotiated;
    let id = BackendId(format!("{}{}", id_text(&object.key), if assumed { "/h2c" } else { "" }));
    let Err(at) = out.config.backends.binary_search_by(|known| known.id.cmp(&id)) else {
        return Ok(Some(id));
    };
    let tls = tls(world, object, spec, out)?;
    let backend = Backend {
        id: id.clone(),
        origin: object.key.origin("spec"),
        endpoints: spec.endpoints.clone(),
        connect_timeout: spec.connect_timeout,
        protocol: if assumed { UpstreamProtocol::Http2 } else { spec.protocol },
        tls,
        send_proxy: spec.send_proxy,
        traffic: (*spec.traffic).clone(),
    };
    out.config.backends.insert(at, backend);
    Ok(Some(id))
}

/// The Backend's own TLS, or that of the policy that holds for it.
fn tls(
    world: &World<'_>,
    object: &Object,
    spec: &BackendSpec,
    out: &mut Output,
) -> Result<Option<UpstreamTls>, BackendFault> {
    let (owner, field, tls) = match (&spec.tls, world.tls_policy(&object.key)) {
        (Some(own), _) => (object, "spec.tls", own),
        (None, Some((policy, spec))) => (policy, "spec.validation", &spec.tls),
        (None, None) => return Ok(None),
    };
    let client_certificate = match &tls.client_certificate {
        None => None,
        Some(reference) => Some(client_certificate(world, owner, reference, out)?),
    };
    Ok(Some(UpstreamTls {
        origin: owner.key.origin(field),
        server_name: tls.hostname.clone(),
        roots: roots(world, owner, tls)?,
        client_certificate,
    }))
}

/// Who vouches for the endpoints.
pub(super) fn roots(
    world: &World<'_>,
    owner: &Object,
    tls: &BackendTlsSpec,
) -> Result<UpstreamRoots, BackendFault> {
    let RootsRef::ConfigMaps(names) = &tls.roots else { return Ok(UpstreamRoots::System) };
    let mut pem = String::new();
    for name in names {
        let namespace = &owner.key.namespace;
        let Some(Spec::ConfigMap(found)) =
            world.object(Kind::ConfigMap, namespace, name).map(|found| &found.spec)
        else {
            let message = format!("there is no ConfigMap {namespace}/{name}");
            return Err(BackendFault {
                reason: "InvalidCACertificateRef",
                message,
                fix: "create it, with the authorities' certificates under ca.crt",
            });
        };
        pem.push_str(found.ca_pem.trim_end());
        pem.push('\n');
    }
    Ok(UpstreamRoots::Pem(pem))
}

/// The Secret with the certificate that we show, added to the configuration.
fn client_certificate(
    world: &World<'_>,
    owner: &Object,
    reference: &crate::spec::CertificateRef,
    out: &mut Output,
) -> Result<CertificateId, BackendFault> {
    let (namespace, name) = (reference.namespace.as_deref(), &reference.name);
    let secret = world.resolve(&owner.key, Kind::Secret, namespace, name).map_err(|unresolved| {
        let namespace = namespace.unwrap_or(&owner.key.namespace);
        match unresolved {
            Unresolved::NotFound => BackendFault {
                reason: "InvalidClientCertificateRef",
                message: format!("there is no Secret {namespace}/{name}"),
                fix: "create it, with type kubernetes.io/tls",
            },
            Unresolved::NotPermitted => BackendFault {
                reason: "RefNotPermitted",
                message: format!("no ReferenceGrant lets this Backend use Secret {namespace}/{name}"),
                fix: "create a ReferenceGrant in the Secret's namespace",
            },
        }
    })?;
    let (id, certificate) = certificate(secret).ok_or(BackendFault {
        reason: "InvalidClientCertificateRef",
        message: format!("Secret {} is not a certificate", id_text(&secret.key)),
        fix: "use one of type kubernetes.io/tls",
    })?;
    let known = &mut out.config.certificates;
    if let Err(at) = known.binary_search_by(|other| other.id.cmp(&id)) {
        known.insert(at, certificate);
    }
    Ok(id)
}
