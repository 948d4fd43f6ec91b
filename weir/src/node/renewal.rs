//! The certificates of an agent and its workers: asked for anew at two thirds of their life, of any server.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow};
use api::{
    client::{Route, channel},
    join::{RenewRequest, certificates_client::CertificatesClient},
    pki,
};
use node::{Identities, Identity};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

/// The clock may jump, and a machine may sleep: the time is looked at again.
const LOOK: Duration = Duration::from_secs(60);
/// The first pause after a failure, doubled with each: a third of a life is left.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Renews for ever, and says so to whoever watches.
pub(super) async fn keep(
    pki_dir: PathBuf,
    servers: watch::Receiver<Vec<String>>,
    renewed: Arc<watch::Sender<Identities>>,
) {
    let (mut route, mut retry) = (Route::default(), RETRY);
    loop {
        route.learn(&servers.borrow());
        let (now, identities) = (SystemTime::now(), renewed.borrow().clone());
        // A certificate that does not read is renewed.
        let due = [&identities.node, &identities.worker].map(|i| pki::renew_at(&i.cert_pem).unwrap_or(now));
        let due = due.into_iter().min().unwrap_or(now);
        if let Ok(left) = due.duration_since(now)
            && !left.is_zero()
        {
            sleep(left.min(LOOK)).await;
            continue;
        }
        match renew(&pki_dir, &mut route, &identities).await {
            Ok(identities) => {
                info!("certificates renewed");
                renewed.send_replace(identities);
                retry = RETRY;
                sleep(RETRY).await;
            }
            Err(error) => {
                warn!(error = format!("{error:#}"), "certificates are not renewed yet");
                sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn renew(pki_dir: &Path, route: &mut Route, now: &Identities) -> Result<Identities> {
    let server = route.choose().ok_or_else(|| anyhow!("no server is known"))?;
    let (node_key, worker_key) = (pki::new_key()?, pki::new_key()?);
    let request = RenewRequest {
        request_pem: pki::request(&node_key)?,
        worker_request_pem: pki::request(&worker_key)?,
    };
    let ca_pem = now.node.ca_pem.clone();
    let own = pki::Identity { cert_pem: now.node.cert_pem.clone(), key_pem: now.node.key_pem.clone() };
    let mut client = CertificatesClient::new(channel(&server, &ca_pem, Some(&own))?);
    let answer = client.renew(request).await.with_context(|| format!("ask {server}"))?.into_inner();
    let renewed =
        [("node", answer.certificate_pem, node_key), ("edge", answer.worker_certificate_pem, worker_key)]
            .map(|(file, cert_pem, key_pem)| (file, pki::Identity { cert_pem, key_pem }));
    for (file, identity) in &renewed {
        pki::store(pki_dir, file, identity)?;
    }
    let [node, worker] = renewed.map(|(_, pki::Identity { cert_pem, key_pem })| Identity {
        ca_pem: ca_pem.clone(),
        cert_pem,
        key_pem,
    });
    Ok(Identities { node, worker })
}
