//! Upstreams that speak HTTP/2, in TLS or in cleartext, and upstreams in TLS that speak HTTP/1.1.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::support::{Edge, PATIENCE, forward, gate, pass, route};

/// An authority and what it signs.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Chain and key, PEM.
    pub(crate) fn sign(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// A server for `host` that offers `alpn`; with `clients` it asks for their certificates.
    fn server(&self, host: &str, alpn: &[&[u8]], clients: Option<&Self>) -> Arc<ServerConfig> {
        let (chain, key) = self.sign(host);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(clients.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = rustls::pki_types::CertificateDer::pem_slice_iter(chain.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }
}

pub(crate) type Answer = BoxFuture<'static, ()>;
type Serve = dyn Fn(Turn) -> Answer + Send + Sync;

/// A request that an HTTP/2 upstream got.
pub(crate) struct Turn {
    /// The number of its connection, and of the request on it, from 0.
    connection: usize,
    number: usize,
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
}

impl Turn {
    fn reply(mut self, body: impl Into<Bytes>) {
        let mut send = self.respond.send_response(Response::new(()), false).unwrap();
        send.send_data(body.into(), true).unwrap();
    }
}

/// An HTTP/2 upstream, or an HTTP/1.1 upstream in TLS.
pub(crate) struct Peer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// The server names that clients sent.
    names: Arc<Mutex<Vec<Option<String>>>>,
}

#[derive(Clone, Default)]
pub(crate) struct Manner {
    tls: Option<Arc<ServerConfig>>,
    /// Streams at once.
    streams: Option<u32>,
    /// Says GOAWAY after so many requests on a connection.
    goaway_after: Option<usize>,
    /// Says how many streams it takes, and anything else, only after this.
    silence: Duration,
}

impl Peer {
    pub(crate) fn start(manner: Manner, serve: impl Fn(Turn) -> Answer + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, names) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, seen) = (Arc::clone(&connections), Arc::clone(&names));
        let serve: Arc<Serve> = Arc::new(serve);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let connection = count.fetch_add(1, Ordering::SeqCst);
                    let (manner, serve, seen) = (manner.clone(), Arc::clone(&serve), Arc::clone(&seen));
                    tokio::spawn(async move {
                        let Some(config) = manner.tls.clone() else {
                            return http2(stream, connection, &manner, serve).await;
                        };
                        let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                        let session = stream.get_ref().1;
                        seen.lock().unwrap().push(session.server_name().map(str::to_owned));
                        if session.alpn_protocol() == Some(b"h2") {
                            http2(stream, connection, &manner, serve).await;
                        } else {
                            http1(stream).await;
                        }
                    });
                }
            });
        });
        Self { address, connections, names }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn http2<S>(stream: S, connection: usize, manner: &Manner, serve: Arc<Serve>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::time::sleep(manner.silence).await;
    let mut builder = h2::server::Builder::new();
    if let Some(streams) = manner.streams {
        builder.max_concurrent_streams(streams);
    }
    let Ok(mut served) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut number = 0;
    while let Some(Ok((request, respond))) = served.accept().await {
        tokio::spawn(serve(Turn { connection, number, request, respond }));
        number += 1;
        if manner.goaway_after == Some(number) {
            served.graceful_shutdown();
        }
    }
}

/// Answers every request with `http/1.1` and its head.
async fn http1<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            let body = format!("http/1.1 {}", String::from_utf8_lossy(&head));
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(reply.as_bytes()).await.unwrap();
            head.clear();
        }
    }
}

async fn read(body: &mut RecvStream) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        whole.extend_from_slice(&data);
    }
    whole
}

/// Sends all of it as the windows allow.
async fn send_all(send: &mut h2::SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        send.reserve_capacity(body.len());
        let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return };
        send.send_data(body.split_to(room.min(body.len())), false).unwrap();
    }
}

/// Says what came: connection, method, scheme, authority, path, and the body.
fn echo(turn: Turn) -> Answer {
    async move {
        let Turn { connection, request, mut respond, .. } = turn;
        let (parts, mut body) = request.into_parts();
        let body = read(&mut body).await;
        let line = format!(
            "{connection} {} {} {} {}\n",
            parts.method,
            parts.uri.scheme_str().unwrap_or("-"),
            parts.uri.authority().map_or("-", |a| a.as_str()),
            parts.uri.path_and_query().map_or("-", |p| p.as_str()),
        );
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send_all(&mut send, [line.as_bytes(), &body].concat().into()).await;
        drop(send.send_data(Bytes::new(), true));
    }
    .boxed()
}

fn indent(pem: &str) -> String {
    pem.lines().map(|line| format!("    {line}\n")).collect()
}

/// All goes to `peer`; `spec` says how.
pub(crate) fn proxy(peer: &Peer, spec: &str) -> String {
    route(&forward("up"))
        + &format!(
            "---\napiVersion: weir.dev/v1\nkind: Backend\nmetadata: {{name: up}}\nspec:\n  \
             endpoints: [{{address: \"{}\"}}]\n{spec}",
            peer.address
        )
}

pub(crate) const H2C: &str = "  appProtocol: kubernetes.io/h2c\n";

/// TLS to `up.test`, whose authority is `authority`.
fn in_tls(peer: &Peer, authority: &Authority, more: &str) -> String {
    let tls = format!(
        "  tls:\n    hostname: up.test\n    caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: ca}}]\n{more}"
    );
    let ca = format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca}}\ndata:\n  ca.crt: |\n{}",
        indent(&authority.pem)
    );
    proxy(peer, &tls) + &ca
}

#[test]
fn requests_go_by_http_2_in_cleartext() {
    let peer = Peer::start(Manner::default(), echo);
    let edge = Edge::start(&proxy(&peer, H2C));
    for n in 0..20 {
        let response = edge.ask(&format!(
            "POST /a/{n}?q HTTP/1.1\r\nHost: a.test\r\nConnection: te\r\nTE: trailers\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ));
        assert_eq!(response.status, 200);
        assert_eq!(response.text(), format!("0 POST http a.test /a/{n}?q\nhello"));
    }
    assert_eq!(peer.connections(), 1);
}

#[test]
fn an_upstream_is_verified() {
    let authority = Authority::new();
    let peer = |host| {
        let tls = Some(authority.server(host, &[b"h2", b"http/1.1"], None));
        Peer::start(Manner { tls, ..Manner::default() }, echo)
    };
    let trusted = peer("up.test");
    let edge = Edge::start(&in_tls(&trusted, &authority, ""));
    assert_eq!(edge.get("/x").text(), "0 GET https a.test /x\n");
    assert_eq!(trusted.names.lock().unwrap()[0].as_deref(), Some("up.test"), "its name is sent");

    let misnamed = peer("other.test");
    let edge = Edge::start(&in_tls(&misnamed, &authority, ""));
    let response = edge.get("/");
    assert_eq!(
        (response.status, response.text()),
        (502, "502 Bad Gateway: no TLS connection to the upstream\n")
    );

    let edge = Edge::start(&in_tls(&trusted, &Authority::new(), ""));
    assert_eq!(edge.get("/").status, 502, "signed by a stranger");
    let metrics = edge.control.metrics();
    assert!(
        metrics.contains("weir_edge_upstream_tls_failed_handshakes_total 2"),
        "once, and tried again: {metrics}"
    );
}

#[test]
fn the_upstream_chooses_the_protocol() {
    let authority = Authority::new();
    let offers: [(&[&[u8]], &str, &str); 4] = [
        (&[b"h2", b"http/1.1"], "", "0 GET https"),
        (&[b"http/1.1"], "", "http/1.1 GET /"),
        (&[], "", "http/1.1 GET /"),
        (&[b"h2", b"http/1.1"], "  appProtocol: http\n", "http/1.1 GET /"),
    ];
    for (alpn, more, expect) in offers {
        let tls = Some(authority.server("up.test", alpn, None));
        let peer = Peer::start(Manner { tls, ..Manner::default() }, echo);
        let edge = Edge::start(&in_tls(&peer, &authority, more));
        for _ in 0..3 {
            let response = edge.get("/");
            assert!(response.text().starts_with(expect), "{alpn:?} {more}: {}", response.text());
        }
        assert_eq!(peer.connections(), 1, "{alpn:?} {more}");
    }
    let tls = Some(authority.server("up.test", &[b"http/1.1"], None));
    let peer = Peer::start(Manner { tls, ..Manner::default() }, echo);
    let edge = Edge::start(&in_tls(&peer, &authority, "  appProtocol: h2\n"));
    assert_eq!(edge.get("/").status, 502, "the one protocol that the backend may speak is not spoken");
}

#[test]
fn a_client_certificate_is_shown() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let tls = Some(authority.server("up.test", &[b"h2"], Some(&clients)));
    let peer = Peer::start(Manner { tls, ..Manner::default() }, echo);
    let (chain, key) = clients.sign("weir.test");
    let secret = format!(
        "---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: us}}\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(&chain),
        indent(&key),
    );
    let shown = in_tls(&peer, &authority, "    clientCertificateRef: {name: us}\n") + &secret;
    assert_eq!(Edge::start(&shown).get("/").status, 200);
    assert_eq!(Edge::start(&in_tls(&peer, &authority, "")).get("/").status, 502, "without one");
}

#[test]
fn a_stream_that_is_refused_is_tried_again() {
    let peer = Peer::start(Manner::default(), |mut turn| {
        async move {
            if turn.number % 2 == 0 {
                turn.respond.send_reset(h2::Reason::REFUSED_STREAM);
            } else {
                turn.reply("second");
            }
        }
        .boxed()
    });
    let edge = Edge::start(&proxy(&peer, H2C));
    // Not idempotent, but the upstream says that it did nothing.
    let response = edge.ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((response.status, response.text()), (200, "second"));
    assert!(edge.control.metrics().contains("weir_edge_retries_total 1"));
}

#[test]
fn a_connection_that_goes_away_costs_no_request() {
    let manner = Manner { goaway_after: Some(3), ..Manner::default() };
    let peer = Peer::start(manner, |turn| async move { turn.reply("x") }.boxed());
    let edge = Edge::start(&proxy(&peer, H2C));
    let mut client = edge.connect();
    for n in 0..30 {
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response().status, 200, "request {n}");
    }
    assert!(peer.connections() >= 10, "{}", peer.connections());
    assert!(edge.control.metrics().contains("weir_edge_denied_retries_total 0"));
}

#[test]
fn requests_share_connections_as_the_upstream_allows() {
    let late = Duration::from_millis(100);
    // Of an upstream that is late to say how many streams it takes none is asked for more, either.
    for (streams, silence, most) in
        [(None, Duration::ZERO, 1), (Some(10), Duration::ZERO, 4), (None, late, 1), (Some(10), late, 4)]
    {
        let (open, wait) = gate();
        let manner = Manner { streams, silence, ..Manner::default() };
        let peer = Peer::start(manner, move |turn| {
            let wait = Arc::clone(&wait);
            async move {
                tokio::task::spawn_blocking(move || pass(&wait)).await.unwrap();
                turn.reply("x");
            }
            .boxed()
        });
        let edge = Edge::start(&proxy(&peer, H2C));
        let mut clients: Vec<_> = (0..40).map(|_| edge.connect()).collect();
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        }
        (0..40).for_each(|_| open.send(()).unwrap());
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
        assert!(peer.connections() <= most, "{} connections for {streams:?}", peer.connections());
        assert!(edge.control.metrics().contains("weir_edge_retries_total 0"), "none was refused");
    }
}

#[test]
fn large_bodies_go_both_ways() {
    let peer = Peer::start(Manner::default(), echo);
    let edge = Edge::start(&proxy(&peer, H2C));
    let body = "weir ".repeat(1 << 20);
    let mut client = edge.connect();
    let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(&head);
    let mut sending = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let sender = thread::spawn(move || std::io::Write::write_all(&mut sending, sent.as_bytes()).unwrap());
    let response = client.response();
    sender.join().unwrap();
    assert!(response.whole);
    assert_eq!(response.text().split_once('\n').unwrap().1.len(), body.len());
    assert!(response.text().ends_with(&body));
}

/// A client's connection by HTTP/2 in cleartext.
pub(crate) async fn connect_h2c(edge: &Edge) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(edge.at(80)).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender.ready().await.unwrap()
}

#[test]
fn trailers_and_streams_pass_from_http_2_to_http_2() {
    let peer = Peer::start(Manner::default(), |turn| {
        async move {
            let Turn { request, mut respond, .. } = turn;
            let mut body = request.into_body();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            // Each message is answered before the next one comes.
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                send.send_data(data, false).unwrap();
            }
            let trailers = body.trailers().await.unwrap().unwrap_or_default();
            let mut back = HeaderMap::new();
            back.insert("grpc-status", "0".parse().unwrap());
            back.insert("echo", trailers.get("sum").unwrap().clone());
            send.send_trailers(back).unwrap();
        }
        .boxed()
    });
    let edge = Edge::start(&proxy(&peer, H2C));
    edge.runtime.block_on(async {
        let mut sender = connect_h2c(&edge).await;
        let request = Request::post("http://a.test/s").header("te", "trailers").body(()).unwrap();
        let (response, mut send) = sender.send_request(request, false).unwrap();
        send.send_data("one".into(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for next in ["two", "three"] {
            let echoed = tokio::time::timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap();
            body.flow_control().release_capacity(echoed.len()).unwrap();
            assert!(["one", "two"].contains(&std::str::from_utf8(&echoed).unwrap()));
            send.send_data(next.into(), false).unwrap();
        }
        assert_eq!(body.data().await.unwrap().unwrap(), "three");
        let mut sum = HeaderMap::new();
        sum.insert("sum", "11".parse().unwrap());
        send.send_trailers(sum).unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["echo"], "11");
    });
}

#[test]
fn frames_without_data_are_no_reason_to_break_off() {
    let peer = Peer::start(Manner::default(), |turn| {
        async move {
            let Turn { mut respond, .. } = turn;
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            for _ in 0..500 {
                send.send_data(Bytes::new(), false).unwrap();
            }
            send.send_data("all".into(), true).unwrap();
        }
        .boxed()
    });
    let edge = Edge::start(&proxy(&peer, H2C));
    let response = edge.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!((response.status, response.text()), (200, "all"));
    assert_eq!(peer.connections(), 1);
}

#[test]
fn a_response_that_is_reset_never_looks_whole() {
    let peer = Peer::start(Manner::default(), |turn| {
        async move {
            let Turn { mut respond, .. } = turn;
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_data("half".into(), false).unwrap();
            tokio::task::yield_now().await;
            send.send_reset(h2::Reason::NO_ERROR);
        }
        .boxed()
    });
    let edge = Edge::start(&proxy(&peer, H2C));
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    if let Some(response) = client.response_to("GET") {
        assert!(!response.whole || response.status == 502, "{response:?}");
    }
}

#[test]
fn a_client_that_leaves_resets_its_stream() {
    let ((came, arrival), (left, departure)) = (gate(), gate());
    let events = Arc::new(Mutex::new((came, left)));
    let peer = Peer::start(Manner::default(), move |turn| {
        let events = Arc::clone(&events);
        async move {
            let Turn { mut respond, .. } = turn;
            events.lock().unwrap().0.send(()).unwrap();
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            assert_eq!(reason, h2::Reason::CANCEL);
            events.lock().unwrap().1.send(()).unwrap();
        }
        .boxed()
    });
    let edge = Edge::start(&proxy(&peer, H2C));
    let mut client = edge.connect();
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    pass(&arrival);
    drop(client);
    pass(&departure);
    assert_eq!(peer.connections(), 1);
}
