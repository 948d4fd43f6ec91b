//! `weir cluster init`.

use std::{net::SocketAddr, time::SystemTime};

use anyhow::{Context, Result};
use api::pki::{self, Ca, Request, RoleKind};
use store::{seal::Sealer, transport::role_name};

use super::Place;
use crate::{
    layout::{ClientFile, DEFAULT_DATA, Layout, ServerFile, Start, write_private},
    output,
};

/// The first server of every installation.
pub(super) const FIRST: u64 = 1;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data directory, made by this
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", default_value = DEFAULT_DATA)]
    data: std::path::PathBuf,
    #[command(flatten)]
    place: Place,
    /// Where workers of the default pool listen for HTTP (port 80 of a Gateway)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Where workers of the default pool listen for HTTPS (port 443 of a Gateway)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    https: SocketAddr,
    /// Tenants get <tenant>.<domain>
    #[arg(long, default_value = "localhost")]
    domain: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let Args { place, .. } = args;
    place.check()?;
    let layout = Layout::new(&args.data)?;
    layout.expect_new()?;
    layout.create()?;
    let now = SystemTime::now();
    let sealer = Sealer::from_file(&layout.key_encryption_key())?;
    let ca = Ca::create(&format!("i-{:016x}", rand::random::<u64>()), now)?;
    std::fs::write(layout.ca(), ca.cert_pem()).context("write the CA's certificate")?;
    // Sealed from its first moment: no disk of the installation ever has it in the clear.
    write_private(&layout.sealed_ca(), &controller::seal_ca(&ca, &sealer)?)?;
    let whom = Request {
        kind: RoleKind::Server,
        name: role_name(FIRST),
        dns: vec![],
        ips: vec![],
        lifetime: controller::CERTIFICATE_LIFETIME,
    };
    pki::store(&layout.pki(), "server", &ca.issue(&whom, now)?)?;
    write_private(&layout.admin_token(), format!("{}\n", controller::generate_token()?).as_bytes())?;
    layout.write_client(&ClientFile::new(&place.admin, &[]))?;
    // Last: a directory without it was not finished, and starts nothing.
    layout.write_server(&ServerFile {
        id: FIRST,
        start: Start::Found,
        cluster_id: None,
        peers: place.peers.clone(),
        listen_peers: place.listen_peers.map(|address| address.to_string()),
        admin: place.admin.clone(),
        listen_admin: place.listen_admin.map(|address| address.to_string()),
        metrics: place.metrics.to_string(),
        http: args.http.to_string(),
        https: args.https.to_string(),
        domain: args.domain.clone(),
    })?;
    let data = args.data.display();
    output::text(&format!(
        "installation {}, server {FIRST}\n\n  \
         data   {data}\n  \
         key    {}   (encrypts all secrets: back it up, apart from the data)\n  \
         token  {}   (the platform administrator's)\n\n\
         weir server --data {data}\n\n\
         Then, for each further server: weir cluster add --data {data}\n",
        ca.installation(),
        layout.key_encryption_key().display(),
        layout.admin_token().display(),
    ))
}
