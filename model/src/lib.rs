//! What a gateway *is*: identifiers, the intermediate representation (IR) of a tenant's configuration, and
//! the route table that is compiled from it.
//!
//! Everything here is a pure function of its input: no clock, no randomness, no I/O, no hash order. The
//! controller and every edge compile with this crate, so what the controller accepts, every edge of the same
//! version can serve.
//!
//! Deliberately absent: YAML and Kubernetes objects (`dialect`), the wire (`api`), and anything async.
#![forbid(unsafe_code)]

mod access_log;
mod client_certificates;
mod compile;
mod compiled;
mod error;
mod host;
mod id;
mod ir;
mod limits;
pub mod path;
mod places;
mod proxy;
mod request;
mod session;
mod span;
mod streams;
mod table;
mod traffic;

pub use access_log::{AccessLog, LogFact, LogField, LogFilter, LogValue};
pub use client_certificates::{CertificateDetail, ClientCertificateMode, ClientCertificates};
pub use compile::{NOT_EDITABLE, check_regex};
pub(crate) use compiled::CompiledRoute;
pub use compiled::{CompiledAction, CompiledMatch, CompiledRule, Forward, Variant};
pub use error::CompileError;
pub use host::{HostConflict, HostIndex, InvalidHost};
pub use id::{Epoch, Generation, InvalidName, PoolName, Revision, TenantId, WorkerId};
pub use ir::{
    Action, Backend, BackendId, Certificate, CertificateId, ConnectTarget, Endpoint, EndpointAddress,
    Feature, Filter, HeaderEdit, HostPattern, Listener, ListenerId, ListenerPolicy, ListenerProtocol, Match,
    Origin, PathMatch, PathModifier, Rank, Redirect, Respond, Rewrite, Route, RouteId, Rule, SessionPolicy,
    StreamRoute, TenantConfig, Timeouts, TrafficQuota, UpstreamProtocol, UpstreamRoots, UpstreamTls,
    ValueMatch, ValueMatcher, WeightedBackend,
};
pub use limits::{CompileLimits, is_denied, is_public};
pub use proxy::{ProxyTrust, ProxyVersion};
pub use request::{Found, NotFound, Request, Written};
pub use session::{SessionCarrier, SessionPersistence};
pub use streams::{CompiledStream, FoundStream, StreamTable, attached_hosts};
pub use table::{Entered, RouteTable};
pub use traffic::{
    AffinityCookie, Balancing, CheckKind, HashKey, HealthCheck, HedgeDelay, OutlierDetection, PoolPolicy,
    TrafficPolicy,
};
