//! Proposals, until they are applied: a change of leader loses those that were on their way, and they are made again.
//!
//! That is safe because a request is applied once: the copy that comes second is answered as the first was. It spares
//! every writer the wait for a time-out, and most of them an answer that says nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};

use super::{Node, NotProposed};
use crate::txn::{Command, Ticket};

/// Proposals that are not applied yet, by their ticket's number. Whoever proposes bounds how many there are.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pending: BTreeMap<u64, Pending>,
    /// No pending one was made last in an earlier term than this.
    since: u64,
}

#[derive(Debug)]
struct Pending {
    payload: Bytes,
    /// Made last in this term.
    term: u64,
}

impl Writes {
    /// All of them may have been lost on their way.
    pub(super) fn lost(&mut self) {
        self.pending.values_mut().for_each(|pending| pending.term = 0);
        self.since = 0;
    }

    /// A command was applied.
    pub(super) fn settle(&mut self, ticket: Ticket, origin: u64) {
        if ticket.origin == origin {
            self.pending.remove(&ticket.number);
        }
    }
}

impl Node {
    /// Puts a command into the log. Its ticket comes back with the [`Effects`](super::Effects) that apply it. One that a
    /// change of leader loses is proposed again, until [`Node::forget_write`].
    ///
    /// # Errors
    ///
    /// If it certainly did not enter the log.
    pub fn propose(&mut self, command: &Command) -> Result<Ticket, NotProposed> {
        let ticket = Ticket { origin: self.config.origin, number: self.proposals };
        self.proposals += 1;
        let payload = Bytes::from(command.encode(ticket));
        self.put(payload.clone())?;
        // History is compacted again by itself.
        if !matches!(command, Command::Compact { .. }) {
            let term = self.raw.raft.term;
            self.writes.pending.insert(ticket.number, Pending { payload, term });
        }
        Ok(ticket)
    }

    /// The caller waits no longer.
    pub fn forget_write(&mut self, number: u64) {
        self.writes.pending.remove(&number);
    }

    /// Proposes again what was proposed in an earlier term: its leader may have taken it with it.
    pub(super) fn propose_again(&mut self) {
        let term = self.raw.raft.term;
        if self.writes.since >= term || self.leader().is_none() {
            return;
        }
        let old = self.writes.pending.iter().filter(|(_, pending)| pending.term < term);
        let old: Vec<(u64, Bytes)> =
            old.map(|(number, pending)| (*number, pending.payload.clone())).collect();
        for (number, payload) in old {
            if self.put(payload).is_err() {
                // The rest in the next turn.
                return;
            }
            if let Some(pending) = self.writes.pending.get_mut(&number) {
                pending.term = term;
            }
        }
        self.writes.since = term;
    }

    /// As raft proposes, but without a copy of the payload.
    fn put(&mut self, payload: Bytes) -> Result<(), NotProposed> {
        let entry = Entry { data: payload, ..Entry::default() };
        let mut message = Message { from: self.config.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        match self.raw.raft.step(message) {
            Ok(()) => Ok(()),
            Err(_) if self.leader().is_some() => Err(NotProposed::Busy),
            Err(_) => Err(NotProposed::NoLeader),
        }
    }
}
