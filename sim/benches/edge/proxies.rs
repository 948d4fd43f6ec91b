//! Proxies as processes on CPU 0.

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

use crate::configs::{self, Identity};

/// How long a proxy may take to listen: valgrind is slow.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Weir,
    /// Another build of it, which `WEIR_BEFORE` names.
    WeirBefore,
    Nginx,
    Haproxy,
    Envoy,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Weir => "Weir",
            Self::WeirBefore => "Weir before",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
        }
    }

    /// Whether there is a program to start: Weir is named or built where it is started.
    pub(crate) fn is_there(self) -> bool {
        matches!(self, Self::Weir | Self::WeirBefore) || installed(&self.name().to_lowercase())
    }
}

/// What is behind a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Http,
    /// HTTP/2 in cleartext.
    Grpc,
    WebSocket,
}

/// How a proxy is to be set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) service: Service,
    /// Where the service is, on 127.0.0.1.
    pub(crate) upstream: u16,
    /// One for everything, or so many spread over a tenth as many hosts (Weir only).
    pub(crate) routes: usize,
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) process: u32,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    child: Child,
    /// Its configuration.
    directory: TempDir,
}

impl Proxy {
    pub(crate) async fn start(setup: Setup, identity: &Identity) -> Result<Self> {
        Self::start_under(&[], setup, identity).await
    }

    /// Starts it below another program, such as valgrind, that keeps its process id.
    pub(crate) async fn start_under(wrapper: &[&str], setup: Setup, identity: &Identity) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("weir-bench-edge-").tempdir()?;
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (http, https) = (sim::harness::free_port()?, sim::harness::free_port()?);
        let (program, arguments) = configs::write(setup, directory.path(), identity, http, https)?;
        let child = Command::new("taskset")
            .args(["-c", "0"])
            .args(wrapper)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("errors"))?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", setup.kind.name()))?;
        let process = child.id().context("it has just been started")?;
        let mut proxy = Self { process, http: address(http), https: address(https), child, directory };
        proxy.listens().await.with_context(|| setup.kind.name())?;
        Ok(proxy)
    }

    async fn listens(&mut self) -> Result<()> {
        let started = Instant::now();
        for address in [self.http, self.https] {
            while TcpStream::connect(address).await.is_err() {
                let ended = self.child.try_wait()?;
                if ended.is_some() || started.elapsed() > PATIENCE {
                    let errors = std::fs::read_to_string(self.directory.path().join("errors"))?;
                    bail!("does not listen on {address}, ended with {ended:?}\n{errors}");
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// Whether a program is there to be started.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
