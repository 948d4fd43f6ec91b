//! Inputs into the pool's state; what follows from it is `reconcile`'s.

use std::time::{Duration, Instant};

use api::{
    agent::{Listen, ToAgent, ToWorker, Transport},
    node::{WorkerState, WorkerStatus},
};
use model::WorkerId;

use super::{
    Action, Address, Binding, Pool,
    worker::{Link, Worker},
};
use crate::plan::Plan;

/// Ended workers that are still told to the servers, so that an end between two messages is not missed.
const ENDED_KEPT: usize = 16;

/// How long to wait before an address that could not be bound is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(1);

impl Pool {
    pub(super) fn on(&mut self, worker: &WorkerId, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(worker) {
            change(worker);
        }
    }

    pub(super) fn plan(&mut self, plan: Plan) {
        if let Some(last) = self.plan.as_ref().filter(|last| plan.version < last.version) {
            let (stale, last) = (plan.version, last.version);
            self.refused = format!(
                "refused stale plan {}.{}, at {}.{}",
                stale.term, stale.generation, last.term, last.generation
            );
            return;
        }
        self.refused.clear();
        // A later plan knows of the wake, or decides against it.
        if self.plan.as_ref().is_none_or(|last| plan.version > last.version) {
            self.woken = false;
        }
        self.plan = Some(plan);
    }

    pub(super) fn said(&mut self, id: &WorkerId, message: ToAgent, now: Instant, actions: &mut Vec<Action>) {
        if let ToAgent::Hello { pid, welcomed, ready, draining, keeps, .. } = message {
            for address in self.addresses.values_mut() {
                address.group.unlinked(id);
            }
            let worker = self.workers.entry(id.clone()).or_insert_with(|| Worker::starting(now));
            worker.pid = Some(pid);
            worker.keeps = keeps;
            let (link, answer) = if welcomed {
                let until = now + self.timing.relink;
                (Link::Recovering { until }, Action::Send(id.clone(), ToWorker::Recover))
            } else {
                (Link::Up, Action::Welcome(id.clone()))
            };
            worker.linked(link, ready, draining, now);
            actions.push(answer);
            return;
        }
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.is_linked()) else { return };
        match message {
            // Of a scrape, or of connections, which are no business of the pool's.
            ToAgent::Hello { .. } | ToAgent::Measured { .. } | ToAgent::HandOver(_) => {}
            ToAgent::Recovered(slots) => {
                let next_slots = &mut self.next_slots;
                let address = self.addresses.entry(slots.listen.clone());
                let address = address.or_insert_with(|| Address::new(&slots.listen, next_slots));
                if slots.listen.transport == Transport::Udp {
                    worker.kept.entry(slots.listen.clone()).or_default();
                }
                if address.closing {
                    // We have copies again.
                    actions.push(Action::Close(slots.listen));
                }
                for slot in slots.slots {
                    address.group.recover(slot, id);
                }
            }
            ToAgent::Kept(slots) => {
                let next_slots = &mut self.next_slots;
                let address = self.addresses.entry(slots.listen.clone());
                let address = address.or_insert_with(|| Address::new(&slots.listen, next_slots));
                worker.kept.entry(slots.listen.clone()).or_default();
                if address.closing {
                    // We have copies again.
                    actions.push(Action::Close(slots.listen));
                }
                for slot in slots.slots {
                    address.group.add(slot);
                }
            }
            ToAgent::RecoveredAll => {
                worker.link = Link::Up;
                for address in self.addresses.values_mut() {
                    address.group.recovered_all(id);
                }
            }
            ToAgent::Ready { .. } => worker.ready(now),
            ToAgent::Taken(slots) => {
                if let Some(address) = self.addresses.get_mut(&slots.listen) {
                    address.group.taken(id, &slots.slots);
                }
            }
            ToAgent::Returned(slots) => {
                if let Some(address) = self.addresses.get_mut(&slots.listen) {
                    address.group.returned(id, &slots.slots);
                }
                if self.addresses.values().all(|a| a.group.returnable_by(id) == 0) {
                    // It has processed what it was asked: it is not stuck any more.
                    worker.stuck = false;
                }
            }
            ToAgent::Draining => {
                worker.asked = true;
                if worker.is_active() {
                    let failed = !worker.is_settled(self.timing.settled, now);
                    worker.drain();
                    if failed {
                        self.failed(id, "drained unasked soon after its start", now);
                    }
                }
                let deadline = self.drain_deadline() + self.timing.exit;
                self.on(id, |w| w.end_within(deadline, now));
            }
            ToAgent::Drained => worker.end_within(self.timing.exit, now),
        }
    }

    pub(super) fn unlinked(&mut self, id: &WorkerId, now: Instant) {
        let relink_by = now + self.timing.relink;
        self.on(id, |worker| worker.link = Link::Awaited { until: relink_by });
        for address in self.addresses.values_mut() {
            address.group.unlinked(id);
        }
    }

    pub(super) fn ended(&mut self, id: &WorkerId, how: &str, now: Instant) {
        let Some(worker) = self.workers.remove(id) else { return };
        for address in self.addresses.values_mut() {
            address.group.ended(id);
        }
        if worker.is_active() {
            self.crashes += 1;
            if !worker.is_settled(self.timing.settled, now) {
                self.failed(id, how, now);
            }
        }
        if self.ended.len() == ENDED_KEPT {
            self.ended.pop_front();
        }
        self.ended.push_back(WorkerStatus {
            state: WorkerState::Ended.into(),
            end: how.to_owned(),
            ..worker.status(id, 0)
        });
    }

    pub(super) fn failed(&mut self, id: &WorkerId, how: &str, now: Instant) {
        // 2^16 times the shortest pause is beyond any longest one.
        let doublings = self.failures.min(16);
        let pause = self.timing.backoff.saturating_mul(1 << doublings).min(self.timing.max_backoff);
        self.failures = self.failures.saturating_add(1);
        self.last_failure = format!("{id}: {how}");
        self.failed_at = Some(now);
        self.next_start = Some(now + pause);
    }

    pub(super) fn bound(&mut self, listen: &Listen, slots: &[u32], problem: Option<String>, now: Instant) {
        let Some(address) = self.addresses.get_mut(listen).filter(|address| !address.closing) else { return };
        address.binding = match problem {
            Some(why) => Binding::Failed { why, again: now + BIND_PAUSE },
            None => Binding::Idle,
        };
        for slot in slots {
            address.group.add(*slot);
        }
    }

    pub(super) fn standing(&mut self, listen: &Listen, slot: u32) {
        let Some(address) = self.addresses.get(listen) else { return };
        for id in address.group.listeners(slot) {
            // The last one keeps its slots: there is nobody to relieve it.
            if self.eligible().iter().any(|other| *other != id) {
                let mut relieved = 0;
                self.on(&id, |worker| relieved = u64::from(!std::mem::replace(&mut worker.stuck, true)));
                self.relieved += relieved;
            }
        }
    }
}
