//! The one place where callers are let in: before any handler, by the method's path.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use api::pki::{self, RoleKind};
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use store::{Handle, Read};
use tonic::{
    Code, Status,
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};
use tracing::{debug, info, warn};

use super::{Need, Principal, Role, Token, TokenRecord, need_of};
use crate::{keys, metric};

/// Lets a call in, or says why not.
pub trait Admit: Clone + Send + Sync + 'static {
    /// Checks the caller and puts who it is into the request's extensions.
    fn admit(&self, request: &mut Request<Body>) -> impl Future<Output = Result<(), Status>> + Send;
}

/// Lets callers of the admin port in by their token, or as platform administrator by a server's certificate.
#[derive(Debug, Clone)]
pub struct AdminAuth {
    store: Handle,
}

impl AdminAuth {
    /// With the tokens of this store.
    #[must_use]
    pub fn new(store: Handle) -> Self {
        Self { store }
    }

    async fn principal(&self, credentials: Credentials, origin: String) -> Result<Principal, Status> {
        match credentials {
            Credentials::Token(token) => self.of_token(&token, origin).await,
            // A server holds the CA's key: it could make itself any token.
            Credentials::Certificate(role) if role.kind == RoleKind::Server => {
                let actor = format!("certificate {role}");
                Ok(Principal { role: Role::PlatformAdmin, actor, origin, token: None })
            }
            Credentials::Certificate(_) | Credentials::None => {
                Err(Status::unauthenticated("send a token: authorization: Bearer weir_..."))
            }
            Credentials::Malformed => Err(rejected()),
        }
    }

    async fn of_token(&self, token: &Token, origin: String) -> Result<Principal, Status> {
        let key = keys::token(&token.hash());
        let unavailable = |e: store::ReadError| Status::unavailable(e.to_string());
        let known = self.store.get(&key, Read::Local).await.map_err(unavailable)?;
        let entry = match known {
            Some(entry) => entry,
            // Made at another server a moment ago, it may be on its way to this one.
            None => {
                let entry = self.store.get(&key, Read::Linearizable).await.map_err(unavailable)?;
                entry.ok_or_else(rejected)?
            }
        };
        let record: TokenRecord = serde_json::from_slice(&entry.value).map_err(|error| {
            warn!(%error, "a token's record is not readable");
            rejected()
        })?;
        if !record.is_of(token) {
            return Err(rejected());
        }
        let actor = record.label();
        Ok(Principal { role: record.role, actor, origin, token: Some(key) })
    }
}

impl Admit for AdminAuth {
    async fn admit(&self, request: &mut Request<Body>) -> Result<(), Status> {
        let need = need_of(request.uri().path()).ok_or_else(unknown)?;
        match need {
            Need::Public => return Ok(()),
            Need::Certificate(_) => {
                return Err(Status::permission_denied("this method is on the peers' port"));
            }
            _ => {}
        }
        let credentials = Credentials::of(request);
        let principal = self.principal(credentials, origin(request)).await?;
        match (need, &principal.role) {
            (Need::PlatformAdmin, _) => principal.is_platform_admin()?,
            // Handlers check the tenant; that a viewer writes nowhere is known here.
            (Need::TenantWrite, Role::TenantViewer(tenant)) => principal.may_write(tenant)?,
            _ => {}
        }
        request.extensions_mut().insert(principal);
        Ok(())
    }
}

/// Lets callers of the peers' port in by the role in their certificate.
#[derive(Debug, Clone, Copy)]
pub struct PeerAuth;

impl Admit for PeerAuth {
    async fn admit(&self, request: &mut Request<Body>) -> Result<(), Status> {
        let allowed = match need_of(request.uri().path()).ok_or_else(unknown)? {
            Need::Public => return Ok(()),
            Need::Certificate(allowed) => allowed,
            _ => return Err(Status::permission_denied("this method is on the admin port")),
        };
        let role = peer_role(request)
            .ok_or_else(|| Status::unauthenticated("the certificate names no role in this installation"))?;
        if !allowed.contains(&role.kind) {
            return Err(Status::permission_denied(format!("a {} may not call this method", role.kind)));
        }
        request.extensions_mut().insert(role);
        Ok(())
    }
}

/// What a caller shows.
enum Credentials {
    Token(Token),
    /// In the place of a token, something else.
    Malformed,
    Certificate(pki::Role),
    None,
}

impl Credentials {
    fn of(request: &Request<Body>) -> Self {
        match bearer(request.headers()) {
            Some(token) => Token::parse(token).map_or(Self::Malformed, Self::Token),
            None => peer_role(request).map_or(Self::None, Self::Certificate),
        }
    }
}

fn unknown() -> Status {
    // Not UNIMPLEMENTED: a method that nobody entered in the table is closed, whether or not it exists.
    Status::permission_denied("no such method")
}

fn rejected() -> Status {
    Status::unauthenticated("the token is not valid: it may have been revoked, or its tenant deleted")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The connection's other end. Not what a header says: whoever calls can write one.
fn origin(request: &Request<Body>) -> String {
    let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    info.and_then(|info| info.get_ref().remote_addr()).map_or_else(String::new, |peer| peer.to_string())
}

fn peer_role(request: &Request<Body>) -> Option<pki::Role> {
    let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>()?;
    pki::role_of(info.peer_certs()?.first()?)
}

/// Puts a check before a service.
#[derive(Debug, Clone)]
pub struct Guard<A>(pub A);

impl<A: Admit, S> Layer<S> for Guard<A> {
    type Service = Guarded<A, S>;

    fn layer(&self, inner: S) -> Guarded<A, S> {
        Guarded { admit: self.0.clone(), inner }
    }
}

/// A service with a check before it; counts and times its calls.
#[derive(Debug, Clone)]
pub struct Guarded<A, S> {
    admit: A,
    inner: S,
}

impl<A, S> Service<Request<Body>> for Guarded<A, S>
where
    A: Admit,
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The service that was polled ready is the one to call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let admit = self.admit.clone();
        Box::pin(async move {
            let (started, method) = (Instant::now(), method(request.uri().path()));
            let response = match admit.admit(&mut request).await {
                Ok(()) => {
                    let caller = request.extensions().get::<Principal>().cloned();
                    let response = inner.call(request).await?;
                    if let Some(caller) = caller {
                        note_refusal(method, &caller, &response);
                    }
                    response
                }
                Err(status) => {
                    debug!(method, code = ?status.code(), reason = status.message(), "call refused");
                    status.into_http()
                }
            };
            record(method, &response, started);
            Ok(response)
        })
    }
}

/// The path as a metric's label: of methods that exist only, so that callers cannot make labels.
fn method(path: &str) -> &'static str {
    super::RPCS.iter().find(|(known, _)| *known == path).map_or("other", |(known, _)| *known)
}

/// What was asked and not done, beside the audit of what was.
fn note_refusal(method: &'static str, caller: &Principal, response: &Response<Body>) {
    let Some(status) = Status::from_header_map(response.headers()).filter(|s| s.code() != Code::Ok) else {
        return;
    };
    let Principal { actor, origin, .. } = caller;
    // A mistake is told in lines, of which the first will do.
    let reason = status.message().lines().next().unwrap_or_default();
    match need_of(method) {
        Some(Need::TenantWrite) => {
            info!(method, actor, origin, code = ?status.code(), reason, "change refused")
        }
        _ => debug!(method, actor, origin, code = ?status.code(), reason, "call refused"),
    }
}

fn record(method: &'static str, response: &Response<Body>, started: Instant) {
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code());
    metrics::counter!(metric::RPCS, "method" => method, "code" => format!("{code:?}")).increment(1);
    metrics::histogram!(metric::RPC_SECONDS, "method" => method).record(started.elapsed().as_secs_f64());
}
