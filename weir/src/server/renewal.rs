//! A server's own certificate: it signs its own requests, since every server has the CA.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use api::pki::{self, Ca, Identity, Request, RoleKind};
use store::transport::role_name;
use tokio::{sync::watch, time::sleep};
use tracing::{error, info};

use crate::layout::Layout;

/// The clock may jump, and a machine may sleep: the time is looked at again.
const LOOK: Duration = Duration::from_secs(60);

/// Renews a server's certificate at two thirds of its life, for ever; one that is over, at once.
pub(super) async fn keep(
    id: u64,
    layout: Layout,
    renewed: watch::Sender<Identity>,
    ca: Arc<Ca>,
    lifetime: Duration,
) {
    loop {
        let (now, identity) = (SystemTime::now(), renewed.borrow().clone());
        // A certificate that does not read is renewed.
        let due = pki::renew_at(&identity.cert_pem).unwrap_or(now);
        match due.duration_since(now) {
            Ok(left) if !left.is_zero() => sleep(left.min(LOOK)).await,
            _ => {
                match renew(id, &layout, &ca, lifetime) {
                    Ok(identity) => {
                        info!(server = id, "certificate renewed");
                        renewed.send_replace(identity);
                    }
                    Err(error) => error!(error = format!("{error:#}"), "the certificate is not renewed"),
                }
                // Never in a tight circle, whatever the lifetime.
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn renew(id: u64, layout: &Layout, ca: &Ca, lifetime: Duration) -> Result<Identity> {
    let whom = Request { kind: RoleKind::Server, name: role_name(id), dns: vec![], ips: vec![], lifetime };
    let identity = ca.issue(&whom, SystemTime::now())?;
    pki::store(&layout.pki(), "server", &identity)?;
    Ok(identity)
}
