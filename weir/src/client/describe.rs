//! `weir describe`.

use anyhow::Result;
use api::admin::{GetRequest, ObjectKey};

use super::{Connect, get::document, kind, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind, such as httproute
    kind: String,
    /// Name
    name: String,
    /// Tenant
    #[arg(short, long, env = "WEIR_TENANT", default_value = "platform")]
    tenant: String,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// table, json or yaml
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let key = ObjectKey {
        tenant: args.tenant,
        namespace: args.namespace,
        kind: kind(&args.kind)?.into(),
        name: args.name,
    };
    let mut client = args.connect.client()?;
    let request = GetRequest { key: Some(key.clone()), ..GetRequest::default() };
    let object = client.objects.get(request).await.map_err(refusal)?.into_inner().object.unwrap_or_default();
    if args.output != Format::Table {
        return output::print(args.output, &document(&object), || Table::new(&[]));
    }
    let spec = serde_json::from_str::<serde_json::Value>(&object.json)?;
    let mut text = format!(
        "{} {}/{} of tenant {}\ngeneration {}, revision {}, created at revision {}\n\n",
        key.kind,
        key.namespace,
        key.name,
        key.tenant,
        object.generation,
        object.revision,
        object.created_revision
    );
    let mut table = Table::new(&["CONDITION", "STATUS", "REASON", "PARENT", "MESSAGE"]);
    for c in object.conditions {
        table.row([c.r#type, c.status, c.reason, c.parent, c.message]);
    }
    text += &table.render();
    text += "\n";
    text += &serde_saphyr::to_string(&spec)?;
    output::text(&text)
}
