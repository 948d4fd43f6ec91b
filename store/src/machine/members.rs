//! Who belongs to the cluster, as part of the state.

use super::*;
use crate::{
    NodeId,
    members::{Addresses, Member, MemberChange, MemberError},
};

impl Machine {
    /// The members, in the order of their ids.
    #[must_use]
    pub fn roster(&self) -> Vec<Member> {
        let ids = self.ids();
        ids.map(|id| Member { id, voter: self.votes(id), addresses: self.addresses(id) }).collect()
    }

    /// Where a member is.
    #[must_use]
    pub fn addresses(&self, id: NodeId) -> Addresses {
        let member = self.members.registry.iter().find(|member| member.id == id);
        member.map_or_else(Addresses::default, |member| Addresses {
            peers: member.peers.clone(),
            admin: member.admin.clone(),
        })
    }

    /// Whether a server belongs to the cluster.
    #[must_use]
    pub fn is_member(&self, id: NodeId) -> bool {
        self.lists().into_iter().any(|ids| ids.contains(&id))
    }

    /// The id that the next new server gets.
    #[must_use]
    pub fn next_id(&self) -> NodeId {
        planted!(IdUsedAgain, return self.ids().last().unwrap_or(0) + 1);
        // A state of a version that did not count them yet.
        self.members.next_id.max(self.ids().last().unwrap_or(0) + 1)
    }

    /// Whether the id was a member's and is not any more.
    #[must_use]
    pub fn is_retired(&self, id: NodeId) -> bool {
        // A state of a version that did not count ids retires none.
        id < self.members.next_id && !self.is_member(id)
    }

    /// Whether a change fits to the members that there are. Every server asks this when it applies the change: what is
    /// refused is refused by all.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub fn check_change(&self, change: &MemberChange) -> Result<(), MemberError> {
        let id = change.id();
        match change {
            MemberChange::AddLearner { .. } if self.is_member(id) || id < self.next_id() => {
                Err(MemberError::Retired { id })
            }
            MemberChange::AddLearner { .. } => Ok(()),
            MemberChange::Promote { .. } | MemberChange::Remove { .. } if !self.is_member(id) => {
                Err(MemberError::Unknown { id })
            }
            MemberChange::Promote { .. } if self.votes(id) => Err(MemberError::Voter { id }),
            MemberChange::Remove { .. } if self.members.voters == [id] => Err(MemberError::Last { id }),
            MemberChange::Promote { .. } | MemberChange::Remove { .. } => Ok(()),
        }
    }

    /// Takes over a change of membership: `conf` is who votes and who learns after it.
    pub fn change_members(
        &mut self,
        at: Position,
        conf: wire::Members,
        change: Option<&MemberChange>,
        delta: &mut Delta,
    ) {
        self.change(at, delta, |machine, _| {
            let next_id = machine.next_id();
            let registry = std::mem::take(&mut machine.members.registry);
            machine.members = wire::Members { registry, next_id, ..conf };
            if let Some(MemberChange::AddLearner { id, addresses }) = change {
                machine.members.next_id = next_id.max(id + 1);
                machine.register(*id, addresses);
            }
            let members: Vec<NodeId> = machine.ids().collect();
            machine.members.registry.retain(|member| members.contains(&member.id));
        });
    }

    /// Takes note that an id was given, whatever became of it.
    pub(crate) fn spend_id(&mut self, at: Position, id: NodeId, delta: &mut Delta) {
        self.change(at, delta, |machine, _| machine.members.next_id = machine.next_id().max(id + 1));
    }

    /// A member is elsewhere now.
    pub(super) fn readdress(&mut self, id: NodeId, addresses: &Addresses) -> Outcome {
        if !self.is_member(id) {
            return Outcome::NoMember(MemberError::Unknown { id });
        }
        self.register(id, addresses);
        Outcome::Members
    }

    fn register(&mut self, id: NodeId, addresses: &Addresses) {
        let Addresses { peers, admin } = addresses.clone();
        let registry = &mut self.members.registry;
        registry.retain(|member| member.id != id);
        let place = registry.partition_point(|member| member.id < id);
        registry.insert(place, wire::Member { id, peers, admin });
    }

    /// The state that a new cluster begins with whose only member this server is: all that this one holds, in a new
    /// life.
    #[must_use]
    pub fn reborn(mut self, epoch: Epoch, id: NodeId, addresses: &Addresses) -> Self {
        self.sum.remove(&self.meta_item());
        self.epoch = epoch;
        let next_id = self.next_id().max(id + 1);
        self.members = wire::Members { voters: vec![id], next_id, ..wire::Members::default() };
        self.register(id, addresses);
        let meta = self.meta_item();
        self.sum.add(&meta);
        self
    }

    fn votes(&self, id: NodeId) -> bool {
        self.members.voters.contains(&id)
    }

    /// In their order.
    fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        let mut ids = self.lists().concat();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter()
    }

    /// The last two have something only on the way between two memberships.
    fn lists(&self) -> [&[NodeId]; 4] {
        let wire::Members { voters, learners, voters_outgoing, learners_next, .. } = &self.members;
        [voters, learners, voters_outgoing, learners_next]
    }
}
