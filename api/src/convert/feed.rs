//! What a feed delta carries beside the tenants: who owns a host, and the edge's pool.

use std::{fmt, net::SocketAddr, time::Duration};

use model::{HostPattern, PoolName, ProxyTrust, TenantId};

use super::{ConvertError, to_wire::millis};
use crate::feed as wire;

/// The wire's host index, in the order of `owners`.
pub fn host_index<'a>(owners: impl IntoIterator<Item = (&'a HostPattern, &'a TenantId)>) -> wire::HostIndex {
    let owners = owners
        .into_iter()
        .map(|(pattern, tenant)| wire::HostOwner { pattern: pattern.to_string(), tenant: tenant.to_string() })
        .collect();
    wire::HostIndex { owners }
}

/// The owners in the wire's host index.
///
/// # Errors
///
/// A pattern or tenant is not valid. The whole index is refused then: half of it would give hosts away.
pub fn host_owners(index: &wire::HostIndex) -> Result<Vec<(HostPattern, TenantId)>, ConvertError> {
    index
        .owners
        .iter()
        .map(|owner| {
            let invalid = |problem: String| ConvertError::Invalid {
                tenant: owner.tenant.clone(),
                origin: format!("host index {:?}", owner.pattern),
                problem,
            };
            let pattern = HostPattern::parse(&owner.pattern).map_err(|e| invalid(e.to_string()))?;
            let tenant = owner.tenant.parse().map_err(|e: model::InvalidName| invalid(e.to_string()))?;
            Ok((pattern, tenant))
        })
        .collect()
}

/// What an edge must know of its pool.
#[derive(Clone, PartialEq, Eq)]
pub struct Pool {
    /// The pool.
    pub name: PoolName,
    /// Where its workers listen.
    pub ports: Vec<PoolPort>,
    /// Served for TLS where no tenant's certificate fits: chain and key, PEM.
    pub default_certificate: Option<(String, String)>,
    /// Connections are retired at this age, with jitter. `None` is never.
    pub max_connection_age: Option<Duration>,
    /// Connections that outlive a drain by this are closed.
    pub drain_deadline: Duration,
    /// Whether clients are told that HTTP/3 is served.
    pub advertise_h3: bool,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).field("ports", &self.ports).finish_non_exhaustive()
    }
}

/// One port of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolPort {
    /// As a Gateway's listener says it.
    pub port: u16,
    /// Where workers listen.
    pub bind: SocketAddr,
    /// Whether TLS is spoken from the first byte.
    pub tls: bool,
    /// Whether it is a port of UDP.
    pub udp: bool,
    /// Whose PROXY protocol headers are believed. `None`: nobody's.
    pub proxy: Option<ProxyTrust>,
    /// Whose it is alone, where clients cannot say which host they mean.
    pub tenant: Option<TenantId>,
}

/// Why a pool message is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pool {pool:?}: {problem}")]
pub struct InvalidPool {
    /// The pool as the message names it.
    pub pool: String,
    /// What is wrong.
    pub problem: String,
}

impl From<&Pool> for wire::Pool {
    fn from(pool: &Pool) -> Self {
        let (chain, key) = pool.default_certificate.clone().unwrap_or_default();
        Self {
            name: pool.name.to_string(),
            ports: pool
                .ports
                .iter()
                .map(|p| wire::PoolPort {
                    port: p.port.into(),
                    bind: p.bind.to_string(),
                    tls: p.tls,
                    udp: p.udp,
                    proxy: p.proxy.as_ref().map(|trust| wire::ProxyTrust {
                        trusted: trust.trusted.iter().map(ToString::to_string).collect(),
                        required: trust.required,
                    }),
                    tenant: p.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
                })
                .collect(),
            default_chain_pem: chain,
            default_key_pem: key,
            max_connection_age_ms: pool.max_connection_age.map_or(0, millis),
            drain_deadline_ms: millis(pool.drain_deadline),
            unadvertised_http3: !pool.advertise_h3,
        }
    }
}

fn tenant(text: &str) -> Result<Option<TenantId>, String> {
    let named = Some(text).filter(|text| !text.is_empty());
    named.map(str::parse).transpose().map_err(|e: model::InvalidName| e.to_string())
}

/// Never half of a list: who is left out would be served as a client.
fn proxy_trust(trust: &wire::ProxyTrust) -> Result<ProxyTrust, String> {
    let net = |text: &String| text.parse().map_err(|_| format!("{text:?} is not a network"));
    let trusted = trust.trusted.iter().map(net).collect::<Result<_, _>>()?;
    Ok(ProxyTrust { trusted, required: trust.required })
}

impl TryFrom<wire::Pool> for Pool {
    type Error = InvalidPool;

    fn try_from(pool: wire::Pool) -> Result<Self, InvalidPool> {
        let invalid = |problem: String| InvalidPool { pool: pool.name.clone(), problem };
        let ports = pool
            .ports
            .iter()
            .map(|p| {
                Ok(PoolPort {
                    port: u16::try_from(p.port)
                        .map_err(|_| invalid(format!("port {} is out of range", p.port)))?,
                    bind: p
                        .bind
                        .parse()
                        .map_err(|_| invalid(format!("{:?} is not an address and port", p.bind)))?,
                    tls: p.tls,
                    udp: p.udp,
                    proxy: p.proxy.as_ref().map(|trust| proxy_trust(trust).map_err(&invalid)).transpose()?,
                    tenant: tenant(&p.tenant).map_err(&invalid)?,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: pool.name.parse().map_err(|e: model::InvalidName| invalid(e.to_string()))?,
            ports,
            default_certificate: (!pool.default_chain_pem.is_empty())
                .then_some((pool.default_chain_pem, pool.default_key_pem)),
            max_connection_age: (pool.max_connection_age_ms > 0)
                .then(|| Duration::from_millis(pool.max_connection_age_ms)),
            drain_deadline: Duration::from_millis(pool.drain_deadline_ms),
            advertise_h3: !pool.unadvertised_http3,
        })
    }
}
