//! Who may not speak, and not for whom.

use std::time::{Duration, SystemTime};

use api::{
    client,
    pki::{Ca, Identity, RoleKind},
    store::{PeerBatch, PeerMessage, Snapshot, SnapshotPart, snapshot_part::Part},
};
use futures_util::{StreamExt as _, stream};
use store::{
    Handle, Store,
    peer::Alone,
    transport::{Links, LinksConfig, LinksError},
};
use tonic::{Code, Status};

use super::cluster::{CLUSTER, identity, serve};

/// A heartbeat of server 2 to server 1.
fn heartbeat() -> PeerMessage {
    PeerMessage { kind: 8, from: 2, to: 1, term: 3, cluster_id: CLUSTER.into(), ..PeerMessage::default() }
}

struct Target {
    store: Handle,
    ca: Ca,
    address: String,
    _dir: tempfile::TempDir,
}

impl Target {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create("test", SystemTime::now()).unwrap();
        let mut config = crate::config(dir.path());
        config.voters = vec![1, 2, 3];
        config.cluster_id = Some(CLUSTER.into());
        // It hears nobody but the test.
        config.tick = Duration::from_secs(60);
        let store = Store::open_with(config, Box::new(Alone)).await.unwrap();
        let address = serve(&store, &identity(&ca, RoleKind::Server, "server-1"), ca.cert_pem()).await;
        Self { store, address: address.to_string(), ca, _dir: dir }
    }

    fn identity(&self, kind: RoleKind, name: &str) -> Identity {
        identity(&self.ca, kind, name)
    }

    /// How a stream ends that begins with this message and would go on for ever.
    async fn say(&self, identity: &Identity, message: PeerMessage) -> Status {
        let mut client = client::peers(&self.address, self.ca.cert_pem(), identity).unwrap();
        let batch = PeerBatch { messages: vec![message] };
        let batches = stream::iter([batch]).chain(stream::pending());
        let ended = async { client.send(batches).await?.into_inner().message().await };
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        ended.expect("it is not left open").expect_err("refused")
    }

    async fn send_snapshot(&self, identity: &Identity, parts: Vec<Part>) -> Result<(), Status> {
        let mut client = client::peers(&self.address, self.ca.cert_pem(), identity).unwrap();
        let parts = parts.into_iter().map(|part| SnapshotPart { part: Some(part) });
        client.send_snapshot(stream::iter(parts)).await?.into_inner().message().await.map(drop)
    }

    fn term(&self) -> u64 {
        self.store.status().leadership.term
    }
}

#[tokio::test]
async fn only_the_clusters_servers_speak_and_each_for_itself() {
    let target = Target::new().await;
    let term = target.term();
    let callers = [
        (RoleKind::Edge, "server-2"),
        (RoleKind::Node, "server-2"),
        (RoleKind::Server, "server-3"),
        (RoleKind::Server, "server-02"),
        (RoleKind::Server, "server"),
    ];
    for (kind, name) in callers {
        let identity = target.identity(kind, name);
        let refused = target.say(&identity, heartbeat()).await;
        assert_eq!(refused.code(), Code::PermissionDenied, "{kind} {name}: {refused}");
        let snapshot = PeerMessage { snapshot: Some(Snapshot::default()), ..heartbeat() };
        let refused = target.send_snapshot(&identity, vec![Part::Message(snapshot)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{kind} {name}: {refused}");
    }
    assert_eq!(target.term(), term, "nothing of it reached raft");
}

#[tokio::test]
async fn what_is_for_another_server_or_cluster_is_refused() {
    let target = Target::new().await;
    let term = target.term();
    let identity = target.identity(RoleKind::Server, "server-2");
    let (for_another, of_another) =
        (PeerMessage { to: 3, ..heartbeat() }, PeerMessage { cluster_id: "other".into(), ..heartbeat() });
    for message in [for_another, of_another] {
        assert_eq!(target.say(&identity, message).await.code(), Code::FailedPrecondition);
    }
    let foreign = Ca::create("test", SystemTime::now()).unwrap();
    let foreign = super::cluster::identity(&foreign, RoleKind::Server, "server-2");
    target.say(&foreign, heartbeat()).await;
    assert_eq!(target.term(), term, "nothing of it reached raft");

    // The same message of the right server is heard.
    let mut client = client::peers(&target.address, target.ca.cert_pem(), &identity).unwrap();
    let batch = PeerBatch { messages: vec![heartbeat()] };
    let _answers = client.send(stream::iter([batch]).chain(stream::pending())).await.unwrap();
    super::cluster::eventually("its term is known", || target.term() == 3).await;
}

#[tokio::test]
async fn a_snapshot_is_a_message_and_its_pieces() {
    let target = Target::new().await;
    let identity = target.identity(RoleKind::Server, "server-2");
    let piece = || Part::Piece(vec![1; 100].into());
    let whole = PeerMessage { snapshot: Some(Snapshot { meta: None, body: vec![1].into() }), ..heartbeat() };
    let head = PeerMessage { snapshot: Some(Snapshot::default()), ..heartbeat() };
    let malformed = [
        vec![],
        vec![piece()],
        vec![Part::Message(heartbeat()), piece()],
        vec![Part::Message(whole)],
        vec![Part::Message(head.clone()), piece(), Part::Message(head.clone())],
    ];
    for parts in malformed {
        let refused = target.send_snapshot(&identity, parts).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    // Taken by the store, which finds no meaning in it and goes on.
    target.send_snapshot(&identity, vec![Part::Message(head), piece()]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), target.store.shutdown()).await.unwrap();
    let late = target.say(&identity, heartbeat()).await;
    assert_eq!(late.code(), Code::Unavailable, "{late}");
}

#[tokio::test]
async fn links_are_not_made_with_what_the_others_would_refuse() {
    let ca = Ca::create("test", SystemTime::now()).unwrap();
    let links = |node, kind, name, address: &str| {
        let addresses = [(1, "127.0.0.1:1".to_owned()), (2, address.to_owned())].into();
        let (_, identity) = tokio::sync::watch::channel(identity(&ca, kind, name));
        Links::new(LinksConfig::new(node, addresses, identity, ca.cert_pem())).map(drop)
    };
    assert!(matches!(links(1, RoleKind::Server, "server-2", "h:1"), Err(LinksError::Name { node: 1, .. })));
    assert!(matches!(links(1, RoleKind::Edge, "server-1", "h:1"), Err(LinksError::Name { .. })));
    assert!(matches!(links(1, RoleKind::Server, "server-1", "h"), Err(LinksError::Client(_))));
    links(1, RoleKind::Server, "server-1", "h:1").unwrap();
}
