//! The server and the agent as child processes: started, restarted, stopped in order.
//!
//! A child's standard input is a pipe that this process never writes to: its end tells the child that its
//! supervisor is gone, however it went. Children are in process groups of their own, so that Ctrl-C on the
//! terminal reaches the supervisor alone, which stops them in the right order.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};
use tracing::{error, info, warn};

use super::Args;
use crate::layout::Layout;

/// A child that lived this long is restarted at once; one that did not waits, longer each time.
const STABLE: Duration = Duration::from_secs(10);
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Past the workers' drain deadline (30 s) and a second of grace for each hop.
const STOP_DEADLINE: Duration = Duration::from_secs(35);

/// The children of one `up`.
#[derive(Debug)]
pub(super) struct Children {
    /// This program's file, by the name that it had at the start: whatever has that name by then is what is restarted,
    /// so that a new version takes over where the file was replaced.
    program: PathBuf,
    layout: Layout,
    server: Option<Supervised>,
    node: Option<Supervised>,
}

#[derive(Debug)]
struct Supervised {
    name: &'static str,
    program: PathBuf,
    args: Vec<String>,
    child: Child,
    /// The writing end of the child's standard input, held open for the child's life. Not left in `child`: waiting
    /// for a child closes its standard input.
    leash: Option<ChildStdin>,
    started: Instant,
    backoff: Duration,
}

impl Children {
    pub(super) fn new(layout: &Layout) -> Result<Self> {
        let program = std::env::current_exe().context("find this program's own file")?;
        Ok(Self { program, layout: layout.clone(), server: None, node: None })
    }

    pub(super) fn start_server(&mut self, args: &Args) -> Result<()> {
        let layout = &self.layout;
        let path = |path: std::path::PathBuf| path.display().to_string();
        let arguments = vec![
            "server".into(),
            "--supervised".into(),
            format!("--data={}", path(layout.server())),
            format!("--key-file={}", path(layout.key_encryption_key())),
            format!("--pki={}", path(layout.pki())),
            format!("--admin-token-file={}", path(layout.admin_token())),
            format!("--admin={}", args.admin),
            format!("--metrics={}", args.metrics),
            format!("--feed={}", args.feed),
            format!("--http={}", args.http),
            format!("--https={}", args.https),
            format!("--domain={}", args.domain),
        ];
        self.server = Some(Supervised::start("server", &self.program, arguments)?);
        Ok(())
    }

    pub(super) fn start_node(&mut self, args: &Args) -> Result<()> {
        let layout = &self.layout;
        let path = |path: std::path::PathBuf| path.display().to_string();
        let arguments = vec![
            "node".into(),
            "--supervised".into(),
            "--name=local".into(),
            format!("--data={}", path(layout.node())),
            format!("--socket={}", path(layout.agent_socket())),
            format!("--pki={}", path(layout.pki())),
            format!("--server={}", args.feed),
            format!("--metrics={}", args.worker_metrics),
        ];
        self.node = Some(Supervised::start("node", &self.program, arguments)?);
        Ok(())
    }

    /// Restarts what ends, for ever. Cancel-safe.
    pub(super) async fn supervise(&mut self) -> anyhow::Error {
        let (Some(server), Some(node)) = (self.server.as_mut(), self.node.as_mut()) else {
            return anyhow!("supervise before start");
        };
        tokio::select! {
            error = server.keep_running() => error,
            error = node.keep_running() => error,
        }
    }

    /// Ends when a child ends before the installation was up: a wrong flag or a missing right would only repeat.
    pub(super) async fn failed_to_start(&mut self) -> anyhow::Error {
        let (Some(server), Some(node)) = (self.server.as_mut(), self.node.as_mut()) else {
            return anyhow!("supervise before start");
        };
        let (name, status) = tokio::select! {
            status = server.child.wait() => ("server", status),
            status = node.child.wait() => ("node", status),
        };
        match status {
            Ok(status) => anyhow!("the {name} process did not start ({status}); the lines above say why"),
            Err(error) => anyhow!(error).context(format!("wait for the {name} process")),
        }
    }

    /// Stops the agent, which drains its workers, then the server. Nothing is left behind.
    pub(super) async fn stop(&mut self) -> Result<()> {
        let node = match self.node.take() {
            Some(node) => node.stop().await,
            None => Ok(()),
        };
        let server = match self.server.take() {
            Some(server) => server.stop().await,
            None => Ok(()),
        };
        node.and(server)
    }
}

impl Supervised {
    fn start(name: &'static str, program: &Path, args: Vec<String>) -> Result<Self> {
        let (child, leash) = spawn(name, program, &args)?;
        Ok(Self {
            name,
            program: program.to_owned(),
            args,
            child,
            leash,
            started: Instant::now(),
            backoff: BACKOFF,
        })
    }

    /// Cancel-safe: between two awaits the child is always one that can be waited for.
    async fn keep_running(&mut self) -> anyhow::Error {
        loop {
            match self.child.wait().await {
                Ok(status) => warn!(process = self.name, %status, "ended, restarting"),
                Err(error) => return anyhow!(error).context(format!("wait for the {} process", self.name)),
            }
            if self.started.elapsed() < STABLE {
                sleep(self.backoff).await;
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            } else {
                self.backoff = BACKOFF;
            }
            match spawn(self.name, &self.program, &self.args) {
                Ok((child, leash)) => (self.child, self.leash) = (child, leash),
                Err(error) => error!(process = self.name, %error, "cannot restart"),
            }
            self.started = Instant::now();
        }
    }

    /// Ends standard input, waits, and kills what does not end.
    async fn stop(mut self) -> Result<()> {
        drop(self.leash.take());
        match timeout(STOP_DEADLINE, self.child.wait()).await {
            Ok(status) => finished(self.name, status.context("wait for a child")?),
            Err(_) => {
                error!(process = self.name, "did not stop in time, killing it");
                self.child.kill().await.with_context(|| format!("kill the {} process", self.name))
            }
        }
    }
}

fn finished(name: &'static str, status: ExitStatus) -> Result<()> {
    if status.success() {
        info!(process = name, "stopped");
        return Ok(());
    }
    Err(anyhow!("the {name} process ended with {status}"))
}

fn spawn(name: &str, program: &Path, args: &[String]) -> Result<(Child, Option<ChildStdin>)> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("start the {name} process"))?;
    let leash = child.stdin.take();
    Ok((child, leash))
}
