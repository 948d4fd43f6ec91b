//! Real workers, with this process as their agent. A worker says when a configuration became active in its log: that is
//! read in the worker's own process.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use api::agent::{self, MAX_PACKET, ToAgent, ToWorker, Welcome};
use edge::{WorkerArgs, run_worker};
use sys::{
    polled::{Interest, Polled},
    seqpacket::{Listener, Stream},
};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
    sync::{Mutex as AsyncMutex, mpsc, watch},
    time::timeout,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    PATIENCE, Plan,
    figures::{Reached, now},
    server::{Server, resident},
};

/// A key for the workers' files.
const CACHE_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Where no server is.
const NOWHERE: &str = "127.0.0.1:1";

/// Welcomes workers and hears when they are ready.
pub(crate) struct Agent {
    ready: AsyncMutex<mpsc::Receiver<()>>,
    servers: watch::Sender<Vec<String>>,
    workers: Arc<Mutex<Vec<Arc<Polled<Stream>>>>>,
}

/// A worker's process.
pub(crate) struct Worker {
    child: Child,
}

impl Agent {
    pub(crate) fn start(server: &Server, directory: &Path) -> Result<Self> {
        let listener = Listener::bind(&socket(directory))?;
        let identity = server.identity()?;
        // A worker may make nothing outside of it, not even itself.
        let cache_dir = directory.join("cache");
        std::fs::create_dir(&cache_dir)?;
        let welcome = Welcome {
            servers: vec![],
            ca_pem: server.ca.cert_pem().to_owned(),
            cert_pem: identity.cert_pem,
            key_pem: identity.key_pem,
            cache_dir,
            cache_key: CACHE_KEY.to_owned(),
            threads: 1,
            drain_deadline_ms: 1000,
            quic_secret: String::new(),
        };
        let (tell, ready) = mpsc::channel(16);
        let (servers, current) = watch::channel(vec![server.address.clone()]);
        let workers: Arc<Mutex<Vec<Arc<Polled<Stream>>>>> = Arc::default();
        let known = workers.clone();
        let listener = Polled::new(listener, Interest::READABLE)?;
        tokio::spawn(async move {
            while let Ok(stream) = listener.async_io(Interest::READABLE, Listener::accept).await {
                let both = Interest::READABLE | Interest::WRITABLE;
                let Ok(stream) = Polled::new(stream, both).map(Arc::new) else { return };
                known.lock().unwrap_or_else(PoisonError::into_inner).push(stream.clone());
                let welcome = Welcome { servers: current.borrow().clone(), ..welcome.clone() };
                let tell = tell.clone();
                tokio::spawn(async move { attend(&stream, &welcome, &tell).await });
            }
        });
        Ok(Self { ready: AsyncMutex::new(ready), servers, workers })
    }

    pub(crate) fn spawn(&self, name: &str, directory: &Path) -> Result<Worker> {
        let child = Command::new(std::env::current_exe()?)
            .args(["role", "worker"])
            .arg(directory)
            .arg(name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Worker { child })
    }

    /// Waits for the next worker to be ready.
    pub(crate) async fn ready(&self) -> Result<()> {
        let mut ready = self.ready.lock().await;
        timeout(PATIENCE, ready.recv()).await.context("the worker is not ready")?.context("no agent")
    }

    async fn drain_all(&self) -> Result<()> {
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in workers {
            // An error: it has ended already.
            tell(&stream, &ToWorker::Drain { deadline_ms: 0 }).await.ok();
        }
        Ok(())
    }

    /// From the start of a worker's process until it is ready, with what is on disk.
    pub(crate) async fn cold_start(&self, directory: &Path, reachable: bool) -> Result<Duration> {
        let servers = self.servers.borrow().clone();
        if !reachable {
            self.servers.send_replace(vec![NOWHERE.to_owned()]);
        }
        let began = Instant::now();
        let worker = self.spawn("bench-cold", directory)?;
        self.ready().await?;
        let took = began.elapsed();
        self.servers.send_replace(servers);
        worker.finish(self).await?;
        Ok(took)
    }
}

/// Answers one worker until it ends.
async fn attend(stream: &Polled<Stream>, welcome: &Welcome, ready: &mpsc::Sender<()>) {
    while let Ok(Some(packet)) = stream.async_io(Interest::READABLE, |stream| stream.recv(MAX_PACKET)).await {
        match agent::decode::<ToAgent>(&packet.bytes) {
            Ok(ToAgent::Hello { .. }) => {
                if tell(stream, &ToWorker::Welcome(Box::new(welcome.clone()))).await.is_err() {
                    return;
                }
            }
            // Nobody listens any more: the benchmark is over.
            Ok(ToAgent::Ready { .. }) => drop(ready.send(()).await),
            Ok(_) | Err(_) => {}
        }
    }
}

async fn tell(stream: &Polled<Stream>, message: &ToWorker) -> Result<()> {
    let bytes = agent::encode(message)?;
    Ok(stream.async_io(Interest::WRITABLE, |stream| stream.send(&bytes, &[])).await?)
}

impl Worker {
    pub(crate) fn memory(&self, plan: &Plan) -> Result<String> {
        let pid = self.child.id().context("the worker has ended")?;
        let bytes = resident(pid)?;
        let routes = plan.tenants * plan.routes;
        Ok(format!("a worker's memory: {} MB, {} bytes a route", bytes / 1_000_000, bytes / routes))
    }

    /// Ends the worker; when it had what.
    pub(crate) async fn finish(mut self, agent: &Agent) -> Result<Reached> {
        agent.drain_all().await?;
        let mut lines = String::new();
        let mut output = self.child.stdout.take().context("the worker's output")?;
        timeout(PATIENCE, output.read_to_string(&mut lines)).await.context("the worker does not end")??;
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("a worker ended with {status}");
        }
        Ok(Reached::read(&lines))
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("agent.sock")
}

/// In a worker's process.
#[expect(clippy::print_stdout, reason = "a benchmark's output")]
pub(crate) fn worker(directory: &Path, name: &str) -> Result<()> {
    let log = Arc::new(Log::default());
    tracing::subscriber::set_global_default(Shared(log.clone()))?;
    run_worker(WorkerArgs {
        tracing: None,
        agent_socket: socket(directory),
        worker: name.parse()?,
        pool: "default".parse()?,
        access_log: "off".parse()?,
    })?;
    print!("{}", log.0.lock().unwrap_or_else(PoisonError::into_inner).1.lines());
    Ok(())
}

/// Reads from a worker's log when configurations became active.
#[derive(Default)]
struct Log(Mutex<(Option<u64>, Reached)>);

struct Shared(Arc<Log>);

#[derive(Default)]
struct Words {
    active: bool,
    current: bool,
    revision: u64,
}

impl Visit for Words {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "revision" {
            self.revision = value;
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.current |= field.name() == "current" && value;
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.active |= field.name() == "message" && format!("{value:?}") == "configuration active";
    }
}

impl Subscriber for Shared {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && (metadata.target() == "edge::control::feed" || *metadata.level() <= Level::WARN)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    #[expect(clippy::print_stderr, reason = "a benchmark's output")]
    fn event(&self, event: &Event<'_>) {
        let at = now();
        if *event.metadata().level() <= Level::INFO {
            eprintln!("worker: {event:?}");
        }
        let mut words = Words::default();
        event.record(&mut words);
        if words.active && words.current {
            let mut log = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
            let before = log.0.replace(words.revision).unwrap_or(words.revision);
            log.1.step(before, words.revision, at);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
