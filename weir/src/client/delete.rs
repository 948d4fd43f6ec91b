//! `weir delete`.

use anyhow::Result;
use api::admin::{DeleteRequest, ObjectKey};

use super::{Connect, kind, refusal};
use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind, such as httproute
    kind: String,
    /// Names; all are deleted or none
    #[arg(required = true)]
    names: Vec<String>,
    /// Tenant
    #[arg(short, long, env = "WEIR_TENANT", default_value = "platform")]
    tenant: String,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let kind = kind(&args.kind)?;
    let key = |name: &String| ObjectKey {
        tenant: args.tenant.clone(),
        namespace: args.namespace.clone(),
        kind: kind.into(),
        name: name.clone(),
    };
    let request = DeleteRequest {
        keys: args.names.iter().map(key).collect(),
        request_id: format!("{:032x}", rand::random::<u128>()),
        dry_run: args.dry_run,
    };
    let mut client = args.connect.client()?;
    let response = client.objects.delete(request).await.map_err(refusal)?.into_inner();
    let suffix =
        if args.dry_run { " (dry run)".to_owned() } else { format!(" at revision {}", response.revision) };
    let lines = args.names.iter().map(|name| format!("{kind} {}/{name} deleted{suffix}\n", args.namespace));
    output::text(&lines.collect::<String>())
}
