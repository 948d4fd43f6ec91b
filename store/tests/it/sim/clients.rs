//! Users: each does one thing after another, tries again with the same request id, on another server, and is told
//! the truth or nothing.

use store::{Entry, Key, Outcome, Read, ReadError, Revision, Txn, TxnError};

use super::{
    faults::Kind,
    world::{Event, World},
};

/// Times that a client tries before it does something else.
const ATTEMPTS: u32 = 6;

/// Who can be told nothing for so long, milliseconds, has lost patience.
const PATIENCE: u64 = 2500;

#[derive(Default)]
pub(super) struct Client {
    /// What it waits for.
    pub(super) call: Option<usize>,
    pub(super) server: usize,
    /// The newest revision it knows of.
    known: Revision,
    /// Its writes that were answered.
    pub(super) writes: u64,
    /// It stays with its server until then, and reads.
    pub(super) reads_until: u64,
    /// It begins nothing new.
    pub(super) ends: bool,
}

/// One operation, however often it is tried.
pub(super) struct Call {
    client: usize,
    pub(super) want: Want,
    attempt: u32,
    /// What had been answered when it began.
    floor: Revision,
    /// It was made with an id that another's transaction had.
    reuses: bool,
    /// The revision that it was told.
    told: Option<Revision>,
}

#[derive(Clone)]
pub(super) enum Want {
    Txn(Txn),
    Read { prefix: &'static str, how: Read },
    Compact(Revision),
}

pub(super) enum Answer {
    Write(Result<Outcome, TxnError>),
    Read(Result<(Vec<Entry>, Revision), ReadError>),
}

impl World {
    /// A client begins something new.
    pub(super) fn think(&mut self, client: usize) {
        if self.clients[client].call.is_some() || self.clients[client].ends {
            return;
        }
        let (want, reuses) = self.draw(client);
        let floor = self.ledger.floor();
        self.calls.push(Call { client, want, attempt: 0, floor, reuses, told: None });
        let call = self.calls.len() - 1;
        self.clients[client].call = Some(call);
        let is_free = self.now >= self.clients[client].reads_until;
        let is_gone = self.servers[self.clients[client].server].gone;
        if is_gone || (is_free && self.rng.one_in(5)) {
            self.clients[client].server = self.any_server();
        }
        self.try_call(call);
    }

    /// Somebody writes on a server, and waits for no answer.
    pub(super) fn write_at(&mut self, server: usize) {
        let want = Want::Txn(self.draw_txn());
        let floor = self.ledger.floor();
        self.calls.push(Call { client: 0, want, attempt: 1, floor, reuses: false, told: None });
        let call = self.calls.len() - 1;
        self.after(1, Event::Ask { call, attempt: 1, server });
    }

    fn try_call(&mut self, call: usize) {
        let this = &mut self.calls[call];
        this.attempt += 1;
        let (attempt, server) = (this.attempt, self.clients[this.client].server);
        self.counts.retries += u64::from(attempt > 1);
        let delay = self.rng.between(1, 5);
        self.after(delay, Event::Ask { call, attempt, server });
        self.after(PATIENCE, Event::Patience { call, attempt });
    }

    pub(super) fn ask(&mut self, call: usize, attempt: u32, server: usize) {
        let this = &self.servers[server];
        if this.runs() {
            let run = this.run;
            return self.give(server, run, super::server::Input::Ask { call, attempt });
        }
        let answer = match &self.calls[call].want {
            Want::Read { .. } => Answer::Read(Err(ReadError::Stopped)),
            Want::Txn(_) | Want::Compact(_) => Answer::Write(Err(TxnError::Stopped)),
        };
        self.after(3, Event::Reply { call, attempt, answer });
    }

    /// An answer arrives: also one that nobody waits for any more has to be true.
    pub(super) fn reply(&mut self, call: usize, attempt: u32, answer: &Answer) {
        let is_final = match answer {
            Answer::Write(answer) => self.judge_write(call, attempt, answer),
            Answer::Read(answer) => self.judge_read(call, answer),
        };
        let this = &self.calls[call];
        if self.clients[this.client].call != Some(call) {
            return;
        }
        if is_final {
            self.finish(call);
        } else if this.attempt == attempt {
            self.try_again(call);
        }
    }

    pub(super) fn lose_patience(&mut self, call: usize, attempt: u32) {
        let this = &self.calls[call];
        if self.clients[this.client].call == Some(call) && this.attempt == attempt {
            self.try_again(call);
        }
    }

    fn try_again(&mut self, call: usize) {
        let this = &self.calls[call];
        let (client, attempt) = (this.client, this.attempt);
        if attempt >= ATTEMPTS && !self.calm {
            return self.finish(call);
        }
        if self.now >= self.clients[client].reads_until {
            self.clients[client].server = self.any_server();
        }
        self.try_call(call);
    }

    fn finish(&mut self, call: usize) {
        let client = self.calls[call].client;
        self.clients[client].call = None;
        let pause = self.rng.between(1, self.plan.think_ms);
        self.after(pause, Event::Think(client));
    }

    /// Whether a write's answer is the last word; that it is true.
    fn judge_write(&mut self, call: usize, attempt: u32, answer: &Result<Outcome, TxnError>) -> bool {
        let Call { client, floor, reuses, told, attempt: attempts, .. } = self.calls[call];
        let outcome = match answer {
            // Of a copy, on a server that was sent a snapshot with the first one's refusal in it.
            Ok(Outcome::Expired) => return false,
            Ok(outcome) => outcome,
            Err(TxnError::Unknown | TxnError::NoLeader | TxnError::Busy | TxnError::Stopped) => return false,
            Err(other) => panic!("{other}"),
        };
        let Want::Txn(txn) = &self.calls[call].want else {
            let Outcome::Compacted(through) = *outcome else {
                panic!("a compaction is answered {outcome:?}")
            };
            self.ledger.refused(Revision(0), through);
            return true;
        };
        let id = txn.request_id.clone();
        assert!(!reuses || *outcome == Outcome::RequestIdReused, "{id}, another's, is answered {outcome:?}");
        match outcome {
            Outcome::Committed(revision) | Outcome::Duplicate(revision) => {
                assert_eq!(told.unwrap_or(*revision), *revision, "{id} has two revisions");
                self.ledger.acknowledge(&id, *revision, floor);
                self.calls[call].told = Some(*revision);
                self.clients[client].known = self.clients[client].known.max(*revision);
                self.clients[client].writes += u64::from(told.is_none());
                self.counts.committed += u64::from(matches!(outcome, Outcome::Committed(_)));
                self.counts.duplicates += u64::from(matches!(outcome, Outcome::Duplicate(_)));
            }
            Outcome::Conflict { key, expected, actual } => {
                self.ledger.conflict(&id, key, (*expected, *actual), floor);
                if attempt == 1 && attempts == 1 {
                    self.ledger.refuse(&id);
                }
                self.counts.conflicts += 1;
            }
            Outcome::RequestIdReused => {
                assert!(reuses, "{id} is told to be another's");
                self.counts.reused_ids += 1;
            }
            other => panic!("{id} is answered {other:?}"),
        }
        true
    }

    /// Whether a read's answer is the last word; that it is true.
    fn judge_read(&mut self, call: usize, answer: &Result<(Vec<Entry>, Revision), ReadError>) -> bool {
        let Call { client, floor, .. } = self.calls[call];
        let Want::Read { prefix, how } = self.calls[call].want else {
            panic!("a write is answered as a read")
        };
        let (entries, revision) = match answer {
            Ok((entries, revision)) => (entries, *revision),
            Err(ReadError::Compacted(gone)) => {
                let Read::At(at) = how else { panic!("{how:?} is told that history is gone") };
                self.ledger.refused(Revision(at.0 + 1), gone.compacted);
                return true;
            }
            Err(ReadError::NoLeader | ReadError::Stopped | ReadError::Behind { .. }) => return false,
            Err(other) => panic!("{other}"),
        };
        let least = match how {
            Read::Linearizable => floor,
            Read::AtLeast(revision) | Read::At(revision) => revision,
            Read::Local => Revision(0),
        };
        self.ledger.read(prefix, entries, revision, least);
        if matches!(how, Read::At(_)) {
            assert_eq!(revision, least, "a read of one revision");
        } else {
            self.clients[client].known = self.clients[client].known.max(revision);
        }
        if matches!(how, Read::Linearizable) {
            self.ledger.raise(revision);
            self.counts.linearizable_reads += 1;
        } else {
            self.counts.other_reads += 1;
        }
        true
    }

    /// What a client does next, and whether it uses another's request id.
    fn draw(&mut self, client: usize) -> (Want, bool) {
        let known = self.clients[client].known;
        let prefix = *self.rng.pick(&["", "a/", "b/"]);
        let wish = if self.now < self.clients[client].reads_until { 60 } else { self.rng.below(100) };
        match wish {
            0..55 => (Want::Txn(self.draw_txn()), false),
            55..57 => match self.draw_reuse() {
                Some(txn) => (Want::Txn(txn), true),
                None => (Want::Txn(self.draw_txn()), false),
            },
            57..84 => (Want::Read { prefix, how: Read::Linearizable }, false),
            84..90 => (Want::Read { prefix, how: Read::AtLeast(known) }, false),
            90..95 => {
                let back = self.rng.below(known.0.min(30) + 1);
                (Want::Read { prefix, how: Read::At(Revision(known.0 - back)) }, false)
            }
            95..97 if self.is_on(Kind::Compact) => {
                let back = self.rng.below(known.0.min(12) + 1);
                (Want::Compact(Revision(known.0 - back)), false)
            }
            _ => (Want::Read { prefix, how: Read::Local }, false),
        }
    }

    /// Some changes of a few keys; often with compares, of which most held a moment ago.
    fn draw_txn(&mut self) -> Txn {
        let id = format!("r{}", self.calls.len());
        let mut keys: Vec<Key> =
            (0..4).flat_map(|n| [format!("a/{n}"), format!("b/{n}")]).map(Key::from).collect();
        let mut txn = Txn { request_id: id.clone(), ..Txn::new("sim").note(id.clone()) };
        let changed = if self.rng.one_in(40) { 0 } else { self.rng.between(1, 4) };
        let compared = if self.rng.one_in(2) { 0 } else { self.rng.between(1, 3) };
        for _ in 0..compared {
            let key = self.rng.pick(&keys).clone();
            if txn.compares.iter().any(|compare| compare.key == key) {
                continue;
            }
            let now = self.ledger.mod_revision(&key);
            let guess = match self.rng.below(8) {
                0 | 1 => Revision(0),
                2 => Revision(self.rng.below(self.ledger.newest().0 + 1)),
                _ => now,
            };
            txn = txn.compare(key, guess);
        }
        for _ in 0..changed {
            let key = keys.swap_remove(self.rng.index(keys.len()));
            txn = if self.rng.one_in(4) {
                txn.delete(key)
            } else {
                let size = if self.rng.one_in(20) { 900 } else { 0 };
                let value = format!("{id} {key} {}", "x".repeat(size));
                txn.put(key, value)
            };
        }
        txn
    }

    /// Another transaction with the id of one that was acknowledged.
    fn draw_reuse(&mut self) -> Option<Txn> {
        let from = self.calls.len().saturating_sub(30);
        let used = self.calls[from..].iter().find_map(|call| match &call.want {
            Want::Txn(txn) => call.told.map(|_| txn.clone()),
            _ => None,
        })?;
        let other = Txn { request_id: used.request_id, ..self.draw_txn() };
        (other.ops != used.ops).then_some(other)
    }
}
