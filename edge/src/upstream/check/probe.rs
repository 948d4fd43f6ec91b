//! One look at an endpoint.

use std::{error::Error, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::{CheckKind, UpstreamProtocol};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::Target;
use crate::proxy;

/// Bytes of an answer that are read; more is a failure.
const ANSWER: usize = 64 * 1024;

const HTTP2: &[u8] = b"h2";

/// Looks once. Drop-safe: the connection is then closed.
///
/// # Errors
/// Why the endpoint is not well, for people.
pub(super) async fn probe(target: &Target) -> Result<(), String> {
    let mut stream = TcpStream::connect(target.key.2).await.map_err(said("it cannot be connected to"))?;
    if let Some(version) = target.transport.proxy {
        let mut header = Vec::new();
        proxy::write_own(version, &mut header);
        stream.write_all(&header).await.map_err(said("it takes no PROXY header"))?;
    }
    let wants_http2 = target.transport.protocol == UpstreamProtocol::Http2
        || matches!(target.check.kind, CheckKind::Grpc { .. });
    let Some(tls) = &target.transport.tls else { return ask(target, stream, wants_http2).await };
    let config = if target.check.kind == CheckKind::Tcp { &tls.raw } else { &tls.any };
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = connector.connect(tls.server_name.clone(), stream).await.map_err(said("no TLS"))?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
    if wants_http2 && !is_http2 {
        return Err("it does not speak HTTP/2".to_owned());
    }
    ask(target, stream, is_http2).await
}

async fn ask<S>(target: &Target, stream: S, is_http2: bool) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match &target.check.kind {
        CheckKind::Tcp => Ok(()),
        CheckKind::Http { path, host, expected } => {
            let mut request = request(target, host.as_deref(), path, is_http2)?;
            *request.method_mut() = http::Method::GET;
            let status = send(stream, request, is_http2).await?.status;
            let is_expected = expected.iter().any(|(first, last)| (*first..=*last).contains(&status));
            if is_expected { Ok(()) } else { Err(format!("it answered {status}")) }
        }
        CheckKind::Grpc { service } => {
            let mut request = request(target, None, "/grpc.health.v1.Health/Check", true)?;
            let message = HealthCheckRequest { service: service.clone() }.encode_to_vec();
            let mut body = BytesMut::new();
            body.put_u8(0);
            body.put_u32(u32::try_from(message.len()).map_err(said("the service's name is too long"))?);
            body.put_slice(&message);
            *request.method_mut() = http::Method::POST;
            *request.body_mut() = Full::new(body.freeze());
            let fields = request.headers_mut();
            fields.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
            fields.insert(header::TE, header::HeaderValue::from_static("trailers"));
            serving(&send(stream, request, true).await?)
        }
    }
}

fn request(
    target: &Target,
    host: Option<&str>,
    path: &str,
    is_http2: bool,
) -> Result<Request<Full<Bytes>>, String> {
    let tls = target.transport.tls.as_ref();
    let host = match (host, tls) {
        (Some(host), _) => host.to_owned(),
        (None, Some(tls)) => tls.server_name.to_str().into_owned(),
        (None, None) => target.key.2.to_string(),
    };
    let uri = if is_http2 {
        let scheme = if tls.is_some() { "https" } else { "http" };
        Uri::builder().scheme(scheme).authority(host.as_str()).path_and_query(path).build()
    } else {
        Uri::builder().path_and_query(path).build()
    };
    let mut request = Request::builder().uri(uri.map_err(said("the path is no path"))?);
    if !is_http2 {
        request = request.header(header::HOST, host);
    }
    let request = request.header(header::USER_AGENT, "weir-health-check");
    request.body(Full::default()).map_err(said("the request cannot be said"))
}

struct Answer {
    status: u16,
    fields: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>, is_http2: bool) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = said("the connection broke");
    let io = TokioIo::new(stream);
    if is_http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(broken)?;
        return drive(connection, async move { read(sender.send_request(request).await).await }).await;
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
    drive(connection, async move { read(sender.send_request(request).await).await }).await
}

/// Awaits the answer while the connection is driven; no task outlives either.
async fn drive(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = Result<Answer, String>>,
) -> Result<Answer, String> {
    let driving = async {
        // When it has ended the answer ends, too, well or not.
        let _ended = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = driving => never,
    }
}

async fn read(response: hyper::Result<http::Response<hyper::body::Incoming>>) -> Result<Answer, String> {
    let (parts, body) = response.map_err(said("it did not answer"))?.into_parts();
    let body = Limited::new(body, ANSWER)
        .collect()
        .await
        .map_err(|error| format!("its answer broke off: {error}"))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Answer { status: parts.status.as_u16(), fields: parts.headers, body: body.to_bytes(), trailers })
}

/// Whether a gRPC server says that it serves (grpc.health.v1).
fn serving(answer: &Answer) -> Result<(), String> {
    let status = answer.trailers.get("grpc-status").or_else(|| answer.fields.get("grpc-status"));
    if answer.status != 200 || status.is_none_or(|status| status != "0") {
        let said = status
            .map_or("none".to_owned(), |status| String::from_utf8_lossy(status.as_bytes()).into_owned());
        return Err(format!("it answered {} with grpc-status {said}", answer.status));
    }
    let message = answer.body.get(5..).unwrap_or_default();
    let response = HealthCheckResponse::decode(message).map_err(said("its answer is no health check's"))?;
    match response.status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("it says {}", other.as_str_name())),
    }
}

/// A sentence, and what the error says.
fn said<E: Error>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}
