//! A server's turn: what has to be durable is made so, and then what depends on it is said and done.

use store::{Outcome, Read, ReadError, disk::Snapshot, image, machine::Machine, node::Effects};

use super::{
    clients::{Answer, Want},
    faults::Kind,
    promises::Promises,
    server::{Input, Moment, Waiter},
    world::{Event, World},
};

impl World {
    /// One turn of the node; whether it is done and there may be another.
    pub(super) fn turn(&mut self, server: usize) -> bool {
        let this = &mut self.servers[server];
        let applied = this.applied().unwrap_or(0);
        let Some(node) = &mut this.node else { return false };
        let term = node.is_leader().then(|| node.leadership().term);
        let Some(mut turn) = node.turn() else { return false };
        let messages = turn.messages();
        let (is_empty, is_install) = (turn.batch().is_empty(), turn.batch().snapshot.is_some());
        let moment = this.crash_at.filter(|moment| match moment {
            Moment::DuringInstall => is_install,
            Moment::AfterSave => false,
            _ => !is_empty,
        });
        let mut proposed = Vec::new();
        let is_written = !is_empty && moment != Some(Moment::BeforeWrite);
        if is_written {
            if let Some(new) = turn.batch().hard_state {
                Promises::written(this.id, this.disk.durable().hard_state, new);
            }
            this.disk.write(turn.batch());
            proposed = self.roll.write(&turn.batch().entries);
            proposed.retain(|(at, _)| Some(at.term) == term);
        }
        let fails = is_written && this.disk_fails;
        let effects = if moment.is_some() || fails {
            None
        } else {
            Some(turn.persisted().expect("what is committed and what was taken reads"))
        };
        self.judge_proposals(server, applied, &proposed);
        self.send(server, messages);
        self.counts.disk_errors += u64::from(fails);
        self.counts.installed_snapshots += u64::from(is_install);
        let Some(effects) = effects else {
            if moment == Some(Moment::AfterSync) {
                self.servers[server].disk.sync();
            }
            let restart = self.rng.between(50, 3000);
            self.crash(server, restart);
            return false;
        };
        let (run, most) = (self.servers[server].run, self.servers[server].sync_ms);
        let delay = if is_written { self.rng.below(most + 1) } else { 0 };
        if delay > 0 {
            self.servers[server].held = Some(effects);
            self.after(delay, Event::Synced { server, run });
            return false;
        }
        self.servers[server].disk.sync();
        self.carry_out(server, effects);
        true
    }

    /// The disk has synced. A process that stands still does not know yet.
    pub(super) fn synced(&mut self, server: usize, run: u64) {
        let this = &mut self.servers[server];
        if this.run != run || !this.runs() {
            return;
        }
        this.disk.sync();
        if this.paused {
            return;
        }
        if let Some(effects) = this.held.take() {
            self.carry_out(server, effects);
        }
        self.pump(server);
    }

    fn carry_out(&mut self, server: usize, effects: Effects) {
        self.follow(server);
        self.check_known(server);
        self.observe(server);
        self.send(server, effects.messages);
        let this = &mut self.servers[server];
        let run = this.run;
        let (mut answered, mut told) = (Vec::new(), Vec::new());
        for (ticket, outcome) in effects.answers {
            self.counts.compactions += u64::from(matches!(outcome, Outcome::Compacted(_)));
            if ticket.origin == run
                && let Some((operator, number)) = this.waiting.changes.remove(&ticket.number)
            {
                told.push((operator, number, outcome));
            } else if ticket.origin == run
                && let Some(waiter) = this.waiting.writes.remove(&ticket.number)
            {
                answered.push((waiter, outcome));
            }
        }
        let barriers = &mut this.waiting.barriers;
        let readers: Vec<Waiter> = effects.reads.iter().filter_map(|id| barriers.remove(id)).collect();
        for (waiter, outcome) in answered {
            self.answer(waiter, Answer::Write(Ok(outcome)));
        }
        for (operator, number, outcome) in told {
            let answer = match outcome {
                Outcome::Members => Ok(()),
                Outcome::NoMember(reason) => Err(reason),
                other => panic!("a change of members is answered {other:?}"),
            };
            self.tell(operator, number, answer);
        }
        if effects.members && self.servers[server].read(|machine| machine.is_retired(self.servers[server].id))
        {
            self.expelled(server);
        }
        readers.into_iter().for_each(|waiter| self.answer_read(server, waiter));
        self.answer_revisions(server);
        if let Some(machine) = effects.snapshot {
            let snapshot = image::encode(&machine, "sim").expect("zstd has memory");
            let delay = self.rng.between(1, 60);
            self.after(delay, Event::Saved { server, run, snapshot });
        } else if effects.snapshot_wanted {
            let delay = self.rng.between(1, 60);
            self.after(delay, Event::Load { server, run });
        }
        self.look_all(server);
    }

    /// Compares what a server has applied with what all have.
    pub(super) fn observe(&mut self, server: usize) {
        let this = &mut self.servers[server];
        let Some(node) = &this.node else { return };
        let acknowledged = self.ledger.acknowledged();
        let mut seen = this.seen;
        if this.applied() == Some(0) {
            // It has joined, and knows nothing.
            return;
        }
        this.read(|machine| {
            self.roll.compare(this.id, machine);
            self.ledger.observe(this.id, machine, &mut seen);
            self.promises.observe(this.id, node, machine.revision(), acknowledged);
        });
        this.seen = seen;
    }

    /// A snapshot of this server's own is written.
    pub(super) fn saved(&mut self, server: usize, run: u64, snapshot: Snapshot) {
        let this = &mut self.servers[server];
        if this.run != run || !this.runs() {
            return;
        }
        if this.paused {
            return self.after(20, Event::Saved { server, run, snapshot });
        }
        if this.disk_fails {
            self.counts.disk_errors += 1;
            return self.crash(server, 1000);
        }
        this.disk.save(&snapshot);
        self.counts.snapshots += 1;
        if this.crash_at == Some(Moment::AfterSave) {
            return self.crash(server, 500);
        }
        if self.is_on(Kind::RottenSnapshot) && self.rng.one_in(20) && self.servers[server].disk.rot_snapshot()
        {
            self.counts.rotten_snapshots += 1;
        }
        self.give(server, run, Input::Saved(snapshot.meta.at.index));
    }

    pub(super) fn load(&mut self, server: usize, run: u64) {
        let this = &mut self.servers[server];
        if this.run != run || !this.runs() {
            return;
        }
        let snapshot = this.disk.newest().clone();
        // One that was read before need not be read again: that takes most of a run's time.
        if this.loaded.as_ref().is_none_or(|(at, _)| *at != snapshot.meta.at) {
            let machine = image::decode(&snapshot).expect("a snapshot reads");
            this.loaded = Some((snapshot.meta.at, machine.members().clone()));
        }
        let members = this.loaded.as_ref().map(|(_, members)| members.clone()).unwrap_or_default();
        self.give(server, run, Input::Loaded(Box::new((snapshot, members))));
    }

    /// Ends in good order: leadership was offered to another, the promises that were not worth a sync are written,
    /// and the state is marked as clean.
    pub(super) fn leave(&mut self, server: usize, run: u64) {
        let this = &mut self.servers[server];
        if this.run != run || !this.runs() {
            return;
        }
        if !this.is_readable() {
            return self.after(100, Event::Leave { server, run });
        }
        let Some(mut node) = this.node.take() else { return };
        let batch = node.last_batch();
        if !batch.is_empty() {
            this.disk.write(&batch);
            this.disk.sync();
        }
        this.clean =
            Some(node.machine().read().map(|machine| Machine::clone(&machine)).expect("not poisoned"));
        let delay = self.rng.between(50, 1500);
        self.end(server, delay);
    }

    /// Answers those that waited for a revision which is there now.
    pub(super) fn answer_revisions(&mut self, server: usize) {
        let this = &mut self.servers[server];
        if this.waiting.revisions.is_empty() || !this.runs() {
            return;
        }
        let have = this.read(Machine::revision);
        let ready: Vec<Waiter> = this
            .waiting
            .revisions
            .extract_if(.., |(wanted, _)| *wanted <= have)
            .map(|(_, waiter)| waiter)
            .collect();
        ready.into_iter().for_each(|waiter| self.answer_read(server, waiter));
    }

    /// Answers a read that may be answered, as `Handle::list` does.
    pub(super) fn answer_read(&mut self, server: usize, waiter: Waiter) {
        let Want::Read { prefix, how } = &self.calls[waiter.call].want else { return };
        let answer = self.servers[server].read(|machine| match how {
            Read::At(at) => {
                machine.list_at(prefix, *at).map(|entries| (entries, *at)).map_err(ReadError::from)
            }
            _ => Ok((machine.list(prefix), machine.revision())),
        });
        self.answer(waiter, Answer::Read(answer));
    }

    pub(super) fn answer(&mut self, waiter: Waiter, answer: Answer) {
        let delay = self.rng.below(4);
        let Waiter { call, attempt, .. } = waiter;
        self.after(delay, Event::Reply { call, attempt, answer });
    }
}
