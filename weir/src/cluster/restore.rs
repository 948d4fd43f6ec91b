//! `weir restore` and `weir cluster force-new`: a new life of an installation's store, on one server.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use api::pki::Ca;
use store::{Addresses, Restore, Store, seal::Sealer};

use super::{DataPlane, FIRST, Place, write_first};
use crate::{
    layout::{ClientFile, DEFAULT_DATA, Layout, ServerFile, Start, write_private},
    output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The backup that `weir backup` wrote
    #[arg(value_name = "FILE")]
    backup: PathBuf,
    /// Data directory, made by this
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// The installation's key file; by default the one beside the data directory
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    serves: DataPlane,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { place, serves, .. } = &args;
    place.check()?;
    let layout = Layout::new(&args.data)?;
    let backup = fs::read(&args.backup).with_context(|| format!("read {}", args.backup.display()))?;
    if layout.read_server()?.is_some() {
        bail!("{} is a server's: give another directory with --data", layout.root().display());
    }
    bring_key(&layout, args.key_file.as_ref())?;
    layout.create()?;
    let addresses = Addresses { peers: place.peers.clone(), admin: place.admin.clone() };
    let origin = store::restore(&backup.into(), &Restore::new(layout.server(), FIRST, addresses))?;
    let said = format!(
        "restored revision {} ({} keys) of cluster {}: a new cluster, whose first server this is\n",
        origin.revision, origin.keys, origin.cluster_id
    );
    let Some(ca) = kept_ca(&layout).await? else {
        return output::text(&format!(
            "{said}\nIt is of an installation that `weir up` made. Put its pki directory and admin.token into {data}, \
             then: weir up --data {data}\n",
            data = args.data.display()
        ));
    };
    write_first(&layout, Start::Existing, &ca, place, serves)?;
    output::text(&format!(
        "{said}\n  token  {}   (a new one; those in the backup work as well)\n\nweir server --data {}\n\n\
         Other servers of the old cluster are strangers to it: each joins anew, into an empty directory\n",
        layout.admin_token().display(),
        args.data.display()
    ))
}

/// The key file beside the directory, copied there if it is elsewhere.
fn bring_key(layout: &Layout, from: Option<&PathBuf>) -> Result<()> {
    let path = layout.key_encryption_key();
    match from {
        Some(from) => {
            let text = fs::read(from).with_context(|| format!("read {}", from.display()))?;
            match fs::read(&path) {
                Ok(there) if there != text => bail!("{} is another key file: move it away", path.display()),
                Ok(_) => Ok(()),
                Err(_) => write_private(&path, &text),
            }
        }
        None if path.exists() => Ok(()),
        None => bail!(
            "{} is missing: the backup's secrets are sealed with the installation's key file; put it there, or name it \
             with --key-file",
            path.display()
        ),
    }
}

/// The CA that the restored store has.
async fn kept_ca(layout: &Layout) -> Result<Option<Ca>> {
    let sealer = Sealer::from_file(&layout.key_encryption_key())?;
    let config =
        store::Config { node: FIRST, start: store::Start::Existing, ..store::Config::new(layout.server()) };
    let store = Store::open(config).await?;
    let ca = controller::stored_ca(&store, &sealer).await;
    store.shutdown().await;
    Ok(ca?)
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForceArgs {
    /// Data directory of the server that is left; it must not run
    #[arg(long, env = "WEIR_DATA", value_name = "DIR", default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// The majority of the servers is gone for ever, and what only they had may be lost
    #[arg(long)]
    yes: bool,
}

pub(crate) fn force_new(args: &ForceArgs) -> Result<()> {
    let layout = Layout::new(&args.data)?;
    let Some(file) = layout.read_server()? else {
        bail!("{} is no server's directory", layout.root().display());
    };
    if !args.yes {
        bail!(
            "this makes server {} a cluster of its own. Changes that the others acknowledged and this one does not have \
             are lost, and the others are strangers from then on. As long as a majority of the servers can come back, \
             start those instead. Otherwise: --yes",
            file.id
        );
    }
    let addresses = Addresses { peers: file.peers.clone(), admin: file.admin.clone() };
    let forced = store::force_new(&Restore::new(layout.server(), file.id, addresses))?;
    layout.write_client(&ClientFile::new(&file.admin, &[]))?;
    layout.write_server(&ServerFile { cluster_id: None, start: Start::Existing, ..file.clone() })?;
    let unsure = match forced.uncommitted {
        0 => String::new(),
        count => format!(
            "The last {count} entries of its log were not known to be committed: they are kept, although their writers may \
             have been told that they failed\n"
        ),
    };
    output::text(&format!(
        "server {} is a cluster of its own, from revision {} ({} keys) on. What was acknowledged after that is lost\n{unsure}\n  \
         old data  {}\n\nweir server --data {}\n\nOther servers of the old cluster join anew, into empty directories\n",
        file.id,
        forced.origin.revision,
        forced.origin.keys,
        forced.aside.display(),
        args.data.display()
    ))
}
