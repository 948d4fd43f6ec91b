//! What listeners allow beside ordinary requests: CONNECT, and HTTP/2.

use std::{net::SocketAddr, time::Duration};

use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    h2::{Sender, ask, empty, get, over, prior_knowledge},
    h3,
    support::{Client, Edge, PATIENCE, Upstream, compile, dead_address, proxy},
    tls,
    websocket::streams::{data, hear_by_h3, open_stream, read_frame},
};

fn policy(listener: Option<&str>, spec: &str) -> String {
    let section = listener.map(|name| format!(", sectionName: {name}")).unwrap_or_default();
    format!(
        "---\napiVersion: weir.dev/v1\nkind: ListenerPolicy\nmetadata: {{name: policy}}\nspec:\n  \
         targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gateway{section}}}]\n  {spec}\n"
    )
}

fn allowing(host: &str, address: SocketAddr) -> String {
    policy(None, &format!("connect: {{allow: [{{host: {host}, ports: [{}]}}]}}", address.port()))
}

/// Says everything again.
fn echo() -> Upstream {
    Upstream::raw(|exchange| {
        let mut stream = exchange.stream.try_clone().unwrap();
        drop(std::io::copy(&mut stream, &mut exchange.stream));
    })
}

fn connect_to(edge: &Edge, authority: &str, early: &str) -> (Client, u16, String) {
    let mut client = edge.connect();
    client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n{early}"));
    let response = client.response_to("HEAD").unwrap();
    (client, response.status, response.head)
}

#[test]
fn connect_leads_where_its_listener_allows() {
    let (destination, site) = (echo(), Upstream::saying("x"));
    let port = destination.address.port();
    let edge = Edge::start(&(proxy(&site) + &allowing("localhost", destination.address)));
    let (mut client, status, head) = connect_to(&edge, &format!("LocalHost:{port}"), "early ");
    assert_eq!(status, 200);
    let head = head.to_ascii_lowercase();
    for field in ["content-length", "transfer-encoding", "connection", "upgrade"] {
        assert!(!head.contains(&format!("\r\n{field}:")), "{head}");
    }
    client.send("and late");
    assert_eq!(&client.bytes(), b"early and late");
    assert!(edge.control.metrics().contains("weir_edge_tunnels_total 1\n"));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.is_closed(), "both ends have ended");

    for (authority, expect) in [
        (format!("localhost:{}", dead_address().port()), 403),
        (format!("127.0.0.1:{port}"), 403),
        (format!("[::1]:{port}"), 403),
        (format!("a.test:{port}"), 403),
        ("localhost".to_owned(), 400),
        (format!("user@localhost:{port}"), 400),
    ] {
        assert_eq!(connect_to(&edge, &authority, "").1, expect, "{authority}");
    }
    assert_eq!(edge.get("/").text(), "x", "all else is served as ever");
}

#[test]
fn without_a_policy_connect_is_off() {
    let site = Upstream::saying("x");
    let edge = Edge::start(&proxy(&site));
    let (mut client, status, _) = connect_to(&edge, &site.address.to_string(), "");
    assert_eq!(status, 501);
    let _explanation = client.response_to("GET");
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        let (status, _) = tunnel(&mut sender, "localhost:1").await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
        assert_eq!(ask(&mut sender, get("/")).await.status(), 200);
    });
}

#[test]
fn destinations_that_cannot_be_reached_are_told_apart() {
    let (site, dead) = (Upstream::saying("x"), dead_address());
    let yaml = proxy(&site) + &allowing("localhost", dead);
    let edge = Edge::start(&yaml);
    assert_eq!(connect_to(&edge, &format!("localhost:{}", dead.port()), "").1, 502);
    let edge = Edge::start(&yaml.replace("host: localhost", "host: \"*.invalid\""));
    let status = connect_to(&edge, &format!("nowhere.invalid:{}", dead.port()), "").1;
    assert!(matches!(status, 503 | 504), "{status}: a resolver says no, or nothing");
}

/// Where tenants write the configuration, a name must not lead into the machine or its network.
#[test]
fn private_addresses_are_out_of_reach_unless_all_is_one_owners() {
    let (destination, site) = (echo(), Upstream::saying("x"));
    let yaml = proxy(&site) + &allowing("localhost", destination.address);
    let edge = Edge::start(&yaml);
    let mut config = compile(&yaml, 2).config;
    config.pool.connect_private = false;
    edge.control.activate(config).unwrap();
    let authority = format!("localhost:{}", destination.address.port());
    let began = std::time::Instant::now();
    while connect_to(&edge, &authority, "").1 != 403 {
        assert!(began.elapsed() < PATIENCE, "never refused");
    }
    assert_eq!(destination.connections(), 0, "and nothing was tried");
}

#[test]
fn a_destination_that_is_no_longer_allowed_is_let_go() {
    let (destination, site) = (echo(), Upstream::saying("x"));
    let pool = "---\napiVersion: weir.dev/v1\nkind: Pool\nmetadata: {name: default}\nspec: {drainDeadline: 1s, listen: [{port: 80, bind: '127.0.0.1:8080', protocol: HTTP}]}\n";
    let yaml = proxy(&site) + pool;
    let mut edge = Edge::start(&(yaml.clone() + &allowing("localhost", destination.address)));
    let authority = format!("localhost:{}", destination.address.port());
    let (mut client, status, _) = connect_to(&edge, &authority, "");
    assert_eq!(status, 200);
    edge.activate(&yaml);
    assert!(client.is_closed());
}

async fn tunnel(sender: &mut Sender, authority: &str) -> (StatusCode, http::Response<hyper::body::Incoming>) {
    let request = Request::connect(authority).body(empty()).unwrap();
    let response = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    (response.status(), response)
}

#[test]
fn http2_connects_too() {
    let (destination, site) = (echo(), Upstream::saying("x"));
    let edge = Edge::start(&(proxy(&site) + &allowing("localhost", destination.address)));
    edge.runtime.block_on(async {
        let mut sender = prior_knowledge(&edge).await;
        let authority = format!("localhost:{}", destination.address.port());
        let (status, response) = tunnel(&mut sender, &authority).await;
        assert_eq!(status, StatusCode::OK);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(&[7; 100_000]).await.unwrap();
        let mut echoed = vec![0; 100_000];
        timeout(PATIENCE, stream.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert!(echoed.iter().all(|byte| *byte == 7));
        stream.shutdown().await.unwrap();
        assert_eq!(timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
        assert_eq!(tunnel(&mut sender, "localhost:1").await.0, StatusCode::FORBIDDEN);
    });
}

#[test]
fn http3_connects_too() {
    let (destination, site) = (echo(), Upstream::saying("x"));
    let broken = Upstream::raw(|exchange| {
        exchange.exactly(1);
        exchange.reset();
    });
    let secured = tls::secured(&site, &["a.test"]);
    let ports = format!("[{}, {}]", destination.address.port(), broken.address.port());
    let allowed = policy(None, &format!("connect: {{allow: [{{host: localhost, ports: {ports}}}]}}"));
    let yaml = secured.yaml.clone() + &allowed;
    let edge = Edge::start(&yaml);
    edge.runtime.block_on(async {
        let endpoint = h3::client_endpoint(&secured);
        let connecting = endpoint.connect(edge.udp_at(443), "a.test").unwrap();
        let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
        let open = async |authority: String| {
            let fields = [(":method", "CONNECT"), (":authority", authority.as_str())];
            open_stream(&connection, &fields).await.unwrap()
        };
        let (mut send, mut recv, head) = open(format!("localhost:{}", destination.address.port())).await;
        // `:status: 200` is entry 25 of the static table.
        assert!(head.contains(&(0xc0 | 25)), "{head:x?}");
        let sent = vec![7; 100_000];
        send.write_all(&data(&sent)).await.unwrap();
        assert_eq!(hear_by_h3(&mut recv, sent.len()).await, sent);
        send.finish().unwrap();
        assert_eq!(read_frame(&mut recv).await, None, "an end on either side is one on the other");

        let (mut send, mut recv, _) = open(format!("localhost:{}", broken.address.port())).await;
        send.write_all(&data(b"x")).await.unwrap();
        let ended = timeout(PATIENCE, recv.read(&mut [0])).await.unwrap();
        // H3_CONNECT_ERROR (RFC 9114 section 4.4).
        assert_eq!(ended, Err(quinn::ReadError::Reset(0x10f_u32.into())));

        let (.., head) = open("localhost:1".to_owned()).await;
        // `:status: 403` is entry 68.
        assert!(head.starts_with(&[0, 0, 0xff, 68 - 63]), "{head:x?}");
        // Neither a path nor a scheme belongs to it.
        let fields =
            [(":method", "CONNECT"), (":authority", "localhost:1"), (":path", "/"), (":scheme", "https")];
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let mut section = vec![];
        edge::h3::qpack::begin(&mut section);
        for (name, value) in fields {
            edge::h3::qpack::write_field(&mut section, name.as_bytes(), value.as_bytes());
        }
        let mut frame = vec![];
        edge::h3::write_frame_header(&mut frame, edge::h3::FrameKind::Headers, section.len());
        frame.extend(section);
        send.write_all(&frame).await.unwrap();
        let ended = timeout(PATIENCE, recv.read(&mut [0])).await.unwrap();
        assert_eq!(ended, Err(quinn::ReadError::Reset(0x10e_u32.into())), "H3_MESSAGE_ERROR");
    });
}

#[test]
fn a_drain_cuts_connect_at_its_deadline() {
    let (destination, site) = (echo(), Upstream::saying("x"));
    let edge = Edge::start(&(proxy(&site) + &allowing("localhost", destination.address)));
    let (mut client, ..) = connect_to(&edge, &format!("localhost:{}", destination.address.port()), "");
    edge.runtime.block_on(edge.control.drain(Duration::from_secs(2)));
    client.send("x");
    let mut byte = [0];
    std::io::Read::read_exact(&mut client.stream, &mut byte).unwrap();
    assert!(client.is_closed());
    edge.drain(PATIENCE);
}

#[test]
fn cleartext_http2_can_be_off() {
    let site = Upstream::saying("x");
    let edge = Edge::start(&(proxy(&site) + &policy(Some("http"), "http2: off")));
    let mut client = edge.connect();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.response().status, 505);
    assert_eq!(edge.get("/").text(), "x");
}

#[test]
fn http2_is_not_offered_for_hosts_that_have_it_off() {
    let site = Upstream::saying("x");
    let secured = tls::secured(&site, &["a.test", "b.test"]);
    let edge = Edge::start(&(secured.yaml + &policy(Some("l0"), "http2: off")));
    let config = tls::client_config(&secured.roots, &[b"h2", b"http/1.1"]);
    edge.runtime.block_on(async {
        for (host, expect) in [("a.test", &b"http/1.1"[..]), ("b.test", b"h2")] {
            let stream = tls::connect(&edge, &config, host).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(expect), "{host}");
        }
        // A client that takes b's connection for a's as well is told to open another.
        let mut sender = over(tls::connect(&edge, &config, "b.test").await.unwrap()).await;
        for (host, expect) in [("a.test", 421), ("b.test", 200)] {
            let request = Request::get(format!("https://{host}/")).body(empty()).unwrap();
            assert_eq!(ask(&mut sender, request).await.status(), expect, "{host}");
        }
    });
}

#[test]
fn a_listeners_policy_says_which_lines_the_access_log_has_and_what_is_in_them() {
    let upstream = Upstream::start(|exchange, received| {
        let status = if received.line().contains("/fails") { "500 No" } else { "200 OK" };
        exchange.send(format!("HTTP/1.1 {status}\r\nX-Cache: hit\r\nContent-Length: 0\r\n\r\n"));
    });
    let log_policy = policy(
        None,
        "accessLog: {fields: [{name: agent, requestHeader: User-Agent}, {name: cache, responseHeader: x-cache}, \
         {name: env, value: test}, {name: rule, fact: rule}], \
         filter: {any: [{statusClasses: [5xx]}, {all: [{requestHeader: {name: x-debug}}, {not: {failed: true}}]}]}}",
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let (edge, log) = Edge::start_logging(&(proxy(&upstream) + &log_policy), &file);
    for (path, fields) in [("/quiet", ""), ("/fails", "User-Agent: a/1\r\n"), ("/debug", "X-Debug: 1\r\n")] {
        edge.ask(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nCookie: secret=1\r\n{fields}\r\n"));
    }
    edge.drain(PATIENCE);
    assert!(log.close(PATIENCE));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("secret"), "{text}");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [fails, debug] = lines.as_slice() else { panic!("{text}") };
    assert_eq!((&fails["path"], &debug["path"]), (&"/fails".into(), &"/debug".into()));
    assert_eq!((&fails["agent"], debug.get("agent")), (&"a/1".into(), None));
    for line in [fails, debug] {
        assert_eq!((&line["cache"], &line["env"]), (&"hit".into(), &"test".into()));
        assert_eq!(line["rule"], "spec.rules[0]");
    }
}
