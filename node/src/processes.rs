//! Worker processes: started here, or found.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
};

use model::{PoolName, WorkerId};
use sys::{
    polled::{Interest, Polled},
    process::{Process, Signal},
};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    task::JoinSet,
};
use tracing::warn;

use crate::{agent::Event, saved::SavedWorker};

/// The living workers of all pools. Dropping it leaves them running.
#[derive(Debug)]
pub(crate) struct Processes {
    events: mpsc::Sender<Event>,
    living: BTreeMap<WorkerId, Living>,
    watches: JoinSet<()>,
}

#[derive(Debug)]
struct Living {
    process: Arc<Process>,
    birth: u64,
}

impl Processes {
    /// None yet. Ends are sent to `events`.
    pub(crate) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events, living: BTreeMap::new(), watches: JoinSet::new() }
    }

    /// Starts a worker; returns its process id.
    pub(crate) fn start(
        &mut self,
        command: &[String],
        socket: &Path,
        pool: &PoolName,
        worker: &WorkerId,
    ) -> io::Result<u32> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command to start workers with"))?;
        let child = Command::new(program)
            .args(arguments)
            .arg("--agent")
            .arg(socket)
            .args(["--worker", worker.as_str(), "--pool", pool.as_str()])
            .stdin(Stdio::null())
            // Ctrl-C on a terminal goes to the whole foreground group; only the agent may hear it.
            .process_group(0)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("start {program}: {error}")))?;
        let pid = child.id().ok_or_else(|| io::Error::other("the worker was reaped before it was known"))?;
        // Until it is reaped, which only `reap` does, the id is the child's, dead or alive.
        let living = Living { process: Arc::new(Process::open(pid)?), birth: sys::process::birth(pid)? };
        self.living.insert(worker.clone(), living);
        self.watches.spawn(reap(child, worker.clone(), self.events.clone()));
        Ok(pid)
    }

    /// Watches a worker that an earlier agent started.
    pub(crate) fn find(&mut self, found: &SavedWorker) -> io::Result<()> {
        let process = Arc::new(Process::open_born(found.pid, found.birth)?);
        let watched = Polled::new(Arc::clone(&process), Interest::READABLE)?;
        self.watches.spawn(watch(watched, found.worker.clone(), self.events.clone()));
        self.living.insert(found.worker.clone(), Living { process, birth: found.birth });
        Ok(())
    }

    /// Watches a worker of which nothing was known before it connected.
    pub(crate) fn find_unsaved(&mut self, worker: &WorkerId, pid: u32) -> io::Result<()> {
        let birth = sys::process::birth(pid)?;
        self.find(&SavedWorker { worker: worker.clone(), pid, birth })
    }

    /// The worker's process id, if it is known and lives.
    pub(crate) fn pid(&self, worker: &WorkerId) -> Option<u32> {
        self.living.get(worker).map(|living| living.process.pid())
    }

    /// What the next agent needs to find the worker.
    pub(crate) fn saved(&self, worker: &WorkerId) -> Option<SavedWorker> {
        let living = self.living.get(worker)?;
        Some(SavedWorker { worker: worker.clone(), pid: living.process.pid(), birth: living.birth })
    }

    /// Sends a signal, if the worker is known.
    pub(crate) fn signal(&self, worker: &WorkerId, signal: Signal) {
        let Some(living) = self.living.get(worker) else { return };
        if let Err(error) = living.process.signal(signal) {
            warn!(%worker, ?signal, %error, "signal not sent");
        }
    }

    /// Forgets a worker whose end was told.
    pub(crate) fn forget(&mut self, worker: &WorkerId) {
        self.living.remove(worker);
        while self.watches.try_join_next().is_some() {}
    }
}

async fn reap(mut child: Child, worker: WorkerId, events: mpsc::Sender<Event>) {
    let how = match child.wait().await {
        Ok(status) => describe(status),
        Err(error) => format!("unknown: {error}"),
    };
    // The receiver is gone only if the agent is.
    let _gone = events.send(Event::Ended { worker, how }).await;
}

async fn watch(process: Polled<Arc<Process>>, worker: WorkerId, events: mpsc::Sender<Event>) {
    if let Err(error) = process.readable().await {
        return warn!(%worker, %error, "the end of a worker cannot be seen");
    }
    let how = "not our child, its exit status is unknown".to_owned();
    let _gone = events.send(Event::Ended { worker, how }).await;
}

fn describe(status: ExitStatus) -> String {
    // "exit status: 1", "signal: 9 (SIGKILL)"
    status.to_string()
}
