//! Weir's and etcd's servers as processes, which end when they are dropped.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use api::{
    admin::StatusRequest,
    client::{self, Bearer},
    pki::{self, Ca, Request, RoleKind},
};
use bytes::Bytes;
use sim::harness::{free_port, weir_binary};
use tokio::time::{Instant, sleep};
use tonic::async_trait;

use crate::wire::{Dialect, Target};

const ETCD: &str = "etcd";
/// How long servers have to come up.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// One or several servers.
#[async_trait(?Send)]
pub(crate) trait Cluster {
    fn name(&self) -> &'static str;
    /// Who takes writes now.
    async fn leader(&self) -> Result<Target>;
    fn processes(&self) -> Vec<u32>;
}

/// A process that is killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let (out, err) = (File::create(log)?, File::options().append(true).open(log)?);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        Ok(Self(child.with_context(|| format!("start {}", command.get_program().display()))?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn ids(processes: &[Process]) -> Vec<u32> {
    processes.iter().map(|process| process.0.id()).collect()
}

/// `weir server`, as `weir cluster init` and `join` make them.
pub(crate) struct Weir {
    servers: Vec<Process>,
    first: Target,
    bearer: Bearer,
}

impl Weir {
    pub(crate) async fn start(dir: &Path, count: usize) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let data = |number: usize| dir.join(format!("s{number}"));
        let places: Vec<Place> = (0..count).map(|_| Place::free()).collect::<Result<_>>()?;
        weir(&data(0), &[&["cluster", "init"][..], &places[0].flags()[..]].concat(), None)?;
        let token = fs::read_to_string(data(0).join("admin.token"))?;
        let bearer = Bearer::new(token.trim())?;
        let ca_pem = fs::read_to_string(data(0).join("pki/ca.pem"))?;
        let dialect = Dialect::Weir(bearer.clone());
        let first = Target { address: places[0].admin.clone(), ca_pem, dialect };
        let mut cluster = Self { servers: Vec::new(), first, bearer };
        for (number, place) in places.iter().enumerate() {
            let data = data(number);
            if number > 0 {
                let create = ["cluster", "token", "create", "--role", "server"];
                let token = weir(&dir.join("s0"), &create, None)?;
                let join = ["cluster", "join", "--server", &cluster.first.address];
                weir(&data, &[&join[..], &place.flags()[..]].concat(), Some(token.trim()))?;
            }
            let mut command = Command::new(weir_binary());
            command.arg("server").arg("--data").arg(&data).current_dir(dir).env("RUST_LOG", "warn");
            cluster.servers.push(Process::start(&mut command, &dir.join(format!("s{number}.log")))?);
            let deadline = Instant::now() + PATIENCE;
            while cluster.voters().await.unwrap_or_default() <= number || !accepts(&cluster.first).await {
                ensure!(
                    Instant::now() < deadline,
                    "server {} does not vote: see {}",
                    number + 1,
                    dir.display()
                );
                sleep(PAUSE).await;
            }
        }
        Ok(cluster)
    }

    async fn voters(&self) -> Result<usize> {
        let status = self.status().await?;
        Ok(status.members.iter().filter(|member| member.voter).count())
    }

    async fn status(&self) -> Result<api::admin::StatusResponse> {
        let channel = client::channel(&self.first.address, &self.first.ca_pem, None)?;
        let mut cluster =
            api::admin::cluster_client::ClusterClient::with_interceptor(channel, self.bearer.clone());
        Ok(cluster.status(StatusRequest {}).await?.into_inner())
    }
}

#[async_trait(?Send)]
impl Cluster for Weir {
    fn name(&self) -> &'static str {
        "weir"
    }

    async fn leader(&self) -> Result<Target> {
        let status = self.status().await?;
        let leader = status.members.into_iter().find(|member| member.id == status.leader);
        let address = leader.context("nobody leads")?.admin;
        Ok(Target { address, ..self.first.clone() })
    }

    fn processes(&self) -> Vec<u32> {
        ids(&self.servers)
    }
}

/// Where a server of Weir listens.
struct Place {
    peers: String,
    admin: String,
    metrics: String,
}

impl Place {
    fn free() -> Result<Self> {
        let address = || free_port().map(|port| format!("127.0.0.1:{port}"));
        Ok(Self { peers: address()?, admin: address()?, metrics: address()? })
    }

    fn flags(&self) -> [&str; 6] {
        ["--peers", &self.peers, "--admin", &self.admin, "--metrics", &self.metrics]
    }
}

/// Runs `weir` on a data directory.
fn weir(data: &Path, arguments: &[&str], join_token: Option<&str>) -> Result<String> {
    let mut command = Command::new(weir_binary());
    command.args(arguments).env("WEIR_DATA", data).stdin(Stdio::null());
    if let Some(token) = join_token {
        command.env("WEIR_JOIN_TOKEN", token);
    }
    let output = command.output().context("run weir")?;
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "weir {arguments:?}: {problem}");
    Ok(String::from_utf8(output.stdout)?)
}

/// `etcd` with its default settings, and TLS.
pub(crate) struct Etcd {
    servers: Vec<Process>,
    clients: Vec<Target>,
}

impl Etcd {
    pub(crate) async fn start(dir: &Path, count: usize) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (certificate, ca_pem) = certificate(dir)?;
        let url = || free_port().map(|port| format!("127.0.0.1:{port}"));
        let peers: Vec<String> = (0..count).map(|_| url()).collect::<Result<_>>()?;
        let clients: Vec<String> = (0..count).map(|_| url()).collect::<Result<_>>()?;
        let members: Vec<String> =
            peers.iter().enumerate().map(|(number, peer)| format!("e{number}=https://{peer}")).collect();
        let mut cluster = Self { servers: Vec::new(), clients: Vec::new() };
        for (number, (peer, client)) in peers.iter().zip(&clients).enumerate() {
            let (peer, client) = (format!("https://{peer}"), format!("https://{client}"));
            let mut command = Command::new(ETCD);
            command
                .args(["--name", &format!("e{number}")])
                .arg("--data-dir")
                .arg(dir.join(format!("e{number}")));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"]);
            command.args(["--logger", "zap", "--log-level", "error"]);
            certificate.add_to(&mut command, "");
            certificate.add_to(&mut command, "peer-");
            // Of clients neither store asks for a certificate here.
            command.arg("--peer-trusted-ca-file").arg(&certificate.ca).arg("--peer-client-cert-auth");
            cluster.servers.push(Process::start(&mut command, &dir.join(format!("e{number}.log")))?);
        }
        let deadline = Instant::now() + PATIENCE;
        for address in clients {
            let target = Target { address, ca_pem: ca_pem.clone(), dialect: Dialect::Etcd };
            while !accepts(&target).await {
                ensure!(Instant::now() < deadline, "etcd takes no puts: see {}", dir.display());
                sleep(PAUSE).await;
            }
            cluster.clients.push(target);
        }
        Ok(cluster)
    }
}

#[async_trait(?Send)]
impl Cluster for Etcd {
    fn name(&self) -> &'static str {
        ETCD
    }

    async fn leader(&self) -> Result<Target> {
        for target in &self.clients {
            if target.is_etcd_leader().await? {
                return Ok(target.clone());
            }
        }
        anyhow::bail!("no etcd leads")
    }

    fn processes(&self) -> Vec<u32> {
        ids(&self.servers)
    }
}

async fn accepts(target: &Target) -> bool {
    let Ok(mut caller) = target.connect() else { return false };
    caller.put("kv/first".into(), Bytes::from_static(b"v")).await.is_ok()
}

/// One for all of etcd's servers, as Weir's are: the same kind of key, and the name that the client looks for.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Certificate {
    fn add_to(&self, command: &mut Command, whose: &str) {
        command.arg(format!("--{whose}cert-file")).arg(&self.certificate);
        command.arg(format!("--{whose}key-file")).arg(&self.key);
    }
}

fn certificate(dir: &Path) -> Result<(Certificate, String)> {
    let now = SystemTime::now();
    let ca = Ca::create("etcd", now)?;
    let whom = Request {
        kind: RoleKind::Server,
        name: "etcd".into(),
        dns: vec!["localhost".into()],
        ips: vec!["127.0.0.1".parse()?],
        lifetime: Duration::from_secs(24 * 3600),
    };
    pki::store(dir, "etcd", &ca.issue(&whom, now)?)?;
    fs::write(dir.join("ca.pem"), ca.cert_pem())?;
    let [certificate, key, ca_file] = ["etcd.pem", "etcd.key", "ca.pem"].map(|name| dir.join(name));
    Ok((Certificate { certificate, key, ca: ca_file }, ca.cert_pem().to_owned()))
}
