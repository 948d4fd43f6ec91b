//! All servers as one: a call goes to the server that answered last, to the next where that cannot be reached, and to
//! the leader where only it can answer.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri, request::Parts};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::Mutex;
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt as _};

use super::{ClientError, endpoint, root_cause};
use crate::{leader, pki::Identity};

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
        let mut failed = vec![];
        for address in &self.addresses {
            match self.connect(address).await {
                Ok(channel) => {
                    *current = Some(channel.clone());
                    return Ok(channel);
                }
                Err(problem) => failed.push(format!("{address}: {problem}")),
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
