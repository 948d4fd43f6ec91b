//! The installation under test, and how it is changed and looked at.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use api::pki::{Ca, Identity, der_of};
use rustls::ClientConnection;
use sim::{
    harness::{Installation, Ports, get, weir_binary},
    upstream::Upstream,
};
use tempfile::TempDir;

use super::{
    super::{PATIENCE, objects, set_pool},
    doors::{BODIES, Doors, GRPC, HOST, WEBSOCKET},
    size::Size,
    upstream::Upstreams,
};

/// Everything that events change.
pub(super) struct Site {
    pub(super) weir: Installation,
    pub(super) doors: Doors,
    pub(super) size: Size,
    /// How many workers there should be.
    pub(super) workers: usize,
    /// Until they serve.
    pub(super) upstreams: Option<Upstreams>,
    program: PathBuf,
    ca: Ca,
    certificate: Identity,
    /// Says which configuration answers.
    generation: u32,
    grpc: SocketAddr,
    websocket: SocketAddr,
    twin: Upstream,
}

impl Site {
    /// An installation of one worker, from a file of its own, that serves all that the clients ask for.
    pub(super) fn start(size: Size) -> Result<Self> {
        let directory = Arc::new(TempDir::with_prefix("weir-")?);
        let program = directory.path().join("weir");
        fs::copy(weir_binary(), &program)?;
        let level = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        let environment = [("RUST_LOG", level.as_str())];
        let weir = Installation::up_as(&program, directory, Ports::free()?, &["--demo"], &environment)?;
        let ca = Ca::create("users", SystemTime::now())?;
        let upstreams = Upstreams::bind()?;
        let mut site = Self {
            doors: Doors::new(weir.ports.http, weir.ports.https, &ca)?,
            size,
            workers: 1,
            program,
            certificate: issue(&ca)?,
            ca,
            generation: 0,
            grpc: upstreams.grpc()?,
            websocket: upstreams.websocket()?,
            upstreams: Some(upstreams),
            twin: Upstream::start("twin")?,
            weir,
        };
        fs::write(site.ca_file(), site.ca.cert_pem())?;
        site.scale(1)?;
        site.reload()?;
        site.is_reloaded()?;
        Ok(site)
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.weir.directory().join("users.pem")
    }

    /// The workers that take connections, and their processes.
    pub(super) fn processes(&self) -> Result<BTreeMap<String, u32>> {
        let process = |worker: &serde_json::Value| {
            let name = worker["worker"].as_str().context("a worker has a name")?;
            let pid = worker["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            Ok((name.to_owned(), pid.context("a worker has a process")?))
        };
        self.weir.ready_workers()?.iter().map(process).collect()
    }

    /// Asks for so many workers.
    pub(super) fn scale(&mut self, workers: usize) -> Result<()> {
        self.workers = workers;
        let more = format!("  scaleInDelay: 1s\n  drainDeadline: {}s\n", self.size.drain_deadline);
        set_pool(&self.weir, workers..=workers, &more)
    }

    /// Waits until so many take connections. What drains may go on for a while.
    pub(super) fn is_scaled(&self) -> Result<()> {
        let ready = || Ok(self.weir.ready_workers()?.len() == self.workers);
        self.weir
            .wait(PATIENCE, &format!("{} workers that take connections", self.workers), ready)
            .with_context(|| format!("{:#?}", self.weir.workers()))
    }

    /// Applies the next configuration: other weights, another answer.
    pub(super) fn reload(&mut self) -> Result<()> {
        self.generation += 1;
        self.weir.apply("demo", &self.objects()).map(drop)
    }

    /// Waits until it is what is served.
    pub(super) fn is_reloaded(&self) -> Result<()> {
        self.is_propagated()?;
        for _ in 0..4 {
            let answer = get(self.weir.ports.http, HOST, "/generation")?;
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            ensure!(body == self.generation.to_string(), "{body:?} is served after {}", self.generation);
        }
        Ok(())
    }

    /// Replaces the certificate.
    pub(super) fn certify(&mut self) -> Result<()> {
        self.certificate = issue(&self.ca)?;
        self.reload()
    }

    /// Waits until the certificate is what new handshakes see, by TCP and by QUIC.
    pub(super) fn is_certified(&self) -> Result<()> {
        self.is_reloaded()?;
        let expected = der_of(&self.certificate.cert_pem)?;
        for _ in 0..4 {
            ensure!(self.shown()? == expected, "an earlier certificate is shown by TCP");
        }
        ensure!(self.shown_by_quic()? == expected, "an earlier certificate is shown by QUIC");
        Ok(())
    }

    fn shown(&self) -> Result<Vec<u8>> {
        let mut session = ClientConnection::new(self.doors.forgetful("http/1.1")?, HOST.try_into()?)?;
        let mut stream = TcpStream::connect(self.doors.https)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        let shown = session.peer_certificates().and_then(<[_]>::first).context("no certificate")?;
        Ok(shown.to_vec())
    }

    fn shown_by_quic(&self) -> Result<Vec<u8>> {
        use rustls::pki_types::CertificateDer;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(self.doors.forgetful("h3")?)?;
            let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into())?;
            let config = quinn::ClientConfig::new(Arc::new(crypto));
            let connecting = endpoint.connect_with(config, self.doors.https, HOST)?;
            let connection = tokio::time::timeout(PATIENCE, connecting).await.context("no handshake")??;
            let shown =
                connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'_>>>().ok());
            connection.close(0u8.into(), b"");
            endpoint.wait_idle().await;
            let shown = shown.context("no certificate")?;
            Ok(shown.first().context("an empty chain")?.to_vec())
        })
    }

    fn is_propagated(&self) -> Result<()> {
        self.weir.wait(PATIENCE, "configuration on all workers", || {
            // A server that has just begun to lead does not know of all workers yet.
            let Ok(routes) = self.weir.json(&["get", "httproutes", "-t", "demo"]) else { return Ok(false) };
            let routes = routes["items"].as_array().cloned().unwrap_or_default();
            let propagated = |route: &serde_json::Value| {
                let conditions = route["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|c| c["type"] == "Propagated" && c["status"] == "True")
            };
            Ok(!routes.is_empty() && routes.iter().all(propagated))
        })
    }

    /// Puts another file in the place of the program, as an upgrade does.
    pub(super) fn replace_program(&self) -> Result<()> {
        let next = self.program.with_extension("next");
        fs::copy(weir_binary(), &next)?;
        Ok(fs::rename(next, &self.program)?)
    }

    /// Whether a process runs the file that is in the program's place now.
    pub(super) fn is_upgraded(&self, pid: u32) -> bool {
        let file = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
        let running = file(Path::new(&format!("/proc/{pid}/exe")));
        running.is_some() && running == file(&self.program)
    }

    fn objects(&self) -> String {
        let (generation, weight) = (self.generation, self.generation % 3);
        let (grpc, websocket, twin) = (self.grpc, self.websocket, self.twin.port);
        let rest = format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: demo}}
spec:
  gatewayClassName: weir
  listeners:
    - {{name: http, port: 80, protocol: HTTP}}
    - {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: tls}}]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: demo}}
spec:
  parentRefs: [{{name: demo}}]
  hostnames: [{HOST}]
  rules:
    - matches: [{{path: {{type: Exact, value: /generation}}}}]
      filters:
        - {{type: ExtensionRef, extensionRef: {{group: weir.dev, kind: DirectResponse, name: generation}}}}
    - matches: [{{path: {{type: Exact, value: {BODIES}}}}}]
      backendRefs: [{{group: weir.dev, kind: Backend, name: twin}}]
    - backendRefs:
        - {{group: weir.dev, kind: Backend, name: demo, weight: 4}}
        - {{group: weir.dev, kind: Backend, name: twin, weight: {weight}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: grpc}}
spec:
  parentRefs: [{{name: demo}}]
  hostnames: [{GRPC}]
  rules: [{{backendRefs: [{{group: weir.dev, kind: Backend, name: grpc}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: ws}}
spec:
  parentRefs: [{{name: demo}}]
  hostnames: [{WEBSOCKET}]
  rules: [{{backendRefs: [{{group: weir.dev, kind: Backend, name: ws}}]}}]
---
apiVersion: weir.dev/v1
kind: DirectResponse
metadata: {{name: generation}}
spec: {{status: 200, body: '{generation}'}}
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: grpc}}
spec: {{appProtocol: kubernetes.io/h2c, endpoints: [{{address: '{grpc}'}}]}}
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: ws}}
spec: {{endpoints: [{{address: '{websocket}'}}]}}
---
apiVersion: weir.dev/v1
kind: Backend
metadata: {{name: twin}}
spec: {{endpoints: [{{address: '127.0.0.1:{twin}'}}]}}
"
        );
        objects::tls(&self.certificate) + &rest
    }
}

/// A certificate for all hosts that clients ask for.
fn issue(ca: &Ca) -> Result<Identity> {
    let hosts = [HOST, GRPC, WEBSOCKET].map(str::to_owned);
    Ok(ca.issue_serving(&hosts, Duration::from_secs(86_400), SystemTime::now())?)
}
