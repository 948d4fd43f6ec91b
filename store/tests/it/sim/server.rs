//! One server: the node and its disk, driven as `store`'s driver does it. A sync takes time; until it returns, what
//! the server is given waits, and nothing that depends on it is said.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::PoisonError,
};

use api::store::Members;
use store::{
    MemberError, NodeId, Read, ReadError, Revision, Txn, TxnError,
    disk::Snapshot,
    image,
    machine::{Machine, Position},
    node::{Effects, Node, NodeConfig, NotProposed, ReadId},
    peer::{BadMessage, PeerMessage},
    txn::{Command, Ticket},
};

use super::{
    clients::{Answer, Want},
    disk::{Left, SimDisk},
    members::CAUGHT_UP,
    world::{Event, TICK, World},
};

/// Inputs that wait; beyond, other servers' messages are dropped.
const INBOX: usize = 1024;
/// Turns that a server may take at one moment.
const TURNS: u32 = 10_000;
const WRITE_TIMEOUT: u64 = 4000;
const READ_TIMEOUT: u64 = 3000;

pub(super) struct Server {
    pub(super) id: NodeId,
    pub(super) node: Option<Node>,
    pub(super) disk: SimDisk,
    /// What a clean end left of the state.
    pub(super) clean: Option<Machine>,
    /// This run's number; its origin.
    pub(super) run: u64,
    inbox: VecDeque<Input>,
    /// To be said and done when the disk has synced.
    pub(super) held: Option<Effects>,
    pub(super) waiting: Waiting,
    /// Revisions that the ledger has seen of this run.
    pub(super) seen: Revision,
    pub(super) paused: bool,
    /// The power goes at this moment of the next batch.
    pub(super) crash_at: Option<Moment>,
    pub(super) disk_fails: bool,
    /// Milliseconds that a sync takes at most.
    pub(super) sync_ms: u64,
    /// Milliseconds from tick to tick.
    pub(super) tick_ms: u64,
    /// What this clock is ahead.
    pub(super) clock_ahead: i64,
    /// Its disk is damaged, which its next start finds: it is lost then.
    pub(super) rots: bool,
    pub(super) lost: bool,
    /// It was removed, and ended for ever; it has heard that it was removed.
    pub(super) gone: bool,
    pub(super) expelled: bool,
    /// What it had applied when it was looked at last.
    pub(super) followed: u64,
    /// The members in the snapshot that was read last.
    pub(super) loaded: Option<(Position, Members)>,
    /// Ticks of this run, and at which it heard of other servers last.
    pub(super) ticks: u64,
    pub(super) heard: BTreeMap<NodeId, u64>,
}

/// Who waits for this run of a server.
#[derive(Default)]
pub(super) struct Waiting {
    /// By the ticket's number.
    pub(super) writes: BTreeMap<u64, Waiter>,
    pub(super) barriers: BTreeMap<ReadId, Waiter>,
    pub(super) revisions: Vec<(Revision, Waiter)>,
    /// By the ticket's number: the operator, and the number of its wish.
    pub(super) changes: BTreeMap<u64, (usize, u64)>,
}

#[derive(Clone, Copy)]
pub(super) struct Waiter {
    pub(super) call: usize,
    pub(super) attempt: u32,
    deadline: u64,
}

pub(super) enum Input {
    Tick,
    Step(Box<PeerMessage>),
    Ask { call: usize, attempt: u32 },
    Change { operator: usize, number: u64 },
    Unreachable(NodeId),
    SnapshotSent { to: NodeId, taken: bool },
    Saved(u64),
    Loaded(Box<(Snapshot, Members)>),
    Transfer,
}

/// A moment at which a crash matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Messages that promise nothing have left.
    BeforeWrite,
    /// While it is synced.
    DuringSync,
    /// All is durable, nothing is said.
    AfterSync,
    /// In the middle of a leader's snapshot.
    DuringInstall,
    /// A snapshot of its own is durable, and the log does not know.
    AfterSave,
}

impl Server {
    pub(super) fn new(id: NodeId, first: Snapshot) -> Self {
        Self {
            id,
            node: None,
            disk: SimDisk::new(first),
            clean: None,
            run: 0,
            inbox: VecDeque::new(),
            held: None,
            waiting: Waiting::default(),
            seen: Revision(0),
            paused: false,
            crash_at: None,
            disk_fails: false,
            sync_ms: 0,
            tick_ms: TICK,
            clock_ahead: 0,
            rots: false,
            lost: false,
            gone: false,
            expelled: false,
            followed: 0,
            loaded: None,
            ticks: 0,
            heard: BTreeMap::new(),
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.node.is_some()
    }

    pub(super) fn applied(&self) -> Option<u64> {
        self.node.as_ref().map(|node| read(node, |machine| machine.applied().index))
    }

    /// Reads the state of a server that runs.
    pub(super) fn read<T>(&self, body: impl FnOnce(&Machine) -> T) -> T {
        read(self.node.as_ref().expect("it runs"), body)
    }

    /// Whether somebody who reads its state now sees what may be seen.
    pub(super) fn is_readable(&self) -> bool {
        self.node.is_some() && self.held.is_none() && !self.paused
    }
}

impl World {
    pub(super) fn start(&mut self, server: usize) {
        let id = self.servers[server].id;
        // They differ, so that servers do not stand for election at once for ever; clocks that run wrong do the rest.
        let election_ticks = usize::try_from(10 + 2 * (id % 6) + self.rng.below(2)).unwrap();
        let this = &mut self.servers[server];
        if this.runs() || this.lost || this.gone || this.disk_fails {
            return;
        }
        let Ok(recovered) = this.disk.recover() else {
            assert!(this.rots, "a disk that nothing happened to does not read");
            this.lost = true;
            return;
        };
        self.runs += 1;
        let config = NodeConfig {
            id,
            cluster_id: "sim".into(),
            origin: self.runs,
            keep_revisions: self.plan.keep_revisions,
            keep_bytes: self.plan.keep_bytes,
            snapshot_entries: self.plan.snapshot_entries,
            snapshot_bytes: 1 << 16,
            trailing_entries: self.plan.trailing_entries,
            caught_up_entries: CAUGHT_UP,
            election_ticks: Some(election_ticks),
        };
        let at = recovered.snapshot.meta.at.index;
        let clean = this.clean.take().filter(|machine| machine.applied().index >= at);
        self.counts.restarts += u64::from(this.run > 0);
        self.counts.clean_restarts += u64::from(clean.is_some());
        let machine = clean.unwrap_or_else(|| image::decode(&recovered.snapshot).expect("a snapshot reads"));
        this.node = Some(Node::new(config, &recovered, machine).expect("log and state belong together"));
        this.run = self.runs;
        (this.inbox, this.held, this.waiting) = (VecDeque::new(), None, Waiting::default());
        (this.seen, this.paused, this.crash_at) = (Revision(0), false, None);
        (this.expelled, this.ticks, this.heard) = (false, 0, BTreeMap::new());
        this.followed = this.applied().unwrap_or(0);
        let (run, tick_ms) = (this.run, this.tick_ms);
        let first = self.rng.below(tick_ms);
        self.after(first, Event::Tick { server, run });
        self.observe(server);
        self.reconnect();
    }

    /// The process ends without a word: memory is gone, and what the disk had not synced.
    pub(super) fn crash(&mut self, server: usize, restart_ms: u64) {
        let mut left = *self.rng.pick(&[Left::Nothing, Left::Torn, Left::Whole]);
        let this = &mut self.servers[server];
        if this.crash_at == Some(Moment::DuringInstall) && matches!(left, Left::Nothing) {
            // The snapshot is there, and the log that it replaces.
            left = Left::Torn;
        }
        if this.node.take().is_none() {
            return;
        }
        self.counts.crashes += 1;
        if this.disk.crash(left) {
            match left {
                Left::Nothing => self.counts.unsynced_lost += 1,
                Left::Torn => self.counts.unsynced_torn += 1,
                Left::Whole => self.counts.unsynced_kept += 1,
            }
        }
        self.end(server, restart_ms);
    }

    /// A run has ended: who waits is told, or finds out.
    pub(super) fn end(&mut self, server: usize, restart_ms: u64) {
        let this = &mut self.servers[server];
        this.held = None;
        this.inbox.clear();
        let Waiting { writes, barriers, revisions, changes } = std::mem::take(&mut this.waiting);
        for (_, waiter) in writes {
            self.answer(waiter, Answer::Write(Err(TxnError::Unknown)));
        }
        let readers = barriers.into_values().chain(revisions.into_iter().map(|(_, waiter)| waiter));
        for waiter in readers.collect::<Vec<_>>() {
            self.answer(waiter, Answer::Read(Err(ReadError::Stopped)));
        }
        for (operator, number) in changes.into_values() {
            self.tell(operator, number, Err(MemberError::Stopped));
        }
        self.move_watches(server);
        self.after(restart_ms, Event::Start(server));
    }

    pub(super) fn tick(&mut self, server: usize, run: u64) {
        let this = &mut self.servers[server];
        if this.run != run || !this.runs() {
            return;
        }
        let tick_ms = this.tick_ms;
        // A server that is busy or stands still has one tick to catch up with, however long it was.
        let is_late = this.inbox.iter().any(|input| matches!(input, Input::Tick));
        self.after(tick_ms, Event::Tick { server, run });
        if !is_late {
            self.give(server, run, Input::Tick);
        }
    }

    pub(super) fn give(&mut self, server: usize, run: u64, input: Input) {
        let this = &mut self.servers[server];
        if this.run != run || !this.runs() || (this.inbox.len() >= INBOX && matches!(input, Input::Step(_))) {
            return;
        }
        this.inbox.push_back(input);
        self.pump(server);
    }

    pub(super) fn resume(&mut self, server: usize) {
        let this = &mut self.servers[server];
        this.paused = false;
        let run = this.run;
        // Its disk worked on meanwhile.
        self.synced(server, run);
    }

    /// Works until the server waits: for something to do, for its disk, or because it stands still.
    pub(super) fn pump(&mut self, server: usize) {
        for turn in 0.. {
            assert!(turn < TURNS, "server {server} does not come to rest");
            if !self.servers[server].is_readable() {
                return;
            }
            while let Some(input) = self.servers[server].inbox.pop_front() {
                self.take(server, input);
                self.follow(server);
            }
            if !self.turn(server) {
                return;
            }
        }
    }

    fn take(&mut self, server: usize, input: Input) {
        let this = &mut self.servers[server];
        let Some(node) = &mut this.node else { return };
        match input {
            Input::Tick => {
                node.tick();
                this.ticks += 1;
                self.expire(server);
            }
            Input::Step(message) => {
                let (from, to, is_snapshot) = (message.from, message.to, message.snapshot.is_some());
                let taken = node.step(*message);
                let may_be = |error: &BadMessage| error.problem == "not from a member";
                assert!(taken.as_ref().err().is_none_or(may_be), "{taken:?}");
                this.heard.insert(from, this.ticks);
                if is_snapshot {
                    self.report_snapshot(from, to, taken.is_ok());
                }
            }
            Input::Ask { call, attempt } => self.take_ask(server, call, attempt),
            Input::Change { operator, number } => self.take_change(server, operator, number),
            Input::Unreachable(id) => node.unreachable(id),
            Input::SnapshotSent { to, taken } => node.snapshot_sent(to, taken),
            Input::Saved(index) => {
                node.snapshot_saved(index);
                this.disk.release();
            }
            Input::Loaded(loaded) => node.offer_snapshot(&loaded.0, &loaded.1),
            Input::Transfer => self.counts.transfers += u64::from(node.transfer().is_some()),
        }
    }

    fn take_ask(&mut self, server: usize, call: usize, attempt: u32) {
        let (want, now) = (self.calls[call].want.clone(), self.now);
        let time_ms = i64::try_from(now).unwrap() + self.servers[server].clock_ahead;
        if let Want::Txn(txn) = &want {
            self.ledger.proposed(txn, time_ms);
        }
        let this = &mut self.servers[server];
        let Some(node) = &mut this.node else { return };
        let writer = Waiter { call, attempt, deadline: now + WRITE_TIMEOUT };
        let reader = Waiter { call, attempt, deadline: now + READ_TIMEOUT };
        let command = match want {
            Want::Txn(txn) => {
                // As `Handle::txn` does.
                let txn = Txn { seen: read(node, Machine::revision), ..txn };
                Command::Txn { txn, time_ms }
            }
            Want::Compact(revision) => Command::Compact { revision },
            Want::Read { how: Read::Linearizable, .. } => {
                this.waiting.barriers.insert(node.read(), reader);
                return;
            }
            Want::Read { how: Read::AtLeast(revision) | Read::At(revision), .. } => {
                this.waiting.revisions.push((revision, reader));
                return self.answer_revisions(server);
            }
            Want::Read { how: Read::Local, .. } => return self.answer_read(server, reader),
        };
        match node.propose(&command) {
            Ok(Ticket { number, .. }) => drop(this.waiting.writes.insert(number, writer)),
            Err(NotProposed::NoLeader) => self.answer(writer, Answer::Write(Err(TxnError::NoLeader))),
            Err(NotProposed::Busy) => self.answer(writer, Answer::Write(Err(TxnError::Busy))),
        }
    }

    fn expire(&mut self, server: usize) {
        let now = self.now;
        let this = &mut self.servers[server];
        let Some(node) = &mut this.node else { return };
        let Waiting { writes, barriers, revisions, .. } = &mut this.waiting;
        let is_late = |waiter: &Waiter| waiter.deadline <= now;
        let mut answers = Vec::new();
        for (number, waiter) in writes.extract_if(.., |_, waiter| is_late(waiter)) {
            node.forget_write(number);
            answers.push((waiter, Answer::Write(Err(TxnError::Unknown))));
        }
        for (id, waiter) in barriers.extract_if(.., |_, waiter| is_late(waiter)) {
            node.forget_read(id);
            answers.push((waiter, Answer::Read(Err(ReadError::NoLeader))));
        }
        let have = read(node, Machine::revision);
        for (wanted, waiter) in revisions.extract_if(.., |(_, waiter)| is_late(waiter)) {
            answers.push((waiter, Answer::Read(Err(ReadError::Behind { wanted, have }))));
        }
        answers.into_iter().for_each(|(waiter, answer)| self.answer(waiter, answer));
    }
}

fn read<T>(node: &Node, body: impl FnOnce(&Machine) -> T) -> T {
    body(&node.machine().read().unwrap_or_else(PoisonError::into_inner))
}
