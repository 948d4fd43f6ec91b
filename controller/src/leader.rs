//! Who leads, and what is told to those who ask another server.

use api::leader::Leader;
use store::{Handle, Member, MemberError};
use tonic::{Code, Status};

/// Where the leader is, as far as this server knows.
pub(crate) fn of(store: &Handle) -> Leader {
    let Some(id) = store.status().leader else { return Leader::default() };
    let member = store.members().into_iter().find(|member| member.id == id);
    member.map_or(Leader { id, ..Leader::default() }, known)
}

fn known(member: Member) -> Leader {
    Leader { id: member.id, peers: member.addresses.peers, admin: member.addresses.admin }
}

/// That this server leads; if not, whoever asks is told where to go, with this code. `what` is only the leader's to do.
pub(crate) fn lead(store: &Handle, code: Code, what: &str) -> Result<(), Status> {
    match store.is_leader() {
        true => Ok(()),
        // It may have been elected, and not have applied all of the terms before its own.
        false if of(store).id == store.status().node => {
            Err(Status::unavailable(format!("{what}: this server begins to lead, try again")))
        }
        false => Err(of(store).refusal(code, what)),
    }
}

/// Returns when this server does not lead, or has stopped.
pub async fn lost(store: &Handle) {
    let mut leadership = store.leadership();
    // An error: the store has stopped, and leads nothing.
    drop(leadership.wait_for(|leadership| !leadership.leader).await);
}

/// Where agents and workers reach the servers, `host:port` each.
#[must_use]
pub fn peers(store: &Handle) -> Vec<String> {
    addresses(store, |member| member.addresses.peers)
}

/// The members' admin APIs.
pub(crate) fn admins(store: &Handle) -> Vec<String> {
    addresses(store, |member| member.addresses.admin)
}

fn addresses(store: &Handle, of: impl Fn(Member) -> String) -> Vec<String> {
    store.members().into_iter().map(of).filter(|address| !address.is_empty()).collect()
}

/// A refused change of membership as a gRPC status.
pub(crate) fn of_member(store: &Handle, error: MemberError) -> Status {
    let text = error.to_string();
    match error {
        MemberError::NotLeader { leader } => {
            let leader = leader.map_or_else(|| of(store), known);
            leader.refusal(Code::FailedPrecondition, "only the leader changes who belongs to the cluster")
        }
        MemberError::Unknown { .. } => Status::not_found(text),
        MemberError::Retired { .. }
        | MemberError::Voter { .. }
        | MemberError::Behind { .. }
        | MemberError::Last { .. }
        | MemberError::Quorum { .. } => Status::failed_precondition(text),
        MemberError::HandingOver { .. } | MemberError::Busy | MemberError::Stopped => {
            Status::unavailable(text)
        }
        MemberError::Unanswered => Status::deadline_exceeded(text),
    }
}
