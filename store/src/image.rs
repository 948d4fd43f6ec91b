//! The whole state as bytes: a snapshot's body.

use std::io::{self, BufRead, Read, Write};

use api::store as wire;
use bytes::Bytes;
use prost::Message;

use crate::{
    disk::{Snapshot, SnapshotMeta},
    machine::{BadItem, Machine, items::Item},
};

/// The fastest of zstd's levels: the driver's machine has two cores, and configuration shrinks well at any.
const LEVEL: i32 = 1;

/// The largest item: a transaction's record names 10,000 keys of 1 KiB at most.
const MAX_ITEM: u64 = 16 << 20;

/// Why a snapshot is not one.
#[derive(Debug, thiserror::Error)]
pub enum BadImage {
    /// Its bytes do not read.
    #[error("the snapshot does not read")]
    Read(#[from] io::Error),
    /// Its items do not.
    #[error(transparent)]
    Item(#[from] BadItem),
    /// It is not what it says.
    #[error("the snapshot holds another state than it says")]
    Hash,
}

/// The snapshot of a state.
///
/// # Errors
///
/// Only if zstd fails (memory).
pub fn encode(machine: &Machine, cluster_id: &str) -> io::Result<Snapshot> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), LEVEL)?;
    for Item { key, value } in machine.items() {
        planted!(
            SnapshotWithoutRequests,
            if key[0] == b'q' {
                continue;
            }
        );
        let item = wire::Item { key: key.into(), value: value.into() };
        encoder.write_all(&item.encode_length_delimited_to_vec())?;
    }
    let meta =
        SnapshotMeta { at: machine.applied(), cluster_id: cluster_id.to_owned(), hash: machine.hash() };
    Ok(Snapshot { meta, body: Bytes::from(encoder.finish()?) })
}

/// The state of a snapshot, whose hash is what the snapshot says.
///
/// # Errors
///
/// If it was changed, or another version wrote it.
pub fn decode(snapshot: &Snapshot) -> Result<Machine, BadImage> {
    let mut reader = zstd::stream::Decoder::with_buffer(&snapshot.body[..]).map(io::BufReader::new)?;
    let mut failed = None;
    let items = std::iter::from_fn(|| match read_item(&mut reader) {
        Ok(item) => item,
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let machine = Machine::from_items(items);
    if let Some(error) = failed {
        return Err(error.into());
    }
    let machine = machine?;
    if machine.hash() != snapshot.meta.hash || machine.applied() != snapshot.meta.at {
        return Err(BadImage::Hash);
    }
    Ok(machine)
}

/// `None` at the end.
fn read_item(reader: &mut impl BufRead) -> io::Result<Option<Item>> {
    if reader.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut prefix = Vec::with_capacity(10);
    while prefix.last().is_none_or(|byte| byte & 0x80 != 0) && prefix.len() < 10 {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        prefix.extend(byte);
    }
    let length = prost::decode_length_delimiter(&prefix[..]).map_err(io::Error::other)? as u64;
    if length > MAX_ITEM {
        return Err(io::Error::other("an item is too large"));
    }
    let mut bytes = Vec::new();
    reader.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let item = wire::Item::decode(Bytes::from(bytes)).map_err(io::Error::other)?;
    Ok(Some(Item { key: item.key.into(), value: item.value.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::busy_machine;

    #[test]
    fn a_snapshot_reads_as_the_state_it_was_taken_of() {
        let machine = busy_machine(300);
        let decoded = decode(&encode(&machine, "c").unwrap()).unwrap();
        assert!(decoded.items().eq(machine.items()));
        assert_eq!((decoded.hash(), decoded.bytes()), (machine.hash(), machine.bytes()));
        assert_eq!(decoded.list(""), machine.list(""));
        assert_eq!(decoded.live_keys(), machine.live_keys());
    }

    #[test]
    fn a_changed_snapshot_is_refused_and_never_panics() {
        let snapshot = encode(&busy_machine(40), "c").unwrap();
        for byte in 0..snapshot.body.len() {
            let mut body = snapshot.body.to_vec();
            body[byte] ^= 0x10;
            let changed = Snapshot { body: body.into(), ..snapshot.clone() };
            // zstd has bits that mean nothing; what decodes has to be the same state.
            let hash = decode(&changed).map(|machine| machine.hash());
            assert!(hash.is_err() || hash.is_ok_and(|hash| hash == snapshot.meta.hash), "byte {byte}");
        }
        for cut in 0..snapshot.body.len() {
            let cut = Snapshot { body: snapshot.body.slice(..cut), ..snapshot.clone() };
            assert!(decode(&cut).is_err());
        }
    }
}
