//! The PROXY protocol, in from those who are trusted and out to upstreams that ask for it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use edge::Limits;

use crate::support::{Client, Edge, PATIENCE, Upstream, backend, forward, pause, proxy, route, wait_for};

/// Whoever connects from here is trusted in these tests.
const BALANCER: &str = "127.0.0.2";

/// A pool whose port 80 believes the balancer.
fn believing(mode: &str) -> String {
    format!(
        "---
apiVersion: weir.dev/v1
kind: Pool
metadata: {{name: default}}
spec:
  listen:
  - port: 80
    bind: 127.0.0.1:8080
    proxyProtocol: {{mode: {mode}, trusted: [{BALANCER}]}}
"
    )
}

fn start(upstream: &Upstream, mode: &str, limits: Limits) -> Edge {
    Edge::start_with(&(proxy(upstream) + &believing(mode)), limits)
}

/// A connection from that address.
pub(crate) fn connect_from(source: &str, address: SocketAddr) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&format!("{source}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&address.into()).unwrap();
    Client::on(socket.into())
}

const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn binary() -> Vec<u8> {
    [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13",
        &[192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 1, 0xbb][..],
        b"\x04\x00\x04abcd",
    ]
    .concat()
}

#[test]
fn the_client_is_who_a_trusted_peer_says() {
    let upstream = Upstream::saying("hello");
    let edge = start(&upstream, "Required", Limits::default());
    for header in [LINE.to_vec(), binary()] {
        for together in [true, false] {
            let mut client = connect_from(BALANCER, edge.at(80));
            if together {
                client.send([&header, REQUEST, REQUEST].concat());
            } else {
                for byte in &header {
                    client.send([*byte]);
                    pause(Duration::from_millis(1));
                }
                client.send(REQUEST);
                client.send(REQUEST);
            }
            for _ in 0..2 {
                assert_eq!(client.response().text(), "hello");
                assert_eq!(upstream.last().header("x-forwarded-for"), Some("192.0.2.1"));
            }
        }
    }
}

#[test]
fn a_peer_that_speaks_for_itself_is_the_client() {
    let upstream = Upstream::saying("hello");
    let edge = start(&upstream, "Required", Limits::default());
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec();
    for header in [local, b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client = connect_from(BALANCER, edge.at(80));
        client.send([&header, REQUEST].concat());
        assert_eq!(client.response().status, 200);
        assert_eq!(upstream.last().header("x-forwarded-for"), Some(BALANCER));
    }
}

#[test]
fn nobody_else_is_believed() {
    let upstream = Upstream::saying("hello");
    let edge = start(&upstream, "Required", Limits::default());
    let mut client = connect_from("127.0.0.3", edge.at(80));
    client.send([LINE, REQUEST].concat());
    assert_eq!(client.response().status, 400);
    let mut client = connect_from("127.0.0.3", edge.at(80));
    client.send(REQUEST);
    assert_eq!(client.response().status, 200, "one that does not try is a client like any other");
    assert_eq!(upstream.last().header("x-forwarded-for"), Some("127.0.0.3"));
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn a_header_may_be_missing_only_where_it_is_optional() {
    let upstream = Upstream::saying("hello");
    let edge = start(&upstream, "Required", Limits::default());
    let mut client = connect_from(BALANCER, edge.at(80));
    client.send(REQUEST);
    assert!(client.is_closed(), "no header");
    for malformed in
        [&b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0"]
    {
        let mut client = connect_from(BALANCER, edge.at(80));
        client.send([malformed, REQUEST].concat());
        assert!(client.is_closed());
    }
    assert_eq!(upstream.received().len(), 0);
    assert!(edge.control.metrics().contains("weir_edge_proxy_protocol_errors_total 3\n"));

    let edge = start(&upstream, "Optional", Limits::default());
    let mut client = connect_from(BALANCER, edge.at(80));
    // May be the begin of a header, until it is not.
    client.send(b"P");
    pause(Duration::from_millis(20));
    client.send(b"OST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(upstream.last().header("x-forwarded-for"), Some(BALANCER));
    let mut client = connect_from(BALANCER, edge.at(80));
    client.send([LINE, REQUEST].concat());
    assert_eq!(client.response().status, 200);
    assert_eq!(upstream.last().header("x-forwarded-for"), Some("192.0.2.1"));
}

#[test]
fn a_header_must_come_in_time() {
    let upstream = Upstream::saying("hello");
    let edge =
        start(&upstream, "Optional", Limits { handshake: Duration::from_millis(300), ..Limits::default() });
    for slow in [&b""[..], b"PROXY TCP4 192.0.2.1"] {
        let mut client = connect_from(BALANCER, edge.at(80));
        client.send(slow);
        assert!(client.is_closed());
    }
}

#[test]
fn connections_count_for_the_client_not_for_the_balancer() {
    let upstream = Upstream::saying("hello");
    let edge = start(&upstream, "Required", Limits { connections_per_client: 1, ..Limits::default() });
    let ask = |line: &[u8]| {
        let mut client = connect_from(BALANCER, edge.at(80));
        client.send([line, REQUEST].concat());
        client
    };
    let mut first = ask(LINE);
    assert_eq!(first.response().status, 200);
    assert!(ask(LINE).is_closed(), "a second one of the same client");
    assert_eq!(ask(b"PROXY TCP4 192.0.2.9 198.51.100.2 1 443\r\n").response().status, 200);
    drop(first);
    wait_for("the first to be gone", || ask(LINE).response_to("GET").is_some_and(|r| r.status == 200));
}

/// Everything goes to `upstream`, which is told who the client is.
fn telling(upstream: SocketAddr, version: &str) -> String {
    let told = backend("up", upstream).replace("spec: {", &format!("spec: {{proxyProtocol: {version}, "));
    route(&forward("up")) + &told
}

/// An upstream that keeps what each connection began with, and answers whatever follows.
fn listening(version: &'static str) -> (Upstream, std::sync::Arc<std::sync::Mutex<Vec<Vec<u8>>>>) {
    let headers = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&headers);
    let upstream = Upstream::raw(move |exchange| {
        let header = if version == "v1" { exchange.until(b"\r\n") } else { exchange.exactly(28) };
        kept.lock().unwrap().push(header);
        while exchange.head().is_some() {
            exchange.reply("hello");
        }
    });
    (upstream, headers)
}

#[test]
fn an_upstream_is_told_who_its_client_is() {
    for version in ["v1", "v2"] {
        let (upstream, headers) = listening(version);
        let edge = Edge::start(&telling(upstream.address, version));
        let mut first = connect_from("127.0.0.3", edge.at(80));
        let mut second = connect_from("127.0.0.4", edge.at(80));
        for _ in 0..2 {
            for client in [&mut first, &mut second] {
                client.send(REQUEST);
                assert_eq!(client.response().text(), "hello");
            }
        }
        assert_eq!(upstream.connections(), 2, "each client's requests on a connection of its own");
        let source = first.stream.local_addr().unwrap();
        let header = headers.lock().unwrap()[0].clone();
        let hop = edge::proxy::parse(&header).unwrap().unwrap().hop.unwrap();
        assert_eq!(hop.source, source, "{}", header.escape_ascii());
        let destination = edge.bound_as_configured(80);
        assert_eq!(hop.destination, destination);
    }
}

/// In by one version and out by the other: the client stays who he is.
#[test]
fn what_is_heard_is_passed_on() {
    let (upstream, headers) = listening("v2");
    let edge = Edge::start(&(telling(upstream.address, "v2") + &believing("Required")));
    let mut client = connect_from(BALANCER, edge.at(80));
    client.send([LINE, REQUEST].concat());
    assert_eq!(client.response().text(), "hello");
    let header = headers.lock().unwrap()[0].clone();
    let hop = edge::proxy::parse(&header).unwrap().unwrap().hop.unwrap();
    assert_eq!(hop.source, "192.0.2.1:56324".parse().unwrap());
    assert_eq!(hop.destination, "198.51.100.2:443".parse().unwrap());
}

mod real {
    //! HAProxy and nginx, before and behind.

    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::support::{dead_address, has};

    /// A process that ends with the test.
    struct Process(Child);

    impl Drop for Process {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    fn run(program: &str, arguments: &[&str], listens: SocketAddr) -> Process {
        let command =
            Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = Process(command.unwrap());
        wait_for(program, || TcpStream::connect(listens).is_ok());
        process
    }

    fn haproxy(directory: &tempfile::TempDir, listens: SocketAddr, front: &str, server: &str) -> Process {
        let file = directory.path().join(format!("haproxy-{}.cfg", listens.port()));
        let config = format!(
            "defaults\n  mode http\n  option forwardfor\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             listen all\n  bind {listens} {front}\n  http-request set-header x-seen %[src]\n  server s {server}\n"
        );
        std::fs::write(&file, config).unwrap();
        run("haproxy", &["-db", "-f", file.to_str().unwrap()], listens)
    }

    fn ask(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn haproxy_says_whose_connection_it_is() {
        if !has("haproxy") {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let upstream = Upstream::saying("hello");
        let pool = believing("Required").replace(BALANCER, "127.0.0.0/8");
        let edge = Edge::start(&(proxy(&upstream) + &pool));
        for send in [
            "send-proxy",
            "send-proxy-v2",
            "send-proxy-v2-ssl",
            "send-proxy-v2 proxy-v2-options unique-id,crc32c",
        ] {
            let listens = dead_address();
            let server = format!("{} source 127.0.0.5 {send}", edge.at(80));
            let _process = haproxy(&directory, listens, "", &server);
            let mut client = connect_from("127.0.0.7", listens);
            client.send(REQUEST);
            assert_eq!(client.response().text(), "hello", "{send}");
            assert_eq!(upstream.last().header("x-forwarded-for"), Some("127.0.0.7"), "{send}");
        }
        // Its health check is its own: LOCAL.
        let listens = dead_address();
        let before = upstream.received().len();
        let server = format!(
            "{} source 127.0.0.5 check inter 50ms send-proxy-v2\n  option httpchk\n  \
             http-check send meth GET uri /check ver HTTP/1.1 hdr Host a.test",
            edge.at(80)
        );
        let _process = haproxy(&directory, listens, "", &server);
        wait_for("a health check", || {
            upstream.received()[before..].iter().any(|r| r.line().contains("/check"))
        });
        let checks: Vec<_> =
            upstream.received()[before..].iter().filter(|r| r.line().contains("/check")).cloned().collect();
        assert_eq!(checks[0].header("x-forwarded-for"), Some("127.0.0.5"));
    }

    #[test]
    fn haproxy_hears_who_the_client_is() {
        if !has("haproxy") {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let upstream = Upstream::saying("hello");
        for version in ["v1", "v2"] {
            let listens = dead_address();
            let _process = haproxy(&directory, listens, "accept-proxy", &upstream.address.to_string());
            let edge = Edge::start(&telling(listens, version));
            for source in ["127.0.0.8", "127.0.0.9"] {
                let mut client = connect_from(source, edge.at(80));
                client.send(REQUEST);
                assert_eq!(client.response().text(), "hello", "{version}");
                assert_eq!(upstream.last().header("x-seen"), Some(source), "{version}");
            }
        }
    }

    #[test]
    fn nginx_hears_who_the_client_is() {
        if !has("nginx") {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let listens = dead_address();
        let config = format!(
            "daemon off;\nmaster_process off;\nerror_log stderr;\npid {0}/pid;\nevents {{}}\nhttp {{\n  access_log off;\n  \
             client_body_temp_path {0};\n  proxy_temp_path {0};\n  fastcgi_temp_path {0};\n  uwsgi_temp_path {0};\n  \
             scgi_temp_path {0};\n  server {{ listen {listens} proxy_protocol; \
             location / {{ return 200 \"$proxy_protocol_addr\"; }} }}\n}}\n",
            directory.path().display()
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let _process =
            run("nginx", &["-c", file.to_str().unwrap(), "-p", directory.path().to_str().unwrap()], listens);
        for version in ["v1", "v2"] {
            let edge = Edge::start(&telling(listens, version));
            let mut client = connect_from("127.0.0.8", edge.at(80));
            client.send(REQUEST);
            assert_eq!(client.response().text(), "127.0.0.8", "{version}");
            assert!(ask(edge.at(80)).ends_with("127.0.0.1"), "{version}");
        }
    }
}
