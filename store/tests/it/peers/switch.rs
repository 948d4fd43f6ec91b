//! A server's address that stays while the server behind it goes, stalls and comes back.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct State {
    target: Option<SocketAddr>,
    paused: bool,
}

/// Forwards connections to where it points; cuts them when that changes.
pub(super) struct Switch {
    pub(super) address: SocketAddr,
    state: watch::Sender<State>,
}

impl Switch {
    /// Forwards on a task of the current runtime.
    pub(super) fn new() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = watch::channel(State::default());
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                // No target: closed at once, as good as refused.
                if let Some(target) = seen.borrow().target {
                    tokio::spawn(forward(connection, target, seen.clone()));
                }
            }
        });
        Self { address, state }
    }

    pub(super) fn point(&self, target: Option<SocketAddr>) {
        self.state.send_modify(|state| state.target = target);
    }

    /// Holds what is on its way to the server, connections stay.
    pub(super) fn pause(&self, paused: bool) {
        self.state.send_modify(|state| state.paused = paused);
    }
}

async fn forward(connection: TcpStream, target: SocketAddr, state: watch::Receiver<State>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (from_caller, to_caller) = connection.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = state.clone();
    tokio::select! {
        () = pump(from_caller, to_server, state.clone()) => {}
        () = pump(from_server, to_caller, state) => {}
        _ = cut.wait_for(|state| state.target != Some(target)) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 << 10];
    while state.wait_for(|state| !state.paused).await.is_ok() {
        match from.read(&mut buffer).await {
            Ok(read) if read > 0 && to.write_all(&buffer[..read]).await.is_ok() => {}
            _ => return,
        }
    }
}
