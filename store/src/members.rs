//! Who belongs to the cluster, and how that changes: one server at a time.

use crate::NodeId;

/// Where a server is reached; empty where it never said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// By other servers, agents and workers: `host:port`.
    pub peers: String,
    /// Its admin API: `host:port`.
    pub admin: String,
}

/// One server of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, which no other server had or will have.
    pub id: NodeId,
    /// Whether it votes. One that does not is a learner: it follows, and is promoted when it has caught up.
    pub voter: bool,
    /// Where it is.
    pub addresses: Addresses,
}

/// A change of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// A new server, which does not vote yet.
    AddLearner {
        /// Its id: the next one that was never used.
        id: NodeId,
        /// Where it is.
        addresses: Addresses,
    },
    /// A learner votes from now on.
    Promote {
        /// Which.
        id: NodeId,
    },
    /// A server is none of the cluster's any more.
    Remove {
        /// Which.
        id: NodeId,
    },
}

impl MemberChange {
    /// Whom it is about.
    #[must_use]
    pub fn id(&self) -> NodeId {
        match self {
            Self::AddLearner { id, .. } | Self::Promote { id } | Self::Remove { id } => *id,
        }
    }
}

/// Why a change of membership is not made. Nothing was changed, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// This server does not lead.
    #[error("{}", not_leader(.leader.as_ref()))]
    NotLeader {
        /// Whom to ask instead, if that is known.
        leader: Option<Member>,
    },
    /// The server to be removed leads; it hands leadership over first.
    #[error("server {id} leads and hands leadership over first: ask again in a moment")]
    HandingOver {
        /// Which.
        id: NodeId,
    },
    /// Another change is under way.
    #[error("another change of membership is under way: try again in a moment")]
    Busy,
    /// No member has that id.
    #[error("server {id} is no member of this cluster: see `weir cluster status`")]
    Unknown {
        /// The id.
        id: NodeId,
    },
    /// The id was a member's once.
    #[error("id {id} was used before, and no id is used twice: join again under a new one")]
    Retired {
        /// The id.
        id: NodeId,
    },
    /// It votes already.
    #[error("server {id} votes already")]
    Voter {
        /// Which.
        id: NodeId,
    },
    /// A learner has not caught up.
    #[error("server {id} lacks {entries} entries of the log{}: it is promoted by itself when it has caught up", silent(*.heard))]
    Behind {
        /// Which.
        id: NodeId,
        /// How many entries it lacks.
        entries: u64,
        /// Whether it was heard of lately.
        heard: bool,
    },
    /// The last voter cannot go.
    #[error("server {id} is the only voter: without it there is no cluster")]
    Last {
        /// Which.
        id: NodeId,
    },
    /// Afterwards no majority of the voters would be there.
    #[error(
        "of the {voters} voters that there would be only {healthy} answer, and {needed} are needed: nothing could be written \
         any more. Bring the others back first, or remove those that are down"
    )]
    Quorum {
        /// Voters afterwards.
        voters: usize,
        /// Of them, those that were heard of lately.
        healthy: usize,
        /// A majority.
        needed: usize,
    },
    /// It was proposed and not answered in time: it may still be made.
    #[error("not answered in time: the change may still be made; see `weir cluster status`")]
    Unanswered,
    /// The store is shut down.
    #[error("the store is shut down")]
    Stopped,
}

fn not_leader(leader: Option<&Member>) -> String {
    match leader {
        Some(Member { id, addresses, .. }) if !addresses.admin.is_empty() => {
            format!("server {id} leads: ask it at {}", addresses.admin)
        }
        Some(Member { id, .. }) => format!("server {id} leads: ask it"),
        None => "no leader: try again".to_owned(),
    }
}

fn silent(heard: bool) -> &'static str {
    if heard { "" } else { " and does not answer" }
}
