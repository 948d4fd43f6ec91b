//! A server that sends what plan it is given and keeps the last status.

use std::{net::SocketAddr, pin::Pin};

use api::{
    node::{
        NodePlan, NodeStatus,
        nodes_server::{Nodes, NodesServer},
    },
    pki,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{TcpListenerStream, WatchStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

pub(crate) struct Planner {
    pub(crate) address: SocketAddr,
    pub(crate) plans: watch::Sender<NodePlan>,
    pub(crate) statuses: watch::Receiver<NodeStatus>,
    task: JoinHandle<()>,
}

impl Planner {
    pub(crate) async fn start(ca_pem: &str, identity: pki::Identity) -> Self {
        let (plans, plan_receiver) = watch::channel(NodePlan::default());
        let (status_sender, statuses) = watch::channel(NodeStatus::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(identity.cert_pem, identity.key_pem))
            .client_ca_root(Certificate::from_pem(ca_pem));
        let service = NodesServer::new(Service { plans: plan_receiver, statuses: status_sender });
        let server = Server::builder().tls_config(tls).unwrap().add_service(service);
        let task = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, plans, statuses, task }
    }
}

impl Drop for Planner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    plans: watch::Receiver<NodePlan>,
    statuses: watch::Sender<NodeStatus>,
}

#[tonic::async_trait]
impl Nodes for Service {
    type ReconcileStream = Pin<Box<dyn Stream<Item = Result<NodePlan, Status>> + Send>>;

    async fn reconcile(
        &self,
        request: Request<Streaming<NodeStatus>>,
    ) -> Result<Response<Self::ReconcileStream>, Status> {
        let mut incoming = request.into_inner();
        let statuses = self.statuses.clone();
        tokio::spawn(async move {
            while let Ok(Some(status)) = incoming.message().await {
                statuses.send_replace(status);
            }
        });
        Ok(Response::new(Box::pin(WatchStream::new(self.plans.clone()).map(Ok))))
    }
}
