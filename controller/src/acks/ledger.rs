//! One worker's account: what it was sent and what it said. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::Instant,
};

use api::convert::Hash;
use model::{Revision, TenantId};

use crate::{rollout::Standing, world::Pending};

/// Deltas on their way that were not acknowledged yet.
///
/// More are not sent: what changes meanwhile is merged into the next one, so a slow worker costs this much and no
/// more.
pub(crate) const WINDOW: usize = 8;

/// A delta on its way. Shared by all workers that are sent the same.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// The revision that it leads to.
    pub(crate) revision: Revision,
    /// When this server saw that revision.
    pub(crate) seen_at: Instant,
    /// What each tenant becomes; `None`: it is no more.
    pub(crate) tenants: Arc<BTreeMap<TenantId, Option<Hash>>>,
    /// More deltas of this revision follow: the worker is current after the last.
    pub(crate) more: bool,
    /// The change for all workers that it is up to date with.
    pub(crate) platform: u64,
    /// That change, if it is still on its way.
    pub(crate) pending: Option<Arc<Pending>>,
}

/// A delta on its way to this worker.
#[derive(Debug)]
struct InFlight {
    sent: Sent,
    refused: BTreeSet<TenantId>,
}

/// A snapshot that a worker refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nacked {
    /// What was refused.
    pub(crate) hash: Hash,
    /// The revision of the delta that brought it.
    pub(crate) revision: Revision,
    /// Why, the first few reasons.
    pub(crate) causes: Vec<Cause>,
    /// The delta is not acknowledged yet: more causes may come.
    open: bool,
}

/// Why a snapshot was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    /// The object and field, `HTTPRoute ns/name spec.rules[0]`; may be empty.
    pub(crate) origin: String,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// Causes that are kept of one refusal.
const CAUSES: usize = 8;

/// The longest text of a worker that is kept, bytes.
const TEXT: usize = 512;

impl Cause {
    /// As a worker says it; what is too long is cut.
    pub(crate) fn new(origin: &str, reason: &str) -> Self {
        let cut = |text: &str| text[..text.floor_char_boundary(TEXT)].to_owned();
        Self { origin: cut(origin), reason: cut(reason) }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.origin.is_empty() && !self.reason.starts_with(&self.origin) {
            write!(f, "{}: ", self.origin)?;
        }
        f.write_str(&self.reason)
    }
}

impl Nacked {
    /// As another server tells it.
    pub(crate) fn told(hash: Hash, revision: Revision, causes: Vec<Cause>) -> Self {
        Self { hash, revision, causes, open: false }
    }
}

impl fmt::Display for Nacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for cause in &self.causes {
            write!(f, "{cause}; ")?;
        }
        write!(f, "revision {}", self.revision)
    }
}

/// One worker's account.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    revision: Revision,
    /// It has been current once, here or where it came from: it takes traffic.
    joined: bool,
    active: BTreeMap<TenantId, Hash>,
    nacks: BTreeMap<TenantId, Nacked>,
    /// In the order in which they were sent.
    in_flight: VecDeque<InFlight>,
    /// The change for all workers that it serves.
    platform: u64,
    /// The change for all workers that it refused last, and why.
    refused: Option<(u64, Cause)>,
}

impl Ledger {
    /// Of a worker that came with these snapshots.
    pub(crate) fn new(revision: Revision, active: BTreeMap<TenantId, Hash>) -> Self {
        Self { revision, joined: revision > Revision(0), active, ..Self::default() }
    }

    /// Whether one more delta may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < WINDOW
    }

    /// A delta has been sent.
    pub(crate) fn sent(&mut self, delta: Sent) {
        self.in_flight.push_back(InFlight { sent: delta, refused: BTreeSet::new() });
    }

    /// A change for all workers brought nothing for this one: it is up to date with it once it has what is on its way.
    pub(crate) fn spared(&mut self, platform: u64) {
        match self.in_flight.back_mut() {
            Some(last) => last.sent.platform = last.sent.platform.max(platform),
            None => self.platform = self.platform.max(platform),
        }
    }

    /// How far the worker is with a change for all workers.
    pub(crate) fn standing(&self, platform: u64) -> Standing {
        match &self.refused {
            Some((refused, cause)) if *refused == platform => Standing::Refused(cause.to_string()),
            _ if self.platform >= platform => Standing::Active,
            _ => Standing::Waiting,
        }
    }

    /// The worker acknowledged a delta of `revision`: everything older and one of that revision is active, but for
    /// what was refused. Returns what that settled.
    pub(crate) fn ack(&mut self, revision: Revision) -> Vec<Sent> {
        let mut settled = vec![];
        while let Some(delta) = self.in_flight.front() {
            let last = delta.sent.revision == revision;
            if delta.sent.revision > revision {
                break;
            }
            let Some(InFlight { sent: delta, refused }) = self.in_flight.pop_front() else { break };
            self.revision = self.revision.max(delta.revision);
            self.joined |= !delta.more;
            if !delta.more {
                self.platform = self.platform.max(delta.platform);
            }
            self.nacks.values_mut().for_each(|nack| nack.open = false);
            for (tenant, hash) in delta.tenants.iter().filter(|(tenant, _)| !refused.contains(*tenant)) {
                self.nacks.remove(tenant);
                match hash {
                    Some(hash) => drop(self.active.insert(tenant.clone(), *hash)),
                    None => drop(self.active.remove(tenant)),
                }
            }
            settled.push(delta);
            if last {
                if self.refused.as_ref().is_some_and(|(number, _)| *number < self.platform) {
                    self.refused = None;
                }
                // A large change comes as several deltas of one revision, each acknowledged by itself.
                break;
            }
        }
        settled
    }

    /// The worker refused a tenant's snapshot: it keeps what it had. Each further cause comes by itself. Returns
    /// whether it was sent such a thing.
    pub(crate) fn refuse(&mut self, tenant: &TenantId, cause: Cause) -> bool {
        // The oldest delta that brings the tenant, unless that one is refused already: workers answer in order.
        if let Some(nack) = self.nacks.get_mut(tenant).filter(|n| n.open) {
            if nack.causes.len() < CAUSES {
                nack.causes.push(cause);
            }
            return true;
        }
        let brings = |d: &&mut InFlight| {
            matches!(d.sent.tenants.get(tenant), Some(Some(_))) && !d.refused.contains(tenant)
        };
        let Some(delta) = self.in_flight.iter_mut().find(brings) else { return false };
        let Some(hash) = delta.sent.tenants.get(tenant).copied().flatten() else { return false };
        delta.refused.insert(tenant.clone());
        if let Some(pending) = &delta.sent.pending
            && pending.tenants.contains_key(tenant)
        {
            let cause = Cause { origin: format!("tenant {tenant}"), reason: cause.to_string() };
            self.refused = Some((pending.number, cause));
        }
        let nack = Nacked { hash, revision: delta.sent.revision, causes: vec![cause], open: true };
        self.nacks.insert(tenant.clone(), nack);
        true
    }

    /// The worker refused its pool's settings: it keeps those that it had. Returns whether it was sent any.
    pub(crate) fn refuse_pool(&mut self, revision: Revision, cause: Cause) -> bool {
        let Some(delta) = self.in_flight.iter().find(|d| d.sent.revision == revision) else { return false };
        self.refused = Some((delta.sent.platform, cause));
        true
    }

    /// Whether it should serve what there is. One that has just started serves nothing yet and is given no traffic
    /// until it is current: that it is behind is true, and no news of the configuration.
    pub(crate) fn has_joined(&self) -> bool {
        self.joined
    }

    /// Whether this snapshot is active.
    pub(crate) fn serves(&self, tenant: &TenantId, hash: &Hash) -> bool {
        self.active.get(tenant) == Some(hash)
    }

    /// What the worker refused of a tenant and has not replaced since.
    pub(crate) fn nack(&self, tenant: &TenantId) -> Option<&Nacked> {
        self.nacks.get(tenant)
    }

    /// The pool's settings, or what they do to a tenant, that it refused.
    pub(crate) fn refused(&self) -> Option<&Cause> {
        self.refused.as_ref().map(|(_, cause)| cause)
    }

    /// All that it refuses.
    pub(crate) fn nacks(&self) -> impl Iterator<Item = (&TenantId, &Nacked)> {
        self.nacks.iter()
    }

    /// The last revision that it acknowledged.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }
}
