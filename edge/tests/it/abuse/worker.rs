//! The worker that is attacked, in a process of its own: what it takes can then be told from what its attackers take.
//!
//! It reads what to be from a line of its standard input, says where it listens, and ends when its input does.

use std::{
    collections::BTreeSet,
    io::{BufRead, Read, Write},
    net::{TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use api::{
    agent::{Listen, Slots, Transport},
    quic::QuicSecret,
};
use dialect::{Environment, SourceFile};
use edge::{Config, Limits, PoolSettings, TenantTable, Worker, WorkerSettings, static_config};
use model::{CompileLimits, HostIndex, HostPattern, Revision, TenantId};
use serde::{Deserialize, Serialize};

/// What the worker serves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The objects of one tenant, who owns every host.
    pub(crate) alone: Option<String>,
    /// Tenants and their objects; `NAME.test` is theirs.
    pub(crate) tenants: Vec<(String, String)>,
    /// CPU time that each request costs beside its own.
    pub(crate) toll_us: u64,
}

impl Spec {
    fn load(&self) -> (Config, BTreeSet<Listen>) {
        if let Some(content) = self.alone.clone() {
            let file = SourceFile { name: "abuse.yaml".to_owned(), content };
            let loaded = static_config::compile(file, Revision(1)).unwrap();
            return (loaded.config, loaded.listen);
        }
        let mut config = Config::empty(PoolSettings::new("default".parse().unwrap()));
        let (mut owners, mut listen) = (Vec::new(), BTreeSet::new());
        for (name, content) in &self.tenants {
            let tenant: TenantId = name.parse().unwrap();
            let file = SourceFile { name: "abuse.yaml".to_owned(), content: content.clone() };
            let objects = dialect::parse(&[file]).unwrap();
            let compiled = dialect::compile(&objects, &Environment::of_tenant(tenant.clone(), "test", []));
            assert!(compiled.mistakes.is_empty(), "{:?}", compiled.mistakes);
            let table = TenantTable::compile(&compiled.config, &CompileLimits::default()).unwrap();
            owners.push((HostPattern::parse(&format!("{name}.test")).unwrap(), tenant.clone()));
            config.tenants.insert(tenant, Arc::new(table));
            let bind = "127.0.0.1:80".parse().unwrap();
            listen.insert(Listen { bind, port: 80, tls: false, transport: Transport::Tcp, raw: false });
        }
        config.hosts = Arc::new(HostIndex::new(owners).unwrap());
        config.revision = Revision(1);
        (config, listen)
    }
}

/// Is the worker, until its input ends.
#[expect(clippy::print_stdout, reason = "how it says where it listens")]
pub(crate) fn serve() {
    let mut line = String::new();
    let mut input = std::io::stdin().lock();
    input.read_line(&mut line).unwrap();
    let spec: Spec = serde_json::from_str(&line).unwrap();
    let (config, listens) = spec.load();
    let limits = Limits { toll: Duration::from_micros(spec.toll_us), ..Limits::default() };
    let settings = WorkerSettings {
        pool: config.pool.clone(),
        threads: 1,
        limits,
        quic: QuicSecret::new([7; 32]),
        tracing: None,
    };
    let worker = Worker::start(&settings).unwrap();
    let control = worker.control();
    control.activate(config).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for listen in listens {
        let udp = listen.transport == Transport::Udp;
        let (socket, address): (OwnedFd, _) = if udp {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let address = socket.local_addr().unwrap();
            (socket.into(), address)
        } else {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            // As long as that of the sockets that an agent lends.
            rustix::net::listen(&socket, 4096).unwrap();
            let address = socket.local_addr().unwrap();
            (socket.into(), address)
        };
        println!("\nport {} {} {address}", listen.port, if udp { "udp" } else { "tcp" });
        let slots = Slots { listen, slots: vec![0] };
        runtime.block_on(control.listen(slots, vec![socket])).unwrap();
    }
    control.ready();
    println!("\nready");
    std::io::stdout().flush().unwrap();
    drop(input.read_to_end(&mut Vec::new()));
}
