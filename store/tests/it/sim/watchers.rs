//! Readers that watch a prefix: on one server, then on another, over restarts and compactions. The cursor is the one
//! inside [`store::Watch`]; only its clock is another.

use store::{
    Compacted, Key, Revision,
    watch::{Cursor, Look},
};

use super::{
    faults::Kind,
    world::{Event, World},
};

/// Records looked at in one piece: few, so that pieces end everywhere.
const SCAN: usize = 3;
/// Milliseconds between bookmarks.
const BOOKMARK: u64 = 1000;

pub(super) struct Watcher {
    prefix: &'static str,
    server: usize,
    cursor: Cursor,
    bookmark_at: u64,
    /// A slow reader looks now and then only.
    slow: bool,
}

impl Watcher {
    pub(super) fn position(&self) -> Revision {
        self.cursor.position()
    }
}

impl World {
    pub(super) fn begin_watch(&mut self) {
        let prefix = *self.rng.pick(&["", "a/", "b/", "a/1"]);
        let (server, slow) = (self.any_server(), self.rng.one_in(3));
        let cursor = Cursor::new(Key::from(prefix), Revision(1));
        self.watchers.push(Watcher { prefix, server, cursor, bookmark_at: 0, slow });
        self.after(100, Event::Look(self.watchers.len() - 1));
    }

    /// A reader's own time to look, and to go to another server.
    pub(super) fn look(&mut self, watcher: usize) {
        let delay = if self.watchers[watcher].slow { self.rng.between(500, 6000) } else { 250 };
        self.after(delay, Event::Look(watcher));
        let this = &self.watchers[watcher];
        let has_gone = !self.servers[this.server].runs();
        if has_gone || (self.is_on(Kind::MoveWatches) && self.rng.one_in(12)) {
            let to = self.any_server();
            self.resume_watch(watcher, to);
        }
        self.read_watch(watcher);
    }

    /// Readers that are quick look whenever the state of their server changes.
    pub(super) fn look_all(&mut self, server: usize) {
        for watcher in 0..self.watchers.len() {
            let this = &self.watchers[watcher];
            if this.server == server && !this.slow {
                self.read_watch(watcher);
            }
        }
    }

    /// The server has gone: its watches resume elsewhere, or wait for it.
    pub(super) fn move_watches(&mut self, server: usize) {
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].server == server {
                let to = if self.rng.one_in(2) { self.any_server() } else { server };
                self.resume_watch(watcher, to);
            }
        }
    }

    fn resume_watch(&mut self, watcher: usize, server: usize) {
        self.counts.resumes += 1;
        let this = &mut self.watchers[watcher];
        this.server = server;
        this.cursor = Cursor::new(Key::from(this.prefix), this.cursor.position());
    }

    fn read_watch(&mut self, watcher: usize) {
        let this = &mut self.watchers[watcher];
        let server = &self.servers[this.server];
        if !server.is_readable() {
            return;
        }
        loop {
            let from = this.cursor.position();
            let is_due = self.now >= this.bookmark_at;
            match server.read(|machine| this.cursor.look(machine, SCAN, is_due)) {
                Ok(Look::Tell(batch)) => {
                    self.ledger.told(this.prefix, from, &batch);
                    let applied = server.read(store::machine::Machine::revision);
                    assert!(batch.revision <= applied, "told {}, the server has {applied}", batch.revision);
                    let after = Revision(batch.revision.0 + 1);
                    assert_eq!(this.cursor.position(), after, "a watch resumes after what it was told");
                    this.bookmark_at = self.now + BOOKMARK;
                    self.counts.watched += u64::from(!batch.is_bookmark());
                    self.counts.bookmarks += u64::from(batch.is_bookmark());
                }
                Ok(Look::Again) => {}
                Ok(Look::Wait) => return,
                Err(Compacted { compacted }) => {
                    self.ledger.refused(from, compacted);
                    self.counts.relists += 1;
                    let (entries, at) =
                        server.read(|machine| (machine.list(this.prefix), machine.revision()));
                    self.ledger.read(this.prefix, &entries, at, compacted);
                    this.cursor = Cursor::new(Key::from(this.prefix), Revision(at.0 + 1));
                }
            }
        }
    }
}
