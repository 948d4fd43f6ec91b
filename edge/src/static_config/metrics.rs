//! Metrics for Prometheus, and what became of a request, over plain HTTP.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::{debug, warn};

use crate::{limits::ACCEPT_PAUSE, shared::Control};

/// Scrapers at once: a few Prometheus servers and a person.
const CONNECTIONS: usize = 16;

/// A scraper that does not send its request in this time is none.
const HEAD: Duration = Duration::from_secs(5);

/// Serves metrics for ever.
pub(super) async fn serve(listener: TcpListener, control: Control) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a scraper");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let control = control.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let control = control.clone();
                async move { Ok::<_, Infallible>(answer(&request, &control).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                debug!(%error, "a scraper's connection broke");
            }
            drop(place);
        });
    }
}

async fn answer<B>(request: &Request<B>, control: &Control) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let id = path.strip_prefix("/requests/");
    let (status, kind, text) = match *request.method() {
        Method::GET if path == "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", control.metrics()),
        Method::GET if let Some(id) = id => match control.recall(id, None).await {
            Some(known) => (StatusCode::OK, "application/json", format!("{:#}\n", api::recall::json(&known))),
            None => (StatusCode::NOT_FOUND, "text/plain", UNKNOWN.to_owned()),
        },
        Method::GET => {
            (StatusCode::NOT_FOUND, "text/plain", "there is /metrics and /requests/ID\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "use GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

const UNKNOWN: &str = "no such request: it is still running, or was answered too long ago\n";
