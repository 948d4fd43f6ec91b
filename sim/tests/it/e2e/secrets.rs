//! A secret goes into an installation, is served, read back, rotated, backed up, and survives a kill and a restart. Then
//! everything that the installation wrote, logged, counted and answered is searched for it.

mod needles;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use api::{
    admin::{GetRequest, ListRequest, ObjectKey, WatchRequest},
    client::Admin,
    pki::{Ca, Identity},
};
use model::TenantId;
use prost::Message as _;
use rustix::process::Signal;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use sim::harness::{Installation, Ports, get, kill, tell};
use tempfile::TempDir;

use super::{PATIENCE, objects::indent, one_at_a_time};
use needles::Needles;

/// What is no secret, to see that the search finds what is there.
const MARKER: &str = "marker-that-everybody-may-see";
const HOST: &str = "acme.localhost";

/// What a user applies: the key in the clear and in base64, and once more where `kubectl` leaves it.
fn objects(pair: &Identity, canary: &str) -> String {
    let secret = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  labels: {{is: {MARKER}}}\n  \
             annotations: {{kubectl.kubernetes.io/last-applied-configuration: '{canary}'}}\n\
             type: kubernetes.io/tls\n"
        )
    };
    let text = format!(
        "stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(&pair.cert_pem),
        indent(&pair.key_pem)
    );
    let data = format!(
        "data:\n  tls.crt: {}\n  tls.key: {}\n",
        needles::base64(pair.cert_pem.as_bytes()),
        needles::base64(pair.key_pem.as_bytes())
    );
    format!(
        "{}{text}---\n{}{data}---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: web}}
spec:
  gatewayClassName: weir
  listeners:
    - name: https
      port: 443
      protocol: HTTPS
      hostname: {HOST}
      tls: {{certificateRefs: [{{name: tls}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: site}}
spec:
  parentRefs: [{{name: web}}]
  rules:
    - filters:
        - type: ExtensionRef
          extensionRef: {{group: weir.dev, kind: DirectResponse, name: hello}}
---
apiVersion: weir.dev/v1
kind: DirectResponse
metadata: {{name: hello}}
spec: {{status: 200, body: hello}}
",
        secret("tls"),
        secret("other")
    )
}

/// A request over TLS that trusts the tenant's certificate authority alone; what was answered.
fn get_tls(port: u16, ca_pem: &str) -> Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(config), HOST.try_into()?)?;
    let mut tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    // The end of the connection need not be announced.
    stream.read_to_string(&mut answer).ok();
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    Ok(answer)
}

/// All that the command line and the API tell about it.
fn answers(weir: &Installation) -> Result<Vec<String>> {
    let mut answers = vec![];
    let secret = ["get", "secret", "tls", "-t", "acme"];
    for arguments in [
        &["get", "-t", "acme"][..],
        &["describe", "secret", "tls", "-t", "acme"],
        &["describe", "gateway", "web", "-t", "acme"],
        &["explain", "https://acme.localhost/", "-t", "acme"],
        &["tenant", "list"],
        &["secrets", "status"],
        &["cluster", "status"],
        &["workers"],
        &["events"],
        // Those of later versions: what they say counts, also a refusal.
        &["history", "-t", "acme"],
        &["history", "secret", "tls", "-t", "acme"],
        &["audit"],
        &["audit", "-t", "acme"],
    ] {
        let output = weir.weir(arguments)?;
        answers
            .extend([output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()));
    }
    for format in ["table", "json", "yaml"] {
        answers.push(weir.ok(&[&secret[..], &["-o", format]].concat())?);
        answers.push(weir.ok(&["get", "-t", "acme", "-o", format])?);
    }
    let data = weir.directory().join("weir-data");
    let (ca, token) =
        (fs::read_to_string(data.join("pki/ca.pem"))?, fs::read_to_string(data.join("admin.token"))?);
    let client = Admin::new(&format!("127.0.0.1:{}", weir.ports.admin), &ca, token.trim());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = client?;
        let key = ObjectKey {
            tenant: "acme".into(),
            namespace: "default".into(),
            kind: "Secret".into(),
            name: "tls".into(),
        };
        let one = client.objects.get(GetRequest { key: Some(key), ..GetRequest::default() }).await?;
        let all = ListRequest { tenant: "acme".into(), ..Default::default() };
        let all = client.objects.list(all).await?;
        answers.extend([format!("{one:?}"), format!("{all:?}")]);
        let watch = WatchRequest { tenant: "acme".into(), from_revision: 1, ..Default::default() };
        let mut watch = client.objects.watch(watch).await?.into_inner();
        // Up to where the secret is seen for the first time.
        while let Some(event) = tokio::time::timeout(PATIENCE, watch.message()).await?? {
            answers.push(format!("{event:?}"));
            if !event.changes.is_empty() {
                break;
            }
        }
        anyhow::Ok(())
    })?;
    let metrics = get(weir.ports.metrics, "localhost", "/metrics")?;
    answers.push(String::from_utf8(metrics.body)?);
    Ok(answers)
}

/// A store takes snapshots of what is in its directory, which has none yet but the first. Returns the secrets of the ticket
/// keys that are in it, opened with that key file.
fn take_snapshots(directory: &Path, key_file: &Path) -> Result<Vec<Vec<u8>>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut config = store::Config::new(directory);
        config.snapshot_bytes = 1;
        let store = store::Store::open(config).await?;
        for n in 0..8 {
            store.txn(store::Txn::new("test").put("snapshots", n.to_string())).await?;
        }
        let sealed = store.get(controller::keys::TICKET_KEYS, store::Read::Local).await?;
        let sealed = sealed.context("there are ticket keys")?.value;
        store.shutdown().await;
        let sealer = store::seal::Sealer::from_file(key_file)?;
        let plain = sealer.open(&TenantId::platform(), controller::keys::TICKET_KEYS, &sealed)?;
        let keys = api::feed::TicketKeys::decode(plain.as_slice())?.keys;
        anyhow::Ok(keys.into_iter().map(|key| key.secret).collect())
    })
}

#[test]
fn a_secret_is_nowhere_but_where_it_is_served() -> Result<()> {
    let _turn = one_at_a_time();
    let inputs = TempDir::new()?;
    let users = Ca::create("users", SystemTime::now())?;
    let pair = users.issue_serving(&[HOST.to_owned()], Duration::from_secs(86_400), SystemTime::now())?;
    let canary = store::request_id() + &store::request_id();
    let mut needles = Needles::of(&pair.key_pem, &canary)?;
    needles.are_found_in(pair.key_pem.as_bytes())?;
    let mut said = vec![];

    // The most talkative that it can be.
    let (directory, ports) = (Arc::new(TempDir::with_prefix("weir-")?), Ports::free()?);
    let environment = [("RUST_LOG", "debug"), ("WEIR_ACCESS_LOG", "stdout")];
    let up = || Installation::up_with(directory.clone(), ports, &[], &environment);
    let weir = up()?;
    weir.ok(&["tenant", "create", "acme"])?;
    let file = inputs.path().join("objects.yaml").display().to_string();
    let good = objects(&pair, &canary);
    // Mistakes are told without what they are in: no key, half a key, no field of that name, no YAML.
    for bad in [
        good.replace("-----BEGIN PRIVATE KEY-----", "-----BEGIN NOTHING-----"),
        good.replace("tls.key: |", "tls.kex: |"),
        good.replace("type: kubernetes.io/tls", "type: kubernetes.io/nothing"),
        good.replace("  tls.key: |\n    -----BEGIN", "  tls.key: {|\n    -----BEGIN"),
    ] {
        assert!(bad != good);
        fs::write(&file, bad)?;
        let refused = weir.weir(&["apply", "-t", "acme", "-f", &file])?;
        assert!(!refused.status.success());
        said.extend([refused.stdout, refused.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()));
    }
    fs::write(&file, good)?;
    said.push(weir.ok(&["apply", "-t", "acme", "-f", &file])?);
    weir.wait(PATIENCE, "TLS with the tenant's key", || Ok(get_tls(ports.https, users.cert_pem()).is_ok()))?;
    said.extend(answers(&weir)?);

    // A server that is killed leaves a state that is put aside; its successor replays the log.
    kill(weir.child("server")?, Signal::KILL)?;
    weir.wait(PATIENCE, "the next server", || Ok(weir.weir(&["cluster", "status"])?.status.success()))?;
    said.push(weir.ok(&["secrets", "rotate-key"])?);
    said.push(weir.ok(&["backup", "-o", "weir.backup"])?);
    get_tls(ports.https, users.cert_pem())?;
    said.extend(answers(&weir)?);
    let stopped = weir.stop_keeping()?;
    said.push(stopped.log);

    // And again from its disk, with the new key.
    let weir = up()?;
    weir.wait(PATIENCE, "TLS after a restart", || Ok(get_tls(ports.https, users.cert_pem()).is_ok()))?;
    said.extend(answers(&weir)?);
    said.push(weir.stop_keeping()?.log);

    let server = directory.path().join("weir-data/server");
    let key_file = directory.path().join("weir-data.key");
    let ticket_keys = take_snapshots(&server, &key_file).context("take snapshots")?;
    ensure!(ticket_keys.len() >= 2, "one that seals, and the next");
    for secret in &ticket_keys {
        needles.add("a ticket key", secret);
        needles.are_found_in(secret)?;
    }
    for (place, least) in [("wal", 1), ("snapshots", 2), ("state", 2)] {
        ensure!(needles::files(&server.join(place))?.len() >= least, "{place} is empty");
    }
    let cache = directory.path().join("weir-data/node/cache");
    ensure!(!needles::files(&cache)?.is_empty(), "the edge kept nothing");
    let (mut files, mut marked, mut bytes) = (0, vec![], 0);
    for path in needles::files(directory.path())? {
        for content in needles::contents(&fs::read(&path)?) {
            needles.are_not_in(&content).with_context(|| path.display().to_string())?;
            if needles::contains(&content, MARKER.as_bytes()) {
                marked.push(path.clone());
            }
            bytes += content.len();
        }
        files += 1;
    }
    for answer in &said {
        needles.are_not_in(answer.as_bytes()).context("what was said")?;
        bytes += answer.len();
    }
    for place in ["server/wal", "server/snapshots", "server/state/db"] {
        let below = directory.path().join("weir-data").join(place);
        ensure!(marked.iter().any(|path| path.starts_with(&below)), "the search finds nothing in {place}");
    }
    ensure!(
        marked.iter().any(|path| path.ends_with("weir.backup")),
        "the search finds nothing in the backup"
    );
    tell(&format!(
        "{} forms of a secret in none of {files} files and {} answers and logs, {} MiB",
        needles.count(),
        said.len(),
        bytes >> 20
    ));
    Ok(())
}
