//! What clients bring along, in an installation: certificates, which every worker verifies as the newest configuration says,
//! and sessions that stay with an endpoint, whichever worker they meet.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use api::pki::{Ca, Identity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use sim::harness::{Installation, kill};

use super::{PATIENCE, no_errors, objects, one_at_a_time, set_pool, wait_for_workers};

const HOST: &str = "shop.test";

/// An authority of clients.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    fn signs(&self) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let made = CertificateParams::default().signed_by(&key, &self.issuer)?;
        Ok(Identity { cert_pem: made.pem(), key_pem: key.serialize_pem() })
    }
}

/// A site on the host with a session for each client, for clients of an authority.
fn site(pair: &Identity, clients: &Authority, backends: &[u16]) -> String {
    let partners = format!(
        "---
apiVersion: v1
kind: ConfigMap
metadata: {{name: partners}}
data:
  ca.crt: |
{}",
        objects::indent(&clients.pem)
    );
    let asked = "  tls:
    frontend:
      default:
        validation: {caCertificateRefs: [{group: \"\", kind: ConfigMap, name: partners}]}
---
apiVersion: weir.dev/v1
kind: ListenerPolicy
metadata: {name: partners}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  clientCertificates: {forward: {}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: site}
spec:
  parentRefs: [{name: web}]
  rules:
    - sessionPersistence: {sessionName: cart}
      backendRefs: [{group: weir.dev, kind: Backend, name: shop}]
";
    let gateway = objects::gateway(objects::HTTPS) + asked;
    objects::tls(pair) + &partners + &gateway + &objects::backend("shop", backends)
}

/// An upstream that says its port and what it was told of the client, for as long as the process lives.
fn upstream() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, port));
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream, port: u16) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part)?;
        if count == 0 {
            return Ok(());
        }
        read.extend_from_slice(part.get(..count).unwrap_or_default());
        if read.ends_with(b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read).to_ascii_lowercase();
            let told = head.contains("\r\nx-forwarded-client-cert: hash=");
            let body = format!("{port} {told}");
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            read.clear();
        }
    }
}

/// Who shows a certificate, and keeps its sessions.
struct Client {
    config: Arc<ClientConfig>,
    port: u16,
}

impl Client {
    fn new(weir: &Installation, ca: &Ca, shown: Option<&Identity>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes())?)?;
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(Identity { cert_pem, key_pem }) => config.with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert_pem.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?,
            )?,
        };
        Ok(Self { config: Arc::new(config), port: weir.ports.https })
    }

    /// One request on a connection of its own: what was answered, and the cookie that came with it. `None`: not let in.
    fn visit(&self, cookie: Option<&str>) -> Result<Option<(String, Option<String>)>> {
        let mut tls = ClientConnection::new(Arc::clone(&self.config), HOST.try_into()?)?;
        let mut tcp = TcpStream::connect(("127.0.0.1", self.port))?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{cookie}Connection: close\r\n\r\n");
        if stream.write_all(request.as_bytes()).is_err() {
            return Ok(None);
        }
        let mut answer = String::new();
        // The end of the connection need not be announced.
        stream.read_to_string(&mut answer).ok();
        if answer.is_empty() {
            return Ok(None);
        }
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        let body = answer.rsplit("\r\n").next().unwrap_or_default().to_owned();
        let given = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("set-cookie")
                .then(|| value.split(';').next().unwrap_or_default().to_owned())
        });
        Ok(Some((body, given)))
    }
}

#[test]
fn certificates_are_verified_and_sessions_stay_on_every_worker() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&[])?;
    set_pool(&weir, 2..=2, "")?;
    weir.settle(2, PATIENCE)?;
    let users = Ca::create("users", SystemTime::now())?;
    let pair = users.issue_serving(&[HOST.to_owned()], Duration::from_secs(86_400), SystemTime::now())?;
    let (partners, others) = (Authority::new("partners")?, Authority::new("others")?);
    let backends = [upstream()?, upstream()?, upstream()?];
    weir.ok(&["tenant", "create", "acme"])?;
    weir.apply(
        "platform",
        &format!(
            "apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {{name: acme}}\nspec: {{hostnames: [{HOST}]}}\n"
        ),
    )?;
    weir.apply("acme", &site(&pair, &partners, &backends))?;
    wait_for_workers(&weir, "acme")?;

    let partner = Client::new(&weir, &users, Some(&partners.signs()?))?;
    let other = Client::new(&weir, &users, Some(&others.signs()?))?;
    let nobody = Client::new(&weir, &users, None)?;
    let (first, cookie) = partner.visit(None)?.context("a partner comes in")?;
    let cookie = cookie.context("it has a session")?;
    ensure!(first.ends_with(" true"), "upstreams hear who it is: {first}");
    // Several times, so that both workers are met.
    for _ in 0..8 {
        assert_eq!(partner.visit(Some(&cookie))?, Some((first.clone(), None)));
        assert_eq!(other.visit(None)?, None);
        assert_eq!(nobody.visit(None)?, None);
    }
    // Workers that never met the client, after one was killed.
    let pid = weir.ready_workers()?[0]["pid"].as_u64().context("a worker has a pid")?;
    kill(u32::try_from(pid)?, Signal::KILL)?;
    set_pool(&weir, 3..=3, "")?;
    weir.settle(3, PATIENCE)?;
    weir.wait(PATIENCE, "three workers, of which one is new", || {
        let ready = weir.ready_workers()?;
        Ok(ready.len() == 3 && ready.iter().all(|worker| worker["pid"].as_u64() != Some(pid)))
    })?;
    for _ in 0..8 {
        assert_eq!(partner.visit(Some(&cookie))?, Some((first.clone(), None)));
    }
    // Others are partners now: TLS sessions of before let nobody in.
    weir.apply("acme", &site(&pair, &others, &backends))?;
    wait_for_workers(&weir, "acme")?;
    for _ in 0..8 {
        assert_eq!(partner.visit(Some(&cookie))?, None);
        ensure!(other.visit(None)?.is_some());
    }
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}
