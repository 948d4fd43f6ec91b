//! The network between the servers: it loses, repeats and delays.

use std::collections::{BTreeMap, BTreeSet};

use store::{NodeId, peer::PeerMessage};

use super::{
    faults::Kind,
    promises::{READ_RESPONSE, SNAPSHOT},
    server::Input,
    world::{Event, World},
};

/// Milliseconds between two reports that a server is not reached.
const RECONNECT: u64 = 50;

/// Which servers do not hear which.
#[derive(Default)]
pub(super) struct Links {
    /// From and to.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    /// When the last message from one to another arrives: a stream does not reorder.
    arrivals: BTreeMap<(NodeId, NodeId), u64>,
    /// When it was said last that one does not reach another.
    reported: BTreeMap<(NodeId, NodeId), u64>,
    /// Who is away until all is well.
    pub(super) away: BTreeSet<NodeId>,
    /// Whom nothing large reaches, until when.
    pub(super) starved: BTreeMap<NodeId, u64>,
    /// To whom answers to reads take long, until when.
    pub(super) late_reads: BTreeMap<NodeId, u64>,
}

impl Links {
    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.away.contains(&from) || self.away.contains(&to) || self.cut.contains(&(from, to))
    }
}

impl World {
    /// Messages leave a server, as they are allowed to by what its disk holds.
    pub(super) fn send(&mut self, server: usize, messages: Vec<PeerMessage>) {
        let durable = self.servers[server].disk.durable();
        for message in messages {
            self.promises.sent(&message, durable);
            if self.is_on(Kind::Loss) && self.rng.permille(self.plan.loss) {
                self.counts.lost_messages += 1;
                self.report_loss(&message);
                continue;
            }
            if self.is_on(Kind::Repeat) && self.rng.permille(self.plan.repeat) {
                self.counts.repeated_messages += 1;
                let delay = self.rng.between(1, 400);
                self.after(delay, Event::Arrive(Box::new(message.clone())));
            }
            let delay = self.delay(&message);
            self.after(delay, Event::Arrive(Box::new(message)));
        }
    }

    fn delay(&mut self, message: &PeerMessage) -> u64 {
        let on_the_way = self.rng.between(1, 1 + self.plan.latency_ms);
        let is_late = self.links.late_reads.get(&message.to).is_some_and(|until| *until > self.now);
        if message.kind == READ_RESPONSE && is_late {
            return self.rng.between(1, 2500);
        }
        if self.is_on(Kind::Late) && self.rng.permille(self.plan.late) {
            self.counts.late_messages += 1;
            return self.rng.between(50, 6000);
        }
        // Snapshots have a connection of their own.
        if self.is_on(Kind::Reorder) || message.kind == SNAPSHOT {
            return on_the_way;
        }
        let last = self.links.arrivals.entry((message.from, message.to)).or_insert(0);
        *last = (*last).max(self.now + on_the_way);
        *last - self.now
    }

    pub(super) fn arrive(&mut self, message: PeerMessage) {
        let is_large = message.snapshot.is_some() || !message.entries.is_empty();
        let is_starved = self.links.starved.get(&message.to).is_some_and(|until| *until > self.now);
        let is_lost = is_large && is_starved && message.kind != READ_RESPONSE;
        if self.links.is_cut(message.from, message.to) || is_lost {
            self.counts.lost_messages += 1;
            return self.report_loss(&message);
        }
        let Some(to) = self.server_of(message.to) else { return };
        if !self.servers[to].runs() {
            return self.report_loss(&message);
        }
        // As a transport does, with the word for it.
        if self.servers[to].read(|machine| machine.is_retired(message.from)) {
            self.counts.refused_messages += 1;
            if let Some(from) = self.server_of(message.from) {
                self.after(3, Event::Expel(from));
            }
            return;
        }
        let run = self.servers[to].run;
        self.give(to, run, Input::Step(Box::new(message)));
    }

    /// A transport notices most of what it loses.
    fn report_loss(&mut self, message: &PeerMessage) {
        let Some(from) = self.server_of(message.from) else { return };
        if message.kind == SNAPSHOT {
            return self.report_snapshot(message.from, message.to, false);
        }
        // As often as a transport tries to connect.
        let pair = (message.from, message.to);
        let is_due = self.links.reported.get(&pair).is_none_or(|last| *last + RECONNECT <= self.now);
        if is_due && self.rng.one_in(2) {
            self.links.reported.insert(pair, self.now);
            let run = self.servers[from].run;
            let input = Input::Unreachable(message.to);
            self.after(5, Event::Input { server: from, run, input });
        }
    }

    /// A transport says how a snapshot went, mostly.
    pub(super) fn report_snapshot(&mut self, sender: NodeId, to: NodeId, taken: bool) {
        let Some(from) = self.server_of(sender) else { return };
        if self.plan.reports && !self.rng.one_in(8) {
            let (run, input) = (self.servers[from].run, Input::SnapshotSent { to, taken });
            self.after(5, Event::Input { server: from, run, input });
        }
    }

    pub(super) fn server_of(&self, id: NodeId) -> Option<usize> {
        self.servers.iter().position(|server| server.id == id)
    }
}
