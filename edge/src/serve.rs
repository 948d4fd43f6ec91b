//! A request, from its head to its reply, in the order of events. Read this first.
//!
//! Whatever protocol a request came by, it is served here. Every early exit is `Err(Refusal)`, and one place
//! turns refusals into replies. The reply owns what the request occupies (its place in the counters, its upstream
//! connection) until the last byte of its body is on the way or it is dropped.

mod affinity;
mod dial;
mod edit;
mod hedge;
pub(crate) mod local;
pub(crate) mod places;
pub(crate) mod record;
pub(crate) mod refusal;
mod session;
pub(crate) mod upgrade;

use std::{borrow::Cow, cell::RefCell, future::poll_fn, pin::pin, rc::Rc, sync::Arc, time::Duration};

use model::{CompiledAction, Filter, Forward, Found, NotFound, TenantId, Variant, path};
use sys::prefetch;
use tokio::time::{Instant, timeout_at};

use crate::{
    admit::Overload,
    body::{Outbox, RequestBody},
    config::{Config, TenantTable},
    date,
    downstream::{Client, tunnel::Tunnel},
    grpc,
    h1::{
        Method, Name, Outgoing, Persistence, RequestHead, RequestTarget, ResponseFraming, ResponseHead,
        Upgrade, Version, write_request,
    },
    health::Verdict,
    journal::TryPlace,
    limits::LIMITS,
    retry::{self, Failed},
    tls::clients::{self, ClientPolicy, Standing},
    turns,
    upstream::{
        Balancer, Endpoint, Occupied,
        connect::{self, Way, Wish},
        exchange::{Exchange, ExchangeError, H1Exchange, H2Exchange},
        links::Slot,
    },
    worker::Thread,
};
use affinity::Affinity;
use hedge::Raced;
use record::Record;
use refusal::Refusal;
use session::Session;

/// A request that is to be answered.
pub(crate) struct Incoming<'c> {
    pub(crate) head: Box<RequestHead>,
    pub(crate) body: RequestBody<'c>,
    /// The protocol that the client wants to change to.
    pub(crate) upgrade: Option<Upgrade>,
}

/// The answer to a request.
pub(crate) struct Reply<'c> {
    pub(crate) head: ResponseHead,
    pub(crate) body: ReplyBody<'c>,
    /// Counts the request until the reply is dropped.
    pub(crate) record: Record,
}

/// The body of a reply.
pub(crate) enum ReplyBody<'c> {
    /// A few bytes of our own.
    Local(Cow<'static, [u8]>),
    /// What the upstream sends.
    Upstream(Box<Relay<'c>>),
    /// The upstream changed protocols.
    Tunnel(Box<Tunnel>),
}

/// A response that is still coming, and the request that may still be going.
pub(crate) struct Relay<'c> {
    pub(crate) exchange: Exchange,
    pub(crate) request: RequestBody<'c>,
    pub(crate) framing: ResponseFraming,
    /// The response was read to its end.
    pub(crate) ended: bool,
    /// It broke off; what was read of it may still be on its way.
    pub(crate) broken: bool,
    /// Bytes of the response's body that were passed on.
    pub(crate) sent: u64,
}

impl Relay<'_> {
    /// So many bytes of the response's body were passed on.
    pub(crate) fn consume(&mut self, count: usize) {
        self.exchange.consume(count);
        self.sent += count as u64;
    }
}

/// Answers a request. Never fails: what goes wrong is a reply, too.
pub(crate) async fn serve_request<'c>(
    thread: &Rc<Thread>,
    client: &Client,
    incoming: Incoming<'c>,
) -> Reply<'c> {
    let port = incoming.head.port();
    let mut spent = Duration::ZERO;
    let mut reply = {
        let mut replying = pin!(reply_to(thread, client, incoming));
        poll_fn(|cx| thread.turns.timed(&mut spent, || replying.as_mut().poll(cx))).await
    };
    if let Some(share) = reply.record.share().filter(|_| !spent.is_zero()) {
        thread.turns.charge(share, spent);
    }
    client.membership.answered();
    date::stamp(&mut reply.head, thread.clock.swept());
    if client.advertise_h3 {
        edit::advertise_h3(&mut reply.head, port);
    }
    reply
}

async fn reply_to<'c>(thread: &Rc<Thread>, client: &Client, mut incoming: Incoming<'c>) -> Reply<'c> {
    // One request sees one configuration.
    let config = thread.config();
    // What is looked at for it, some of which is in no cache where there are many routes, comes while it waits for its turn.
    let entered = Entered::of(&config, client, &incoming.head);
    let mut record = Record::begin(thread, client, &incoming.head);
    let found = entered.and_then(|entered| entered.find(client, &incoming.head));
    if let Err(overload) = admit(thread, client, &config, &incoming.head, &mut record).await {
        return refuse(&Refusal::Overload(overload), &incoming.head, record);
    }
    if incoming.head.method() == Method::Connect {
        return match dial::open(thread, client, &incoming.head).await {
            Ok(tunnel) => {
                record.of(&tunnel.route.tenant);
                record.answered(200);
                let mut head = ResponseHead::new(200);
                record.name(&mut head.fields);
                Reply { head, body: ReplyBody::Tunnel(Box::new(tunnel)), record }
            }
            Err(refusal) => refuse(&refusal, &incoming.head, record),
        };
    }
    if incoming.head.path() == "*" {
        record.answered(204);
        let mut head = local::about_us();
        record.name(&mut head.fields);
        return Reply { head, body: ReplyBody::Local(Cow::Borrowed(b"")), record };
    }
    let place = match found {
        Ok(place) => place,
        Err(Unfound { refusal, tenant }) => {
            tenant.into_iter().for_each(|tenant| record.of(tenant));
            return refuse(&refusal, &incoming.head, record);
        }
    };
    record.found(place.table, &place.found, &incoming.head.fields);
    let mut reply = match answer(thread, client, &mut incoming, &place, &mut record).await {
        Ok((head, answer)) => {
            record.answered(head.status());
            Reply { head, body: answer.with_request(incoming.body), record }
        }
        Err(refusal) => refuse(&refusal, &incoming.head, record),
    };
    edit::response(&mut reply.head, &place.found.rule.filters);
    reply.record.replies(&reply.head.fields);
    reply
}

/// Waits until there is room for a request that is counted already.
async fn admit(
    thread: &Rc<Thread>,
    client: &Client,
    config: &Config,
    head: &RequestHead,
    record: &mut Record,
) -> Result<(), Overload> {
    let share = thread.shares.of(config, head.host(), |tenant| thread.counters.tenant(tenant));
    let others = thread.counters.in_flight.value().saturating_sub(1);
    let admitted = thread.door.borrow().admit(&thread.shares, &share, others, &thread.limits);
    let admitted = admitted.and_then(|()| client.membership.join(thread, &share));
    let admitted = match admitted {
        Ok(()) => {
            record.takes_of(&share);
            turns::wait(thread, &share, Some(&client.membership), record.began())
                .await
                .map(|time| record.waited(time))
        }
        Err(overload) => Err(overload),
    };
    if let Err(overload) = admitted {
        thread.counters.shed.add(1);
        share.counters.shed(overload);
        record.left_out();
        config.hosts.owner(head.host()).into_iter().for_each(|tenant| record.of(tenant));
        return Err(overload);
    }
    Ok(())
}

fn refuse<'c>(refusal: &Refusal, request: &RequestHead, mut record: Record) -> Reply<'c> {
    record.refused(refusal);
    let (mut head, body) = local::refuse(refusal, request);
    record.name(&mut head.fields);
    Reply { head, body: ReplyBody::Local(body), record }
}

/// Where a request belongs.
struct Place<'t> {
    tenant: &'t TenantId,
    table: &'t Arc<TenantTable>,
    found: Found<'t>,
    /// In canonical form: for the route, every policy and the upstream alike.
    path: String,
    /// Where clients are asked for certificates: by whom, and what that thinks of this one.
    clients: Option<(&'t ClientPolicy, Standing)>,
}

/// Why a request has no place.
struct Unfound<'t> {
    refusal: Refusal,
    /// Whose it is, if that is known.
    tenant: Option<&'t TenantId>,
}

/// Whose host a request is for, and where it enters there.
struct Entered<'t, 'h> {
    tenant: &'t TenantId,
    table: &'t Arc<TenantTable>,
    path: Cow<'h, str>,
    routes: Result<model::Entered<'t>, NotFound>,
}

impl<'t, 'h> Entered<'t, 'h> {
    fn of(config: &'t Config, client: &Client, head: &'h RequestHead) -> Result<Self, Unfound<'t>> {
        let owner = config.hosts.owner(head.host());
        let unfound = |tenant| move |refusal| Unfound { refusal, tenant };
        let path = path::canonical(head.path()).map_err(Refusal::Path).map_err(unfound(owner))?;
        let tenant = owner.ok_or(Refusal::UnknownHost).map_err(unfound(None))?;
        client.may_ask(config, head.host(), tenant).map_err(unfound(None))?;
        let table = config.tenants.get(tenant.as_str());
        let table = table.ok_or(Refusal::UnknownHost).map_err(unfound(None))?;
        let routes = table.routes.enter(client.port, head.host());
        if let Ok(routes) = &routes {
            routes.first_step(&path).into_iter().for_each(prefetch::line);
        }
        Ok(Self { tenant, table, path, routes })
    }

    /// Finds the rule that answers the request.
    fn find(self, client: &Client, head: &RequestHead) -> Result<Place<'t>, Unfound<'t>> {
        let Self { tenant, table, path, routes } = self;
        let unfound = |refusal| Unfound { refusal, tenant: Some(tenant) };
        let request = Lookup { head, port: client.port, path: &path };
        let found =
            routes.and_then(|routes| routes.find(&request)).map_err(Refusal::NoRoute).map_err(unfound)?;
        prefetch::line(found.rule);
        if head.version() == Version::Http2 && !found.listener.policy.http2 {
            return Err(unfound(Refusal::Http2Off));
        }
        let clients = match found.listener.client_certificates {
            None => None,
            Some(_) => client.comes_in(table, head.host()).map_err(unfound)?,
        };
        Ok(Place { tenant, table, found, path: path.into_owned(), clients })
    }
}

/// What answers, before the request's body is handed over to it.
enum Answer {
    Local(Cow<'static, [u8]>),
    Upstream(Exchange, ResponseFraming),
    Tunnel(Box<Tunnel>),
}

impl Answer {
    fn with_request(self, request: RequestBody<'_>) -> ReplyBody<'_> {
        match self {
            Self::Local(body) => ReplyBody::Local(body),
            Self::Tunnel(tunnel) => ReplyBody::Tunnel(tunnel),
            Self::Upstream(exchange, framing) => ReplyBody::Upstream(Box::new(Relay {
                exchange,
                request,
                framing,
                ended: false,
                broken: false,
                sent: 0,
            })),
        }
    }
}

/// Answers a request as its rule says.
async fn answer(
    thread: &Rc<Thread>,
    client: &Client,
    incoming: &mut Incoming<'_>,
    place: &Place<'_>,
    record: &mut Record,
) -> Result<(ResponseHead, Answer), Refusal> {
    pay(thread.limits.toll);
    match &place.found.rule.action {
        CompiledAction::Redirect(redirect) => {
            let mut head =
                local::redirect(redirect, client, &incoming.head, &place.path, place.found.matched)?;
            record.name(&mut head.fields);
            Ok((head, Answer::Local(Cow::Borrowed(b""))))
        }
        CompiledAction::Respond(respond) => {
            let (mut head, body) = local::respond(respond);
            record.name(&mut head.fields);
            Ok((head, Answer::Local(body)))
        }
        CompiledAction::Forward(variants) => {
            let rule = place.found.rule;
            let session = rule.persistence().map(|policy| {
                Box::new(Session::of(thread, policy, place.tenant, client, &mut incoming.head))
            });
            let variant = match session.as_ref().and_then(|session| session.variant(variants)) {
                Some(variant) => variant,
                None => pick_variant(variants, thread)?,
            };
            let grpc = grpc::is_grpc(&incoming.head.fields);
            let patience = if grpc { grpc::timeout(&incoming.head.fields) } else { None };
            let limit = [place.found.rule.timeouts().request, patience].into_iter().flatten().min();
            let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
            let to = Destination { place, client, variant, deadline, grpc, session };
            let (mut head, answer) = forward(thread, incoming, &to, record).await?;
            record.name(&mut head.fields);
            edit::response(&mut head, &variant.filters);
            Ok((head, answer))
        }
    }
}

/// Takes CPU time, where a test says so.
fn pay(toll: Duration) {
    if !toll.is_zero() {
        let began = std::time::Instant::now();
        while began.elapsed() < toll {
            std::hint::spin_loop();
        }
    }
}

/// What routing looks at.
struct Lookup<'r> {
    head: &'r RequestHead,
    port: u16,
    path: &'r str,
}

impl model::Request for Lookup<'_> {
    fn port(&self) -> u16 {
        self.port
    }

    fn host(&self) -> &str {
        self.head.host()
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        self.head.query()
    }

    fn method(&self) -> &str {
        self.head.method_str()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.head.fields.joined(name)
    }
}

/// Picks a backend by weight.
fn pick_variant<'t>(forward: &'t Forward, thread: &Thread) -> Result<&'t Variant, Refusal> {
    // A rule without backends, or with weights of zero, answers 500 (Gateway API).
    let total_weight = forward.total_weight();
    if total_weight == 0 {
        return Err(Refusal::NoBackend);
    }
    let point = thread.random_below(u64::from(total_weight));
    let point = u32::try_from(point).unwrap_or(0);
    forward.pick(point).ok_or(Refusal::NoBackend)
}

/// Where a request goes.
struct Destination<'t> {
    place: &'t Place<'t>,
    /// Whose request it is.
    client: &'t Client,
    variant: &'t Variant,
    /// When the route's time is over, or the client's.
    deadline: Option<Instant>,
    /// It is a gRPC request.
    grpc: bool,
    /// Its client's session, where the rule has such.
    session: Option<Box<Session<'t>>>,
}

impl Destination<'_> {
    /// The rule's filters, then the variant's.
    fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.place.found.rule.filters.iter().chain(&self.variant.filters)
    }
}

/// Sends the request to an endpoint of the variant, again to another where that is safe, and waits for the head
/// of a response.
async fn forward(
    thread: &Rc<Thread>,
    incoming: &mut Incoming<'_>,
    to: &Destination<'_>,
    record: &mut Record,
) -> Result<(ResponseHead, Answer), Refusal> {
    let backend = to.variant.backend.as_ref().ok_or(Refusal::NoBackend)?;
    let balancer = thread.upstreams.balancer(thread, to.place.table, backend);
    let affinity = Affinity::of(thread, &backend.traffic.balancing, to.client, &incoming.head);
    prepare(incoming, to, record);
    let method = incoming.head.method();
    balancer.group.retries.borrow_mut().earn();
    record.forwards(&balancer.group.name);

    let record = RefCell::new(record);
    let mut tries = 0;
    let mut failed_on = None;
    loop {
        tries += 1;
        let kept = to.session.as_ref().filter(|_| tries == 1).and_then(|session| session.endpoint());
        let kept = kept.and_then(|kept| balancer.find(thread, kept));
        // Who stays with an endpoint does not race with it.
        let races = tries == 1 && kept.is_none() && hedge::is_wanted(&balancer, incoming);
        let endpoint = match kept {
            Some(kept) => kept,
            None => balancer.pick(thread, affinity.key, failed_on.as_ref())?,
        };
        let Raced { endpoint, result, hedged } = if races {
            // Boxed: few requests need the room for two.
            Box::pin(hedge::race(thread, &balancer, endpoint, incoming, to, &record)).await
        } else {
            let aim = Aim { endpoint: &endpoint, fresh: tries > 1 };
            let result = attempt(thread, &balancer, aim, incoming, to, &record).await;
            Raced { endpoint, result, hedged: false }
        };
        tries += u32::from(hedged);
        let failure = match result {
            Ok((mut head, answer)) => {
                balancer.note(thread, &endpoint, Verdict::of_status(head.status()));
                // Its parts were checked when they were compiled.
                let _checked = affinity.issue(&mut head);
                if let Some(session) = &to.session {
                    let _checked = session.issue(thread, &mut head, &backend.id, endpoint.address);
                }
                return Ok((head, answer));
            }
            Err(failure) => failure,
        };
        record.borrow_mut().failed(failure.place, &failure.refusal);
        if let Some(verdict) = failure.refusal.verdict() {
            balancer.note(thread, &endpoint, verdict);
        }
        let failed = Failed {
            unsent: failure.unsent,
            idempotent: method.is_idempotent(),
            body_used: incoming.body.is_used(),
            timed_out: failure.refusal.is_timeout(),
            tries,
        };
        if !failure.refusal.is_upstream() || !retry::is_safe(failed) {
            return Err(failure.refusal);
        }
        if !balancer.group.retries.borrow_mut().spend() {
            thread.counters.retries_denied.add(1);
            record.borrow_mut().denied_retry();
            return Err(failure.refusal);
        }
        thread.counters.retries.add(1);
        record.borrow_mut().retried();
        failed_on = Some(endpoint);
    }
}

/// A try that brought no response.
struct Failure {
    refusal: Refusal,
    /// The upstream has seen nothing of the request.
    unsent: bool,
    /// Which try it was.
    place: TryPlace,
}

/// Where a try goes.
struct Aim<'e> {
    endpoint: &'e Rc<Endpoint>,
    /// By a connection that nobody has used.
    fresh: bool,
}

/// Sends the request once and waits for the head of the response.
async fn attempt(
    thread: &Rc<Thread>,
    balancer: &Balancer,
    Aim { endpoint, fresh }: Aim<'_>,
    incoming: &mut Incoming<'_>,
    to: &Destination<'_>,
    record: &RefCell<&mut Record>,
) -> Result<(ResponseHead, Answer), Failure> {
    let occupied = endpoint.occupy();
    let place = record.borrow_mut().tries(endpoint.address);
    let unsent = |refusal| Failure { refusal, unsent: true, place };
    let sent = |refusal| Failure { refusal, unsent: false, place };

    let wish = Wish {
        fresh,
        upgrade: incoming.upgrade.is_some(),
        limit: until(to.deadline, balancer.backend.connect_timeout),
        hop: to.client.hop(),
    };
    let way = connect::connect(thread, endpoint, wish).await.map_err(|error| unsent(error.into()))?;
    record.borrow_mut().connected(place, way.is_reused());
    record.borrow().propagate(place, &mut incoming.head.fields);
    let mut exchange = begin(thread, endpoint, way, occupied, incoming, to).map_err(unsent)?;
    record.borrow().share().into_iter().for_each(|share| exchange.bill(share));
    let waiting = exchange.response(&mut incoming.body);
    let result = match to.place.found.rule.timeouts().backend_request {
        None => waiting.await,
        // Boxed: few requests need the room for a timer.
        Some(limit) => Box::pin(timeout_at(Instant::now() + limit, waiting))
            .await
            .unwrap_or(Err(ExchangeError::TimedOut)),
    };
    let parsed = result.map_err(|error| Failure { unsent: exchange.is_unsent(), ..sent(error.into()) })?;

    let (mut head, framing) = (parsed.head, parsed.framing);
    record.borrow_mut().upstream_answered(place, head.status());
    if head.status() == 101 {
        let tunnel = upgrade::switch(exchange, &mut head, incoming, to.place);
        let tunnel = tunnel.map_err(sent)?;
        return Ok((head, Answer::Tunnel(Box::new(tunnel))));
    }
    upgrade::allow(incoming, head.status()).map_err(sent)?;
    head.fields.remove_known(Name::Server);
    if is_slow_stream(&head) {
        exchange.set_patience(LIMITS.tunnel_idle);
    }
    Ok((head, Answer::Upstream(exchange, framing)))
}

/// Begins an exchange by the `way` that there is.
fn begin(
    thread: &Thread,
    endpoint: &Endpoint,
    way: Way,
    occupied: Occupied,
    incoming: &Incoming<'_>,
    to: &Destination<'_>,
) -> Result<Exchange, Refusal> {
    let mut exchange = match way {
        Way::H1(connection) => {
            let outbox = outgoing(incoming, to);
            let method = incoming.head.method();
            Exchange::H1(H1Exchange::new(connection, occupied, method, outbox, &thread.limits))
        }
        Way::H2(slot) => begin_stream(thread, endpoint, slot, occupied, incoming, to)?,
    };
    exchange.set_deadline(to.deadline);
    if to.grpc {
        // A server may wait for a client's messages before it says anything.
        exchange.set_patience(LIMITS.tunnel_idle);
    }
    Ok(exchange)
}

/// The time for one step when all must be done by `deadline`.
fn until(deadline: Option<Instant>, limit: Duration) -> Duration {
    deadline.map_or(limit, |at| limit.min(at.saturating_duration_since(Instant::now())))
}

/// Streams that are right to say nothing for a while.
pub(crate) fn is_slow_stream(head: &ResponseHead) -> bool {
    let kind = head.fields.known(Name::ContentType).unwrap_or_default();
    kind.starts_with(b"text/event-stream") || grpc::is_grpc(&head.fields)
}

/// Makes the request's fields what the upstream shall see.
fn prepare(incoming: &mut Incoming<'_>, to: &Destination<'_>, record: &Record) {
    let told = to
        .place
        .clients
        .and_then(|(policy, standing)| policy.forwarded(to.client.credentials.as_deref(), standing));
    edit::identify(&mut incoming.head, to.client, told.as_deref(), record);
    for filter in to.filters() {
        if let Filter::RequestHeaders(change) = filter {
            edit::apply(&mut incoming.head.fields, change);
        }
    }
}

/// The request's head as it goes out by HTTP/1.1, with the rewrites that the route asks for.
fn outgoing(incoming: &Incoming<'_>, to: &Destination<'_>) -> Outbox {
    let head = &incoming.head;
    let (host, path) = rewritten(head, to);
    let persistence = if incoming.upgrade.is_some() { Persistence::Upgrade } else { Persistence::Default };
    let body = incoming.body.length();
    let mut outbox = Outbox::default();
    outbox.warm();
    let target = RequestTarget { path: &path, query: head.query(), host: &host };
    write_request(&mut outbox.bytes, head, &target, Outgoing { body, persistence });
    outbox.frame(body);
    outbox
}

/// Sends the request's head by a stream of an HTTP/2 connection. An `Upgrade` is not passed on: HTTP/2 has none, and
/// whoever asks for one must be ready for an answer without it (RFC 9110 section 7.8).
fn begin_stream(
    thread: &Thread,
    endpoint: &Endpoint,
    slot: Slot,
    occupied: Occupied,
    incoming: &Incoming<'_>,
    to: &Destination<'_>,
) -> Result<Exchange, Refusal> {
    let head = &incoming.head;
    let (host, path) = rewritten(head, to);
    if host.is_empty() {
        return Err(Refusal::Unsayable);
    }
    let target = RequestTarget { path: &path, query: head.query(), host: &host };
    let said = (&target, endpoint.scheme());
    let begun = H2Exchange::begin(thread, slot, occupied, head, said, &incoming.body);
    let gone = || Refusal::UpstreamClosed(std::io::ErrorKind::ConnectionAborted.into());
    begun.map(Exchange::H2).ok_or_else(gone)
}

/// Host and path as the upstream shall see them.
fn rewritten<'i>(head: &'i RequestHead, to: &'i Destination<'_>) -> (Cow<'i, str>, Cow<'i, str>) {
    let mut host = Cow::Borrowed(head.authority());
    let mut path = Cow::Borrowed(to.place.path.as_str());
    for filter in to.filters() {
        if let Filter::Rewrite(rewrite) = filter {
            if let Some(hostname) = &rewrite.hostname {
                host = Cow::Borrowed(hostname);
            }
            if let Some(modifier) = &rewrite.path {
                path = Cow::Owned(edit::modified_path(&path, modifier, to.place.found.matched));
            }
        }
    }
    (host, path)
}

/// Whether the connection's TLS session may ask for a host of `tenant` (RFC 9110 section 15.5.20).
impl Client {
    fn may_ask(&self, config: &Config, host: &str, tenant: &TenantId) -> Result<(), Refusal> {
        match &self.server_name {
            Some(name) if name != host && config.hosts.owner(name) != Some(tenant) => {
                Err(Refusal::Misdirected)
            }
            _ => Ok(()),
        }
    }

    /// Whether it may ask for a host (lowercase, no port) of `table` whose listener asks for certificates; by which policy, and
    /// what that thinks of it.
    ///
    /// A connection is the listener's that its handshake was for. If that asks otherwise by now, what the client has shown
    /// is judged anew; another listener that asks for the same has the same answer, and else the client has to make another
    /// connection (RFC 9110 section 15.5.20), which is asked.
    fn comes_in<'t>(
        &self,
        table: &'t TenantTable,
        host: &str,
    ) -> Result<Option<(&'t ClientPolicy, Standing)>, Refusal> {
        let of = |host: &str| table.certificates.listener(self.port, host);
        let Some(listener) = of(host) else { return Ok(None) };
        let Some(policy) = listener.clients.as_deref() else { return Ok(None) };
        let asked = self.credentials.as_deref();
        if !asked.is_some_and(|credentials| credentials.are_for(policy)) {
            let own = of(self.server_name.as_deref().unwrap_or_default());
            if !own.is_some_and(|own| std::ptr::eq(own, listener)) {
                return Err(Refusal::ClientCertificate);
            }
        }
        let standing = match asked {
            Some(credentials) => credentials.stand_with(policy),
            None => clients::standing_of_unasked(policy),
        };
        if standing == Standing::Refused {
            return Err(Refusal::ClientCertificate);
        }
        Ok(Some((policy, standing)))
    }
}
