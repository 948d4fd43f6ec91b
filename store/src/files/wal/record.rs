//! One record of the write-ahead log.
//!
//! ```text
//!  0 length of the payload(4)   4 crc32c of the length and of bytes 8 to 40(4)
//!  8 kind(1)   9 flags(1)   10 "WL"   12 segment's number(4)   16 batch's number(8)   24 term(8)   32 index(8)
//! 40 payload, zeros up to a multiple of 8 less 4, crc32c of the payload and of the head's sum(4)
//! ```
//!
//! Integers are little-endian. The segment's and the batch's number make a record that stands in the wrong place
//! another record. The head has a sum of its own, so that where a record ends is known although its payload does not read;
//! the payload's stands at the very end and its last byte is never zero, so that a zero there says that the end was never
//! written.

use crate::{
    disk::{EntryKind, HardState, LogEntry},
    machine::Position,
    peer::{kind_number, kind_of},
};

pub(super) const HEAD: usize = 40;
const SUM: usize = 4;
/// Two bits of the last byte: one that flips leaves the other.
const END: u32 = 0x8100_0000;
const MAGIC: [u8; 2] = *b"WL";
/// The batch is whole with this record.
const LAST: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first of a segment; its payload is the owner.
    Segment,
    /// Its payload is the vote, its index the commit index.
    HardState,
    /// The log begins anew after this place.
    Snapshot,
    Entry(EntryKind),
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Segment => 1,
            Self::HardState => 2,
            Self::Snapshot => 3,
            Self::Entry(kind) => 16 + kind_number(kind),
        }
    }

    fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Segment),
            2 => Some(Self::HardState),
            3 => Some(Self::Snapshot),
            number => kind_of(number.checked_sub(16)?).map(Self::Entry),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) at: Position,
    pub(super) payload: Payload<'a>,
}

/// Borrowed, or the few bytes of a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    Bytes(&'a [u8]),
    Vote([u8; 8]),
}

impl Payload<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Vote(vote) => vote,
        }
    }
}

/// A record as it is found, and where in its batch.
#[derive(Debug)]
pub(super) struct Decoded<'a> {
    pub(super) record: Record<'a>,
    pub(super) batch: u64,
    pub(super) last: bool,
}

impl<'a> Record<'a> {
    pub(super) fn segment(owner: &'a [u8]) -> Self {
        Self { kind: Kind::Segment, at: Position::default(), payload: Payload::Bytes(owner) }
    }

    pub(super) fn snapshot(at: Position) -> Self {
        Self { kind: Kind::Snapshot, at, payload: Payload::Bytes(&[]) }
    }

    pub(super) fn entry(entry: &'a LogEntry) -> Self {
        Self { kind: Kind::Entry(entry.kind), at: entry.at, payload: Payload::Bytes(&entry.payload) }
    }

    pub(super) fn hard_state(state: &HardState) -> Self {
        let at = Position { index: state.commit, term: state.term };
        Self { kind: Kind::HardState, at, payload: Payload::Vote(state.vote.to_le_bytes()) }
    }

    /// With its padding.
    pub(super) fn size(&self) -> u64 {
        size(self.payload.bytes().len()) as u64
    }

    fn encode(&self, segment: u32, batch: u64, last: bool, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        let payload = self.payload.bytes();
        let length = u32::try_from(payload.len()).expect("an entry is bounded by MAX_TXN");
        buffer.extend(length.to_le_bytes());
        buffer.extend([0; 4]);
        buffer.extend([self.kind.number(), if last { LAST } else { 0 }]);
        buffer.extend(MAGIC);
        buffer.extend(segment.to_le_bytes());
        buffer.extend(batch.to_le_bytes());
        buffer.extend(self.at.term.to_le_bytes());
        buffer.extend(self.at.index.to_le_bytes());
        let head = sum(length, &buffer[start + 8..]);
        buffer[start + 4..start + 8].copy_from_slice(&head.to_le_bytes());
        buffer.extend(payload);
        buffer.resize(start + size(payload.len()) - SUM, 0);
        buffer.extend((sum(head, payload) | END).to_le_bytes());
    }

    /// The record at the beginning of `bytes`, if there is a whole one of this segment.
    pub(super) fn decode(bytes: &'a [u8], segment: u32) -> Option<Decoded<'a>> {
        let head = head(bytes, segment)?;
        let whole = bytes.get(..extent(bytes, segment)?)?;
        let (rest, payload_sum) = whole.split_last_chunk::<SUM>()?;
        let end = HEAD + usize::try_from(read_u32(head, 0)).ok()?;
        let (payload, padding) = rest[HEAD..].split_at(end - HEAD);
        // Padding is not summed, but it is zeros or somebody wrote here.
        if sum(read_u32(head, 4), payload) | END != u32::from_le_bytes(*payload_sum)
            || padding.iter().any(|byte| *byte != 0)
        {
            return None;
        }
        let kind = Kind::of(head[8])?;
        let at = Position { term: read_u64(head, 24), index: read_u64(head, 32) };
        let record = Self { kind, at, payload: Payload::Bytes(payload) };
        Some(Decoded { record, batch: read_u64(head, 16), last: head[9] == LAST })
    }
}

/// All records as one batch.
pub(super) fn encode_batch(records: &[Record<'_>], segment: u32, batch: u64, buffer: &mut Vec<u8>) {
    for (position, record) in records.iter().enumerate() {
        record.encode(segment, batch, position + 1 == records.len(), buffer);
    }
}

/// What the record at the beginning of `bytes` takes, if its head reads.
pub(super) fn extent(bytes: &[u8], segment: u32) -> Option<usize> {
    let length = usize::try_from(read_u32(head(bytes, segment)?, 0)).ok()?;
    (HEAD + SUM).checked_add(length)?.checked_next_multiple_of(8)
}

fn head(bytes: &[u8], segment: u32) -> Option<&[u8; HEAD]> {
    let head = bytes.first_chunk::<HEAD>()?;
    let reads = head[10..12] == MAGIC
        && read_u32(head, 12) == segment
        && sum(read_u32(head, 0), &head[8..]) == read_u32(head, 4);
    reads.then_some(head)
}

fn size(payload: usize) -> usize {
    (HEAD + payload + SUM).next_multiple_of(8)
}

fn sum(before: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&before.to_le_bytes()), rest)
}

fn read_u32(head: &[u8; HEAD], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| head[at + byte]))
}

fn read_u64(head: &[u8; HEAD], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]))
}
