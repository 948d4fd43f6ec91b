//! Several servers and their host agents as a user starts them: processes of this machine, driven by the command line.
//!
//! ```text
//! clients, CLI ──▶ admin ┐              s1 s2 s3   `weir server`, each with a directory and three ports
//! agents, workers ──▶ [proxy] ──▶ peers ┘ ▲  │     with proxies, whatever is said to a server passes its own
//!                          servers ───────┘──┘     n1 ...     `weir node`
//! ```
//!
//! Every process is ended with its value, workers with their agent.

mod process;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{free_port, freeze, kill, pause, tell, weir_binary},
    proxy::{End, Faults, Origin, Proxy},
};
use process::Process;

/// Long enough for a debug build on a busy machine; what waits longer is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a cluster is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whatever is said to a server's peers' port passes a proxy.
    pub proxies: bool,
    /// How long certificates live; a day by default.
    pub certificate_lifetime: Option<Duration>,
}

/// An installation of several servers.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    options: Options,
    servers: BTreeMap<u64, Server>,
    nodes: BTreeMap<String, Process>,
    /// Directories that were made for servers.
    made: u64,
    /// The servers' process ids, for proxies that tell them apart.
    pids: Arc<Mutex<BTreeMap<u32, u64>>>,
    /// Where workers of the default pool listen for HTTP.
    pub http: u16,
    https: u16,
}

/// One server: its directory and ports, and its process while it runs.
#[derive(Debug)]
struct Server {
    /// Its directory's name.
    data: String,
    flags: Vec<String>,
    admin: u16,
    binary: PathBuf,
    process: Option<Process>,
    proxy: Option<Proxy>,
    log: String,
}

/// The ports of a server that is about to be made.
struct Place {
    flags: Vec<String>,
    admin: u16,
    proxy: Option<Proxy>,
}

impl Cluster {
    /// Servers 1 to `servers`, all of them voters.
    ///
    /// # Errors
    /// When one does not start or join in time; the error holds what was logged.
    pub fn start(servers: u64) -> Result<Self> {
        Self::start_with(servers, Options::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(servers: u64, options: Options) -> Result<Self> {
        let mut cluster = Self {
            directory: TempDir::with_prefix("weir-cluster-")?,
            options,
            servers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            made: 1,
            pids: Arc::default(),
            http: free_port()?,
            https: free_port()?,
        };
        let place = cluster.place()?;
        let mut args = vec!["cluster".to_owned(), "init".to_owned(), "--data=s1".to_owned()];
        args.extend(place.flags.iter().cloned());
        args.push(format!("--http=127.0.0.1:{}", cluster.http));
        args.push(format!("--https=127.0.0.1:{}", cluster.https));
        cluster.ok(&args)?;
        cluster.put(1, "s1", place);
        cluster.run(1)?;
        cluster.leader()?;
        for _ in 1..servers {
            cluster.add_server()?;
        }
        Ok(cluster)
    }

    /// Adds a server, starts it and waits until it votes; returns its id.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn add_server(&mut self) -> Result<u64> {
        let id = self.join_server()?;
        self.run(id)?;
        self.wait(PATIENCE, &format!("vote of server {id}"), |cluster| {
            Ok(cluster.members()?.iter().any(|member| member["id"] == id && member["voter"] == true))
        })?;
        Ok(id)
    }

    /// Makes the directory of a further server, which does not run yet; returns its id.
    ///
    /// # Errors
    /// When it is not let in.
    pub fn join_server(&mut self) -> Result<u64> {
        let token = self.token("server")?;
        let place = self.place()?;
        self.made += 1;
        let data = format!("s{}", self.made);
        let mut args = vec!["cluster".to_owned(), "join".to_owned(), format!("--data={data}")];
        args.extend(self.admin_flags());
        args.push(format!("--token={token}"));
        args.extend(place.flags.iter().cloned());
        self.ok(&args)?;
        let file: Value = serde_json::from_slice(&fs::read(self.path(&data).join("server.json"))?)?;
        let id = file["id"].as_u64().context("server.json has an id")?;
        self.put(id, &data, place);
        Ok(id)
    }

    /// A token with which a server or node joins.
    ///
    /// # Errors
    /// When no server makes one.
    pub fn token(&self, role: &str) -> Result<String> {
        Ok(self.weir_ok(&["cluster", "token", "create", "--role", role])?.trim().to_owned())
    }

    /// Adds a host agent.
    ///
    /// # Errors
    /// When it is not let in, or does not start.
    pub fn add_node(&mut self, name: &str) -> Result<()> {
        let token = self.token("node")?;
        let mut args: Vec<String> =
            ["node", "join", &format!("--data={name}"), &format!("--name={name}")].map(str::to_owned).into();
        args.extend(self.admin_flags());
        args.push(format!("--token={token}"));
        self.ok(&args)?;
        self.run_node(name)
    }

    /// Starts a host agent that joined.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_node(&mut self, name: &str) -> Result<()> {
        let process =
            Process::start(weir_binary(), &["node".into(), format!("--data={name}")], self.directory())?;
        self.nodes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Starts a server.
    ///
    /// # Errors
    /// When it cannot be started, or runs.
    pub fn run(&mut self, id: u64) -> Result<()> {
        let lifetime = self.options.certificate_lifetime;
        let directory = self.directory.path().to_owned();
        let server = self.servers.get_mut(&id).with_context(|| format!("no server {id}"))?;
        ensure!(server.process.is_none(), "server {id} runs");
        let mut args = vec!["server".to_owned(), format!("--data={}", server.data)];
        args.extend(lifetime.map(|lifetime| format!("--certificate-lifetime={}", lifetime.as_secs())));
        let process = Process::start(&server.binary, &args, &directory)?;
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).insert(process.pid(), id);
        server.process = Some(process);
        Ok(())
    }

    /// From its next start on, a server runs this program.
    ///
    /// # Errors
    /// When there is no such server.
    pub fn replace_binary(&mut self, id: u64, binary: &Path) -> Result<()> {
        let server = self.servers.get_mut(&id).with_context(|| format!("no server {id}"))?;
        binary.clone_into(&mut server.binary);
        Ok(())
    }

    /// Kills a server, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, id: u64) -> Result<()> {
        self.end(id, Signal::KILL).map(drop)
    }

    /// Asks a server to stop, and waits.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn stop(&mut self, id: u64) -> Result<ExitStatus> {
        self.end(id, Signal::TERM)
    }

    /// Waits until a server has ended by itself.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn ended(&mut self, id: u64) -> Result<ExitStatus> {
        let server = self.servers.get_mut(&id).with_context(|| format!("no server {id}"))?;
        let mut process = server.process.take().with_context(|| format!("server {id} does not run"))?;
        let status = process.wait(PATIENCE)?;
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).remove(&process.pid());
        server.log.push_str(&process.log());
        Ok(status)
    }

    fn end(&mut self, id: u64, signal: Signal) -> Result<ExitStatus> {
        kill(self.pid(id)?, signal)?;
        self.ended(id)
    }

    /// Stops a server's process where it stands.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self, id: u64) -> Result<()> {
        freeze(self.pid(id)?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self, id: u64) -> Result<()> {
        kill(self.pid(id)?, Signal::CONT)
    }

    /// Keeps everything that servers and agents say to each other from passing between server `id` and the others.
    ///
    /// # Errors
    /// When there is no such server, or no proxies.
    pub fn isolate(&self, id: u64) -> Result<()> {
        for (other, server) in &self.servers {
            let proxy = server.proxy.as_ref().context("started without proxies")?;
            match *other == id {
                true => proxy.set(Faults::SILENT),
                false => proxy.set_for(id, Faults::SILENT),
            }
        }
        Ok(())
    }

    /// Ends what [`Cluster::isolate`] began, and all other faults of proxies.
    pub fn heal(&self) {
        self.proxies().for_each(|proxy| proxy.set(Faults::default()));
    }

    /// Ends all connections between servers, and those of agents and workers, as `end` says.
    pub fn end_connections(&self, end: End) {
        self.proxies().for_each(|proxy| proxy.end_all(end));
    }

    /// What stands before a server, if there are proxies.
    #[must_use]
    pub fn proxy(&self, id: u64) -> Option<&Proxy> {
        self.servers.get(&id)?.proxy.as_ref()
    }

    fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.servers.values().filter_map(|server| server.proxy.as_ref())
    }

    /// Forgets a server that does not run any more; its directory stays.
    pub fn forget(&mut self, id: u64) {
        self.servers.remove(&id);
    }

    /// The process id of a server.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, id: u64) -> Result<u32> {
        let process = self.servers.get(&id).and_then(|server| server.process.as_ref());
        Ok(process.with_context(|| format!("server {id} does not run"))?.pid())
    }

    /// The ids of the servers that run.
    #[must_use]
    pub fn running(&self) -> Vec<u64> {
        self.servers.iter().filter(|(_, server)| server.process.is_some()).map(|(id, _)| *id).collect()
    }

    /// Where a server's admin API is.
    #[must_use]
    pub fn admin(&self, id: u64) -> Option<String> {
        self.servers.get(&id).map(|server| format!("127.0.0.1:{}", server.admin))
    }

    /// The installation's CA, PEM.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn ca_pem(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("s1/pki/ca.pem"))?)
    }

    /// The platform administrator's token.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn admin_token(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path("s1/admin.token"))?.trim().to_owned())
    }

    /// The working directory of all processes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path below it.
    #[must_use]
    pub fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Runs `weir <args>` against whichever server answers, as the platform's administrator.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn weir(&self, args: &[&str]) -> Result<Output> {
        let running: Vec<_> = self.running().into_iter().filter_map(|id| self.admin(id)).collect();
        self.weir_at(&running.join(","), args)
    }

    /// Runs `weir <args>` against this server first.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn weir_on(&self, id: u64, args: &[&str]) -> Result<Output> {
        self.weir_at(&self.admin(id).with_context(|| format!("no server {id}"))?, args)
    }

    /// The same with this token.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn weir_as(&self, token: &str, id: u64, args: &[&str]) -> Result<Output> {
        self.weir_with(token, &self.admin(id).with_context(|| format!("no server {id}"))?, args)
    }

    fn weir_at(&self, admin: &str, args: &[&str]) -> Result<Output> {
        self.weir_with(&self.admin_token()?, admin, args)
    }

    fn weir_with(&self, token: &str, admin: &str, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(weir_binary());
        command
            .args(args)
            .current_dir(self.directory())
            .env("WEIR_ADMIN", admin)
            .env("WEIR_CACERT", "s1/pki/ca.pem")
            .env("WEIR_TOKEN", token)
            .stdin(Stdio::null());
        command.output().with_context(|| format!("run weir {args:?}"))
    }

    /// Runs a `weir <args>` that needs no server's answer.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn weir_local(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(weir_binary());
        command.args(args).current_dir(self.directory()).stdin(Stdio::null());
        command.output().with_context(|| format!("run weir {args:?}"))
    }

    /// The flags with which the first server was made that say where it is.
    ///
    /// # Errors
    /// When there is no such server.
    pub fn place_of(&self, id: u64) -> Result<Vec<String>> {
        let mut flags = self.servers.get(&id).with_context(|| format!("no server {id}"))?.flags.clone();
        flags.push(format!("--http=127.0.0.1:{}", self.http));
        flags.push(format!("--https=127.0.0.1:{}", self.https));
        Ok(flags)
    }

    /// The standard output of a command that must succeed.
    ///
    /// # Errors
    /// When it fails; the error holds what it said.
    pub fn weir_ok(&self, args: &[&str]) -> Result<String> {
        succeeded(args, self.weir(args)?)
    }

    /// The same against this server first.
    ///
    /// # Errors
    /// As [`Cluster::weir_ok`].
    pub fn weir_ok_on(&self, id: u64, args: &[&str]) -> Result<String> {
        succeeded(args, self.weir_on(id, args)?)
    }

    /// A command that needs no server's answer, and must succeed.
    fn ok(&self, args: &[String]) -> Result<String> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        succeeded(&args, self.weir_local(&args)?)
    }

    /// Applies YAML for a tenant at this server.
    ///
    /// # Errors
    /// When it is refused.
    pub fn apply_on(&self, id: u64, tenant: &str, yaml: &str) -> Result<String> {
        let file = self.path("apply.yaml");
        fs::write(&file, yaml)?;
        self.weir_ok_on(id, &["apply", "-t", tenant, "-f", &file.display().to_string()])
    }

    /// `weir cluster status` as this server answers it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status_of(&self, id: u64) -> Result<Value> {
        Ok(serde_json::from_str(&self.weir_ok_on(id, &["cluster", "status", "-o", "json"])?)?)
    }

    /// The members as some running server knows them.
    ///
    /// # Errors
    /// When none answers.
    pub fn members(&self) -> Result<Vec<Value>> {
        let status: Value = serde_json::from_str(&self.weir_ok(&["cluster", "status", "-o", "json"])?)?;
        Ok(status["members"].as_array().cloned().unwrap_or_default())
    }

    /// Who leads, once a running server says that it does itself.
    ///
    /// # Errors
    /// When nobody does in time; the error holds what was logged.
    pub fn leader(&self) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for id in self.running() {
                if self.status_of(id).is_ok_and(|status| status["leader"] == id) {
                    return Ok(id);
                }
            }
            ensure!(Instant::now() < deadline, "nobody leads:\n{}", self.log());
            pause();
        }
    }

    /// A running server that does not lead.
    ///
    /// # Errors
    /// When there is none.
    pub fn follower(&self) -> Result<u64> {
        let leader = self.leader()?;
        self.running().into_iter().find(|id| *id != leader).context("only the leader runs")
    }

    /// The workers that take connections, as the leader knows them.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn ready_workers(&self) -> Result<Vec<Value>> {
        match serde_json::from_str(&self.weir_ok(&["workers", "-o", "json"])?)? {
            Value::Array(workers) => {
                let serving = |w: &Value| w["state"] == "ready" && w["slots"].as_u64() > Some(0);
                Ok(workers.into_iter().filter(serving).collect())
            }
            other => bail!("not a list: {other}"),
        }
    }

    /// Waits until so many workers take connections.
    ///
    /// # Errors
    /// When that does not happen in time; the error holds what was logged.
    pub fn settle(&self, count: usize) -> Result<()> {
        self.wait(PATIENCE, &format!("{count} workers"), |cluster| {
            // No leader, or one that has not heard of its nodes: not yet.
            Ok(cluster.ready_workers().is_ok_and(|workers| workers.len() == count))
        })
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// When the condition fails or does not hold in time.
    pub fn wait(
        &self,
        within: Duration,
        what: &str,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            if holds(self)? {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no {what} within {within:?}:\n{}", self.log());
            pause();
        }
    }

    /// All that servers and agents logged.
    #[must_use]
    pub fn log(&self) -> String {
        let mut all = String::new();
        for (id, server) in &self.servers {
            let now = server.process.as_ref().map(Process::log).unwrap_or_default();
            all.push_str(&format!("--- server {id}\n{}{now}", server.log));
        }
        for (name, node) in &self.nodes {
            all.push_str(&format!("--- node {name}\n{}", node.log()));
        }
        all
    }

    /// Asks everything to stop in order, agents first.
    ///
    /// # Errors
    /// When something does not end in time, or ends with an error.
    pub fn stop_all(&mut self) -> Result<()> {
        for (name, mut node) in std::mem::take(&mut self.nodes) {
            kill(node.pid(), Signal::TERM)?;
            let status = node.wait(PATIENCE)?;
            ensure!(status.success(), "node {name} ended with {status}:\n{}", node.log());
        }
        for id in self.running() {
            let status = self.stop(id)?;
            ensure!(status.success(), "server {id} ended with {status}:\n{}", self.log());
        }
        Ok(())
    }

    fn admin_flags(&self) -> Vec<String> {
        self.running().into_iter().filter_map(|id| Some(format!("--server={}", self.admin(id)?))).collect()
    }

    fn place(&self) -> Result<Place> {
        let (peers, admin, metrics) = (free_port()?, free_port()?, free_port()?);
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let mut flags = vec![format!("--admin=127.0.0.1:{admin}"), format!("--metrics=127.0.0.1:{metrics}")];
        if !self.options.proxies {
            flags.push(format!("--peers=127.0.0.1:{peers}"));
            return Ok(Place { flags, admin, proxy: None });
        }
        let pids = Arc::clone(&self.pids);
        let origin: Origin = Arc::new(move |from| {
            let pids = pids.lock().unwrap_or_else(PoisonError::into_inner).clone();
            process::owner(from, pids.keys().copied()).and_then(|pid| pids.get(&pid).copied())
        });
        let proxy = Proxy::between(local(free_port()?), local(peers), origin)?;
        flags.push(format!("--peers={}", proxy.address()));
        flags.push(format!("--listen-peers=127.0.0.1:{peers}"));
        Ok(Place { flags, admin, proxy: Some(proxy) })
    }

    fn put(&mut self, id: u64, data: &str, place: Place) {
        let Place { flags, admin, proxy } = place;
        let (data, binary) = (data.to_owned(), weir_binary().to_owned());
        let server = Server { data, flags, admin, binary, process: None, proxy, log: String::new() };
        self.servers.insert(id, server);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tell(&format!("--- logs of the cluster ---\n{}", self.log()));
        }
        // An agent that is killed leaves its workers: they are asked to drain, which nothing waits for here.
        for node in self.nodes.values() {
            kill(node.pid(), Signal::TERM).ok();
        }
        for node in self.nodes.values_mut() {
            node.wait(Duration::from_secs(40)).ok();
        }
    }
}

fn succeeded(args: &[&str], output: Output) -> Result<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "weir {args:?} failed: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}
