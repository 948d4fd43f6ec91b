//! A worker in this process, a scripted upstream and a client that says exactly what it is told.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use api::{
    agent::{Slots, Transport},
    quic::QuicSecret,
};
use dialect::SourceFile;
use edge::{
    Control, Limits, Worker, WorkerSettings,
    accesslog::{AccessLog, Logger, Sink},
    static_config,
    trace::Tracing,
};
use model::Revision;

/// Long enough for a loaded machine, short enough to see a hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A worker that serves a text.
pub(crate) struct Edge {
    pub(crate) control: Control,
    worker: Option<Worker>,
    ports: HashMap<u16, SocketAddr>,
    udp_ports: HashMap<u16, SocketAddr>,
    /// All addresses, in the order in which they were given.
    pub(crate) bound: Vec<SocketAddr>,
    pub(crate) runtime: tokio::runtime::Runtime,
    revision: u64,
}

impl Edge {
    pub(crate) fn start(yaml: &str) -> Self {
        Self::start_with(yaml, Limits::default())
    }

    pub(crate) fn start_with(yaml: &str, limits: Limits) -> Self {
        Self::start_on(yaml, limits, &["127.0.0.1:0"])
    }

    /// With an access log in a file, to be closed after the drain.
    pub(crate) fn start_logging(yaml: &str, file: &std::path::Path) -> (Self, AccessLog) {
        let log = AccessLog::start(&Sink::File(file.to_owned()), "test").unwrap();
        (Self::start_as(yaml, Limits::default(), &["127.0.0.1:0"], &|| log.logger(), None), log)
    }

    /// A thread for each address; what `at` says is the last one's.
    pub(crate) fn start_on(yaml: &str, limits: Limits, addresses: &[&str]) -> Self {
        Self::start_as(yaml, limits, addresses, &Logger::off, None)
    }

    pub(crate) fn start_as(
        yaml: &str,
        limits: Limits,
        addresses: &[&str],
        logger: &dyn Fn() -> Logger,
        tracing: Option<Tracing>,
    ) -> Self {
        let loaded = compile(yaml, 1);
        let threads = addresses.len();
        let settings = WorkerSettings {
            pool: loaded.config.pool.clone(),
            threads,
            limits,
            quic: QuicSecret::new([7; 32]),
            tracing,
        };
        let worker = Worker::start_logging(&settings, logger).unwrap();
        let control = worker.control();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        control.activate(loaded.config).unwrap();
        let (mut ports, mut udp_ports, mut bound) = (HashMap::new(), HashMap::new(), Vec::new());
        for listen in loaded.listen {
            let mut sockets = Vec::new();
            for address in addresses {
                if listen.transport == Transport::Udp {
                    let socket = UdpSocket::bind(address).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    udp_ports.insert(listen.port, socket.local_addr().unwrap());
                    sockets.push(OwnedFd::from(socket));
                    continue;
                }
                let listener = TcpListener::bind(address).unwrap();
                listener.set_nonblocking(true).unwrap();
                ports.insert(listen.port, listener.local_addr().unwrap());
                bound.push(listener.local_addr().unwrap());
                sockets.push(OwnedFd::from(listener));
            }
            let slots = Slots { listen, slots: (0..).take(sockets.len()).collect() };
            runtime.block_on(control.listen(slots, sockets)).unwrap();
        }
        control.ready();
        Self { control, worker: Some(worker), ports, udp_ports, bound, runtime, revision: 1 }
    }

    pub(crate) fn activate(&mut self, yaml: &str) {
        self.revision += 1;
        self.control.activate(compile(yaml, self.revision).config).unwrap();
    }

    /// Where a Gateway's port is.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        self.ports[&port]
    }

    /// Where a Gateway's port is as the configuration has it: the worker takes that for its address.
    pub(crate) fn bound_as_configured(&self, port: u16) -> SocketAddr {
        let held = self.control.held_slots().unwrap();
        held.iter().find(|(slots, _)| slots.listen.port == port).unwrap().0.listen.bind
    }

    /// Where a Gateway's port is by UDP.
    pub(crate) fn udp_at(&self, port: u16) -> SocketAddr {
        self.udp_ports[&port]
    }

    pub(crate) fn has_udp(&self, port: u16) -> bool {
        self.udp_ports.contains_key(&port)
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.at(80))
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n"))
    }

    pub(crate) fn ask(&self, request: &str) -> Response {
        let mut client = self.connect();
        client.send(request.as_bytes());
        client.response()
    }

    /// Drains, and returns when the worker's threads have ended.
    pub(crate) fn drain(self, deadline: Duration) {
        drop(self.drain_apart(deadline));
    }

    /// As [`drain`](Self::drain); what else was spawned on the runtime goes on.
    pub(crate) fn drain_apart(mut self, deadline: Duration) -> tokio::runtime::Runtime {
        self.runtime.block_on(async {
            self.control.stop_listening().await;
            self.control.drain(deadline).await;
            tokio::time::timeout(PATIENCE, self.control.drained()).await.unwrap();
        });
        self.worker.take().unwrap().join();
        self.runtime
    }
}

pub(crate) fn compile(yaml: &str, revision: u64) -> static_config::Loaded {
    let file = SourceFile { name: "test.yaml".to_owned(), content: yaml.to_owned() };
    static_config::compile(file, Revision(revision)).unwrap()
}

/// A gateway on port 80, and a route `all` with these rules.
pub(crate) fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: weir
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: all}}
spec:
  parentRefs: [{{name: gateway}}]
  rules:
{rules}
"
    )
}

/// A Backend of that name.
pub(crate) fn backend(name: &str, address: SocketAddr) -> String {
    format!(
        "---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: {name}}}
spec: {{endpoints: [{{address: \"{address}\"}}]}}
"
    )
}

/// A Secret with a certificate.
pub(crate) fn secret(name: &str, chain: &str, key: &str) -> String {
    let indent = |pem: &str| pem.lines().map(|l| format!("    {l}\n")).collect::<String>();
    format!(
        "---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}}}\n\
         stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(chain),
        indent(key),
    )
}

/// A rule that forwards to a backend.
pub(crate) fn forward(name: &str) -> String {
    format!("  - backendRefs: [{{group: weir.dev, kind: Backend, name: {name}}}]\n")
}

/// Everything goes to `upstream`.
pub(crate) fn proxy(upstream: &Upstream) -> String {
    route(&forward("up")) + &backend("up", upstream.address)
}

/// What an upstream received, and how it answers.
pub(crate) struct Exchange {
    pub(crate) stream: TcpStream,
    pending: Vec<u8>,
    /// The number of the connection, from 0.
    pub(crate) connection: usize,
    /// The number of the request on it, from 0.
    pub(crate) request: usize,
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received {
    pub(crate) head: String,
    /// After the head, with chunk framing.
    pub(crate) raw: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
}

impl Received {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

pub(crate) fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl Exchange {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may be gone; what matters is what it saw.
        drop(self.stream.write_all(bytes.as_ref()));
    }

    pub(crate) fn reply(&mut self, body: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }

    pub(crate) fn close(&mut self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// Reads a head; `None` at the end of the connection.
    pub(crate) fn head(&mut self) -> Option<Received> {
        let head = read_head(&mut self.stream, &mut self.pending)?;
        Some(Received { head, ..Received::default() })
    }

    /// Reads whatever comes next; `None` at the end.
    pub(crate) fn some(&mut self) -> Option<Vec<u8>> {
        let more = !self.pending.is_empty() || fill(&mut self.stream, &mut self.pending);
        more.then(|| std::mem::take(&mut self.pending))
    }

    /// Says no more.
    pub(crate) fn end(&mut self) {
        drop(self.stream.shutdown(Shutdown::Write));
    }

    /// Breaks the connection, once it is dropped.
    pub(crate) fn reset(&mut self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads up to and with `end`.
    pub(crate) fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.pending.windows(end.len()).position(|w| w == end) {
                return self.pending.drain(..at + end.len()).collect();
            }
            assert!(fill(&mut self.stream, &mut self.pending), "the connection ended");
        }
    }

    /// Reads so many bytes.
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.pending.len() < count {
            assert!(fill(&mut self.stream, &mut self.pending), "the connection ended");
        }
        self.pending.drain(..count).collect()
    }

    /// Reads the body that the head announces.
    pub(crate) fn body(&mut self, received: &mut Received) {
        read_body(&mut self.stream, &mut self.pending, received, false);
    }
}

fn fill(stream: &mut TcpStream, pending: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 65536];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(count) => {
            pending.extend_from_slice(&buffer[..count]);
            true
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("nothing came for {PATIENCE:?}; before that {:?}", String::from_utf8_lossy(pending))
        }
        Err(_) => false,
    }
}

fn read_head(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = pending.drain(..end + 4).collect();
            return Some(String::from_utf8(head).unwrap());
        }
        if !fill(stream, pending) {
            return None;
        }
    }
}

/// Reads what the head announces. Whether it was whole.
fn read_body(
    stream: &mut TcpStream,
    pending: &mut Vec<u8>,
    message: &mut Received,
    until_close: bool,
) -> bool {
    let take = |stream: &mut TcpStream, pending: &mut Vec<u8>, count: usize| {
        while pending.len() < count {
            if !fill(stream, pending) {
                return None;
            }
        }
        Some(pending.drain(..count).collect::<Vec<u8>>())
    };
    if header(&message.head, "transfer-encoding").is_some() {
        loop {
            let Some(line) = read_line(stream, pending) else { return false };
            message.raw.extend_from_slice(line.as_bytes());
            let size = usize::from_str_radix(line.trim_end().split(';').next().unwrap(), 16).unwrap();
            if size == 0 {
                break;
            }
            let Some(chunk) = take(stream, pending, size + 2) else {
                message.body.append(pending);
                return false;
            };
            message.raw.extend_from_slice(&chunk);
            message.body.extend_from_slice(&chunk[..size]);
        }
        loop {
            let Some(line) = read_line(stream, pending) else { return false };
            message.raw.extend_from_slice(line.as_bytes());
            if line == "\r\n" {
                return true;
            }
            message.trailers.push_str(&line);
        }
    }
    if let Some(length) = header(&message.head, "content-length") {
        return match take(stream, pending, length.parse().unwrap()) {
            Some(body) => {
                message.raw.clone_from(&body);
                message.body = body;
                true
            }
            None => {
                message.body.append(pending);
                false
            }
        };
    }
    if until_close {
        while fill(stream, pending) {}
        message.body.append(pending);
    }
    true
}

fn read_line(stream: &mut TcpStream, pending: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = pending.windows(2).position(|w| w == b"\r\n") {
            return Some(String::from_utf8(pending.drain(..end + 2).collect()).unwrap());
        }
        if !fill(stream, pending) {
            return None;
        }
    }
}

/// An upstream that answers as a closure says.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<Mutex<usize>>,
}

impl Upstream {
    /// Answers whole requests with `answer`.
    pub(crate) fn start(answer: impl Fn(&mut Exchange, &Received) + Send + Sync + 'static) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        let mut upstream = Self::raw(move |exchange| {
            while let Some(mut request) = exchange.head() {
                if request.header("expect").is_some() {
                    exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
                }
                exchange.body(&mut request);
                log.lock().unwrap().push(request.clone());
                answer(exchange, &request);
                exchange.request += 1;
            }
        });
        upstream.received = received;
        upstream
    }

    /// Answers 200 with that body.
    pub(crate) fn saying(body: &'static str) -> Self {
        Self::start(move |exchange, _| exchange.reply(body))
    }

    /// Does with each connection what `serve` does.
    pub(crate) fn raw(serve: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        Self::raw_on("127.0.0.1:0", serve)
    }

    pub(crate) fn raw_on(address: &str, serve: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(0));
        let (serve, counter) = (Arc::new(serve), Arc::clone(&connections));
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                *counter.lock().unwrap() += 1;
                let serve = Arc::clone(&serve);
                stream.set_nodelay(true).unwrap();
                thread::spawn(move || {
                    serve(&mut Exchange { stream, pending: Vec::new(), connection, request: 0 });
                });
            }
        });
        Self { address, received: Arc::default(), connections }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Received {
        self.received().pop().expect("the upstream received nothing")
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

/// Waits until something holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        pause(Duration::from_millis(5));
    }
}

/// Lets time pass, where that is what a test is about.
#[expect(clippy::disallowed_methods, reason = "the test's own thread, on which nothing else runs")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}

/// Whether a program is there; says so if it is not.
#[expect(clippy::print_stdout, reason = "tests that are skipped say so")]
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: there is no {program}");
    }
    found
}

/// An address that nobody listens on.
pub(crate) fn dead_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A gate that one thread waits at until another opens it.
pub(crate) fn gate() -> (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>) {
    let (open, wait) = mpsc::channel();
    (open, Arc::new(Mutex::new(wait)))
}

/// Waits for a gate.
pub(crate) fn pass(gate: &Mutex<mpsc::Receiver<()>>) {
    gate.lock().unwrap().recv_timeout(PATIENCE).expect("the gate was never opened");
}

/// A client on one connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pending: Vec<u8>,
}

/// A response as it came.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: String,
    /// It came to its end.
    pub(crate) whole: bool,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn on(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, pending: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn response(&mut self) -> Response {
        self.response_to("GET").expect("the connection was closed without a response")
    }

    /// The response to a request of that method; `None` if the connection ends without one.
    pub(crate) fn response_to(&mut self, method: &str) -> Option<Response> {
        let head = read_head(&mut self.stream, &mut self.pending)?;
        let status = head[9..12].parse().unwrap();
        let mut message = Received { head, ..Received::default() };
        let bodied = method != "HEAD" && !matches!(status, 100..=199 | 204 | 304);
        let whole = !bodied || read_body(&mut self.stream, &mut self.pending, &mut message, true);
        let Received { head, body, trailers, .. } = message;
        Some(Response { status, head, body, trailers, whole })
    }

    /// The next bytes behind the last response, of which some may have come with it.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        while self.pending.len() < N {
            assert!(fill(&mut self.stream, &mut self.pending), "the connection ended too early");
        }
        let rest = self.pending.split_off(N);
        std::mem::replace(&mut self.pending, rest).try_into().unwrap()
    }

    /// Whether the other side closes the connection and says no more.
    pub(crate) fn is_closed(&mut self) -> bool {
        !fill(&mut self.stream, &mut self.pending) && self.pending.is_empty()
    }
}
