//! Attacks on connections and on HTTP/1.1.

use std::{rc::Rc, time::Duration};

use socket2::SockRef;
use tokio::{io::AsyncWriteExt, net::TcpStream, net::UdpSocket};

use super::{Attack, Honest, Strike, Striker, raw};

const HOST: &str = "Host: a.test\r\n";

#[rustfmt::skip]
pub(super) fn attacks() -> Vec<Attack> {
    use Honest::{Http1, Http1Close, Tls};
    let slow = |name, unit, strike| Attack { name, unit, connections: 2_000, requests: 1, per_second: 20_000.0, honest: Http1, strike };
    let loud = |name, unit, per_second, strike| Attack { name, unit, connections: 50, requests: 1, per_second, honest: Http1, strike };
    vec![
        slow("slow head", "byte", slow_head),
        slow("slow body", "byte", slow_body),
        slow("slow read", "connection", slow_read),
        slow("idle", "connection", idle),
        Attack { honest: Tls, ..slow("handshake stall", "connection", handshake_stall) },
        Attack { honest: Http1Close, ..slow("PROXY header stall", "connection", proxy_stall) },
        Attack { honest: Tls, connections: 20, ..loud("handshakes", "handshake", 300.0, handshakes) },
        Attack { honest: Http1Close, ..loud("churn", "connection", 3_000.0, churn) },
        loud("heads of 60 KiB", "head", 2_000.0, large_heads),
        loud("pipelining", "request", 10_000.0, pipelining),
        loud("chunks of a byte", "chunk", 100_000.0, chunks),
        loud("bytes that are not HTTP", "connection", 2_000.0, garbage),
        loud("WebSocket frames of a byte", "frame", 50_000.0, websocket),
        // Each of a client of its own: of those that come in the time of the attack none has ended.
        Attack { requests: 250, ..loud("sessions of UDP", "session", 5_000.0, sessions) },
    ]
}

async fn open(striker: &Striker) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(striker.targets.http).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn slow_head(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let stream = open(&striker).await?;
        striker.dribble(stream, format!("GET / HTTP/1.1\r\n{HOST}X: ").as_bytes(), b"x").await
    })
}

fn slow_body(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let stream = open(&striker).await?;
        let head = format!("POST / HTTP/1.1\r\n{HOST}Content-Length: 1000000\r\n\r\n");
        striker.dribble(stream, head.as_bytes(), b"x").await
    })
}

/// Waits, as if it were one more unit each second.
async fn hold(striker: &Striker) {
    striker.pace(1).await;
    tokio::time::sleep_until(striker.ends.into()).await;
}

fn slow_read(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let mut stream = open(&striker).await?;
        SockRef::from(&stream).set_recv_buffer_size(4096)?;
        stream.write_all(format!("GET /large HTTP/1.1\r\n{HOST}\r\n").as_bytes()).await?;
        hold(&striker).await;
        Ok(())
    })
}

fn idle(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let _stream = open(&striker).await?;
        hold(&striker).await;
        Ok(())
    })
}

fn handshake_stall(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let mut stream = TcpStream::connect(striker.targets.https).await?;
        // A record of a hello that is 512 bytes long, and half of it.
        let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
        hello.extend([0; 256]);
        stream.write_all(&hello).await?;
        hold(&striker).await;
        Ok(())
    })
}

fn proxy_stall(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let mut stream = TcpStream::connect(striker.targets.proxied).await?;
        stream.write_all(b"PROXY TCP4 192.0.2.1 ").await?;
        hold(&striker).await;
        Ok(())
    })
}

fn handshakes(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        while striker.pace(1).await {
            drop(raw::tls(&striker.targets).await);
        }
        Ok(())
    })
}

fn churn(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        while striker.pace(1).await {
            let mut stream = open(&striker).await?;
            // Without a byte the worker would never see it (`TCP_DEFER_ACCEPT`).
            stream.write_all(b"G").await?;
            // Closed by a reset, so that no port of ours waits.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    })
}

fn large_heads(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let field = format!("X-Pad: {}\r\n", "p".repeat(600));
        let head = format!("GET /bulk HTTP/1.1\r\n{HOST}{}\r\n", field.repeat(98));
        let stream = open(&striker).await?;
        striker.flood(stream, b"", 1, || head.clone().into_bytes()).await
    })
}

fn pipelining(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let stream = open(&striker).await?;
        striker.flood(stream, b"", 100, || raw::GET.as_bytes().to_vec()).await
    })
}

fn chunks(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let stream = open(&striker).await?;
        let head = format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n");
        striker.flood(stream, head.as_bytes(), 500, || b"1\r\nx\r\n".to_vec()).await
    })
}

fn garbage(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        while striker.pace(1).await {
            let mut stream = open(&striker).await?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            stream.write_all(b"\x00\x01garbage\r\n\r\n").await?;
        }
        Ok(())
    })
}

fn websocket(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let stream = open(&striker).await?;
        let head = format!(
            "GET / HTTP/1.1\r\n{HOST}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        // Whole messages of one masked byte.
        striker.flood(stream, head.as_bytes(), 250, || vec![0x81, 0x81, 1, 2, 3, 4, 5]).await
    })
}

fn sessions(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let mut sockets = Vec::new();
        while striker.pace(1).await {
            let socket = UdpSocket::bind("127.0.0.1:0").await?;
            drop(socket.send_to(b"x", striker.targets.udp).await);
            sockets.push(socket);
            if sockets.len() > 60 {
                sockets.clear();
            }
        }
        Ok(())
    })
}
