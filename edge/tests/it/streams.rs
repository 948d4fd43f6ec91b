//! Connections that are passed on as they are: TLS by its server name, TCP by its port.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use edge::{Limits, hello};
use rustls::pki_types::{CertificateDer, ServerName};

use crate::{
    proxy::connect_from,
    support::{Edge, PATIENCE, Upstream, backend, dead_address, pause, secret, wait_for},
    tls::client_config,
};

const POOL: &str = "---
apiVersion: weir.dev/v1
kind: Pool
metadata: {name: default}
spec:
  listen:
  - {port: 443, bind: \"127.0.0.1:8443\", protocol: TLS}
  - {port: 5432, bind: \"127.0.0.1:15432\", protocol: TCP}
";

fn gateway(listeners: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: weir
  listeners:
{listeners}"
    )
}

const PASSTHROUGH: &str = "  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}\n";
const TCP: &str = "  - {name: tcp, port: 5432, protocol: TCP}\n";

fn route(kind: &str, name: &str, hosts: &str, backends: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: {kind}
metadata: {{name: {name}}}
spec: {{parentRefs: [{{name: gateway}}], {hosts} rules: [{{backendRefs: [{backends}]}}]}}
"
    )
}

fn to(name: &str, weight: u32) -> String {
    format!("{{group: weir.dev, kind: Backend, name: {name}, weight: {weight}}}")
}

/// Everything that comes by TCP goes to `upstream`.
fn tcp(upstream: SocketAddr) -> String {
    [POOL, &gateway(TCP), &route("TCPRoute", "db", "", &to("up", 1)), &backend("up", upstream)].concat()
}

/// TLS for these hosts goes to backends of these addresses.
fn by_name(hosts: &[(&str, SocketAddr)]) -> String {
    let mut yaml = POOL.to_owned() + &gateway(PASSTHROUGH);
    for (number, (host, upstream)) in hosts.iter().enumerate() {
        let name = format!("r{number}");
        yaml += &route("TLSRoute", &name, &format!("hostnames: [\"{host}\"],"), &to(&name, 1));
        yaml += &backend(&name, *upstream);
    }
    yaml
}

/// Sends back what comes, after its name, until the client has said all.
fn echo(name: &'static str) -> Upstream {
    Upstream::raw(move |exchange| {
        exchange.send(name);
        while let Some(bytes) = exchange.some() {
            exchange.send(bytes);
        }
        exchange.end();
    })
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What comes to the end, or to a reset.
fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, ErrorKind> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.kind())
}

/// So many bytes.
fn take(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// What a TLS client says first.
fn client_hello(host: &str) -> Vec<u8> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(client_config(&[], &[b"h2"]), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same in records of at most so many bytes.
fn fragmented(hello: &[u8], most: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1][..], &length, part].concat()
    };
    hello[5..].chunks(most).flat_map(record).collect()
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let upstream = echo("db:");
    let edge = Edge::start(&tcp(upstream.address));
    let mut client = connect(edge.at(5432));
    // Nothing is waited for: the server may speak first.
    assert_eq!(take(&mut client, 3), b"db:");
    assert_eq!(edge.control.load().in_flight, 1, "a pool with streams is not idle");
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut writer = client.try_clone().unwrap();
    let sent = data.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert!(rest(&mut client).unwrap() == data, "the echo differs");
    writing.join().unwrap();
    wait_for("the connection to be gone", || edge.control.load().connections == 0);
    let load = edge.control.load();
    assert_eq!((load.bytes_in, load.bytes_out, load.in_flight), (3_000_000, 3_000_003, 0));
    assert!(edge.control.metrics().contains("weir_edge_streams_total 1\n"));
}

#[test]
fn backends_share_connections_by_weight() {
    let (many, few) = (echo("many"), echo("few."));
    let backends = format!("{}, {}, {}", to("many", 3), to("few", 1), to("none", 0));
    let edge = Edge::start(
        &[
            POOL,
            &gateway(TCP),
            &route("TCPRoute", "db", "", &backends),
            &backend("many", many.address),
            &backend("few", few.address),
        ]
        .concat(),
    );
    let mut counts = HashMap::new();
    for _ in 0..400 {
        *counts.entry(take(&mut connect(edge.at(5432)), 4)).or_insert(0_u32) += 1;
    }
    let share = f64::from(counts[&b"few."[..]]);
    // Chi-squared with one degree of freedom: beyond 10.83 once in a thousand times.
    let chi = (share - 100.0).powi(2) / 100.0 + (share - 100.0).powi(2) / 300.0;
    assert!(chi < 15.0, "{counts:?}");
}

#[test]
fn a_dead_endpoint_is_passed_over_and_a_dead_backend_resets() {
    let upstream = echo("db:");
    let both =
        format!("endpoints: [{{address: \"{}\"}}, {{address: \"{}\"}}]", dead_address(), upstream.address);
    let yaml =
        tcp(upstream.address).replace(&format!("endpoints: [{{address: \"{}\"}}]", upstream.address), &both);
    let edge = Edge::start(&yaml);
    for _ in 0..20 {
        assert_eq!(take(&mut connect(edge.at(5432)), 3), b"db:");
    }
    let edge = Edge::start(&tcp(dead_address()));
    assert_eq!(rest(&mut connect(edge.at(5432))), Err(ErrorKind::ConnectionReset));
    let missing = [POOL, &gateway(TCP), &route("TCPRoute", "db", "", &to("missing", 1))].concat();
    let edge = Edge::start(&missing);
    assert_eq!(rest(&mut connect(edge.at(5432))), Err(ErrorKind::ConnectionReset));
    assert!(edge.control.metrics().contains("weir_edge_refused_streams_total 1\n"));
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let upstream = Upstream::raw(|exchange| {
        exchange.send("half");
        exchange.some();
        exchange.reset();
    });
    let edge = Edge::start(&tcp(upstream.address));
    let mut client = connect(edge.at(5432));
    assert_eq!(take(&mut client, 4), b"half");
    client.write_all(b"x").unwrap();
    assert_eq!(rest(&mut client), Err(ErrorKind::ConnectionReset));
}

#[test]
fn silence_is_bounded() {
    let upstream = echo("db:");
    let edge = Edge::start_with(
        &tcp(upstream.address),
        Limits { tunnel_idle: Duration::from_millis(600), ..Limits::default() },
    );
    let mut client = connect(edge.at(5432));
    take(&mut client, 3);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        pause(Duration::from_millis(200));
        client.write_all(b"x").unwrap();
        assert_eq!(take(&mut client, 1), b"x", "it is not idle");
    }
    assert_eq!(rest(&mut client), Err(ErrorKind::ConnectionReset));
}

#[test]
fn connections_are_bounded() {
    let upstream = echo("db:");
    let edge = Edge::start_with(&tcp(upstream.address), Limits { connections: 2, ..Limits::default() });
    let mut both = [connect(edge.at(5432)), connect(edge.at(5432))];
    both.iter_mut().for_each(|client| drop(take(client, 3)));
    assert!(rest(&mut connect(edge.at(5432))).is_ok_and(|bytes| bytes.is_empty()), "a third");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_drain_lets_streams_go_on_until_its_end() {
    let upstream = echo("db:");
    let edge = Edge::start(&tcp(upstream.address));
    let mut client = connect(edge.at(5432));
    take(&mut client, 3);
    let mut other = connect(edge.at(5432));
    take(&mut other, 3);
    edge.runtime.block_on(edge.control.drain(Duration::from_millis(1500)));
    for _ in 0..3 {
        client.write_all(b"x").unwrap();
        assert_eq!(take(&mut client, 1), b"x");
        pause(Duration::from_millis(100));
    }
    // One ends in time; the other is cut off, and sees that it is.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), Ok(vec![]));
    assert_eq!(rest(&mut other), Err(ErrorKind::ConnectionReset));
    edge.drain(Duration::from_millis(1500));
}

#[test]
fn a_stream_keeps_its_backend_when_the_configuration_changes() {
    let (before, after) = (echo("before"), echo("after:"));
    let mut edge = Edge::start(&tcp(before.address));
    let mut old = connect(edge.at(5432));
    assert_eq!(take(&mut old, 6), b"before");
    edge.activate(&tcp(after.address));
    assert_eq!(take(&mut connect(edge.at(5432)), 6), b"after:");
    old.write_all(b"still").unwrap();
    assert_eq!(take(&mut old, 5), b"still");
}

#[test]
fn tls_is_passed_on_by_the_name_that_the_client_asks_for() {
    let (exact, wild) = (echo("exact"), echo("wild."));
    let edge = Edge::start(&by_name(&[("*.a.test", wild.address), ("b.a.test", exact.address)]));
    for (host, expect) in [("b.a.test", b"exact"), ("c.a.test", b"wild."), ("d.c.a.test", b"wild.")] {
        let hello = client_hello(host);
        for most in [1, 7, 100, 16_384] {
            let sent = fragmented(&hello, most);
            let mut client = connect(edge.at(443));
            client.write_all(&sent).unwrap();
            client.write_all(b"more").unwrap();
            assert_eq!(take(&mut client, 5), expect, "{host}");
            assert_eq!(take(&mut client, sent.len()), sent, "byte for byte");
            assert_eq!(take(&mut client, 4), b"more");
        }
    }
    // One byte a segment.
    let hello = client_hello("b.a.test");
    let mut client = connect(edge.at(443));
    for byte in &hello {
        client.write_all(&[*byte]).unwrap();
        pause(Duration::from_micros(200));
    }
    assert_eq!(take(&mut client, 5), b"exact");
    assert_eq!(take(&mut client, hello.len()), hello);
}

#[test]
fn a_name_that_nobody_has_is_told_so() {
    let upstream = echo("never");
    let edge = Edge::start(&by_name(&[("b.a.test", upstream.address)]));
    for hello in [client_hello("a.test"), client_hello("x.b.a.test"), client_hello("192.0.2.1")] {
        let mut client = connect(edge.at(443));
        client.write_all(&hello).unwrap();
        assert_eq!(rest(&mut client).unwrap(), hello::alert(hello::UNRECOGNIZED_NAME));
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn what_is_no_hello_is_turned_away() {
    let upstream = echo("never");
    let limits = Limits { handshake: Duration::from_millis(400), ..Limits::default() };
    let edge = Edge::start_with(&by_name(&[("b.a.test", upstream.address)]), limits);
    let mut plain = connect(edge.at(443));
    plain.write_all(b"GET / HTTP/1.1\r\nHost: b.a.test\r\n\r\n").unwrap();
    assert_eq!(rest(&mut plain), Err(ErrorKind::ConnectionReset));

    let mut malformed = connect(edge.at(443));
    malformed.write_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00").unwrap();
    assert_eq!(rest(&mut malformed).unwrap(), hello::alert(hello::DECODE_ERROR));

    // Half a hello, for ever.
    let mut slow = connect(edge.at(443));
    slow.write_all(&client_hello("b.a.test")[..50]).unwrap();
    assert_eq!(rest(&mut slow), Err(ErrorKind::ConnectionReset));

    // A hello without end: its length says 16 MiB.
    let mut endless = connect(edge.at(443));
    let mut bytes = fragmented(&[&[0; 5][..], &[1, 0xff, 0xff, 0xff], &vec![0; 80_000]].concat(), 16_000);
    bytes.truncate(66_000);
    // The other side may have had enough before all is written.
    drop(endless.write_all(&bytes));
    match rest(&mut endless) {
        Ok(bytes) => assert_eq!(bytes, hello::alert(hello::DECODE_ERROR)),
        Err(kind) => assert_eq!(kind, ErrorKind::ConnectionReset),
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn tls_can_end_here_and_go_on_as_bytes() {
    let upstream = echo("clear:");
    let made = rcgen::generate_simple_self_signed(["b.a.test".to_owned()]).unwrap();
    let listener = "  - {name: tls, port: 443, protocol: TLS, hostname: b.a.test, \
                    tls: {mode: Terminate, certificateRefs: [{name: cert}]}}\n";
    let edge = Edge::start(
        &[
            POOL,
            &gateway(listener),
            &route("TCPRoute", "db", "", &to("up", 1)),
            &backend("up", upstream.address),
            &secret("cert", &made.cert.pem(), &made.signing_key.serialize_pem()),
        ]
        .concat(),
    );
    let roots: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
    // A client that offers protocols gets none, and goes on.
    for alpn in [&[][..], &[&b"h2"[..], b"postgresql"]] {
        let name = ServerName::try_from("b.a.test").unwrap();
        let session = rustls::ClientConnection::new(client_config(&roots, alpn), name).unwrap();
        let mut client = rustls::StreamOwned::new(session, connect(edge.at(443)));
        client.write_all(b"hello").unwrap();
        let mut answer = [0; 11];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"clear:hello");
        assert_eq!(client.conn.alpn_protocol(), None);
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut end = Vec::new();
        client.read_to_end(&mut end).unwrap();
        assert_eq!(end, b"", "closed as TLS is to be closed");
    }
    let mut other = connect(edge.at(443));
    other.write_all(&client_hello("c.a.test")).unwrap();
    assert_eq!(rest(&mut other).unwrap(), hello::alert(hello::UNRECOGNIZED_NAME));
}

#[test]
fn the_client_is_told_of_and_heard_of_here_too() {
    let headers = Arc::new(Mutex::new(vec![]));
    let kept = Arc::clone(&headers);
    let upstream = Upstream::raw(move |exchange| {
        kept.lock().unwrap().push(exchange.until(b"\r\n"));
        exchange.send("hello");
    });
    let trusted = POOL.replace("protocol: TCP}", "protocol: TCP, proxyProtocol: {trusted: [127.0.0.2]}}");
    let yaml = tcp(upstream.address)
        .replace(POOL, &trusted)
        .replace("spec: {endpoints", "spec: {proxyProtocol: v1, endpoints");
    let edge = Edge::start(&yaml);
    let mut client = connect_from("127.0.0.2", edge.at(5432));
    client.send(b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 5432\r\n");
    assert_eq!(take(&mut client.stream, 5), b"hello");
    assert_eq!(headers.lock().unwrap()[0], b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 5432\r\n");
}

#[test]
fn a_stream_is_a_line_of_the_access_log() {
    let upstream = echo("db:");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let both = by_name(&[("b.a.test", upstream.address)]);
    let (edge, log) = Edge::start_logging(&both, &file);
    let hello = client_hello("b.a.test");
    let mut client = connect_from("127.0.0.3", edge.at(443)).stream;
    client.write_all(&hello).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    rest(&mut client).unwrap();
    let mut stranger = connect(edge.at(443));
    stranger.write_all(&client_hello("x.test")).unwrap();
    rest(&mut stranger).unwrap();
    wait_for("two connections to be gone", || edge.control.load().connections == 0);
    edge.drain(PATIENCE);
    assert!(log.close(PATIENCE));
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [served, refused] = lines.as_slice() else { panic!("{text}") };
    for (name, expect) in [
        ("protocol", "TLS"),
        ("host", "b.a.test"),
        ("route", "TLSRoute/default/r0"),
        ("tenant", "static"),
        ("outcome", "forwarded"),
        ("client", "127.0.0.3"),
        ("upstream", &upstream.address.to_string()),
    ] {
        assert_eq!(served[name], expect, "{text}");
    }
    assert_eq!((&served["bytes_in"], &served["bytes_out"]), (&hello.len().into(), &(hello.len() + 3).into()));
    assert_eq!((&refused["refusal"], &refused["host"]), (&"no_route".into(), &"x.test".into()));
    assert!(served.get("status").is_none() && served.get("method").is_none());
}

/// The client's and the server's OpenSSL, with this between them.
#[test]
fn openssl_speaks_through() {
    use std::process::{Command, Stdio};
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let made = rcgen::generate_simple_self_signed(["b.a.test".to_owned()]).unwrap();
    std::fs::write(at("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(at("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let listens = dead_address();
    let server = Command::new("openssl")
        .args(["s_server", "-quiet", "-rev", "-accept", &listens.to_string()])
        .arg("-cert")
        .arg(at("cert.pem"))
        .arg("-key")
        .arg(at("key.pem"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut server) = server else { return println!("skipped: there is no openssl") };
    wait_for("openssl", || TcpStream::connect(listens).is_ok());
    let edge = Edge::start(&by_name(&[("b.a.test", listens)]));
    for version in ["-tls1_2", "-tls1_3"] {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", version, "-servername", "b.a.test"])
            .args(["-verify_hostname", "b.a.test", "-connect", &edge.at(443).to_string()])
            .arg("-CAfile")
            .arg(at("cert.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        client.stdin.take().unwrap().write_all(b"hello\nCLOSE\n").unwrap();
        let output = client.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().next(), Some("olleh"), "{version}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
}
