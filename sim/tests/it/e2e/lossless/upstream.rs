//! What stands behind the gateway: gRPC that says each message again, and WebSockets that do.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::frames::{CLOSE, KEY_ANSWERED, Socket, head};

/// The last message of each client that came by WebSocket.
pub(super) type Delivered = Arc<Mutex<HashMap<u64, u64>>>;

/// Both, before they serve.
pub(super) struct Upstreams {
    grpc: std::net::TcpListener,
    websocket: std::net::TcpListener,
    pub(super) delivered: Delivered,
}

impl Upstreams {
    pub(super) fn bind() -> Result<Self> {
        let bind = || -> Result<_> {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        Ok(Self { grpc: bind()?, websocket: bind()?, delivered: Delivered::default() })
    }

    pub(super) fn grpc(&self) -> Result<SocketAddr> {
        Ok(self.grpc.local_addr()?)
    }

    pub(super) fn websocket(&self) -> Result<SocketAddr> {
        Ok(self.websocket.local_addr()?)
    }

    /// Serves on the runtime that it is called in. What goes wrong with a connection, its client sees.
    pub(super) fn serve(self) -> Result<Delivered> {
        let (grpc, websocket) = (TcpListener::from_std(self.grpc)?, TcpListener::from_std(self.websocket)?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = grpc.accept().await {
                tokio::spawn(calls(stream));
            }
        });
        let delivered = Arc::clone(&self.delivered);
        tokio::spawn(async move {
            while let Ok((stream, _)) = websocket.accept().await {
                tokio::spawn(messages(stream, Arc::clone(&delivered)));
            }
        });
        Ok(self.delivered)
    }
}

async fn calls(stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        tokio::spawn(call_back(request, respond));
    }
    Ok(())
}

/// Answers a call, of whatever kind, with its own messages and the status 0.
async fn call_back(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut send = respond.send_response(head, false)?;
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        // The end comes as a frame without data. Said again a hundred times, h2 would take such for an attack.
        if !data.is_empty() {
            send.send_data(data, false)?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers)?;
    Ok(())
}

/// Notes each message and says it again, and answers a Close with the same code.
async fn messages(mut stream: TcpStream, delivered: Delivered) -> Result<()> {
    stream.set_nodelay(true)?;
    let (_, input) = head(&mut stream).await?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {KEY_ANSWERED}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await?;
    let mut socket = Socket::new(stream, input);
    loop {
        let frame = socket.hear().await?;
        if frame.first != CLOSE {
            let (client, number) = frame.message().context("not a message of these clients")?;
            delivered.lock().unwrap_or_else(PoisonError::into_inner).insert(client, number);
        }
        socket.say(&frame, None).await?;
        if frame.first == CLOSE {
            return Ok(socket.stream.shutdown().await?);
        }
    }
}
