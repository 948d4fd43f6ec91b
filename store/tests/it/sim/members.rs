//! What has to be true while members change, whatever the servers say: entries are committed by majorities of the
//! right voters, leaders elected by them, and a change is made only when it may be.

use raft::eraftpb::ConfChangeType;
use store::{MemberError, NodeId, machine::Position, members::MemberChange, txn::Ticket};

use super::{
    roll::{Change, Config},
    world::World,
};

/// Entries that a learner may lack.
pub(super) const CAUGHT_UP: u64 = 12;
/// Ticks within which a voter must have been heard to count as there.
const THERE_TICKS: u64 = 5;
/// Voters that the operators leave.
pub(super) const FEWEST: usize = 3;

impl World {
    /// A server has done something: what is committed by it, and whether it may lead.
    pub(super) fn follow(&mut self, server: usize) {
        let this = &mut self.servers[server];
        let Some(node) = &this.node else { return };
        let (id, commit, term) = (this.id, node.commit_index(), node.leadership().term);
        let leads = node.is_leader();
        let applied = this.read(|machine| machine.applied().index);
        let before = std::mem::replace(&mut this.followed, applied);
        if !leads {
            return;
        }
        if commit > self.roll.committed() {
            for index in self.roll.committed() + 1..=commit {
                let term = self.servers[server].disk.term_of(index);
                let term = term.unwrap_or_else(|| panic!("leader {id} commits {index}, and has it not"));
                self.roll.commit(term);
            }
            self.check_majority(id, commit, self.roll.between(before, applied));
        }
        let config = self.roll.at(applied);
        assert!(
            config.voters.contains(&id),
            "server {id} leads in term {term}, and is no voter of {config:?}"
        );
        self.promises.elected(id, term, config);
    }

    /// What a leader commits is durable on a majority of the voters that it has to ask.
    fn check_majority<'a>(&self, id: NodeId, commit: u64, mut configs: impl Iterator<Item = &'a Config>) {
        let at = Position { index: commit, term: self.roll.term_of(commit) };
        let holds = |voter: &&NodeId| self.holds(**voter, at);
        let is_right = configs.any(|config| config.is_majority(config.voters.iter().filter(holds).count()));
        assert!(is_right, "leader {id} commits {at:?} without a majority of the voters");
    }

    /// A server that acts as the members say knows who they are after a crash too: those that are gone are not there to
    /// tell it.
    pub(super) fn check_known(&self, server: usize) {
        let this = &self.servers[server];
        let since = self.roll.since(this.applied().unwrap_or(0));
        assert!(
            this.disk.knows(since),
            "server {} has made the change at {since}, and may forget it",
            this.id
        );
    }

    /// Whether an entry is durable on a server.
    fn holds(&self, id: NodeId, at: Position) -> bool {
        self.server_of(id).is_some_and(|server| self.servers[server].disk.holds(at))
    }

    /// A leader proposes changes of membership, having applied so much.
    pub(super) fn judge_proposals(&mut self, server: usize, applied: u64, changes: &[(Position, Change)]) {
        for (at, (kind, id)) in changes {
            let this = &self.servers[server];
            let open = this.disk.changes_between(applied, at.index);
            assert_eq!(open, 0, "leader {} proposes a change at {at:?} while another is under way", this.id);
            if *kind == ConfChangeType::AddNode {
                let reached = self.server_of(*id).map_or(0, |learner| self.servers[learner].disk.reached());
                let lacks = (at.index - 1).saturating_sub(reached);
                let is_there = reached > 0 && lacks <= CAUGHT_UP;
                assert!(is_there, "learner {id} is promoted at {at:?}, and has {reached}");
            }
        }
    }

    /// Voters afterwards, and how many of them this server has heard of a moment ago.
    fn there(&self, server: usize, change: &MemberChange) -> (usize, usize) {
        let this = &self.servers[server];
        let config = self.roll.at(this.applied().unwrap_or(0));
        let heard = |id: NodeId| this.heard.get(&id).is_some_and(|at| this.ticks - at <= THERE_TICKS);
        let voters: Vec<NodeId> = config.voters.iter().copied().filter(|id| *id != change.id()).collect();
        let there = voters.iter().filter(|id| **id == this.id || heard(**id)).count();
        (voters.len(), there)
    }

    /// Whether a server would remove another one, rightly as far as it knows, and leave too few: an operator who saw
    /// all that we see would not ask for it.
    pub(super) fn would_regret(&self, server: usize, change: &MemberChange) -> bool {
        let MemberChange::Remove { id } = change else { return false };
        let config = self.roll.at(self.servers[server].applied().unwrap_or(0));
        let (voters, there) = self.there(server, change);
        let alive = config.voters.iter().filter(|voter| *voter != id && !self.is_dead(**voter)).count();
        config.voters.contains(id) && there > voters / 2 && (voters < FEWEST || alive <= voters / 2)
    }

    /// A server takes or refuses a change.
    pub(super) fn judge_change(
        &mut self,
        server: usize,
        change: &MemberChange,
        result: &Result<Ticket, MemberError>,
    ) {
        let (voters, there) = self.there(server, change);
        let config = self.roll.at(self.servers[server].applied().unwrap_or(0));
        match result {
            Ok(_) if matches!(change, MemberChange::Remove { .. }) => {
                assert!(
                    there > voters / 2,
                    "{change:?} is taken, though of {voters} voters {there} are there"
                );
            }
            Err(MemberError::Quorum { healthy, .. }) if matches!(change, MemberChange::Remove { .. }) => {
                self.counts.unhealthy_removals += 1;
                assert_eq!(
                    *healthy, there,
                    "{change:?} is refused, though of {voters} voters {there} are there"
                );
                assert!(there <= voters / 2);
            }
            Err(MemberError::Behind { .. }) => self.counts.early_promotions += 1,
            Err(MemberError::Busy) => self.counts.second_changes += 1,
            Err(MemberError::Retired { id }) => {
                assert!(*id < config.next_id, "the new id {id} is refused");
                self.counts.retired_ids += 1;
            }
            Err(MemberError::Unknown { id }) => assert!(!config.contains(*id), "{id} is a member"),
            Err(MemberError::Voter { id }) => assert!(config.voters.contains(id), "{id} does not vote"),
            Ok(_) | Err(_) => {}
        }
    }

    /// Whether a server's disk may be lost now: a majority stays, whatever becomes of the changes under way, and knows of
    /// the last one that was made.
    pub(super) fn may_lose(&self, server: usize) -> bool {
        let id = self.servers[server].id;
        let (since, config) = self.roll.last();
        let knows = |voter: &NodeId| {
            self.is_dead(*voter)
                || self.server_of(*voter).is_some_and(|server| self.servers[server].disk.knows(since))
        };
        if !config.voters.iter().filter(|voter| **voter != id).all(knows) {
            return false;
        }
        let survives = |voters: &std::collections::BTreeSet<NodeId>| {
            let alive = voters.iter().filter(|voter| **voter != id && !self.is_dead(**voter)).count();
            alive > voters.len() / 2
        };
        self.roll.possible().iter().all(|config| {
            let mut promoted = config.voters.clone();
            promoted.extend(config.learners.get(&id));
            survives(&config.voters) && survives(&promoted)
        })
    }

    /// Whether a server never comes back.
    pub(super) fn is_dead(&self, id: NodeId) -> bool {
        self.server_of(id).is_none_or(|server| {
            let this = &self.servers[server];
            this.lost || this.rots || this.gone
        })
    }
}
