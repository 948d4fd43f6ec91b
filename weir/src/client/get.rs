//! `weir get`.

use anyhow::Result;
use api::admin::{ListRequest, Object};

use super::{Connect, kind, refusal, watch};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kind, such as httproutes; without it every kind is shown
    kind: Option<String>,
    /// Only the object of that name
    name: Option<String>,
    /// Tenant
    #[arg(short, long, env = "WEIR_TENANT", default_value = "platform")]
    tenant: String,
    /// Only this namespace
    #[arg(short, long, default_value = "")]
    namespace: String,
    /// As it was at this revision (see weir history)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    revision: u64,
    /// Go on with every change, each once, through lost connections and servers that restart
    #[arg(short, long, conflicts_with = "revision")]
    watch: bool,
    /// table, json or yaml
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let kind = args.kind.as_deref().map(kind).transpose()?.unwrap_or_default();
    if args.watch {
        let Args { name, tenant, namespace, output, connect, .. } = args;
        let wanted = watch::Wanted { tenant, kind: kind.into(), namespace, name };
        return watch::follow(connect.client()?, wanted, output).await;
    }
    let mut client = args.connect.client()?;
    let request = ListRequest {
        tenant: args.tenant.clone(),
        kind: kind.into(),
        namespace: args.namespace.clone(),
        revision: args.revision,
        ..ListRequest::default()
    };
    let mut objects = client.objects.list(request).await.map_err(refusal)?.into_inner().objects;
    if let Some(name) = &args.name {
        objects.retain(|o| o.key.as_ref().is_some_and(|k| k.name == *name));
        if objects.is_empty() {
            anyhow::bail!("tenant {} has no {kind} named {name}", args.tenant);
        }
    }
    if objects.is_empty() {
        output::note(&format!(
            "nothing of that in tenant {}; another one is named with -t (see weir tenant list)",
            args.tenant
        ));
    }
    // A list that `weir apply` takes back.
    let items: Vec<serde_json::Value> = objects.iter().map(document).collect();
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
    output::print(args.output, &list, || {
        let mut table = Table::new(&["KIND", "NAMESPACE", "NAME", "GENERATION", "REVISION", "CONDITIONS"]);
        for object in &objects {
            let key = object.key.clone().unwrap_or_default();
            table.row([
                key.kind,
                key.namespace,
                key.name,
                object.generation.to_string(),
                object.revision.to_string(),
                summary(object),
            ]);
        }
        table
    })
}

/// The object as its user wrote it, with its status beside it.
pub(super) fn document(object: &Object) -> serde_json::Value {
    let mut value: serde_json::Value = serde_json::from_str(&object.json).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        let conditions: Vec<_> = object
            .conditions
            .iter()
            .map(|c| {
                let mut condition = serde_json::json!({
                    "type": c.r#type, "status": c.status, "reason": c.reason, "message": c.message,
                    "observedGeneration": c.observed_generation,
                });
                if !c.parent.is_empty() {
                    condition["parent"] = c.parent.clone().into();
                }
                condition
            })
            .collect();
        let status = serde_json::json!({
            "generation": object.generation, "revision": object.revision, "conditions": conditions,
        });
        map.insert("status".into(), status);
    }
    value
}

/// `Accepted Programmed`, and what is not true with its reason.
pub(super) fn summary(object: &Object) -> String {
    let mut words: Vec<String> = vec![];
    for condition in &object.conditions {
        let word = match condition.status.as_str() {
            "True" => condition.r#type.clone(),
            status => format!("{}={status}({})", condition.r#type, condition.reason),
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" ")
}
