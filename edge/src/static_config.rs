//! A worker that serves a file, with no control plane: a plain reverse proxy.
//!
//! The file holds the same objects that a tenant applies. All of it belongs to one tenant, which owns every host.
//! SIGHUP reads it again: a file with mistakes is refused as a whole and what was served goes on.

mod metrics;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use api::{
    agent::{Listen, Slots, Transport},
    quic::QuicSecret,
};
use dialect::{Environment, Http3, Mistake, Object, PoolSpec, SourceFile, Spec};
use model::{
    CompileLimits, Epoch, HostIndex, ListenerProtocol, PoolName, Revision, TenantConfig, TenantId,
    TrafficQuota,
};
use rustls::sign::CertifiedKey;
use sys::{
    reuseport::{self, ReuseportOptions},
    steer::{self, CidKey, Program},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::{
    accesslog::{AccessLog, LAST_LINES, Sink},
    config::{Config, PoolSettings, PortSettings, TenantTable, load_certificate},
    confine::{self, confine_worker},
    limits::Limits,
    shared::Control,
    tls,
    trace::TraceArgs,
    worker::{Worker, WorkerSettings},
};

/// What a standalone worker is started with.
#[derive(Debug, Clone)]
pub struct StaticArgs {
    /// The file with the objects.
    pub file: PathBuf,
    /// Request threads; one core each.
    pub threads: usize,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
    /// Where the access log goes.
    pub access_log: Sink,
    /// Whether and how requests are traced.
    pub tracing: Option<TraceArgs>,
}

/// Serves a file until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When the file has mistakes at the start, or its addresses cannot be listened on.
pub fn run_static(args: &StaticArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &StaticArgs) -> anyhow::Result<()> {
    let mut shutdown = api::process::shutdown_signal()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let loaded = load(&args.file, Revision(1))?;
    let mut drain_deadline = loaded.config.pool.drain_deadline;

    // Nobody else serves the same addresses.
    let quic = QuicSecret::new(rand::random());
    let cid_key = CidKey::new(quic.cid_key());
    let (tracing, export) = args.tracing.clone().map(TraceArgs::open).unzip();
    let settings = WorkerSettings {
        pool: loaded.config.pool.clone(),
        threads: args.threads,
        limits: Limits::default(),
        quic,
        tracing,
    };
    // Before there is another thread. The directory, for editors replace files.
    let beside = confine::directory(&args.file);
    confine_worker(&[&beside], &[], &args.access_log, true).context("confine the worker")?;
    let log = AccessLog::start(&args.access_log, "static")
        .with_context(|| format!("open the access log {}", args.access_log))?;
    let worker = Worker::start_logging(&settings, &|| log.logger()).context("start the request threads")?;
    drop(settings);
    let control = worker.control();
    let exporting = export.map(|export| export.start("static", &control));
    tls::warm_up()?;
    let mut open = Open { listen: BTreeSet::new(), cid_key };
    open.take(&control, loaded).await?;
    control.ready();
    if let Some(address) = args.metrics {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("listen on {address} for metrics"))?;
        info!(%address, "serving metrics");
        tokio::spawn(metrics::serve(listener, control.clone()));
    }

    let mut revision = 1;
    loop {
        tokio::select! {
            () = api::process::shut_down(&mut shutdown) => break,
            _ = hangup.recv() => {}
        }
        if !log.reopen() {
            warn!("the access log is too far behind to be opened again");
        }
        revision += 1;
        match load(&args.file, Revision(revision)) {
            Ok(loaded) => {
                drain_deadline = loaded.config.pool.drain_deadline;
                match open.take(&control, loaded).await {
                    Ok(()) => info!(revision, "reloaded"),
                    Err(error) => error!(
                        error = format!("{error:#}"),
                        "reloaded, but not all addresses are listened on"
                    ),
                }
            }
            Err(error) => {
                error!(error = format!("{error:#}"), "the file is refused; what was served goes on")
            }
        }
    }

    info!(deadline_ms = drain_deadline.as_millis(), "draining");
    tokio::join!(control.drain(drain_deadline), control.stop_listening());
    control.drained().await;
    worker.join();
    if !log.close(LAST_LINES) {
        warn!("the access log did not take its last lines");
    }
    if let Some(exporting) = exporting {
        exporting.end().await;
    }
    Ok(())
}

/// A file, ready to be served.
#[derive(Debug)]
pub struct Loaded {
    /// What is served.
    pub config: Config,
    /// Where it is served.
    pub listen: BTreeSet<Listen>,
}

/// Reads and compiles a file.
///
/// # Errors
/// All its mistakes together, a line for each.
pub fn load(file: &Path, revision: Revision) -> anyhow::Result<Loaded> {
    let content = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    compile(SourceFile { name: file.display().to_string(), content }, revision)
}

/// Compiles the text of a file.
///
/// # Errors
/// As [`load`].
pub fn compile(file: SourceFile, revision: Revision) -> anyhow::Result<Loaded> {
    let name = file.name.clone();
    let objects = dialect::parse(&[file]).map_err(|mistakes| refused(&name, &mistakes))?;
    let tenant: TenantId = "static".parse()?;
    let mut environment = Environment::standalone(tenant.clone());
    environment.pools.extend(pools(&objects)?);
    environment.quota = quota(&objects, &tenant).map_err(|mistake| refused(&name, &[mistake]))?;
    let compiled = dialect::compile(&objects, &environment);
    if !compiled.mistakes.is_empty() {
        return Err(refused(&name, &compiled.mistakes));
    }
    for status in &compiled.statuses {
        for condition in status.conditions.iter().filter(|c| !c.status) {
            warn!(object = %status.key, condition = condition.kind, reason = condition.reason, "{}", condition.message);
        }
    }
    let table = TenantTable::compile(&compiled.config, &CompileLimits::default())
        .map_err(|rejected| refused(&name, &rejected))?;
    let pool = &environment.pools[&environment.default_pool];
    let ports = environment.pools.values().flat_map(|pool| port_settings(pool, &tenant)).collect();
    let config = Config {
        epoch: Epoch::default(),
        revision,
        hosts: Arc::new(HostIndex::default().with_catch_all(tenant.clone())),
        tenants: [(tenant, Arc::new(table))].into_iter().collect(),
        pool: PoolSettings {
            name: environment.default_pool.clone(),
            drain_deadline: pool.drain_deadline,
            max_connection_age: Some(pool.max_connection_age),
            advertise_h3: pool.http3 == Http3::On,
            ports,
            connect_private: true,
        },
        default_certificate: default_certificate(&compiled.config)?,
        ticket_keys: None,
    };
    Ok(Loaded { config, listen: listen(&compiled.config, &environment.pools) })
}

fn refused(file: &str, mistakes: &[impl std::fmt::Display]) -> anyhow::Error {
    let lines: Vec<_> = mistakes.iter().map(|mistake| format!("  {mistake}")).collect();
    anyhow::anyhow!("{file} has {} mistake(s):\n{}", mistakes.len(), lines.join("\n"))
}

fn pools(objects: &[Object]) -> anyhow::Result<BTreeMap<PoolName, PoolSpec>> {
    let mut pools = BTreeMap::new();
    for object in objects {
        if let Spec::Pool(pool) = &object.spec {
            pools.insert(object.key.name.parse()?, pool.clone().or_listen(&PoolSpec::default()));
        }
    }
    Ok(pools)
}

/// What a Tenant object says of the one tenant.
fn quota(objects: &[Object], tenant: &TenantId) -> Result<TrafficQuota, Box<Mistake>> {
    let mut quota = TrafficQuota::default();
    for object in objects {
        let Spec::Tenant(spec) = &object.spec else { continue };
        if object.key.name != tenant.as_str() {
            let mistake = Mistake::at(&object.source, &object.key, "metadata.name").because(
                "a file that is served alone is one tenant's",
                format!("call the Tenant {tenant}, or leave it out"),
            );
            return Err(Box::new(mistake));
        }
        quota = spec.quotas.traffic;
    }
    Ok(quota)
}

/// Every port is the one tenant's.
fn port_settings(pool: &PoolSpec, tenant: &TenantId) -> impl Iterator<Item = PortSettings> {
    pool.listen.iter().filter(|listen| listen.proxy.is_some() || !listen.protocol.names_hosts()).map(
        |listen| PortSettings {
            port: listen.port,
            udp: listen.protocol.is_udp(),
            proxy: listen.proxy.clone(),
            tenant: (!listen.protocol.names_hosts()).then(|| tenant.clone()),
        },
    )
}

/// Where the listeners' ports are served: as their pools say; a port that no pool maps is served as it is.
fn listen(config: &TenantConfig, pools: &BTreeMap<PoolName, PoolSpec>) -> BTreeSet<Listen> {
    let bind = |listener: &model::Listener| {
        let pool = pools.get(&listener.pool);
        let mapped = pool.and_then(|pool| pool.listen_for(listener.port, listener.protocol));
        mapped.map_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, listener.port)), |listen| listen.bind)
    };
    let mut all = BTreeSet::new();
    for listener in &config.listeners {
        let own = Listen {
            bind: bind(listener),
            port: listener.port,
            tls: listener.protocol.is_tls(),
            transport: if listener.protocol.is_udp() { Transport::Udp } else { Transport::Tcp },
            raw: !listener.protocol.is_http(),
        };
        if listener.protocol == ListenerProtocol::Https
            && pools.get(&listener.pool).is_none_or(|pool| pool.http3 != Http3::Off)
        {
            all.insert(Listen { transport: Transport::Udp, ..own.clone() });
        }
        all.insert(own);
    }
    all
}

/// For HTTPS listeners without a certificate, which nobody but a test should have: self-signed.
fn default_certificate(config: &TenantConfig) -> anyhow::Result<Option<Arc<CertifiedKey>>> {
    let bare = |l: &model::Listener| l.protocol.ends_tls() && l.certificates.is_empty();
    if !config.listeners.iter().any(bare) {
        return Ok(None);
    }
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let loaded = load_certificate(&made.cert.pem(), &made.signing_key.serialize_pem());
    Ok(Some(loaded.map_err(anyhow::Error::msg)?))
}

/// The addresses that are listened on.
#[derive(Debug)]
struct Open {
    listen: BTreeSet<Listen>,
    cid_key: CidKey,
}

/// How long an address may be held by the instance before us, which is draining.
const TAKE_OVER: Duration = Duration::from_secs(5);

impl Open {
    /// Serves what was loaded: first the configuration, then its new addresses; old ones are closed.
    async fn take(&mut self, control: &Control, loaded: Loaded) -> anyhow::Result<()> {
        control.activate(loaded.config)?;
        let slots = |listen: &Listen| -> anyhow::Result<Slots> {
            let count = u32::try_from(control.threads())?;
            Ok(Slots { listen: listen.clone(), slots: (0..count).collect() })
        };
        for gone in self.listen.difference(&loaded.listen) {
            control.unlisten(&slots(gone)?).await;
        }
        self.listen.retain(|listen| loaded.listen.contains(listen));
        let mut problems = Vec::new();
        for new in loaded.listen.difference(&self.listen.clone()) {
            let opened = async {
                wait_until_free(new).await?;
                let slots = slots(new)?;
                let sockets = slots.slots.iter().map(|_| bind(new)).collect::<io::Result<Vec<_>>>()?;
                if new.transport == Transport::Udp {
                    self.steer(new, &sockets)?;
                }
                control.listen(slots, sockets).await?;
                anyhow::Ok(())
            };
            match opened.await {
                Ok(()) => {
                    info!(bind = %new.bind, port = new.port, tls = new.tls, transport = ?new.transport, "listening");
                    self.listen.insert(new.clone());
                }
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("; ")) }
    }

    /// Leads the datagrams of a QUIC connection to the thread that has it, wherever its client sends them from, and other
    /// datagrams of one client to one thread.
    fn steer(&self, listen: &Listen, sockets: &[OwnedFd]) -> anyhow::Result<()> {
        let slots = (0..u16::try_from(sockets.len())?).collect::<Vec<_>>();
        let group = steer::Group { slots: &slots, active: &slots };
        if let Some(first) = sockets.first() {
            let program = match listen.raw {
                true => Program::by_client(&group, self.cid_key, listen.bind.is_ipv6()),
                false => Program::new(&group, self.cid_key),
            };
            steer::attach(first.as_fd(), &program)
                .with_context(|| format!("steer the datagrams of {}", listen.bind))?;
        }
        Ok(())
    }
}

fn bind(listen: &Listen) -> io::Result<OwnedFd> {
    let options = ReuseportOptions::default();
    match listen.transport {
        Transport::Tcp => reuseport::bind_tcp(listen.bind, options),
        Transport::Udp => reuseport::bind_udp(listen.bind, options),
    }
}

/// Refuses to share an address with a stranger: the kernel would give each of us a part of the connections.
async fn wait_until_free(listen: &Listen) -> io::Result<()> {
    let began = Instant::now();
    loop {
        let probed = match listen.transport {
            Transport::Tcp => reuseport::probe_tcp(listen.bind),
            Transport::Udp => reuseport::probe_udp(listen.bind),
        };
        match probed {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < TAKE_OVER => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            result => return result,
        }
    }
}
