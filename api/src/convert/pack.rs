//! Snapshots as zstd frames: alone, or as what changed since another snapshot.
//!
//! A tenant's configuration repeats itself: a frame is about a tenth of it. With the snapshot before as the frame's
//! prefix, one changed route of a hundred is some hundred bytes. Frames are made once and sent to everybody.

use std::{
    cell::RefCell,
    io::{self, Read as _, Write as _},
};

use bytes::Bytes;
use zstd::{
    bulk::{Compressor, Decompressor},
    stream::{raw::CParameter, read::Decoder, write::Encoder},
    zstd_safe,
};

use crate::limits::MAX_SNAPSHOT;

/// On snapshots of 30 KiB, level 3 costs a tenth of a millisecond and saves a third over level 1.
const LEVEL: i32 = 3;

/// The largest snapshot that is sent as a patch, bytes: both it and the one before are in the decoder's window.
pub const MAX_PATCHED: usize = 8 * 1024 * 1024;

/// Window of a patch: the prefix and what follows it.
const PATCH_WINDOW_LOG: u32 = 24;

/// Up to this window a patch finds its base by the level's own tables.
const SHORT_WINDOW_LOG: u32 = 17;

/// Why a frame is not what it says it is.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It says that it is larger than a snapshot can be.
    #[error("the snapshot has {0} bytes; the most is {MAX_SNAPSHOT}")]
    TooLarge(u64),
    /// It is no frame, or one of another length.
    #[error("the snapshot's frame is damaged")]
    Frame(#[source] io::Error),
}

thread_local! {
    // A context is some hundred KiB: made anew for each frame it would cost more than the frame.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// `raw` as one frame. `None` if there is no memory for it: then it travels as it is.
#[must_use]
pub fn pack(raw: &[u8]) -> Option<Bytes> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Compressor::new(LEVEL).ok()?);
        }
        slot.as_mut()?.compress(raw).ok().map(fitting)
    })
}

/// `raw` as one frame with `base` as its prefix. `None` where that cannot be done.
#[must_use]
pub fn pack_against(raw: &[u8], base: &[u8]) -> Option<Bytes> {
    if raw.len().max(base.len()) > MAX_PATCHED || base.is_empty() {
        return None;
    }
    let write = || -> io::Result<Vec<u8>> {
        let mut encoder = Encoder::with_ref_prefix(vec![], LEVEL, base)?;
        let window = (raw.len() + base.len()).next_power_of_two().ilog2().clamp(10, PATCH_WINDOW_LOG);
        encoder.set_parameter(CParameter::WindowLog(window))?;
        if window > SHORT_WINDOW_LOG {
            // What the level's own tables hold of the prefix does not reach back this far.
            encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
        }
        encoder.set_pledged_src_size(Some(raw.len() as u64))?;
        encoder.write_all(raw)?;
        encoder.finish()
    };
    write().ok().map(fitting)
}

/// In memory of their size: what is packed into was as large as what was packed, and frames are kept.
fn fitting(packed: Vec<u8>) -> Bytes {
    packed.into_boxed_slice().into()
}

/// What was packed: `length` bytes, with the prefix that the frame was made with.
///
/// # Errors
///
/// The frame is damaged, or not of this length and prefix. That the bytes are the right ones, their hash says.
pub fn unpack(frame: &[u8], base: Option<&[u8]>, length: u64) -> Result<Bytes, UnpackError> {
    let size = usize::try_from(length).ok().filter(|size| *size <= MAX_SNAPSHOT);
    let size = size.ok_or(UnpackError::TooLarge(length))?;
    let raw = match base {
        None => plain(frame, size),
        Some(base) => patched(frame, base, size),
    };
    let raw = raw.map_err(UnpackError::Frame)?;
    if raw.len() != size {
        let problem = format!("{} bytes in place of {size}", raw.len());
        return Err(UnpackError::Frame(io::Error::new(io::ErrorKind::InvalidData, problem)));
    }
    Ok(raw.into())
}

fn plain(frame: &[u8], size: usize) -> io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        decompressor.decompress(frame, size)
    })
}

fn patched(frame: &[u8], base: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut raw = Vec::with_capacity(size);
    let mut decoder = Decoder::with_ref_prefix(frame, base)?.single_frame();
    decoder.set_parameter(zstd_safe::DParameter::WindowLogMax(PATCH_WINDOW_LOG))?;
    // One byte more: a frame that does not end there is not of this length.
    decoder.take(size as u64 + 1).read_to_end(&mut raw)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(changed: usize) -> Vec<u8> {
        (0..100)
            .map(|n| format!("route-{n} /api/v1/service-{n} {};", if n == changed { "new" } else { "old" }))
            .collect::<String>()
            .into_bytes()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let raw = routes(7);
        let frame = pack(&raw).unwrap();
        assert!(frame.len() < raw.len() / 3, "{} of {}", frame.len(), raw.len());
        assert_eq!(unpack(&frame, None, raw.len() as u64).unwrap(), raw);
        let empty = pack(&[]).unwrap();
        assert!(unpack(&empty, None, 0).unwrap().is_empty());
    }

    #[test]
    fn a_patch_is_small_and_needs_its_base() {
        let (old, new) = (routes(100), routes(7));
        let frame = pack_against(&new, &old).unwrap();
        assert!(frame.len() < 200, "{}", frame.len());
        assert_eq!(unpack(&frame, Some(&old), new.len() as u64).unwrap(), new);
        let other = unpack(&frame, Some(&[b'z'; 4000]), new.len() as u64);
        assert!(other.map_or(true, |raw| raw != new));
        assert!(pack_against(&new, &[]).is_none());
        assert!(pack_against(&new, &vec![0; MAX_PATCHED + 1]).is_none());
    }

    #[test]
    fn a_frame_that_is_kept_takes_no_more_memory_than_its_bytes() {
        let (old, new) = (routes(100), routes(7));
        for frame in [pack(&new).unwrap(), pack_against(&new, &old).unwrap()] {
            let bytes = frame.len();
            assert_eq!(frame.try_into_mut().unwrap().capacity(), bytes);
        }
    }

    #[test]
    fn a_patch_of_megabytes_reaches_its_whole_base() {
        let old: Vec<u8> = (0..2_u32 << 20).flat_map(|n| n.wrapping_mul(0x9E37_79B1).to_le_bytes()).collect();
        let mut new = old.clone();
        new[5] ^= 1;
        let frame = pack_against(&new, &old).unwrap();
        assert!(frame.len() < 100_000, "{}", frame.len());
        assert_eq!(unpack(&frame, Some(&old), new.len() as u64).unwrap(), new);
    }

    #[test]
    fn a_length_is_believed_only_so_far() {
        let frame = pack(&vec![0; 1 << 20]).unwrap();
        assert!(matches!(unpack(&frame, None, u64::MAX), Err(UnpackError::TooLarge(_))));
        for wrong in [0, 1, (1 << 20) - 1, (1 << 20) + 1] {
            assert!(matches!(unpack(&frame, None, wrong), Err(UnpackError::Frame(_))), "{wrong}");
        }
        let patch = pack_against(&vec![0; 1 << 20], b"base").unwrap();
        for wrong in [0, 1, (1 << 20) - 1, (1 << 20) + 1] {
            assert!(matches!(unpack(&patch, Some(b"base"), wrong), Err(UnpackError::Frame(_))), "{wrong}");
        }
        assert!(unpack(b"junk", None, 4).is_err() && unpack(b"", None, 4).is_err());
    }
}
