//! Datagrams that are passed on.

use std::{
    collections::{HashMap, HashSet},
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use edge::Limits;

use crate::support::{Edge, PATIENCE, Upstream, backend, compile, pause, wait_for};

/// A port of UDP, and one of TCP with the same number.
const POOL: &str = "---
apiVersion: weir.dev/v1
kind: Pool
metadata: {name: default}
spec:
  listen:
  - {port: 53, bind: \"127.0.0.1:15353\", protocol: UDP}
  - {port: 53, bind: \"127.0.0.1:15353\", protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: weir
  listeners:
  - {name: udp, port: 53, protocol: UDP}
  - {name: tcp, port: 53, protocol: TCP}
";

fn route(kind: &str, backends: &[&str]) -> String {
    let to = |name: &&str| format!("{{group: weir.dev, kind: Backend, name: {name}}}");
    let backends: Vec<_> = backends.iter().map(to).collect();
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: {kind}
metadata: {{name: {}}}
spec: {{parentRefs: [{{name: gateway}}], rules: [{{backendRefs: [{}]}}]}}
",
        kind.to_lowercase(),
        backends.join(", ")
    )
}

fn policy(udp: &str) -> String {
    format!(
        "---
apiVersion: weir.dev/v1
kind: ListenerPolicy
metadata: {{name: sessions}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: gateway, sectionName: udp}}]
  udp: {{{udp}}}
"
    )
}

/// All goes to endpoints of these addresses, spread as `more` of the Backend says.
fn to(endpoints: &[SocketAddr], more: &str) -> String {
    let list: Vec<_> = endpoints.iter().map(|address| format!("{{address: \"{address}\"}}")).collect();
    format!(
        "{POOL}{}---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: up}}
spec: {{{more} endpoints: [{}]}}
",
        route("UDPRoute", &["up"]),
        list.join(", ")
    )
}

/// Answers each datagram with its name and the same, until it is dropped.
struct Echo {
    address: SocketAddr,
    /// From where it was spoken to.
    heard: Arc<Mutex<Vec<SocketAddr>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    fn start(name: &'static str) -> Self {
        Self::at(name, "127.0.0.1:0".parse().unwrap())
    }

    fn at(name: &'static str, address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (heard, stop) = (Arc::new(Mutex::new(vec![])), Arc::new(AtomicBool::new(false)));
        let address = socket.local_addr().unwrap();
        let (log, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((count, from)) = socket.recv_from(&mut buffer) else { continue };
                log.lock().unwrap().push(from);
                // Who is gone by now does not miss it.
                drop(socket.send_to(&[name.as_bytes(), &buffer[..count]].concat(), from));
            }
        });
        Self { address, heard, stop, thread: Some(thread) }
    }

    /// The addresses of all sessions that it has seen.
    fn sessions(&self) -> HashSet<SocketAddr> {
        self.heard.lock().unwrap().iter().copied().collect()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A client that hears only whom it has called.
fn client(edge: &Edge) -> UdpSocket {
    client_of(edge.udp_at(53))
}

fn client_of(address: SocketAddr) -> UdpSocket {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = UdpSocket::bind(any).unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn answer(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let count = client.recv(&mut buffer).unwrap();
    buffer.truncate(count);
    buffer
}

fn ask(client: &UdpSocket, what: &[u8]) -> Vec<u8> {
    client.send(what).unwrap();
    answer(client)
}

/// Asks until there is an answer: what is said to an endpoint that is gone is lost, as UDP has it.
fn insist(client: &UdpSocket, what: &[u8]) -> (Vec<u8>, usize) {
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for lost in 0..20 {
        client.send(what).unwrap();
        let mut buffer = vec![0; 65_536];
        if let Ok(count) = client.recv(&mut buffer) {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            buffer.truncate(count);
            return (buffer, lost);
        }
    }
    panic!("no answer")
}

/// Nothing comes, though there was time.
fn hears_nothing(client: &UdpSocket) {
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let error = client.recv(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
}

fn metric(edge: &Edge, name: &str) -> u64 {
    let text = edge.control.metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
}

fn dropped(edge: &Edge, reason: &str) -> u64 {
    metric(edge, &format!("weir_edge_udp_dropped_datagrams_total{{reason=\"{reason}\"}}"))
}

#[test]
fn each_client_gets_its_own_answers() {
    let upstream = Echo::start("x:");
    let edge = Edge::start(&to(&[upstream.address], ""));
    let clients: Vec<_> = (0..200).map(|_| client(&edge)).collect();
    for round in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            client.send(format!("{number}/{round}").as_bytes()).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(answer(client), format!("x:{number}/{round}").as_bytes());
        }
    }
    assert_eq!(upstream.sessions().len(), 200, "a socket for each");
    assert_eq!(metric(&edge, "weir_edge_udp_sessions"), 200);
    assert_eq!(metric(&edge, "weir_edge_udp_sessions_total"), 200);
    assert_eq!(metric(&edge, "weir_edge_udp_received_datagrams_total"), 600);
    // What was sent counts when it is on its way.
    wait_for("the last to count", || {
        let load = edge.control.load();
        metric(&edge, "weir_edge_udp_sent_datagrams_total") == 600 && load.bytes_out - load.bytes_in == 1200
    });
    assert_eq!(edge.control.load().in_flight, 200, "a pool with sessions is not idle");
}

#[test]
fn datagrams_of_all_lengths_are_passed_on_whole() {
    let upstream = Echo::start("");
    let edge = Edge::start(&to(&[upstream.address], ""));
    let client = client(&edge);
    for length in [0, 1, 1472, 1473, 9000, 60_000, 65_507] {
        let sent: Vec<u8> = (0..length).map(|n: u32| (n % 251) as u8).collect();
        assert!(ask(&client, &sent) == sent, "{length}");
    }
    // Several at once, of one length: the kernel may join them.
    for _ in 0..50 {
        client.send(&[7; 500]).unwrap();
    }
    for _ in 0..50 {
        assert_eq!(answer(&client), [7; 500]);
    }
}

#[test]
fn the_answer_comes_from_the_address_that_was_called() {
    let upstream = Echo::start("x:");
    let yaml = to(&[upstream.address], "");
    let edge = Edge::start_on(&yaml, Limits::default(), &["0.0.0.0:0"]);
    for host in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let called = SocketAddr::from((host, edge.udp_at(53).port()));
        assert_eq!(ask(&client_of(called), b"hello"), b"x:hello");
    }
}

#[test]
fn ipv6_goes_both_ways() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return; // A machine without IPv6 has nothing to test.
    }
    let upstream = Echo::at("six:", "[::1]:0".parse().unwrap());
    for address in ["[::1]:0", "[::]:0", "127.0.0.1:0"] {
        let edge = Edge::start_on(&to(&[upstream.address], ""), Limits::default(), &[address]);
        let mut called = edge.udp_at(53);
        if called.ip().is_unspecified() {
            called.set_ip("::1".parse().unwrap());
        }
        let client = client_of(called);
        assert_eq!(ask(&client, b"hello"), b"six:hello", "{address}");
        assert_eq!(ask(&client, &[1; 60_000]).len(), 60_004, "{address}");
    }
}

/// IPv6 has longer datagrams than IPv4. One that does not fit is nobody's fault, and harms none.
#[test]
fn a_datagram_that_fits_only_one_side_is_dropped_alone() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return; // A machine without IPv6 has nothing to test.
    }
    let upstream = Echo::start("");
    let edge = Edge::start_on(&to(&[upstream.address], ""), Limits::default(), &["[::1]:0"]);
    let client = client(&edge);
    assert_eq!(ask(&client, b"x"), b"x");
    client.send(&[7; 65_520]).unwrap();
    wait_for("it to be dropped", || dropped(&edge, "error") == 1);
    assert_eq!(ask(&client, b"x"), b"x");
    assert_eq!(upstream.sessions().len(), 1);
    assert_eq!(metric(&edge, "weir_edge_upstream_failed_connects_total"), 0);
}

#[test]
fn tcp_has_a_port_of_the_same_number() {
    use std::io::Read;
    let (datagrams, stream) = (Echo::start("udp"), Upstream::raw(|exchange| exchange.send("tcp")));
    let yaml = to(&[datagrams.address], "") + &route("TCPRoute", &["tcp"]) + &backend("tcp", stream.address);
    let edge = Edge::start(&yaml);
    assert_eq!(ask(&client(&edge), b""), b"udp");
    let mut word = [0; 3];
    let mut tcp = std::net::TcpStream::connect(edge.at(53)).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"tcp");
}

#[test]
fn endpoints_share_clients_as_the_policy_says() {
    let upstreams = [Echo::start("0"), Echo::start("1"), Echo::start("2")];
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    for (policy, least) in [("PowerOfTwo", 15), ("LeastRequest", 20), ("RoundRobin", 20)] {
        let edge = Edge::start(&to(&addresses, &format!("loadBalancer: {{type: {policy}}},")));
        let clients: Vec<_> = (0..60).map(|_| client(&edge)).collect();
        let mut counts = HashMap::new();
        for client in &clients {
            let first = ask(client, b"a");
            *counts.entry(first.clone()).or_insert(0) += 1;
            assert_eq!(ask(client, b"a"), first, "a session stays with its endpoint");
        }
        assert!(counts.len() == 3 && counts.values().all(|count| *count >= least), "{policy}: {counts:?}");
    }
    // By the client's address, from whatever port, and on another worker too.
    for policy in ["RingHash", "Maglev"] {
        let yaml = to(&addresses, &format!("loadBalancer: {{type: {policy}, hash: {{type: SourceIP}}}},"));
        let edges = [Edge::start(&yaml), Edge::start(&yaml)];
        let mut chosen = HashSet::new();
        for host in 1..=12 {
            let answers = edges.iter().chain(&edges).map(|edge| {
                let client = UdpSocket::bind(format!("127.0.0.{host}:0")).unwrap();
                client.connect(edge.udp_at(53)).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                ask(&client, b"a")
            });
            let answers: HashSet<_> = answers.collect();
            assert_eq!(answers.len(), 1, "{policy}");
            chosen.extend(answers);
        }
        assert!(chosen.len() > 1, "{policy}");
    }
}

#[test]
fn silence_ends_a_session() {
    let upstream = Echo::start("");
    let edge = Edge::start(&(to(&[upstream.address], "") + &policy("idleTimeout: 600ms")));
    let client = client(&edge);
    for _ in 0..6 {
        ask(&client, b"x");
        pause(Duration::from_millis(200));
    }
    assert_eq!(upstream.sessions().len(), 1, "it is not silent");
    wait_for("the session to end", || metric(&edge, "weir_edge_udp_sessions") == 0);
    assert_eq!(edge.control.load().in_flight, 0);
    ask(&client, b"x");
    assert_eq!(upstream.sessions().len(), 2);
}

#[test]
fn so_many_answers_end_a_session() {
    let upstream = Echo::start("");
    let edge = Edge::start(&(to(&[upstream.address], "") + &policy("responses: 2")));
    let client = client(&edge);
    for _ in 0..4 {
        ask(&client, b"x");
    }
    wait_for("the second session to end", || metric(&edge, "weir_edge_udp_sessions") == 0);
    assert_eq!(metric(&edge, "weir_edge_udp_sessions_total"), 2);
}

#[test]
fn sessions_are_bounded() {
    let upstream = Echo::start("");
    let edge = Edge::start_with(
        &(to(&[upstream.address], "") + &policy("idleTimeout: 1s")),
        Limits { udp_sessions: 2, ..Limits::default() },
    );
    let clients = [client(&edge), client(&edge), client(&edge)];
    for client in &clients[..2] {
        assert_eq!(ask(client, b"x"), b"x");
    }
    clients[2].send(b"x").unwrap();
    wait_for("a third to be dropped", || dropped(&edge, "limit") == 1);
    assert_eq!(ask(&clients[0], b"x"), b"x", "the others go on");
    wait_for("sessions to end", || metric(&edge, "weir_edge_udp_sessions") == 0);
    assert_eq!(ask(&clients[2], b"x"), b"x");
}

#[test]
fn only_the_endpoint_is_heard() {
    let upstream = Echo::start("x:");
    let edge = Edge::start(&to(&[upstream.address], ""));
    let client = client(&edge);
    ask(&client, b"hello");
    let session = *upstream.sessions().iter().next().unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    drop(stranger.send_to(b"forged", session));
    hears_nothing(&client);
    assert_eq!(ask(&client, b"again"), b"x:again");
    wait_for("two to count", || metric(&edge, "weir_edge_udp_sent_datagrams_total") == 2);
}

#[test]
fn who_is_gone_is_left_for_another() {
    let (mut first, second) = (Some(Echo::start("1:")), Echo::start("2:"));
    let address = first.as_ref().unwrap().address;
    let edge = Edge::start(&to(&[address, second.address], "loadBalancer: {type: RoundRobin},"));
    let clients: Vec<_> = (0..10).map(|_| client(&edge)).collect();
    let of_first = clients.iter().filter(|client| ask(client, b"x") == b"1:x").count();
    assert!(of_first > 0 && of_first < 10, "{of_first}");
    first.take();
    // The first word to it is lost, and says that it is gone; then nobody else loses any.
    let mut all_lost = 0;
    for client in &clients {
        let (said, lost) = insist(client, b"x");
        assert_eq!(said, b"2:x");
        all_lost += lost;
    }
    assert!(all_lost <= of_first, "{all_lost} of {of_first}");
    assert!(metric(&edge, "weir_edge_upstream_failed_connects_total") >= 1);
}

#[test]
fn the_only_endpoint_may_come_back() {
    let upstream = Echo::start("1:");
    let address = upstream.address;
    let edge = Edge::start(&to(&[address], ""));
    let client = client(&edge);
    assert_eq!(ask(&client, b"x"), b"1:x");
    drop(upstream);
    for _ in 0..5 {
        client.send(b"x").unwrap();
        pause(Duration::from_millis(20));
    }
    let _back = Echo::at("2:", address);
    assert_eq!(insist(&client, b"x").0, b"2:x");
}

#[test]
fn sessions_follow_the_configuration() {
    let (before, after) = (Echo::start("b:"), Echo::start("a:"));
    let mut edge = Edge::start(&to(&[before.address], ""));
    let client = client(&edge);
    assert_eq!(ask(&client, b"x"), b"b:x");
    // A change that has nothing to do with it.
    edge.activate(&(to(&[before.address], "") + &backend("other", after.address)));
    assert_eq!(ask(&client, b"x"), b"b:x");
    assert_eq!(before.sessions().len(), 1);
    // What was asked before is answered, and what is asked then goes elsewhere.
    client.send(b"1").unwrap();
    wait_for("the question to be there", || before.heard.lock().unwrap().len() == 3);
    edge.activate(&to(&[after.address], ""));
    client.send(b"2").unwrap();
    let both: HashSet<_> = [answer(&client), answer(&client)].into();
    assert_eq!(both, HashSet::from([b"b:1".to_vec(), b"a:2".to_vec()]));
    // Nobody's any more.
    edge.activate(POOL);
    client.send(b"x").unwrap();
    wait_for("it to be dropped", || dropped(&edge, "no_route") == 1);
}

#[test]
fn an_answer_that_is_late_for_a_change_comes_all_the_same() {
    let slow = UdpSocket::bind("127.0.0.1:0").unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let after = Echo::start("a:");
    let mut edge = Edge::start(&to(&[slow.local_addr().unwrap()], ""));
    let client = client(&edge);
    client.send(b"slow").unwrap();
    let (_, session) = slow.recv_from(&mut [0; 10]).unwrap();
    edge.activate(&to(&[after.address], ""));
    assert_eq!(ask(&client, b"fast"), b"a:fast");
    slow.send_to(b"at last", session).unwrap();
    assert_eq!(answer(&client), b"at last");
}

#[test]
fn without_a_backend_datagrams_are_dropped_and_counted() {
    let yaml = POOL.to_owned() + &route("UDPRoute", &["missing"]);
    let edge = Edge::start(&yaml);
    client(&edge).send(b"x").unwrap();
    wait_for("it to be dropped", || dropped(&edge, "no_endpoint") == 1);
    assert_eq!(metric(&edge, "weir_edge_udp_sessions"), 0);
}

#[test]
fn a_drain_waits_for_answers_and_no_longer() {
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    let edge = Edge::start(&to(&[upstream.local_addr().unwrap()], ""));
    let client = client(&edge);
    client.send(b"question").unwrap();
    let (_, session) = upstream.recv_from(&mut [0; 10]).unwrap();
    edge.runtime.block_on(edge.control.drain(PATIENCE * 10));
    upstream.send_to(b"answer", session).unwrap();
    assert_eq!(answer(&client), b"answer");
    // Another, where nobody else listens, is served.
    let late = client_of(edge.udp_at(53));
    late.send(b"question").unwrap();
    let (_, session) = upstream.recv_from(&mut [0; 10]).unwrap();
    upstream.send_to(b"answer", session).unwrap();
    assert_eq!(answer(&late), b"answer");
    // And none, where it stops to listen. The silence of a drain is shorter than that of other times.
    edge.drain(PATIENCE * 10);
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let upstream = Echo::start("");
    let edge = Edge::start(&to(&[upstream.address], ""));
    let client = client(&edge);
    assert_eq!(ask(&client, b"x"), b"x");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let talking = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            drop(client.send(b"x"));
            pause(Duration::from_millis(50));
        }
    });
    edge.drain(Duration::from_millis(1500));
    stop.store(true, Ordering::Relaxed);
    talking.join().unwrap();
}

#[test]
fn who_stops_to_listen_goes_on_with_what_there_is() {
    let upstream = Echo::start("");
    let edge = Edge::start(&to(&[upstream.address], ""));
    let (old, new) = (client(&edge), client(&edge));
    assert_eq!(ask(&old, b"x"), b"x");
    edge.runtime.block_on(edge.control.stop_listening());
    new.send(b"x").unwrap();
    wait_for("a new client to be dropped", || dropped(&edge, "limit") == 1);
    assert_eq!(ask(&old, b"x"), b"x");
}

#[test]
fn a_session_is_a_line_of_the_access_log() {
    let upstream = Echo::start("x:");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let yaml = to(&[upstream.address], "") + &policy("responses: 2");
    let (edge, log) = Edge::start_logging(&yaml, &file);
    let client = client(&edge);
    for _ in 0..2 {
        ask(&client, b"hello");
    }
    wait_for("the session to end", || metric(&edge, "weir_edge_udp_sessions") == 0);
    edge.drain(PATIENCE);
    assert!(log.close(PATIENCE));
    let text = std::fs::read_to_string(&file).unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, expect) in [
        ("protocol", "UDP"),
        ("route", "UDPRoute/default/udproute"),
        ("tenant", "static"),
        ("outcome", "forwarded"),
        ("client", "127.0.0.1"),
        ("upstream", &upstream.address.to_string()),
    ] {
        assert_eq!(line[name], expect, "{text}");
    }
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&10.into(), &14.into()));
}

/// Two threads, of which one leaves: its clients come to the other, and the others stay where they are.
#[test]
fn clients_of_a_slot_that_leaves_are_served_by_another() {
    let upstream = Echo::start("");
    let edges = [Edge::start(&to(&[upstream.address], "")), Edge::start(&to(&[upstream.address], ""))];
    let options = sys::reuseport::ReuseportOptions::default();
    let first = sys::reuseport::bind_udp("127.0.0.1:0".parse().unwrap(), options).unwrap();
    let bind = sys::reuseport::local_address(first.as_fd()).unwrap();
    let sockets: Vec<OwnedFd> = vec![first, sys::reuseport::bind_udp(bind, options).unwrap()];
    let key = sys::steer::CidKey::new([7; 8]);
    let steer = |active: &[u16]| {
        let group = sys::steer::Group { slots: &[0, 1], active };
        let program = sys::steer::Program::by_client(&group, key, false);
        sys::steer::attach(sockets[0].as_fd(), &program).unwrap();
    };
    steer(&[0, 1]);
    let listen = compile(&to(&[upstream.address], ""), 1).listen.into_iter().find(|l| l.port == 53 && l.raw);
    let listen = api::agent::Listen { bind, transport: api::agent::Transport::Udp, ..listen.unwrap() };
    for ((edge, socket), slot) in edges.iter().zip(&sockets).zip([0, 1]) {
        let slots = api::agent::Slots { listen: listen.clone(), slots: vec![slot] };
        let socket = vec![socket.try_clone().unwrap()];
        edge.runtime.block_on(edge.control.listen(slots, socket)).unwrap();
    }
    let clients: Vec<_> = (0..40).map(|_| client_of(bind)).collect();
    let round = || clients.iter().for_each(|client| assert_eq!(ask(client, b"x"), b"x"));
    round();
    round();
    let sessions = || edges.each_ref().map(|edge| metric(edge, "weir_edge_udp_sessions_total"));
    let [own, others] = sessions();
    assert!(own > 5 && others > 5 && own + others == 40, "{own} and {others}");
    steer(&[0]);
    round();
    assert_eq!(sessions(), [40, others], "those of the one that left, and only those, have a new session");
}
