//! One worker's account: what it was sent and what it said. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Instant,
};

use api::convert::Hash;
use model::{Revision, TenantId};

/// Deltas on their way that were not acknowledged yet.
///
/// More are not sent: what changes meanwhile is merged into the next one, so a slow worker costs this much and no
/// more.
pub(crate) const WINDOW: usize = 8;

/// A delta on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The revision that it leads to.
    pub(crate) revision: Revision,
    /// When this server saw that revision.
    pub(crate) seen_at: Instant,
    /// What each tenant becomes; `None`: it is no more.
    pub(crate) tenants: BTreeMap<TenantId, Option<Hash>>,
    /// More deltas of this revision follow: the worker is current after the last.
    pub(crate) more: bool,
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
    in_flight: VecDeque<Sent>,
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
        self.in_flight.push_back(delta);
    }

    /// The worker acknowledged a delta of `revision`: everything older and one of that revision is active, but for
    /// what was refused. Returns what that settled.
    pub(crate) fn ack(&mut self, revision: Revision) -> Vec<Sent> {
        let mut settled = vec![];
        while let Some(delta) = self.in_flight.front() {
            let last = delta.revision == revision;
            if delta.revision > revision {
                break;
            }
            let Some(delta) = self.in_flight.pop_front() else { break };
            self.revision = self.revision.max(delta.revision);
            self.joined |= !delta.more;
            self.nacks.values_mut().for_each(|nack| nack.open = false);
            for (tenant, hash) in &delta.tenants {
                self.nacks.remove(tenant);
                match hash {
                    Some(hash) => drop(self.active.insert(tenant.clone(), *hash)),
                    None => drop(self.active.remove(tenant)),
                }
            }
            settled.push(delta);
            if last {
                // A large change comes as several deltas of one revision, each acknowledged by itself.
                break;
            }
        }
        settled
    }

    /// The worker refused a tenant's snapshot: it keeps what it had. Each further cause comes by itself. Returns
    /// whether it was sent such a thing.
    pub(crate) fn refuse(&mut self, tenant: &TenantId, cause: Cause) -> bool {
        let sent = self.in_flight.iter_mut().find(|d| matches!(d.tenants.get(tenant), Some(Some(_))));
        // The oldest delta that brings the tenant, unless that one is refused already: workers answer in order.
        let refused = self.nacks.get_mut(tenant).filter(|n| n.open);
        match (refused, sent) {
            (Some(nack), _) => {
                if nack.causes.len() < CAUSES {
                    nack.causes.push(cause);
                }
                true
            }
            (None, Some(delta)) => {
                let Some(hash) = delta.tenants.remove(tenant).flatten() else { return false };
                let nack = Nacked { hash, revision: delta.revision, causes: vec![cause], open: true };
                self.nacks.insert(tenant.clone(), nack);
                true
            }
            (None, None) => false,
        }
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

    /// All that it refuses.
    pub(crate) fn nacks(&self) -> impl Iterator<Item = (&TenantId, &Nacked)> {
        self.nacks.iter()
    }

    /// The last revision that it acknowledged.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }
}
