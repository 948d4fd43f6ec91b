//! A server's place in its installation: alone, or one of several.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Result, anyhow, bail};
use api::pki::{self, Ca, Identity, Live};
use controller::{Controller, Others, TokenError};
use model::Revision;
use store::{
    Addresses, Handle, MemberError, Read, ReadError, Standing, Store,
    seal::Sealer,
    transport::{Links, LinksConfig},
};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tracing::{info, warn};

use super::renewal;
use crate::layout::{ClientFile, Layout, ServerFile, Start};

/// A change that has to wait for a leader is tried again this often.
const RETRY: Duration = Duration::from_millis(500);
/// Who belongs to the cluster changes by hand.
const LOOK: Duration = Duration::from_secs(1);

/// An open store, and who its server is.
pub(super) struct Server {
    pub(super) store: Handle,
    pub(super) sealer: Arc<Sealer>,
    pub(super) identity: Live,
    pub(super) ca_pem: String,
    /// Copied to servers that join.
    pub(super) shared_key_file: Option<PathBuf>,
    place: Place,
}

enum Place {
    Alone(Alone),
    Member(Box<Member>),
}

/// What a server that is alone is started with.
pub(super) struct Alone {
    pub(super) ca: Arc<Ca>,
    pub(super) token: String,
}

struct Member {
    layout: Layout,
    file: ServerFile,
    renewed: watch::Sender<Identity>,
}

impl Server {
    pub(super) fn alone(store: Handle, sealer: Arc<Sealer>, identity: Identity, alone: Alone) -> Self {
        Self {
            store,
            sealer,
            identity: identity.into(),
            ca_pem: alone.ca.cert_pem().to_owned(),
            shared_key_file: None,
            place: Place::Alone(alone),
        }
    }

    pub(super) async fn member(
        layout: Layout,
        mut file: ServerFile,
        sealer: Arc<Sealer>,
        (identity, ca_pem): (Identity, String),
    ) -> Result<Self> {
        let over = pki::validity(&identity.cert_pem)?.1 < SystemTime::now();
        if over && file.start != Start::Existing {
            // Nobody lets it in any more, and it has nothing yet to sign with.
            bail!(
                "server {id} was made too long ago, and its certificate is over: `weir cluster remove {id}` at another server \
                 if it is a member, then make its directory anew",
                id = file.id
            );
        }
        let (renewed, live) = Live::new(identity);
        let mut links = LinksConfig::new(file.id, BTreeMap::new(), live.receiver(), ca_pem.clone());
        links.address.clone_from(&file.peers);
        let config = store::Config {
            node: file.id,
            voters: vec![file.id],
            cluster_id: file.cluster_id.clone(),
            start: match file.start {
                Start::Found => store::Start::Found,
                Start::Join => store::Start::Join,
                Start::Existing => store::Start::Existing,
            },
            addresses: addresses(&file),
            ..store::Config::new(layout.server())
        };
        let store = Store::open_with(config, Box::new(Links::new(links)?)).await?;
        if file.start != Start::Existing {
            // From here on an empty store is a lost one.
            file.start = Start::Existing;
            layout.write_server(&file)?;
        }
        Ok(Self {
            store,
            sealer,
            identity: live,
            ca_pem,
            shared_key_file: Some(layout.key_encryption_key()),
            place: Place::Member(Box::new(Member { layout, file, renewed })),
        })
    }

    /// The CA with its key: from its file, or from the store once that has it. A server that joins waits for the leader
    /// here.
    pub(super) async fn authority(&self) -> Result<Arc<Ca>> {
        let member = match &self.place {
            Place::Alone(alone) => return Ok(Arc::clone(&alone.ca)),
            Place::Member(member) => member,
        };
        let mut changes = self.store.watch(controller::keys::CA, Revision(0));
        let (mut told, mut is_current) = (false, false);
        loop {
            match controller::stored_ca(&self.store, &self.sealer).await {
                Ok(Some(ca)) => return Ok(Arc::new(ca)),
                Ok(None) => {}
                // This server was away when the key file's keys were replaced: what it has is older than its keys. The
                // CA is sealed anew as the last of all, so where it opens everything does.
                Err(error) if error.needs_other_key() && !is_current => {
                    let read = self.store.get(controller::keys::CA, Read::Linearizable).await;
                    is_current = read.is_ok();
                    if matches!(read, Err(ReadError::Stopped)) {
                        return Err(error.into());
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let sealed = member.layout.sealed_ca();
            if let Ok(sealed) = std::fs::read(&sealed) {
                return Ok(Arc::new(controller::unseal_ca(&sealed, &self.sealer)?));
            }
            if !told {
                info!(server = member.file.id, "waiting for the leader to bring this server up to date");
                told = true;
            }
            // A watch that begins before history is told so, and what it waits for is there then.
            drop(changes.next().await);
        }
    }

    /// Renews this server's certificate for as long as the result lives: any server can sign, itself first.
    pub(super) fn keep_certificate(&self, ca: Arc<Ca>, lifetime: Duration) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let Place::Member(member) = &self.place {
            let (id, layout, renewed) = (member.file.id, member.layout.clone(), member.renewed.clone());
            tasks.spawn(renewal::keep(id, layout, renewed, ca, lifetime));
        }
        tasks
    }

    /// Sees to it that the store has what it needs from this server: the administrator's token, the CA, its addresses.
    /// What needs a leader that is not there yet goes on for as long as the result lives.
    pub(super) async fn found(&self, controller: &Arc<Controller>, ca: Arc<Ca>) -> Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        match &self.place {
            Place::Alone(alone) => controller.install_admin_token(alone.token.trim()).await?,
            Place::Member(member) => {
                let (store, sealer) = (self.store.clone(), Arc::clone(&self.sealer));
                let (layout, file) = (member.layout.clone(), member.file.clone());
                tasks.spawn(announce(store.clone(), file.clone()));
                tasks.spawn(follow_members(store.clone(), layout.clone(), file.admin));
                if let Ok(token) = std::fs::read_to_string(layout.admin_token()) {
                    tasks.spawn(install(Arc::clone(controller), token));
                }
                if layout.sealed_ca().exists() {
                    tasks.spawn(keep_ca(store, sealer, ca, layout));
                }
            }
        }
        Ok(tasks)
    }

    /// The servers that there may be beside this one.
    pub(super) fn others(&self) -> Option<Others> {
        match &self.place {
            Place::Alone(_) => None,
            Place::Member(_) => Some(Others::new(self.store.clone(), self.identity.clone(), &self.ca_pem)),
        }
    }

    /// Returns when this server was removed from its cluster.
    pub(super) async fn removed(&self) -> anyhow::Error {
        let mut standing = self.store.standing();
        if standing.wait_for(|standing| *standing == Standing::Removed).await.is_err() {
            // The store has stopped: that is told elsewhere.
            return std::future::pending().await;
        }
        let id = self.store.status().node;
        anyhow!(
            "server {id} was removed from its cluster. Its data directory is of no more use; to come back, join anew into \
             an empty one (`weir cluster add` at another server prints the command)"
        )
    }
}

fn addresses(file: &ServerFile) -> Addresses {
    Addresses { peers: file.peers.clone(), admin: file.admin.clone() }
}

/// Says where this server is, if the cluster knows it otherwise.
async fn announce(store: Handle, file: ServerFile) {
    let own = addresses(&file);
    loop {
        let known = store.members().into_iter().find(|member| member.id == file.id);
        if known.is_some_and(|member| member.addresses == own) {
            return;
        }
        match store.set_addresses(file.id, own.clone()).await {
            Ok(()) => {
                return info!(peers = own.peers, admin = own.admin, "the cluster knows where this server is");
            }
            Err(MemberError::Stopped) => return,
            // No leader yet, or not a member yet in this server's state.
            Err(error) => tracing::debug!(%error, "this server's addresses are not known yet"),
        }
        sleep(RETRY).await;
    }
}

/// Keeps the command line of this machine informed about where the other servers are.
async fn follow_members(store: Handle, layout: Layout, own: String) {
    let mut last = None;
    loop {
        let admins = store.members().into_iter().map(|member| member.addresses.admin);
        let admins: Vec<String> = admins.filter(|admin| !admin.is_empty()).collect();
        let file = ClientFile::new(&own, &admins);
        if !admins.is_empty() && last.as_ref() != Some(&file) {
            if let Err(error) = layout.write_client(&file) {
                warn!(error = format!("{error:#}"), "the command line will not know of the other servers");
            }
            last = Some(file);
        }
        sleep(LOOK).await;
    }
}

async fn install(controller: Arc<Controller>, token: String) {
    loop {
        match controller.install_admin_token(token.trim()).await {
            Ok(()) => return,
            Err(error @ TokenError::Malformed) => {
                return warn!(%error, "the administrator's token is not used");
            }
            Err(error) => tracing::debug!(%error, "the administrator's token is not stored yet"),
        }
        sleep(RETRY).await;
    }
}

/// Puts the CA into the store, and forgets the file that it came in.
async fn keep_ca(store: Handle, sealer: Arc<Sealer>, ca: Arc<Ca>, layout: Layout) {
    while let Err(error) = controller::found_ca(&store, &sealer, &ca).await {
        tracing::debug!(%error, "the CA is not stored yet");
        sleep(RETRY).await;
    }
    if let Err(error) = std::fs::remove_file(layout.sealed_ca()) {
        warn!(%error, path = %layout.sealed_ca().display(), "a file that is no longer needed stays");
    }
}
