//! What waits for one server: bounded, the oldest is lost first.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use super::{BATCH_BYTES, BATCH_MESSAGES, LinkState};
use crate::{NodeId, metric, peer::PeerMessage};

/// The messages to one server, from the driver to its link.
#[derive(Debug)]
pub(super) struct Outbox {
    node: NodeId,
    queue: Mutex<Queue>,
    filled: Notify,
    connected: AtomicBool,
    lost: AtomicU64,
    snapshots: AtomicU64,
}

impl Outbox {
    pub(super) fn new(node: NodeId, messages: usize, bytes: usize) -> Self {
        Self {
            node,
            queue: Mutex::new(Queue::new(messages, bytes)),
            filled: Notify::new(),
            connected: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            snapshots: AtomicU64::new(0),
        }
    }

    /// Puts a message behind the others.
    pub(super) fn push(&self, message: PeerMessage) -> Pushed {
        let pushed = self.queue().push(message);
        self.filled.notify_one();
        self.count_lost(pushed.lost);
        pushed
    }

    /// The next messages, when there are any.
    pub(super) async fn batch(&self) -> Vec<PeerMessage> {
        loop {
            let batch = self.queue().batch();
            if !batch.is_empty() {
                return batch;
            }
            self.filled.notified().await;
        }
    }

    /// Gives up what waits.
    pub(super) fn clear(&self) {
        let lost = self.queue().clear();
        self.count_lost(lost);
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        metrics::gauge!(metric::PEER_CONNECTED, "peer" => self.node.to_string()).set(u8::from(connected));
    }

    pub(super) fn count_snapshot(&self) {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn state(&self) -> LinkState {
        LinkState {
            connected: self.connected.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            snapshots: self.snapshots.load(Ordering::Relaxed),
        }
    }

    fn count_lost(&self, lost: u64) {
        if lost > 0 {
            self.lost.fetch_add(lost, Ordering::Relaxed);
            metrics::counter!(metric::PEER_LOST, "peer" => self.node.to_string()).increment(lost);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics under it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pushed {
    /// Older messages that had to go.
    pub(super) lost: u64,
    /// Whether they are the first to go since a batch was taken.
    pub(super) begins: bool,
}

#[derive(Debug)]
struct Queue {
    messages: VecDeque<(usize, PeerMessage)>,
    bytes: usize,
    max_messages: usize,
    max_bytes: usize,
    overflowing: bool,
}

impl Queue {
    fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self { messages: VecDeque::new(), bytes: 0, max_messages, max_bytes, overflowing: false }
    }

    /// The newest message always stays: one that is larger than the whole outbox would else never leave.
    fn push(&mut self, message: PeerMessage) -> Pushed {
        let size = size(&message);
        let mut lost = 0;
        while self.messages.len() >= self.max_messages || self.bytes + size > self.max_bytes {
            let Some((size, _)) = self.messages.pop_front() else { break };
            self.bytes -= size;
            lost += 1;
        }
        self.bytes += size;
        self.messages.push_back((size, message));
        let begins = lost > 0 && !self.overflowing;
        self.overflowing |= lost > 0;
        Pushed { lost, begins }
    }

    fn batch(&mut self) -> Vec<PeerMessage> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH_BYTES
            && batch.len() < BATCH_MESSAGES
            && let Some((size, message)) = self.messages.pop_front()
        {
            self.bytes -= size;
            bytes += size;
            batch.push(message);
        }
        self.overflowing = false;
        batch
    }

    fn clear(&mut self) -> u64 {
        let lost = self.messages.len() as u64;
        self.messages.clear();
        self.bytes = 0;
        self.overflowing = false;
        lost
    }
}

/// About what it takes on the wire and in memory.
fn size(message: &PeerMessage) -> usize {
    128 + message.entries.iter().map(|entry| entry.payload.len() + 32).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use api::store::Entry;

    use super::*;

    fn message(index: u64, payload: usize) -> PeerMessage {
        let entry = Entry { payload: vec![0; payload].into(), ..Entry::default() };
        PeerMessage { index, entries: vec![entry], ..PeerMessage::default() }
    }

    fn indices(batch: &[PeerMessage]) -> Vec<u64> {
        batch.iter().map(|message| message.index).collect()
    }

    #[test]
    fn the_oldest_go_first_and_it_is_said_once() {
        let mut queue = Queue::new(3, usize::MAX);
        let pushed: Vec<_> = (1..=5).map(|index| queue.push(message(index, 1))).collect();
        assert!(pushed[..3].iter().all(|pushed| *pushed == Pushed { lost: 0, begins: false }));
        assert_eq!(pushed[3..], [Pushed { lost: 1, begins: true }, Pushed { lost: 1, begins: false }]);
        assert_eq!(indices(&queue.batch()), [3, 4, 5]);
        assert_eq!(queue.bytes, 0);
        // Room again, and again none.
        assert_eq!((6..=8).map(|index| queue.push(message(index, 1)).lost).sum::<u64>(), 0);
        assert_eq!(queue.push(message(9, 1)), Pushed { lost: 1, begins: true });
        assert_eq!((queue.clear(), queue.bytes), (3, 0));
        assert!(queue.batch().is_empty());
    }

    #[test]
    fn bytes_are_bounded_but_the_newest_stays() {
        let mut queue = Queue::new(100, 10_000);
        for index in 1..=20 {
            queue.push(message(index, 1000));
            assert!(queue.bytes <= 10_000);
        }
        assert_eq!(queue.push(message(21, 50_000)).lost, 8);
        assert_eq!(indices(&queue.batch()), [21]);
    }

    #[test]
    fn a_batch_is_closed_by_its_bytes_and_by_its_messages() {
        let mut queue = Queue::new(1000, usize::MAX);
        for index in 0..3 {
            queue.push(message(index, BATCH_BYTES / 2));
        }
        assert_eq!([queue.batch().len(), queue.batch().len()], [2, 1]);
        for index in 0..200 {
            queue.push(message(index, 1));
        }
        assert_eq!([queue.batch().len(), queue.batch().len()], [BATCH_MESSAGES, 200 - BATCH_MESSAGES]);
    }

    #[tokio::test]
    async fn who_waits_is_woken_and_what_was_lost_is_counted() {
        let outbox = std::sync::Arc::new(Outbox::new(2, 1, usize::MAX));
        let waits = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.batch().await }
        });
        tokio::task::yield_now().await;
        outbox.push(message(1, 1));
        assert_eq!(indices(&waits.await.unwrap()), [1]);
        for index in 2..=4 {
            outbox.push(message(index, 1));
        }
        outbox.clear();
        assert_eq!(outbox.state(), LinkState { connected: false, lost: 3, snapshots: 0 });
    }
}
