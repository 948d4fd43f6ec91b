//! What goes wrong. A seed draws a plan: which kinds of misfortune it has, and how bad they are; no run has all of
//! them, so that none hides another.

use std::collections::BTreeSet;

use store::NodeId;

use super::{
    rng::Rng,
    server::{Input, Moment, Server},
    world::{Event, TICK, World},
};

/// A kind of misfortune.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    // The network's.
    Loss,
    Repeat,
    Late,
    Reorder,
    Partition,
    OneWay,
    // The servers'.
    Pause,
    Clock,
    Crash,
    Blackout,
    Restart,
    Transfer,
    // Their disks'.
    SlowDisk,
    DiskFull,
    RottenLog,
    RottenSnapshot,
    // Their users'.
    Compact,
    MoveWatches,
}

const KINDS: [Kind; 18] = [
    Kind::Loss,
    Kind::Repeat,
    Kind::Late,
    Kind::Reorder,
    Kind::Partition,
    Kind::OneWay,
    Kind::Pause,
    Kind::Clock,
    Kind::Crash,
    Kind::Blackout,
    Kind::Restart,
    Kind::Transfer,
    Kind::SlowDisk,
    Kind::DiskFull,
    Kind::RottenLog,
    Kind::RottenSnapshot,
    Kind::Compact,
    Kind::MoveWatches,
];

/// What a seed is about.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) voters: u64,
    pub(super) members_change: bool,
    /// Milliseconds of misfortunes.
    pub(super) duration: u64,
    pub(super) kinds: BTreeSet<Kind>,
    /// Milliseconds from one misfortune to the next, at most.
    fault_ms: u64,
    /// Of a thousand messages.
    pub(super) loss: u64,
    pub(super) repeat: u64,
    pub(super) late: u64,
    pub(super) latency_ms: u64,
    /// Whether transports say what became of snapshots.
    pub(super) reports: bool,
    pub(super) clients: usize,
    pub(super) watchers: usize,
    /// Milliseconds that a client thinks, at most.
    pub(super) think_ms: u64,
    pub(super) keep_revisions: u64,
    pub(super) keep_bytes: u64,
    pub(super) snapshot_entries: u64,
    pub(super) trailing_entries: u64,
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let kinds = KINDS.into_iter().filter(|_| rng.one_in(2)).collect();
        Self {
            voters: if rng.one_in(4) { 5 } else { 3 },
            members_change: false,
            duration: rng.between(15_000, 35_000),
            kinds,
            fault_ms: *rng.pick(&[400, 1000, 2500]),
            loss: *rng.pick(&[5, 30, 120]),
            repeat: *rng.pick(&[5, 50]),
            late: *rng.pick(&[3, 20]),
            latency_ms: *rng.pick(&[1, 5, 20]),
            reports: rng.one_in(2),
            clients: rng.index(4) + 2,
            watchers: rng.index(3) + 1,
            think_ms: *rng.pick(&[50, 300, 800]),
            keep_revisions: *rng.pick(&[20, 60, 1_000_000]),
            keep_bytes: *rng.pick(&[6000, 1 << 30]),
            snapshot_entries: *rng.pick(&[10, 25, 80]),
            trailing_entries: *rng.pick(&[0, 5, 20]),
        }
    }
}

/// The end of a misfortune.
#[derive(Debug, Clone, Copy)]
pub(super) enum Undo {
    Partition,
    Clock(usize),
    SlowDisk(usize),
    DiskFull(usize),
}

impl World {
    /// One more misfortune.
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let next = self.rng.between(50, self.plan.fault_ms);
        self.after(next, Event::Fault);
        let kinds: Vec<Kind> = self.plan.kinds.iter().copied().collect();
        if kinds.is_empty() {
            return;
        }
        let server = self.unlucky();
        let run = self.servers[server].run;
        let lasts = self.rng.between(200, 6000);
        match *self.rng.pick(&kinds) {
            Kind::Partition => self.partition(lasts),
            Kind::OneWay => self.cut_one_way(lasts),
            Kind::Pause if self.servers[server].runs() && !self.servers[server].paused => {
                self.counts.pauses += 1;
                self.servers[server].paused = true;
                self.after(lasts, Event::Resume(server));
            }
            Kind::Clock => self.turn_clock(server, lasts),
            Kind::Crash => self.arm_crash(server),
            Kind::Blackout if self.rng.one_in(4) => {
                self.counts.blackouts += 1;
                for server in 0..self.servers.len() {
                    let restart = self.rng.between(50, 3000);
                    self.crash(server, restart);
                }
            }
            Kind::Restart => {
                self.give(server, run, Input::Transfer);
                self.after(lasts.min(1000), Event::Leave { server, run });
            }
            Kind::Transfer => self.give(server, run, Input::Transfer),
            Kind::SlowDisk => {
                self.servers[server].sync_ms = self.rng.between(20, 900);
                self.after(lasts, Event::Undo(Undo::SlowDisk(server)));
            }
            Kind::DiskFull if self.servers.iter().all(|server| !server.disk_fails) => {
                self.servers[server].disk_fails = true;
                self.after(lasts, Event::Undo(Undo::DiskFull(server)));
            }
            Kind::RottenLog if self.rng.one_in(3) => self.rot_log(server),
            _ => {}
        }
    }

    /// Half of the time it is the leader.
    fn unlucky(&mut self) -> usize {
        let any = self.rng.index(self.servers.len());
        let leads = |server: &Server| server.node.as_ref().is_some_and(|node| node.leadership().leader);
        if self.rng.one_in(2) { any } else { self.servers.iter().position(leads).unwrap_or(any) }
    }

    fn partition(&mut self, lasts: u64) {
        self.counts.partitions += 1;
        let ids: Vec<NodeId> = self.servers.iter().map(|server| server.id).collect();
        let side: BTreeSet<NodeId> = if self.rng.one_in(2) {
            [ids[self.unlucky()]].into()
        } else {
            ids.iter().copied().filter(|_| self.rng.one_in(2)).collect()
        };
        for from in &ids {
            let others = ids.iter().filter(|to| side.contains(from) != side.contains(to));
            self.links.cut.extend(others.map(|to| (*from, *to)));
        }
        self.after(lasts, Event::Undo(Undo::Partition));
    }

    /// One server does not hear the others, or is not heard, or not by one of them.
    fn cut_one_way(&mut self, lasts: u64) {
        self.counts.one_way_partitions += 1;
        let unlucky = self.unlucky();
        let one = self.servers[unlucky].id;
        let (whole, hears) = (self.rng.one_in(2), self.rng.one_in(2));
        for server in &self.servers {
            if server.id != one && (whole || self.rng.one_in(2)) {
                self.links.cut.insert(if hears { (one, server.id) } else { (server.id, one) });
            }
        }
        self.after(lasts, Event::Undo(Undo::Partition));
    }

    /// A clock goes too fast, too slowly, or catches up at once; the time of day jumps as well.
    fn turn_clock(&mut self, server: usize, lasts: u64) {
        self.counts.clock_jumps += 1;
        self.servers[server].clock_ahead = 100_000 - i64::try_from(self.rng.below(200_000)).unwrap();
        match self.rng.below(3) {
            0 => {
                let run = self.servers[server].run;
                (0..self.rng.between(5, 40)).for_each(|_| self.give(server, run, Input::Tick));
            }
            1 => self.servers[server].tick_ms = self.rng.between(10, 50),
            _ => self.servers[server].tick_ms = self.rng.between(200, 1500),
        }
        self.after(lasts, Event::Undo(Undo::Clock(server)));
    }

    fn arm_crash(&mut self, server: usize) {
        let moments = [
            Moment::BeforeWrite,
            Moment::DuringSync,
            Moment::AfterSync,
            Moment::DuringInstall,
            Moment::AfterSave,
        ];
        if self.rng.one_in(3) {
            let restart = self.rng.between(20, 4000);
            self.crash(server, restart);
        } else {
            self.servers[server].crash_at = Some(*self.rng.pick(&moments));
        }
    }

    /// A server's disk is damaged, and it ends. It stays away for ever: as many as may.
    fn rot_log(&mut self, server: usize) {
        let lost = self.servers.iter().filter(|server| server.lost || server.rots).count() as u64;
        if lost >= (self.plan.voters - 1) / 2 || self.servers[server].rots {
            return;
        }
        let this = &mut self.servers[server];
        if this.disk.rot_log(&mut self.rng) {
            this.rots = true;
            self.counts.rotten_logs += 1;
            let restart = self.rng.between(20, 4000);
            self.crash(server, restart);
        }
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Partition => self.links.cut.clear(),
            Undo::Clock(server) => self.servers[server].tick_ms = TICK,
            Undo::SlowDisk(server) => self.servers[server].sync_ms = 0,
            Undo::DiskFull(server) => {
                self.servers[server].disk_fails = false;
                self.start(server);
            }
        }
    }

    /// Everything about a server is well again.
    pub(super) fn mend(&mut self, server: usize) {
        let this = &mut self.servers[server];
        (this.tick_ms, this.sync_ms, this.disk_fails, this.crash_at) = (TICK, 0, false, None);
        if this.runs() {
            self.resume(server);
        } else {
            self.start(server);
        }
    }
}
