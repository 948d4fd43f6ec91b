//! One tenant's objects to its snapshot. Pure but for the sealer; runs off the async threads.

use std::{collections::BTreeSet, sync::Arc};

use api::{convert, limits::MAX_SNAPSHOT};
use dialect::{Environment, Kind, Object};
use model::{CompileLimits, Revision, RouteTable, TenantId};
use serde_json::Value;
use store::{Entry, Key, seal::Sealer};

use super::Cause;
use crate::{Snapshot, TenantState, objects::Stored, world::Patch};

/// A stored object, and what it says if that is known: to read it takes longer than to compile it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) entry: Entry,
    pub(crate) object: Option<Arc<Object>>,
}

/// All that it takes to compile a tenant.
pub(crate) struct Job {
    pub(crate) tenant: TenantId,
    pub(crate) cause: Cause,
    pub(crate) environment: Environment,
    pub(crate) objects: Vec<Known>,
    pub(crate) sealer: Arc<Sealer>,
    /// As it was compiled last.
    pub(crate) last: Option<Arc<TenantState>>,
    pub(crate) revision: Revision,
}

/// What came of a job.
pub(crate) struct Made {
    pub(crate) state: TenantState,
    /// The objects that were not known.
    pub(crate) read: Vec<Fresh>,
}

/// An object that was read just now.
pub(crate) struct Fresh {
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    pub(crate) object: Arc<Object>,
}

/// What has become of the tenant. One that does not compile is held at its last good snapshot.
pub(crate) fn compile(job: &Job) -> Made {
    let last = job.last.as_ref();
    match build(job) {
        Ok((mut snapshot, statuses, read)) => {
            let old = last.and_then(|l| l.snapshot.clone());
            let snapshot = match old {
                // The same bytes are the same snapshot: nothing to send, nothing to acknowledge.
                Some(old) if old.hash == snapshot.hash => old,
                old => {
                    snapshot.pack(old.as_deref());
                    Arc::new(snapshot)
                }
            };
            let state = TenantState {
                snapshot: Some(snapshot),
                held: vec![],
                statuses: statuses.into_iter().map(|s| (s.key.clone(), s)).collect(),
                revision: job.revision,
            };
            Made { state, read }
        }
        Err(problems) => held(job, problems),
    }
}

/// The tenant as it was, with why it is not as its objects say.
pub(crate) fn held(job: &Job, problems: Vec<String>) -> Made {
    let state = TenantState {
        snapshot: job.last.as_ref().and_then(|l| l.snapshot.clone()),
        held: problems,
        statuses: job.last.as_ref().map(|l| l.statuses.clone()).unwrap_or_default(),
        revision: job.revision,
    };
    Made { state, read: vec![] }
}

type Built = (Snapshot, Vec<dialect::ObjectStatus>, Vec<Fresh>);

fn build(job: &Job) -> Result<Built, Vec<String>> {
    let (objects, read) = objects(job)?;
    let compiled = dialect::compile(objects.iter().map(|object| &**object), &job.environment);
    // What the dialect leaves out is safe to serve (a host that is no longer the tenant's, say); what the table
    // cannot be made of is not.
    RouteTable::compile(&compiled.config, &CompileLimits::default())
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let (bytes, hash) = convert::encode(&compiled.config);
    if bytes.len() > MAX_SNAPSHOT {
        return Err(vec![format!(
            "the tenant's configuration has {} bytes for the edges; the most is {MAX_SNAPSHOT}",
            bytes.len()
        )]);
    }
    let pools = compiled.config.listeners.iter().map(|l| l.pool.clone()).collect::<BTreeSet<_>>();
    let snapshot = Snapshot { revision: job.revision, hash, bytes, pools, frame: None, patch: None };
    Ok((snapshot, compiled.statuses, read))
}

impl Snapshot {
    /// Makes the frames in which it travels.
    fn pack(&mut self, old: Option<&Self>) {
        self.frame = convert::pack(&self.bytes);
        let whole = self.frame.as_ref().map_or(self.bytes.len(), |frame| frame.len());
        self.patch = old
            .and_then(|old| {
                Some(Patch { base: old.hash, frame: convert::pack_against(&self.bytes, &old.bytes)? })
            })
            .filter(|patch| patch.frame.len() < whole);
    }
}

type Objects = (Vec<Arc<Object>>, Vec<Fresh>);

/// All objects, and those of them that had to be read.
fn objects(job: &Job) -> Result<Objects, Vec<String>> {
    let mut objects = Vec::with_capacity(job.objects.len());
    let (mut read, mut problems) = (vec![], vec![]);
    for Known { entry, object } in &job.objects {
        if let Some(object) = object {
            objects.push(object.clone());
            continue;
        }
        let object =
            Stored::read(entry).map_err(|e| vec![e.to_string()]).and_then(|s| s.into_object(&job.sealer));
        match object {
            Ok(mut object) => {
                // What was written is the larger part, and is not compiled.
                object.json = Value::Null;
                let object = Arc::new(object);
                // What is sealed is opened for as long as it takes.
                if object.key.kind != Kind::Secret {
                    let (key, revision) = (entry.key.clone(), entry.mod_revision);
                    read.push(Fresh { key, revision, object: object.clone() });
                }
                objects.push(object);
            }
            Err(mut found) => problems.append(&mut found),
        }
    }
    if problems.is_empty() { Ok((objects, read)) } else { Err(problems) }
}
