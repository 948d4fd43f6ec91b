//! One server's controller, with everything but the autoscaler real.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use api::{
    admin::{self, ApplyRequest, GetRequest, Object, ObjectKey, SourceFile},
    client::Admin,
    feed,
    pki::{Ca, Identity, Request, Role, RoleKind},
};
use controller::{
    Config, Controller, EventStream, Fleet, FleetError, Intake, ReplyStream, ReportStream, generate_token,
};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use model::{PoolName, WorkerId};
use store::{Store, seal::Sealer};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tonic::{Status, service::Routes};

/// Longer than anything here takes, shorter than a patient reader.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Harness {
    pub(crate) directory: TempDir,
    pub(crate) ca: Arc<Ca>,
    pub(crate) admin_address: SocketAddr,
    pub(crate) feed_address: SocketAddr,
    pub(crate) platform_token: String,
    pub(crate) controller: Arc<Controller>,
    pub(crate) store: store::Handle,
    pub(crate) fleet: Arc<FakeFleet>,
    shutdown: watch::Sender<bool>,
    serving: Vec<tokio::task::JoinHandle<()>>,
}

/// A fleet of one worker that notes who is drained.
#[derive(Default)]
pub(crate) struct FakeFleet {
    pub(crate) drained: Mutex<Vec<WorkerId>>,
}

impl Fleet for FakeFleet {
    fn workers(&self, _pool: Option<&PoolName>) -> Vec<admin::Worker> {
        vec![admin::Worker { worker: "w1".into(), node: "n1".into(), ..Default::default() }]
    }

    fn drain(&self, worker: WorkerId) -> BoxFuture<'_, Result<(), FleetError>> {
        Box::pin(async move {
            if worker.as_str() != "w1" {
                return Err(FleetError::Unknown(worker));
            }
            self.drained.lock().unwrap().push(worker);
            Ok(())
        })
    }

    fn events(&self, _pool: Option<PoolName>, limit: usize, _follow: bool) -> EventStream {
        let event = admin::Event { kind: "hold".into(), ..Default::default() };
        Box::pin(stream::iter(vec![event; limit.min(2)]))
    }
}

/// Answers each report with its sequence.
struct EchoIntake;

impl Intake for EchoIntake {
    fn report(&self, role: Role, reports: ReportStream) -> ReplyStream {
        assert_eq!(role.kind, RoleKind::Edge);
        Box::pin(reports.map(|report| {
            report.map(|report| feed::ReportReply { retire_above_connections: report.sequence })
        }))
    }
}

impl Harness {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(store::Config::new(directory.path().join("store"))).await.unwrap();
        let sealer = Arc::new(Sealer::from_file(&directory.path().join("kek")).unwrap());
        let ca = Arc::new(Ca::create("test", SystemTime::now()).unwrap());
        let (shutdown_sender, shutdown) = watch::channel(false);
        let fleet = Arc::new(FakeFleet::default());
        let controller = Controller::start(Config {
            store: store.clone(),
            sealer,
            ca: ca.clone(),
            joins: controller::Joins::default(),
            others: None,
            domain: "localhost".into(),
            default_pool: dialect::PoolSpec::default(),
            fleet: fleet.clone(),
            intake: Arc::new(EchoIntake),
            shutdown,
        })
        .await
        .unwrap();
        let controller = Arc::new(controller);
        // They are the leader's first write: what comes after has its revisions for itself.
        let mut world = controller.world();
        within(world.wait_for(|world| world.ticket_keys.is_some())).await.unwrap();
        let platform_token = generate_token().unwrap();
        controller.install_admin_token(&platform_token).await.unwrap();

        let identity = issue(&ca, RoleKind::Server);
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let feed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (admin_address, feed_address) = (admin.local_addr().unwrap(), feed.local_addr().unwrap());
        let (one, two) = (controller.clone(), controller.clone());
        let (id, pem) = (identity.clone(), ca.cert_pem().to_owned());
        let admin = tokio::spawn(async move { one.serve_admin(admin, &id, &pem).await.unwrap() });
        let pem = ca.cert_pem().to_owned();
        let feed =
            tokio::spawn(
                async move { two.serve_feed(feed, &identity, &pem, Routes::default()).await.unwrap() },
            );
        Self {
            directory,
            ca,
            admin_address,
            feed_address,
            platform_token,
            controller,
            store,
            fleet,
            shutdown: shutdown_sender,
            serving: vec![admin, feed],
        }
    }

    /// Ends the server; returns when both ports are closed.
    pub(crate) async fn shut_down(&mut self) {
        self.shutdown.send_replace(true);
        for port in self.serving.drain(..) {
            within(port).await.unwrap();
        }
    }

    pub(crate) fn admin(&self, token: &str) -> Admin {
        Admin::new(&self.admin_address.to_string(), self.ca.cert_pem(), token).unwrap()
    }

    pub(crate) fn platform(&self) -> Admin {
        self.admin(&self.platform_token)
    }

    pub(crate) fn identity(&self, kind: RoleKind) -> Identity {
        issue(&self.ca, kind)
    }

    /// Makes a tenant; clients with its own token.
    pub(crate) async fn tenant(&self, name: &str) -> (Admin, String) {
        let request = admin::CreateTenantRequest { name: name.into() };
        let created = self.platform().tenants.create_tenant(request).await.unwrap().into_inner();
        assert_eq!(created.tenant.unwrap().hostname, format!("{name}.localhost"));
        (self.admin(&created.token), created.token)
    }
}

fn issue(ca: &Ca, kind: RoleKind) -> Identity {
    let request =
        Request { kind, name: "local".into(), dns: vec![], ips: vec![], lifetime: Duration::from_secs(3600) };
    ca.issue(&request, SystemTime::now()).unwrap()
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("within the deadline")
}

pub(crate) fn request(tenant: &str, content: &str) -> ApplyRequest {
    ApplyRequest {
        tenant: tenant.into(),
        files: vec![SourceFile { name: "test.yaml".into(), content: content.into() }],
        ..Default::default()
    }
}

/// Applies and returns the revision.
pub(crate) async fn apply(client: &Admin, tenant: &str, content: &str) -> u64 {
    client.objects.clone().apply(request(tenant, content)).await.unwrap().into_inner().revision
}

pub(crate) fn key(tenant: &str, kind: &str, name: &str) -> ObjectKey {
    ObjectKey { tenant: tenant.into(), namespace: "default".into(), kind: kind.into(), name: name.into() }
}

pub(crate) async fn get(client: &Admin, key: ObjectKey) -> Result<Object, Status> {
    let request = GetRequest { key: Some(key), ..Default::default() };
    Ok(client.objects.clone().get(request).await?.into_inner().object.unwrap())
}

/// A Gateway, a route for `path` and a backend.
pub(crate) fn site(path: &str) -> String {
    format!(
        "{GATEWAY}---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec:
  parentRefs: [{{name: g}}]
  rules:
    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
      backendRefs: [{{group: weir.dev, kind: Backend, name: b}}]
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: b}}
spec: {{endpoints: [{{address: \"127.0.0.1:9\"}}]}}
"
    )
}

pub(crate) const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: weir
  listeners: [{name: http, port: 80, protocol: HTTP}]
";
