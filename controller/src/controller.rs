//! The controller as a whole: what it is made of, and the two ports that it serves.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    acks::acks_server::AcksServer,
    admin::{
        audit_server::AuditServer, cluster_server::ClusterServer, objects_server::ObjectsServer,
        secrets_server::SecretsServer, tenants_server::TenantsServer, workers_server::WorkersServer,
    },
    kv::kv_server::KvServer,
    limits::{MAX_APPLY, MAX_SNAPSHOT},
    pki::{Ca, Live, PkiError, SERVER_NAME},
    process,
    server::{Bounded, ClientAuth, MAX_CONNECTIONS, plain, secure},
};
use dialect::PoolSpec;
use model::{PoolName, Revision};
use store::{Handle, Read, ReadError, Txn, TxnError, seal::Sealer};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::service::Routes;
use tracing::{error, info, warn};

use crate::{
    Desired, Fleet, Intake, Joins, Others, PeersPort, PoolState, World,
    acks::Acks,
    admin::{Admin, watch::Watches},
    auth::{AdminAuth, Guard, Role, Token, TokenRecord},
    feed::{self, Feed},
    joins::Joining,
    keys,
    kv::Kv,
    others::Heard,
    recalls::Recalls,
    sealing,
    snapshots::{self, Sources},
    tickets,
};

/// What calls have to finish in when the server ends: longer than a commit, shorter than a supervisor's patience.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// What a controller is made of.
pub struct Config {
    /// Where everything is kept.
    pub store: Handle,
    /// Seals secrets before they are proposed.
    pub sealer: Arc<Sealer>,
    /// Issues the pools' default certificate, and those of servers and nodes that join.
    pub ca: Arc<Ca>,
    /// How others join.
    pub joins: Joins,
    /// A tenant owns `<tenant>.<domain>` and what is below it.
    pub domain: String,
    /// The pool `default`, unless an object says otherwise.
    pub default_pool: PoolSpec,
    /// The workers there are.
    pub fleet: Arc<dyn Fleet>,
    /// Takes load reports.
    pub intake: Arc<dyn Intake>,
    /// The other servers, if there may be some: asked what the workers serve that they feed.
    pub others: Option<Others>,
    /// Becomes true when the server is to end.
    pub shutdown: watch::Receiver<bool>,
}

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store did not answer.
    #[error("read the configuration")]
    Read(#[from] ReadError),
    /// The domain is not one.
    #[error("domain {domain:?}: {source}")]
    Domain {
        /// As it was given.
        domain: String,
        /// What is wrong with it.
        #[source]
        source: model::InvalidHost,
    },
    /// Tenants' hosts would include the servers' own name.
    #[error("domain {domain:?} is kept for the installation's servers: choose another")]
    ServersDomain {
        /// As it was given.
        domain: String,
    },
}

/// Why a port is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The certificate cannot be used.
    #[error("serve the {port} port")]
    Certificate {
        /// `admin` or `feed`.
        port: &'static str,
        /// Why not.
        #[source]
        source: PkiError,
    },
    /// The server failed.
    #[error("serve the {port} port")]
    Transport {
        /// `admin` or `feed`.
        port: &'static str,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// The reflection service cannot be made.
    #[error("serve the admin port: reflection: {0}")]
    Reflection(String),
}

/// Why a token was not installed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is not a token.
    #[error("not a token: use one that was made with Token::generate")]
    Malformed,
    /// The store did not take it.
    #[error("store the token")]
    Store(#[from] TxnError),
    /// The store did not answer.
    #[error("read tokens")]
    Read(#[from] ReadError),
}

/// The controller of one server. Ends its tasks when dropped, and when `shutdown` becomes true.
pub struct Controller {
    admin: Admin,
    feed: Feed,
    joining: Joining,
    snapshots: JoinHandle<()>,
    sealing: JoinHandle<()>,
    tickets: JoinHandle<()>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.snapshots.abort();
        self.sealing.abort();
        self.tickets.abort();
    }
}

impl Controller {
    /// Reads and compiles what is stored, and follows its changes from then on.
    ///
    /// # Errors
    ///
    /// The store does not answer, or the domain is no hostname.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let Config { store, sealer, ca, joins, domain, default_pool, fleet, intake, others, shutdown } =
            config;
        if let Err(source) = model::HostPattern::parse(&domain) {
            return Err(StartError::Domain { domain, source });
        }
        if model::HostPattern::parse(&format!("*.{domain}")).is_ok_and(|below| below.matches(SERVER_NAME)) {
            return Err(StartError::ServersDomain { domain });
        }
        let (world_sender, world) = watch::channel(Arc::new(World::empty(Instant::now())));
        let (seen_sender, seen) = watch::channel(Revision(0));
        let acks = Arc::new(Acks::default());
        let recalls = Arc::new(Recalls::default());
        let sources = Sources {
            acks: acks.clone(),
            store: store.clone(),
            sealer: sealer.clone(),
            ca: ca.clone(),
            domain: domain.clone(),
            default_pool: default_pool.clone(),
        };
        let snapshots = tokio::spawn(async move {
            if let Err(error) = snapshots::run(sources, world_sender, seen_sender).await {
                error!(%error, "configuration is no longer followed");
            }
        });
        // A server that answers before it has read its own state would take tenants away from workers.
        if world.clone().wait_for(|world| !world.pools.is_empty()).await.is_err() {
            return Err(StartError::Read(ReadError::Stopped));
        }
        let sealing = tokio::spawn(sealing::follow(store.clone(), sealer.clone()));
        let tickets = tokio::spawn(tickets::follow(store.clone(), sealer.clone()));
        let feed = Feed::new(world.clone(), acks.clone(), recalls.clone(), intake, shutdown.clone());
        let watches = Watches::default();
        let joining = Joining::new(store.clone(), ca.clone(), joins, domain.clone(), default_pool.clone());
        let admin = Admin {
            store,
            sealer,
            ca,
            domain,
            default_pool,
            world,
            seen,
            acks,
            recalls,
            others,
            fleet,
            watches,
            shutdown,
        };
        Ok(Self { admin, feed, joining, snapshots, sealing, tickets })
    }

    /// What the edges are to serve, as it changes.
    #[must_use]
    pub fn world(&self) -> watch::Receiver<Arc<World>> {
        self.admin.world.clone()
    }

    /// The pools there are now. Follow [`Controller::world`] for changes.
    #[must_use]
    pub fn pools(&self) -> BTreeMap<PoolName, Arc<PoolState>> {
        self.admin.world.borrow().pools.clone()
    }

    /// The autoscaler's plans.
    #[must_use]
    pub fn desired(&self) -> Desired {
        Desired::new(self.admin.store.clone())
    }

    /// Makes `token` a platform administrator's; nothing if it is one already.
    ///
    /// # Errors
    ///
    /// It is no token, or the store does not take it.
    pub async fn install_admin_token(&self, token: &str) -> Result<(), TokenError> {
        let token = Token::parse(token).ok_or(TokenError::Malformed)?;
        let key = keys::token(&token.hash());
        if self.admin.store.get(&key, Read::Local).await?.is_some() {
            return Ok(());
        }
        let record = TokenRecord { hash: token.hash(), role: Role::PlatformAdmin, created_at_ms: 0 };
        let value = serde_json::to_vec(&record).map_err(|_| TokenError::Malformed)?;
        let txn = Txn::new("server").note("install the administrator's token").put(key, value);
        self.admin.store.txn(txn).await?;
        Ok(())
    }

    /// Serves the admin API until `shutdown` becomes true; calls in progress are finished.
    ///
    /// # Errors
    ///
    /// The certificate cannot be used.
    pub async fn serve_admin(
        &self,
        listener: TcpListener,
        identity: impl Into<Live>,
        ca_pem: &str,
    ) -> Result<(), ServeError> {
        let failed = |source| ServeError::Transport { port: "admin", source };
        let unusable = |source| ServeError::Certificate { port: "admin", source };
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(api::DESCRIPTORS)
            .build_v1()
            .map_err(|e| ServeError::Reflection(e.to_string()))?;
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ObjectsServer<Admin>>().await;
        info!(address = ?listener.local_addr().ok(), "admin API");
        let incoming = Bounded::new(listener, MAX_CONNECTIONS);
        let incoming = secure(incoming, identity.into(), ca_pem, ClientAuth::Optional).map_err(unusable)?;
        let router = plain(ClientAuth::Optional)
            .layer(Guard(AdminAuth::new(self.admin.store.clone())))
            .add_service(TenantsServer::new(self.admin.clone()))
            .add_service(ObjectsServer::new(self.admin.clone()).max_decoding_message_size(MAX_APPLY))
            .add_service(AuditServer::new(self.admin.clone()))
            .add_service(WorkersServer::new(self.admin.clone()))
            .add_service(ClusterServer::new(self.admin.clone()))
            .add_service(SecretsServer::new(self.admin.clone()))
            .add_service(KvServer::new(Kv::new(&self.admin)).max_decoding_message_size(MAX_APPLY))
            .add_service(self.joining.join_service())
            .add_service(health_service)
            .add_service(reflection);
        let serving = router.serve_with_incoming_shutdown(incoming, self.down());
        self.within_grace(serving).await.map_err(failed)
    }

    /// Serves the feed until `shutdown` becomes true, and `others` beside it (plans for host agents). For a server
    /// that is alone; one that has others opens a [`PeersPort`] before it has a controller.
    ///
    /// # Errors
    ///
    /// The certificate cannot be used.
    pub async fn serve_feed(
        &self,
        listener: TcpListener,
        identity: impl Into<Live>,
        ca_pem: &str,
        others: Routes,
    ) -> Result<(), ServeError> {
        let (port, serving) =
            PeersPort::open(self.admin.store.clone(), listener, identity.into(), ca_pem, self.down())?;
        port.begin(self.feed_routes(others));
        self.within_grace(serving).await
    }

    /// What agents and workers call: the feed, certificates, and `others` beside them (plans for host agents). For
    /// [`PeersPort::begin`].
    #[must_use]
    pub fn feed_routes(&self, others: Routes) -> Routes {
        others
            .add_service(feed::Server::new(self.feed.clone()))
            .add_service(AcksServer::new(Heard::new(&self.admin)).max_decoding_message_size(MAX_SNAPSHOT))
            .add_service(self.joining.certificates_service())
    }

    /// Ends when the server is to end.
    fn down(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut shutdown = self.admin.shutdown.clone();
        async move { process::shut_down(&mut shutdown).await }
    }

    /// Lets calls in progress finish, but not for ever: some streams (health's) have no end.
    async fn within_grace<E>(&self, serving: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let late = async {
            self.down().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            served = serving => served,
            () = late => {
                warn!("calls that did not end are cut");
                Ok(())
            }
        }
    }
}

/// A new bearer token, to be installed with [`Controller::install_admin_token`].
///
/// # Errors
///
/// There is no randomness.
pub fn generate_token() -> Result<String, crate::auth::NoRandomness> {
    Token::generate().map(|token| token.reveal().to_owned())
}
