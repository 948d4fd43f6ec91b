//! What listeners ask of clients' certificates: what their Gateway says, and over that their policy.

use model::{ClientCertificateMode, ClientCertificates};

use super::{
    Output,
    world::{Unresolved, World},
};
use crate::{
    Kind, Object, Spec,
    spec::{AuthorityRef, GatewayListener, GatewaySpec},
};

/// What a listener asks, and what is wrong with it.
pub(super) struct Asked {
    /// `None`: clients are not asked.
    pub(super) certificates: Option<Box<ClientCertificates>>,
    /// A reference that leads nowhere.
    pub(super) unresolved: Option<Fault>,
    /// There is nobody who could vouch for clients: the listener is not served, least of all to everybody.
    pub(super) nobody: bool,
}

/// A reason of Gateway API and a sentence.
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) fix: &'static str,
}

pub(super) fn asked(
    world: &World<'_>,
    gateway: &Object,
    spec: &GatewaySpec,
    listener: &GatewayListener,
    out: &mut Output,
) -> Asked {
    let mut asked = Asked { certificates: None, unresolved: None, nobody: false };
    if !listener.protocol.ends_tls() {
        return asked;
    }
    let frontend = spec.frontend.on_port(listener.port).filter(|_| listener.protocol.is_http());
    let policy = policy(world, gateway, listener);
    let own = policy.filter(|(_, policy)| !policy.authorities.is_empty());
    let (owner, field, authorities) = match (own, &frontend) {
        (Some((object, policy)), _) => {
            (object, "spec.clientCertificates".to_owned(), policy.authorities.as_slice())
        }
        (None, Some((frontend, field))) => (gateway, field.clone(), frontend.authorities.as_slice()),
        (None, None) => {
            // Of a policy that asks for certificates and names nobody who could vouch for them.
            asked.nobody = policy.is_some_and(|(_, policy)| policy.asks());
            return asked;
        }
    };
    let mut pem = String::new();
    for (index, reference) in authorities.iter().enumerate() {
        match authority(world, owner, reference) {
            Ok(found) => pem.push_str(found),
            Err(fault) => {
                let field = format!("{field}.caCertificateRefs[{index}]");
                out.warn(owner, &field, fault.message.clone(), fault.fix);
                asked.unresolved = Some(fault);
            }
        }
        pem.push('\n');
    }
    asked.nobody = pem.trim().is_empty();
    if asked.nobody {
        return asked;
    }
    let said = frontend.map_or(ClientCertificateMode::Required, |(frontend, _)| frontend.mode);
    let policy = policy.map(|(_, policy)| policy.clone());
    asked.certificates = Some(Box::new(ClientCertificates {
        origin: owner.key.origin(&field),
        mode: policy.as_ref().and_then(|policy| policy.mode).unwrap_or(said),
        authorities_pem: pem,
        names: policy.as_ref().map(|policy| policy.names.clone()).unwrap_or_default(),
        certificates: policy.as_ref().map(|policy| policy.certificates.clone()).unwrap_or_default(),
        public_keys: policy.as_ref().map(|policy| policy.public_keys.clone()).unwrap_or_default(),
        forward: policy.and_then(|policy| policy.forward),
    }));
    asked
}

/// What the listener's policy says of clients' certificates, and whose that is.
fn policy<'a>(
    world: &World<'a>,
    gateway: &Object,
    listener: &GatewayListener,
) -> Option<(&'a Object, &'a crate::spec::ClientCertificatesSpec)> {
    let (object, policy) = world.policy_of(&gateway.key, &listener.name)?;
    Some((object, policy.client_certificates.as_ref()?))
}

/// The certificates of a ConfigMap, and its lists of those that were revoked.
fn authority<'a>(world: &World<'a>, owner: &Object, reference: &AuthorityRef) -> Result<&'a str, Fault> {
    let AuthorityRef { namespace, name } = reference;
    let found = world.resolve(&owner.key, Kind::ConfigMap, namespace.as_deref(), name);
    let namespace = namespace.as_ref().unwrap_or(&owner.key.namespace);
    match found.map(|object| &object.spec) {
        Ok(Spec::ConfigMap(found)) => Ok(&found.ca_pem),
        Ok(_) | Err(Unresolved::NotFound) => Err(Fault {
            reason: "InvalidCACertificateRef",
            message: format!("there is no ConfigMap {namespace}/{name}"),
            fix: "create it, with the authorities' certificates under ca.crt",
        }),
        Err(Unresolved::NotPermitted) => Err(Fault {
            reason: "RefNotPermitted",
            message: format!("no ReferenceGrant lets {} use ConfigMap {namespace}/{name}", owner.key),
            fix: "create a ReferenceGrant in the ConfigMap's namespace",
        }),
    }
}
