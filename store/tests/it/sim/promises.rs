//! What has to be true of what servers say to each other: nothing is promised before it is durable, a server votes
//! once a term, a term has one leader, and who leads knows all that was acknowledged before.

use std::collections::BTreeMap;

use store::{NodeId, Revision, disk::HardState, node::Node, peer::PeerMessage};

use super::{disk::Durable, roll::Config};

/// Numbers of raft's kinds of messages, as they are on the wire.
const APPEND_RESPONSE: u32 = 4;
const VOTE_RESPONSE: u32 = 6;
pub(super) const SNAPSHOT: u32 = 7;
pub(super) const READ_RESPONSE: u32 = 16;

#[derive(Default)]
pub(super) struct Promises {
    /// By term.
    leaders: BTreeMap<u64, Leader>,
    /// By server and term.
    votes: BTreeMap<(NodeId, u64), NodeId>,
    /// The newest term of each server's in which it is known to be elected rightly.
    elected: BTreeMap<NodeId, u64>,
}

struct Leader {
    id: NodeId,
    /// What had been acknowledged when it was elected.
    floor: Revision,
}

impl Promises {
    /// A message leaves a server whose disk holds this.
    pub(super) fn sent(&mut self, message: &PeerMessage, durable: Durable) {
        let PeerMessage { from, to, term, .. } = *message;
        let kept = durable.hard_state;
        match message.kind {
            _ if message.reject => {}
            APPEND_RESPONSE => {
                let (index, last) = (message.index, durable.last);
                assert!(index <= last, "server {from} promised entry {index}, its disk ends at {last}");
            }
            VOTE_RESPONSE => {
                let is_kept = kept.term > term || (kept.term == term && kept.vote == to);
                assert!(
                    is_kept,
                    "server {from} promised its vote in term {term} to {to}, its disk has {kept:?}"
                );
                let voted = *self.votes.entry((from, term)).or_insert(to);
                assert_eq!(voted, to, "server {from} votes twice in term {term}");
            }
            _ => {}
        }
    }

    /// A server leads in a term, with these members.
    pub(super) fn elected(&mut self, id: NodeId, term: u64, config: &Config) {
        if self.elected.insert(id, term) == Some(term) {
            return;
        }
        let votes = |voter: &&NodeId| **voter == id || self.votes.get(&(**voter, term)) == Some(&id);
        let voters = config.voters.iter().filter(votes).count();
        assert!(config.is_majority(voters), "{id} leads in term {term} by {voters} votes of {config:?}");
    }

    /// A server writes promises where its disk holds these.
    pub(super) fn written(id: NodeId, kept: HardState, new: HardState) {
        assert!(new.term >= kept.term, "server {id} goes back to term {}", new.term);
        let is_kept = new.term > kept.term || kept.vote == 0 || new.vote == kept.vote;
        assert!(is_kept, "server {id} takes back its vote: {kept:?}, then {new:?}");
    }

    /// A server shows who it is.
    pub(super) fn observe(&mut self, id: NodeId, node: &Node, revision: Revision, acknowledged: Revision) {
        let leadership = node.leadership();
        if node.leader() == Some(id) {
            let new = || Leader { id, floor: acknowledged };
            let leader = self.leaders.entry(leadership.term).or_insert_with(new);
            assert_eq!(leader.id, id, "two leaders in term {}", leadership.term);
            let ready = !leadership.leader || revision >= leader.floor;
            assert!(ready, "leader {id} acts at {revision}, though {} was acknowledged before", leader.floor);
        }
    }

    pub(super) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }
}
