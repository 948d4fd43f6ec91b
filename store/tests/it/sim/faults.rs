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
    /// What is large does not get through to a server.
    Starve,
    /// A server is away until all is well.
    Away,
    // The servers'.
    Pause,
    Clock,
    Crash,
    Blackout,
    Restart,
    Transfer,
    /// The power comes and goes, and answers from before arrive after.
    Flicker,
    /// A leader that nobody hears goes on taking writes.
    Deposed,
    // Their disks'.
    SlowDisk,
    DiskFull,
    RottenLog,
    RottenSnapshot,
    WipedDisk,
    // Their users'.
    Compact,
    MoveWatches,
    /// Servers are added and removed.
    Members,
}

const KINDS: [Kind; 24] = [
    Kind::Loss,
    Kind::Repeat,
    Kind::Late,
    Kind::Reorder,
    Kind::Partition,
    Kind::OneWay,
    Kind::Starve,
    Kind::Away,
    Kind::Pause,
    Kind::Clock,
    Kind::Crash,
    Kind::Blackout,
    Kind::Restart,
    Kind::Transfer,
    Kind::Flicker,
    Kind::Deposed,
    Kind::SlowDisk,
    Kind::DiskFull,
    Kind::RottenLog,
    Kind::RottenSnapshot,
    Kind::WipedDisk,
    Kind::Compact,
    Kind::MoveWatches,
    Kind::Members,
];

/// What a seed is about.
#[derive(Debug)]
pub(super) struct Plan {
    /// Voters at first, and as many as there are to be.
    pub(super) voters: u64,
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
    /// Milliseconds from one look of an operator to the next, at most.
    pub(super) operate_ms: u64,
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
            duration: rng.between(12_000, 30_000),
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
            operate_ms: *rng.pick(&[400, 1500, 4000]),
            keep_revisions: *rng.pick(&[20, 60, 1_000_000]),
            keep_bytes: *rng.pick(&[6000, 1 << 30]),
            snapshot_entries: *rng.pick(&[10, 25, 120]),
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
    /// Others hear again what a leader says that was cut off; its power goes when it is sent a snapshot.
    Deposed(usize),
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
        if self.is_on(Kind::Away) && self.links.away.is_empty() && self.now > self.plan.duration / 4 * 3 {
            self.links.away.insert(self.servers[server].id);
            self.counts.away += 1;
        }
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
            Kind::WipedDisk if self.rng.one_in(6) && self.may_lose(server) => self.wipe(server),
            Kind::Starve => {
                let until = self.now + lasts;
                self.links.starved.insert(self.servers[server].id, until);
                self.counts.starved += 1;
            }
            Kind::Flicker if self.rng.one_in(2) => self.begin_flicker(),
            Kind::Deposed if self.rng.one_in(2) => self.depose(lasts),
            _ => {}
        }
    }

    /// Half of the time it is the leader.
    fn unlucky(&mut self) -> usize {
        let any = self.any_server();
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

    /// A server's disk is damaged, and it ends: another server takes its place, if a majority is there.
    fn rot_log(&mut self, server: usize) {
        if self.servers[server].rots || !self.may_lose(server) {
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

    /// A server ends, and its disk is empty: it does not start again under its id.
    fn wipe(&mut self, server: usize) {
        self.counts.wiped_disks += 1;
        self.servers[server].lost = true;
        self.crash(server, 1000);
    }

    /// A server that does not lead is asked for reads; then its power goes twice, and answers from before the second time
    /// arrive after it.
    fn begin_flicker(&mut self) {
        let follows = |server: &Server| server.node.as_ref().is_some_and(|node| !node.is_leader());
        let Some(server) = self.servers.iter().position(follows) else { return };
        self.counts.flickers += 1;
        let until = self.now + 5000;
        for client in 0..self.clients.len().div_ceil(2) {
            (self.clients[client].server, self.clients[client].reads_until) = (server, until);
        }
        self.links.late_reads.insert(self.servers[server].id, until);
        let restart = self.rng.between(5, 60);
        self.crash(server, restart);
        let second = self.rng.between(300, 1500);
        self.after(second, Event::Flicker(server));
    }

    pub(super) fn flicker(&mut self, server: usize) {
        if self.calm {
            return;
        }
        let leads = |server: &Server| server.node.as_ref().is_some_and(|node| node.leadership().leader);
        if let Some(leader) = self.servers.iter().position(leads) {
            // What was read before is old then.
            (0..3).for_each(|_| self.write_at(leader));
        }
        let starved = self.now + self.rng.between(500, 3000);
        self.links.starved.insert(self.servers[server].id, starved);
        let restart = self.rng.between(5, 60);
        self.crash(server, restart);
    }

    /// The leader is cut off, and many write there.
    fn depose(&mut self, lasts: u64) {
        let leads = |server: &Server| server.node.as_ref().is_some_and(|node| node.leadership().leader);
        let Some(server) = self.servers.iter().position(leads) else { return };
        self.counts.deposed += 1;
        let id = self.servers[server].id;
        let others = self.servers.iter().map(|other| other.id).filter(|other| *other != id);
        self.links.cut.extend(others.flat_map(|other| [(id, other), (other, id)]));
        (0..self.rng.between(20, 120)).for_each(|_| self.write_at(server));
        self.after(1500 + lasts, Event::Undo(Undo::Deposed(server)));
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Partition => self.join_network(),
            Undo::Deposed(server) => {
                self.join_network();
                if self.servers[server].runs() && !self.calm {
                    self.servers[server].crash_at = Some(Moment::DuringInstall);
                }
            }
            Undo::Clock(server) => self.servers[server].tick_ms = TICK,
            Undo::SlowDisk(server) => self.servers[server].sync_ms = 0,
            Undo::DiskFull(server) => {
                self.servers[server].disk_fails = false;
                self.start(server);
            }
        }
    }

    fn join_network(&mut self) {
        self.links.cut.clear();
        self.reconnect();
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
