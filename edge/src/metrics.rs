//! What the worker counts. Each request thread owns its counters and writes them with plain stores; the helper
//! thread reads them, so a request pays no locked instruction and no map lookup beyond its route's.
//!
//! Names and help texts of all metrics are in this file.

mod backends;
pub(crate) mod histogram;
mod render;
mod routes;
mod tenants;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub(crate) use backends::BackendGauges;
use backends::{BackendKey, Backends};
pub use histogram::{BUCKETS, Histogram, HistogramSample};
use model::{BackendId, TenantId};
pub(crate) use render::render;
use routes::Routes;
pub use routes::{RouteKey, Series};
pub use tenants::TenantCounters;
use tenants::Tenants;

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only its owner may.
    pub fn add(&self, count: u64) {
        // One writer: a load and a store are enough, and cheaper than a locked add.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Adds; anyone may, if nobody uses [`add`](Self::add).
    pub fn add_shared(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Subtracts; only its owner may.
    pub fn sub(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// Replaces the number; only its owner may.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Keeps the larger; anyone may.
    pub fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    /// Takes the number and leaves zero; anyone may, if its owner only raises.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a kind of metric behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only rises.
    Counter,
    /// Goes both ways.
    Gauge,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ident = $name:literal,)+) => {
        /// What one request thread counts.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $field: Counter,)+
            /// Time from the end of the request's head to the end of the response, seconds.
            pub latency: Histogram,
            routes: Routes,
            backends: Backends,
            tenants: Tenants,
        }

        impl Counters {
            /// Name, kind, help and value of each.
            fn listed(&self) -> Vec<(&'static str, Kind, &'static str, u64)> {
                vec![$(($name, Kind::$kind, concat!($($doc),+).trim_ascii(), self.$field.value()),)+]
            }
        }
    };
}

counters! {
    /// Requests that were answered to the end, by anyone.
    requests: Counter = "weir_edge_finished_requests_total",
    /// Requests answered with a status of 500 or more, or cut off.
    errors: Counter = "weir_edge_failed_requests_total",
    /// Requests refused for lack of capacity.
    shed: Counter = "weir_edge_shed_requests_total",
    /// Requests that are being served, and streams.
    in_flight: Gauge = "weir_edge_requests_in_flight",
    /// Client connections that are open.
    connections: Gauge = "weir_edge_connections",
    /// Idle connections of this worker that another one serves since it drains.
    handed_over: Counter = "weir_edge_handed_over_connections_total",
    /// Such connections of other workers that this one serves.
    adopted: Counter = "weir_edge_adopted_connections_total",
    /// Client connections that were accepted.
    accepted: Counter = "weir_edge_accepted_connections_total",
    /// Client connections that were closed because a limit on connections was reached.
    over_limit: Counter = "weir_edge_over_limit_connections_total",
    /// Failures of accept itself, such as running out of descriptors.
    accept_errors: Counter = "weir_edge_accept_errors_total",
    /// TLS handshakes that succeeded.
    handshakes: Counter = "weir_edge_tls_handshakes_total",
    /// TLS handshakes that resumed a session.
    resumed: Counter = "weir_edge_tls_resumed_handshakes_total",
    /// TLS handshakes that failed or took too long.
    handshake_errors: Counter = "weir_edge_tls_failed_handshakes_total",
    /// TLS session tickets that were given to clients.
    tickets_issued: Counter = "weir_edge_tls_tickets_issued_total",
    /// TLS session tickets of clients that were opened; their sessions resume, unless the client has changed its mind.
    tickets_accepted: Counter = "weir_edge_tls_tickets_accepted_total",
    /// TLS session tickets whose key is not here, or no longer.
    tickets_unknown: Counter = "weir_edge_tls_tickets_unknown_total",
    /// TLS session tickets that were too old, given by another listener, or nobody's.
    tickets_refused: Counter = "weir_edge_tls_tickets_refused_total",
    /// Connections of trusted peers that were closed for a PROXY protocol header that was malformed, missing or late.
    proxy_errors: Counter = "weir_edge_proxy_protocol_errors_total",
    /// Client connections by HTTP/2 that ended for too much of what costs a client nothing.
    h2_floods: Counter = "weir_edge_h2_failed_connections_total{reason=\"flood\"}",
    /// Client connections by HTTP/2 that ended for any other error of the client's.
    h2_errors: Counter = "weir_edge_h2_failed_connections_total{reason=\"protocol\"}",
    /// Client connections by QUIC whose handshake succeeded.
    quic_connections: Counter = "weir_edge_quic_connections_total",
    /// QUIC clients that had to prove their address first.
    quic_retries: Counter = "weir_edge_quic_retries_total",
    /// Connections to upstreams that were opened.
    upstream_connects: Counter = "weir_edge_upstream_connects_total",
    /// Connections to upstreams that could not be opened.
    upstream_connect_errors: Counter = "weir_edge_upstream_failed_connects_total",
    /// Connections to upstreams that are open.
    upstream_connections: Gauge = "weir_edge_upstream_connections",
    /// TLS handshakes with upstreams that succeeded.
    upstream_handshakes: Counter = "weir_edge_upstream_tls_handshakes_total",
    /// TLS handshakes with upstreams that failed or took too long.
    upstream_handshake_errors: Counter = "weir_edge_upstream_tls_failed_handshakes_total",
    /// Requests that were tried again on another connection.
    retries: Counter = "weir_edge_retries_total",
    /// Retries that the budget did not allow.
    retries_denied: Counter = "weir_edge_denied_retries_total",
    /// Requests that were sent to a second endpoint because the first was late.
    hedges: Counter = "weir_edge_hedges_total",
    /// Of these, those that the second endpoint answered first.
    hedges_won: Counter = "weir_edge_won_hedges_total",
    /// Endpoints that were left out because of how they answered.
    ejections: Counter = "weir_edge_endpoint_ejections_total",
    /// Times that all endpoints of a backend were used because too few were well.
    panics: Counter = "weir_edge_backend_panics_total",
    /// Health checks of endpoints.
    health_checks: Counter = "weir_edge_health_checks_total",
    /// Health checks of endpoints that failed.
    health_check_failures: Counter = "weir_edge_failed_health_checks_total",
    /// Connections that became tunnels.
    tunnels: Counter = "weir_edge_tunnels_total",
    /// Connections that were passed on as they are: TLS by its server name, TCP by its port.
    streams: Counter = "weir_edge_streams_total",
    /// Such connections that came to nothing: no route, no endpoint, a malformed hello.
    streams_refused: Counter = "weir_edge_refused_streams_total",
    /// Spans that a collector took.
    spans_exported: Counter = "weir_edge_spans_exported_total",
    /// Requests whose spans nobody took in time, and spans that the collector did not take.
    spans_dropped: Counter = "weir_edge_spans_dropped_total",
    /// Sessions of UDP that are open.
    udp_sessions: Gauge = "weir_edge_udp_sessions",
    /// Sessions of UDP that were opened.
    udp_sessions_opened: Counter = "weir_edge_udp_sessions_total",
    /// Datagrams that were passed on to endpoints.
    udp_received: Counter = "weir_edge_udp_received_datagrams_total",
    /// Datagrams that were passed on to clients.
    udp_sent: Counter = "weir_edge_udp_sent_datagrams_total",
    /// Datagrams that were not passed on, by reason.
    udp_no_route: Counter = "weir_edge_udp_dropped_datagrams_total{reason=\"no_route\"}",
    /// Nobody to pass it on to.
    udp_no_endpoint: Counter = "weir_edge_udp_dropped_datagrams_total{reason=\"no_endpoint\"}",
    /// The client, or the port, has as many sessions as it may, or the worker is overloaded.
    udp_over_limit: Counter = "weir_edge_udp_dropped_datagrams_total{reason=\"limit\"}",
    /// The endpoint, or the network before it, says that it is not there.
    udp_unreachable: Counter = "weir_edge_udp_dropped_datagrams_total{reason=\"unreachable\"}",
    /// The socket's buffer is full.
    udp_full: Counter = "weir_edge_udp_dropped_datagrams_total{reason=\"buffer_full\"}",
    /// The machine has no socket to give, or the client cannot be sent to.
    udp_failed: Counter = "weir_edge_udp_dropped_datagrams_total{reason=\"error\"}",
    /// Bytes received from clients.
    bytes_in: Counter = "weir_edge_received_bytes_total",
    /// Bytes sent to clients.
    bytes_out: Counter = "weir_edge_sent_bytes_total",
    /// CPU time of the request threads, microseconds.
    cpu_us: Counter = "weir_edge_cpu_microseconds_total",
    /// How late the event loop ran at worst since it was last read, microseconds.
    queue_delay_us: Gauge = "weir_edge_queue_delay_microseconds",
}

/// How a request ended; a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream's response was passed on to its end.
    Forwarded,
    /// Answered here as the route says (redirect, fixed response).
    Answered,
    /// Refused here: no route, a limit, a dead upstream.
    Refused,
    /// The client went away.
    Abandoned,
    /// The upstream's response broke off.
    Truncated,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Forwarded, Self::Answered, Self::Refused, Self::Abandoned, Self::Truncated];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
            Self::Truncated => "truncated",
        }
    }
}

impl Counters {
    /// The series of a route. Takes a lock: the thread keeps what it gets.
    pub fn route(&self, key: &RouteKey) -> Series {
        self.routes.of(key)
    }

    /// The labels of a series of this thread's.
    pub(crate) fn labels(&self, series: Series) -> Option<&RouteKey> {
        self.routes.key(series)
    }

    /// A request of that series of this thread's will be finished soon.
    pub(crate) fn expect(&self, series: Series) {
        self.routes.expect(series);
    }

    /// Counts a finished request in a series of this thread's; only the thread may.
    pub fn finished(&self, series: Series, outcome: Outcome, status: u16, latency_us: u64) {
        self.routes.finished(series, outcome, status, latency_us);
    }

    /// What this thread counts for a tenant. Takes a lock: the thread keeps what it gets.
    pub(crate) fn tenant(&self, tenant: &TenantId) -> Arc<TenantCounters> {
        self.tenants.of(tenant.as_str())
    }

    /// What this thread sees of a backend's endpoints. Takes a lock: the thread keeps what it gets.
    pub(crate) fn backend(&self, tenant: &TenantId, backend: &BackendId) -> Arc<BackendGauges> {
        self.backends.of((tenant.as_str().to_owned(), backend.0.clone()))
    }

    /// Requests finished so far, per tenant.
    pub(crate) fn tenant_requests(&self, into: &mut HashMap<String, u64>) {
        self.routes.of_tenants(into);
    }
}
