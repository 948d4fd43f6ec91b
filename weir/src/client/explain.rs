//! `weir explain URL` and `weir explain --request ID`.

use anyhow::{Result, bail};
use api::admin::{ExplainRequest, RecallRequest, RecallResponse};

use super::{Connect, refusal};
use crate::output::{self, Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The URL as a client would call it
    #[arg(required_unless_present = "request")]
    url: Option<String>,
    /// A request that was answered lately, by the x-request-id of its answer
    #[arg(long, value_name = "ID", conflicts_with_all = ["url", "method", "headers"])]
    request: Option<String>,
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
    if let Some(request) = args.request {
        let request = RecallRequest { tenant: args.tenant, request };
        let answer = client.objects.recall(request).await.map_err(refusal)?.into_inner();
        return tell(args.output, answer);
    }
    let url = args.url.unwrap_or_default();
    let request = ExplainRequest { tenant: args.tenant, url, method: args.method, headers: args.headers };
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

/// Says what became of a request.
fn tell(format: Format, answer: RecallResponse) -> Result<()> {
    let silent = match answer.silent {
        0 => String::new(),
        silent => format!(" ({silent} of them did not answer in time: ask again)"),
    };
    let Some(request) = answer.request else {
        bail!(
            "none of {} workers knows this request{silent}: it is still running, was answered too long ago, is \
             another tenant's, or its worker has ended",
            answer.asked
        );
    };
    let mut value = api::recall::json(&request);
    value["worker"] = answer.worker.as_str().into();
    if format != Format::Table {
        return output::print(format, &value, || Table::new(&[]));
    }
    let mut text = String::new();
    for (number, step) in api::recall::steps(&request).iter().enumerate() {
        text += &format!("{:>2}. {step}\n", number + 1);
    }
    text += &format!("\nrequest  {}\nworker   {}\n", request.id, answer.worker);
    output::text(&text)
}
