//! The agent's loop: events in, the pools' actions out.

use std::{future::Future, io, os::fd::OwnedFd, path::Path, pin::pin, sync::Arc, time::Duration};

use api::{
    agent::ToAgent,
    node::{NodePlan, NodeStatus},
};
use model::{PoolName, WorkerId};
use sys::{lock::Lock, seqpacket::Listener};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::info;

use crate::{
    NodeConfig,
    dispatch::Agent,
    link::{self, Hello},
    saved::{load_or_make_key, make_private_dir},
    scrape::Scrapes,
    servers,
};

/// How often deadlines and queues are looked at. Everything urgent is an event.
const TICK: Duration = Duration::from_millis(250);

/// Events that wait for the loop; whoever has one more waits.
const MAX_EVENTS: usize = 1024;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another agent has this data directory.
    #[error(transparent)]
    Locked(#[from] sys::lock::LockError),
    /// The agent's socket or directory cannot be used.
    #[error("{what}")]
    Io {
        /// What was tried, and with what.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What the loop waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// A worker connected.
    Hello(Box<Hello>),
    /// A worker said more.
    Said { worker: WorkerId, serial: u64, message: ToAgent, sockets: Vec<OwnedFd> },
    /// A connection ended.
    Unlinked { worker: WorkerId, serial: u64 },
    /// A process ended.
    Ended { worker: WorkerId, how: String },
    /// A connection waits on a pool's sockets.
    Waiting(PoolName),
    /// A server's plan.
    Plan(NodePlan),
    /// Where the servers are now.
    Servers(Vec<String>),
    /// No server plans any more.
    Disconnected,
}

/// Runs until `shutdown` is ready, answering `scrapes` meanwhile, then drains all workers, waits for their ends and leaves nothing behind but the
/// last plan. A future that is dropped instead leaves the workers running and serving; the next agent finds them.
///
/// # Errors
///
/// See [`NodeError`]. Once it runs, nothing that goes wrong ends it; it is reported to the servers instead.
pub async fn run(
    config: NodeConfig,
    mut scrapes: Scrapes,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), NodeError> {
    let directory = &config.data_dir;
    make_private_dir(directory).map_err(io_error("make the directory", directory))?;
    let _lock = Lock::take(&directory.join("agent.lock"))?;
    let key_path = directory.join("cache.key");
    let cache_key = load_or_make_key(&key_path).map_err(io_error("make the key", &key_path))?;
    let quic_path = directory.join("quic.key");
    let quic_secret = load_or_make_key(&quic_path).map_err(io_error("make the key", &quic_path))?;
    let socket = config.agent_socket.clone();
    let listener = Listener::bind(&socket).map_err(io_error("make the agent's socket", &socket))?;

    let (events, mut inbox) = mpsc::channel(MAX_EVENTS);
    let config = Arc::new(config);
    let status = NodeStatus { node: config.node.clone(), cpus: config.cpus, pools: Vec::new() };
    let (statuses, status_receiver) = watch::channel(status);
    // Dropped with this future, and all its tasks with it.
    let mut tasks = JoinSet::new();
    let mut agent = Agent::new(Arc::clone(&config), cache_key, quic_secret, statuses, events.clone());
    agent.take_over();
    tasks.spawn(link::serve(listener, events.clone()));
    let mut identities = config.identities.clone();
    tasks.spawn(servers::keep_in_touch(config, agent.servers().to_vec(), status_receiver, events));

    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            event = inbox.recv() => {
                // Its sender is in `agent` as well.
                let Some(event) = event else { return Ok(()) };
                agent.on(event);
            }
            Ok(()) = identities.changed() => agent.renew(),
            // One at a time: the others wait for their turn.
            Some(asked) = scrapes.next(), if !agent.is_scraped() => agent.scrape(asked),
            _ = ticks.tick() => agent.tick(),
            () = &mut shutdown, if !agent.stopping => agent.stop(),
        }
        agent.publish();
        if agent.is_gone() {
            break;
        }
    }
    std::fs::remove_file(&socket).map_err(io_error("remove the agent's socket", &socket))?;
    info!("all workers have ended");
    Ok(())
}

fn io_error(what: &str, path: &Path) -> impl FnOnce(io::Error) -> NodeError {
    let what = format!("{what} {}", path.display());
    |source| NodeError::Io { what, source }
}
