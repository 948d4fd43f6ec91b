//! Who listens on which socket of one address.
//!
//! Pure. [`Group::settle`] compares who holds the slots with who should, and says which to lend and which to ask
//! back. It is called after every change and is idempotent.
//!
//! A hold goes `Lending -> Held -> Returning -> gone`; it also ends, in any state, with its worker. A TCP slot is
//! asked back only when the worker that owns it now has said that it listens, so that nobody waits in a queue that
//! no one reads. A UDP slot has one holder until that one's process has ended.

use std::collections::{BTreeMap, BTreeSet};

use api::agent::{Listen, Transport};
use model::WorkerId;

/// The slots of one address.
#[derive(Debug)]
pub struct Group {
    transport: Transport,
    slots: BTreeMap<u32, Slot>,
    next: u32,
    /// What the kernel was last told, UDP only.
    steered: Option<Steering>,
}

/// How the kernel should spread a UDP group's datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steering {
    /// All slots, ascending.
    pub slots: Vec<u32>,
    /// Those that take new connections.
    pub active: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Who should listen on it.
    owner: Option<WorkerId>,
    holders: BTreeMap<WorkerId, Hold>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Sent; not yet known to be listened on.
    Lending,
    /// Listened on.
    Held,
    /// Asked back; not yet known to be closed.
    Returning,
    /// UDP only: as it was when the connection to the worker ended, until the worker tells.
    Unconfirmed,
}

/// Slots that change hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Whom to tell.
    pub worker: WorkerId,
    /// What to tell it.
    pub kind: TransferKind,
    /// Ascending, never empty.
    pub slots: Vec<u32>,
}

/// The direction of a [`Transfer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransferKind {
    /// To the worker.
    Lend,
    /// Back from it.
    Return,
}

/// Who may have slots now.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Workers that take connections.
    pub ready: &'a BTreeSet<WorkerId>,
    /// UDP slots of each worker: one a thread.
    pub threads: u32,
    /// Nobody is to listen, now or soon: slots are asked back although no other worker has taken them.
    pub abandoned: bool,
}

impl Group {
    /// A group without slots. New ones are numbered from `next`, which must be above all that were ever used on
    /// this address while one of its workers may live.
    #[must_use]
    pub fn new(listen: &Listen, next: u32) -> Self {
        Self { transport: listen.transport, slots: BTreeMap::new(), next, steered: None }
    }

    /// How many slots there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Above all numbers in use.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// The slots.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.slots.keys().copied()
    }

    /// Takes numbers for as many slots as lack to `wanted`; they are not in the group before [`Self::add`].
    pub fn number(&mut self, wanted: usize) -> Vec<u32> {
        let lacking = u32::try_from(wanted.saturating_sub(self.slots.len())).unwrap_or(u32::MAX);
        let first = self.next;
        self.next = self.next.saturating_add(lacking);
        (first..self.next).collect()
    }

    /// Adds a slot that nobody holds.
    pub fn add(&mut self, slot: u32) {
        self.next = self.next.max(slot.saturating_add(1));
        self.slots.entry(slot).or_default();
    }

    /// Adds a slot, if it is not there, that a worker says it listens on.
    pub fn recover(&mut self, slot: u32, worker: &WorkerId) {
        self.add(slot);
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.holders.insert(worker.clone(), Hold::Held);
        }
    }

    /// The worker listens on these. What was not lent to it is passed over.
    pub fn taken(&mut self, worker: &WorkerId, slots: &[u32]) {
        for slot in slots {
            if let Some(hold @ Hold::Lending) = self.hold_mut(*slot, worker) {
                *hold = Hold::Held;
            }
        }
    }

    /// The worker no longer listens on these. What was not asked back is passed over.
    pub fn returned(&mut self, worker: &WorkerId, slots: &[u32]) {
        for number in slots {
            let Some(slot) = self.slots.get_mut(number) else { continue };
            if slot.holders.get(worker) == Some(&Hold::Returning) {
                slot.holders.remove(worker);
            }
        }
    }

    /// All that the worker has is asked back.
    pub fn recall(&mut self, worker: &WorkerId) {
        for hold in self.slots.values_mut().filter_map(|slot| slot.holders.get_mut(worker)) {
            *hold = Hold::Returning;
        }
    }

    fn hold_mut(&mut self, slot: u32, worker: &WorkerId) -> Option<&mut Hold> {
        self.slots.get_mut(&slot)?.holders.get_mut(worker)
    }

    /// The worker cannot be spoken to, but may live: it counts no more as a holder of TCP slots, and keeps UDP ones.
    pub fn unlinked(&mut self, worker: &WorkerId) {
        match self.transport {
            Transport::Tcp => self.ended(worker),
            Transport::Udp => {
                for hold in self.slots.values_mut().filter_map(|slot| slot.holders.get_mut(worker)) {
                    *hold = Hold::Unconfirmed;
                }
            }
        }
    }

    /// The worker has told of all slots that it holds, with [`Self::recover`].
    pub fn recovered_all(&mut self, worker: &WorkerId) {
        for slot in self.slots.values_mut() {
            if slot.holders.get(worker) == Some(&Hold::Unconfirmed) {
                slot.holders.remove(worker);
            }
        }
    }

    /// The worker's process is gone.
    pub fn ended(&mut self, worker: &WorkerId) {
        for slot in self.slots.values_mut() {
            slot.holders.remove(worker);
        }
    }

    /// How many slots the worker has, in whatever state.
    #[must_use]
    pub fn held_by(&self, worker: &WorkerId) -> usize {
        self.slots.values().filter(|s| s.holders.contains_key(worker)).count()
    }

    /// How many slots it has that it will be asked to return before it drains.
    #[must_use]
    pub fn returnable_by(&self, worker: &WorkerId) -> usize {
        if self.transport == Transport::Tcp { self.held_by(worker) } else { 0 }
    }

    /// Who listens on the slot.
    #[must_use]
    pub fn listeners(&self, slot: u32) -> Vec<WorkerId> {
        let holders = self.slots.get(&slot).into_iter().flat_map(|s| &s.holders);
        holders.filter(|(_, hold)| **hold != Hold::Lending).map(|(worker, _)| worker.clone()).collect()
    }

    /// What the kernel must be told of a UDP group now, if that is news; the group takes it as said. New connections go to
    /// slots that ready workers listen on, and only to those: whoever drains is left out before it hears of its drain.
    pub fn steer(&mut self, ready: &BTreeSet<WorkerId>) -> Option<Steering> {
        if self.transport == Transport::Tcp || self.slots.is_empty() {
            return None;
        }
        let takes =
            |slot: &Slot| slot.holders.iter().any(|(w, hold)| *hold == Hold::Held && ready.contains(w));
        let active = self.slots.iter().filter(|(_, slot)| takes(slot)).map(|(number, _)| *number).collect();
        let steering = Steering { slots: self.numbers().collect(), active };
        if self.steered.as_ref() == Some(&steering) {
            return None;
        }
        self.steered = Some(steering.clone());
        Some(steering)
    }

    /// Whether any worker has any slot, in whatever state.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.slots.values().any(|s| !s.holders.is_empty())
    }

    /// What to lend and ask back now; the group takes it as said. Lends come first.
    pub fn settle(&mut self, wanted: Wanted<'_>) -> Vec<Transfer> {
        let mut moves = BTreeMap::<(TransferKind, WorkerId), Vec<u32>>::new();
        let mut push =
            |kind, worker: &WorkerId, slot| moves.entry((kind, worker.clone())).or_default().push(slot);
        match self.transport {
            Transport::Tcp => {
                self.assign_shared(wanted.ready);
                for (number, slot) in &mut self.slots {
                    slot.settle(wanted.abandoned, |kind, worker| push(kind, worker, *number));
                }
            }
            Transport::Udp => {
                self.lend_exclusive(wanted, |worker, slot| push(TransferKind::Lend, worker, slot))
            }
        }
        moves.into_iter().map(|((kind, worker), slots)| Transfer { worker, kind, slots }).collect()
    }

    /// Gives every slot an owner, evenly, changing as few as can be.
    fn assign_shared(&mut self, ready: &BTreeSet<WorkerId>) {
        let mut shares: BTreeMap<&WorkerId, Vec<u32>> =
            ready.iter().map(|worker| (worker, Vec::new())).collect();
        let mut orphans = Vec::new();
        for (number, slot) in &mut self.slots {
            match slot.owner.as_ref().and_then(|owner| shares.get_mut(owner)) {
                Some(share) => share.push(*number),
                None => {
                    slot.owner = None;
                    orphans.push(*number);
                }
            }
        }
        for number in orphans {
            let Some(slot) = self.slots.get_mut(&number) else { continue };
            let heir = shares.iter_mut().min_by_key(|(worker, share)| (slot.reluctance(worker), share.len()));
            if let Some((worker, share)) = heir {
                slot.owner = Some((*worker).clone());
                share.push(number);
            }
        }
        while let Some((number, to)) = level(&mut shares) {
            if let Some(slot) = self.slots.get_mut(&number) {
                slot.owner = Some(to);
            }
        }
    }

    fn lend_exclusive(&mut self, wanted: Wanted<'_>, mut lend: impl FnMut(&WorkerId, u32)) {
        for worker in wanted.ready {
            let lacking = (wanted.threads as usize).saturating_sub(self.held_by(worker));
            let free = self.slots.iter_mut().filter(|(_, slot)| slot.holders.is_empty()).take(lacking);
            for (number, slot) in free {
                slot.owner = Some(worker.clone());
                slot.holders.insert(worker.clone(), Hold::Lending);
                lend(worker, *number);
            }
        }
    }
}

impl Slot {
    /// How little a worker is fit to inherit this slot: who listens already is best; who was asked to stop must
    /// finish that before it can begin again.
    fn reluctance(&self, worker: &WorkerId) -> u8 {
        match self.holders.get(worker) {
            Some(Hold::Held) => 0,
            Some(Hold::Lending) => 1,
            None => 2,
            Some(Hold::Returning | Hold::Unconfirmed) => 3,
        }
    }

    fn settle(&mut self, abandoned: bool, mut push: impl FnMut(TransferKind, &WorkerId)) {
        let mut covered = self.owner.is_none() && abandoned;
        if let Some(owner) = &self.owner {
            match self.holders.get(owner) {
                None => {
                    self.holders.insert(owner.clone(), Hold::Lending);
                    push(TransferKind::Lend, owner);
                }
                Some(hold) => covered = *hold == Hold::Held,
            }
        }
        if !covered {
            return;
        }
        for (worker, hold) in &mut self.holders {
            if *hold == Hold::Held && self.owner.as_ref() != Some(worker) {
                *hold = Hold::Returning;
                push(TransferKind::Return, worker);
            }
        }
    }
}

/// Moves one slot from the largest share to the smallest; `None` if they differ by one at most.
fn level(shares: &mut BTreeMap<&WorkerId, Vec<u32>>) -> Option<(u32, WorkerId)> {
    let most = *shares.iter().max_by_key(|(_, share)| share.len())?.0;
    let least = *shares.iter().min_by_key(|(_, share)| share.len())?.0;
    if shares[most].len() <= shares[least].len() + 1 {
        return None;
    }
    let slot = shares.get_mut(most)?.pop()?;
    shares.get_mut(least)?.push(slot);
    Some((slot, least.clone()))
}

#[cfg(test)]
mod tests;
