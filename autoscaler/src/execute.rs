//! Where plans are kept. A plan is made known only after it is stored, and stored only over the one that it was made
//! from: a leader that was deposed can do no harm.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use futures_util::future::BoxFuture;
use model::PoolName;

use crate::plan::DesiredPool;

/// Names one stored version of one pool's plan, as [`Desired`] gave it: a store's revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u64);

/// A plan as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The plan.
    pub desired: DesiredPool,
    /// Which version of it.
    pub version: Version,
}

/// Why a plan was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// Another plan is stored than was expected: read it and plan again.
    #[error("another plan of {pool} is stored")]
    Conflict {
        /// Whose plan.
        pool: PoolName,
    },
    /// The store does not answer, or what it holds is no plan. Whether a plan was stored is not known.
    #[error("the plan of {pool} is not available")]
    Unavailable {
        /// Whose plan.
        pool: PoolName,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The replicated store's part: the plans of all pools.
pub trait Desired: Send + Sync + 'static {
    /// The pool's plan, if it has one; of this server's state, which may be behind. [`Desired::store`] finds out.
    fn load<'a>(&'a self, pool: &'a PoolName) -> BoxFuture<'a, Result<Option<Stored>, DesiredError>>;

    /// Stores a plan if the pool's plan is still `expected` (`None`: there is none) and of a lower (term,
    /// generation). Returns the new version.
    fn store<'a>(
        &'a self,
        desired: &'a DesiredPool,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, DesiredError>>;
}

/// Plans in memory: for tests, and where nothing is to be kept.
#[derive(Debug, Default)]
pub struct InMemory {
    plans: Mutex<BTreeMap<PoolName, Stored>>,
}

impl Desired for InMemory {
    fn load<'a>(&'a self, pool: &'a PoolName) -> BoxFuture<'a, Result<Option<Stored>, DesiredError>> {
        Box::pin(
            async move { Ok(self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(pool).cloned()) },
        )
    }

    fn store<'a>(
        &'a self,
        desired: &'a DesiredPool,
        expected: Option<Version>,
    ) -> BoxFuture<'a, Result<Version, DesiredError>> {
        Box::pin(async move {
            let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
            let current = plans.get(&desired.pool);
            let stale = current.is_some_and(|c| fence(&c.desired) >= fence(desired));
            if current.map(|c| c.version) != expected || stale {
                return Err(DesiredError::Conflict { pool: desired.pool.clone() });
            }
            let version = Version(current.map_or(0, |c| c.version.0) + 1);
            plans.insert(desired.pool.clone(), Stored { desired: desired.clone(), version });
            Ok(version)
        })
    }
}

/// The order of a pool's plans.
fn fence(desired: &DesiredPool) -> (u64, u64) {
    (desired.term, desired.generation.0)
}
