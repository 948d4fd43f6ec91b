//! `weir.join.v1`: a token and a request for a certificate in, all that a new member needs out.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use api::{
    join::{self as wire, certificates_server, join_request, join_server},
    limits::MAX_MESSAGE,
    pki::{self, Ca, PkiError, RoleKind},
};
use dialect::PoolSpec;
use model::ListenerProtocol;
use store::{Addresses, Handle, Member, NodeId, Read, Txn, TxnError, transport::role_name};
use tonic::{Code, Request, Response, Status};
use tracing::{info, warn};

use super::{JoinRecord, JoinRole, JoinToken, Joins, Refused, rate::Rate, token::Use};
use crate::{
    admin::{status, tenants::now_ms},
    keys, leader,
};

/// Joins are rare; a flood of them is an attack or a mistake.
const PER_SECOND: f64 = 10.0;
const BURST: f64 = 20.0;

/// The longest address: a DNS name and a port.
const MAX_ADDRESS: usize = 260;

/// How often a record is read again that another one changed.
const ATTEMPTS: usize = 3;

/// Lets others join, and renews their certificates. Clones share everything.
#[derive(Clone)]
pub(crate) struct Joining {
    shared: Arc<Shared>,
}

struct Shared {
    store: Handle,
    ca: Arc<Ca>,
    joins: Joins,
    domain: String,
    default_pool: PoolSpec,
    rate: Rate,
}

impl Joining {
    pub(crate) fn new(
        store: Handle,
        ca: Arc<Ca>,
        joins: Joins,
        domain: String,
        default_pool: PoolSpec,
    ) -> Self {
        let rate = Rate::new(PER_SECOND, BURST);
        Self { shared: Arc::new(Shared { store, ca, joins, domain, default_pool, rate }) }
    }

    pub(crate) fn join_service(&self) -> join_server::JoinServer<Self> {
        join_server::JoinServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST)
    }

    pub(crate) fn certificates_service(&self) -> certificates_server::CertificatesServer<Self> {
        certificates_server::CertificatesServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST)
    }
}

/// Two certificate requests and some names.
const MAX_REQUEST: usize = MAX_MESSAGE / 64;

#[tonic::async_trait]
impl join_server::Join for Joining {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        if !self.shared.rate.pass(Instant::now()) {
            return Err(Status::resource_exhausted("too many joins at once: try again in a second"));
        }
        let from = request.remote_addr();
        let request = request.into_inner();
        let token = JoinToken::parse(&request.token)
            .ok_or_else(|| Status::unauthenticated("not a join token: use it whole, as it was shown"))?;
        let key = pki::requested_key(&request.request_pem).map_err(invalid)?;
        let joined = match request.role {
            Some(join_request::Role::Server(server)) => {
                self.shared.server(&token, &key, &request.request_pem, server).await
            }
            Some(join_request::Role::Node(node)) => {
                self.shared.node(&token, &key, &request.request_pem, node).await
            }
            None => Err(Status::invalid_argument("role is missing: a server or a node")),
        };
        joined.map(Response::new).inspect_err(|status| {
            warn!(token = token.id, ?from, reason = status.message(), "a join was refused");
        })
    }
}

#[tonic::async_trait]
impl certificates_server::Certificates for Joining {
    async fn renew(
        &self,
        request: Request<wire::RenewRequest>,
    ) -> Result<Response<wire::RenewResponse>, Status> {
        // Put there by whoever checked the certificate; without it, nobody did.
        let role = request.extensions().get::<pki::Role>().cloned();
        let role = role.ok_or_else(|| Status::unauthenticated("the certificate names no role"))?;
        let request = request.into_inner();
        // Servers sign for themselves, and a worker's is its node's to ask for.
        if role.kind != RoleKind::Node {
            return Err(Status::permission_denied(format!("a {} renews nothing here", role.kind)));
        }
        let certificate_pem = self.shared.sign(&request.request_pem, RoleKind::Node, &role.name)?;
        let worker_certificate_pem = match request.worker_request_pem.as_str() {
            "" => String::new(),
            worker => self.shared.sign(worker, RoleKind::Edge, &role.name)?,
        };
        info!(node = role.name, "certificates renewed");
        Ok(Response::new(wire::RenewResponse { certificate_pem, worker_certificate_pem }))
    }
}

impl Shared {
    async fn node(
        &self,
        token: &JoinToken,
        key: &str,
        request_pem: &str,
        node: wire::NewNode,
    ) -> Result<wire::JoinResponse, Status> {
        // What cannot be signed must not use the token up.
        let certificate_pem = self.sign(request_pem, RoleKind::Node, &node.name)?;
        let worker_certificate_pem = self.sign(&node.worker_request_pem, RoleKind::Edge, &node.name)?;
        self.claim(token, JoinRole::Node, key, &node.name).await?;
        info!(node = node.name, token = token.id, "a node joined");
        Ok(wire::JoinResponse {
            certificate_pem,
            worker_certificate_pem,
            ca_pem: self.ca.cert_pem().to_owned(),
            servers: leader::peers(&self.store),
            admins: leader::admins(&self.store),
            membership: None,
        })
    }

    async fn server(
        &self,
        token: &JoinToken,
        key: &str,
        request_pem: &str,
        server: wire::NewServer,
    ) -> Result<wire::JoinResponse, Status> {
        let key_file = self.joins.key_file.as_ref().ok_or_else(|| {
            Status::failed_precondition(
                "this server is the only one of its installation, made by `weir up`: servers join one that \
                 `weir cluster init` made",
            )
        })?;
        let addresses = Addresses { peers: address(&server.peers)?, admin: address(&server.admin)? };
        leader::lead(&self.store, Code::FailedPrecondition, "servers join at the leader")?;
        let (revision, record) = self.admitted(token, JoinRole::Server, key).await?;
        let id = match record.used.as_ref().and_then(|used| server_id(&used.name)) {
            Some(id) => self.again(id)?,
            None => {
                let begun = record.used.is_some();
                // From here on the token is this key's alone.
                let revision = match begun {
                    true => revision,
                    false => {
                        self.free(&addresses)?;
                        self.note(token, record.clone(), revision, key, "").await?
                    }
                };
                let id = match self.begun(&addresses).await?.filter(|_| begun) {
                    Some(id) => id,
                    None => {
                        self.free(&addresses)?;
                        let added = self.store.add_learner(addresses).await;
                        added.map_err(|error| leader::of_member(&self.store, error))?
                    }
                };
                // Should this be lost, the same key finds its member by its address.
                self.note(token, record, revision, key, &role_name(id)).await?;
                id
            }
        };
        let certificate_pem = self.sign(request_pem, RoleKind::Server, &role_name(id))?;
        let key_file = std::fs::read_to_string(key_file)
            .map_err(|error| Status::internal(format!("read the key file: {error}")))?;
        info!(server = id, token = token.id, peers = server.peers, "a server joined");
        let bind = |protocol| {
            let listen = self.default_pool.listen.iter().find(|listen| listen.protocol == protocol);
            listen.map(|listen| listen.bind.to_string()).unwrap_or_default()
        };
        Ok(wire::JoinResponse {
            certificate_pem,
            worker_certificate_pem: String::new(),
            ca_pem: self.ca.cert_pem().to_owned(),
            servers: leader::peers(&self.store),
            admins: leader::admins(&self.store),
            membership: Some(wire::Membership {
                id,
                cluster_id: self.store.status().cluster_id,
                key_file,
                domain: self.domain.clone(),
                http: bind(ListenerProtocol::Http),
                https: bind(ListenerProtocol::Https),
            }),
        })
    }

    /// That a server that asks again is still one.
    fn again(&self, id: NodeId) -> Result<NodeId, Status> {
        match self.store.members().iter().any(|member| member.id == id) {
            true => Ok(id),
            false => Err(Status::failed_precondition(format!(
                "server {id} was removed, and no id is used twice: make another token"
            ))),
        }
    }

    /// That nobody else is at these addresses: a server that lost its disk comes back under a new id, and its old one
    /// must go first.
    fn free(&self, addresses: &Addresses) -> Result<(), Status> {
        let taken = self.store.members().into_iter().find(|Member { addresses: theirs, .. }| {
            theirs.peers == addresses.peers || theirs.admin == addresses.admin
        });
        match taken {
            None => Ok(()),
            Some(Member { id, addresses: theirs, .. }) => Err(Status::failed_precondition(format!(
                "server {id} is at {} and {} already. If its data is lost: `weir cluster remove {id}`, then join again",
                theirs.peers, theirs.admin
            ))),
        }
    }

    /// The learner at these addresses that no token is known to have let in: its joining was begun and not noted.
    async fn begun(&self, addresses: &Addresses) -> Result<Option<NodeId>, Status> {
        let waiting = self.store.members().into_iter().find(|m| !m.voter && m.addresses == *addresses);
        let Some(Member { id, .. }) = waiting else { return Ok(None) };
        let (records, _) = self.store.list(keys::JOINS, Read::Local).await.map_err(status::of_read)?;
        let of_other = records.iter().any(|entry| {
            let record: Option<JoinRecord> = serde_json::from_slice(&entry.value).ok();
            record.and_then(|record| record.used).is_some_and(|used| used.name == role_name(id))
        });
        Ok((!of_other).then_some(id))
    }

    /// Takes a token for whoever has this key.
    async fn claim(&self, token: &JoinToken, role: JoinRole, key: &str, name: &str) -> Result<(), Status> {
        let (revision, record) = self.admitted(token, role, key).await?;
        match record.used {
            Some(Use { name: used, .. }) if used == name => Ok(()),
            Some(Use { name: by, .. }) => Err(refused(Refused::Used { by })),
            None => self.note(token, record, revision, key, name).await.map(drop),
        }
    }

    /// The token's record, if it lets this key in.
    async fn admitted(
        &self,
        token: &JoinToken,
        role: JoinRole,
        key: &str,
    ) -> Result<(model::Revision, JoinRecord), Status> {
        let entry =
            self.store.get(&keys::join(&token.id), Read::Linearizable).await.map_err(status::of_read)?;
        let entry = entry.ok_or_else(|| refused(Refused::Unknown))?;
        let record: JoinRecord = serde_json::from_slice(&entry.value)
            .map_err(|error| Status::internal(format!("the record of a join token: {error}")))?;
        record.admits(token, role, key, now_ms()).map_err(refused)?;
        Ok((entry.mod_revision, record))
    }

    /// Notes who used a token, unless somebody else did meanwhile.
    async fn note(
        &self,
        token: &JoinToken,
        record: JoinRecord,
        revision: model::Revision,
        key: &str,
        name: &str,
    ) -> Result<model::Revision, Status> {
        let used = Some(Use { key: key.to_owned(), name: name.to_owned() });
        let value = serde_json::to_vec(&JoinRecord { used, ..record })
            .map_err(|error| Status::internal(error.to_string()))?;
        let what = if name.is_empty() { "a server joins" } else { name };
        let txn = Txn::new(format!("join token {}", token.id))
            .note(format!("join: {what}"))
            .compare(keys::join(&token.id), revision)
            .put(keys::join(&token.id), value);
        for _ in 0..ATTEMPTS {
            match self.store.txn(txn.clone()).await {
                Ok(committed) => return Ok(committed.revision),
                Err(TxnError::Unknown | TxnError::Busy) => {}
                Err(TxnError::Conflict { .. }) => {
                    return Err(Status::aborted("somebody else uses this join token at this moment"));
                }
                Err(error) => return Err(status::of_txn(error)),
            }
        }
        Err(status::of_txn(TxnError::Unknown))
    }

    fn sign(&self, request_pem: &str, kind: RoleKind, name: &str) -> Result<String, Status> {
        let whom = pki::Request {
            kind,
            name: name.to_owned(),
            dns: vec![],
            ips: Vec::<IpAddr>::new(),
            lifetime: self.joins.lifetime.max(Duration::from_secs(1)),
        };
        self.ca.sign(request_pem, &whom, SystemTime::now()).map_err(invalid)
    }
}

fn address(text: &str) -> Result<String, Status> {
    let authority = text.parse::<http::uri::Authority>().ok();
    match authority {
        Some(authority) if authority.port_u16().is_some_and(|port| port > 0) && text.len() <= MAX_ADDRESS => {
            Ok(text.to_owned())
        }
        _ => Err(Status::invalid_argument(format!("{text:?} is not of the form host:port"))),
    }
}

fn server_id(name: &str) -> Option<NodeId> {
    name.strip_prefix("server-")?.parse().ok()
}

fn invalid(error: PkiError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(refused: Refused) -> Status {
    let text = refused.to_string();
    match refused {
        Refused::Unknown => Status::unauthenticated(text),
        Refused::Used { .. } | Refused::Expired { .. } | Refused::Role { .. } => {
            Status::failed_precondition(text)
        }
    }
}
