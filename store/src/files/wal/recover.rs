//! Reading a write-ahead log back.

use std::{fs::File, path::PathBuf, sync::Arc};

use bytes::Bytes;

use super::{
    Found, Owner, Segment, damaged, path,
    record::{Decoded, HEAD, Kind, Record, extent},
};
use crate::{
    OpenError,
    disk::{HardState, LogEntry},
    files::FileSystem,
    machine::Position,
};

/// Reads segment after segment.
pub(super) struct Recovery {
    dir: PathBuf,
    owner: Vec<u8>,
    files: Arc<dyn FileSystem>,
    recovered: Recovered,
}

/// What was read.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) found: Found,
    pub(super) segments: Vec<Segment>,
    /// The last batch's number.
    pub(super) batch: u64,
    /// Where the last segment's last batch ends.
    pub(super) end: u64,
    /// Something of a batch that never became whole follows.
    pub(super) torn: bool,
}

impl Recovery {
    pub(super) fn new(dir: PathBuf, owner: &Owner, files: Arc<dyn FileSystem>) -> Self {
        Self { dir, owner: owner.encode(), files, recovered: Recovered::default() }
    }

    pub(super) fn finish(self) -> Recovered {
        self.recovered
    }

    /// Reads the next segment.
    pub(super) fn segment(&mut self, number: u32, is_last: bool) -> Result<(), OpenError> {
        let path = path(&self.dir, number);
        if let Some(before) = self.recovered.segments.last()
            && before.number + 1 != number
        {
            return Err(damaged(path, 0, format!("segment {:08x} before it is missing", number - 1)));
        }
        let failed = |doing: &str| OpenError::io(format!("{doing} {}", path.display()));
        let file = File::open(&path).map_err(failed("open"))?;
        // What a killed process wrote may be in the kernel's memory only: it is not trusted before it is durable.
        self.files.sync(&file).map_err(failed("sync"))?;
        let bytes = self.files.read(&path).map_err(failed("read"))?;

        self.recovered.segments.push(Segment { number, highest: 0, size: bytes.len() as u64 });
        let mut end = 0;
        while let Some(batch) = self.whole_batch(number, &bytes[end..]) {
            let length = batch.length;
            self.take(batch, end == 0).map_err(|problem| damaged(path.clone(), end as u64, problem))?;
            end += length;
        }
        let rest = &bytes[end..];
        let torn = !is_zero(rest);
        if end == 0 {
            return Err(damaged(path, 0, "the segment's first records do not read"));
        }
        if torn && !is_last {
            return Err(damaged(path, end as u64, "a batch does not read, and another segment follows"));
        }
        if torn && let Some(offset) = self.later_record(number, rest) {
            let problem = format!("a batch does not read, but a later one does, at byte {}", end + offset);
            return Err(damaged(path, end as u64, problem));
        }
        if torn && !is_tear(&bytes, end, number) {
            return Err(damaged(path, end as u64, "the last batch was written in full and does not read"));
        }
        (self.recovered.end, self.recovered.torn) = (end as u64, torn);
        Ok(())
    }

    /// The next batch, if it is whole.
    fn whole_batch<'b>(&self, segment: u32, bytes: &'b [u8]) -> Option<WholeBatch<'b>> {
        let expected = match self.recovered.batch {
            // Old segments are gone: the first batch found is what it says.
            0 => Record::decode(bytes, segment)?.batch,
            last => last + 1,
        };
        let mut batch = WholeBatch { number: expected, records: Vec::new(), length: 0 };
        loop {
            let Decoded { record, batch: number, last } = Record::decode(&bytes[batch.length..], segment)?;
            if number != expected {
                return None;
            }
            batch.length += usize::try_from(record.size()).ok()?;
            batch.records.push(record);
            if last {
                return Some(batch);
            }
        }
    }

    /// Whether any record follows that was written after the batch that does not read: then that one was durable.
    fn later_record(&self, segment: u32, bytes: &[u8]) -> Option<usize> {
        let unread = self.recovered.batch + 1;
        (0..bytes.len().saturating_sub(HEAD)).step_by(8).find(|offset| {
            let here = &bytes[*offset..];
            // Most of a segment is zeros: do not sum them up.
            here[..8] != [0; 8] && Record::decode(here, segment).is_some_and(|found| found.batch > unread)
        })
    }

    fn take(&mut self, batch: WholeBatch<'_>, first: bool) -> Result<(), String> {
        let begins = batch.records.first().is_some_and(|record| record.kind == Kind::Segment);
        if first != begins {
            return Err("a segment's first record is missing, or not the first".into());
        }
        for record in &batch.records {
            self.take_record(record)?;
        }
        self.recovered.batch = batch.number;
        Ok(())
    }

    fn take_record(&mut self, record: &Record<'_>) -> Result<(), String> {
        let Recovered { found, segments, .. } = &mut self.recovered;
        let payload = record.payload.bytes();
        match record.kind {
            Kind::Segment if payload == self.owner => return Ok(()),
            Kind::Segment => return Err("it is another server's log".into()),
            Kind::HardState => {
                let vote = payload.try_into().map_err(|_| "a vote is not 8 bytes long")?;
                let vote = u64::from_le_bytes(vote);
                let Position { index: commit, term } = record.at;
                found.log.hard_state = HardState { term, vote, commit };
                return Ok(());
            }
            Kind::Snapshot => {
                found.log.entries.clear();
                found.replaced_at = Some(record.at);
            }
            Kind::Entry(kind) => {
                let entry = LogEntry { kind, at: record.at, payload: Bytes::copy_from_slice(payload) };
                append(found, entry)?;
            }
        }
        if let Some(segment) = segments.last_mut() {
            segment.highest = segment.highest.max(record.at.index);
        }
        Ok(())
    }
}

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Whether a batch that begins at `start`, and does not read, was being written when the server ended: it lacks a
/// sector, or its end. Then its sync never returned, and nobody was told of it. In doubt (a payload may have zeros
/// of its own) it is taken for that.
fn is_tear(bytes: &[u8], start: usize, segment: u32) -> bool {
    let lacks = |from: usize, to: usize| {
        let sectors = (from - from % SECTOR..to).step_by(SECTOR);
        let in_batch = |begin: usize| &bytes[begin.max(start)..bytes.len().min(begin + SECTOR)];
        sectors.map(in_batch).any(is_zero)
    };
    let mut at = start;
    loop {
        let Some(length) = extent(&bytes[at..], segment) else {
            let head_end = bytes.len().min(at + HEAD);
            // No head begins with zeros only, and none is the last that was written.
            return is_zero(&bytes[at..head_end]) || is_zero(&bytes[head_end..]) || lacks(at, head_end);
        };
        let end = at.saturating_add(length);
        if end > bytes.len() || bytes[end - 1] == 0 || lacks(at, end) {
            return true;
        }
        // Where it is the last that reads, the one before it does not belong to it.
        if Record::decode(&bytes[at..], segment).is_none_or(|decoded| decoded.last) {
            return false;
        }
        at = end;
    }
}

struct WholeBatch<'b> {
    number: u64,
    records: Vec<Record<'b>>,
    length: usize,
}

/// Adds an entry at the log's end, or replaces the end from there on.
fn append(found: &mut Found, entry: LogEntry) -> Result<(), String> {
    let entries = &mut found.log.entries;
    let index = entry.at.index;
    if let Some(first) = entries.first().map(|first| first.at.index) {
        let keep = index.checked_sub(first).and_then(|keep| usize::try_from(keep).ok());
        entries.truncate(keep.unwrap_or(0));
    }
    let next = match (entries.last(), found.replaced_at) {
        (Some(last), _) => Some(last.at.index + 1),
        (None, Some(at)) => Some(at.index + 1),
        (None, None) => None,
    };
    if next.is_some_and(|next| index > next) {
        return Err(format!("entry {index} follows entry {}", next.unwrap_or_default().saturating_sub(1)));
    }
    entries.push(entry);
    Ok(())
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: &[u8] = &[0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}
