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
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{interval, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::{Builder, DefaultCertificate, certificate, compile, compile::held};
use crate::{
    World,
    acks::{Acks, Progress},
    metric,
    rollout::Stage,
};

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
    pub(crate) acks: Arc<Acks>,
}

/// How long the first read asks for what the leader has, before it takes what is here: a server that comes back should
/// not begin with what was true when it left, and must serve its edges where no leader is.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Keeps `world` up to date until the store or the last reader is gone. `seen` follows every revision, also of
/// changes that mean nothing to the edges.
pub(crate) async fn run(
    sources: Sources,
    world: watch::Sender<Arc<World>>,
    seen: watch::Sender<Revision>,
) -> Result<(), ReadError> {
    let fresh = timeout(CATCH_UP, sources.store.list("", Read::Linearizable)).await;
    let (entries, mut revision) = match fresh {
        Ok(Ok(read)) => read,
        Ok(Err(_)) | Err(_) => sources.store.list("", Read::Local).await?,
    };
    let (domain, default_pool) = (sources.domain.clone(), sources.default_pool.clone());
    let builder = Builder::new(domain, default_pool, sources.sealer.clone(), entries);
    let mut keeper = Keeper { sources: &sources, builder, step: 0, begun: 0, world: &world, seen: &seen };
    keeper.publish(revision).await;
    info!(%revision, "configuration read");
    loop {
        let changes = sources.store.watch("", Revision(revision.0 + 1));
        match keeper.follow(changes, revision).await {
            End::Gone => return Ok(()),
            // Fell behind what history is kept: what differs is found by comparing, and the rest stays as it is.
            End::Compacted => {
                let (entries, now) = sources.store.list("", Read::Local).await?;
                revision = now;
                let changed = keeper.builder.reconcile(entries);
                metrics::counter!(metric::GAPS).increment(1);
                warn!(%revision, changed, "history was compacted past what was read; compared all of it");
                keeper.publish(revision).await;
            }
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
    /// The worlds that were shown.
    step: u64,
    /// The last change for all workers that was begun.
    begun: u64,
    world: &'s watch::Sender<Arc<World>>,
    seen: &'s watch::Sender<Revision>,
}

impl Keeper<'_> {
    async fn follow(&mut self, mut changes: Watch, mut revision: Revision) -> End {
        let mut renewal = interval(RENEWAL_CHECK);
        let mut progress = self.sources.acks.progress();
        loop {
            // Looked at before each wait: it may have ended while its world was still being shown.
            let now = progress.borrow_and_update().clone();
            if self.rollout(&now) {
                self.publish(revision).await;
                continue;
            }
            let deadline = now.deadline;
            let late = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                next = changes.next() => next,
                _ = renewal.tick() => {
                    if self.renew() {
                        self.publish(revision).await;
                    }
                    continue;
                }
                () = late => {
                    self.sources.acks.judge(Instant::now());
                    continue;
                }
                // The sender lives in `acks`, which we hold.
                _ = progress.changed() => continue,
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

    /// Takes note of how far a change for all workers has come. Whether something is to be shown.
    fn rollout(&mut self, progress: &Progress) -> bool {
        match &progress.stage {
            Stage::Running => self.builder.held_up(progress.number, false),
            Stage::Held(why) => {
                if !self.builder.is_held_up(progress.number) {
                    warn!(change = progress.number, why, "a change for all workers goes no further");
                }
                self.builder.held_up(progress.number, true)
            }
            Stage::Done => self.builder.rolled_out(progress.number),
        }
    }

    /// Compiles what changed and shows the result.
    async fn publish(&mut self, revision: Revision) {
        let seen_at = Instant::now();
        let jobs = self.builder.jobs(revision);
        metrics::counter!(metric::TENANTS_COMPILED).increment(jobs.len() as u64);
        // Asked only where it matters: it reads several files.
        let parallel = match jobs.len() {
            0 | 1 => 1,
            _ => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        };
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
                (job.tenant.clone(), job.cause, state)
            })
            .buffer_unordered(parallel);
        while let Some((tenant, cause, state)) = done.next().await {
            self.builder.compiled(tenant, cause, state);
        }
        drop(done);
        if self.builder.names_changed {
            self.renew();
        }
        let epoch = self.sources.store.status().epoch;
        self.step += 1;
        self.builder.end_step();
        let world = self.builder.world(self.step, epoch, revision, seen_at);
        // Before the world is shown: the first worker need not wait for a second look.
        if let Some(pending) = world.pending.as_ref().filter(|pending| pending.number > self.begun) {
            self.begun = pending.number;
            self.sources.acks.begin(pending.number, pending.pools.is_some(), seen_at);
        }
        self.world.send_replace(Arc::new(world));
        self.seen.send_replace(revision);
        self.measure(seen_at);
    }

    /// Issues the default certificate again if it has to be. Whether it was.
    fn renew(&mut self) -> bool {
        let now = SystemTime::now();
        let builder = &mut self.builder;
        let names = certificate::names(&self.sources.domain, builder.platform.tenants.iter());
        if builder.certificate.as_ref().is_some_and(|certificate| certificate.fits(&names, now)) {
            builder.names_changed = false;
            return false;
        }
        if !builder.may_take_certificate() {
            return false;
        }
        match DefaultCertificate::issue(&self.sources.ca, names, now) {
            Ok(certificate) => {
                builder.take_certificate(certificate);
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
