//! Linearizable reads by ReadIndex: a leader confirms by a round of heartbeats that it leads, and the read waits
//! until what was committed then is applied here.
//!
//! raft drops such requests without a word (no leader, a leader that has not committed in its term yet, a lost
//! message), so each is asked again, with a new context: an answer to an old one may be older than the read.

use bytes::Bytes;
use raft::ReadState;

/// A read that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(u64);

/// Ticks after which a read is asked again.
const RETRY_TICKS: u32 = 5;

#[derive(Debug)]
pub(super) struct Reads {
    origin: u64,
    next_id: u64,
    next_context: u64,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: ReadId,
    stage: Stage,
}

/// New -> Asked -> Confirmed; Asked -> New when it was not answered in time.
#[derive(Debug)]
enum Stage {
    /// Not asked since it came or since the last try.
    New,
    /// Asked in this context, so many ticks ago.
    Asked { context: u64, ticks: u32 },
    /// May be answered when this entry is applied.
    Confirmed { index: u64 },
}

impl Reads {
    pub(super) fn new(origin: u64) -> Self {
        Self { origin, next_id: 0, next_context: 0, waiting: Vec::new() }
    }

    pub(super) fn begin(&mut self) -> ReadId {
        let id = ReadId(self.next_id);
        self.next_id += 1;
        self.waiting.push(Waiting { id, stage: Stage::New });
        id
    }

    pub(super) fn forget(&mut self, id: ReadId) {
        self.waiting.retain(|waiting| waiting.id != id);
    }

    pub(super) fn tick(&mut self) {
        for waiting in &mut self.waiting {
            if let Stage::Asked { ticks, .. } = &mut waiting.stage {
                *ticks += 1;
                if *ticks >= RETRY_TICKS {
                    waiting.stage = Stage::New;
                }
            }
        }
    }

    /// One context for all reads that have to be asked.
    pub(super) fn ask(&mut self) -> Option<Vec<u8>> {
        let context = self.next_context;
        let mut any = false;
        for waiting in &mut self.waiting {
            if matches!(waiting.stage, Stage::New) {
                waiting.stage = Stage::Asked { context, ticks: 0 };
                any = true;
            }
        }
        if !any {
            return None;
        }
        self.next_context += u64::from(!planted!(ReadContextReused));
        Some([self.origin.to_be_bytes(), context.to_be_bytes()].concat())
    }

    /// A leader answered.
    pub(super) fn confirmed(&mut self, states: Vec<ReadState>) {
        for ReadState { index, request_ctx } in states {
            let Some(answered) = self.context_of(&Bytes::from(request_ctx)) else { continue };
            for waiting in &mut self.waiting {
                if matches!(waiting.stage, Stage::Asked { context, .. } if context == answered) {
                    waiting.stage = Stage::Confirmed { index };
                }
            }
        }
    }

    /// The reads that may be answered.
    pub(super) fn reached(&mut self, applied: u64) -> Vec<ReadId> {
        self.waiting.extract_if(.., |w| is_answerable(&w.stage, applied)).map(|waiting| waiting.id).collect()
    }

    fn context_of(&self, bytes: &[u8]) -> Option<u64> {
        let (origin, context) = bytes.split_first_chunk::<8>()?;
        let context = u64::from_be_bytes(context.try_into().ok()?);
        (u64::from_be_bytes(*origin) == self.origin || planted!(ReadOfAnotherRun)).then_some(context)
    }
}

fn is_answerable(stage: &Stage, applied: u64) -> bool {
    match *stage {
        Stage::Confirmed { index } => index <= applied || planted!(ReadBeforeApplied),
        Stage::New | Stage::Asked { .. } => planted!(ReadUnconfirmed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(reads: &mut Reads, context: Vec<u8>, index: u64) {
        reads.confirmed(vec![ReadState { index, request_ctx: context }]);
    }

    #[test]
    fn a_read_waits_for_its_confirmation_and_its_entry() {
        let mut reads = Reads::new(7);
        let (one, two) = (reads.begin(), reads.begin());
        let context = reads.ask().unwrap();
        assert_eq!(reads.ask(), None, "both share one context");
        assert_eq!(reads.reached(100), []);
        answer(&mut reads, context, 9);
        assert_eq!(reads.reached(8), []);
        assert_eq!(reads.reached(9), [one, two]);
        assert_eq!(reads.reached(10), []);
    }

    #[test]
    fn a_retried_read_takes_no_old_answer() {
        let mut reads = Reads::new(7);
        let id = reads.begin();
        let old = reads.ask().unwrap();
        (0..RETRY_TICKS).for_each(|_| reads.tick());
        let new = reads.ask().unwrap();
        assert_ne!(old, new);
        answer(&mut reads, old, 1);
        assert_eq!(reads.reached(100), []);
        answer(&mut reads, new, 2);
        assert_eq!(reads.reached(100), [id]);
    }

    #[test]
    fn another_servers_answers_are_not_mine() {
        let (mut mine, mut other) = (Reads::new(7), Reads::new(8));
        mine.begin();
        other.begin();
        mine.ask();
        let context = other.ask().unwrap();
        answer(&mut mine, context, 1);
        assert_eq!(mine.reached(100), []);
    }

    #[test]
    fn a_forgotten_read_is_gone() {
        let mut reads = Reads::new(7);
        let id = reads.begin();
        reads.forget(id);
        assert_eq!(reads.ask(), None);
    }
}
