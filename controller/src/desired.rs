//! The autoscaler's plans in the store, fenced: a plan of an older term or generation is never written over a newer.

use bytes::Bytes;
use model::{Generation, PoolName, Revision};
use serde::{Deserialize, Serialize};
use store::{Handle, Read, ReadError, Txn, TxnError};

use crate::keys;

/// A pool's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The leader's term in which it was made.
    pub term: u64,
    /// Rises with every plan of a pool.
    pub generation: Generation,
    /// What the autoscaler wrote.
    pub body: Bytes,
    /// The store's revision that wrote it: what [`Desired::put_if`] expects.
    pub revision: Revision,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    term: u64,
    generation: Generation,
    body: String,
}

/// Why a plan was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// Another plan came between: read again.
    #[error("the plan of {pool} changed: it is of term {term}, generation {generation}")]
    Stale {
        /// Whose plan.
        pool: PoolName,
        /// Of the plan that is there.
        term: u64,
        /// Of the plan that is there.
        generation: Generation,
    },
    /// The body is not UTF-8, or what is stored is no plan.
    #[error("the plan of {pool} is not readable: {problem}")]
    Unreadable {
        /// Whose plan.
        pool: PoolName,
        /// What is wrong.
        problem: String,
    },
    /// The store did not take it.
    #[error("write the plan of {pool}")]
    Write {
        /// Whose plan.
        pool: PoolName,
        /// Why not.
        #[source]
        source: TxnError,
    },
    /// The store did not answer.
    #[error("read plans")]
    Read(#[from] ReadError),
}

/// The plans of all pools.
#[derive(Debug, Clone)]
pub struct Desired {
    store: Handle,
}

impl Desired {
    /// Plans in this store.
    #[must_use]
    pub fn new(store: Handle) -> Self {
        Self { store }
    }

    /// The pool's plan, if it has one.
    ///
    /// # Errors
    ///
    /// The store does not answer, or holds no plan under the key.
    pub async fn get(&self, pool: &PoolName, read: Read) -> Result<Option<Plan>, DesiredError> {
        let Some(entry) = self.store.get(&keys::desired(pool), read).await? else { return Ok(None) };
        let stored: Stored = serde_json::from_slice(&entry.value)
            .map_err(|e| DesiredError::Unreadable { pool: pool.clone(), problem: e.to_string() })?;
        Ok(Some(Plan {
            term: stored.term,
            generation: stored.generation,
            body: stored.body.into(),
            revision: entry.mod_revision,
        }))
    }

    /// Writes a plan (`body` is text) if the pool's plan is still that of revision `expected` (0: none) and of a
    /// lower (term, generation). Returns the plan's revision.
    ///
    /// # Errors
    ///
    /// [`DesiredError::Stale`]: another plan is there. Nothing was written then.
    pub async fn put_if(
        &self,
        pool: &PoolName,
        (term, generation): (u64, Generation),
        body: &[u8],
        expected: Revision,
    ) -> Result<Revision, DesiredError> {
        let unreadable = |problem: String| DesiredError::Unreadable { pool: pool.clone(), problem };
        let body = std::str::from_utf8(body).map_err(|e| unreadable(e.to_string()))?.to_owned();
        let current = self.get(pool, Read::Local).await?;
        if let Some(current) = &current
            && (current.revision != expected || (current.term, current.generation) >= (term, generation))
        {
            return Err(stale(pool, Some(current)));
        }
        let value =
            serde_json::to_vec(&Stored { term, generation, body }).map_err(|e| unreadable(e.to_string()))?;
        let key = keys::desired(pool);
        let txn = Txn::new("autoscaler")
            .compare(key.as_str(), expected)
            .put(key.as_str(), value)
            .note(format!("plan {term}.{generation}"));
        match self.store.txn(txn).await {
            Ok(committed) => Ok(committed.revision),
            Err(TxnError::Conflict { .. }) => Err(stale(pool, self.get(pool, Read::Local).await?.as_ref())),
            Err(source) => Err(DesiredError::Write { pool: pool.clone(), source }),
        }
    }
}

fn stale(pool: &PoolName, current: Option<&Plan>) -> DesiredError {
    let (term, generation) = current.map_or((0, Generation(0)), |c| (c.term, c.generation));
    DesiredError::Stale { pool: pool.clone(), term, generation }
}
