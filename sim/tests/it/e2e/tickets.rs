//! TLS sessions in an installation: resumed by workers that never met the client, through rotations, and not by another
//! tenant.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use api::pki::{Ca, Identity};
use rustix::process::Signal;
use rustls::{
    ClientConfig, ClientConnection,
    HandshakeKind::{self, Full, Resumed},
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use sim::harness::{Installation, kill};

use super::{PATIENCE, no_errors, objects, one_at_a_time, set_pool, wait_for_workers};

const HOST: &str = "shop.test";

/// A site on the host that says `body`.
fn site(pair: &Identity, body: &str) -> String {
    objects::tls(pair) + &objects::gateway(objects::HTTPS) + &objects::answer("site", body)
}

/// Whose the host is.
fn grants(acme: &str, globex: &str) -> String {
    let tenant = |name: &str, hosts: &str| {
        format!(
            "apiVersion: weir.dev/v1\nkind: Tenant\nmetadata: {{name: {name}}}\nspec: {{hostnames: [{hosts}]}}\n"
        )
    };
    tenant("acme", acme) + "---\n" + &tenant("globex", globex)
}

/// Who remembers its sessions, and nobody else's.
struct Client {
    config: Arc<ClientConfig>,
    port: u16,
}

impl Client {
    fn new(weir: &Installation, ca: &Ca, version: &'static rustls::SupportedProtocolVersion) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes())?)?;
        let config = ClientConfig::builder_with_protocol_versions(&[version]);
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { config: Arc::new(config), port: weir.ports.https })
    }

    /// One request on a connection of its own: how its handshake went, and what was answered.
    fn visit(&self) -> Result<(HandshakeKind, String)> {
        let mut tls = ClientConnection::new(Arc::clone(&self.config), HOST.try_into()?)?;
        let mut tcp = TcpStream::connect(("127.0.0.1", self.port))?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        // The end of the connection need not be announced.
        stream.read_to_string(&mut answer).ok();
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        let body = answer.rsplit("\r\n").next().unwrap_or_default().to_owned();
        Ok((tls.handshake_kind().context("the handshake is over")?, body))
    }

    fn handshake(&self) -> Result<HandshakeKind> {
        Ok(self.visit()?.0)
    }
}

#[test]
fn sessions_resume_on_other_workers_through_a_rotation_and_not_with_another_tenant() -> Result<()> {
    let _turn = one_at_a_time();
    let weir = Installation::up(&[])?;
    set_pool(&weir, 1..=1, "  scaleInDelay: 1s\n")?;
    weir.settle(1, PATIENCE)?;
    let users = Ca::create("users", SystemTime::now())?;
    let pair = users.issue_serving(&[HOST.to_owned()], Duration::from_secs(86_400), SystemTime::now())?;
    for tenant in ["acme", "globex"] {
        weir.ok(&["tenant", "create", tenant])?;
    }
    weir.apply("platform", &grants(HOST, ""))?;
    weir.apply("acme", &site(&pair, "first"))?;
    wait_for_workers(&weir, "acme")?;

    // Clients of the first worker: both versions, three of each.
    let first = weir.ready_workers()?[0].clone();
    let clients = [&TLS13, &TLS12, &TLS13, &TLS12, &TLS13, &TLS12];
    let clients = clients.map(|version| Client::new(&weir, &users, version));
    let clients = clients.into_iter().collect::<Result<Vec<_>>>()?;
    for client in &clients {
        assert_eq!(client.handshake()?, Full);
    }
    let (scaled, rotated, revoked) = (&clients[0..2], &clients[2..4], &clients[4..6]);

    // Others come, and the first one goes.
    set_pool(&weir, 3..=3, "  scaleInDelay: 1s\n")?;
    weir.settle(3, PATIENCE)?;
    kill(u32::try_from(first["pid"].as_u64().context("a worker has a pid")?)?, Signal::KILL)?;
    weir.wait(PATIENCE, "three other workers", || {
        let ready = weir.ready_workers()?;
        Ok(ready.len() == 3 && ready.iter().all(|worker| worker["worker"] != first["worker"]))
    })?;
    for client in scaled {
        for _ in 0..6 {
            assert_eq!(client.handshake()?, Resumed, "none of these workers began the session");
        }
    }

    // One rotation: what was given before is good, and what is given since, too.
    weir.ok(&["secrets", "rotate-tickets"])?;
    weir.apply("acme", &site(&pair, "second"))?;
    wait_for_workers(&weir, "acme")?;
    for client in rotated.iter().chain(scaled) {
        assert_eq!(client.visit()?, (Resumed, "second".to_owned()));
        assert_eq!(client.handshake()?, Resumed);
    }
    // The one after it forgets what was given before the first.
    weir.ok(&["secrets", "rotate-tickets"])?;
    weir.apply("acme", &site(&pair, "third"))?;
    wait_for_workers(&weir, "acme")?;
    assert_eq!(revoked[0].visit()?, (Full, "third".to_owned()));
    for client in rotated {
        assert_eq!(client.handshake()?, Resumed);
    }
    weir.ok(&["secrets", "rotate-tickets", "--revoke"])?;
    weir.apply("acme", &site(&pair, "fourth"))?;
    wait_for_workers(&weir, "acme")?;
    for client in rotated {
        assert_eq!((client.handshake()?, client.handshake()?), (Full, Resumed));
    }

    // The host becomes another tenant's, who shows the same certificate.
    weir.apply("platform", &grants("", HOST))?;
    weir.apply("globex", &site(&pair, "globex"))?;
    wait_for_workers(&weir, "globex")?;
    for client in rotated {
        assert_eq!(client.visit()?, (Full, "globex".to_owned()));
        assert_eq!(client.visit()?, (Resumed, "globex".to_owned()));
    }
    let (status, log) = weir.stop()?;
    assert!(status.success(), "{log}");
    no_errors(&log);
    Ok(())
}
