//! The server: a store, a controller and its feed.

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use api::{
    admin, feed,
    pki::{Ca, Identity, Request, Role, RoleKind},
};
use controller::{Config, Controller, EventStream, Fleet, FleetError, Intake, ReplyStream, ReportStream};
use futures_util::{StreamExt as _, future::BoxFuture, stream};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use model::{PoolName, WorkerId};
use store::{Store, seal::Sealer};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tonic::service::Routes;

use crate::{
    PATIENCE, Plan, config,
    figures::{Written, now, quantile},
};

/// A server with everything stored and compiled.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) ca: Arc<Ca>,
    store: store::Handle,
    shutdown: watch::Sender<bool>,
    counts: Counts,
    about: String,
    _controller: Arc<Controller>,
}

struct Nobody;

impl Fleet for Nobody {
    fn workers(&self, _pool: Option<&PoolName>) -> Vec<admin::Worker> {
        vec![]
    }

    fn drain(&self, worker: WorkerId) -> BoxFuture<'_, Result<(), FleetError>> {
        Box::pin(async move { Err(FleetError::Unknown(worker)) })
    }

    fn events(&self, _pool: Option<PoolName>, _limit: usize, _follow: bool) -> EventStream {
        Box::pin(stream::empty())
    }
}

impl Intake for Nobody {
    fn report(&self, _role: Role, reports: ReportStream) -> ReplyStream {
        Box::pin(reports.map(|report| report.map(|_| feed::ReportReply { retire_above_connections: 0 })))
    }
}

impl Server {
    pub(crate) async fn start(directory: &Path, plan: &Plan) -> Result<Self> {
        let counts = Counts::default();
        metrics::set_global_recorder(counts.clone()).ok().context("install the recorder")?;
        let began = resident(std::process::id())?;
        let store = Store::open(store::Config::new(directory.join("store"))).await?;
        for n in 0..plan.tenants {
            store.txn(config::create(n, plan.routes)).await?;
        }
        let stored = resident(std::process::id())?;

        let ca = Arc::new(Ca::create("bench", SystemTime::now())?);
        let (shutdown_sender, shutdown) = watch::channel(false);
        let reading = Instant::now();
        let controller = Controller::start(Config {
            store: store.clone(),
            sealer: Arc::new(Sealer::from_file(&directory.join("kek"))?),
            ca: ca.clone(),
            joins: controller::Joins::default(),
            others: None,
            domain: "localhost".into(),
            default_pool: dialect::PoolSpec::default(),
            fleet: Arc::new(Nobody),
            intake: Arc::new(Nobody),
            shutdown,
        })
        .await?;
        let took = reading.elapsed();
        let controller = Arc::new(controller);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (serving, identity, ca_pem) =
            (controller.clone(), issue(&ca, RoleKind::Server)?, ca.cert_pem().to_owned());
        tokio::spawn(
            async move { serving.serve_feed(listener, &identity, &ca_pem, Routes::default()).await },
        );

        let world = controller.world().borrow().clone();
        let snapshots = || world.tenants.values().filter_map(|state| state.snapshot.as_ref());
        let raw: usize = snapshots().map(|s| s.bytes.len()).sum();
        let packed: usize = snapshots().filter_map(|s| api::convert::pack(&s.bytes)).map(|f| f.len()).sum();
        let routes = plan.tenants * plan.routes;
        let now = resident(std::process::id())?;
        let about = format!(
            "{routes} routes in {} tenants: snapshots {:.1} MB, {:.1} MB as frames; read and compiled in {} ms; the server's \
             memory {} bytes a route, of it the store's {}",
            snapshots().count(),
            megabytes(raw),
            megabytes(packed),
            took.as_millis(),
            (now - began) / routes,
            (stored - began) / routes,
        );

        let edge = issue(&ca, RoleKind::Edge)?;
        for (name, content) in [
            ("address", &address),
            ("ca", &ca.cert_pem().to_owned()),
            ("cert", &edge.cert_pem),
            ("key", &edge.key_pem),
        ] {
            std::fs::write(directory.join(name), content)?;
        }
        Ok(Self { address, ca, store, shutdown: shutdown_sender, counts, about, _controller: controller })
    }

    pub(crate) fn describe(&self) -> &str {
        &self.about
    }

    pub(crate) fn identity(&self) -> Result<Identity> {
        issue(&self.ca, RoleKind::Edge)
    }

    /// Writes changes in open loop: each at its time, whether or not those before are done.
    pub(crate) async fn write_changes(&self, plan: &Plan) -> Result<Vec<Written>> {
        let pause = Duration::from_secs(1) / plan.rate;
        let count = u32::try_from(plan.span.as_nanos() / pause.as_nanos())?;
        let begin = tokio::time::Instant::now();
        let mut writing = vec![];
        for n in 0..count {
            tokio::time::sleep_until(begin + pause * n).await;
            let (store, n) = (self.store.clone(), usize::try_from(n)?);
            // Another tenant each time, in no order that the store knows.
            let change = config::change(n * 7919 % plan.tenants, n * 31 % plan.routes, n + 2);
            writing.push(tokio::spawn(async move {
                let began = now();
                let revision = store.txn(change).await?.revision.0;
                Ok::<_, store::TxnError>(Written { revision, began, committed: now() })
            }));
        }
        let mut written = vec![];
        for change in writing {
            written.push(change.await??);
        }
        Ok(written)
    }

    pub(crate) fn counters(&self) -> Sample {
        let cpu = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks = cpu.rsplit(')').next().map(|rest| {
            rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>()
        });
        let compiles = self.counts.compiles.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Sample { at: Instant::now(), cpu_ticks: ticks.unwrap_or(0), counts: self.counts.read(), compiles }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.send_replace(true);
        timeout(PATIENCE, self.store.shutdown()).await.ok();
    }
}

fn issue(ca: &Ca, kind: RoleKind) -> Result<Identity> {
    let request = Request {
        kind,
        name: "local".into(),
        dns: vec![],
        ips: vec![],
        lifetime: Duration::from_secs(86_400),
    };
    Ok(ca.issue(&request, SystemTime::now())?)
}

fn megabytes(bytes: usize) -> f64 {
    u32::try_from(bytes / 1000).map_or(f64::INFINITY, f64::from) / 1000.0
}

/// Resident memory of a process, bytes.
pub(crate) fn resident(pid: u32) -> Result<usize> {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: usize = pages.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * rustix::param::page_size())
}

/// The server's counters at one time.
pub(crate) struct Sample {
    at: Instant,
    cpu_ticks: u64,
    counts: BTreeMap<String, u64>,
    /// Milliseconds from a change that was seen to the configuration that is shown.
    compiles: Vec<f64>,
}

impl Sample {
    pub(crate) fn since(&self, before: &Self, changes: usize) -> impl fmt::Display {
        use controller::metric;
        let of = |name: &str| {
            let count = |sample: &Self| sample.counts.get(name).copied().unwrap_or(0);
            count(self) - count(before)
        };
        let sent = of(metric::DELTAS_SENT).max(1);
        let seconds = (self.at - before.at).as_secs_f64();
        // Linux counts a hundred ticks a second.
        let cpu = u32::try_from(self.cpu_ticks - before.cpu_ticks).map_or(f64::INFINITY, f64::from) / 100.0;
        let mut compiles = self.compiles.get(before.compiles.len()..).unwrap_or_default().to_vec();
        compiles.sort_by(f64::total_cmp);
        format!(
            "{changes} changes in {seconds:.1} s: {} tenants compiled ({:.1} ms, p50), {} deltas encoded, {sent} sent, {} bytes each; the \
             server took {:.0} % of a core",
            of(metric::TENANTS_COMPILED),
            quantile(&compiles, 500),
            of(metric::DELTAS_ENCODED),
            of(metric::DELTA_BYTES) / sent,
            cpu / seconds * 100.0,
        )
    }
}

/// Counters by name, and how long compiling takes; the rest is not looked at.
#[derive(Debug, Clone, Default)]
struct Counts {
    counters: Arc<Mutex<BTreeMap<String, Arc<Count>>>>,
    compiles: Arc<Compiles>,
}

/// Milliseconds, in the order of time.
#[derive(Debug, Default)]
struct Compiles(Mutex<Vec<f64>>);

impl HistogramFn for Compiles {
    fn record(&self, seconds: f64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seconds * 1e3);
    }
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl Counts {
    fn read(&self) -> BTreeMap<String, u64> {
        let counts = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(name, count)| (name.clone(), count.0.load(Ordering::Relaxed))).collect()
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counts = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        Counter::from_arc(counts.entry(key.name().to_owned()).or_default().clone())
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        if key.name() == controller::metric::COMPILE_SECONDS {
            return Histogram::from_arc(self.compiles.clone());
        }
        Histogram::noop()
    }
}
