//! Three servers, each on a runtime of its own: that runtime's end is the end of all that the server says.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use api::{
    pki::{Ca, Identity, Request, RoleKind},
    server::{Bounded, ClientAuth, server},
};
use store::{
    Config, Handle, NodeId, OpenError, Start, Store,
    fatal::{Fatal, OnFatal},
    transport::{self, LinkState, Links, LinksConfig, Observer},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};

use super::switch::Switch;

pub(super) const CLUSTER: &str = "test";

/// A certificate of the installation's.
pub(super) fn identity(ca: &Ca, kind: RoleKind, name: &str) -> Identity {
    let lifetime = Duration::from_secs(3600);
    let request = Request { kind, name: name.into(), dns: vec![], ips: vec![], lifetime };
    ca.issue(&request, SystemTime::now()).unwrap()
}

/// Serves a store's peers on a port of its own.
pub(super) async fn serve(store: &Handle, identity: &Identity, ca_pem: &str) -> std::net::SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = server(identity, ca_pem, ClientAuth::Required)
        .unwrap()
        .add_service(transport::service(store.clone()));
    tokio::spawn(router.serve_with_incoming(Bounded::new(listener, 100).into_stream()));
    address
}

/// Waits for what must come to be.
pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect(what);
}

type Adjust = fn(&mut Config, &mut LinksConfig);

struct Running {
    store: Handle,
    observer: Observer,
    runtime: Option<Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

pub(super) struct Cluster {
    servers: BTreeMap<NodeId, Running>,
    switches: BTreeMap<NodeId, Switch>,
    ca: Ca,
    dir: TempDir,
    adjust: Adjust,
    ending: Arc<AtomicBool>,
}

impl Drop for Cluster {
    /// The directory goes while servers are still on their way out: that it fails them is no fault of theirs.
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
    }
}

impl Cluster {
    pub(super) fn new(adjust: Adjust) -> Self {
        Self {
            servers: BTreeMap::new(),
            switches: (1..=4).map(|node| (node, Switch::new())).collect(),
            ca: Ca::create("test", SystemTime::now()).unwrap(),
            dir: tempfile::tempdir().unwrap(),
            adjust,
            ending: Arc::default(),
        }
    }

    pub(super) async fn start(&mut self, node: NodeId) {
        self.start_as(node, Start::Found, vec![1, 2, 3]).await;
    }

    /// Where a server will listen.
    pub(super) fn address(&self, node: NodeId) -> String {
        self.switches[&node].address.to_string()
    }

    pub(super) async fn start_as(&mut self, node: NodeId, start: Start, voters: Vec<NodeId>) {
        let mut config = crate::config(&self.dir.path().join(node.to_string()));
        config.node = node;
        config.voters = voters;
        config.start = start;
        config.cluster_id = Some(CLUSTER.into());
        config.tick = Duration::from_millis(20);
        // What was forwarded to a leader that is gone is not waited for long.
        config.write_timeout = Duration::from_secs(1);
        config.read_timeout = Duration::from_secs(20);
        let ending = self.ending.clone();
        let fine = move |fatal: &Fatal| assert!(ending.load(Ordering::Relaxed), "server {node}: {fatal}");
        config.on_fatal = OnFatal(Arc::new(fine));
        config.snapshot_entries = 20;
        config.snapshot_bytes = 64 << 10;
        let addresses = self.switches.iter().map(|(node, switch)| (*node, switch.address.to_string()));
        let identity = identity(&self.ca, RoleKind::Server, &transport::role_name(node));
        let (_, fixed) = tokio::sync::watch::channel(identity.clone());
        let mut links = LinksConfig::new(node, addresses.collect(), fixed, self.ca.cert_pem());
        (self.adjust)(&mut config, &mut links);

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let ca_pem = self.ca.cert_pem().to_owned();
        let started = runtime.spawn(async move {
            loop {
                let links = Links::new(links.clone()).unwrap();
                let observer = links.observer();
                match Store::open_with(config.clone(), Box::new(links)).await {
                    Ok(store) => {
                        let address = serve(&store, &identity, &ca_pem).await;
                        break (store, observer, address);
                    }
                    // The one that was killed is still on its way out.
                    Err(OpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let (store, observer, address) =
            tokio::time::timeout(Duration::from_secs(20), started).await.expect("it opens").unwrap();
        self.switches[&node].point(Some(address));
        self.servers.insert(node, Running { store, observer, runtime: Some(runtime) });
    }

    /// Not another word of it: nothing is handed over.
    pub(super) fn kill(&mut self, node: NodeId) {
        self.switches[&node].point(None);
        self.servers.remove(&node);
    }

    pub(super) fn pause(&self, node: NodeId, paused: bool) {
        self.switches[&node].pause(paused);
    }

    pub(super) fn store(&self, node: NodeId) -> &Handle {
        &self.servers[&node].store
    }

    pub(super) fn link(&self, from: NodeId, to: NodeId) -> Option<LinkState> {
        self.servers.get(&from)?.observer.link(to)
    }

    pub(super) async fn leader(&self) -> NodeId {
        let leading =
            || self.servers.iter().find(|(_, server)| server.store.is_leader()).map(|(node, _)| *node);
        eventually("a leader", || leading().is_some()).await;
        leading().unwrap()
    }

    /// Returns when these have equal hashes at one index.
    pub(super) async fn agree(&self, nodes: &[NodeId]) {
        let state = |node: &NodeId| {
            let status = self.store(*node).status();
            (status.applied_index, status.hash)
        };
        eventually("equal states", || nodes.iter().all(|node| state(node) == state(&nodes[0]))).await;
    }
}
