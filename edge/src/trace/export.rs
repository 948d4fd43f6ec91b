//! Spans on their way to a collector: OTLP over HTTP, protobuf (opentelemetry.io/docs/specs/otlp, section OTLP/HTTP).
//!
//! One batch is on its way at a time. What cannot be delivered is tried again for a while and then dropped, and what comes
//! meanwhile waits in a queue of a fixed length: a collector that is slow or gone costs spans, never requests.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use super::{Traced, spans};
use crate::{metrics::Counters, upstream::transport::system_roots};

/// Requests in one batch, at most: some hundred KiB.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// For one batch on its way.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tries of one batch; the pause between them doubles.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// What is read of an answer, which has a few bytes.
const ANSWER: usize = 64 << 10;

/// Where spans are sent.
#[derive(Debug, Clone)]
pub struct Collector {
    uri: Uri,
    headers: HeaderMap,
}

/// A text that names no collector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a collector: {1}")]
pub struct InvalidCollector(String, &'static str);

impl FromStr for Collector {
    type Err = InvalidCollector;

    /// The base URL of an OTLP/HTTP endpoint; spans go to `v1/traces` below it.
    fn from_str(text: &str) -> Result<Self, InvalidCollector> {
        let invalid = |why| InvalidCollector(text.to_owned(), why);
        let whole = format!("{}/v1/traces", text.trim_end_matches('/'));
        let uri: Uri = whole.parse().map_err(|_| invalid("use a URL like http://127.0.0.1:4318"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(invalid("use a URL like http://127.0.0.1:4318"));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(invalid("credentials go into headers"));
        }
        Ok(Self { uri, headers: HeaderMap::new() })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl Collector {
    /// With headers for each request, `name=value` with commas between, as `OTEL_EXPORTER_OTLP_HEADERS` has them. Values
    /// are percent-encoded.
    ///
    /// # Errors
    /// One of them is no header; it is not repeated, for it may be a secret.
    pub fn with_headers(mut self, list: &str) -> Result<Self, InvalidCollector> {
        let invalid = || InvalidCollector("headers".to_owned(), "write name=value, with commas between");
        for pair in list.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(invalid)?;
            let name: HeaderName = name.trim().parse().map_err(|_| invalid())?;
            let value = percent_encoding::percent_decode_str(value.trim()).collect::<Vec<_>>();
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| invalid())?;
            value.set_sensitive(true);
            self.headers.insert(name, value);
        }
        Ok(self)
    }
}

/// Sends what comes, to the end of the queue.
pub(crate) async fn run(
    collector: Collector,
    worker: String,
    mut queue: mpsc::Receiver<Vec<Traced>>,
    counters: Arc<Counters>,
) {
    let mut client = Client { collector, connection: None };
    let mut failing = false;
    let mut batch = vec![];
    while fill(&mut queue, &mut batch).await {
        let request = spans::request(&batch, &worker);
        let count = spans::count(&request);
        batch.clear();
        match client.deliver(request.encode_to_vec().into()).await {
            Ok(()) => {
                counters.spans_exported.add(count);
                if std::mem::take(&mut failing) {
                    info!(collector = %client.collector, "spans are taken again");
                }
            }
            Err(error) => {
                counters.spans_dropped.add(count);
                if !std::mem::replace(&mut failing, true) {
                    let error = &error as &dyn std::error::Error;
                    warn!(collector = %client.collector, error, "spans are not taken, they are dropped");
                }
            }
        }
    }
}

/// Waits for the next batch; `false` at the end.
async fn fill(queue: &mut mpsc::Receiver<Vec<Traced>>, batch: &mut Vec<Traced>) -> bool {
    let Some(first) = queue.recv().await else { return false };
    batch.extend(first);
    let ends = Instant::now() + LINGER;
    while batch.len() < BATCH {
        match timeout_at(ends, queue.recv()).await {
            Ok(Some(more)) => batch.extend(more),
            // Late, or the end: what is here goes.
            _ => break,
        }
    }
    true
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("the collector cannot be reached")]
    Connect(#[source] std::io::Error),
    #[error("no TLS with the collector: {0}")]
    Tls(String),
    #[error("the collector does not answer")]
    Http(#[source] hyper::Error),
    #[error("the collector does not answer in time")]
    TimedOut,
    #[error("the collector answers {0}")]
    Refused(StatusCode),
}

impl ExportError {
    /// Whether the same batch may be taken later (OTLP specification, "Retryable Response Codes").
    fn is_passing(&self) -> bool {
        match self {
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502..=504),
            Self::Tls(_) => false,
            _ => true,
        }
    }
}

struct Client {
    collector: Collector,
    /// Used again for as long as the collector keeps it.
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Delivers a batch, after a few tries if it must be.
    async fn deliver(&mut self, body: Bytes) -> Result<(), ExportError> {
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let result =
                timeout(PATIENCE, self.post(body.clone())).await.unwrap_or(Err(ExportError::TimedOut));
            let Err(error) = result else { return Ok(()) };
            self.connection = None;
            if tries == TRIES || !error.is_passing() {
                return Err(error);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn post(&mut self, body: Bytes) -> Result<(), ExportError> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => connect(&self.collector.uri).await?,
        };
        connection.ready().await.map_err(ExportError::Http)?;
        let answer = connection.send_request(self.request(body)).await.map_err(ExportError::Http)?;
        let status = answer.status();
        if !status.is_success() {
            return Err(ExportError::Refused(status));
        }
        // Read to its end, so that the connection can be used again; one that says too much is not.
        if Limited::new(answer.into_body(), ANSWER).collect().await.is_ok() {
            self.connection = Some(connection);
        }
        Ok(())
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let Collector { uri, headers } = &self.collector;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        // In origin form, as servers want it.
        *request.uri_mut() = uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
        *request.headers_mut() = headers.clone();
        let own = request.headers_mut();
        if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
            own.insert(header::HOST, host);
        }
        own.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        own.insert(header::USER_AGENT, HeaderValue::from_static(concat!("weir/", env!("CARGO_PKG_VERSION"))));
        request
    }
}

/// A connection to the collector, driven until either side has ended it.
async fn connect(uri: &Uri) -> Result<SendRequest<Full<Bytes>>, ExportError> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(ExportError::Connect)?;
    stream.set_nodelay(true).map_err(ExportError::Connect)?;
    if !is_tls {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(ExportError::Http)?;
        // It ends with an error when the collector goes: the next batch finds out.
        tokio::spawn(async move { drop(connection.await) });
        return Ok(sender);
    }
    let roots = system_roots().map_err(ExportError::Tls)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| ExportError::Tls(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ExportError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.map_err(|error| ExportError::Tls(error.to_string()))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(ExportError::Http)?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_url_and_headers() {
        let collector: Collector = "http://127.0.0.1:4318/".parse().unwrap();
        assert_eq!(collector.to_string(), "http://127.0.0.1:4318/v1/traces");
        assert_eq!("https://otel.test/base".parse::<Collector>().unwrap().uri.path(), "/base/v1/traces");
        for bad in ["", "127.0.0.1:4318", "ftp://a.test", "http://user:pass@a.test", "http://"] {
            assert!(bad.parse::<Collector>().is_err(), "{bad}");
        }
        let collector = collector.with_headers("authorization=Bearer%20x, x-team = a ,").unwrap();
        assert_eq!(collector.headers["authorization"], "Bearer x");
        assert_eq!(collector.headers["x-team"], "a");
        assert!(!format!("{collector:?}").contains("Bearer"), "{collector:?}");
        let error = collector.with_headers("secret").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
