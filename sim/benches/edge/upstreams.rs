//! What is behind the proxies, on CPU 1: nginx that answers 1 KiB, and in this process a gRPC service and a WebSocket echo.

use std::{convert::Infallible, net::SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::{configs::Identity, websocket};

/// Ports on 127.0.0.1.
pub(crate) struct Upstreams {
    pub(crate) http: u16,
    pub(crate) grpc: u16,
    pub(crate) websocket: u16,
    _nginx: Child,
    _directory: TempDir,
}

impl Upstreams {
    pub(crate) async fn start(identity: &Identity) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("weir-bench-upstream-").tempdir()?;
        let http = sim::harness::free_port()?;
        let config = directory.path().join("nginx.conf");
        std::fs::write(&config, identity.nginx_upstream(directory.path(), http)?)?;
        let nginx = Command::new("nginx").arg("-c").arg(&config).kill_on_drop(true).spawn()?;
        let at = SocketAddr::from(([127, 0, 0, 1], http));
        while TcpStream::connect(at).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let grpc = listen(|stream| {
            tokio::spawn(async move {
                // The proxies end the connections as they like.
                let service = service_fn(call);
                drop(
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        })
        .await?;
        let websocket = listen(|stream| {
            tokio::spawn(websocket::echo(stream));
        })
        .await?;
        Ok(Self { http, grpc, websocket, _nginx: nginx, _directory: directory })
    }
}

async fn listen(mut take: impl FnMut(TcpStream) + Send + 'static) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if stream.set_nodelay(true).is_ok() {
                take(stream);
            }
        }
    });
    Ok(port)
}

/// A gRPC message of so many bytes, with its prefix (flags and length).
pub(crate) fn message(bytes: u8) -> Bytes {
    let mut message = vec![0, 0, 0, 0, bytes];
    message.resize(5 + usize::from(bytes), b'm');
    message.into()
}

/// A unary method: a message in, a message out, and the status in trailers.
async fn call(
    request: Request<Incoming>,
) -> Result<Response<StreamBody<impl stream::Stream<Item = Result<Frame<Bytes>, Infallible>>>>, hyper::Error>
{
    request.into_body().collect().await?;
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let frames = stream::iter([Ok(Frame::data(message(100))), Ok(Frame::trailers(trailers))]);
    let mut response = Response::new(StreamBody::new(frames));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
