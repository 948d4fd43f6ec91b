//! What each kind of object says, typed and checked: no field left to interpret.

mod access_log;
mod backend;
mod client_certificates;
mod config_map;
mod direct_response;
mod gateway;
mod grant;
mod health;
mod listener_policy;
mod pool;
pub(crate) mod route;
mod secret;
mod tenant;
mod tls;
mod traffic;

pub use backend::BackendSpec;
pub use client_certificates::{AuthorityRef, ClientCertificatesSpec, FrontendTls, FrontendValidation};
pub use config_map::ConfigMapSpec;
pub use direct_response::DirectResponseSpec;
pub use gateway::{CertificateRef, GatewayListener, GatewaySpec, RoutesFrom};
pub use grant::{GrantFrom, GrantTo, ReferenceGrantSpec};
pub use listener_policy::{ListenerPolicySpec, ListenerRef, PolicyPart};
pub use pool::{Http3, Listen, PoolSpec};
pub use route::{
    BackendRef, BackendTarget, HttpRouteSpec, ParentRef, RouteMatch, RouteRule, RuleAction, SessionSpec,
    StreamRouteSpec,
};
pub use secret::TlsSecretSpec;
pub use tenant::{TenantQuotas, TenantSpec};
pub use tls::{BackendTlsPolicySpec, BackendTlsSpec, RootsRef};

use crate::{
    Kind,
    read::{Fields, Node},
};

/// What an object says.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// Of a Gateway.
    Gateway(GatewaySpec),
    /// Of an HTTPRoute.
    HttpRoute(HttpRouteSpec),
    /// Of a GRPCRoute: gRPC's methods are paths.
    GrpcRoute(HttpRouteSpec),
    /// Of a TLSRoute, TCPRoute or UDPRoute.
    StreamRoute(StreamRouteSpec),
    /// Of a ReferenceGrant.
    ReferenceGrant(ReferenceGrantSpec),
    /// Of a BackendTLSPolicy.
    BackendTlsPolicy(BackendTlsPolicySpec),
    /// Of a Secret.
    TlsSecret(TlsSecretSpec),
    /// Of a ConfigMap.
    ConfigMap(ConfigMapSpec),
    /// Of a Backend.
    Backend(BackendSpec),
    /// Of a DirectResponse.
    DirectResponse(DirectResponseSpec),
    /// Of a ListenerPolicy.
    ListenerPolicy(ListenerPolicySpec),
    /// Of a Pool.
    Pool(PoolSpec),
    /// Of a Tenant.
    Tenant(TenantSpec),
}

impl Spec {
    /// Reads what is beside `kind` and `metadata`. `None` when something was noted to be wrong.
    pub(crate) fn read(kind: Kind, fields: &mut Fields<'_>) -> Option<Self> {
        fn spec<T>(fields: &mut Fields<'_>, read: impl FnOnce(&Node<'_>) -> Option<T>) -> Option<T> {
            fields.required("spec").and_then(|node| read(&node))
        }
        match kind {
            Kind::Gateway => spec(fields, GatewaySpec::read).map(Self::Gateway),
            Kind::HttpRoute => spec(fields, HttpRouteSpec::read).map(Self::HttpRoute),
            Kind::GrpcRoute => spec(fields, HttpRouteSpec::read_grpc).map(Self::GrpcRoute),
            Kind::TlsRoute => spec(fields, StreamRouteSpec::read_tls).map(Self::StreamRoute),
            Kind::TcpRoute | Kind::UdpRoute => {
                spec(fields, StreamRouteSpec::read_nameless).map(Self::StreamRoute)
            }
            Kind::ReferenceGrant => spec(fields, ReferenceGrantSpec::read).map(Self::ReferenceGrant),
            Kind::BackendTlsPolicy => spec(fields, BackendTlsPolicySpec::read).map(Self::BackendTlsPolicy),
            Kind::Secret => TlsSecretSpec::read(fields).map(Self::TlsSecret),
            Kind::ConfigMap => ConfigMapSpec::read(fields).map(Self::ConfigMap),
            Kind::Backend => spec(fields, BackendSpec::read).map(Self::Backend),
            Kind::DirectResponse => spec(fields, DirectResponseSpec::read).map(Self::DirectResponse),
            Kind::ListenerPolicy => spec(fields, ListenerPolicySpec::read).map(Self::ListenerPolicy),
            // All of their fields have defaults.
            Kind::Pool => match fields.optional("spec") {
                Some(node) => PoolSpec::read(&node).map(Self::Pool),
                None => Some(Self::Pool(PoolSpec::default())),
            },
            Kind::Tenant => match fields.optional("spec") {
                Some(node) => TenantSpec::read(&node).map(Self::Tenant),
                None => Some(Self::Tenant(TenantSpec::default())),
            },
        }
    }
}

/// A hostname or `*.` and a domain.
fn hostname(node: &Node<'_>) -> Option<model::HostPattern> {
    let pattern =
        node.parsed(model::HostPattern::parse, "write it like shop.example.com or *.example.com")?;
    if node.raw().as_str().is_some_and(|text| text.bytes().any(|b| b.is_ascii_uppercase())) {
        node.wrong("it has uppercase letters", format!("write {pattern}"));
        return None;
    }
    Some(pattern)
}

/// The name of one host.
fn precise_hostname(node: &Node<'_>) -> Option<String> {
    match hostname(node)? {
        model::HostPattern::Exact(host) => Some(host),
        pattern @ model::HostPattern::Wildcard(_) => {
            node.wrong(format!("{pattern} stands for many hosts"), "name one host");
            None
        }
    }
}
