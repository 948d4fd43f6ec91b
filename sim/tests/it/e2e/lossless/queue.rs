//! Connections that wait in the kernel's queues while an event happens.

use std::{
    io::{Read, Write as _},
    net::TcpStream,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use rustls::{ClientConfig, ClientConnection};
use sim::harness::{connect, freeze, kill};

use super::{doors::HOST, site::Site, tally::Row};

/// What is queued, and the workers that stand still so that it is.
pub(super) struct Queue {
    connections: Vec<Waiting>,
    frozen: Frozen,
}

/// How far a queued connection is.
enum Waiting {
    /// Its request is in the kernel's buffers.
    Asked(TcpStream),
    /// It is connected, and no more.
    Silent(TcpStream),
    /// The same, where TLS is spoken.
    Secure(TcpStream),
}

/// Workers that stand still, until this is dropped at the latest.
struct Frozen(Vec<u32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One that is gone by now need not go on.
            kill(*pid, Signal::CONT).ok();
        }
    }
}

fn request() -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").into_bytes()
}

impl Queue {
    /// Stops all workers that listen, and connects: half with a request, a quarter without, a quarter for TLS.
    pub(super) fn form(site: &Site, count: usize) -> Result<Self> {
        let mut frozen = Frozen(vec![]);
        for pid in site.processes()?.into_values() {
            frozen.0.push(pid);
            freeze(pid)?;
        }
        let ports = site.weir.ports;
        let mut connections = vec![];
        for number in 0..count {
            connections.push(match number % 4 {
                0 | 1 => {
                    let mut stream = connect(ports.http)?;
                    stream.write_all(&request())?;
                    Waiting::Asked(stream)
                }
                2 => Waiting::Silent(connect(ports.http)?),
                _ => Waiting::Secure(connect(ports.https)?),
            });
        }
        Ok(Self { connections, frozen })
    }

    /// Lets the workers go on, and hears every connection out.
    pub(super) fn serve(self, tls: &Arc<ClientConfig>, row: &Row) {
        drop(self.frozen);
        for waiting in self.connections {
            match waiting.hear_out(tls) {
                Ok(()) => row.answered(),
                Err(error) => row.failed(error),
            }
        }
    }
}

impl Waiting {
    fn hear_out(self, tls: &Arc<ClientConfig>) -> Result<()> {
        match self {
            Self::Asked(stream) => answered(stream).context("queued with its request"),
            Self::Silent(mut stream) => {
                stream.write_all(&request()).context("queued, asking")?;
                answered(stream).context("queued")
            }
            Self::Secure(mut stream) => {
                let mut session = ClientConnection::new(Arc::clone(tls), HOST.try_into()?)?;
                let mut stream = rustls::Stream::new(&mut session, &mut stream);
                stream.write_all(&request()).context("queued for TLS, asking")?;
                answered(stream).context("queued for TLS")
            }
        }
    }
}

/// Reads to the end, which must be that of a whole answer.
fn answered(mut stream: impl Read) -> Result<()> {
    let mut bytes = vec![];
    let end = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{text:?}, {end:?}"))?;
    let head = head.to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 200"), "{head:?}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    ensure!(length == Some(body.len()), "{length:?} bytes were to come, {} came: {end:?}", body.len());
    Ok(())
}
