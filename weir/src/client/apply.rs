//! `weir apply -f`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use api::admin::{ApplyRequest, SourceFile};

use super::{Connect, refusal};
use crate::output;

/// The largest set of files that is sent; the server's own bound is on the message.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file, a directory (its .yaml, .yml and .json files), or - for standard input; may be repeated
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// The tenant whose objects these are
    #[arg(short, long, env = "WEIR_TENANT", default_value = "platform")]
    tenant: String,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let files = read_all(&args.files)?;
    let mut client = args.connect.client()?;
    let request = ApplyRequest {
        tenant: args.tenant,
        files,
        dry_run: args.dry_run,
        // One id for the whole command: a retried call happens once.
        request_id: format!("{:032x}", rand::random::<u128>()),
        ..ApplyRequest::default()
    };
    let response = client.objects.apply(request).await.map_err(refusal)?.into_inner();
    for warning in &response.warnings {
        output::note(&format!("warning: {warning}"));
    }
    if response.applied.is_empty() {
        bail!("the files hold no object: nothing was applied");
    }
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    let mut text = String::new();
    for applied in &response.applied {
        let key = applied.key.clone().unwrap_or_default();
        text += &format!("{} {}/{} {}{suffix}\n", key.kind, key.namespace, key.name, applied.outcome);
    }
    if !args.dry_run {
        text += &format!("revision {}\n", response.revision);
    }
    output::text(&text)
}

/// Every file that the paths name, in a stable order.
fn read_all(paths: &[PathBuf]) -> Result<Vec<SourceFile>> {
    let mut files = vec![];
    for path in paths {
        if path.as_os_str() == "-" {
            let content = std::io::read_to_string(std::io::stdin()).context("read standard input")?;
            files.push(SourceFile { name: "standard input".into(), content });
        } else if path.is_dir() {
            let before = files.len();
            let entries = std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
            let mut inside = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
            inside.sort();
            for file in inside.iter().filter(|p| is_config(p)) {
                files.push(read(file)?);
            }
            if files.len() == before {
                bail!("{} holds no .yaml, .yml or .json file", path.display());
            }
        } else {
            files.push(read(path)?);
        }
    }
    Ok(files)
}

fn is_config(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

fn read(path: &Path) -> Result<SourceFile> {
    let size = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?.len();
    if size > MAX_BYTES {
        bail!("{} is {size} bytes; at most {MAX_BYTES} are sent at once: split it", path.display());
    }
    let content = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(SourceFile { name: path.display().to_string(), content })
}
