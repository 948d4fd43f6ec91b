//! Why a request is not answered as its route says. One variant for each thing that somebody may want to count.

use std::io;

use model::{NotFound, path::PathError};

use crate::{
    admit::{Overload, Scarce},
    body::ClientError,
    h1::{RequestError, ResponseError},
    health::Verdict,
    upstream::{NoEndpoint, connect::ConnectError, exchange::ExchangeError},
};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Its head cannot be read.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Its head did not come in time.
    #[error("the request's head did not come in time")]
    HeadTimeout,
    /// Its path has no canonical form.
    #[error(transparent)]
    Path(PathError),
    /// Nobody owns its host.
    #[error("no tenant owns this host")]
    UnknownHost,
    /// Its host belongs to another tenant than the TLS session.
    #[error("this connection was made for another host")]
    Misdirected,
    /// Its host's listener asks clients for certificates, and this connection's client was not asked by it or has none that is
    /// good there.
    #[error("this host asks for another client certificate than the connection was made with")]
    ClientCertificate,
    /// The listener does not speak HTTP/2.
    #[error("this host is served by HTTP/1.1 only")]
    Http2Off,
    /// CONNECT may not lead there.
    #[error("CONNECT may not lead to this destination")]
    Destination,
    /// No route answers it.
    #[error(transparent)]
    NoRoute(NotFound),
    /// Its route has no backend that exists.
    #[error("the route has no backend")]
    NoBackend,
    /// The backend's names do not resolve.
    #[error("no endpoint of the backend is known")]
    Unresolved,
    /// No endpoint of the backend is well, and its policy says not to try the others.
    #[error("no endpoint of the backend is well")]
    Unhealthy,
    /// All endpoints have as many requests as their backend allows.
    #[error("all endpoints of the backend are busy")]
    UpstreamFull,
    /// The upstream cannot be reached.
    #[error("the upstream cannot be reached")]
    Connect(#[source] io::Error),
    /// The upstream cannot be reached in time.
    #[error("the upstream cannot be reached in time")]
    ConnectTimeout,
    /// The upstream and we do not agree on TLS: a certificate is not trusted, or has another name.
    #[error("no TLS connection to the upstream")]
    UpstreamTls(#[source] io::Error),
    /// The upstream was to speak HTTP/2 and does not.
    #[error("the upstream does not speak HTTP/2")]
    NotHttp2,
    /// What HTTP/1 may say and HTTP/2 may not.
    #[error("the request cannot be put into HTTP/2, which its upstream speaks")]
    Unsayable,
    /// The upstream closed the connection before it answered.
    #[error("the upstream closed the connection before it answered")]
    UpstreamClosed(#[source] io::Error),
    /// The upstream's answer cannot be used.
    #[error("the upstream's response is malformed")]
    BadResponse(#[source] ResponseError),
    /// The upstream changed protocols, unasked.
    #[error("the upstream changed protocols without being asked")]
    UnaskedUpgrade,
    /// The upstream was to change to WebSocket and did something else.
    #[error("the upstream did not change to WebSocket")]
    NotSwitched,
    /// The upstream did not answer in time.
    #[error("the upstream did not answer in time")]
    UpstreamTimeout,
    /// The client did not send its body.
    #[error(transparent)]
    Client(ClientError),
    /// There is too much to do already.
    #[error(transparent)]
    Overload(Overload),
    /// A redirect whose location is no header value.
    #[error("the redirect's location is not valid")]
    BadLocation,
}

impl Refusal {
    /// The status of the reply.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Request(error) => error.status(),
            Self::HeadTimeout | Self::Client(ClientError::TooSlow) => 408,
            Self::Path(_) | Self::Unsayable | Self::Client(ClientError::Gone | ClientError::Malformed) => 400,
            Self::UnknownHost | Self::NoRoute(_) => 404,
            Self::Misdirected | Self::ClientCertificate | Self::Http2Off => 421,
            Self::Destination => 403,
            Self::NoBackend | Self::BadLocation => 500,
            Self::Connect(_)
            | Self::UpstreamTls(_)
            | Self::NotHttp2
            | Self::UpstreamClosed(_)
            | Self::BadResponse(_)
            | Self::UnaskedUpgrade
            | Self::NotSwitched => 502,
            Self::Unresolved | Self::Unhealthy | Self::UpstreamFull | Self::Overload(_) => 503,
            Self::ConnectTimeout | Self::UpstreamTimeout => 504,
        }
    }

    /// The metric and log label.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Request(error) => error.kind(),
            Self::HeadTimeout => "head_timeout",
            Self::Path(_) => "path",
            Self::UnknownHost => "unknown_host",
            Self::Misdirected => "misdirected",
            Self::ClientCertificate => "client_certificate",
            Self::Http2Off => "http2_off",
            Self::Destination => "destination",
            Self::NoRoute(_) => "no_route",
            Self::NoBackend => "no_backend",
            Self::Unresolved => "unresolved",
            Self::Unhealthy => "unhealthy",
            Self::UpstreamFull => "upstream_full",
            Self::Connect(_) => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamTls(_) => "upstream_tls",
            Self::NotHttp2 => "not_http2",
            Self::Unsayable => "unsayable",
            Self::UpstreamClosed(_) => "upstream_closed",
            Self::BadResponse(_) => "bad_response",
            Self::UnaskedUpgrade => "unasked_upgrade",
            Self::NotSwitched => "not_switched",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Client(ClientError::Gone) => "client_gone",
            Self::Client(ClientError::Malformed) => "client_body",
            Self::Client(ClientError::TooSlow) => "client_slow",
            Self::Overload(overload) => overload.kind(),
            Self::BadLocation => "bad_location",
        }
    }

    /// When it is worth trying again, seconds.
    pub(crate) fn retry_after_s(&self) -> Option<u8> {
        (self.status() == 503).then_some(1)
    }

    /// Whether another try at an upstream could end better.
    pub(crate) fn is_upstream(&self) -> bool {
        matches!(
            self,
            Self::Connect(_) | Self::ConnectTimeout | Self::UpstreamTls(_) | Self::UpstreamClosed(_)
        )
    }

    /// What it says about the endpoint that was tried; `None` if nothing.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Connect(_) | Self::ConnectTimeout | Self::UpstreamTls(_) | Self::NotHttp2 => {
                Some(Verdict::Unreachable)
            }
            // A stream that an endpoint refuses, or leaves out when it goes away, is no fault of it.
            Self::UpstreamClosed(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
            Self::UpstreamClosed(_) | Self::BadResponse(_) | Self::UnaskedUpgrade | Self::UpstreamTimeout => {
                Some(Verdict::GatewayError)
            }
            _ => None,
        }
    }

    /// Whether time ran out.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::UpstreamTimeout)
    }

    /// Whether the client's connection can serve another request: its framing is still known, and it may stay.
    pub(crate) fn keeps_connection(&self) -> bool {
        let without_room = matches!(
            self,
            Self::Overload(Overload::Share(Scarce::Connections) | Overload::Quota(Scarce::Connections))
        );
        // Without the client's certificate it is of no use to it.
        let unusable =
            matches!(self, Self::Request(_) | Self::HeadTimeout | Self::Client(_) | Self::ClientCertificate);
        !without_room && !unusable
    }
}

impl From<NoEndpoint> for Refusal {
    fn from(error: NoEndpoint) -> Self {
        match error {
            NoEndpoint::Unresolved => Self::Unresolved,
            NoEndpoint::Unhealthy => Self::Unhealthy,
            NoEndpoint::Full => Self::UpstreamFull,
        }
    }
}

impl From<ConnectError> for Refusal {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Io(error) => Self::Connect(error),
            ConnectError::TimedOut => Self::ConnectTimeout,
            ConnectError::Tls(error) => Self::UpstreamTls(error),
            ConnectError::NotHttp2 => Self::NotHttp2,
        }
    }
}

impl From<ExchangeError> for Refusal {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Closed(error) => Self::UpstreamClosed(error),
            ExchangeError::Response(error) => Self::BadResponse(error),
            ExchangeError::Body(_) => Self::UpstreamClosed(io::ErrorKind::InvalidData.into()),
            ExchangeError::TimedOut => Self::UpstreamTimeout,
            ExchangeError::Client(error) => Self::Client(error),
        }
    }
}
