//! `weir cluster init`.

use std::time::SystemTime;

use anyhow::Result;
use api::pki::Ca;
use store::seal::Sealer;

use super::{DataPlane, FIRST, Place, write_first};
use crate::{
    layout::{DEFAULT_DATA, Layout, Start, write_private},
    output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data directory, made by this
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", default_value = DEFAULT_DATA)]
    data: std::path::PathBuf,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    serves: DataPlane,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let Args { place, serves, .. } = args;
    place.check()?;
    let layout = Layout::new(&args.data)?;
    layout.expect_new()?;
    layout.create()?;
    let sealer = Sealer::from_file(&layout.key_encryption_key())?;
    let ca = Ca::create(&format!("i-{:016x}", rand::random::<u64>()), SystemTime::now())?;
    // Sealed from its first moment: no disk of the installation ever has it in the clear.
    write_private(&layout.sealed_ca(), &controller::seal_ca(&ca, &sealer)?)?;
    write_first(&layout, Start::Found, &ca, place, serves)?;
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
