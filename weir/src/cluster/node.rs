//! `weir node join`.

use std::path::PathBuf;

use anyhow::Result;
use api::{
    join::{JoinRequest, NewNode, join_request},
    pki::{self, Identity},
};

use super::join::{Whom, kept_key};
use crate::{
    layout::{DEFAULT_DATA, Layout, NodeFile, write_private},
    output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    whom: Whom,
    /// Data directory, made by this
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// This machine's name among the nodes
    #[arg(long, default_value_t = host_name())]
    name: String,
}

/// The machine's own name as far as it can be one here.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_ascii_lowercase();
    let kept: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c)).collect();
    if kept.is_empty() { "node".into() } else { kept }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { whom, data, name } = args;
    let layout = Layout::new(&data)?;
    layout.create()?;
    let (node, worker) = (kept_key(&layout, "node")?, kept_key(&layout, "edge")?);
    let role = NewNode { name: name.clone(), worker_request_pem: pki::request(&worker)? };
    let request = JoinRequest {
        token: String::new(),
        request_pem: pki::request(&node)?,
        role: Some(join_request::Role::Node(role)),
    };
    let joined = whom.join(request).await?;
    write_private(&layout.ca(), joined.ca_pem.as_bytes())?;
    let certificates =
        [("node", joined.certificate_pem, node), ("edge", joined.worker_certificate_pem, worker)];
    for (file, cert_pem, key_pem) in certificates {
        pki::store(&layout.pki(), file, &Identity { cert_pem, key_pem })?;
    }
    layout.write_node(&NodeFile { name: name.clone(), servers: joined.servers })?;
    output::text(&format!(
        "joined as node {name}\n\nStart it within a day: weir node --data {}\n",
        data.display()
    ))
}
