//! From the pool's state towards its plan. Everything here may be called at any time and is idempotent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use api::agent::{Listen, MAX_SOCKETS, Slots, ToWorker, Transport};
use model::WorkerId;

use super::{
    Action, Address, Binding, DEFAULT_DRAIN_DEADLINE, Pool,
    worker::{Link, State, Worker},
};
use crate::{
    plan::Plan,
    slots::{Group, TransferKind, Wanted},
};

impl Pool {
    pub(super) fn reconcile(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.recovery.is_some_and(|until| now >= until || self.workers.values().all(Worker::is_up)) {
            self.recovery = None;
        }
        self.enforce_deadlines(now, actions);
        if self.recovery.is_some() {
            return;
        }
        self.open_and_close(now, actions);
        self.start_or_leave(now, actions);
        self.have_kept(actions);
        self.settle(actions);
        self.send_off(now, actions);
    }

    pub(super) fn target(&self) -> u32 {
        match &self.plan {
            Some(plan) if !self.stopping => plan.workers.max(u32::from(self.woken)),
            // Without a plan nobody is started, and nobody that was found is sent away.
            None if !self.stopping => u32::try_from(self.active()).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    fn active(&self) -> usize {
        self.workers.values().filter(|worker| worker.is_active()).count()
    }

    pub(super) fn drain_deadline(&self) -> Duration {
        self.plan.as_ref().map_or(DEFAULT_DRAIN_DEADLINE, Plan::drain_deadline)
    }

    fn enforce_deadlines(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let deadline = self.drain_deadline();
        let mut given_up = Vec::new();
        for (id, worker) in &mut self.workers {
            let late = worker.state == State::Starting && now >= worker.born + self.timing.start;
            if late && worker.end_by.is_none() {
                worker.end_within(Duration::ZERO, now);
            }
            if worker.is_overdue(now) && worker.state != State::Starting {
                worker.link = Link::GivenUp;
                if worker.is_active() {
                    worker.drain();
                    given_up.push(id.clone());
                }
                worker.end_within(deadline, now);
                actions.push(Action::Terminate(id.clone()));
            }
            if worker.end_by.is_some_and(|end| now >= end) {
                actions.push(Action::Kill(id.clone()));
                worker.end_by = Some(now + self.timing.exit);
            }
        }
        for id in given_up {
            self.failed(&id, "lost its connection to the agent", now);
        }
        self.forgive(now);
    }

    /// Forgets failures once a worker that was started after the last of them has proved well, or nothing was tried
    /// for long.
    fn forgive(&mut self, now: Instant) {
        let Some(failed_at) = self.failed_at else { return };
        let proved =
            |w: &Worker| w.is_active() && w.born >= failed_at && w.is_settled(self.timing.settled, now);
        if self.workers.values().any(proved) || now >= failed_at + self.timing.max_backoff * 2 {
            self.failures = 0;
            self.failed_at = None;
            self.next_start = None;
        }
    }

    fn open_and_close(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(plan) = &self.plan else {
            if self.stopping {
                self.close_all_but(&BTreeSet::new(), actions);
            }
            return;
        };
        let planned = if self.stopping { BTreeSet::new() } else { plan.listen.clone() };
        let wanted: BTreeMap<Listen, usize> =
            planned.iter().map(|listen| (listen.clone(), plan.slots(listen.transport))).collect();
        self.close_all_but(&planned, actions);
        for (listen, wanted) in wanted {
            let next_slots = &mut self.next_slots;
            let address =
                self.addresses.entry(listen.clone()).or_insert_with(|| Address::new(&listen, next_slots));
            if address.closing || !address.binding.may_begin(now) || address.group.len() >= wanted {
                continue;
            }
            address.binding = Binding::Asked;
            actions.push(Action::Bind(listen, address.group.number(wanted)));
        }
    }

    /// Our copies go first, so that the worker that returns the last one really closes the socket and later clients
    /// are refused, not left waiting.
    fn close_all_but(&mut self, planned: &BTreeSet<Listen>, actions: &mut Vec<Action>) {
        for (listen, address) in &mut self.addresses {
            if !planned.contains(listen) && !address.closing {
                address.closing = true;
                actions.push(Action::Close(listen.clone()));
            }
        }
        let next_slots = &mut self.next_slots;
        self.addresses.retain(|listen, address| {
            let gone = address.closing && !address.group.is_held();
            if gone {
                next_slots.insert(listen.clone(), address.group.next());
            }
            !gone
        });
    }

    fn start_or_leave(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let (active, target) = (self.active(), self.target() as usize);
        for id in self.leavers(active.saturating_sub(target)) {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            if worker.state == State::Starting {
                // It has no connections, and may not be able to hear us yet.
                worker.end_by = Some(now + self.timing.exit);
                worker.asked = true;
                actions.push(Action::Kill(id));
            }
            worker.drain();
        }
        if self.next_start.is_some_and(|start| now < start) {
            return;
        }
        let lacking = target.saturating_sub(active);
        // After a failure one is tried before all are.
        let starting = self.workers.values().any(|w| w.state == State::Starting);
        let allowed = if self.failures == 0 { lacking } else { lacking.min(usize::from(!starting)) };
        for _ in 0..allowed {
            let id = self.names.next();
            self.workers.insert(id.clone(), Worker::starting(now));
            actions.push(Action::Start(id));
        }
    }

    /// Who goes when that many are too many: whom the plan names, then who does not serve yet, then the youngest,
    /// who have the fewest long connections.
    fn leavers(&self, surplus: usize) -> Vec<WorkerId> {
        let named = |id: &WorkerId| {
            let place = self.plan.as_ref().and_then(|plan| plan.drain.iter().position(|w| w == id));
            place.unwrap_or(usize::MAX)
        };
        let mut active: Vec<_> = self.workers.iter().filter(|(_, worker)| worker.is_active()).collect();
        active.sort_by_key(|(id, worker)| (named(id), worker.state, std::cmp::Reverse(worker.born)));
        active.into_iter().take(surplus).map(|(id, _)| id.clone()).collect()
    }

    /// Who may be given slots, or another worker's connections.
    pub(crate) fn eligible(&self) -> BTreeSet<WorkerId> {
        let serving = || self.workers.iter().filter(|(_, w)| w.state == State::Ready && w.is_up());
        let well: BTreeSet<_> = serving().filter(|(_, w)| !w.stuck).map(|(id, _)| id.clone()).collect();
        // One that does not seem to take connections is better than none at all.
        if well.is_empty() { serving().map(|(id, _)| id.clone()).collect() } else { well }
    }

    fn settle(&mut self, actions: &mut Vec<Action>) {
        let (eligible, nobody) = (self.eligible(), BTreeSet::new());
        let mut quic = eligible.clone();
        quic.retain(|id| self.workers.get(id).is_some_and(|worker| worker.keeps));
        let abandoned = self.target() == 0;
        let threads = self.plan.as_ref().map_or(1, |plan| plan.threads);
        for (listen, address) in &mut self.addresses {
            let ready = match listen.transport {
                _ if address.closing => &nobody,
                Transport::Tcp => &eligible,
                Transport::Udp => &quic,
            };
            let wanted = Wanted { ready, threads, abandoned: abandoned || address.closing };
            for transfer in address.group.settle(wanted) {
                for slots in transfer.slots.chunks(MAX_SOCKETS) {
                    let slots = Slots { listen: listen.clone(), slots: slots.to_vec() };
                    let message = match transfer.kind {
                        TransferKind::Lend => ToWorker::Lend(slots),
                        TransferKind::Return => ToWorker::Return(slots),
                    };
                    actions.push(Action::Send(transfer.worker.clone(), message));
                }
            }
            if address.closing {
                // Our copies are closed: there is nothing to steer by, and nobody to steer to.
                if listen.transport == Transport::Udp {
                    recall(&mut self.workers, listen, &mut address.group, actions);
                }
                continue;
            }
            if let Some(steering) = address.group.steer(ready) {
                actions.push(Action::Steer(listen.clone(), steering));
            }
        }
    }

    /// Gives each worker all sockets of each UDP address to keep.
    fn have_kept(&mut self, actions: &mut Vec<Action>) {
        let udp =
            |(listen, address): &(&Listen, &Address)| listen.transport == Transport::Udp && !address.closing;
        for (listen, address) in self.addresses.iter().filter(udp) {
            let numbers: Vec<u32> = address.group.numbers().collect();
            let serving = |worker: &Worker| worker.keeps && worker.is_up() && worker.state == State::Ready;
            for (id, worker) in self.workers.iter_mut().filter(|(_, worker)| serving(worker)) {
                if worker.kept.insert(listen.clone(), numbers.len()) == Some(numbers.len()) {
                    continue;
                }
                for slots in numbers.chunks(MAX_SOCKETS) {
                    let slots = Slots { listen: listen.clone(), slots: slots.to_vec() };
                    actions.push(Action::Send(id.clone(), ToWorker::Keep(slots)));
                }
            }
        }
    }

    /// Tells the leavers that have handed over their slots to drain.
    fn send_off(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let deadline = self.drain_deadline();
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let end = now + deadline + self.timing.exit;
        // Without, the handover waits for a replacement, whose start has a bound of its own.
        let heirs = self.target() == 0 || !self.eligible().is_empty();
        for (id, worker) in &mut self.workers {
            if worker.state != State::Draining || worker.asked {
                continue;
            }
            let holds = self.addresses.values().any(|a| a.group.returnable_by(id) > 0);
            if worker.is_up() && !holds {
                worker.asked = true;
                worker.end_by = Some(end);
                actions.push(Action::Send(id.clone(), ToWorker::Drain { deadline_ms }));
            } else if self.stopping && matches!(worker.link, Link::Awaited { .. }) {
                worker.asked = true;
                worker.end_by = Some(end);
                actions.push(Action::Terminate(id.clone()));
            } else if heirs {
                // It may be stuck and never return them.
                worker.end_by.get_or_insert(end);
            }
        }
    }
}

/// Asks back all sockets of a UDP address that is closed: it could not be opened again while anybody has one.
fn recall(
    workers: &mut BTreeMap<WorkerId, Worker>,
    listen: &Listen,
    group: &mut Group,
    actions: &mut Vec<Action>,
) {
    let numbers: Vec<u32> = group.numbers().collect();
    for (id, worker) in workers.iter_mut().filter(|(_, worker)| worker.is_up()) {
        if worker.kept.remove(listen).is_none() {
            continue;
        }
        group.recall(id);
        for slots in numbers.chunks(MAX_SOCKETS) {
            let slots = Slots { listen: listen.clone(), slots: slots.to_vec() };
            actions.push(Action::Send(id.clone(), ToWorker::Return(slots)));
        }
    }
}
