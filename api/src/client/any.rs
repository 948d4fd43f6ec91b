//! All servers as one: a call goes to the server that answered last, to the next where that cannot be reached, and to
//! the leader where only it can answer.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use http::{Request, Response, Uri, request::Parts};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::Mutex;
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt as _};

use super::{ClientError, endpoint, root_cause};
use crate::{leader, pki::Identity};

/// A server that did not take a connection by then is not waited for alone. Longer than a handshake on a busy machine.
const PATIENCE: Duration = Duration::from_millis(300);

/// A call is sent on to the leader at most this often: more are two servers that name each other.
const MAX_HOPS: usize = 3;

/// The servers of an installation. Clones share the connection.
///
/// A call is repeated only where nothing was done: no connection came about, or a server said that it does not lead. Its
/// message is kept for that, so this is for calls of one message, as all of the admin API are.
#[derive(Debug, Clone)]
pub struct AnyServer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    addresses: Vec<String>,
    ca_pem: String,
    identity: Option<Identity>,
    /// The server that answered last.
    current: Mutex<Option<Channel>>,
}

impl AnyServer {
    /// Any of the servers at these addresses (`host:port`). Connects with the first call.
    ///
    /// # Errors
    ///
    /// An address or a certificate is not valid, or there is no address.
    pub fn new(addresses: &[String], ca_pem: &str, identity: Option<&Identity>) -> Result<Self, ClientError> {
        if addresses.is_empty() {
            return Err(ClientError::Nobody);
        }
        for address in addresses {
            endpoint(address, ca_pem, identity)?;
        }
        let shared = Shared {
            addresses: addresses.to_vec(),
            ca_pem: ca_pem.to_owned(),
            identity: identity.cloned(),
            current: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Service<Request<Body>> for AnyServer {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            shared.call(&head, body).await
        })
    }
}

impl Shared {
    async fn call(&self, head: &Parts, body: Bytes) -> Result<Response<Body>, Status> {
        let mut channel = self.any().await?;
        for _ in 0..MAX_HOPS {
            let response = send(&mut channel, head, body.clone()).await?;
            let Some(leader) = elsewhere(&response) else { return Ok(response) };
            match self.connect(&leader).await {
                Ok(connected) => channel = connected,
                // The refusal says who leads, which is more than that it cannot be reached.
                Err(_) => return Ok(response),
            }
            *self.current.lock().await = Some(channel.clone());
        }
        send(&mut channel, head, body).await
    }

    /// The server that answered last, if its connection stands, else the first that can be reached.
    async fn any(&self) -> Result<Channel, Status> {
        let mut current = self.current.lock().await;
        if let Some(mut channel) = current.take()
            && channel.ready().await.is_ok()
        {
            *current = Some(channel.clone());
            return Ok(channel);
        }
        // A server that stands still accepts and says nothing: the next one is not kept waiting for its end.
        let attempts = self.addresses.iter().enumerate().map(|(place, address)| async move {
            tokio::time::sleep(PATIENCE * u32::try_from(place).unwrap_or(u32::MAX)).await;
            self.connect(address).await.map_err(|problem| format!("{address}: {problem}"))
        });
        let mut attempts: FuturesUnordered<_> = attempts.collect();
        let mut failed = vec![];
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(channel) => {
                    *current = Some(channel.clone());
                    return Ok(channel);
                }
                Err(problem) => failed.push(problem),
            }
        }
        Err(Status::unavailable(failed.join("; ")))
    }

    async fn connect(&self, address: &str) -> Result<Channel, String> {
        let endpoint = endpoint(address, &self.ca_pem, self.identity.as_ref()).map_err(|e| e.to_string())?;
        endpoint.connect().await.map_err(|error| root_cause(&error))
    }
}

async fn send(channel: &mut Channel, head: &Parts, body: Bytes) -> Result<Response<Body>, Status> {
    let mut request = Request::new(Body::new(Full::new(body)));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::clone(&head.uri);
    *request.version_mut() = head.version;
    request.headers_mut().clone_from(&head.headers);
    *request.extensions_mut() = head.extensions.clone();
    let failed = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    channel.ready().await.map_err(failed)?.call(request).await.map_err(failed)
}

/// The leader's address, if the answer is that another server has to be asked.
fn elsewhere(response: &Response<Body>) -> Option<String> {
    let headers = response.headers();
    // A refusal without a message is all in its head.
    headers.get("grpc-status")?;
    headers.get(leader::ADMIN)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::SystemTime};

    use tokio::net::TcpListener;
    use tonic::{Code, Response as Answer, Status};

    use super::*;
    use crate::{
        join::{
            JoinRequest, JoinResponse,
            join_client::JoinClient,
            join_server::{Join, JoinServer},
        },
        leader::Leader,
        pki::{Ca, Request as Asked, RoleKind},
        server::{Bounded, ClientAuth, plain, secure},
    };

    /// Answers with its name if it leads, else says who does.
    struct One {
        name: &'static str,
        leader: Option<String>,
    }

    #[tonic::async_trait]
    impl Join for One {
        async fn join(&self, _: tonic::Request<JoinRequest>) -> Result<Answer<JoinResponse>, Status> {
            match &self.leader {
                None => Ok(Answer::new(JoinResponse { ca_pem: self.name.into(), ..Default::default() })),
                Some(admin) => {
                    let leader = Leader { id: 7, admin: admin.clone(), peers: String::new() };
                    Err(leader.refusal(Code::FailedPrecondition, "not here"))
                }
            }
        }
    }

    async fn serve(ca: &Ca, name: &'static str, leader: Option<String>) -> String {
        let lifetime = Duration::from_secs(3600);
        let whom = Asked { kind: RoleKind::Server, name: "s".into(), dns: vec![], ips: vec![], lifetime };
        let identity = ca.issue(&whom, SystemTime::now()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let listener = Bounded::new(listener, 8);
        let incoming = secure(listener, identity.into(), ca.cert_pem(), ClientAuth::Optional).unwrap();
        let router = plain(ClientAuth::Optional).add_service(JoinServer::new(One { name, leader }));
        tokio::spawn(router.serve_with_incoming(incoming));
        address
    }

    #[tokio::test]
    async fn a_call_goes_to_who_answers_and_on_to_the_leader() {
        let ca = Ca::create("i", SystemTime::now()).unwrap();
        let nobody =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().to_string();
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let silent_address = silent.local_addr().unwrap().to_string();
        let leader = serve(&ca, "leader", None).await;
        let follower = serve(&ca, "follower", Some(leader)).await;
        let servers =
            AnyServer::new(&[nobody.clone(), silent_address, follower], ca.cert_pem(), None).unwrap();
        let mut client = JoinClient::new(servers);
        for _ in 0..2 {
            let answer = client.join(JoinRequest::default()).await.unwrap().into_inner();
            assert_eq!(answer.ca_pem, "leader");
        }

        let alone = AnyServer::new(&[nobody], ca.cert_pem(), None).unwrap();
        let status = JoinClient::new(alone).join(JoinRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        // A leader that cannot be reached is no reason to hide who it is.
        let gone =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().to_string();
        let follower = serve(&ca, "follower", Some(gone.clone())).await;
        let servers = AnyServer::new(&[follower], ca.cert_pem(), None).unwrap();
        let status = JoinClient::new(servers).join(JoinRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(&gone), "{status:?}");
        drop(silent);
    }
}
