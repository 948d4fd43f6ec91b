//! `weir backup`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use api::admin::BackupRequest;

use crate::{
    client::{Connect, refusal},
    layout::write_private,
    output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write it
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut client = args.connect.client()?;
    let mut pieces = client.cluster.backup(BackupRequest {}).await.map_err(refusal)?.into_inner();
    let mut image = Vec::new();
    while let Some(piece) = pieces.message().await.map_err(refusal)? {
        image.extend(piece.bytes);
    }
    let image = image.into();
    // What cannot be restored is no backup.
    let origin = store::inspect(&image).context("the server's answer")?;
    write_private(&args.output, &image)?;
    output::text(&format!(
        "{}: revision {}, {} keys, {} bytes. Secrets in it are sealed: the key file opens them, and is kept elsewhere\n",
        args.output.display(),
        origin.revision,
        origin.keys,
        image.len()
    ))
}
