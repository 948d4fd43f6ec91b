//! What must hold before anything starts: nobody else runs on this data or on these addresses.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use api::pki::{self, Ca, Request, RoleKind};

use super::{Args, distinct};
use crate::layout::{Layout, write_private};

/// Longer than one run of `up` should last without a restart: every start makes new ones.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Holds the data directory until it is dropped.
pub(super) fn lock(layout: &Layout) -> Result<sys::lock::Lock> {
    sys::lock::Lock::take(&layout.lock()).with_context(|| {
        format!(
            "another `weir up` runs on {}: stop it, or give this one another directory with --data",
            layout.root().display()
        )
    })
}

/// Probes every address with a plain bind. Workers listen with SO_REUSEPORT, which would let a second
/// installation take part of the first one's connections in silence.
pub(super) fn addresses(args: &Args) -> Result<()> {
    distinct(args)?;
    let named = [
        ("--http", args.http),
        ("--https", args.https),
        ("--admin", args.admin),
        ("--metrics", args.metrics),
        ("--worker-metrics", args.worker_metrics),
        ("--feed", args.feed),
    ];
    let taken: Vec<String> = named
        .into_iter()
        .filter_map(|(flag, address)| {
            let error = sys::reuseport::probe_tcp(address).err()?;
            Some(format!("{address} ({error}): give another with {flag}"))
        })
        .collect();
    match taken.as_slice() {
        [] => Ok(()),
        lines => bail!("cannot listen; is another `weir up` running?\n  {}", lines.join("\n  ")),
    }
}

/// Makes the CA and the admin's token where they are missing, and certificates for this run's processes.
pub(super) fn identities(layout: &Layout, args: &Args) -> Result<()> {
    let now = SystemTime::now();
    let ca = if layout.ca().exists() {
        Ca::load(&layout.pki())?
    } else {
        let ca = Ca::create(&format!("i-{:016x}", rand::random::<u64>()), now)?;
        ca.store(&layout.pki())?;
        ca
    };
    // Made anew at every start: the addresses may have changed, and a certificate that is replaced often needs no
    // long life.
    for (file, kind) in [("server", RoleKind::Server), ("node", RoleKind::Node), ("edge", RoleKind::Edge)] {
        let (dns, ips) = match kind {
            RoleKind::Server => (vec!["localhost".to_owned()], vec![args.admin.ip(), args.feed.ip()]),
            RoleKind::Node | RoleKind::Edge => (vec![], vec![]),
        };
        let request = Request { kind, name: "local".into(), dns, ips, lifetime: LIFETIME };
        pki::store(&layout.pki(), file, &ca.issue(&request, now)?)?;
    }
    let token = layout.admin_token();
    if !token.exists() {
        write_private(&token, format!("{}\n", controller::generate_token()?).as_bytes())?;
    }
    Ok(())
}
