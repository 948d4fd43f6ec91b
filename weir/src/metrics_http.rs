//! A process's metrics over HTTP: `/metrics` for Prometheus, `/healthz` for probes.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use node::Scraper;
use tokio::{net::TcpListener, sync::Semaphore, time::interval};
use tracing::{debug, warn};

/// Scrapers are few; more connections than this wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;
/// A head that is not there by then is not coming (`limits.md`).
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection's whole life: a scrape takes milliseconds, and a scraper comes again.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// How often histograms are folded: unread samples would pile up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Makes this process's `metrics` recorder. Once a process.
pub(crate) fn recorder() -> Result<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().context("install the metrics recorder")
}

/// Listens for [`serve`].
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen for metrics on {address}"))
}

/// What is served.
#[derive(Clone)]
pub(crate) struct Source {
    /// The process's own.
    pub(crate) own: PrometheusHandle,
    /// Of the workers of a host agent.
    pub(crate) workers: Option<Scraper>,
}

impl Source {
    async fn text(&self) -> String {
        let mut text = self.own.render();
        if let Some(workers) = &self.workers {
            text.push_str(&workers.metrics().await);
        }
        text
    }
}

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, metrics: Source) -> Result<Infallible> {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut upkeep = interval(UPKEEP);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = upkeep.tick() => {
                metrics.own.run_upkeep();
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "accept for metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let permit = Arc::clone(&connections).acquire_owned().await?;
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let metrics = metrics.clone();
                async move { Ok::<_, Infallible>(answer(&request, &metrics).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_LIFE, connection).await {
                debug!(%error, "metrics connection");
            }
            drop(permit);
        });
    }
}

async fn answer(request: &Request<Incoming>, metrics: &Source) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, metrics.text().await),
        (&Method::GET | &Method::HEAD, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, "there is /metrics and /healthz\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    // The version is that of the text exposition format.
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
