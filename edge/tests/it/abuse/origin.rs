//! What is behind the attacked worker: an upstream that answers at once, in the tests' process.

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Bytes of what `/large` is answered with.
pub(crate) const LARGE: usize = 1 << 20;

/// Starts it on a thread of its own, which begins with `first`, to the end of the process.
pub(crate) fn start(first: fn()) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    rustix::net::listen(&listener, 4096).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        first();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    drop(tokio::spawn(serve(stream)));
                }
            }
        });
    });
    address
}

/// A UDP socket that takes what comes and says nothing.
pub(crate) fn silent() -> SocketAddr {
    static SOCKET: OnceLock<std::net::UdpSocket> = OnceLock::new();
    SOCKET.get_or_init(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).local_addr().unwrap()
}

/// Answers one request after another; those with bodies, when they are whole (a length or chunks).
async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&input, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&input[..end]).to_ascii_lowercase();
        input.drain(..end);
        if head.contains("upgrade: websocket") {
            return echo(stream, &head, input).await;
        }
        if head.contains("transfer-encoding: chunked") {
            while memchr::memmem::find(&input, b"0\r\n\r\n").is_none() {
                let kept = input.len().saturating_sub(8);
                input.drain(..kept);
                if stream.read_buf(&mut input).await? == 0 {
                    return Ok(());
                }
            }
            input.clear();
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let mut left: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        while left > 0 {
            let taken = left.min(input.len());
            input.drain(..taken);
            left -= taken;
            if left > 0 && stream.read_buf(&mut input).await? == 0 {
                return Ok(());
            }
        }
        if head.starts_with("get /wait") {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let length = if head.starts_with("get /large") { LARGE } else { 2 };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// Takes whatever comes by a WebSocket, and says nothing.
async fn echo(mut stream: TcpStream, head: &str, mut input: Vec<u8>) -> std::io::Result<()> {
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key:")).unwrap_or_default();
    // The tests' key, of which this is the answer; it is not checked by the gateway.
    let accept = if key.is_empty() { "" } else { "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" };
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    loop {
        input.clear();
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}
