//! Floods of QUIC and HTTP/3.

use std::{
    io::{Error, ErrorKind},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use quinn::VarInt;
use tokio::net::UdpSocket;

use super::{Attack, Honest, Strike, Striker, raw};

#[rustfmt::skip]
pub(super) fn attacks() -> Vec<Attack> {
    let attack = Attack::beside(Honest::Http3);
    vec![
        attack("stream resets", "stream", 10, 5_000.0, resets),
        attack("unproved handshakes", "hello", 4, 2_000.0, hellos),
        attack("header bombs", "head", 10, 1_000.0, header_bombs),
        attack("empty frames", "frame", 10, 20_000.0, empty_frames),
        attack("streams without meaning", "stream", 10, 2_000.0, foreign_streams),
        attack("datagrams that are not QUIC", "datagram", 4, 20_000.0, garbage),
        attack("moving clients", "path", 10, 500.0, moving),
        Attack { requests: 100, ..attack("window stall, 100 streams each", "stream", 20, 20_000.0, window_stall) },
    ]
}

fn lost(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::ConnectionReset, error)
}

/// `GET /` of `a.test`, by the static table: a HEADERS frame.
fn get(path: Option<&str>, more: &[u8]) -> Vec<u8> {
    let mut fields = vec![0, 0, 0xc0 | 17, 0xc0 | 23];
    match path {
        None => fields.push(0xc0 | 1),
        Some(path) => {
            fields.extend([0x51, u8::try_from(path.len()).unwrap()]);
            fields.extend(path.as_bytes());
        }
    }
    fields.extend([0x50, 6]);
    fields.extend(b"a.test");
    fields.extend(more);
    let mut frame = vec![1];
    let length = u32::try_from(fields.len()).unwrap();
    frame.extend((length | 0x8000_0000).to_be_bytes());
    frame.extend(fields);
    frame
}

/// A connection with its control stream.
async fn open(striker: &Striker) -> std::io::Result<(quinn::Endpoint, quinn::Connection, quinn::SendStream)> {
    open_with(striker, quinn::TransportConfig::default()).await
}

/// The same, of a client with such windows.
async fn open_with(
    striker: &Striker,
    transport: quinn::TransportConfig,
) -> std::io::Result<(quinn::Endpoint, quinn::Connection, quinn::SendStream)> {
    let mut targets = striker.targets.clone();
    targets.quic_config.transport_config(Arc::new(transport));
    let (endpoint, connection) = raw::quic(&targets).await?;
    let mut control = connection.open_uni().await.map_err(lost)?;
    // The stream's kind, and SETTINGS that say nothing.
    control.write_all(&[0, 4, 0]).await.map_err(lost)?;
    Ok((endpoint, connection, control))
}

fn resets(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let (_endpoint, connection, _control) = open(&striker).await?;
        while striker.pace(1).await {
            let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
            send.write_all(&get(None, &[])).await.map_err(lost)?;
            // H3_REQUEST_CANCELLED.
            send.reset(VarInt::from_u32(0x10c)).map_err(lost)?;
            receive.stop(VarInt::from_u32(0x10c)).map_err(lost)?;
        }
        Ok(())
    })
}

/// First datagrams of handshakes that nobody goes on with, each from a port of its own.
fn hellos(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let catcher = UdpSocket::bind("127.0.0.1:0").await?;
        let caught: SocketAddr = catcher.local_addr()?;
        let mut datagram = vec![0; 2048];
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap())?;
        endpoint.set_default_client_config(striker.targets.quic_config.clone());
        let mut sockets = Vec::new();
        while striker.pace(1).await {
            let connecting = endpoint.connect(caught, "a.test").map_err(lost)?;
            let receiving =
                tokio::time::timeout(Duration::from_millis(100), catcher.recv_from(&mut datagram));
            if let Ok(Ok((length, _))) = receiving.await {
                let socket = UdpSocket::bind("127.0.0.1:0").await?;
                drop(socket.send_to(&datagram[..length], striker.targets.quic).await);
                sockets.push(socket);
            }
            drop(connecting);
            if sockets.len() > 100 {
                sockets.clear();
            }
        }
        Ok(())
    })
}

/// Fields of one byte, more than a head may have.
fn header_bombs(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let (_endpoint, connection, _control) = open(&striker).await?;
        // `accept: */*` of the static table, again and again.
        let bomb = get(None, &[0xc0 | 29; 16_000]);
        while striker.pace(1).await {
            let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
            // It may be stopped before all of it is on its way.
            drop(send.write_all(&bomb).await);
            drop(send.finish());
            drop(tokio::time::timeout(Duration::from_millis(200), receive.read_to_end(10_000)).await);
        }
        Ok(())
    })
}

/// DATA frames without data.
fn empty_frames(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let (_endpoint, connection, _control) = open(&striker).await?;
        let (mut send, _receive) = connection.open_bi().await.map_err(lost)?;
        send.write_all(&get(None, &[])).await.map_err(lost)?;
        while striker.pace(50).await {
            send.write_all(&[0; 100]).await.map_err(lost)?;
        }
        Ok(())
    })
}

fn foreign_streams(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let (_endpoint, connection, _control) = open(&striker).await?;
        while striker.pace(1).await {
            let mut send = connection.open_uni().await.map_err(lost)?;
            // A kind that is reserved for being ignored (RFC 9114 section 7.2.8).
            send.write_all(&[0x21]).await.map_err(lost)?;
            send.finish().map_err(lost)?;
        }
        Ok(())
    })
}

fn garbage(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let mut datagram = vec![0xc3; 1200];
        while striker.pace(10).await {
            for n in 0..10 {
                datagram[1] = n;
                drop(socket.send_to(&datagram, striker.targets.quic).await);
            }
        }
        Ok(())
    })
}

/// A client that comes from another port each time: its path is proved anew.
fn moving(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let (endpoint, connection, _control) = open(&striker).await?;
        while striker.pace(1).await {
            endpoint.rebind(std::net::UdpSocket::bind("127.0.0.1:0")?)?;
            let (mut send, mut receive) = connection.open_bi().await.map_err(lost)?;
            send.write_all(&get(None, &[])).await.map_err(lost)?;
            send.finish().map_err(lost)?;
            drop(tokio::time::timeout(Duration::from_millis(500), receive.read_to_end(10_000)).await);
        }
        Ok(())
    })
}

/// Asks for what is large and opens no window but for a head.
fn window_stall(striker: Rc<Striker>) -> Strike {
    Box::pin(async move {
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(1024));
        let (_endpoint, connection, _control) = open_with(&striker, transport).await?;
        striker.pace(100).await;
        let mut held = Vec::new();
        for _ in 0..100 {
            let (mut send, receive) = connection.open_bi().await.map_err(lost)?;
            send.write_all(&get(Some("/large"), &[])).await.map_err(lost)?;
            send.finish().map_err(lost)?;
            held.push(receive);
        }
        tokio::time::sleep_until(striker.ends.into()).await;
        Ok(())
    })
}
