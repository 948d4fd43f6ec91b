//! `weir explain URL`.

use anyhow::Result;
use api::admin::ExplainRequest;

use super::{Connect, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The URL as a client would call it
    url: String,
    /// Method
    #[arg(short = 'X', long, default_value = "GET")]
    method: String,
    /// A header, `name: value`; may be repeated
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Tenant; by default whoever owns the host
    #[arg(short, long, env = "WEIR_TENANT", default_value = "")]
    tenant: String,
    /// table, json or yaml
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut client = args.connect.client()?;
    let request =
        ExplainRequest { tenant: args.tenant, url: args.url, method: args.method, headers: args.headers };
    let answer = client.objects.explain(request).await.map_err(refusal)?.into_inner();
    if args.output != Format::Table {
        let value = serde_json::json!({
            "matched": answer.matched, "tenant": answer.tenant, "listener": answer.listener,
            "route": answer.route, "rule": answer.rule, "action": answer.action, "steps": answer.steps,
        });
        return output::print(args.output, &value, || Table::new(&[]));
    }
    let mut text = String::new();
    for (number, step) in answer.steps.iter().enumerate() {
        text += &format!("{:>2}. {step}\n", number + 1);
    }
    if answer.matched {
        text +=
            &format!("\nroute    {}\nrule     {}\nanswer   {}\n", answer.route, answer.rule, answer.action);
    } else {
        text += "\nno route answers this request\n";
    }
    output::text(&text)
}
