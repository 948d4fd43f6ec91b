//! The peers' port: the store's other servers from the first moment, agents and workers once the controller is there.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use api::{
    pki::Live,
    server::{Bounded, ClientAuth, MAX_CONNECTIONS, plain, secure},
    store::peers_server::PeersServer,
};
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{Request, Response};
use store::{
    Handle,
    transport::{self, Receiver},
};
use tokio::net::TcpListener;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service;
use tracing::info;

use crate::{
    ServeError,
    auth::{Guard, PeerAuth},
    leader,
};

/// The paths of the store's own service.
const STORE: &str = "/weir.store.v1.Peers/";

/// What needs the whole picture, which the leader alone has; whoever calls another server is told where it is.
const LEADERS: [(&str, &str); 2] = [
    ("/weir.feed.v1.Feed/Report", "load is reported to the leader"),
    ("/weir.node.v1.Nodes/Reconcile", "the leader plans for nodes"),
];

/// The port for mTLS callers. Raft needs it before there is anything else: a server that joins gets all that it knows
/// through it.
#[derive(Clone)]
pub struct PeersPort {
    store: Handle,
    peers: PeersServer<Receiver>,
    others: Arc<OnceLock<Routes>>,
}

impl PeersPort {
    /// Opens the port; the future serves it until `down`, and then until the calls in progress have ended. Other
    /// servers' streams end with the store: stop that first.
    ///
    /// # Errors
    ///
    /// The certificate cannot be used.
    pub fn open<D>(
        store: Handle,
        listener: TcpListener,
        identity: Live,
        ca_pem: &str,
        down: D,
    ) -> Result<(Self, impl Future<Output = Result<(), ServeError>> + use<D>), ServeError>
    where
        D: Future<Output = ()> + Send + 'static,
    {
        let port = Self { peers: transport::service(store.clone()), store, others: Arc::default() };
        info!(address = ?listener.local_addr().ok(), "peers and feed");
        let unusable = |source| ServeError::Certificate { port: "feed", source };
        let listener = Bounded::new(listener, MAX_CONNECTIONS);
        let incoming = secure(listener, identity, ca_pem, ClientAuth::Required).map_err(unusable)?;
        let service = port.clone();
        let serving = async move {
            let server = plain(ClientAuth::Required).layer(Guard(PeerAuth));
            let served = server.serve_with_incoming_shutdown(service, incoming, down).await;
            served.map_err(|source| ServeError::Transport { port: "feed", source })
        };
        Ok((port, serving))
    }

    /// Lets agents and workers in. A second call changes nothing.
    pub fn begin(&self, others: Routes) {
        self.others.set(others).ok();
    }

    fn refusal(&self, path: &str) -> Option<Status> {
        if self.others.get().is_none() {
            return Some(Status::unavailable("this server has just started: try another, or again"));
        }
        let (_, what) = LEADERS.iter().find(|(leaders, _)| *leaders == path)?;
        leader::lead(&self.store, Code::Unavailable, what).err()
    }
}

impl Service<Request<Body>> for PeersPort {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with(STORE) {
            return self.peers.call(request).boxed();
        }
        match (self.refusal(path), self.others.get()) {
            (None, Some(others)) => others.clone().call(request).boxed(),
            (refusal, _) => {
                let refusal = refusal.unwrap_or_else(|| Status::unavailable("not yet"));
                std::future::ready(Ok(refusal.into_http())).boxed()
            }
        }
    }
}
