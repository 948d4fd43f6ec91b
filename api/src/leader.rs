//! What a server that does not lead adds to its refusal: where the leader is. Whoever asked goes there by itself.

use tonic::{Code, Status, metadata::MetadataMap};

/// The metadata with the leader's admin API, `host:port`.
pub const ADMIN: &str = "weir-leader-admin";

/// The metadata with the address at which the leader is reached by agents and workers, `host:port`.
pub const PEERS: &str = "weir-leader-peers";

/// Where the leader is. Empty: not known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leader {
    /// Its id; 0 if there is none.
    pub id: u64,
    /// For agents and workers.
    pub peers: String,
    /// For users and operators.
    pub admin: String,
}

impl Leader {
    /// A refusal that says where to go, or that nobody leads now. `what` is only the leader's to do.
    #[must_use]
    pub fn refusal(&self, code: Code, what: &str) -> Status {
        let text = match self {
            Self { id: 0, .. } => return Status::unavailable(format!("{what}: no leader now, try again")),
            Self { id, admin, .. } if admin.is_empty() => format!("{what}: ask server {id}, which leads"),
            Self { id, admin, .. } => format!("{what}: ask server {id} at {admin}, which leads"),
        };
        let mut metadata = MetadataMap::new();
        for (name, address) in [(ADMIN, &self.admin), (PEERS, &self.peers)] {
            // What is no header is no address either.
            if let Ok(value) = address.parse()
                && !address.is_empty()
            {
                metadata.insert(name, value);
            }
        }
        Status::with_metadata(code, text, metadata)
    }
}

/// Where an agent or a worker should go instead, if a refusal says so.
#[must_use]
pub fn peers_of(status: &Status) -> Option<String> {
    status.metadata().get(PEERS)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_leader() {
        let leader = Leader { id: 2, peers: "b:7072".into(), admin: "b:7070".into() };
        let status = leader.refusal(Code::FailedPrecondition, "server 3 is not removed here");
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(peers_of(&status).as_deref(), Some("b:7072"));
        assert!(status.message().contains("server 2 at b:7070"), "{}", status.message());
    }

    #[test]
    fn without_a_leader_it_is_to_be_tried_again() {
        let status = Leader::default().refusal(Code::FailedPrecondition, "no plans");
        assert_eq!((status.code(), peers_of(&status)), (Code::Unavailable, None));
    }
}
