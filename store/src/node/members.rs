//! Changes of membership: what the leader checks before it proposes one, and whom it promotes by itself.

use std::collections::BTreeMap;

use api::store as wire;
use raft::{RawNode, StateRole, eraftpb};

use super::{ELECTION_TICKS, Node, log::Log};
use crate::{
    NodeId,
    machine::Machine,
    members::{MemberChange, MemberError},
    peer::{change_to_raft, members_from_raft},
    txn::Ticket,
};

/// Ticks without a word after which a server counts as down: a leader that lives is heard each tick, a follower
/// answers it.
const SILENT_TICKS: u32 = 2 * TICKS;
#[expect(clippy::cast_possible_truncation, reason = "ten")]
const TICKS: u32 = ELECTION_TICKS as u32;

/// Ticks within which a voter must have been heard to count as there when a majority is asked for. A follower answers
/// each tick: one that died a moment ago must not carry a change after which it is needed. One that only stood still for
/// a moment costs a refusal, and the change is asked for again.
const THERE_TICKS: u32 = 5;

/// When the other servers were heard last, in ticks ago.
#[derive(Debug, Default)]
pub(super) struct Heard(BTreeMap<NodeId, u32>);

impl Heard {
    pub(super) fn tick(&mut self) {
        self.0.values_mut().for_each(|ticks| *ticks += 1);
        // Bounded by who speaks: strangers and the removed are forgotten.
        self.0.retain(|_, ticks| *ticks <= SILENT_TICKS);
    }

    pub(super) fn from(&mut self, node: NodeId) {
        self.0.insert(node, 0);
    }

    fn within(&self, node: NodeId, ticks: u32) -> bool {
        self.0.get(&node).is_some_and(|ago| *ago <= ticks)
    }
}

/// Tells raft of a change that is applied; who belongs to the cluster then.
pub(super) fn tell(
    raw: &mut RawNode<Log>,
    change: &eraftpb::ConfChangeV2,
    what: Option<&MemberChange>,
    before: &wire::Members,
) -> raft::Result<wire::Members> {
    planted!(LearnersVote, return learners_vote(raw, change, what, before));
    if planted!(RemovedStays)
        && let Some(what @ MemberChange::Remove { .. }) = what
    {
        return Ok(crate::planted::members_after(before, what));
    }
    Ok(members_from_raft(&raw.apply_conf_change(change)?))
}

/// A planted bug.
fn learners_vote(
    raw: &mut RawNode<Log>,
    change: &eraftpb::ConfChangeV2,
    what: Option<&MemberChange>,
    before: &wire::Members,
) -> raft::Result<wire::Members> {
    let mut wrong = change.clone();
    if matches!(what, Some(MemberChange::AddLearner { .. })) {
        wrong.changes[0].change_type = eraftpb::ConfChangeType::AddNode;
    }
    let members = members_from_raft(&raw.apply_conf_change(&wrong)?);
    Ok(what.map_or(members, |what| crate::planted::members_after(before, what)))
}

impl Node {
    /// Puts a change of membership into the log. Its ticket comes back as [`propose`](Node::propose)'s does.
    ///
    /// # Errors
    ///
    /// If this server does not lead, or the change must not be made now; nothing was proposed.
    pub fn change_members(&mut self, change: &MemberChange) -> Result<Ticket, MemberError> {
        self.check_leads()?;
        self.read_machine(|machine| machine.check_change(change))?;
        planted!(TwoChangesAtOnce, self.raw.raft.pending_conf_index = 0);
        if self.raw.raft.has_pending_conf() {
            return Err(MemberError::Busy);
        }
        let id = change.id();
        match change {
            MemberChange::AddLearner { .. } => {}
            MemberChange::Promote { .. } => {
                let (entries, follows) = self.lacks(id);
                let heard = self.heard.within(id, SILENT_TICKS);
                let is_behind = entries > self.config.caught_up_entries || !follows || !heard;
                if is_behind && !planted!(PromotedBehind) {
                    return Err(MemberError::Behind { id, entries, heard });
                }
                self.check_quorum(|voters| voters.push(id))?;
            }
            MemberChange::Remove { .. } => {
                let healthy = self.check_quorum(|voters| voters.retain(|voter| *voter != id));
                if !planted!(RemovalUnchecked) {
                    healthy?;
                }
                if id == self.config.id {
                    self.transfer();
                    return Err(MemberError::HandingOver { id });
                }
            }
        }
        let ticket = Ticket { origin: self.config.origin, number: self.proposals };
        let proposed = self.raw.propose_conf_change(Vec::new(), change_to_raft(change, ticket));
        proposed.map_err(|_| MemberError::Busy)?;
        self.proposals += 1;
        Ok(ticket)
    }

    /// Promotes a learner that has caught up: nobody should have to wait for that.
    pub(super) fn promote_learners(&mut self) {
        planted!(LearnerForgotten, return);
        if self.raw.raft.state != StateRole::Leader || self.raw.raft.has_pending_conf() {
            return;
        }
        for id in self.read_machine(|machine| machine.members().learners.clone()) {
            if let Ok(ticket) = self.change_members(&MemberChange::Promote { id }) {
                tracing::info!(id, ?ticket, "a server has caught up: it is to vote");
                return;
            }
        }
    }

    /// A leader that has applied its own removal leads nobody: the others refuse what it says. (It hands leadership over
    /// before it proposes that; another leader's proposal may come to it with the leadership.) Returns what it still had to
    /// say as a leader.
    pub(super) fn step_down_if_removed(&mut self) -> Vec<eraftpb::Message> {
        planted!(RemovedLeads, return Vec::new());
        let id = self.config.id;
        if self.is_leader() && !self.read_machine(|machine| machine.members().voters.contains(&id)) {
            tracing::info!(id, "this server was removed: it leads no more");
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
            // raft takes it for a mistake if one that does not lead has them.
            return std::mem::take(&mut self.raw.raft.msgs);
        }
        Vec::new()
    }

    fn check_leads(&self) -> Result<(), MemberError> {
        if self.leadership().leader {
            return Ok(());
        }
        let leader = self.leader().filter(|leader| *leader != self.config.id);
        let roster = self.read_machine(Machine::roster);
        let leader = leader.and_then(|leader| roster.into_iter().find(|member| member.id == leader));
        Err(MemberError::NotLeader { leader })
    }

    /// Entries of the log that a server lacks, and whether it has any: of one that has not answered yet, and may wait for
    /// a snapshot, nothing is known.
    fn lacks(&self, id: NodeId) -> (u64, bool) {
        let last = self.raw.raft.raft_log.last_index();
        let matched = self.raw.raft.prs().get(id).map_or(0, |progress| progress.matched);
        (last - matched.min(last), matched > 0)
    }

    /// Whether another server was heard of a moment ago.
    pub(super) fn is_there(&self, id: NodeId) -> bool {
        self.heard.within(id, THERE_TICKS)
    }

    /// Whether a majority of the voters that there would be is there.
    fn check_quorum(&self, change: impl FnOnce(&mut Vec<NodeId>)) -> Result<(), MemberError> {
        let mut voters = self.read_machine(|machine| machine.members().voters.clone());
        change(&mut voters);
        let there = |id: &&NodeId| **id == self.config.id || self.is_there(**id);
        let healthy = voters.iter().filter(there).count();
        let (voters, needed) = (voters.len(), voters.len() / 2 + 1);
        if healthy < needed { Err(MemberError::Quorum { voters, healthy, needed }) } else { Ok(()) }
    }
}
