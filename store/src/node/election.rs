//! A second try for an election that nobody won.
//!
//! raft waits for a whole election timeout again when votes were split, or were refused because the other server had
//! heard the leader a tick longer. An election takes milliseconds: a server that still knows no leader a few ticks later
//! stands once more. Once only: where disks or networks are too slow for that, timeouts are what keeps servers apart.

use raft::{INVALID_ID, StateRole};

use super::Node;

/// The fewest ticks without a leader after which a server stands again.
const AGAIN_TICKS: u64 = 3;
/// Over so many ticks the servers are spread. By id and term, not by chance: two with neighbouring ids never stand in
/// the same tick, and which one is first changes.
const SPREAD: u64 = 5;

impl Node {
    /// To be called at each tick.
    pub(super) fn stand_again(&mut self) {
        let raft = &self.raw.raft;
        if raft.leader_id != INVALID_ID || raft.state == StateRole::Leader {
            self.leaderless = 0;
            return;
        }
        self.leaderless += 1;
        let turn = AGAIN_TICKS + (self.config.id + raft.term) % SPREAD;
        if self.leaderless == turn && raft.promotable() {
            // An error: there are changes of membership to apply before.
            self.raw.campaign().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        NodeId,
        disk::{Disk as _, MemDisk},
        image,
        node::tests::{config, genesis},
        peer::PeerMessage,
    };

    /// Three servers that hear each other at once, and whose timeouts end in the same tick.
    struct Servers(Vec<(Node, MemDisk)>);

    impl Servers {
        fn new() -> Self {
            let server = |id| {
                let disk = genesis(vec![1, 2, 3]);
                let recovered = disk.recover();
                let config = crate::node::NodeConfig { id, election_ticks: Some(12), ..config() };
                let machine = image::decode(&recovered.snapshot).unwrap();
                (Node::new(config, &recovered, machine).unwrap(), disk)
            };
            Self((1..=3).map(server).collect())
        }

        /// One tick, and all that follows from it.
        fn tick(&mut self) {
            self.0.iter_mut().for_each(|(node, _)| node.tick());
            loop {
                let mut messages: Vec<PeerMessage> = Vec::new();
                for (node, disk) in &mut self.0 {
                    while let Some(mut turn) = node.turn() {
                        messages.extend(turn.messages());
                        disk.append(turn.batch()).unwrap();
                        messages.extend(turn.persisted().unwrap().messages);
                    }
                }
                if messages.is_empty() {
                    return;
                }
                for message in messages {
                    let to = self.0.iter_mut().find(|(node, _)| node.config.id == message.to);
                    if let Some((node, _)) = to {
                        node.step(message).unwrap();
                    }
                }
            }
        }

        fn leader(&self) -> Option<NodeId> {
            self.0.iter().find(|(node, _)| node.is_leader()).map(|(node, _)| node.config.id)
        }

        /// Ticks until somebody leads.
        fn elect(&mut self, most: u64) -> u64 {
            let taken = (1..=most).find(|_| {
                self.tick();
                self.leader().is_some()
            });
            taken.expect("nobody leads")
        }
    }

    #[test]
    fn servers_that_stand_in_the_same_tick_do_not_stay_without_a_leader() {
        let mut servers = Servers::new();
        servers.elect(AGAIN_TICKS + SPREAD);
        for _ in 0..20 {
            servers.tick();
        }
        let first = servers.leader().unwrap();
        servers.0.retain(|(node, _)| node.config.id != first);
        // Both stand in the twelfth, each has its own vote, and without a second try both would wait for the next twelfth.
        let taken = servers.elect(12 + AGAIN_TICKS + SPREAD);
        assert!(taken > 12, "votes were not split: {taken} ticks");
    }
}
