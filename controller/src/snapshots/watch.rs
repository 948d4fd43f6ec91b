//! The task that keeps the world up to date.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use api::{pki::Ca, process};
use dialect::PoolSpec;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use model::Revision;
use store::{Handle, Read, ReadError, Watch, WatchError, seal::Sealer};
use tokio::{sync::watch, task::spawn_blocking, time::interval};
use tracing::{error, info, warn};

use super::{Builder, DefaultCertificate, certificate, compile, compile::held};
use crate::{World, metric};

/// Revisions that are taken together when many come at once.
const BURST: usize = 1024;

/// How often certificates are looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

/// Where the world comes from.
pub(crate) struct Sources {
    pub(crate) store: Handle,
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) domain: String,
    pub(crate) default_pool: PoolSpec,
}

/// Keeps `world` up to date until the store or the last reader is gone. `seen` follows every revision, also of
/// changes that mean nothing to the edges.
pub(crate) async fn run(
    sources: Sources,
    world: watch::Sender<Arc<World>>,
    seen: watch::Sender<Revision>,
) -> Result<(), ReadError> {
    loop {
        let (entries, revision) = sources.store.list("", Read::Local).await?;
        let (domain, default_pool) = (sources.domain.clone(), sources.default_pool.clone());
        let builder = Builder::new(domain, default_pool, sources.sealer.clone(), entries);
        let mut keeper = Keeper { sources: &sources, builder, world: &world, seen: &seen };
        keeper.publish(revision).await;
        info!(%revision, "configuration read");
        let changes = sources.store.watch("", Revision(revision.0 + 1));
        match keeper.follow(changes, revision).await {
            End::Gone => return Ok(()),
            // Fell behind what history is kept: read everything again.
            End::Compacted => warn!("configuration changed faster than it was read; reading all of it again"),
        }
    }
}

enum End {
    Gone,
    Compacted,
}

struct Keeper<'s> {
    sources: &'s Sources,
    builder: Builder,
    world: &'s watch::Sender<Arc<World>>,
    seen: &'s watch::Sender<Revision>,
}

impl Keeper<'_> {
    async fn follow(&mut self, mut changes: Watch, mut revision: Revision) -> End {
        let mut renewal = interval(RENEWAL_CHECK);
        loop {
            let next = tokio::select! {
                next = changes.next() => next,
                _ = renewal.tick() => {
                    if self.renew() {
                        self.publish(revision).await;
                    }
                    continue;
                }
                () = self.world.closed() => return End::Gone,
            };
            let mut next = Some(next);
            let mut changed = false;
            // What is there already is taken together: a burst is compiled once.
            for _ in 0..BURST {
                match next {
                    Some(Ok(batch)) => {
                        revision = batch.revision;
                        changed |= self.builder.apply(batch.events);
                    }
                    Some(Err(WatchError::Compacted(_))) => return End::Compacted,
                    Some(Err(WatchError::Stopped)) => return End::Gone,
                    None => break,
                }
                next = changes.next().now_or_never();
            }
            if changed {
                self.publish(revision).await;
            } else {
                self.seen.send_replace(revision);
            }
        }
    }

    /// Compiles what changed and shows the result.
    async fn publish(&mut self, revision: Revision) {
        let seen_at = Instant::now();
        let jobs = self.builder.jobs(revision);
        let parallel = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut done = stream::iter(jobs)
            .map(|job| async move {
                let job = Arc::new(job);
                let same = job.clone();
                // A panic is a defect in the compiler that one tenant's objects found: it must not harm the others.
                let state = spawn_blocking(move || process::contained(|| compile(&same))).await;
                let state = state.ok().and_then(Result::ok).unwrap_or_else(|| {
                    error!(tenant = %job.tenant, "compiling a tenant failed");
                    held(&job, vec!["the compiler failed on these objects; please report it".to_owned()])
                });
                (job.tenant.clone(), state)
            })
            .buffer_unordered(parallel);
        while let Some((tenant, state)) = done.next().await {
            self.builder.compiled(tenant, state);
        }
        drop(done);
        self.renew();
        let epoch = self.sources.store.status().epoch;
        self.world.send_replace(Arc::new(self.builder.world(epoch, revision, seen_at)));
        self.seen.send_replace(revision);
        self.measure(seen_at);
    }

    /// Issues the default certificate again if it has to be. Whether it was.
    fn renew(&mut self) -> bool {
        let now = SystemTime::now();
        let names = certificate::names(&self.sources.domain, self.builder.platform.tenants.iter());
        if self.builder.certificate.as_ref().is_some_and(|c| c.fits(&names, now)) {
            return false;
        }
        match DefaultCertificate::issue(&self.sources.ca, names, now) {
            Ok(certificate) => {
                self.builder.certificate = Some(certificate);
                true
            }
            Err(error) => {
                error!(%error, "the default certificate stays as it was");
                false
            }
        }
    }

    fn measure(&self, started: Instant) {
        let count = |n: usize| u32::try_from(n).map_or(f64::INFINITY, f64::from);
        let (bytes, held) = self.builder.figures();
        metrics::gauge!(metric::SNAPSHOT_BYTES).set(count(bytes));
        metrics::gauge!(metric::TENANTS_HELD).set(count(held));
        metrics::histogram!(metric::COMPILE_SECONDS).record(started.elapsed().as_secs_f64());
    }
}
