//! Servers whose behaviour is known.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use loadtest::Protocol;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Accepts connections for as long as the test's runtime lives; `each` is given every one with its number.
pub(crate) async fn accept<F, R>(each: F) -> SocketAddr
where
    F: Fn(u64, TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(each(number, stream));
        }
    });
    address
}

/// Serves HTTP/1.1; `answer` is given the number of each request.
pub(crate) async fn serve<F, R>(answer: F) -> SocketAddr
where
    F: Fn(u64, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    serve_by(Protocol::H1, answer).await
}

/// Serves that protocol in the clear.
pub(crate) async fn serve_by<F, R>(protocol: Protocol, answer: F) -> SocketAddr
where
    F: Fn(u64, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let count = Arc::new(AtomicU64::new(0));
    accept(move |_, stream| serve_stream(protocol, stream, count.clone(), answer.clone())).await
}

/// Serves one connection.
pub(crate) async fn serve_stream<S, F, R>(protocol: Protocol, stream: S, count: Arc<AtomicU64>, answer: F)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(u64, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answered = answer(count.fetch_add(1, Ordering::Relaxed), request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    // How a connection ends is the test's business, seen from the other side.
    let io = TokioIo::new(stream);
    match protocol {
        Protocol::H1 => drop(http1::Builder::new().serve_connection(io, service).await),
        Protocol::H2 => drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await),
    }
}

/// 200 with a short body.
pub(crate) fn ok() -> Response<Full<Bytes>> {
    Response::new(Full::from("hello"))
}

/// Reads one HTTP/1.1 request without a body; false at the end of the connection.
pub(crate) async fn read_request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => seen.push(byte),
            Err(_) => return false,
        }
    }
    true
}

pub(crate) async fn write(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}
